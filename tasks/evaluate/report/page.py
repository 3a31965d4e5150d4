"""Puts the report together: tables, plots and gallery into one HTML file that needs nothing but itself.

Imports neither torch nor MLflow. The page allows itself no script and no request (Content-Security-Policy), so that a
student's words cannot act in it.
"""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

import yaml

from data_contracts.refs import Run
from pipeline_config.schema import PipelineConfig
from tasks.evaluate.report import gallery, plots
from tasks.evaluate.scores import METRICS, TOTAL
from tasks.rewards.metrics import SIX

Row = Mapping[str, Any]
LABELS = {
    "base": "Base",
    "constant": "Best constant",
    "swapped": "SFT, pictures swapped",
    "sft": "SFT",
    "grpo": "GRPO",
    "champion": "Champion so far",
}
PLOTTED = (TOTAL, *SIX, "mos_srcc", "mos_plcc")
SHORT = {"constant": "constant", "swapped": "swapped", "champion": "champion"}  # in the headings of differences
SEEING = ("base", "sft", "grpo", "champion")  # students that saw the picture
HISTORY = {
    "reward": "Mean reward",
    "accuracy": "Mean accuracy",
    "sampled_entropy": "Entropy per token, nats",
    "completion_tokens": "Tokens per completion",
    "zero_variance_share": "Share of groups without variance",
    "truncated_share": "Share of completions cut short",
}


def write_report(
    path: Path,
    *,
    config: PipelineConfig,
    run: Run,
    rows: Sequence[Row],
    scores: Mapping[str, Any],
    stages: Sequence[Mapping[str, Any]] = (),
    history: Sequence[Row] = (),
    probe: Mapping[str, Mapping[str, Any]] | None = None,
    difficulty: Sequence[Row] = (),
    decision: Mapping[str, Any] | None = None,
    ids: Mapping[str, str] | None = None,
) -> Path:
    """Write the report of one evaluation; the file appears whole or not at all.

    rows: of the evaluation table. scores: as `tasks.evaluate.scores.summarise` gives them. stages: per stage ``stage``,
    ``seconds``, ``rows``, ``quarantined``, ``cached``, ``dataset_id``, ``mlflow_run_id``; what is missing is shown as
    a dash; and of annotate its ``notes``. history: GRPO's figures, a mapping per step. probe: ``before`` and ``after``
    GRPO, each ``reward``, ``num_prompts``, ``num_rollouts`` on fixed training prompts. difficulty: rows of its table.
    decision: what promote published (``decision``, ``reasons``, ``model``, ``version``, ``against``), None before there
    is one. ids: name -> id, shown as they are. Plots without data say so in their place.
    """
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent), autoescape=True, undefined=StrictUndefined, trim_blocks=True
    )
    environment.filters["number"] = number
    environment.filters["signed"] = lambda value: number(value, signed=True)
    page = environment.get_template("page.html").render(
        config=config,
        config_text=yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False, allow_unicode=True),
        run_id=run.run_id,
        made=datetime.now().astimezone().strftime("%Y-%m-%d %H:%M %Z"),
        stages=[_stage(stage) for stage in stages],
        teacher=_teacher(stages),
        ids={name: id_ for name, id_ in {"MLflow run": run.mlflow_run_id, **(ids or {})}.items() if id_},
        decision=decision,
        **_scores_section(scores),
        **_readings_section(rows, scores, config, final_student(scores)),
        **_training_section(history, probe or {}, difficulty),
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(f"{path.name}.{os.getpid()}.part")
    beside.write_text(page, encoding="utf-8")
    beside.replace(path)
    return path


def final_student(scores: Mapping[str, Any]) -> str:
    """The student the report is about: the last trained one that was scored."""
    return next((name for name in ("grpo", "sft") if name in scores["students"]), "base")


def number(value: float | None, digits: int = 3, *, signed: bool = False) -> str:
    """A number for reading; a dash where there is none. A true minus sign."""
    if value is None or value != value:
        return "–"
    text = f"{value:+.{digits}f}" if signed else f"{value:.{digits}f}"
    return text.replace("-", "−")


def _stage(stage: Mapping[str, Any]) -> dict[str, Any]:
    return {
        key: stage.get(key)
        for key in ("stage", "seconds", "rows", "quarantined", "cached", "dataset_id", "mlflow_run_id")
    }


def _teacher(stages: Sequence[Mapping[str, Any]]) -> dict[str, Any] | None:
    """What the annotation's notes tell of the teacher; None if nobody was asked."""
    notes = next((stage.get("notes") or {} for stage in stages if stage["stage"] == "annotate"), {})
    by_task = {
        name.removeprefix("asked_"): (int(asked), notes[f"accepted_share_{name.removeprefix('asked_')}"])
        for name, asked in notes.items()
        if name.startswith("asked_")
    }
    return {**notes, "by_task": by_task} if by_task else None


def _scores_section(scores: Mapping[str, Any]) -> dict[str, Any]:
    known: dict[str, dict[str, Any]] = {name: scores["students"][name] for name in LABELS if name in scores["students"]}
    students = {name: LABELS[name] for name in known}
    metrics = {key: metric for key, metric in METRICS.items() if any(key in values for values in known.values())}
    pairs = [
        {"label": " − ".join(SHORT.get(n, LABELS.get(n, n)) for n in pair.split(" - ")), "differences": differences}
        for pair, differences in scores["pairs"].items()
    ]
    final = final_student(scores)
    headline, lead = _headline(scores, students, final)
    return {
        "students": students,
        "metrics": metrics,
        "total": TOTAL,
        "pairs": pairs,
        "scores": scores,
        "best": {
            key: max((name for name in known if key in known[name]), key=lambda name: known[name][key]["value"])
            for key in metrics
        },
        "headline": headline,
        "lead": lead,
        "final_label": students.get(final, final),
        "score_figures": plots.score_panels(known, students, {k: metrics[k].title for k in PLOTTED if k in metrics}),
    }


def _headline(scores: Mapping[str, Any], students: Mapping[str, str], final: str) -> tuple[str, str]:
    """The report's first words: what the final student reaches, and how sure that is."""
    value = scores["students"].get(final, {}).get(TOTAL)
    if value is None:
        return "no score", "No student was scored."
    headline = f"{students[final]} reaches {number(value['value'], 2)} of 6"
    gain = scores["pairs"].get(f"{final} - base", {}).get(TOTAL)
    if gain is None:
        return headline, f"Its 95 % interval goes from {number(value['low'], 2)} to {number(value['high'], 2)}."
    verb = "more than" if gain["mean"] >= 0 else "less than"
    sure = "its interval leaves out zero" if gain["low"] > 0 or gain["high"] < 0 else "an interval that includes zero"
    lead = (
        f"That is {number(abs(gain['mean']), 2)} {verb} the base it started from, on photographs it never saw "
        f"(paired difference {number(gain['low'], 2, signed=True)} to {number(gain['high'], 2, signed=True)}; {sure})."
    )
    return headline, lead


def _readings_section(
    rows: Sequence[Row], scores: Mapping[str, Any], config: PipelineConfig, final: str
) -> dict[str, Any]:
    """What is read off the rows themselves: counts, confusion, MOS, gallery."""
    by_student: dict[str, list[Row]] = defaultdict(list)
    for row in rows:
        by_student[row["student"]].append(row)
    seeing = [name for name in SEEING if name in by_student]
    mos = {name: gallery.mos_pairs(by_student[name]) for name in seeing}
    names = {
        name: LABELS[name]
        + "".join(
            f", {title} {number(s[key]['value'], 2)}"
            for key, title in (("mos_srcc", "SRCC"), ("mos_plcc", "PLCC"))
            if key in (s := scores["students"].get(name, {}))
        )
        for name in seeing
    }
    return {
        "counts": {
            "questions": len({row["question_id"] for row in rows}),
            "pictures": len({row["sample_id"] for row in rows}),
            "photographs": len({row["source_photograph"] for row in rows}),
        },
        "confusions": [_confusion(LABELS[name], by_student[name]) for name in seeing if name in ("sft", "grpo")],
        "mos_figures": plots.mos_panels(mos, names),
        "cards": _cards(rows, config, seeing, final),
    }


def _confusion(label: str, rows: Sequence[Row]) -> dict[str, Any]:
    names, columns, counts = gallery.confusion(rows)
    return {
        "label": label,
        "columns": columns,
        "num_answers": int(counts.sum()),
        "num_right": sum(int(counts[i, columns.index(name)]) for i, name in enumerate(names) if name in columns),
        "rows": [
            {
                "name": name,
                "cells": [
                    {"count": int(n), "share": round(float(n / max(1, line.sum())), 3), "right": name == column}
                    for column, n in zip(columns, line, strict=True)
                ],
            }
            for name, line in zip(names, counts, strict=True)
        ],
    }


def _cards(rows: Sequence[Row], config: PipelineConfig, students: Sequence[str], final: str) -> list[gallery.Card]:
    by_picture: dict[str, list[Row]] = defaultdict(list)
    for row in rows:
        by_picture[row["sample_id"]].append(row)
    chosen = gallery.choose_pictures(rows, config.evaluate.gallery, config.seed)
    return [gallery.build_card(by_picture[sample], students, final) for sample in chosen]


def _training_section(
    history: Sequence[Row], probe: Mapping[str, Mapping[str, Any]], difficulty: Sequence[Row]
) -> dict[str, Any]:
    return {
        "probe": probe if {"before", "after"} <= probe.keys() else None,
        "history_figures": plots.history_panels(history, HISTORY),
        "difficulty_figure": plots.difficulty_panel(difficulty) if difficulty else None,
    }
