"""What the measurements of a picture speak for: distortions, how severe, where, and how good the picture is.

    evidence = gather(pixels)
    evidence.found              # distortions that explain the picture best, the most harmful first

The picture is measured in the cells of a grid. Each cell is compared with the typical cell of a clean picture and of
every distortion at every severity (`typical.py`, made by `calibrate.py`), in spreads, correlations between measurements
taken into account: the distance. What a distortion's box gains is how much nearer its cells stand to that distortion
than to what else explains them. Of all boxes on the grid the best is taken, then the next best for what remains. Ours,
not of a paper; it is often wrong, above all where distortions overlap or where a scene is flat by nature.
"""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from functools import cache, cached_property

import numpy as np
from numpy.typing import NDArray

from data_contracts.records import BOX_SCALE, DISTORTIONS, SEVERITIES
from tasks.annotate import typical
from tasks.media.measurements import Measurements, Pixels, measure, measure_grid

Array = NDArray[np.float64]
Box = tuple[int, int, int, int]

LEAST_SIDE = 16  # pixels
CELL = 28  # pixels, at least
MOST_CELLS = 6  # a side
WHOLE: Box = (0, 0, BOX_SCALE, BOX_SCALE)
MEASURED = tuple(one.name for one in fields(Measurements))
# Hypotheses of a cell: clean, then every distortion at every severity.
AFFECTED = tuple((name, severity) for name in DISTORTIONS for severity in SEVERITIES)
HYPOTHESES: tuple[tuple[str, str] | None, ...] = (None, *AFFECTED)

_IS_LOG = np.isin(MEASURED, ("sharpness", "noise", "blockiness", "aliasing", "colorfulness"))
_IS_ROOT = np.isin(MEASURED, ("under_share", "over_share", "flatness"))
_RINGING = MEASURED.index("ringing")
_TEMPER = 0.25  # neighbouring cells are no independent witnesses
_SURE = 4.0  # how much likelier a nearer hypothesis is
_MOST_GAIN = 4.0  # of one cell, for or against
LEAST_GAIN = 3.0  # of a box, to be believed
_AGAIN = 0.5  # weight of cells that a distortion already explains
_MOST_FOUND = 3
_SAME_BOX = 0.5  # IoU


def features(measured: Array) -> Array:
    """Measurements (last axis, in the order of MEASURED) on scales where they spread about equally everywhere."""
    scaled = np.where(_IS_LOG, np.log1p(np.abs(measured)), np.where(_IS_ROOT, np.sqrt(np.abs(measured)), measured))
    scaled[..., _RINGING] = np.log(measured[..., _RINGING] + 0.02)
    return np.asarray(scaled)


def values_of(measured: Measurements) -> list[float]:
    """Its numbers in the order of MEASURED."""
    return [getattr(measured, name) for name in MEASURED]


@dataclass(frozen=True)
class Found:
    """One distortion in one box (0..1000), and what it gains over the other explanations of its cells."""

    distortion: str
    severity: str
    box: Box
    gain: float

    @property
    def harm(self) -> float:
        """Opinion score that this distortion typically costs in a box of this size."""
        x1, y1, x2, y2 = self.box
        loss: float = typical.LOSSES[AFFECTED.index((self.distortion, self.severity))]
        return loss * (x2 - x1) * (y2 - y1) / BOX_SCALE**2


@dataclass(frozen=True)
class Evidence:
    """raw: rows x columns x measurements, as measured. distances: rows x columns x hypotheses, tempered."""

    raw: Array
    distances: Array
    _means: dict[Box, tuple[dict[str, float], dict[str, float]]] = field(default_factory=dict, repr=False)

    @cached_property
    def _gains(self) -> Array:
        """rows x columns x distortions at severities: what each gains over a clean cell."""
        return np.clip(self.distances[:, :, :1] - self.distances[:, :, 1:], -_MOST_GAIN, _MOST_GAIN)

    @cached_property
    def _box_gains(self) -> Array:
        return _sums(self._gains, _boxes(*self.raw.shape[:2]))

    @cached_property
    def found(self) -> list[Found]:
        """Up to three distortions, each once, that explain the picture best; the most harmful first."""
        boxes = _boxes(*self.raw.shape[:2])
        explained = self.distances[:, :, 0].copy()
        taken = np.zeros(explained.shape, bool)
        found: list[Found] = []
        for _ in range(_MOST_FOUND):
            gains = np.clip(explained[:, :, None] - self.distances[:, :, 1:], -_MOST_GAIN, _MOST_GAIN)
            gains[taken] *= _AGAIN
            for other in found:
                gains[:, :, _columns(other.distortion)] = -_MOST_GAIN
            sums = _sums(gains, boxes)
            at, hypothesis = np.unravel_index(int(sums.argmax()), sums.shape)
            if sums[at, hypothesis] < LEAST_GAIN:
                break
            found.append(self._of(int(hypothesis), int(at), float(sums[at, hypothesis])))
            x1, y1, x2, y2 = boxes[at]
            inside = (slice(y1, y2), slice(x1, x2))
            explained[inside] = np.minimum(explained[inside], self.distances[(*inside, hypothesis + 1)])
            taken[inside] = True
        return sorted(found, key=lambda one: -one.harm)

    def candidates(self, distortion: str, severity: str | None = None, num: int = 4) -> list[Found]:
        """Boxes where a distortion may be, the best first; one that was found comes first, with its found severity."""
        columns = _columns(distortion)
        if severity is not None:
            columns = [columns[SEVERITIES.index(severity)]]
        gains = self._box_gains[:, columns]
        best: list[Found] = [one for one in self.found if one.distortion == distortion]
        for at in np.argsort(-gains.max(axis=1)):
            column = int(gains[at].argmax())
            one = self._of(columns[column], int(at), float(gains[at, column]))
            if all(overlap(one.box, other.box) < _SAME_BOX for other in best):
                best.append(one)
            if len(best) == num:
                break
        return best

    def grades(self, distortion: str, box: Box) -> dict[str, float]:
        """What each severity of a distortion gains in a box."""
        weights = self._weights(box)
        sums = (self._gains * weights[:, :, None]).sum(axis=(0, 1))
        return dict(zip(SEVERITIES, (float(sums[column]) for column in _columns(distortion)), strict=True))

    def in_box(self, box: Box) -> list[Found]:
        """Distortions that may affect a box, one severity each, the best first."""
        graded = {name: self.grades(name, box) for name in DISTORTIONS}
        best = {name: max(grades, key=lambda severity: grades[severity]) for name, grades in graded.items()}
        ranked = [Found(name, best[name], box, graded[name][best[name]]) for name in DISTORTIONS]
        return sorted(ranked, key=lambda one: -one.gain)

    @cached_property
    def opinion_score(self) -> float:
        """5 less what is lost: the mean of the harm found, and of what each cell's likeliest distortions cost."""
        likely = np.exp(_SURE * (self.distances.min(axis=2, keepdims=True) - self.distances))
        shares = (likely / likely.sum(axis=2, keepdims=True)).mean(axis=(0, 1))
        lost = float(shares[1:] @ np.array(typical.LOSSES)) + sum(one.harm for one in self.found)
        return float(np.clip(5.0 - lost / 2, 1.0, 5.0))

    def mean(self, box: Box) -> tuple[dict[str, float], dict[str, float]]:
        """Of a box: each measurement, and how many spreads it lies above the typical clean value."""
        if box not in self._means:
            weights = self._weights(box)
            raw = np.einsum("rc,rcm->m", weights / weights.sum(), self.raw)
            both = (raw.tolist(), _spreads_above_clean(raw).tolist())
            of_raw, above = (dict(zip(MEASURED, values, strict=True)) for values in both)
            self._means[box] = of_raw, above
        return self._means[box]

    def _weights(self, box: Box) -> Array:
        """Share of each cell that a box covers; if it lies within one cell, that cell counts whole."""
        rows, columns = self.raw.shape[:2]
        across = _covered(box[0], box[2], columns)
        down = _covered(box[1], box[3], rows)
        weights = down[:, None] * across[None, :]
        return weights if weights.max() >= 0.5 else (weights == weights.max()).astype(float)

    def _of(self, hypothesis: int, at: int, gain: float) -> Found:
        rows, columns = self.raw.shape[:2]
        x1, y1, x2, y2 = (int(edge) for edge in _boxes(rows, columns)[at])
        scaled = (x1 / columns, y1 / rows, x2 / columns, y2 / rows)
        distortion, severity = AFFECTED[hypothesis]
        return Found(distortion, severity, _box(*(round(BOX_SCALE * edge) for edge in scaled)), gain)


def gather(pixels: Pixels) -> Evidence:
    """Measure a picture. pixels: uint8, height x width x 3, RGB. Raises ValueError below LEAST_SIDE."""
    rows, columns = (max(1, min(MOST_CELLS, side // CELL)) for side in pixels.shape[:2])
    grid = measure_grid(pixels, rows, columns) if max(rows, columns) > 1 else [[measure(pixels)]]
    raw = np.array([[values_of(cell) for cell in row] for row in grid])
    apart = _spreads_above_clean(raw)[:, :, None, :] - np.array(typical.MEANS)
    return Evidence(raw, _TEMPER * 0.5 * np.einsum("rchm,mn,rchn->rch", apart, np.array(typical.PRECISION), apart))


def _spreads_above_clean(measured: Array) -> Array:
    return np.asarray((features(measured) - np.array(typical.CLEAN)) / np.array(typical.SPREADS))


def overlap(one: Box, other: Box) -> float:
    """Intersection over union."""
    width = min(one[2], other[2]) - max(one[0], other[0])
    height = min(one[3], other[3]) - max(one[1], other[1])
    inner = max(0, width) * max(0, height)
    areas = sum((box[2] - box[0]) * (box[3] - box[1]) for box in (one, other))
    return inner / (areas - inner)


def _box(x1: int, y1: int, x2: int, y2: int) -> Box:
    return x1, y1, x2, y2


def _columns(distortion: str) -> list[int]:
    first = DISTORTIONS.index(distortion) * len(SEVERITIES)
    return list(range(first, first + len(SEVERITIES)))


def _covered(low: int, high: int, num_cells: int) -> Array:
    edges = np.arange(num_cells + 1) * BOX_SCALE / num_cells
    inner = np.minimum(high, edges[1:]) - np.maximum(low, edges[:-1])
    return np.maximum(0.0, inner) / np.diff(edges)


@cache
def _boxes(rows: int, columns: int) -> NDArray[np.int64]:
    """All boxes (x1, y1, x2, y2) on the grid, in cells; at least two cells a side where the grid has them."""
    least_across, least_down = min(2, columns), min(2, rows)
    return np.array(
        [
            (x1, y1, x2, y2)
            for x1 in range(columns)
            for x2 in range(x1 + least_across, columns + 1)
            for y1 in range(rows)
            for y2 in range(y1 + least_down, rows + 1)
        ]
    )


def _sums(cells: Array, boxes: NDArray[np.int64]) -> Array:
    """boxes x hypotheses: sum of the cells in each box, by a summed-area table."""
    table = np.pad(cells.cumsum(axis=0).cumsum(axis=1), ((1, 0), (1, 0), (0, 0)))
    x1, y1, x2, y2 = boxes.T
    return np.asarray(table[y2, x2] - table[y1, x2] - table[y2, x1] + table[y1, x1])
