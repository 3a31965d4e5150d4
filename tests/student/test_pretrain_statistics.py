"""What is measured per cell says what it claims, and moves with the picture."""

import cv2
import numpy as np
import pytest

from tasks.media.degradations import apply
from tasks.student.pretrain.cell_statistics import measure_cells, mirrored_order

CELL = 28


@pytest.fixture(scope="module")
def clean():
    rng = np.random.default_rng(0)
    rough = rng.integers(0, 256, (168, 168, 3)).astype(np.float32)
    smooth = cv2.GaussianBlur(rough, (0, 0), 1.5)
    return np.clip((smooth - 128) * 4 + 128, 0, 255).astype(np.uint8)


def named(pixels, clean):
    names, values = measure_cells(pixels, clean, CELL)
    return {name: values[..., index] for index, name in enumerate(names)}


def test_an_unchanged_crop_has_no_difference_from_itself(clean):
    measured = named(clean, clean)
    assert measured["similarity"].min() == pytest.approx(1)
    assert measured["changed"].max() == 0
    assert np.abs(measured["shift"]).max() == 0
    assert np.abs(measured["gain_h"]).max() == 0


@pytest.mark.parametrize(
    ("distortion", "statistic", "sign"),
    [
        ("Noise", "grain", 1),
        ("Noise", "added_fine", 1),
        ("Out of focus blur", "gain_d", -1),
        ("Out of focus blur", "kept_fine", -1),
        ("Overexposure", "shift", 1),
        ("Underexposure", "shift", -1),
        ("Low clarity", "spread", -1),
        ("Blocking artifacts", "new_grid_h", 1),
        ("Edge aliasing effect", "new_repeat_v", 1),
        ("Meaningless solid color", "flat", 1),
    ],
)
def test_a_stronger_change_moves_the_statistic_that_measures_it(clean, distortion, statistic, sign):
    means = [named(clean, clean)[statistic].mean()]
    for strength in (0.3, 1.0):
        changed = apply(clean, distortion, strength, np.random.default_rng(1))
        means.append(named(changed, clean)[statistic].mean())
    assert np.all(np.diff(means) * sign > 0), means


def test_a_change_in_one_cell_leaves_distant_cells_alone(clean):
    changed = clean.copy()
    changed[:CELL, :CELL] = 255 - changed[:CELL, :CELL]
    change = named(changed, clean)["changed"]
    assert change[0, 0] > 0.9
    assert change[1:, 1:].max() == 0


@pytest.mark.parametrize("mirror", [None, 0, 1])
@pytest.mark.parametrize("transpose", [False, True])
def test_statistics_of_a_moved_picture_follow_from_the_pictures_own(clean, transpose, mirror):
    """Sampling steps look one way, so the outermost pixels differ: compared within 0.1."""
    changed = apply(clean, "Motion blur", 0.6, np.random.default_rng(3))
    names, own = measure_cells(changed, clean, CELL)

    def move(values):
        values = values.swapaxes(0, 1) if transpose else values
        return np.ascontiguousarray(values if mirror is None else np.flip(values, mirror))

    moved = measure_cells(move(changed), move(clean), CELL)[1]
    order = mirrored_order(names, transpose, 0 if mirror is None else 1)
    difference = np.abs(moved - move(own)[..., order]).mean(axis=(0, 1))
    assert dict(zip(names, difference, strict=True)) == pytest.approx(dict.fromkeys(names, 0), abs=0.1)
