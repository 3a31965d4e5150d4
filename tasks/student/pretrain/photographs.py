"""Which photographs pre-training may see: every one that is neither held out nor a near duplicate of a held-out one."""

from __future__ import annotations

import csv
import hashlib
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

SUFFIXES = {".jpg", ".jpeg", ".png", ".webp"}
CATALOGUE = "photographs.csv"
_LARGEST_SIDE = 1280
_NEAR_BITS = 10  # of 64: at most this many differ between near duplicates


@dataclass(frozen=True)
class Photograph:
    """A file that was seen. `digest`: sha256 of its bytes."""

    name: str
    folder: str
    digest: str


def held_out_files(catalogue_folder: Path) -> list[Path]:
    """Files that the catalogue beside them (columns file, split, ...) keeps for tests."""
    with (catalogue_folder / CATALOGUE).open(newline="", encoding="utf-8") as file:
        return [catalogue_folder / row["file"] for row in csv.DictReader(file) if row["split"] != "train"]


def read_photograph(path: Path) -> NDArray[np.uint8]:
    """Decode to height x width x 3, RGB, the longer side at most 1280 pixels."""
    with Image.open(path) as picture:
        picture.draft("RGB", (_LARGEST_SIDE, _LARGEST_SIDE))
        small = picture.convert("RGB")
        small.thumbnail((_LARGEST_SIDE, _LARGEST_SIDE), Image.Resampling.LANCZOS)
        return np.asarray(small)


def _fingerprint(pixels: NDArray[np.uint8]) -> NDArray[np.bool_]:
    """64 bits of the horizontal difference hash."""
    small = Image.fromarray(pixels).convert("L").resize((9, 8), Image.Resampling.BOX)
    return np.diff(np.asarray(small, dtype=np.int16), axis=1).ravel() > 0


def collect(folders: Iterable[Path], held_out: Iterable[Path]) -> list[tuple[Photograph, NDArray[np.uint8]]]:
    """Photographs in the folders and below, sorted by path, with what is held out left out.

    Left out as well: grey pictures, pictures already met, and whatever looks like a held-out photograph, mirrored or
    not (difference hash within 10 of 64 bits). Raises ValueError if nothing is left.
    """
    kept_out = [_fingerprint(read_photograph(path)) for path in held_out]
    kept: list[tuple[Photograph, NDArray[np.uint8]]] = []
    met: list[NDArray[np.bool_]] = []
    for folder in folders:
        for path in sorted(folder.rglob("*")):
            if path.suffix.lower() not in SUFFIXES:
                continue
            pixels = read_photograph(path)
            look = _fingerprint(pixels)
            mirrored = _fingerprint(np.ascontiguousarray(pixels[:, ::-1]))
            if _near(look, kept_out + met) or _near(mirrored, kept_out) or _is_grey(pixels):
                continue
            met.append(look)
            digest = hashlib.sha256(path.read_bytes()).hexdigest()
            kept.append((Photograph(path.name, folder.name, digest), pixels))
    if not kept:
        raise ValueError(f"no photograph to learn from in {[str(folder) for folder in folders]}")
    return kept


def _near(look: NDArray[np.bool_], others: list[NDArray[np.bool_]]) -> bool:
    return any(int((look != other).sum()) <= _NEAR_BITS for other in others)


def _is_grey(pixels: NDArray[np.uint8]) -> bool:
    return bool(np.ptp(pixels[::4, ::4].astype(np.int16), axis=2).mean() < 2)


def as_rows(photographs: Iterable[Photograph]) -> list[dict[str, str]]:
    """For photographs.json."""
    return [asdict(photograph) for photograph in photographs]
