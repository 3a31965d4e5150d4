"""Words and scales that the tables share."""

from __future__ import annotations

import pytest

from data_contracts.records import LEVELS, level_of


@pytest.mark.parametrize(
    ("mos", "level"),
    [
        *((1.0, "bad"), (1.79, "bad"), (1.81, "poor"), (2.59, "poor"), (2.61, "fair"), (3.39, "fair")),
        *((3.41, "good"), (4.19, "good"), (4.21, "excellent"), (5.0, "excellent")),
    ],
)
def test_five_levels_share_the_scale_evenly(mos: float, level: str) -> None:
    assert level_of(mos) == level
    assert LEVELS == ("bad", "poor", "fair", "good", "excellent")
