"""Opening a picture that a user gave: checked, really decoded, hashed.

    probed, pixels = open_picture(Path("photo.jpg"), Limits(max_megabytes=64, max_megapixels=64))

Nothing is trusted: the size is limited before the file is read, the number of pixels before it is decoded (a
decompression bomb is a small file), the suffix must tell the truth, and the whole picture must decode.
"""

from __future__ import annotations

import hashlib
import io
import warnings
from dataclasses import dataclass
from pathlib import Path

import imagehash
import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from data_contracts.refs import ID_DIGITS

FORMATS = {
    ".jpg": ("JPEG", "MPO"),
    ".jpeg": ("JPEG", "MPO"),
    ".png": ("PNG",),
    ".webp": ("WEBP",),
    ".bmp": ("BMP",),
    ".tif": ("TIFF",),
    ".tiff": ("TIFF",),
}
_OPENED = sorted({names[0] for names in FORMATS.values()})  # Pillow opens MPO, a phone's JPEG, as JPEG
SMALLEST_SIDE = 28  # pixels: one vision token of the Qwen2-VL family


class MediaError(ValueError):
    """A media file that cannot be used; the message names the file and the cure."""


@dataclass(frozen=True)
class Limits:
    """What is refused before it is read (megabytes of the file) or decoded (millions of pixels)."""

    max_megabytes: float = 64.0
    max_megapixels: float = 64.0


@dataclass(frozen=True)
class Probed:
    """Facts of a decoded picture. digest: content id of the file's bytes. perceptual_hash: 16 hex digits (64 bits)."""

    width: int
    height: int
    digest: str
    perceptual_hash: str
    format: str


UNPROBED = Probed(0, 0, "", "", "")


def probe(path: Path, limits: Limits | None = None) -> Probed:
    """Decode a picture and tell its facts. Raises MediaError."""
    return open_picture(path, limits)[0]


def open_picture(path: Path, limits: Limits | None = None) -> tuple[Probed, NDArray[np.uint8]]:
    """Decode a picture: its facts, and its pixels as uint8, height x width x 3, RGB (transparency dropped).

    Raises MediaError: no such file, too large, unknown or untrue suffix, corrupt, truncated, too small.
    """
    limits = limits or Limits()
    data = _read(path, limits)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with Image.open(io.BytesIO(data), formats=_OPENED) as image:
                _check_header(path, image, limits)
                rgb = image.convert("RGB")
    except MediaError:
        raise
    except UnidentifiedImageError:
        raise MediaError(f"{path}: holds no picture of a known format; give a {_known()} file or remove it") from None
    except Image.DecompressionBombError as error:
        raise MediaError(f"{path}: {error}; scale it down, or raise ingest.max_megapixels") from None
    except Exception as error:  # decoders raise whatever they like on corrupt data
        raise MediaError(f"{path}: does not decode ({error}); restore it from its original or remove it") from None
    return Probed(rgb.width, rgb.height, _digest(data), perceptual_hash(rgb), str(image.format)), np.asarray(rgb)


def perceptual_hash(image: Image.Image) -> str:
    """DCT hash of a picture (pHash, by imagehash): 64 bits as 16 hex digits; alike pictures differ in few bits."""
    return str(imagehash.phash(image))


def _read(path: Path, limits: Limits) -> bytes:
    if path.suffix.lower() not in FORMATS:
        raise MediaError(f"{path}: unknown suffix {path.suffix!r}; give a {_known()} file")
    try:
        megabytes = path.stat().st_size / 1e6
        if megabytes > limits.max_megabytes:
            raise MediaError(
                f"{path}: {megabytes:.1f} MB exceed {limits.max_megabytes:g}; "
                "shrink it, or raise ingest.max_file_megabytes"
            )
        data = path.read_bytes()
    except FileNotFoundError:
        raise MediaError(f"{path}: no such file; correct the name in the annotations or add the file") from None
    except OSError as error:
        raise MediaError(f"{path}: cannot be read ({error.strerror}); check the path and its permissions") from None
    if not data:
        raise MediaError(f"{path}: is empty; restore it from its original or remove it")
    return data


def _check_header(path: Path, image: Image.Image, limits: Limits) -> None:
    megapixels = image.width * image.height / 1e6
    if megapixels > limits.max_megapixels:
        raise MediaError(
            f"{path}: {image.width} x {image.height} = {megapixels:.3g} megapixels exceed {limits.max_megapixels:g}; "
            "scale it down, or raise ingest.max_megapixels"
        )
    if min(image.size) < SMALLEST_SIDE:
        raise MediaError(f"{path}: {image.width} x {image.height} is below {SMALLEST_SIDE} pixels a side; remove it")
    if image.mode.startswith(("I", "F")):
        raise MediaError(f"{path}: has {image.mode} pixels (16 bits or more); convert it to 8 bits per channel")
    if image.format not in FORMATS[path.suffix.lower()]:
        raise MediaError(f"{path}: holds {image.format} data, not what its suffix says; give it the right suffix")


def _digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()[:ID_DIGITS]


def _known() -> str:
    return ", ".join(suffix.lstrip(".") for suffix in FORMATS)
