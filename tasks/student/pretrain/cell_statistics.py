"""What is measured in every 28 x 28 cell of a degraded crop: the dense targets of pre-training.

Two kinds. Of the picture by itself: brightness, contrast, colour, energy per frequency band and direction, repeated
and clipped pixels, steps on the 8-pixel grid. Against the clean crop: what was lost, added, shifted, and where it lies.
All are measurements; none knows which operation changed the picture. The choice of statistics is ours.

Names end in `_h`/`_v` (across columns / across rows) or `_d`/`_a` (down the diagonal / up it) where a statistic has a
direction, so that a mirrored or transposed picture's targets follow from the picture's own.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

Pixels = NDArray[np.uint8]
Map = NDArray[np.floating[Any]]
_WIDTHS = (0.8, 1.6, 3.2, 6.4)  # Gaussian widths in pixels between which the bands lie
_STEPS = {"h": (0, 1), "v": (1, 0), "d": (1, 1), "a": (1, -1)}  # rows, columns


def _luma(pixels: Pixels) -> Map:
    return cv2.cvtColor(pixels, cv2.COLOR_RGB2GRAY).astype(np.float32)


def _cells(values: NDArray[np.generic], cell: int) -> Map:
    """Mean per cell."""
    rows, columns = values.shape[0] // cell, values.shape[1] // cell
    return values.reshape(rows, cell, columns, cell).mean(axis=(1, 3), dtype=np.float32)


def _blocks(values: Map, cell: int) -> Map:
    """Rows x columns x the cell's pixels."""
    rows, columns = values.shape[0] // cell, values.shape[1] // cell
    return values.reshape(rows, cell, columns, cell).swapaxes(1, 2).reshape(rows, columns, cell * cell)


def _log(values: Map) -> Map:
    return np.log10(values + np.float32(0.05))


def _bands(luma: Map) -> list[Map]:
    smooth = [luma] + [cv2.GaussianBlur(luma, (0, 0), width, borderType=cv2.BORDER_REFLECT) for width in _WIDTHS]
    return [finer - coarser for finer, coarser in pairwise(smooth)]


def _step(values: Map, direction: str, reach: int = 1) -> Map:
    """Difference from the pixel `reach` steps away, zero where there is none."""
    rows, columns = (reach * part for part in _STEPS[direction])
    difference = np.zeros_like(values)
    if columns >= 0:
        difference[rows:, columns:] = (
            values[rows:, columns:] - values[: len(values) - rows, : values.shape[1] - columns]
        )
    else:
        difference[rows:, :columns] = values[rows:, :columns] - values[: len(values) - rows, -columns:]
    return difference


def _grid(step: Map, axis: int, cell: int) -> Map:
    """How much larger steps are on the 8-pixel grid than off it, as a logarithm."""
    on = np.zeros(step.shape[axis], np.float32)
    on[::8] = 1
    on = on[None, :] if axis == 1 else on[:, None]
    steps = np.abs(step)
    on_grid = _cells(steps * on, cell) / _cells(np.broadcast_to(on, step.shape), cell)
    off_grid = _cells(steps * (1 - on), cell) / _cells(np.broadcast_to(1 - on, step.shape), cell)
    return np.log10((on_grid + 0.3) / (off_grid + 0.3))


def _own(pixels: Pixels, luma: Map, bands: list[Map], cell: int) -> dict[str, Map]:
    """Statistics of the picture by itself."""
    color = pixels.astype(np.float32)
    red, blue = color[..., 0] - luma, color[..., 2] - luma
    blocks = _blocks(luma, cell)
    laplacian = np.abs(cv2.Laplacian(luma, cv2.CV_32F, ksize=1, borderType=cv2.BORDER_REFLECT))
    maps: dict[str, Map] = {
        "brightness": _cells(luma, cell) / 255,
        "lowest": np.percentile(blocks, 4, axis=2).astype(np.float32) / 255,
        "highest": np.percentile(blocks, 96, axis=2).astype(np.float32) / 255,
        "contrast": _log(blocks.std(axis=2)),
        "red": _cells(red, cell) / 64,
        "blue": _cells(blue, cell) / 64,
        "colour": _log(_cells(np.abs(red) + np.abs(blue), cell)),
        "colour_grain": _log(_cells(np.abs(_step(blue, "h")) + np.abs(_step(red, "v")), cell)),
        "dark": np.sqrt(_cells(luma < 10, cell)),
        "bright": np.sqrt(_cells(luma > 245, cell)),
        "grain": _log(np.median(_blocks(laplacian, cell), axis=2)),
        "curvature": _log(_cells(laplacian, cell)),
        "sharpest": _log(np.percentile(_blocks(laplacian, cell), 98, axis=2).astype(np.float32)),
    }
    maps |= {f"band{index}": _log(_cells(band**2, cell)) / 2 for index, band in enumerate(bands)}
    flat = np.ones(luma.shape, np.float32)
    for direction in _STEPS:
        step = _step(luma, direction)
        maps[f"step_{direction}"] = _log(_cells(np.abs(step), cell))
        maps[f"reach_{direction}"] = _log(_cells(np.abs(_step(luma, direction, 3)), cell)) - maps[f"step_{direction}"]
        if direction in "hv":
            flat *= np.abs(step) < 1
            maps[f"repeat_{direction}"] = _cells(np.abs(step) < 0.5, cell)
            maps[f"grid_{direction}"] = _grid(step, 1 if direction == "h" else 0, cell)
    maps["flat"] = np.sqrt(_cells(flat, cell))
    return maps


def _against(luma: Map, clean: Map, bands: list[Map], clean_bands: list[Map], cell: int) -> dict[str, Map]:
    """Statistics of the difference from the clean crop."""
    change = luma - clean
    energy = _cells(change**2, cell)
    maps = {
        "changed": np.sqrt(_cells(np.abs(change) > 2, cell)),
        "change": _log(energy) / 2,
        "shift": _cells(change, cell) / 64,
        "spread": _log(_blocks(luma, cell).std(axis=2)) - _log(_blocks(clean, cell).std(axis=2)),
        "similarity": _similarity(luma, clean, cell),
    }
    for index, (band, clean_band) in enumerate(zip(bands, clean_bands, strict=True)):
        maps[f"change{index}"] = _log(_cells((band - clean_band) ** 2, cell)) / 2
    for name, size in (("fine", 1), ("coarse", 3)):
        detail = np.sum(clean_bands[:size], axis=0)
        moved = np.sum(bands[:size], axis=0) - detail
        power = _cells(detail**2, cell)
        maps[f"kept_{name}"] = np.clip(_cells(moved * detail, cell) / (power + 4), -1.5, 1.5)
        residual = _cells(moved**2, cell) - _cells(moved * detail, cell) ** 2 / (power + 4)
        maps[f"added_{name}"] = _log(np.maximum(residual, 0)) / 2
    edges = cv2.GaussianBlur(np.abs(clean_bands[1]), (0, 0), 1.5)
    near = (edges > np.percentile(edges, 75)).astype(np.float32)
    beside = _cells(change**2 * near, cell) / (_cells(near, cell) + 0.02)
    maps["beside_edges"] = np.log10((beside + 2) / (energy + 2))
    peak = np.percentile(np.abs(_blocks(change, cell)), 97, axis=2).astype(np.float32)
    maps["peak"] = np.log10((peak + 0.5) / (np.sqrt(energy) + 0.5))
    maps |= _directions(luma, clean, change, energy, cell)
    return maps


def _directions(luma: Map, clean: Map, change: Map, energy: Map, cell: int) -> dict[str, Map]:
    maps: dict[str, Map] = {}
    for direction in _STEPS:
        for name, reach in (("gain", 1), ("far_gain", 4)):
            now = _cells(np.abs(_step(luma, direction, reach)), cell)
            before = _cells(np.abs(_step(clean, direction, reach)), cell)
            maps[f"{name}_{direction}"] = np.log10((now + 0.5) / (before + 0.5))
        if direction in "hv":
            axis = 1 if direction == "h" else 0
            rough = _cells(_step(change, direction) ** 2, cell)
            maps[f"smoothness_{direction}"] = np.clip(1 - rough / (2 * energy + 1), -1, 1)
            maps[f"new_grid_{direction}"] = _grid(_step(change, direction), axis, cell)
            now_repeat = np.abs(_step(luma, direction)) < 0.5
            maps[f"new_repeat_{direction}"] = _cells(now_repeat, cell) - _cells(
                np.abs(_step(clean, direction)) < 0.5, cell
            )
    return maps


def _similarity(luma: Map, clean: Map, cell: int) -> Map:
    """SSIM (Wang et al. 2004) with a Gaussian of 1.5 pixels, mean per cell."""

    def mean(values: Map) -> Map:
        return np.asarray(cv2.GaussianBlur(values, (0, 0), 1.5), dtype=np.float32)

    mu, mu_clean = mean(luma), mean(clean)
    variance, variance_clean = mean(luma**2) - mu**2, mean(clean**2) - mu_clean**2
    covariance = mean(luma * clean) - mu * mu_clean
    light = (2 * mu * mu_clean + 6.5) / (mu**2 + mu_clean**2 + 6.5)
    return _cells(light * (2 * covariance + 58.5) / (variance + variance_clean + 58.5), cell)


def measure_cells(pixels: Pixels, clean: Pixels, cell: int) -> tuple[list[str], Map]:
    """Measure every cell.

    pixels, clean: uint8, height x width x 3, RGB, sides multiples of `cell`. Returns the statistics' names and their
    values, rows x columns x statistics.
    """
    luma, clean_luma = _luma(pixels), _luma(clean)
    bands, clean_bands = _bands(luma), _bands(clean_luma)
    maps = _own(pixels, luma, bands, cell) | _against(luma, clean_luma, bands, clean_bands, cell)
    return list(maps), np.stack(list(maps.values()), axis=2).astype(np.float32)


def mirrored_order(names: list[str], transpose: bool, flips: int) -> list[int]:
    """Where each statistic of a moved picture stands among those of the original.

    transpose: rows and columns are exchanged. flips: number of axes mirrored.
    """
    exchanged = {"_h": "_v", "_v": "_h"} if transpose else {}
    if flips == 1:
        exchanged |= {"_d": "_a", "_a": "_d"}
    return [names.index(name[:-2] + exchanged.get(name[-2:], name[-2:])) for name in names]
