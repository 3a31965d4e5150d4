"""Where a box stands, in ViDA-UGC's words. The borders between the words (thirds of the picture) are ours."""

from __future__ import annotations

from collections.abc import Sequence

from data_contracts.records import BOX_SCALE

POSITIONS = (
    "top left",
    "top",
    "top right",
    "left",
    "center",
    "right",
    "bottom left",
    "bottom",
    "bottom right",
    "whole picture",
)
WHOLE_PICTURE = POSITIONS[-1]
_WHOLE_SHARE = 0.8


def position_of(box: Sequence[int]) -> str:
    """One of POSITIONS for a box [x1, y1, x2, y2] in 0..1000.

    "whole picture" if the box covers at least 80 % of it, else the cell of a 3 x 3 grid that holds the box's centre.
    """
    x1, y1, x2, y2 = box
    if (x2 - x1) * (y2 - y1) >= _WHOLE_SHARE * BOX_SCALE**2:
        return WHOLE_PICTURE
    column, row = (min(2, 3 * (low + high) // (2 * BOX_SCALE)) for low, high in ((x1, x2), (y1, y2)))
    return POSITIONS[3 * row + column]
