"""What can be measured in a picture without its original: the facts behind the measured teacher's words.

    measured = measure(pixels, box=(28, 56, 112, 140))

Standard no-reference statistics, one number per flaw: Laplacian sharpness, Immerkaer's noise estimate (1996), JPEG grid
strength, structure-tensor anisotropy, Crete's blur measure (2007, by scikit-image), Hasler and Suesstrunk's
colorfulness (2003). Which ones stand for which of ViDA-UGC's distortions is ours.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

Pixels = NDArray[np.uint8]
Map = NDArray[np.float32]
PixelBox = tuple[int, int, int, int]


@dataclass(frozen=True)
class Measurements:
    """Of one picture or region. Luma runs 0..255; shares 0..1.

    sharpness: standard deviation of the Laplacian of slightly smoothed luma. blur: 0 (sharp) .. 1 (blurred).
    noise: standard deviation in grey levels. blockiness: steps on the 8-pixel grid over steps off it, 1 = none.
    ringing: ripples of about 6 pixels a wave beside edges over slower waves there. exposure: mean luma.
    under_share, over_share: luma at most 12, at least 250. contrast: standard deviation of luma. flatness: pixels whose
    whole 9 x 9 neighbourhood has one color. motion_anisotropy: 0 (all directions alike) .. 1 (detail in one direction
    only). aliasing: pixels that repeat a neighbour exactly beside a visible step. colorfulness: 0 grey, above 60 vivid.
    """

    sharpness: float
    blur: float
    noise: float
    blockiness: float
    ringing: float
    exposure: float
    under_share: float
    over_share: float
    contrast: float
    flatness: float
    motion_anisotropy: float
    aliasing: float
    colorfulness: float


def measure(pixels: Pixels, box: PixelBox | None = None) -> Measurements:
    """Measure a picture or one box of it.

    pixels: uint8, height x width x 3, RGB. box: (x1, y1, x2, y2) in pixels, x2 and y2 excluded, at least 16 a side.
    Raises ValueError: box or picture smaller than 16 pixels a side, box that leaves the picture.
    """
    height, width = pixels.shape[:2]
    x1, y1, x2, y2 = box or (0, 0, width, height)
    if min(x1, y1) < 0 or x2 > width or y2 > height or min(x2 - x1, y2 - y1) < 16:
        raise ValueError(
            f"box {(x1, y1, x2, y2)} in a picture of {width} x {height}: at least 16 pixels a side, inside"
        )
    region = np.ascontiguousarray(pixels[y1:y2, x1:x2])
    luma = np.asarray(cv2.cvtColor(region.astype(np.float32), cv2.COLOR_RGB2GRAY), dtype=np.float32)
    smooth = np.asarray(cv2.GaussianBlur(luma, (0, 0), 0.8), dtype=np.float32)
    return Measurements(
        sharpness=float(cv2.Laplacian(smooth, cv2.CV_32F).std()),
        blur=_blur(luma),
        noise=_noise(luma),
        blockiness=_blockiness(luma),
        ringing=_ringing(luma),
        exposure=float(luma.mean()),
        under_share=float((luma <= 12).mean()),
        over_share=float((luma >= 250).mean()),
        contrast=float(luma.std()),
        flatness=_flatness(region),
        motion_anisotropy=_anisotropy(smooth),
        aliasing=_aliasing(luma),
        colorfulness=_colorfulness(region),
    )


def measure_grid(pixels: Pixels, rows: int, cols: int) -> list[list[Measurements]]:
    """Measure every cell of a rows x cols grid, row by row. Raises ValueError where cells fall below 16 pixels."""
    height, width = pixels.shape[:2]
    return [
        [
            measure(
                pixels,
                (width * col // cols, height * row // rows, width * (col + 1) // cols, height * (row + 1) // rows),
            )
            for col in range(cols)
        ]
        for row in range(rows)
    ]


def _blur(luma: Map) -> float:
    from skimage.measure import blur_effect

    return float(np.nan_to_num(blur_effect(luma / 255, h_size=9), nan=1.0))


def _noise(luma: Map) -> float:
    """Median of the absolute response to Immerkaer's mask (blind to steps and slopes), scaled to a Gaussian's sigma."""
    mask = np.array([[1, -2, 1], [-2, 4, -2], [1, -2, 1]], np.float32) / 6
    return float(np.median(np.abs(cv2.filter2D(luma, -1, mask)[1:-1, 1:-1])) / 0.6745)


def _blockiness(luma: Map) -> float:
    """Largest, over the grid's eight phases, of mean step on the grid over mean step off it, the axes averaged."""
    ratios = []
    for axis in (0, 1):
        steps = np.abs(np.diff(luma, axis=axis)).mean(axis=1 - axis)
        sums = np.array([steps[phase::8].mean() for phase in range(8)])
        others = (sums.sum() - sums) / 7
        ratios.append((sums + 0.5) / (others + 0.5))
    return float(((ratios[0][:, None] + ratios[1][None, :]) / 2).max())


def _ringing(luma: Map) -> float:
    sharper, sharp, soft = (cv2.GaussianBlur(luma, (0, 0), sigma) for sigma in (1.2, 2.0, 4.0))
    gradient = np.hypot(cv2.Sobel(luma, cv2.CV_32F, 1, 0), cv2.Sobel(luma, cv2.CV_32F, 0, 1)) / 4
    edges = (gradient > max(10.0, float(np.percentile(gradient, 92)))).astype(np.uint8)
    at, around = (cv2.dilate(edges, np.ones((size, size), np.uint8)) for size in (5, 17))
    beside = (around > 0) & (at == 0)
    if not beside.any():
        return 0.0
    ripple, swell = (float(np.sqrt((band[beside] ** 2).mean())) for band in (sharper - sharp, sharp - soft))
    return ripple / (swell + 1.0)


def _flatness(region: Pixels) -> float:
    square = np.ones((9, 9), np.uint8)
    spread = cv2.dilate(region, square).astype(np.int16) - cv2.erode(region, square)
    luma = region.mean(axis=2)
    return float(((spread.max(axis=2) == 0) & (luma > 3) & (luma < 252)).mean())


def _anisotropy(smooth: Map) -> float:
    across, down = cv2.Sobel(smooth, cv2.CV_32F, 1, 0), cv2.Sobel(smooth, cv2.CV_32F, 0, 1)
    xx, yy, xy = float((across**2).mean()), float((down**2).mean()), float((across * down).mean())
    return float(np.hypot(xx - yy, 2 * xy) / (xx + yy + 1e-6))


def _aliasing(luma: Map) -> float:
    repeats = []
    for axis in (0, 1):
        steps = np.abs(np.diff(luma, axis=axis))
        large = steps > 8
        beside = (large.take(range(1, large.shape[axis]), axis), large.take(range(large.shape[axis] - 1), axis))
        zero = steps == 0
        next_zero = (zero.take(range(zero.shape[axis] - 1), axis), zero.take(range(1, zero.shape[axis]), axis))
        count = sum(float(side.sum()) for side in beside)
        hits = sum(float((side & flat).sum()) for side, flat in zip(beside, next_zero, strict=True))
        repeats.append(hits / count if count else 0.0)
    return float(np.mean(repeats))


def _colorfulness(region: Pixels) -> float:
    red, green, blue = (region[..., channel].astype(np.float32) for channel in range(3))
    red_green, yellow_blue = red - green, (red + green) / 2 - blue
    spread = np.hypot(red_green.std(), yellow_blue.std())
    return float(spread + 0.3 * np.hypot(red_green.mean(), yellow_blue.mean()))
