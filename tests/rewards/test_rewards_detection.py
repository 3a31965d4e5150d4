"""Labelled detection in its three forms."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline_config.schema import RewardsConfig
from tasks.rewards.boxes import box_iou
from tasks.rewards.examples import CLARITY, NOISE, box_text, turn
from tasks.rewards.score import score

Placed = tuple[str, tuple[int, int, int, int]]
# Few places and names, so that boxes overlap, tie and differ in the name alone.
PLACED = st.lists(
    st.tuples(
        st.sampled_from(["Noise", "Motion blur", "Overexposure"]),
        st.tuples(st.integers(0, 2), st.integers(0, 2), st.integers(3, 6), st.integers(3, 6)),
    ),
    min_size=1,
    max_size=5,
)
BLUR = box_text("Minor motion blur", (600, 600, 900, 900))


def accuracy(name: str, gold: str, answer: str) -> float:
    config = RewardsConfig(rubrics={"detection": {name: 1.0}})
    return score({"problem_type": "detection", "answer": gold}, turn(answer), config).accuracy


@pytest.mark.parametrize("name", ["detection_f1", "detection_vlm_r1", "detection_map"])
def test_gold_is_one_and_nothing_is_zero(name: str) -> None:
    gold = f"{NOISE}, {CLARITY}"
    assert accuracy(name, gold, gold) == pytest.approx(1.0)
    assert accuracy(name, gold, f"{CLARITY} {NOISE}") == pytest.approx(1.0)
    assert accuracy(name, gold, "No distortion.") == 0.0
    assert accuracy(name, "No distortion.", "No distortion.") == 1.0
    assert accuracy(name, "No distortion.", NOISE) == 0.0
    assert accuracy(name, gold, "everywhere") == 0.0


def test_a_wrong_label_has_no_overlap_and_severity_does_not_matter() -> None:
    assert accuracy("detection_f1", NOISE, box_text("Moderate motion blur", (0, 0, 500, 500))) == 0.0
    assert accuracy("detection_f1", NOISE, box_text("Severe noise", (0, 0, 500, 500))) == 1.0
    assert accuracy("detection_f1", NOISE, box_text("Moderate Noise.", (0, 0, 500, 500))) == 1.0


def test_f1_counts_each_box_once() -> None:
    assert accuracy("detection_f1", f"{NOISE}, {CLARITY}", NOISE) == pytest.approx(2 / 3)
    assert accuracy("detection_f1", NOISE, f"{NOISE} {NOISE}") == pytest.approx(2 / 3)
    assert accuracy("detection_f1", NOISE, f"{NOISE} {BLUR}") == pytest.approx(2 / 3)


def test_vlm_r1_weighs_position_and_completeness() -> None:
    # one of two found with IoU 1: .7 * 1 / 2 + .3 * (1 - (.5 + 0) / 2)
    assert accuracy("detection_vlm_r1", f"{NOISE}, {CLARITY}", NOISE) == pytest.approx(0.7 / 2 + 0.3 * 0.75)
    # IoU 1/2 and one false box: .7 * .5 + .3 * (1 - (0 + .5) / 2)
    half = box_text("Moderate noise", (0, 0, 500, 250))
    assert accuracy("detection_vlm_r1", NOISE, f"{half} {BLUR}") == pytest.approx(0.7 * 0.5 + 0.3 * 0.75)


def test_vlm_r1_divides_by_the_golds_and_pays_for_the_place_under_a_wrong_label() -> None:
    """The released code's figures: one right box of sixteen earns .203, a right place under a wrong name .3."""
    golds = [box_text("Severe noise", (60 * i, 0, 60 * i + 50, 50)) for i in range(16)]
    assert accuracy("detection_vlm_r1", ", ".join(golds), golds[0]) == pytest.approx(0.203125)
    wrong = box_text("Severe motion blur", (0, 0, 500, 500))
    assert accuracy("detection_vlm_r1", box_text("Severe noise", (0, 0, 500, 500)), wrong) == pytest.approx(0.3)
    assert accuracy("detection_vlm_r1", NOISE, box_text("Severe noise", (600, 600, 900, 900))) == 0.0


def vlm_r1(gold: list[Placed], found: list[Placed]) -> float:
    """The published procedure, written down plainly: again and again the best pair left, until none reaches .5."""
    left_gold, left_found, total = list(range(len(gold))), list(range(len(found))), 0.0
    while left_gold and left_found:
        best, chosen = -1.0, (0, 0)
        for j in left_found:
            for i in left_gold:
                overlap = box_iou(gold[i][1], found[j][1])
                if overlap > best:
                    best, chosen = overlap, (i, j)
        if best < 0.5:
            break
        total += best if gold[chosen[0]][0] == found[chosen[1]][0] else 0.0
        left_gold.remove(chosen[0])
        left_found.remove(chosen[1])
    completeness = 1 - (len(left_gold) / len(gold) + len(left_found) / len(found)) / 2
    return 0.7 * total / len(gold) + 0.3 * completeness


@settings(max_examples=200, deadline=None)
@given(PLACED, PLACED)
def test_vlm_r1_is_the_published_procedure(gold: list[Placed], found: list[Placed]) -> None:
    written = (", ".join(box_text(label, box) for label, box in boxes) for boxes in (gold, found))
    assert accuracy("detection_vlm_r1", *written) == pytest.approx(vlm_r1(gold, found))


def test_map_punishes_classes_that_are_not_there() -> None:
    assert accuracy("detection_map", NOISE, f"{NOISE} {BLUR}") == pytest.approx(0.5)
    assert accuracy("detection_map", NOISE, f"{NOISE} {NOISE}") == pytest.approx(1.0)
