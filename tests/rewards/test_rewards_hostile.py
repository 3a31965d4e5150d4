"""No completion of any bytes makes a reward raise, leave its range or take long."""

from __future__ import annotations

import time

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from pipeline_config.rubrics import DEFAULT_RUBRICS
from pipeline_config.schema import RewardsConfig
from tasks.rewards.examples import NOISE, QUESTIONS, turn
from tasks.rewards.reward import REWARDS
from tasks.rewards.score import Score, score

REWARDS_CONFIG = RewardsConfig()
DIALOGUE = {"pairs": [q for q in QUESTIONS if "glue" not in q and "subjects" not in q]}
PIECES = [
    "<think>", "</think>", "<answer>", "</answer>", "<glue>", "</glue>", "<|begin_of_box|>", "<|end_of_box|>",
    NOISE, "<|box_start|>", "(1,2)", "<|box_end|>", "<|object_ref_start|>", "A", "B.", "(C)", "Answer: ", "1. ",
    "2) ", "\n", " ", "3.42", "1,234", "-", "1e308", "12 to 17", "[", "]", "[1, 2, 3, 4]", "{", "}", '"subjects"',
    ":", ",", "No distortion.", "Thus, the quality of the image is bad.", "key distortions: ", "Moderate noise",
    "The quality of the image is ", "\x00", "\ud7ff", "é", "漢", "NaN", "```", "VERDICT: yes",
    "\\frac{1}{2}", "2**10", "9**9**9**9", "×10^23", "**", "\\boxed{B}", "[(1, 2)]",
]  # fmt: skip
TEXTS = st.one_of(st.text(max_size=200), st.lists(st.sampled_from(PIECES), max_size=12).map("".join))
FIELDS = st.one_of(TEXTS, TEXTS.map(turn), st.binary(max_size=60).map(lambda b: b.decode("latin-1")))


def assert_in_range(scored: Score, num_pairs: int) -> None:
    assert 0 <= scored.accuracy <= 1
    assert len(scored.pair_accuracy) == len(scored.pair_answers) == num_pairs
    assert all(0 <= value <= 1 for value in scored.pair_accuracy)
    assert all(value is None or 0 <= value <= 1 for value in scored.parts.values())
    assert scored.total >= 0


@settings(max_examples=150, deadline=None)
@given(FIELDS, st.booleans())
def test_any_completion_of_any_question(completion: str, truncated: bool) -> None:
    for question in QUESTIONS:
        assert_in_range(score(question, completion, REWARDS_CONFIG, truncated=truncated), 1)
    assert_in_range(score(DIALOGUE, completion, REWARDS_CONFIG, truncated=truncated), len(DIALOGUE["pairs"]))


@settings(max_examples=60, deadline=None)
@given(FIELDS)
def test_any_completion_of_any_reward(completion: str) -> None:
    """Also the rewards that no default rubric names, on the sample of their example."""
    for name, reward in REWARDS.items():
        if reward.example is not None:
            sample = reward.example[0]
            assert_in_range(score(sample, completion, RewardsConfig(rubrics={sample["problem_type"]: {name: 1.0}})), 1)


@settings(max_examples=400, deadline=None)
@given(st.text(max_size=80), st.sampled_from(QUESTIONS))
@example("A", next(q for q in QUESTIONS if q["problem_type"] == "mathematics"))
@example("A", next(q for q in QUESTIONS if q["problem_type"] == "numerical"))
@example("A", next(q for q in QUESTIONS if q["problem_type"] == "physics"))
def test_what_is_added_to_a_discrete_gold_costs_it(noise: str, question: dict) -> None:
    names = [n for n in DEFAULT_RUBRICS[question["problem_type"]] if REWARDS[n].judges == "answer"]
    if any(REWARDS[n].continuous for n in names) or not noise.strip(" \t\r\n."):
        return
    accuracy = score(question, turn(f"{question['answer']} zq {noise}"), REWARDS_CONFIG).accuracy
    assert accuracy == 0.0


MEGABYTE = 1_000_000
UNITS = [
    "(",
    "<think>",
    "<answer>",
    "<answer></answer>",
    "1",
    "1. ",
    "[",
    "{",
    "<|box_start|>(",
    NOISE,
    "A. ",
    " ",
    "\n",
    "0:",
    "1,",
    "9**",
    "sqrt(",
    "\\boxed{",
    "θ",
]


@pytest.mark.parametrize("unit", UNITS)
def test_a_megabyte_takes_less_than_a_second(unit: str) -> None:
    """Processor time, so that a busy machine does not matter; the longest a field may be counts too."""
    for question in QUESTIONS:
        score(question, turn("warm"), REWARDS_CONFIG)  # libraries are loaded on first use
    for text in (unit * (MEGABYTE // len(unit)), turn(unit * (60_000 // len(unit)))):
        for question in [*QUESTIONS, DIALOGUE]:
            start = time.process_time()
            score(question, text, REWARDS_CONFIG)
            assert time.process_time() - start < 1.0, question.get("problem_type")
