"""Merged prompts, answers and turns come apart again exactly as they were."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tasks.student.turns import assistant_turn, merge_answers, merge_prompt, split_answers, split_prompt, split_turn

LINES = st.lists(st.sampled_from(["", "1. x", " 2. y", "A. Noise", "3.42", "12. ", "Why?"]), min_size=1, max_size=5)
ITEMS = st.lists(LINES.map("\n".join) | st.text(max_size=20), min_size=1, max_size=12)
UNTAGGED = st.text(max_size=30).filter(lambda text: "</" not in text)


def test_questions_are_numbered_from_one() -> None:
    assert merge_prompt(["Which?\nA. Noise", "Where?"]) == "1. Which?\nA. Noise\n2. Where?"


def test_a_single_question_stands_unnumbered() -> None:
    assert merge_prompt(["Which?"]) == merge_answers(["Which?"]) == "Which?"


@given(ITEMS)
def test_splitting_undoes_merging(items: list[str]) -> None:
    assert split_prompt(merge_prompt(items), len(items)) == items
    assert split_answers(merge_answers(items), len(items)) == items


def test_another_number_of_items_is_refused() -> None:
    with pytest.raises(ValueError, match="2 numbered items, not 3"):
        split_answers("1. B\n2. C", 3)
    with pytest.raises(ValueError, match="does not begin"):
        split_answers("B\nC", 2)
    with pytest.raises(ValueError, match="nothing to merge"):
        merge_prompt([])


@given(UNTAGGED, UNTAGGED)
def test_a_turn_comes_apart(think: str, answer: str) -> None:
    assert split_turn(assistant_turn(think, answer)) == (think, answer)


def test_no_reasoning_leaves_the_block_empty() -> None:
    assert assistant_turn(None, "B") == "<think></think><answer>B</answer>"


@pytest.mark.parametrize(("think", "answer"), [("a</think>b", "B"), ("a", "B</answer>C")])
def test_a_turn_that_could_not_be_read_back_is_refused(think: str, answer: str) -> None:
    with pytest.raises(ValueError, match="holds the tag"):
        assistant_turn(think, answer)


@pytest.mark.parametrize(
    "turn", ["", "B", "<think>a</think>B", "<answer>B</answer>", "x<think></think><answer>B</answer>"]
)
def test_what_is_no_turn_is_refused(turn: str) -> None:
    with pytest.raises(ValueError, match="not <think>"):
        split_turn(turn)
