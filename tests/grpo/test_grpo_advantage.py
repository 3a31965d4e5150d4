"""Group advantages against the published goldens (methods.md, section 3)."""

from __future__ import annotations

import numpy as np
import pytest

from tasks.grpo.advantage import group_advantages, has_zero_variance


@pytest.mark.parametrize(
    ("rewards", "best", "rest"),
    [
        ([2.3, 2.3, 1, 1, 1, 1, 1, 1], 1.6199, -0.5400),
        ([2, 2, 1, 1, 1, 1, 1, 1], 1.6198, -0.5399),
    ],
)
def test_goldens(rewards: list[float], best: float, rest: float) -> None:
    [advantages] = group_advantages(np.array([rewards]))
    assert advantages[:2] == pytest.approx([best] * 2, abs=5e-5)
    assert advantages[2:] == pytest.approx([rest] * 6, abs=5e-5)


def test_equal_rewards_have_no_advantage_even_with_float_noise() -> None:
    noise = np.array([[2.3] * 8, [0.1 + 0.2, 0.3, 0.3, 0.3, 0.3, 0.3, 0.3, 0.3]])
    assert (group_advantages(noise) == 0).all()
    assert (group_advantages(noise, scale_by_std=False) == 0).all()
    assert has_zero_variance(noise).all()


def test_groups_do_not_see_each_other() -> None:
    both = group_advantages(np.array([[1.0, 0.0], [100.0, 0.0]]))
    assert both[0] == pytest.approx(group_advantages(np.array([[1.0, 0.0]]))[0])
    assert both.sum(axis=1) == pytest.approx([0, 0])


def test_without_std_it_is_the_distance_to_the_mean() -> None:
    assert group_advantages(np.array([[3.0, 1.0, 2.0]]), scale_by_std=False)[0] == pytest.approx([1, -1, 0])


def test_zero_variance_is_told_per_group() -> None:
    assert has_zero_variance(np.array([[1.0, 1.0], [1.0, 0.0]])).tolist() == [True, False]
