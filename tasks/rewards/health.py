"""Are the rewards fit to train on? The gold must score full marks, and tricks must gain nothing."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from tasks.rewards.reward import SampleError
from tasks.rewards.score import score

if TYPE_CHECKING:
    from pipeline_config.schema import RewardsConfig

FULL_MARKS = 1.0 - 1e-6


def gold_completion(sample: Mapping[str, Any]) -> str:
    """The gold as the student should write it: the sample's own turn (``response``), or its answers in the frame."""
    pairs = sample.get("pairs") or [sample]
    answers = [str(pair.get("answer", "")) for pair in pairs]
    field = answers[0] if len(answers) == 1 else "\n".join(f"{i}. {a}" for i, a in enumerate(answers, start=1))
    return f"<think></think><answer>{field}</answer>"


def gold_scores_full(sample: Mapping[str, Any], rewards: RewardsConfig) -> str | None:
    """None if the gold answer of a question or dialogue scores accuracy 1 against itself, else why it does not."""
    try:
        scored = score(sample, gold_completion(sample), rewards)
    except SampleError as error:
        return str(error)
    if scored.accuracy >= FULL_MARKS:
        return None
    return f"the gold answer scores {scored.accuracy:.3f} against itself, not 1 ({scored.reason})"


def gold_findings(samples: Iterable[Mapping[str, Any]], rewards: RewardsConfig) -> list[tuple[str, str]]:
    """(id, reason) of every question or dialogue whose gold does not score full marks.

    samples: rows of the questions, annotations or dialogues; or rows of ``samples``, whose ``questions`` are checked.
    """
    findings = []
    for row in samples:
        for sample in row["questions"] if row.get("questions") is not None else [row]:
            reason = gold_scores_full(sample, rewards)
            if reason is not None:
                findings.append((str(sample.get("question_id") or sample.get("dialogue_id") or sample.get("id")), reason))
    return findings
