"""Rows of other projects as samples of ours. What cannot be read for certain is refused, never guessed.

    sample_of({"problem": "How many?", "problem_type": "numerical", "solution": "<answer>3</answer>"})
    sample_of({"problem": "When?", "solution": [3.2, 7.5]}, kind="temporal_grounding")

Known layouts: Video-R1 (`problem`, `solution` inside `<answer>` tags, `problem_type`), VideoChat-R1 (no problem type;
golds that are lists or numbers under `solution`, `answer` or `gt`), and our own.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from tasks.rewards.answers.turn import ANSWER, read_turn
from tasks.rewards.reward import SampleError

QUESTION_FIELDS = ("question", "problem", "instruction")
GOLD_FIELDS = ("answer", "solution", "gt")
ID_FIELDS = ("id", "question_id", "dialogue_id", "problem_id")
BOXES = ("tracking", "detection", "grounding", "region")
EVENTS = ("caption", "structured_caption")


def sample_of(row: Mapping[str, Any], kind: str | None = None) -> dict[str, Any]:
    """A question-like row as `tasks.rewards.score.score` takes it; dialogues and rows of samples as they are.

    kind: problem type of rows that name none. Raises SampleError naming the field and the cure.
    """
    sample = dict(row)
    if row.get("pairs") is not None or row.get("questions") is not None:
        return sample
    if not isinstance(row.get("problem_type"), str):
        if kind is None:
            raise SampleError("field 'problem_type': the row has none; say with --as KIND what its rows ask")
        sample["problem_type"] = kind
    sample["question"] = next((row[f] for f in QUESTION_FIELDS if isinstance(row.get(f), str)), "")
    field = next((f for f in GOLD_FIELDS if row.get(f) is not None), None)
    if field is not None:
        sample["answer"] = _gold_text(row[field], field, sample)
    return sample


def _gold_text(gold: Any, field: str, sample: dict[str, Any]) -> str:
    """A gold as the student should write it. Captions whose gold is a list of events get the field `events`."""
    kind = sample["problem_type"]
    if isinstance(gold, str):
        text = read_turn(gold).answer if ANSWER[0] in gold else gold.strip()
        if text is not None:
            return text
    if isinstance(gold, int | float) and not isinstance(gold, bool):
        return str(gold)
    if isinstance(gold, list) and gold:
        if kind == "temporal_grounding" and (span := _span(gold)) is not None:
            return f"{span[0]} to {span[1]}"
        if kind in BOXES:
            return json.dumps(gold)
        if kind in EVENTS and all(isinstance(event, str) for event in gold):
            sample.setdefault("events", gold)
            return " ".join(gold)
    raise SampleError(f"field '{field}': {json.dumps(gold, default=str)[:80]} cannot be read as the gold of {kind!r}")


def _span(gold: list[Any]) -> list[float] | None:
    """The one [start, end] of a list, bare or in a list of its own; None for anything else."""
    span = gold[0] if len(gold) == 1 and isinstance(gold[0], list) else gold
    numbers = all(isinstance(bound, int | float) and not isinstance(bound, bool) for bound in span)
    return span if numbers and len(span) == 2 else None


def id_of(row: Mapping[str, Any]) -> Any:
    """A row's id, whichever of its usual fields holds it; None if none does."""
    return next((row[field] for field in ID_FIELDS if row.get(field) not in (None, "")), None)
