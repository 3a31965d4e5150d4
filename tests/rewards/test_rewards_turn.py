"""Tags, boxed answers, numbered answers."""

from __future__ import annotations

import pytest

from pipeline_config.schema import RewardsConfig
from tasks.rewards.answers.turn import has_format, read_turn, split_numbered, unbox
from tasks.rewards.score import score


@pytest.mark.parametrize(
    "text",
    [
        "<think>a</think><answer>b</answer>",
        "<think>a\nb</think>\n \n<answer>c\nd</answer>",
        "<think></think><answer>b</answer>",
    ],
)
def test_the_frame_of_videochat_r1(text: str) -> None:
    assert has_format(text)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "B",
        "<answer>b</answer>",
        "<think>a</think>",
        "<think>a</think><answer></answer>",
        "<think>a</think><answer> </answer>",
        "x<think>a</think><answer>b</answer>",
        "<think>a</think>x<answer>b</answer>",
        "<think>a</think><answer>b</answer>x",
        "<answer>b</answer><think>a</think>",
        "<think><think>a</think></think><answer>b</answer>",
        "<think>a</think><answer><answer>b</answer></answer>",
        "<think>a</think><answer>b</answer><answer>b</answer>",
        "<think><answer>b</answer></think><answer>b</answer>",
        "<think>a</think><answer>b</think></answer>",
        "<think>a</think><answer>b</answer><glue>[(1, 2)]</glue>",
    ],
)
def test_anything_else_is_not_the_frame(text: str) -> None:
    assert not has_format(text)


def test_glue_follows_the_answer() -> None:
    text = "<think>a</think><answer>b</answer>\n<glue>[(1, 2)]</glue>"
    assert has_format(text, glue=True)
    assert not has_format("<think>a</think><answer>b</answer>", glue=True)
    assert not has_format("<think>a</think><answer>b</answer><glue></glue>", glue=True)
    assert not has_format(text)


def test_blocks_are_read_only_where_there_is_one() -> None:
    turn = read_turn("<think> because </think> <answer> B \n</answer><|im_end|>\n")
    assert (turn.think, turn.answer, turn.complete) == ("because", "B", True)
    assert read_turn("<answer>A</answer><answer>B</answer>").answer is None
    assert read_turn("<think>x</think><answer>B").answer is None
    assert read_turn("<answer><answer>B</answer></answer>").answer is None
    assert read_turn("<think>x").answer is None


@pytest.mark.parametrize(
    "text",
    [
        "<think>Perhaps <answer>B</answer></think>",
        "<think>Perhaps <answer>B</answer> or not",
        "Perhaps <answer>B</answer></think>",
        "<think>a</think> so <think><answer>B</answer></think>",
        "<think><think>a</think><answer>B</answer></think>",
    ],
)
def test_an_answer_inside_the_thinking_is_no_answer(text: str, rewards: RewardsConfig) -> None:
    assert read_turn(text).answer is None
    assert score({"problem_type": "choice", "options": ["a", "b"], "answer": "B"}, text, rewards).accuracy == 0.0


def test_evidence_inside_the_thinking_is_none(rewards: RewardsConfig) -> None:
    text = "<think><glue>[(1, 2)]</glue></think><answer>B</answer>"
    assert read_turn(text).glue is None
    sample = {"problem_type": "grounded_qa", "options": ["a", "b"], "answer": "B", "glue": [[1, 2]]}
    assert score(sample, text, rewards).parts["glue_iou"] == 0.0


def test_an_answer_after_the_thinking_is_read_wherever_the_thinking_opened() -> None:
    assert read_turn("<think>a</think><answer>B</answer>").answer == "B"
    assert read_turn("a, opened in the prompt</think><answer>B</answer>").answer == "B"
    assert read_turn("<answer>B</answer><think>a</think>").answer == "B"


@pytest.mark.parametrize(
    ("completion", "value"),
    [
        ("<think>a</think><answer>It is <|begin_of_box|>12<|end_of_box|>.</answer>", 1.0),
        ("<think>It is <|begin_of_box|>12<|end_of_box|></think><answer>12</answer>", 0.0),
        ("<think>a <|begin_of_box|></think><answer>12<|end_of_box|></answer>", 0.0),
        ("<think>a</think><answer><|begin_of_box|>12<|end_of_box|> <|begin_of_box|>12<|end_of_box|></answer>", 0.0),
        ("<think>a</think><answer><|begin_of_box|> <|end_of_box|></answer>", 0.0),
        ("<think>a</think><answer>\\boxed{12} <|begin_of_box|>12<|end_of_box|></answer>", 0.0),
        ("<think>a</think><answer>12</answer>", 0.0),
    ],
)
def test_the_box_stands_in_the_answer(completion: str, value: float, rewards: RewardsConfig) -> None:
    sample = {"problem_type": "mathematics", "answer": "12"}
    assert score(sample, completion, rewards).parts["format_boxed"] == value


def test_an_untagged_completion_is_an_answer_only_if_the_config_says_so() -> None:
    assert read_turn(" B ").answer == "B"
    assert read_turn(" B ", untagged="unparseable").answer is None
    assert not read_turn("B").complete


def test_boxed_answers() -> None:
    assert unbox("so <|begin_of_box|> 12 <|end_of_box|> it is") == "12"
    assert unbox("12") == "12"
    assert unbox("<|begin_of_box|>1<|end_of_box|><|begin_of_box|>2<|end_of_box|>") is None
    assert unbox("<|end_of_box|>1<|begin_of_box|>") is None
    assert unbox("<|begin_of_box|>1") is None
    assert read_turn("<think>a</think><answer>It is <|begin_of_box|>12<|end_of_box|>.</answer>").answer == "12"


@pytest.mark.parametrize("field", ["1. B\n2. C", "1) B\n2) C", "(1) B\n(2) C", " 1: B \n\n2: C", "2. C\n1. B"])
def test_numbered_answers_are_matched_by_their_number(field: str) -> None:
    assert split_numbered(field, 2) == ["B", "C"]


def test_missing_repeated_and_additional_numbers() -> None:
    assert split_numbered("1. B", 2) == ["B", None]
    assert split_numbered("1. A\n1. B\n2. C", 2) == [None, "C"]
    assert split_numbered("1. B\n2. C\n3. D", 2) == ["B", "C"]
    assert split_numbered("1.\n2. C", 2) == [None, "C"]
    assert split_numbered("B\nC", 2) == [None, None]
    assert split_numbered("I think\n1. B\n2. C", 2) == [None, None]


def test_lines_without_a_number_continue_the_answer_above() -> None:
    assert split_numbered("1. A field.\nDistortions: none\n2. C", 2) == ["A field.\nDistortions: none", "C"]


def test_a_decimal_number_is_no_numbering() -> None:
    assert split_numbered("1. 3.42\n2. 4.10", 2) == ["3.42", "4.10"]
    assert split_numbered("3.42", 1) == ["3.42"]
    assert split_numbered("1. 3.42", 1) == ["3.42"]
    assert split_numbered("1.42", 1) == ["1.42"]
