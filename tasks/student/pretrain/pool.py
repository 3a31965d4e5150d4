"""The pool of degraded crops that both stages learn from, in shards on disk.

A shard is a folder: `pixels.npy` (crops x side x side x 3), `statistics.npy` (crops x rows x columns x statistics) and
`boxes.json` (per crop, where it was changed). All crops of a shard have one side. Shards are made by worker processes,
each from a seed of its own, and are there as soon as they are complete: training may start on the first.
"""

from __future__ import annotations

import json
import multiprocessing
import shutil
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from tasks.media.degradations import DEGRADATIONS, apply
from tasks.student.pretrain.cell_statistics import measure_cells
from tasks.student.pretrain.settings import Settings

Pixels = NDArray[np.uint8]
Box = tuple[int, int, int, int]


@dataclass(frozen=True)
class Shard:
    """One shard, its arrays mapped from disk. `boxes[i]`: pixel boxes of the changes of crop i."""

    pixels: Pixels
    statistics: NDArray[np.float16]
    boxes: list[list[Box]]


@dataclass(frozen=True)
class Pool:
    """A folder of shards, some of which may still be in the making."""

    folder: Path
    num_shards: int

    def shard(self, index: int) -> Shard:
        """Wait for a shard and open it."""
        folder = self.folder / f"{index:04d}"
        while not folder.exists():
            time.sleep(0.5)
        return Shard(
            np.load(folder / "pixels.npy", mmap_mode="r"),
            np.load(folder / "statistics.npy", mmap_mode="r"),
            json.loads((folder / "boxes.json").read_text()),
        )

    def names(self) -> list[str]:
        """Names of the statistics, in their order in the arrays."""
        return list(json.loads((self.folder / "names.json").read_text()))

    def scale(self, num_shards: int = 8) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Mean and standard deviation of every statistic, from the first shards."""
        values = np.concatenate(
            [
                np.asarray(shard.statistics, dtype=np.float32).reshape(-1, shard.statistics.shape[-1])
                for shard in (self.shard(index) for index in range(min(num_shards, self.num_shards)))
            ]
        )
        return values.mean(axis=0), values.std(axis=0) + 1e-3

    def epochs(self, seed: int) -> Iterator[Shard]:
        """Shards for ever: the first pass in order of making, later passes shuffled."""
        rng = np.random.default_rng([seed, 1])
        order = np.arange(self.num_shards)
        while True:
            for index in order:
                yield self.shard(int(index))
            order = rng.permutation(order)


def make_pool(
    photographs: list[Pixels], settings: Settings, folder: Path
) -> tuple[Pool, list[multiprocessing.Process]]:
    """Start making what is missing of a pool in background processes; returns at once.

    The processes end by themselves; shards that exist are kept, so an interrupted pool is continued.
    """
    folder.mkdir(parents=True, exist_ok=True)
    num_shards = settings.num_crops // settings.shard_size
    names, _ = measure_cells(*(np.zeros((settings.cell, settings.cell, 3), np.uint8),) * 2, settings.cell)
    (folder / "names.json").write_text(json.dumps(names))
    missing = [index for index in range(num_shards) if not (folder / f"{index:04d}").exists()]
    makers = [
        multiprocessing.Process(
            target=_make_shards, args=(photographs, settings, folder, missing[worker :: settings.workers]), daemon=True
        )
        for worker in range(settings.workers)
    ]
    for maker in makers:
        maker.start()
    return Pool(folder, num_shards), makers


def _make_shards(photographs: list[Pixels], settings: Settings, folder: Path, indices: list[int]) -> None:
    cv2.setNumThreads(1)
    for index in indices:
        rng = np.random.default_rng([settings.seed, index])
        side = int(settings.sides[rng.choice(len(settings.sides), p=settings.side_shares)])
        making = folder / f"making-{index:04d}"
        shutil.rmtree(making, ignore_errors=True)
        making.mkdir()
        pixels, statistics, boxes = [], [], []
        for _ in range(settings.shard_size):
            clean = draw_crop(photographs, side, rng)
            changed, where = change_crop(clean, settings, rng)
            pixels.append(changed)
            statistics.append(measure_cells(changed, clean, settings.cell)[1].astype(np.float16))
            boxes.append(where)
        np.save(making / "pixels.npy", np.stack(pixels))
        np.save(making / "statistics.npy", np.stack(statistics))
        (making / "boxes.json").write_text(json.dumps(boxes))
        making.rename(folder / f"{index:04d}")


def draw_crop(photographs: list[Pixels], side: int, rng: np.random.Generator) -> Pixels:
    """A square crop, at most as fine as the photograph, mirrored and turned at random, its tones moved a little.

    Crops without any detail are drawn again, six times at most.
    """
    for _ in range(6):
        photograph = photographs[rng.integers(len(photographs))]
        shorter = min(photograph.shape[:2])
        extent = int(min(shorter, side * np.exp(rng.uniform(0, np.log(max(shorter / side, 1.01))))))
        top, left = (int(rng.integers(0, length - extent + 1)) for length in photograph.shape[:2])
        crop = photograph[top : top + extent, left : left + extent]
        how = cv2.INTER_AREA if extent >= side else cv2.INTER_CUBIC
        crop = np.asarray(cv2.resize(crop, (side, side), interpolation=how), dtype=np.uint8)
        if cv2.Laplacian(crop, cv2.CV_32F).std() > 4:
            break
    crop = np.rot90(crop, int(rng.integers(4)))
    crop = crop[:, ::-1] if rng.random() < 0.5 else crop
    gain = np.exp(rng.normal(0, 0.08) + rng.normal(0, 0.04, 3))
    tones = 255 * (crop / 255.0) ** np.exp(rng.normal(0, 0.12)) * gain
    return np.ascontiguousarray(np.clip(tones + 0.5, 0, 255).astype(np.uint8))


def draw_box(side: int, cell: int, rng: np.random.Generator) -> Box:
    """A box of at least two cells a side whose corners stand on the cells' grid, or on half of it one time in five."""
    grid = cell // 2 if rng.random() < 0.2 else cell
    least, most = 2 * cell // grid, side // grid
    width, height = (int(rng.integers(least, most + 1)) for _ in range(2))
    left, top = (int(rng.integers(0, most - size + 1)) for size in (width, height))
    return left * grid, top * grid, (left + width) * grid, (top + height) * grid


def change_crop(clean: Pixels, settings: Settings, rng: np.random.Generator) -> tuple[Pixels, list[Box]]:
    """Change a crop none to three times, by operations and strengths drawn at random; also where it was changed."""
    side = clean.shape[0]
    pixels, boxes = clean, []
    count = int(rng.choice(len(settings.count_shares), p=settings.count_shares))
    for operation in rng.permutation(len(DEGRADATIONS))[:count]:
        box = draw_box(side, settings.cell, rng) if rng.random() < settings.box_share else (0, 0, side, side)
        strength = float(rng.uniform(0.1, 1.0))
        left, top, right, bottom = box
        name = list(DEGRADATIONS)[operation]
        whole = apply(np.ascontiguousarray(pixels), name, strength, rng)
        pixels = pixels.copy()
        pixels[top:bottom, left:right] = whole[top:bottom, left:right]
        boxes.append(box)
    return pixels, boxes
