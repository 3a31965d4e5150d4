"""Boxes at the student's boundary: datasets hold 0..1000, a Qwen2.5-VL reads and writes pixels of the resized picture.

Pure text, no torch. The convention is Qwen's, the rounding ours: half up, clipped to the picture.
"""

from __future__ import annotations

import math
import re
from typing import Literal

from data_contracts.records import BOX_SCALE

Convention = Literal["pixels", "norm1000"]

# What follows an opening box token, up to the next token or the end of a text that was cut.
_BOX = re.compile(r"(?<=<\|box_start\|>)[^<]*")
_POINT = re.compile(r"\(\s*(\d{1,6}(?:\.\d{1,6})?)\s*,\s*(\d{1,6}(?:\.\d{1,6})?)\s*\)")


def convert_text(text: str, source: Convention, target: Convention, width: int, height: int) -> str:
    """The text with the points ``(x,y)`` inside its box tokens rewritten from one convention to the other.

    width, height: pixels of the picture after the processor's resize. Never raises on text: what is no point of two
    unsigned numbers stays as it is. Pixels to norm1000 and back is exact up to 1000 pixels a side; norm1000 to pixels
    moves a corner by at most half a pixel.
    """
    if source == target:
        return text
    from_xy = (width, height) if source == "pixels" else (BOX_SCALE, BOX_SCALE)
    to_xy = (width, height) if target == "pixels" else (BOX_SCALE, BOX_SCALE)

    def point(match: re.Match[str]) -> str:
        x, y = (_rescale(float(match[i + 1]), from_xy[i], to_xy[i]) for i in range(2))
        return f"({x},{y})"

    return _BOX.sub(lambda box: _POINT.sub(point, box[0]), text)


def _rescale(value: float, source: int, target: int) -> int:
    return min(target, max(0, math.floor(value * target / source + 0.5)))
