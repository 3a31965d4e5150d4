"""What a finished run says: ``summary.json``, the closing words in the terminal, the artifacts in Prefect's UI.

`summary.json` of the last run stands under the home and is replaced atomically: per student every metric with its
interval; per pair of students the paired difference with ``mean``, ``low``, ``high``; per stage ``seconds``, ``rows``,
``cached``; the ids of the MLflow run and of the datasets.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from data_contracts.refs import Ref, Run
from tasks.launcher.job import write_atomically

# The columns of the closing table: metric, heading, digits.
COLUMNS = (
    ("perception_accuracy", "choice", 3),
    ("region_map", "region", 3),
    ("distortion_map", "dist.", 3),
    ("description_map", "descr", 3),
    ("key_distortion_accuracy", "key", 3),
    ("image_quality_accuracy", "level", 3),
    ("composite", "SUM", 3),
    ("mos_srcc", "SRCC", 3),
)
STUDENTS = ("base", "constant", "swapped", "sft", "grpo", "champion")  # in the order of the table


def summarise(
    run: Run,
    flow: str,
    config: str,
    stages: dict[str, dict[str, Any]],
    refs: dict[str, Ref],
    scores: Ref | None = None,
) -> dict[str, Any]:
    """The summary of a run.

    stages: name -> facts, as ``tasks.launcher.stage.stage_facts`` gives them. scores: what evaluate published.
    """
    summary: dict[str, Any] = {
        "run_id": run.run_id,
        "flow": flow,
        "config": config,
        "mlflow_run_id": run.mlflow_run_id,
        "stages": stages,
        "datasets": {stage: ref.to_dict() for stage, ref in refs.items()},
    }
    if scores is not None:
        summary["datasets"]["scores"] = scores.to_dict()
        summary |= read_json(scores.path)
    if "promote" in refs:
        summary["promotion"] = read_json(refs["promote"].path)
    return summary


def read_json(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text())


def write_summary(summary: dict[str, Any], home: Path) -> Path:
    path = home / "summary.json"
    write_atomically(path, json.dumps(summary, indent=1, default=str) + "\n")
    return path


def print_summary(summary: dict[str, Any], home: Path, report: Path | None) -> None:
    """The closing words: stages, before and after, and where everything is and how to open it."""
    from rich.box import SIMPLE_HEAD
    from rich.console import Console
    from rich.table import Table

    console = Console()
    stages = Table(title=f"Run {summary['run_id']}", title_justify="left", box=SIMPLE_HEAD)
    for heading in ("stage", "rows", "quarantined", "seconds", "cached"):
        stages.add_column(heading, justify="left" if heading == "stage" else "right")
    for name, facts in summary["stages"].items():
        stages.add_row(
            name,
            f"{facts['rows']:,}",
            f"{facts.get('quarantined', 0):,}",
            f"{facts['seconds']:.1f}",
            "yes" if facts["cached"] else "",
        )
    console.print(stages)
    if "students" in summary:
        _print_scores(console, summary)
    if "promotion" in summary:
        promotion = summary["promotion"]
        console.print(f"Promotion: {promotion['decision']} ({'; '.join(promotion['reasons'])})")
    lines = [
        ("Report", report, "open it in a browser"),
        ("Summary", home / "summary.json", "every number of this run"),
        ("Lineage", home / "manifest.duckdb", f"duckdb -readonly {home / 'manifest.duckdb'}"),
        ("Models", home / "mlflow.db", f"mlflow server --backend-store-uri sqlite:///{home / 'mlflow.db'}"),
        ("Prefect", None, "prefect server start, then http://127.0.0.1:4200"),
    ]
    for what, where, how in lines:
        if where is not None or what == "Prefect":
            console.print(f"{what + ':':9}{where or '':}{'  ' if where else ''}{how}", soft_wrap=True, highlight=False)


def _print_scores(console: Any, summary: dict[str, Any]) -> None:
    from rich.box import SIMPLE_HEAD
    from rich.table import Table

    table = Table(title="Held-out photographs, before and after", title_justify="left", box=SIMPLE_HEAD)
    table.add_column("student")
    for _, heading, _ in COLUMNS:
        table.add_column(heading, justify="right")
    for student, metrics in sorted(summary["students"].items(), key=lambda entry: STUDENTS.index(entry[0])):
        table.add_row(student, *(_figure(metrics.get(metric), digits) for metric, _, digits in COLUMNS))
    console.print(table)
    title = "Paired differences of the sum, 95 % over photographs"
    pairs = Table(title=title, title_justify="left", box=SIMPLE_HEAD)
    for heading in ("pair", "difference", "interval"):
        pairs.add_column(heading)
    for pair, metrics in summary["pairs"].items():
        difference = metrics["composite"]
        pairs.add_row(pair, f"{difference['mean']:+.3f}", f"{difference['low']:+.3f} .. {difference['high']:+.3f}")
    console.print(pairs)


def _figure(metric: dict[str, float] | None, digits: int) -> str:
    return "" if metric is None or metric["value"] is None else f"{metric['value']:.{digits}f}"
