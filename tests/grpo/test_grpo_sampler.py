"""Which prompts a step draws: every one once an epoch, none twice in a step, the same after a restart."""

from __future__ import annotations

import json

import pytest

from tasks.grpo.sampler import ShuffledSampler

IDS = [f"d{i:02d}" for i in range(10)]


def test_every_prompt_once_per_epoch_and_none_twice_in_a_step() -> None:
    sampler = ShuffledSampler(IDS, 4, seed=3)
    steps = [sampler.draw() for _ in range(50)]
    assert all(len(set(step)) == 4 for step in steps)
    drawn = [i for step in steps for i in step]
    for epoch in range(20):
        assert sorted(drawn[10 * epoch : 10 * epoch + 10]) == IDS
    assert drawn[:10] != drawn[10:20]


def test_a_restored_state_draws_on() -> None:
    sampler = ShuffledSampler(IDS, 4, seed=3)
    for _ in range(4):
        sampler.draw()
    state = json.loads(json.dumps(sampler.state_dict()))
    resumed = ShuffledSampler(list(reversed(IDS)), 4, seed=3)
    resumed.load_state_dict(state)
    assert [resumed.draw() for _ in range(9)] == [sampler.draw() for _ in range(9)]


def test_seeds_differ() -> None:
    assert ShuffledSampler(IDS, 4, seed=1).draw() != ShuffledSampler(IDS, 4, seed=2).draw()


def test_a_small_pool_gives_small_steps() -> None:
    sampler = ShuffledSampler(["a", "b"], 4, seed=0)
    assert sampler.num_prompts == 2
    assert all(sorted(sampler.draw()) == ["a", "b"] for _ in range(5))


def test_a_state_of_another_pool_is_refused() -> None:
    with pytest.raises(ValueError, match="not in the pool"):
        ShuffledSampler(IDS, 4, seed=0).load_state_dict({"epoch": 1, "queue": ["elsewhere"]})
