"""The best blind answers."""

from __future__ import annotations

import pytest

from pipeline_config.schema import RewardsConfig
from tasks.rewards.examples import turn
from tasks.rewards.metrics import best_constant
from tasks.rewards.reward import SampleError
from tasks.rewards.score import score


def choice(options: list[str], answer: str) -> dict:
    return {
        "sub_task": "mcq",
        "kind": "type",
        "problem_type": "choice",
        "question": "?",
        "options": options,
        "answer": answer,
    }


def test_option_texts_beat_letters_where_they_are_stronger(rewards: RewardsConfig) -> None:
    rows = [choice(["noise", "blur"], "A"), choice(["blur", "noise"], "B"), choice(["noise", "clarity"], "A")]
    constant = best_constant(rows, rewards)["mcq", "type"]
    assert constant.options[0] == "noise"
    assert constant.accuracy == 1.0
    assert [constant.answer_to(row) for row in rows] == ["A", "B", "A"]
    assert constant.answer_to(choice(["fog", "mist"], "B")) == constant.answer == "A"


def test_letters_win_where_texts_say_nothing(rewards: RewardsConfig) -> None:
    rows = [choice([f"x{i}", f"y{i}"], "B") for i in range(4)] + [choice(["x0", "y9"], "B"), choice(["y0", "x3"], "B")]
    rows += [choice(["y1", "z"], "B"), choice(["y2", "z"], "B")]
    constant = best_constant(rows, rewards)["mcq", "type"]
    assert (constant.options, constant.answer, constant.accuracy) == ((), "B", 1.0)


def test_numbers_and_phrases(rewards: RewardsConfig) -> None:
    mos = [
        {
            "sub_task": "score",
            "kind": "score",
            "problem_type": "mos",
            "question": "?",
            "options": [],
            "answer": f"{v:.2f}",
        }
        for v in (1.0, 2.0, 2.2, 2.4, 4.8)
    ]
    phrase = [
        {"sub_task": "qa", "kind": "qa", "problem_type": "free_form", "question": "?", "options": [], "answer": a}
        for a in ("Minor noise", "Severe noise", "Severe noise")
    ]
    constants = best_constant([*mos, *phrase], rewards)
    assert constants["score", "score"].answer == "2.20"
    assert constants["score", "score"].accuracy == pytest.approx(3 / 5)
    assert constants["qa", "qa"].answer == "Severe noise"
    assert constants["qa", "qa"].accuracy == pytest.approx(2 / 3)


def test_accuracy_is_what_the_entry_point_gives(rewards: RewardsConfig) -> None:
    rows = [choice(["noise", "blur"], "A"), choice(["blur", "noise"], "A"), choice(["noise", "clarity"], "A")]
    constant = best_constant(rows, rewards)["mcq", "type"]
    mean = sum(score(row, turn(constant.answer_to(row)), rewards).accuracy for row in rows) / len(rows)
    assert constant.accuracy == mean


def test_a_gold_without_option_is_an_error(rewards: RewardsConfig) -> None:
    with pytest.raises(SampleError, match="names none of the options"):
        best_constant([choice(["noise", "blur"], "E")], rewards)


def test_a_kind_may_hold_questions_whose_gold_is_free_form(rewards: RewardsConfig) -> None:
    score_question = {"sub_task": "score", "kind": "score", "question": "?", "options": []}
    typed = [{**score_question, "problem_type": "mos", "answer": answer} for answer in ("4.50", "2.10", "2.10")]
    read_as_text = {**score_question, "problem_type": "free_form", "answer": "about average"}
    assert best_constant([*typed, read_as_text], rewards)["score", "score"].answer == "2.10"
