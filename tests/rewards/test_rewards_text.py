"""Free text: ROUGE, word error rate, equality."""

from __future__ import annotations

import time

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from rouge_score.tokenize import tokenize

from pipeline_config.schema import RewardsConfig
from tasks.rewards.answers.turn import BOXED, TAGS
from tasks.rewards.examples import turn
from tasks.rewards.health import gold_completion
from tasks.rewards.reward import SampleError
from tasks.rewards.score import score
from tasks.rewards.text import _num_tokens, num_word_edits


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


def test_pairs_are_counted_in_a_gold_that_rouge_cuts_in_two() -> None:
    # "co", "op": one of two words found, no pair, longest common subsequence 1
    assert accuracy("free-form", "co-op", "co") == pytest.approx((2 / 3 + 0 + 2 / 3) / 3)


def test_very_long_answers_are_unreadable() -> None:
    assert accuracy("free-form", "the dog", "the dog " * 3000) == 0.0


@pytest.mark.parametrize("text", ["1," * 32_000, "a-" * 32_000, "b'" * 32_000])
def test_words_are_counted_as_rouge_cuts_them(text: str) -> None:
    """A text without white space is one word to Python and thousands to ROUGE, whose cost is their product."""
    accuracy("free-form", "1, 2, 3", "warm")  # the library is loaded on first use
    start = time.process_time()
    assert accuracy("free-form", "1," * 500, text) == 0.0
    assert time.process_time() - start < 0.2
    with pytest.raises(SampleError, match="ROUGE"):
        accuracy("free-form", text, "1, 2")


@settings(max_examples=200, deadline=None)
@given(st.text(max_size=60))
def test_the_count_of_words_is_the_scorers(text: str) -> None:
    assert _num_tokens(text) == len(tokenize(text, None))


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


TEXT_TYPES = (
    "OCR", "free-form", "free_form", "video_quality", "brief", "distortion", "mathematics", "physics", "chart", "judged"
)  # fmt: skip
GOLDS = st.one_of(
    st.text(max_size=60),
    st.tuples(st.sampled_from(["1. ", "1) ", "(1) ", "1: ", "1.\n", "2. ", ""]), st.text(max_size=30)).map("".join),
    st.lists(st.sampled_from(["1. ", "2) ", "\n", "Mind", " the gap", "−", "$", ".", "**", "\\boxed{B}", "3/4"])).map(
        "".join
    ),
)


@settings(max_examples=400, deadline=None)
@given(GOLDS, st.sampled_from(TEXT_TYPES))
@example("1. Mind the gap", "OCR")
@example("1. Mind the gap", "free-form")
@example("1. wash\n2. dry", "judged")
@example("1) 1. x", "mathematics")
@example("你好", "free-form")
def test_every_gold_text_scores_full_marks_against_itself(gold: str, problem_type: str) -> None:
    if not gold.strip() or any(token in gold for token in (*TAGS, *BOXED)):
        return
    sample = {"problem_type": problem_type, "answer": gold}
    rewards = RewardsConfig()
    assert score(sample, gold_completion(sample, rewards), rewards).accuracy == 1.0


def test_a_list_number_is_dropped_only_where_the_gold_has_none() -> None:
    assert accuracy("OCR", "Mind the gap", "1. Mind the gap") == 1.0
    assert accuracy("OCR", "1. Mind the gap", "1. Mind the gap") == 1.0
    assert accuracy("OCR", "1. Mind the gap", "Mind the gap") == 0.75
    assert accuracy("OCR", "2. Mind the gap", "2. Mind the gap") == 1.0
