"""Is a teacher's try worth learning from? Only if its answer agrees with the gold, and its reasoning stands by itself.

Video-R1 keeps a chain of thought if its reward exceeds .6; here the same, by the accuracy reward that also judges
mining, GRPO and evaluation. Where nobody knows the answer, tries must agree with each other (ours). The checks of the
reasoning are ours: it is in the question's language, does not repeat itself, does not end on another option than the
answer, and neither mentions nor quotes an answer it was shown. Pure.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from pipeline_config.schema import RewardsConfig
from tasks.annotate.teacher import Row, TeacherAnswer
from tasks.rewards.answers.turn import TAGS
from tasks.rewards.gates import mixes_languages, repeats_itself
from tasks.rewards.reward import SampleError
from tasks.rewards.score import score
from tasks.student.turns import assistant_turn

QUOTED_CHARACTERS = 24  # a gold this long is not met by chance
_TOLD = re.compile(
    r"\b(?:given|provided|reference|correct|expected|gold(?:en)?|ground[- ]truth|annotated|labell?ed|human|people'?s?)"
    r"\s{1,3}(?:answer|label|annotation)s?\b|\b(?:answer|label|annotation)s? (?:of people|(?:was|were|is|are) given)\b"
    r"|\b(?:i was|as|we were) told\b",
    re.IGNORECASE,
)
_CONCLUDED = re.compile(
    r"\b(?:answer|option|choice)(?: (?:is|must be|should be))?[ :]{1,2}\(?([A-H])\b(?!')", re.IGNORECASE
)


@dataclass(frozen=True)
class Verdict:
    """accepted: the reasoning is kept. reward: accuracy reward of the answer, in [0, 1]. reason: for people."""

    accepted: bool
    reward: float
    reason: str


def verify(question: Row, tried: TeacherAnswer, rewards: RewardsConfig, tau: float) -> Verdict:
    """Judge one try at a question (with its gold). Accepted if its reward exceeds tau and its reasoning is sound.

    Raises SampleError if the question itself cannot be scored, never on what the teacher wrote.
    """
    if (fault := fault_of_form(tried)) is not None:
        return Verdict(False, 0.0, fault)
    scored = score(question, assistant_turn(tried.reasoning or "", str(tried.answer)), rewards)
    if scored.accuracy <= tau:
        said = f" ({scored.reason})" if scored.reason else ""
        return Verdict(False, scored.accuracy, f"reward {scored.accuracy:.2f} does not exceed {tau:g}{said}")
    if (fault := fault_of_reasoning(question, tried)) is not None:
        return Verdict(False, scored.accuracy, f"right, but {fault}")
    return Verdict(True, scored.accuracy, "accepted")


def fault_of_form(tried: TeacherAnswer) -> str | None:
    """Why a try cannot be judged at all, or None."""
    if tried.refusal is not None:
        return f"refused: {tried.refusal}"
    if tried.answer is None:
        return "cut at the token limit before an answer" if tried.finish_reason == "length" else "no answer block"
    return "the reasoning holds a tag of the turn" if any(tag in (tried.reasoning or "") for tag in TAGS) else None


def fault_of_reasoning(question: Row, tried: TeacherAnswer) -> str | None:
    """Why the reasoning of a right answer is not worth learning from, or None."""
    reasoning, gold = tried.reasoning or "", str(question["answer"] or "")
    if not reasoning:
        return "without reasoning"
    if mixes_languages(reasoning, f"{question['question']} {gold}"):
        return "the reasoning mixes languages"
    if repeats_itself(reasoning):
        return "the reasoning repeats itself"
    if (told := _TOLD.search(reasoning)) is not None:
        return f"the reasoning mentions an answer it was shown ({told.group(0)!r})"
    if len(gold) >= QUOTED_CHARACTERS and gold in reasoning:
        return "the reasoning quotes the answer word for word"
    concluded = _CONCLUDED.findall(reasoning) if question["problem_type"] == "choice" else []
    if concluded and not str(tried.answer).strip().upper().startswith(concluded[-1].upper()):
        return f"the reasoning ends on {concluded[-1].upper()}, the answer is {str(tried.answer)[:20]}"
    return None


def agree(question: Row, tries: Sequence[TeacherAnswer], rewards: RewardsConfig, tau: float) -> tuple[int, float]:
    """(position of the try that most others agree with, share of the tries that do, itself included) of a question
    without gold; (-1, 0.0) if none can be judged. A try agrees with another if it would earn more than tau with the
    other's answer as gold.
    """
    judged = [place for place, tried in enumerate(tries) if fault_of_form(tried) is None]
    best = (-1, 0.0)
    for place in judged:
        supposed = {**question, "answer": tries[place].answer}
        if fault_of_reasoning(supposed, tries[place]) is not None:
            continue
        try:
            scores = [score(supposed, assistant_turn("", str(tries[other].answer)), rewards) for other in judged]
        except SampleError:
            continue  # no gold could look like this answer
        share = sum(scored.accuracy > tau for scored in scores) / len(tries)
        if share > best[1]:
            best = (place, share)
    return best
