"""The penalty of completions near the token limit (DAPO)."""

from __future__ import annotations

import pytest

from tasks.grpo.scores import overlong_penalty


def test_it_falls_in_a_line_to_minus_one_at_the_limit() -> None:
    penalties = [overlong_penalty(n, False, limit=100, over=20) for n in (1, 80, 85, 90, 100)]
    assert penalties == pytest.approx([0, 0, -0.25, -0.5, -1.0])


def test_a_cut_completion_pays_in_full() -> None:
    assert overlong_penalty(100, True, limit=100, over=20) == -1.0
