"""Free text: ROUGE, word error rate, equality."""

from __future__ import annotations

import pytest

from pipeline_config.schema import RewardsConfig
from tasks.rewards.examples import turn
from tasks.rewards.score import score
from tasks.rewards.text import num_word_edits


def accuracy(problem_type: str, gold: str, answer: str) -> float:
    return score({"problem_type": problem_type, "answer": gold}, turn(answer), RewardsConfig()).accuracy


def test_free_form_is_the_mean_of_three_rouge_scores() -> None:
    assert accuracy("free-form", "the dog runs home", "the dog runs home") == 1.0
    # unigrams 3 of 4 and 3: F 6/7; pairs 2 of 3 and 2: F 4/5; longest common subsequence 3: F 6/7
    assert accuracy("free-form", "the dog runs home", "the dog runs") == pytest.approx((6 / 7 + 4 / 5 + 6 / 7) / 3)
    assert accuracy("free-form", "the dog runs home", "a cat") == 0.0


def test_the_stemmer_joins_forms_of_a_word() -> None:
    assert accuracy("free-form", "running dogs", "run dog") == pytest.approx(1.0)


def test_a_single_word_scores_full_marks_against_itself() -> None:
    assert accuracy("free-form", "Paris", "paris") == 1.0


def test_very_long_answers_are_unreadable() -> None:
    assert accuracy("free-form", "the dog", "the dog " * 3000) == 0.0


def test_ocr_is_one_minus_the_word_error_rate() -> None:
    assert accuracy("OCR", "mind the gap please", "mind the gap please") == 1.0
    assert accuracy("OCR", "mind the gap please", "mind a gap please") == 0.75
    assert accuracy("OCR", "mind the gap please", "gap") == 0.25
    assert accuracy("OCR", "gap", "mind the gap please") == 0.0


@pytest.mark.parametrize(
    ("a", "b", "edits"),
    [("a b c", "a b c", 0), ("a b c", "a c", 1), ("a c", "a b c", 1), ("a b", "b a", 2), ("", "a b", 2), ("a", "", 1)],
)
def test_word_edits(a: str, b: str, edits: int) -> None:
    assert num_word_edits(a.split(), b.split()) == edits


def test_exact_text() -> None:
    assert accuracy("video_quality", "Good", " good. ") == 1.0
    assert accuracy("video_quality", "Good", "good enough") == 0.0


def test_free_form_compares_phrases_exactly_and_other_golds_by_words() -> None:
    assert accuracy("free_form", "Moderate noise", "moderate noise") == 1.0
    assert accuracy("free_form", "Moderate noise", "noise") == 0.0
    assert 0.5 < accuracy("free_form", "The sky is overexposed", "the sky is dark") < 1.0
