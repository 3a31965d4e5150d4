"""Is a teacher's try worth learning from? Only if its answer agrees with the gold.

Video-R1 keeps a chain of thought if its reward exceeds .6; here the same, by the accuracy reward that also judges
mining, GRPO and evaluation. Pure.
"""

from __future__ import annotations

from dataclasses import dataclass

from pipeline_config.schema import RewardsConfig
from tasks.annotate.teacher import Row, TeacherAnswer
from tasks.rewards.answers.turn import TAGS
from tasks.rewards.score import score
from tasks.student.turns import assistant_turn


@dataclass(frozen=True)
class Verdict:
    """accepted: the reasoning is kept. reward: accuracy reward of the answer, in [0, 1]. reason: for people."""

    accepted: bool
    reward: float
    reason: str


def verify(question: Row, tried: TeacherAnswer, rewards: RewardsConfig, tau: float) -> Verdict:
    """Judge one try at a question (with its gold). Accepted if its reward exceeds tau and it gives its reasons.

    Raises SampleError if the question itself cannot be scored, never on what the teacher wrote.
    """
    if tried.refusal is not None:
        return Verdict(False, 0.0, f"refused: {tried.refusal}")
    if tried.answer is None:
        return Verdict(False, 0.0, "no answer block")
    reasoning = tried.reasoning or ""
    if any(tag in reasoning for tag in TAGS):
        return Verdict(False, 0.0, "the reasoning holds a tag of the turn")
    scored = score(question, assistant_turn(reasoning, tried.answer), rewards)
    if scored.accuracy <= tau:
        return Verdict(False, scored.accuracy, f"reward {scored.accuracy:.2f} does not exceed {tau:g}")
    if not reasoning:
        return Verdict(False, scored.accuracy, "right, but without reasoning")
    return Verdict(True, scored.accuracy, "accepted")
