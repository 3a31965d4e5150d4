"""Time: spans, grounded answers, tracks."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline_config.schema import RewardsConfig
from tasks.rewards.answers.spans import read_glue, read_span, read_spans
from tasks.rewards.examples import TRACK, turn
from tasks.rewards.reward import SampleError
from tasks.rewards.score import score
from tasks.rewards.temporal import merged, spans_iou

SPAN = st.tuples(st.integers(0, 50), st.integers(0, 50)).map(lambda p: (float(min(p)), float(max(p))))
SPANS = st.lists(SPAN, max_size=6)


@pytest.mark.parametrize(
    "field",
    [
        "12.54 to 17.83",
        "12.54-17.83",
        "12.54 - 17.83.",
        "12.54s to 17.83s",
        "from 12.54 to 17.83 seconds",
        "between 12.54 and 17.83 sec",
        "(12.54, 17.83)",
        "[12.54, 17.83]",
        "0:12.54 – 0:17.83",
        "00:00:12.54 to 00:00:17.83",
    ],
)
def test_one_span_in_several_spellings(field: str) -> None:
    assert read_span(field) == (12.54, 17.83)


@pytest.mark.parametrize("field", ["", "12", "17 to 12", "12 to", "about 12 to 17", "1 to 2 and 3 to 4", "1, 2, 3"])
def test_anything_else_is_not_one_span(field: str) -> None:
    assert read_span(field) is None


def test_lists_of_spans() -> None:
    assert read_spans("[(1, 2), (3.5, 4)]") == [(1, 2), (3.5, 4)]
    assert read_spans("[[1, 2], [3.5, 4]]") == [(1, 2), (3.5, 4)]
    assert read_spans("1 to 2 and 3.5 to 4") == [(1, 2), (3.5, 4)]
    assert read_spans("1:00 - 1:30; 2:00 - 2:30") == [(60, 90), (120, 150)]
    assert read_spans("[]") == []
    assert read_spans("[(4, 3)]") is None


def test_temporal_iou(rewards: RewardsConfig) -> None:
    sample = {"problem_type": "temporal_grounding", "answer": "10 to 20"}
    assert score(sample, turn("10 to 20"), rewards).accuracy == 1.0
    assert score(sample, turn("15 to 25"), rewards).accuracy == pytest.approx(1 / 3)
    assert score(sample, turn("20 to 30"), rewards).accuracy == 0.0
    assert score(sample, turn("0 to 100"), rewards).accuracy == pytest.approx(0.1)
    assert score(sample, turn("20 to 10"), rewards).accuracy == 0.0


def test_r_st_is_a_plain_sum(rewards: RewardsConfig) -> None:
    sample = {"problem_type": "temporal_grounding", "answer": "10 to 20"}
    assert score(sample, turn("15 to 20"), rewards).total == 1.5
    assert score(sample, "15 to 20", rewards).total == 0.5


def test_spans_are_merged_before_they_are_compared() -> None:
    assert merged([(3, 5), (0, 1), (4, 8)]) == [(0, 1), (3, 8)]
    assert spans_iou([(0, 4), (6, 10)], [(0, 2), (1, 4)]) == 0.5
    assert spans_iou([], []) == 1.0
    assert spans_iou([], [(0, 1)]) == 0.0
    assert spans_iou([(5, 5)], [(5, 5)]) == 1.0


@settings(deadline=None)
@given(SPANS, SPANS)
def test_overlap_of_spans_is_that_of_their_seconds(a: list[tuple[float, float]], b: list[tuple[float, float]]) -> None:
    """Against a count of unit seconds, for spans with whole ends."""
    seconds = [{t for start, end in spans for t in range(int(start), int(end))} for spans in (a, b)]
    joint = seconds[0] | seconds[1]
    if joint:
        assert spans_iou(a, b) == pytest.approx(len(seconds[0] & seconds[1]) / len(joint))


def test_r_gqa_adds_overlap_accuracy_and_format(rewards: RewardsConfig) -> None:
    sample = {"problem_type": "grounded_qa", "options": ["a", "b"], "answer": "B", "glue": [[0, 4], [6, 10]]}
    full = score(sample, turn("B") + "<glue>[(0, 4), (6, 10)]</glue>", rewards)
    assert (full.total, full.accuracy) == (3.0, 1.0)
    half = score(sample, turn("B") + "<glue>[(0, 4)]</glue>", rewards)
    assert half.total == 2.5
    assert half.parts == {"choice": 1.0, "glue_iou": 0.5, "format_glue": 1.0, "accuracy": 0.75}
    assert score(sample, turn("B") + "<glue>[(4, 0)]</glue>", rewards).total == 1.0
    assert score(sample, turn("B"), rewards).total == 1.0


def test_empty_evidence_on_both_sides_is_right(rewards: RewardsConfig) -> None:
    sample = {"problem_type": "grounded_qa", "options": ["a", "b"], "answer": "B", "glue": []}
    scored = score(sample, turn("B") + "<glue>[]</glue>", rewards)
    assert (scored.accuracy, scored.total) == (1.0, 3.0)
    assert score(sample, turn("B") + "<glue>[(1, 2)]</glue>", rewards).parts["glue_iou"] == 0.0


@pytest.mark.parametrize(
    ("glue", "spans"),
    [
        ("[]", []),
        ("[(0, 9)]", [(0, 9)]),
        ("[(1.0, 4.5),(7,9)]", [(1, 4.5), (7, 9)]),
        ("[(1, 2),]", [(1, 2)]),
        ("[(2, 2)]", [(2, 2)]),
        ("", None),
        ("0 to 9", None),
        ("[[0,9]]", None),
        ("(0, 9)", None),
        ("(1s,2s)", None),
        ("[(1s,2s)]", None),
        ("[(9, 0)]", None),
        ("[(0, 9)] or so", None),
        ("[(-1, 9)]", None),
        ("[(1, 2, 3)]", None),
        ("[(1, 2) (3, 4)]", None),
    ],
)
def test_glue_has_the_one_spelling_of_videochat_r1(
    glue: str, spans: list[tuple[float, float]] | None, rewards: RewardsConfig
) -> None:
    assert read_glue(glue) == spans
    sample = {"problem_type": "grounded_qa", "options": ["a", "b"], "answer": "B", "glue": [[0, 9]]}
    scored = score(sample, f"{turn('B')}<glue>{glue}</glue>", rewards)
    assert scored.parts["format_glue"] == float(spans is not None)
    assert scored.parts["glue_iou"] == pytest.approx(0.0 if spans is None else spans_iou([(0, 9)], spans))


def test_evidence_that_is_missing_from_the_sample_is_an_error(rewards: RewardsConfig) -> None:
    with pytest.raises(SampleError, match="glue"):
        score({"problem_type": "grounded_qa", "options": ["a", "b"], "answer": "B"}, turn("B"), rewards)


def test_tracks_need_as_many_boxes_as_the_gold(rewards: RewardsConfig) -> None:
    sample = {"problem_type": "tracking", "answer": TRACK}
    assert score(sample, turn(TRACK), rewards).accuracy == 1.0
    assert score(sample, turn(TRACK.replace(", [0.0, 0.0, 0.2, 0.2]", "")), rewards).accuracy == 0.0
    wrong_last = TRACK.replace("[0.0, 0.0, 0.2, 0.2]", "[0.5, 0.5, 0.7, 0.7]")
    assert score(sample, turn(wrong_last), rewards).accuracy == pytest.approx(7 / 8)
    assert score(sample, turn("[" + ", ".join(["[0, 0, 1]"] * 8) + "]"), rewards).accuracy == 0.0


@pytest.mark.parametrize(
    ("answer", "value"),
    [
        (TRACK, 1.0),
        (TRACK.replace(", [0.0, 0.0, 0.2, 0.2]", ""), 0.0),
        (f"The dog is at {TRACK}.", 0.0),
        ("It runs to the left.", 0.0),
        ("[" + ", ".join(["[0, 0, 1]"] * 8) + "]", 0.0),
        ("[" + ", ".join(['["a", "b", "c", "d"]'] * 8) + "]", 0.0),
        ("[" + ", ".join(['{"bbox_2d": [0, 0, 1, 1]}'] * 8) + "]", 0.0),
        ("[0, 0, 1, 1]", 0.0),
        ("[]", 0.0),
    ],
)
def test_the_frame_of_a_track_is_eight_lists_of_four_numbers(answer: str, value: float, rewards: RewardsConfig) -> None:
    sample = {"problem_type": "tracking", "answer": TRACK}
    assert score(sample, turn(answer), rewards).parts["format_tracking"] == value
    assert score(sample, answer, rewards).parts["format_tracking"] == 0.0  # no tags
