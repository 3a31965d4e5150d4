"""Mean average precision: worked cases of the official rules, and weights against copies."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tasks.rewards.average_precision import ClassBox, match_pictures, mean_average_precision

BOX = (0.0, 0.0, 10.0, 10.0)
FAR = (50.0, 50.0, 60.0, 60.0)


def value(gold: dict[str, list[ClassBox]], found: dict[str, list[ClassBox]]) -> float:
    groups = {picture: 0 for picture in (*gold, *found)}
    return float(mean_average_precision(match_pictures(gold, found, groups), np.ones((1, 1)))[0])


def test_perfect_and_empty() -> None:
    assert value({"p": [("noise", BOX)]}, {"p": [("noise", BOX)]}) == 1.0
    assert value({"p": [("noise", BOX)]}, {}) == 0.0
    assert value({}, {"p": [("noise", BOX)]}) == 0.0
    assert value({}, {}) == 0.0


def test_a_class_that_is_only_predicted_has_ap_zero() -> None:
    assert value({"p": [("noise", BOX)]}, {"p": [("noise", BOX), ("blur", FAR)]}) == 0.5


def test_a_prediction_on_a_taken_box_is_false() -> None:
    twice = {"p": [("noise", BOX), ("noise", BOX)]}
    assert value({"p": [("noise", BOX)]}, twice) == 1.0  # the false one comes last
    gold = {"p": [("noise", BOX)], "q": [("noise", BOX)]}
    assert value(gold, {**twice, "q": [("noise", BOX)]}) == pytest.approx(0.5 + 0.5 * 2 / 3)


def test_the_order_of_boxes_matters() -> None:
    gold = {"p": [("noise", BOX)]}
    assert value(gold, {"p": [("noise", BOX), ("noise", FAR)]}) == 1.0
    assert value(gold, {"p": [("noise", FAR), ("noise", BOX)]}) == 0.5


def test_all_point_interpolation() -> None:
    """True, false, true of three: precisions 1, 1/2, 2/3 -> area 1/3 * 1 + 1/3 * 2/3."""
    gold = {"p": [("noise", (20.0 * i, 0.0, 20.0 * i + 10, 10.0)) for i in range(3)]}
    found = {"p": [gold["p"][0], ("noise", FAR), gold["p"][1]]}
    assert value(gold, found) == pytest.approx(1 / 3 + 2 / 9)


def test_the_threshold_is_inclusive() -> None:
    assert value({"p": [("noise", BOX)]}, {"p": [("noise", (0.0, 0.0, 10.0, 5.0))]}) == 1.0
    assert value({"p": [("noise", BOX)]}, {"p": [("noise", (0.0, 0.0, 10.0, 4.9))]}) == 0.0


PICTURE = st.dictionaries(st.sampled_from("ab"), st.sampled_from([BOX, FAR]), max_size=2)


@settings(deadline=None)
@given(st.lists(st.tuples(PICTURE, PICTURE, st.integers(0, 3)), min_size=1, max_size=6))
def test_weights_count_as_copies_of_a_picture(pictures: list[tuple[dict, dict, int]]) -> None:
    gold = {str(i): list(p[0].items()) for i, p in enumerate(pictures)}
    found = {str(i): list(p[1].items()) for i, p in enumerate(pictures)}
    groups = {str(i): i for i in range(len(pictures))}
    weights = np.array([[p[2] for p in pictures]], dtype=float)
    weighted = float(mean_average_precision(match_pictures(gold, found, groups), weights)[0])
    copies = [(f"{i}.{n}", str(i)) for i, p in enumerate(pictures) for n in range(p[2])]
    assert weighted == pytest.approx(value({c: gold[i] for c, i in copies}, {c: found[i] for c, i in copies}))
