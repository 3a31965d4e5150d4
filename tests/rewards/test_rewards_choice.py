"""Choices: letters and option texts, through the entry point."""

from __future__ import annotations

import pytest

from pipeline_config.schema import RewardsConfig
from tasks.rewards.answers.choice import option_texts, read_choice
from tasks.rewards.examples import QUESTIONS, turn
from tasks.rewards.score import score

OPTIONS = ["blur", "noise", "low clarity", "A. strange option"]


@pytest.mark.parametrize(
    "field",
    [
        "C",
        "c",
        "C.",
        "(C)",
        "C)",
        "C:",
        "Answer: C",
        "answer is C",
        "The answer is (C).",
        "The correct answer is C.",
        "Option C",
        "(C) low clarity",
        "C. Low clarity.",
        "low clarity",
        "Low  Clarity.",
        "Answer: low clarity",
        "Answer:C",
        "The best answer is (C)",
        "The best answer is (C).",
        "Best option: C",
        "My final answer is C.",
        "The correct answer is option C.",
        "**C**",
        "**(C)**",
        "**C.** Low clarity",
        "**Answer: C**",
        "**Answer:** C",
        "The best answer is **C**.",
        r"\boxed{C}",
        r"$\boxed{C}$",
        r"\boxed{\text{C}}",
        r"The answer is \boxed{C}.",
    ],
)
def test_usual_spellings_of_c(field: str) -> None:
    assert read_choice(field, OPTIONS) == 2


@pytest.mark.parametrize(
    "field",
    [
        "",
        "A B C D",
        "A, B, C",
        "ABCD",
        "C or D",
        "C. noise",
        "(C) blur",
        "E",
        "C because of the blocks",
        "Answer: A. Answer: C",
        "everything but C",
        "C\nD",
        "blur noise",
        "Answer:",
        "The best answer is not C",
        "**C** or **D**",
        r"\boxed{C} \boxed{D}",
        r"\boxed{noise or blur}",
        "A dog runs",
        "A blurred picture, so noise",
        "a noise",
    ],
)
def test_hedges_and_contradictions_choose_nothing(field: str) -> None:
    assert read_choice(field, OPTIONS) is None


def test_the_trap_of_the_first_letter(rewards: RewardsConfig) -> None:
    """Released code takes the A of "Answer: C"."""
    sample = {"problem_type": "choice", "options": OPTIONS[:3], "answer": "C"}
    assert score(sample, turn("Answer: C"), rewards).accuracy == 1.0
    assert score({**sample, "answer": "A"}, turn("Answer: C"), rewards).accuracy == 0.0


def test_prose_that_begins_with_an_article_chooses_by_its_text() -> None:
    assert read_choice("A dog", ["A cat", "a dog"]) == 1
    assert read_choice("The answer is a dog.", ["A cat", "a dog"]) == 1
    assert read_choice("A dog runs", []) is None


def test_an_option_that_stands_twice_is_not_chosen_by_its_text() -> None:
    assert read_choice("blur", ["blur", "Blur", "noise"]) is None
    assert read_choice("B", ["blur", "Blur", "noise"]) == 1


def test_options_may_bear_their_letters_or_stand_in_the_question() -> None:
    assert option_texts(["(A) to hide", "(B) to play"]) == ["to hide", "to play"]
    assert option_texts(["A dog", "B side"]) == ["A dog", "B side"]
    assert option_texts(["A. dog", "cat"]) == ["A. dog", "cat"]
    assert option_texts(None, QUESTIONS[0]["question"]) == ["Noise", "Low clarity", "Motion blur"]
    assert option_texts([], "Is it?") == []


def test_gold_in_any_spelling(rewards: RewardsConfig) -> None:
    sample = {"problem_type": "choice", "options": ["(A) to hide", "(B) to play"], "answer": "(B)"}
    assert score(sample, turn("B"), rewards).accuracy == 1.0
    assert score(sample, turn("to play"), rewards).accuracy == 1.0
