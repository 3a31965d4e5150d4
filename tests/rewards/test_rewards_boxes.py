"""Boxes: reading them in every convention, overlap, grounding."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline_config.schema import RewardsConfig
from tasks.rewards.answers.boxes import Box, find_boxes, read_boxes, to_norm1000
from tasks.rewards.boxes import box_iou, question_box
from tasks.rewards.examples import CLARITY, NOISE, turn
from tasks.rewards.reward import SampleError
from tasks.rewards.score import score

CORNERS = st.tuples(*[st.integers(0, 1000)] * 4)


def test_token_form_with_and_without_labels() -> None:
    boxes = read_boxes(f"{NOISE}, {CLARITY}\n<|box_start|>(1,2),(3,4)<|box_end|>")
    assert boxes is not None
    assert [(b.label, b.box) for b in boxes] == [
        ("Moderate noise", (0, 0, 500, 500)),
        ("Severe low clarity", (0, 0, 1000, 1000)),
        ("Severe low clarity", (1, 2, 3, 4)),
    ]


def test_vidas_own_headings_are_skipped() -> None:
    boxes = read_boxes(f"Noise: {NOISE}\nLow clarity: {CLARITY}")
    assert boxes is not None
    assert [b.label for b in boxes] == ["Moderate noise", "Severe low clarity"]


@pytest.mark.parametrize(
    "field",
    [
        "[1, 2, 30, 40]",
        "[[1, 2, 30, 40]]",
        '{"bbox_2d": [1, 2, 30, 40], "label": "noise"}',
        '```json\n[{"bbox_2d": [1, 2, 30, 40], "label": "noise"}]\n```',
        '[{"bbox": [1.0, 2.0, 30.0, 40.0]}]',
    ],
)
def test_list_forms(field: str) -> None:
    boxes = read_boxes(field)
    assert boxes is not None
    assert [b.box for b in boxes] == [(1, 2, 30, 40)]


@pytest.mark.parametrize(
    "field",
    [
        "",
        "here: " + NOISE,
        NOISE + " I am sure",
        "[1, 2, 3]",
        "[1, 2, 3, true]",
        "[1, 2, 3, NaN]",
        "[1, 2, 3, 1e999]",
        "[[1, 2, 3, 4], 5]",
        "[" * 100_000,
        "<|box_start|>(1,2),(3)<|box_end|>",
    ],
)
def test_anything_else_is_no_list_of_boxes(field: str) -> None:
    assert read_boxes(field) is None


def test_boxes_are_found_inside_prose() -> None:
    found = find_boxes(f"There is {NOISE} and <|box_start|>(1,2),(3,4)<|box_end|>.")
    assert [(b.label, b.box) for b in found] == [("Moderate noise", (0, 0, 500, 500)), ("", (1, 2, 3, 4))]


def test_scales() -> None:
    assert to_norm1000((0.1, 0.2, 0.5, 1.0), "unit") == (100, 200, 500, 1000)
    assert to_norm1000((10, 10, 20, 20), "pixels", 100, 50) == (100, 200, 200, 400)
    with pytest.raises(ValueError, match="width and height"):
        to_norm1000((1, 2, 3, 4), "pixels")
    with pytest.raises(ValueError, match="unknown box scale"):
        to_norm1000((1, 2, 3, 4), "furlongs")


def test_a_sample_declares_the_scale_of_its_boxes(rewards: RewardsConfig) -> None:
    sample = {"problem_type": "grounding", "answer": "[10, 10, 20, 20]", "box_scale": "pixels"}
    with pytest.raises(SampleError, match="box_scale"):
        score(sample, turn("[10, 10, 20, 20]"), rewards)
    assert score({**sample, "width": 100, "height": 50}, turn("[10, 10, 20, 20]"), rewards).accuracy == 1.0


@pytest.mark.parametrize(
    ("a", "b", "iou"),
    [
        ((0, 0, 10, 10), (0, 0, 10, 10), 1.0),
        ((0, 0, 10, 10), (5, 0, 15, 10), 1 / 3),
        ((0, 0, 10, 10), (10, 0, 20, 10), 0.0),
        ((0, 0, 10, 10), (2, 2, 4, 4), 0.04),
        ((5, 5, 5, 9), (5, 5, 5, 9), 0.0),
        ((10, 10, 0, 0), (0, 0, 10, 10), 0.0),
    ],
)
def test_intersection_over_union(a: Box, b: Box, iou: float) -> None:
    assert box_iou(a, b) == pytest.approx(iou)


@settings(deadline=None)
@given(CORNERS, CORNERS)
def test_overlap_is_symmetric_and_in_range(a: Box, b: Box) -> None:
    assert 0 <= box_iou(a, b) <= 1
    assert box_iou(a, b) == pytest.approx(box_iou(b, a))


def test_grounding_takes_exactly_one_box(rewards: RewardsConfig) -> None:
    gold = "<|box_start|>(0,0),(500,500)<|box_end|>"
    sample = {"problem_type": "grounding", "answer": gold}
    assert score(sample, turn(gold), rewards).accuracy == 1.0
    assert score(sample, turn("<|box_start|>(0,0),(1000,1000)<|box_end|>"), rewards).accuracy == 0.25
    assert score(sample, turn(f"{gold} {gold}"), rewards).accuracy == 0.0


def test_the_box_of_a_question() -> None:
    box = question_box("What distortion affects this region <|box_start|>(1,2),(3,4)<|box_end|>?")
    assert box is not None
    assert box.box == (1, 2, 3, 4)
    assert question_box("Where?") is None
