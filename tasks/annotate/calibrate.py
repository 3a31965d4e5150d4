"""Make `typical.py`: what clean and distorted cells typically measure, and what each distortion costs.

    python -m tasks.annotate.calibrate          # about five minutes on one core

From the shipped photographs of the TRAIN split only: crops of the sizes the tiny student sees, clean and degraded as a
whole with every distortion at every severity, measured in cells of 28 pixels. Ours, not of a paper.
"""

from __future__ import annotations

import textwrap
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from tasks.annotate.evidence import CELL, HYPOTHESES, MEASURED, features, values_of
from tasks.media.degradations import Pixels, degrade
from tasks.media.measurements import measure_grid
from tasks.media.reference_score import pseudo_mos
from tasks.media.shipped import shipped_photographs

SIDES = (168, 112)
CROPS = 2  # per photograph and side
SEED = 20
TARGET = Path(__file__).parent / "typical.py"
_RIDGE = 0.05  # of the variances, added to the covariance
_SCENE = (1.3, 2.5)  # short side of the scaled photograph, in sides of the crop

_HEAD = '''"""Typical measurements of cells of {cell} x {cell} pixels; made by ``python -m tasks.annotate.calibrate``.

Columns: {names}.
CLEAN and SPREADS: of clean cells, on the scales of `tasks.annotate.evidence.features`. MEANS: in spreads above CLEAN;
rows: clean, then the ten distortions in ViDA-UGC's order, each Minor, Moderate, Severe. PRECISION: inverse covariance
around the means. LOSSES: opinion score (of 1 to 5) that a distortion costs when it covers the whole picture.
"""

# fmt: off
'''


def main() -> None:
    rng = np.random.default_rng(SEED)
    cells: list[list[NDArray[np.float64]]] = [[] for _ in HYPOTHESES]
    losses: list[list[float]] = [[] for _ in HYPOTHESES]
    for photograph in shipped_photographs():
        if photograph.split != "train":
            continue
        pixels = np.asarray(Image.open(photograph.path).convert("RGB"))
        for side in SIDES * CROPS:
            pristine = _crop(pixels, side, rng)
            for number, hypothesis in enumerate(HYPOTHESES):
                seed = int(rng.integers(2**32))
                shown = _degraded(pristine, hypothesis, seed)
                grid = measure_grid(shown, side // CELL, side // CELL)
                cells[number] += [features(np.array(values_of(cell))) for row in grid for cell in row]
                losses[number].append(5.0 - pseudo_mos(pristine, shown))
        print(f"{photograph.file}: measured", flush=True)
    TARGET.write_text(_module(cells, losses))
    print(f"{TARGET}: written")


def _degraded(pristine: Pixels, hypothesis: tuple[str, str] | None, seed: int) -> Pixels:
    if hypothesis is None:
        return pristine
    distortion, severity = hypothesis
    return degrade(pristine, distortion, severity, None, np.random.default_rng(seed))


def _crop(photograph: Pixels, side: int, rng: np.random.Generator) -> Pixels:
    """A random square of the photograph scaled down: of eight, the one that shows most detail."""
    height, width = photograph.shape[:2]
    crops = []
    for _ in range(8):
        scale = min(1.0, side * rng.uniform(*_SCENE) / min(height, width))
        size = (max(side, round(width * scale)), max(side, round(height * scale)))
        scaled = np.asarray(cv2.resize(photograph, size, interpolation=cv2.INTER_AREA), dtype=np.uint8)
        x, y = (int(rng.integers(0, edge - side + 1)) for edge in size)
        crops.append(np.ascontiguousarray(scaled[y : y + side, x : x + side]))
    return max(crops, key=lambda crop: cv2.Laplacian(cv2.cvtColor(crop, cv2.COLOR_RGB2GRAY), cv2.CV_32F).std())


def _module(cells: list[list[NDArray[np.float64]]], losses: list[list[float]]) -> str:
    clean, spreads = np.mean(cells[0], axis=0), np.std(cells[0], axis=0)
    scaled = [(np.array(of_one) - clean) / spreads for of_one in cells]
    means = np.array([of_one.mean(axis=0) for of_one in scaled])
    covariance = np.cov(np.concatenate([of_one - of_one.mean(axis=0) for of_one in scaled]).T)
    tables = {
        "CLEAN": clean,
        "SPREADS": spreads,
        "MEANS": means,
        "PRECISION": np.linalg.inv(covariance + _RIDGE * np.diag(np.diag(covariance))),
        "LOSSES": np.array([np.mean(of_one) for of_one in losses[1:]]),
    }
    texts = [f"{name} = {_table(table)}\n" for name, table in tables.items()]
    return _HEAD.format(cell=CELL, names=textwrap.fill(", ".join(MEASURED), 110)) + "\n".join(texts)


def _table(values: NDArray[np.float64]) -> str:
    rows = values if values.ndim == 2 else values.reshape(-1, 10) if len(values) % 10 == 0 else [values]
    lines = [", ".join(f"{value:.3f}" for value in row) for row in rows]
    if values.ndim == 2:
        lines = [f"({line})" for line in lines]
    return "(\n" + "".join(f"    {line},\n" for line in lines) + ")"


if __name__ == "__main__":
    main()
