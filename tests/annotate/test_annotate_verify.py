"""What a try must be to be worth learning from."""

from __future__ import annotations

from typing import Any

import pytest

from pipeline_config.schema import RewardsConfig
from tasks.annotate.teacher import TeacherAnswer, read_reply
from tasks.annotate.verify import agree, verify
from tasks.endpoint.request import Reply
from tests.annotate.endpoint import question

REWARDS = RewardsConfig()
GOLD = "Severe noise affects the top left of the image <|box_start|>(0,0),(500,500)<|box_end|>."


def tried(text: str, **fields: Any) -> TeacherAnswer:
    return read_reply("key", Reply(text, **fields))


def think(reasoning: str, answer: str = "B") -> TeacherAnswer:
    return tried(f"<think>{reasoning}</think><answer>{answer}</answer>")


def verdict(answer: TeacherAnswer, **fields: Any) -> str:
    return verify(question(**fields), answer, REWARDS, 0.6).reason


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (tried("", refusal="I cannot."), "refused: I cannot."),
        (tried("It is noisy, B."), "no answer block"),
        (tried("<think>It is", finish_reason="length"), "cut at the token limit before an answer"),
        (think("Blur along the edges.", "A"), "reward 0.00 does not exceed 0.6"),
        (think("Grain.", "F"), "reward 0.00 does not exceed 0.6"),
        (think("Grain <answer>"), "no answer block"),
        (tried("<answer>B</answer>"), "right, but without reasoning"),
        (think("Grain everywhere, 到处都是噪点到处都是."), "right, but the reasoning mixes languages"),
        (think("grain and more grain " * 40), "right, but the reasoning repeats itself"),
        (think("The correct answer is noise."), "right, but the reasoning mentions an answer it was shown"),
        (think("As I was told, there is noise."), "right, but the reasoning mentions an answer it was shown"),
        (think("Grain everywhere, so the answer is C."), "right, but the reasoning ends on C, the answer is B"),
        (think("Option A would need smear; option (B) it is."), "accepted"),
        (think("Fine grain covers sky and walls."), "accepted"),
    ],
)
def test_a_try_is_kept_only_if_answer_and_reasoning_hold(answer: TeacherAnswer, reason: str) -> None:
    assert verdict(answer).startswith(reason)


def test_a_reward_has_to_exceed_tau() -> None:
    """Three of the gold's four words are there."""
    row = {**question(answer="mind the gap please"), "problem_type": "OCR", "options": []}
    answer = think("It is written on the platform.", "mind the gap")
    assert verify(row, answer, REWARDS, 0.74).accepted
    assert verify(row, answer, REWARDS, 0.75).reason.startswith("reward 0.75 does not exceed 0.75")


def test_a_long_gold_is_not_quoted() -> None:
    fields = {"sub_task": "dist_assess", "kind": "dist_assess", "problem_type": "distortion", "options": []}
    row = {**question(answer=GOLD), **fields}
    assert "quotes the answer" in verify(row, think(f"Look: {GOLD}", GOLD), REWARDS, 0.6).reason
    assert verify(row, think("Grain fills the corner.", GOLD), REWARDS, 0.6).accepted


@pytest.mark.parametrize(
    "text",
    [
        '{"reasoning": "Fine grain.", "answer": "B"}',
        'Here it is:\n```json\n{"answer": "B", "reasoning": "Fine grain."}\n```',
        "<think>Fine grain.</think><answer>B</answer>",
    ],
)
def test_json_and_tags_are_read_alike(text: str) -> None:
    answer = tried(text)
    assert (answer.reasoning, answer.answer) == ("Fine grain.", "B")


@pytest.mark.parametrize("text", ['{"reasoning": "x"}', "{", '["B"]', '{"answer": ["B"]}', "{}" * 10, "[" * 100_000])
def test_what_is_no_answer_is_none(text: str) -> None:
    assert tried(text).answer is None


def test_tries_agree_where_most_say_the_same() -> None:
    no_gold = {**question(), "answer": None}
    tries = [think("Grain.", letter) for letter in ("B", "A", "B", "B")]
    place, share = agree(no_gold, tries, REWARDS, 0.6)
    assert (tries[place].answer, share) == ("B", 0.75)
    assert agree(no_gold, [tried("", refusal="no"), tried("prose")], REWARDS, 0.6) == (-1, 0.0)
    assert agree(no_gold, [tried("", refusal="no"), think("Grain.")], REWARDS, 0.6) == (1, 0.5)


def test_a_score_agrees_with_scores_near_it() -> None:
    fields = {"sub_task": "score", "kind": "score", "problem_type": "mos", "options": [], "answer": None}
    tries = [think("Grain.", score) for score in ("3.10", "3.12", "1.20")]
    place, share = agree({**question(), **fields}, tries, REWARDS, 0.6)
    assert place in (0, 1)
    assert share == pytest.approx(2 / 3)
