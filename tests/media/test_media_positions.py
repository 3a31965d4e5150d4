from __future__ import annotations

import numpy as np
import pytest

from tasks.media.measurements import measure, measure_grid
from tasks.media.positions import POSITIONS, position_of
from tasks.media.reference_score import pseudo_mos


@pytest.mark.parametrize(
    ("box", "position"),
    [
        ([0, 0, 300, 300], "top left"),
        ([400, 0, 600, 200], "top"),
        ([700, 100, 1000, 500], "top right"),
        ([0, 350, 333, 667], "left"),
        ([300, 300, 700, 700], "center"),
        ([0, 0, 1000, 799], "center"),
        ([667, 333, 1000, 667], "right"),
        ([0, 700, 200, 1000], "bottom left"),
        ([333, 667, 667, 1000], "bottom"),
        ([900, 900, 1000, 1000], "bottom right"),
        ([0, 0, 1000, 800], "whole picture"),
    ],
)
def test_position_of(box: list[int], position: str) -> None:
    assert position_of(box) == position
    assert position in POSITIONS


def test_a_grid_measures_each_cell_by_itself() -> None:
    pixels = np.zeros((64, 96, 3), np.uint8)
    pixels[32:, 48:] = 200
    grid = measure_grid(pixels, rows=2, cols=2)
    assert [[round(cell.exposure) for cell in row] for row in grid] == [[0, 0], [0, 200]]
    assert grid[1][1] == measure(pixels, (48, 32, 96, 64))
    assert grid[1][1].flatness == 1
    assert grid[0][0].under_share == 1
    with pytest.raises(ValueError, match="at least 16 pixels"):
        measure(pixels, (0, 0, 15, 40))


def test_equal_pictures_score_five_and_other_shapes_are_refused() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (56, 56, 3), dtype=np.uint8)
    assert pseudo_mos(pixels, pixels) == 5.0
    assert pseudo_mos(pixels, 255 - pixels) == 1.0
    with pytest.raises(ValueError, match="differ in shape"):
        pseudo_mos(pixels, pixels[:28])
