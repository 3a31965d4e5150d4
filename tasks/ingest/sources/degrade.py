"""Source ``degrade``: pristine photographs, cropped and degraded with known type, severity, box and significance.

As KADIS-700k does: the opinion score is a full-reference metric's (`tasks/media/reference_score.py`). The rest is ours.
A crop is taken from the photograph scaled down, so that it shows a meaningful part of the scene, and is degraded at the
very size the student sees. Of several distortions at most one covers the whole picture; the others stand in boxes that
hardly overlap. "Meaningless solid color" always stands in a box. Significance is the opinion score lost to that
distortion alone; distortions are listed by it, the key distortion first.
"""

from __future__ import annotations

import errno
import hashlib
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from data_contracts.records import BOX_SCALE, level_of
from data_contracts.refs import ID_DIGITS
from pipeline_config.schema import DegradeSource
from tasks.ingest.content import describe_content
from tasks.ingest.sources.protocol import Item, Quarantined
from tasks.launcher.job import DiskFull
from tasks.media.degradations import degrade
from tasks.media.positions import position_of
from tasks.media.probe import Limits, MediaError, Probed, open_picture, perceptual_hash
from tasks.media.reference_score import pseudo_mos
from tasks.media.shipped import shipped_photographs

Pixels = NDArray[np.uint8]
PixelBox = tuple[int, int, int, int]

_SCENE = (1.3, 2.5)  # short side of the scaled photograph, in sides of the crop
_LAYOUT_TRIES = 8
_TEXTURE = 4.0  # standard deviation of the Laplacian in a cell that shows detail
_LEAST_TEXTURED = 0.6  # share of such cells; flat crops hide blur and ringing
_BOX_AREA = (0.10, 0.60)  # share of the picture
_LEAST_CELLS = 2  # of the grid, both sides of a box
_MOST_OVERLAP = 0.2  # of the smaller of two boxes
_LEAST_LOSS = 0.05  # of MOS: a distortion that costs less is not visible, and is drawn anew
_NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)  # disk, quota, limit of a file's size
_ALWAYS_BOXED = "Meaningless solid color"


class DegradedPhotographs:
    """Reader of a `DegradeSource`. seed: integers; the same seed and photographs give the same samples."""

    def __init__(self, config: DegradeSource, seed: tuple[int, ...]) -> None:
        self.name = config.name
        self._config = config
        self._rng = np.random.default_rng(seed)
        self._decks: dict[str, _Deck] = {}
        self._boxes = _grid_boxes(config.side, config.box_step)
        self._positions = [position_of(_norm1000(box, config.side)) for box in self._boxes]

    def findings(self) -> list[str]:
        if self._config.photographs == "builtin":
            return []
        folder = Path(self._config.photographs)
        if not folder.is_dir():
            return [f"{folder}: no such folder; correct ingest.sources.photographs or create it"]
        if not any(_files(folder)):
            return [f"{folder}: holds no file; put photographs into it or correct ingest.sources.photographs"]
        return []

    def read(self, limits: Limits) -> Iterator[Item | Quarantined]:
        if self._config.photographs == "builtin":
            given: list[tuple[Path, str, str | None]]
            given = [(p.path, p.file, self._config.split or p.split) for p in shipped_photographs()]
        else:
            folder = Path(self._config.photographs)
            given = [(f, f.relative_to(folder).as_posix(), self._config.split) for f in _files(folder)]
        for path, name, split in given:
            try:
                probed, pixels = open_picture(path.absolute(), limits)
                if min(probed.width, probed.height) < self._config.side:
                    raise MediaError(
                        f"{path}: {probed.width} x {probed.height} is below a crop's {self._config.side} pixels; "
                        "remove it or lower ingest.sources.side"
                    )
            except MediaError as error:
                yield Quarantined(path, None, "file", str(error))
                continue
            yield Item(
                path=path.absolute(),
                probed=probed,
                source=self.name,
                source_file=path.absolute(),
                source_row=None,
                photograph=f"{self.name}/{name}",
                split=split,
                mos=None,
                level=None,
                distortions=None,
                content=describe_content(pixels),
            )

    def samples_per_item(self, split: str) -> int:
        held_out = self._config.test_crops_per_photograph
        return held_out if split == "test" and held_out is not None else self._config.crops_per_photograph

    def expand(self, item: Item, split: str, folder: Path) -> Iterator[Item]:
        deck = self._decks.setdefault(split, _Deck(self._config, self._rng))
        _, photograph = open_picture(item.path)
        for _ in range(self.samples_per_item(split)):
            yield self._sample(item, photograph, deck, folder)

    def _sample(self, item: Item, photograph: Pixels, deck: _Deck, folder: Path) -> Item:
        pristine = _crop(photograph, self._config.side, self._rng)
        pixels, distortions = pristine, list[dict[str, Any]]()
        if self._rng.random() >= self._config.pristine_share:
            pixels, distortions = self._distort(pristine, deck)
        alone = len(distortions) == 1  # then its significance is the score lost
        mos = round(5.0 - distortions[0]["significance"] if alone else pseudo_mos(pristine, pixels), 2)
        path, probed = _publish(pixels, folder)
        return replace(
            item,
            path=path,
            probed=probed,
            mos=mos,
            level=level_of(mos),
            distortions=distortions,
            content=describe_content(pixels),
        )

    def _distort(self, pristine: Pixels, deck: _Deck) -> tuple[Pixels, list[dict[str, Any]]]:
        """Draw distortions for a crop and lay them over one another, the one of the whole picture first."""
        shares = 1 / np.arange(1, self._config.max_distortions + 1)
        num_wanted = 1 + int(self._rng.choice(self._config.max_distortions, p=shares / shares.sum()))
        drawn: list[tuple[str, str, PixelBox | None, int, float]] = []
        for _ in range(num_wanted):
            distortion, severity = deck.draw({name for name, *_ in drawn})
            layout = self._place(pristine, distortion, severity, [box for _, _, box, *_ in drawn])
            if layout is not None:
                drawn.append((distortion, severity, *layout))
        drawn.sort(key=lambda d: d[2] is not None)
        pixels = pristine
        for distortion, severity, box, seed, _ in drawn:
            pixels = degrade(pixels, distortion, severity, box, np.random.default_rng(seed))
        drawn.sort(key=lambda d: -d[4])
        return pixels, [self._label(number, d) for number, d in enumerate(drawn)]

    def _place(
        self, pristine: Pixels, distortion: str, severity: str, taken: list[PixelBox | None]
    ) -> tuple[PixelBox | None, int, float] | None:
        """Box (None = whole picture), seed and significance of a distortion; None where it would not be seen."""
        for _ in range(_LAYOUT_TRIES):
            boxed = None in taken or distortion == _ALWAYS_BOXED or self._rng.random() < self._config.box_share
            if not self._boxes and None not in taken:
                boxed = False  # the picture is too small for a box
            box = self._draw_box([other for other in taken if other]) if boxed else None
            if boxed and box is None:
                return None
            seed = int(self._rng.integers(2**32))
            alone = degrade(pristine, distortion, severity, box, np.random.default_rng(seed))
            loss = 5.0 - pseudo_mos(pristine, alone)
            if loss >= _LEAST_LOSS:
                return box, seed, loss
        return None

    def _draw_box(self, taken: list[PixelBox]) -> PixelBox | None:
        """A box that hardly overlaps the taken ones; its position is drawn first, since most boxes are central."""
        free: dict[str, list[PixelBox]] = {}
        for box, position in zip(self._boxes, self._positions, strict=True):
            if all(_overlap(box, other) <= _MOST_OVERLAP for other in taken):
                free.setdefault(position, []).append(box)
        if not free:
            return None
        boxes = list(free.values())[int(self._rng.integers(len(free)))]
        return boxes[int(self._rng.integers(len(boxes)))]

    def _label(self, number: int, drawn: tuple[str, str, PixelBox | None, int, float]) -> dict[str, Any]:
        distortion, severity, pixel_box, _, loss = drawn
        side = self._config.side
        box = _norm1000(pixel_box or (0, 0, side, side), side)
        return {
            "id": number,
            "distortion": distortion,
            "severity": severity,
            "box": box,
            "position": position_of(box),
            "significance": round(loss, 4),
        }


class _Deck:
    """Pairs of distortion and severity, drawn like cards: all come up once before any comes up again."""

    def __init__(self, config: DegradeSource, rng: np.random.Generator) -> None:
        self._pairs = [(distortion, severity) for distortion in config.distortions for severity in config.severities]
        self._rng = rng
        self._cards: list[tuple[str, str]] = []

    def draw(self, used: set[str]) -> tuple[str, str]:
        """The next card whose distortion is not used yet; any if all are."""
        for _ in range(2):
            for index in range(len(self._cards) - 1, -1, -1):
                if self._cards[index][0] not in used:
                    return self._cards.pop(index)
            self._cards = [self._pairs[i] for i in self._rng.permutation(len(self._pairs))] + self._cards
        return self._cards.pop()


def _files(folder: Path) -> list[Path]:
    return sorted(p for p in folder.rglob("*") if p.is_file() and not p.name.startswith("."))


def _crop(photograph: Pixels, side: int, rng: np.random.Generator) -> Pixels:
    """A random square of the photograph scaled down; of several, the first that shows enough detail, else the best."""
    height, width = photograph.shape[:2]
    scale = min(1.0, side * rng.uniform(*_SCENE) / min(height, width))
    size = (max(side, round(width * scale)), max(side, round(height * scale)))
    scaled: Pixels = np.asarray(cv2.resize(photograph, size, interpolation=cv2.INTER_AREA), dtype=np.uint8)
    best, most = scaled, -1.0
    for _ in range(_LAYOUT_TRIES):
        x, y = (int(rng.integers(0, edge - side + 1)) for edge in size)
        crop = np.ascontiguousarray(scaled[y : y + side, x : x + side])
        textured = _textured(crop)
        if textured > most:
            best, most = crop, textured
        if most >= _LEAST_TEXTURED:
            break
    return best


def _textured(crop: Pixels, cell: int = 28) -> float:
    """Share of cells that show detail."""
    detail = cv2.Laplacian(cv2.cvtColor(crop, cv2.COLOR_RGB2GRAY), cv2.CV_32F)
    rows, columns = crop.shape[0] // cell, crop.shape[1] // cell
    cells = detail[: rows * cell, : columns * cell].reshape(rows, cell, columns, cell)
    return float((cells.std(axis=(1, 3)) > _TEXTURE).mean())


def _grid_boxes(side: int, step: int) -> list[PixelBox]:
    """All boxes on the grid that are neither too small nor too large."""
    edges = range(0, side + 1, step)
    return [
        (x1, y1, x2, y2)
        for x1 in edges
        for x2 in edges
        for y1 in edges
        for y2 in edges
        if min(x2 - x1, y2 - y1) >= _LEAST_CELLS * step
        and _BOX_AREA[0] <= (x2 - x1) * (y2 - y1) / side**2 <= _BOX_AREA[1]
    ]


def _norm1000(box: PixelBox, side: int) -> list[int]:
    return [round(BOX_SCALE * edge / side) for edge in box]


def _overlap(a: PixelBox, b: PixelBox) -> float:
    """Common area as a share of the smaller box."""
    width, height = min(a[2], b[2]) - max(a[0], b[0]), min(a[3], b[3]) - max(a[1], b[1])
    smaller = min((box[2] - box[0]) * (box[3] - box[1]) for box in (a, b))
    return max(0, width) * max(0, height) / smaller


def _publish(pixels: Pixels, folder: Path) -> tuple[Path, Probed]:
    """Write a picture as PNG under its content id: beside first, then renamed. Raises DiskFull."""
    done, buffer = cv2.imencode(".png", cv2.cvtColor(pixels, cv2.COLOR_RGB2BGR))
    assert done
    data = buffer.tobytes()
    digest = hashlib.sha256(data).hexdigest()[:ID_DIGITS]
    path = folder.absolute() / f"{digest}.png"
    beside = path.with_suffix(".part")
    try:
        beside.write_bytes(data)
        beside.replace(path)
    except OSError as error:
        beside.unlink(missing_ok=True)
        if error.errno in _NO_ROOM:
            raise DiskFull(
                f"{folder}: no room for a picture of {len(data)} bytes; free space, or move the home (DISCERN_HOME)"
            ) from None
        raise
    height, width = pixels.shape[:2]
    return path, Probed(width, height, digest, perceptual_hash(Image.fromarray(pixels)), "PNG")
