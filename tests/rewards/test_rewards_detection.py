"""Labelled detection in its three forms."""

from __future__ import annotations

import pytest

from pipeline_config.schema import RewardsConfig
from tasks.rewards.examples import CLARITY, NOISE, box_text, turn
from tasks.rewards.score import score

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
    # one of two found with IoU 1: .7 * 1 + .3 * (1 - (.5 + 0) / 2)
    assert accuracy("detection_vlm_r1", f"{NOISE}, {CLARITY}", NOISE) == pytest.approx(0.7 + 0.3 * 0.75)
    # IoU 1/2 and one false box: .7 * .5 + .3 * (1 - (0 + .5) / 2)
    half = box_text("Moderate noise", (0, 0, 500, 250))
    assert accuracy("detection_vlm_r1", NOISE, f"{half} {BLUR}") == pytest.approx(0.7 * 0.5 + 0.3 * 0.75)


def test_map_punishes_classes_that_are_not_there() -> None:
    assert accuracy("detection_map", NOISE, f"{NOISE} {BLUR}") == pytest.approx(0.5)
    assert accuracy("detection_map", NOISE, f"{NOISE} {NOISE}") == pytest.approx(1.0)
