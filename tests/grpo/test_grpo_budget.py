"""Where the learning-rate schedule of a run stands whose rollouts can end it."""

from __future__ import annotations

import pytest

from tasks.grpo.budget import RolloutBudget


def positions(sizes: list[int], most: int | None, num_updates: int, updates_per_step: int = 1) -> list[float]:
    """Before each update of steps that make so many rollouts, and at the end."""
    budget, found = RolloutBudget(most, updates_per_step), [0.0]
    for size in sizes:
        budget.add(size)
        found += [budget.position(len(found) + i, num_updates) for i in range(updates_per_step)]
    return found


def test_without_a_limit_updates_count() -> None:
    assert positions([8, 8, 8], None, 3) == [0, 1, 2, 3]


def test_equal_steps_are_equally_far_apart_and_end_at_the_end() -> None:
    assert positions([8] * 4, 32, 100) == pytest.approx([0, 25, 50, 75, 100])
    assert positions([8] * 4, 32, 100, updates_per_step=2) == pytest.approx([12.5 * i for i in range(9)])


def test_larger_steps_move_it_further_and_it_never_passes_the_end() -> None:
    assert positions([8, 16, 16], 32, 100) == pytest.approx([0, 25, 75, 100])


def test_steps_that_end_first_count() -> None:
    assert positions([8] * 4, 1000, 4) == pytest.approx([0, 1, 2, 3, 4])


def test_it_goes_on_from_a_checkpoint() -> None:
    budget = RolloutBudget(32, 2)
    budget.go_on_from(16)
    assert budget.position(4, 100) == 50
    assert not budget.is_spent
    budget.add(16)
    assert [budget.position(update, 100) for update in (5, 6)] == [75, 100]
    assert budget.is_spent
