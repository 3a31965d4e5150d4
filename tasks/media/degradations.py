"""The ten distortions of ViDA-UGC, made on purpose: type, severity and place are then true labels.

    degraded = degrade(pixels, "Noise", "Moderate", box=(28, 56, 112, 140), rng=np.random.default_rng(0))

ViDA-UGC labels distortions found in the wild; how they are synthesised here is ours. One function per distortion takes
a strength in (0, 1], so that self-supervised pre-training draws strengths continuously and the pipeline uses three
fixed ones. Every function draws from its generator in an order that does not depend on the strength: with equal seeds a
higher strength is the same flaw, only worse. Strengths are set for pictures of 112 to 168 pixels, so degrade at the
size the student sees: resizing afterwards would undo it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from data_contracts.records import DISTORTIONS

Pixels = NDArray[np.uint8]
PixelBox = tuple[int, int, int, int]

STRENGTHS: dict[str, float] = {"Minor": 0.25, "Moderate": 0.55, "Severe": 1.0}
_CONTEXT = 16  # pixels seen around a box, so that filters meet no artificial border
_JPEG_BLOCK = 8
_PATCH_GRID = 4


def _bytes(values: NDArray[Any]) -> Pixels:
    return np.clip(values + 0.5, 0, 255).astype(np.uint8)


def low_clarity(pixels: Pixels, strength: float, rng: np.random.Generator) -> Pixels:
    """A veil: slight softness and much lost contrast, which tells it from defocus."""
    soft = cv2.GaussianBlur(pixels, (0, 0), 0.5 + 1.0 * strength).astype(np.float32)
    kept = 1.0 - 0.65 * strength
    return _bytes(soft * kept + 150.0 * (1.0 - kept))


def noise(pixels: Pixels, strength: float, rng: np.random.Generator) -> Pixels:
    """White Gaussian noise of standard deviation 6 to 48 grey levels, independent per channel."""
    grain = rng.standard_normal(pixels.shape, dtype=np.float32)
    return _bytes(pixels.astype(np.float32) + grain * np.float32(6.0 + 42.0 * strength))


def underexposure(pixels: Pixels, strength: float, rng: np.random.Generator) -> Pixels:
    """Gain below one, a steeper tone curve, and shadows clipped to black."""
    tones = (np.arange(256, dtype=np.float32) / 255) ** (1.0 + 0.9 * strength)
    curve = _bytes(255 * tones * (1.0 - 0.62 * strength) - 10 * strength)
    return np.asarray(curve[pixels])


def overexposure(pixels: Pixels, strength: float, rng: np.random.Generator) -> Pixels:
    """Gain above one with lifted shadows; highlights clip to white."""
    tones = (np.arange(256, dtype=np.float32) / 255) ** (1.0 - 0.3 * strength)
    curve = _bytes(255 * tones * (1.0 + 0.9 * strength) + 22 * strength)
    return np.asarray(curve[pixels])


def blocking_artifacts(pixels: Pixels, strength: float, rng: np.random.Generator) -> Pixels:
    """Real JPEG compression on its 8 x 8 grid, quality 33 down to 3."""
    quality = round(33.0 * 11.0**-strength)
    done, buffer = cv2.imencode(".jpg", cv2.cvtColor(pixels, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_JPEG_QUALITY, quality])
    decoded = cv2.imdecode(buffer, cv2.IMREAD_COLOR)
    assert done
    assert decoded is not None
    return np.asarray(cv2.cvtColor(decoded, cv2.COLOR_BGR2RGB), dtype=np.uint8)


def edge_aliasing(pixels: Pixels, strength: float, rng: np.random.Generator) -> Pixels:
    """Nearest-neighbour sampling down by 1.2 to 3.8 and up again: staircases along edges."""
    height, width = pixels.shape[:2]
    factor = 1.2 + 2.6 * strength
    small = (max(1, round(width / factor)), max(1, round(height / factor)))
    sampled = cv2.resize(pixels, small, interpolation=cv2.INTER_NEAREST_EXACT)
    return np.asarray(cv2.resize(sampled, (width, height), interpolation=cv2.INTER_NEAREST_EXACT), dtype=np.uint8)


def out_of_focus_blur(pixels: Pixels, strength: float, rng: np.random.Generator) -> Pixels:
    """Disk point spread of radius 1 to 5 pixels, its rim anti-aliased."""
    radius = 1.0 + 4.0 * strength
    reach = int(np.ceil(radius))
    offsets = np.arange(-reach, reach + 1, dtype=np.float32)
    disk = np.clip(radius + 0.5 - np.hypot(offsets[:, None], offsets[None, :]), 0, 1)
    return np.asarray(cv2.filter2D(pixels, -1, disk / disk.sum(), borderType=cv2.BORDER_REFLECT), dtype=np.uint8)


def motion_blur(pixels: Pixels, strength: float, rng: np.random.Generator) -> Pixels:
    """Linear point spread of 1 to 17 pixels at a random angle."""
    angle = rng.uniform(0, np.pi)
    reach = 0.5 + 8.0 * strength
    size = 2 * int(np.ceil(reach)) + 1
    line = np.zeros((size, size), np.float32)
    steps = np.linspace(-reach, reach, 4 * size)
    columns, rows = size // 2 + steps * np.cos(angle), size // 2 + steps * np.sin(angle)
    left, top = np.floor(columns).astype(int), np.floor(rows).astype(int)
    for d_row in (0, 1):
        for d_column in (0, 1):
            share = np.abs(1 - d_row - (rows - top)) * np.abs(1 - d_column - (columns - left))
            inside = (top + d_row < size) & (left + d_column < size)
            np.add.at(line, (top[inside] + d_row, left[inside] + d_column), share[inside])
    return np.asarray(cv2.filter2D(pixels, -1, line / line.sum(), borderType=cv2.BORDER_REFLECT), dtype=np.uint8)


def edge_ringing(pixels: Pixels, strength: float, rng: np.random.Generator) -> Pixels:
    """Ripples beside edges: what a truncated sinc adds over a Gaussian of the same pass band, amplified."""
    cutoff = 0.17  # cycles per pixel: a ripple every 6 pixels
    taps = np.arange(-10, 11, dtype=np.float32)
    sinc = 2 * cutoff * np.sinc(2 * cutoff * taps)
    sinc /= sinc.sum()
    values = pixels.astype(np.float32)
    rippled = cv2.sepFilter2D(values, -1, sinc, sinc, borderType=cv2.BORDER_REFLECT)
    smooth = cv2.GaussianBlur(values, (0, 0), 1.6, borderType=cv2.BORDER_REFLECT)
    return _bytes(values + (1.2 + 4.3 * strength) * (rippled - smooth))


def solid_color(pixels: Pixels, strength: float, rng: np.random.Generator) -> Pixels:
    """Flat patches of one colour on a 4 x 4 grid, 4 to 13 of its cells; they always reach all four sides."""
    cells = np.full((_PATCH_GRID, _PATCH_GRID), _PATCH_GRID**2, dtype=int)
    diagonal = rng.permutation(_PATCH_GRID)
    cells[np.arange(_PATCH_GRID), diagonal] = np.arange(_PATCH_GRID)
    others = np.argwhere(cells == _PATCH_GRID**2)
    for rank, (row, column) in enumerate(rng.permutation(others)):
        cells[row, column] = _PATCH_GRID + rank
    palette = np.array([[r, g, b] for r in (16, 128, 240) for g in (16, 128, 240) for b in (16, 128, 240)])
    distance = np.linalg.norm(palette - pixels.reshape(-1, 3).mean(axis=0), axis=1)
    far = palette[distance > 110]
    color = far[int(rng.integers(len(far)))]
    covered = cells < _PATCH_GRID + round(9.0 * max(0.0, (strength - 0.1) / 0.9))
    height, width = pixels.shape[:2]
    rows, columns = np.arange(height) * _PATCH_GRID // height, np.arange(width) * _PATCH_GRID // width
    return np.where(covered[rows[:, None], columns[None, :], None], color.astype(np.uint8), pixels)


DEGRADATIONS: dict[str, Callable[[Pixels, float, np.random.Generator], Pixels]] = {
    "Low clarity": low_clarity,
    "Noise": noise,
    "Underexposure": underexposure,
    "Blocking artifacts": blocking_artifacts,
    "Edge aliasing effect": edge_aliasing,
    "Out of focus blur": out_of_focus_blur,
    "Meaningless solid color": solid_color,
    "Overexposure": overexposure,
    "Motion blur": motion_blur,
    "Edge ringing effect": edge_ringing,
}
assert tuple(DEGRADATIONS) == DISTORTIONS


def apply(pixels: Pixels, distortion: str, strength: float, rng: np.random.Generator) -> Pixels:
    """Degrade the whole picture with a continuous strength.

    pixels: uint8, height x width x 3, RGB; not changed. strength: in (0, 1]. Returns new pixels of the same shape.
    Raises ValueError: unknown distortion, strength out of range.
    """
    if distortion not in DEGRADATIONS:
        raise ValueError(f"unknown distortion {distortion!r}; known are {list(DEGRADATIONS)}")
    if not 0 < strength <= 1:
        raise ValueError(f"strength {strength} lies outside (0, 1]")
    return DEGRADATIONS[distortion](pixels, float(strength), rng)


def degrade(pixels: Pixels, distortion: str, severity: str, box: PixelBox | None, rng: np.random.Generator) -> Pixels:
    """Degrade a picture, or one box of it, with one of the three fixed strengths.

    pixels: uint8, height x width x 3, RGB; not changed. box: (x1, y1, x2, y2) in pixels, x2 and y2 excluded; nothing
    outside it changes, and filters see the picture around it. Raises ValueError: unknown distortion or severity, empty
    box or one that leaves the picture.
    """
    if severity not in STRENGTHS:
        raise ValueError(f"unknown severity {severity!r}; known are {list(STRENGTHS)}")
    height, width = pixels.shape[:2]
    if box is None:
        return apply(pixels, distortion, STRENGTHS[severity], rng)
    x1, y1, x2, y2 = box
    if not (0 <= x1 < x2 <= width and 0 <= y1 < y2 <= height):
        raise ValueError(f"box {box} is empty or leaves the picture of {width} x {height} pixels")
    if distortion == "Meaningless solid color":
        left, top, right, bottom = box
    else:
        left, top = (max(0, edge - _CONTEXT) // _JPEG_BLOCK * _JPEG_BLOCK for edge in (x1, y1))
        right, bottom = min(width, x2 + _CONTEXT), min(height, y2 + _CONTEXT)
    surroundings = np.ascontiguousarray(pixels[top:bottom, left:right])
    changed = apply(surroundings, distortion, STRENGTHS[severity], rng)
    result = pixels.copy()
    result[y1:y2, x1:x2] = changed[y1 - top : y2 - top, x1 - left : x2 - left]
    return result
