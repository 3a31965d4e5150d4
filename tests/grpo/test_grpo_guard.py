"""Which updates are skipped."""

from __future__ import annotations

import json
import math

import pytest

from tasks.grpo.guard import PATIENCE, SpikeGuard


def test_a_spike_is_skipped_and_does_not_move_the_average() -> None:
    guard = SpikeGuard(10)
    assert [guard.admits(norm) for norm in (1.0, 1.2, 0.8)] == [True] * 3
    assert not guard.admits(50.0)
    assert guard.admits(5.0)
    assert not guard.admits(50.0)


def test_the_usual_norm_moves_slowly() -> None:
    guard = SpikeGuard(10)
    assert guard.admits(1.0)
    assert guard.admits(5.0)
    assert not guard.admits(14.5), "above ten times .9 * 1 + .1 * 5"
    assert guard.admits(13.5)


def test_steps_without_gradient_do_not_make_the_next_one_a_spike() -> None:
    guard = SpikeGuard(10)
    assert all(guard.admits(norm) for norm in [1.0, *[0.0] * 50, 1.0])


def test_a_lasting_change_is_taken_for_the_new_level() -> None:
    guard = SpikeGuard(10)
    guard.admits(1.0)
    assert [guard.admits(100.0) for _ in range(PATIENCE + 1)] == [False] * PATIENCE + [True]


def test_without_a_factor_every_finite_norm_is_admitted() -> None:
    guard = SpikeGuard(None)
    assert all(guard.admits(norm) for norm in (1.0, 1e9))
    assert not guard.admits(math.inf)


@pytest.mark.parametrize("norm", [math.nan, math.inf])
def test_lasting_nonsense_ends_the_run_with_its_cure(norm: float) -> None:
    guard = SpikeGuard(10)
    assert [guard.admits(norm) for _ in range(PATIENCE)] == [False] * PATIENCE
    assert guard.admits(1.0), "one good update starts the count anew"
    assert [guard.admits(norm) for _ in range(PATIENCE)] == [False] * PATIENCE
    with pytest.raises(ValueError, match=r"lower grpo\.optimiser\.lr"):
        guard.admits(norm)


def test_a_restored_guard_goes_on() -> None:
    guard, resumed = SpikeGuard(10), SpikeGuard(10)
    guard.admits(1.0)
    guard.admits(100.0)
    resumed.load_state_dict(json.loads(json.dumps(guard.state_dict())))
    assert [resumed.admits(100.0) for _ in range(PATIENCE)] == [False] * (PATIENCE - 1) + [True]
