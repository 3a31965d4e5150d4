"""How many prompts a step rolls out, and which groups it keeps."""

from __future__ import annotations

import json

import numpy as np
import pytest

from tasks.grpo.expansion import Expansion, balanced_groups


def test_the_factor_approaches_one_over_the_useful_share() -> None:
    expansion = Expansion(cap=4)
    assert expansion.num_to_draw(4) == 4
    expansion.update(8, 4)
    assert expansion.factor == pytest.approx(0.9 * 1 + 0.1 * 2)
    for _ in range(200):
        expansion.update(8, 4)
    assert expansion.factor == pytest.approx(2.0)
    assert expansion.num_to_draw(4) == 8, "not 7 by a float's noise"


def test_fractions_are_carried_over() -> None:
    expansion = Expansion(cap=4)
    expansion.update(8, 4)  # a factor of 1.1
    assert [expansion.num_to_draw(4) for _ in range(10)] == [4, 4, 5, 4, 5, 4, 4, 5, 4, 5]
    assert sum(expansion.num_to_draw(4, multiple_of=2) for _ in range(10)) == 44
    assert [expansion.num_to_draw(4, multiple_of=2) for _ in range(5)] == [4, 4, 4, 4, 6]


def test_it_never_exceeds_its_cap() -> None:
    expansion = Expansion(cap=4)
    for _ in range(200):
        expansion.update(8, 8)
    assert expansion.factor == pytest.approx(4.0)
    off = Expansion(cap=1)
    off.update(8, 8)
    assert off.factor == 1.0


def test_a_restored_factor_goes_on() -> None:
    expansion, resumed = Expansion(cap=4), Expansion(cap=4)
    expansion.update(8, 3)
    expansion.num_to_draw(5)
    resumed.load_state_dict(json.loads(json.dumps(expansion.state_dict())))
    assert resumed.factor == expansion.factor > 1
    assert resumed.owed == expansion.owed > 0


def test_groups_with_as_many_right_as_wrong_are_kept() -> None:
    right = [8, 5, 1, 4, 0, 3, 7]
    rewards = np.array([[1.0] * n + [0.0] * (8 - n) for n in right])
    assert balanced_groups(rewards, 3).tolist() == [1, 3, 5], "4, then 5 and 3 of 8"
    closest = sorted(range(len(right)), key=lambda i: (abs(right[i] - (8 - right[i])), i))
    for num in range(1, 8):
        assert balanced_groups(rewards, num).tolist() == sorted(closest[:num])


def test_groups_without_variance_only_fill_up() -> None:
    rewards = np.array([[0.3, 0.3], [0.1, 0.2], [1.3, 1.3]])
    assert balanced_groups(rewards, 1).tolist() == [1]
    assert balanced_groups(rewards, 2).tolist() == [0, 1]
    assert balanced_groups(rewards, 9).tolist() == [0, 1, 2]
