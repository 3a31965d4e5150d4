"""docs/rewards.md from the docstrings and the table of rewards.

python -m tasks.rewards.document            writes docs/rewards.md
"""

from __future__ import annotations

import inspect
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from pipeline_config.rubrics import DEFAULT_RUBRICS, DEPARTURES
from tasks.rewards import batch, health, judge, lexical, rows, score, tricks
from tasks.rewards.answers import boxes, choice, expressions, numbers, quality, spans, subjects, turn, units
from tasks.rewards.metrics import challenge, constant, correlation, intervals, video
from tasks.rewards.numeric import mean_relative_accuracy
from tasks.rewards.reward import REWARDS, Reward

PAGE = Path(__file__).parents[2] / "docs" / "rewards.md"
JUDGES = {
    "answer": "Rewards of the answer",
    "form": "Rewards of the frame",
    "gate": "Gates",
    "group": "Rewards beside other answers (`score_batch`)",
}
READERS: tuple[Callable[..., Any], ...] = (
    rows.sample_of,
    turn.read_turn,
    turn.has_format,
    turn.unbox,
    turn.split_numbered,
    choice.option_texts,
    choice.read_choice,
    numbers.read_quantity,
    units.read_unit,
    units.convert,
    units.unit_asked,
    expressions.read_expression,
    boxes.read_boxes,
    boxes.read_track,
    spans.read_spans,
    spans.read_glue,
    subjects.read_subjects,
    quality.read_phrase,
    quality.read_detections,
    quality.read_description,
    quality.read_brief,
    quality.read_affected_region,
)
JUDGING: tuple[Callable[..., Any], ...] = (lexical.entailed, lexical.same_answer, judge.fenced, judge.verdict_in)
BATTERY: tuple[Callable[..., Any], ...] = (
    health.health_report,
    tricks.gold_tricks,
    tricks.blind_tricks,
    tricks.word_lists,
    tricks.judge_tricks,
    tricks.unit_tricks,
    tricks.loop_tricks,
)
METRICS: tuple[Callable[..., Any], ...] = (
    challenge.mipi,
    challenge.score_submission,
    intervals.bootstrap,
    constant.best_constant,
    correlation.correlations,
    mean_relative_accuracy,
    video.temporal_metrics,
    video.tracking_metrics,
    video.accuracy_by_type,
    video.event_f1,
    video.set_f1,
    video.pass_at_k,
)


def page() -> str:
    """The page's text."""
    parts = [
        "# Rewards",
        "Written by `python -m tasks.rewards.document`; do not edit.",
        _text(score),
        "## Entry points",
        *(_function(f) for f in (score.score, batch.score_batch)),
        "## Default rubrics",
        "From `pipeline_config/rubrics.py`; a config's `rewards.rubrics` is laid over them.",
        "| problem type | rewards and weights | the sum departs from the released code |\n|---|---|---|\n"
        + "\n".join(
            f"| `{name}` | {', '.join(f'`{reward}` {weight:g}' for reward, weight in rubric.items())} "
            f"| {DEPARTURES[name]} |"
            for name, rubric in DEFAULT_RUBRICS.items()
        ),
    ]
    for judges, title in JUDGES.items():
        parts.append(f"## {title}")
        parts += [_reward(reward) for _, reward in sorted(REWARDS.items()) if reward.judges == judges]
    parts += ["## The judge", *(_function(f) for f in JUDGING)]
    parts += ["## Health: the battery of tricks", _text(tricks), *(_function(f) for f in BATTERY)]
    parts += ["## How answers are read", *(_function(f) for f in READERS)]
    parts += ["## Metrics", *(_function(f) for f in METRICS)]
    return "\n\n".join(parts) + "\n"


def _text(of: Any) -> str:
    return inspect.cleandoc(of.__doc__ or "").replace("``", "`")


def _function(function: Callable[..., Any]) -> str:
    return f"### {function.__module__.removeprefix('tasks.rewards.')}.{function.__name__}\n\n{_text(function)}"


def _reward(reward: Reward) -> str:
    kind = "gate: 0 or 1" if reward.judges == "gate" else "0 to 1, continuous" if reward.continuous else "0 or 1"
    lines = [
        f"### `{reward.name}`\n",
        f"{_text(reward.function)}\n",
        f"- Formula: {reward.formula}",
        f"- Range: {kind if reward.judges != 'group' else '0 to its bonus' if not reward.continuous else kind}",
        f"- Source: {reward.source}",
        f"- Departs from the released code: {reward.departs}",
    ]
    if reward.example:
        sample, completion, value = reward.example
        lines.append(
            f"- Example: `{json.dumps(sample, ensure_ascii=False)}` with `{_shown(completion)}` gives {value:.4g}"
        )
    return "\n".join(lines)


def _shown(completion: str) -> str:
    text = completion.replace("\n", "\\n")
    return text if len(text) <= 260 else f"{text[:120]} .. {text[-60:]}"


def main() -> None:
    """Write the page."""
    PAGE.write_text(page())


if __name__ == "__main__":
    main()
