"""One sentence on what a picture shows, from nothing but its pixels: brightness and the color that prevails.

It is the first line of a description (ViDA-UGC has GPT write it); nothing is invented that was not measured.
"""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

_BRIGHTNESS = ((60, "dark"), (105, "dim"), (165, "well lit"), (256, "bright"))  # below this mean luma
_HUES = ((15, "red"), (40, "orange"), (70, "yellow"), (165, "green"), (200, "cyan"), (260, "blue"), (330, "purple"))
_LEAST_SATURATION = 0.12
_LARGEST_SIDE = 64


def describe_content(pixels: NDArray[np.uint8]) -> str:
    """For instance "The picture is dim and mostly green.". pixels: uint8, height x width x 3, RGB."""
    scale = _LARGEST_SIDE / max(pixels.shape[:2])
    if scale < 1:
        pixels = np.asarray(cv2.resize(pixels, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA), dtype=np.uint8)
    luma = float(cv2.cvtColor(pixels, cv2.COLOR_RGB2GRAY).mean())
    brightness = next(word for limit, word in _BRIGHTNESS if luma < limit)
    return f"The picture is {brightness} and mostly {_prevailing_color(pixels)}."


def _prevailing_color(pixels: NDArray[np.uint8]) -> str:
    values = pixels.reshape(-1, 3).astype(np.float32) / 255
    chroma = values.max(axis=1) - values.min(axis=1)
    if chroma.mean() < _LEAST_SATURATION:
        return "grey"
    hue = np.asarray(cv2.cvtColor(values[None], cv2.COLOR_RGB2HSV), dtype=np.float32)[0, :, 0]
    names = np.searchsorted([limit for limit, _ in _HUES], hue, side="right") % len(_HUES)
    return _HUES[int(np.bincount(names, weights=chroma, minlength=len(_HUES)).argmax())][1]
