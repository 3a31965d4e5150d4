"""Which prompts a step draws: none twice, the same after a restart; in turn, or those whose outcome is open."""

from __future__ import annotations

import json
from collections import Counter
from typing import Literal

import pytest

from pipeline_config.schema import SamplingConfig
from tasks.grpo.sampler import CurriculumSampler, ShuffledSampler, make_sampler, tier

ORDERS: tuple[Literal["shuffled", "curriculum"], ...] = ("shuffled", "curriculum")
IDS = [f"d{i:02d}" for i in range(10)]


def test_every_prompt_once_per_epoch_and_none_twice_in_a_step() -> None:
    sampler = ShuffledSampler(IDS, seed=3)
    steps = [sampler.draw(4) for _ in range(50)]
    assert all(len(set(step)) == 4 for step in steps)
    drawn = [i for step in steps for i in step]
    for epoch in range(20):
        assert sorted(drawn[10 * epoch : 10 * epoch + 10]) == IDS
    assert drawn[:10] != drawn[10:20]


def test_a_restored_state_draws_on() -> None:
    sampler = ShuffledSampler(IDS, seed=3)
    for _ in range(4):
        sampler.draw(4)
    state = json.loads(json.dumps(sampler.state_dict()))
    resumed = ShuffledSampler(list(reversed(IDS)), seed=3)
    resumed.load_state_dict(state)
    assert [resumed.draw(4) for _ in range(9)] == [sampler.draw(4) for _ in range(9)]


def test_seeds_differ() -> None:
    assert ShuffledSampler(IDS, seed=1).draw(4) != ShuffledSampler(IDS, seed=2).draw(4)


def test_a_small_pool_gives_small_steps() -> None:
    sampler = ShuffledSampler(["a", "b"], seed=0)
    assert all(sorted(sampler.draw(4)) == ["a", "b"] for _ in range(5))


def test_a_state_of_another_pool_is_refused() -> None:
    with pytest.raises(ValueError, match="not in the pool"):
        ShuffledSampler(IDS, seed=0).load_state_dict({"epoch": 1, "queue": ["elsewhere"]})


def test_steps_of_changing_size_still_take_every_prompt_once_per_epoch() -> None:
    sampler = ShuffledSampler(IDS, seed=3)
    drawn = [i for size in (4, 7, 2, 5, 2) for i in sampler.draw(size)]
    assert sorted(drawn[:10]) == sorted(drawn[10:]) == IDS


MINED = {"solved": [1.0] * 8, "open": [1.0, 0.0] * 4, "rare": [1.0] + [0.0] * 7, "lost": [0.0] * 8}


def test_the_weight_is_highest_in_the_middle() -> None:
    sampler = CurriculumSampler(MINED, seed=0, floor=0.05)
    weights = {i: sampler.weight(i) for i in MINED}
    assert weights == pytest.approx({"solved": 0.05, "open": 0.30, "rare": 1 / 8 * 7 / 8 + 0.05, "lost": 0.05})
    graded = CurriculumSampler({"half": [0.5] * 8, "open": [0.25, 0.75] * 4}, seed=0, floor=0.05)
    assert graded.weight("half") == pytest.approx(0.05), "the same partial score every time says nothing"
    assert graded.weight("open") == pytest.approx(0.0625 + 0.05)


def test_prompts_are_drawn_in_proportion_to_their_weight() -> None:
    sampler = CurriculumSampler(MINED, seed=0, floor=0.05)
    counts = Counter(i for _ in range(4000) for i in sampler.draw(1))
    total = sum(sampler.weight(i) for i in MINED)
    for i in MINED:
        assert counts[i] / 4000 == pytest.approx(sampler.weight(i) / total, abs=0.03)
    assert all(len(set(sampler.draw(3))) == 3 for _ in range(50))
    assert sorted(sampler.draw(9)) == sorted(MINED), "a small pool gives small steps"


def test_every_rollout_moves_the_estimate() -> None:
    sampler = CurriculumSampler(MINED, seed=0, floor=0.05, memory=0.8)
    sampler.update({"open": [1.0] * 8, "lost": [1.0, 0.0]})
    assert sampler.weight("open") == pytest.approx(0.6 * 0.4 + 0.05), "four fifths of it still open"
    assert sampler.weight("lost") == pytest.approx(0.1 * 0.9 + 0.05)
    for _ in range(50):
        sampler.update({"open": [1.0] * 8})
    assert sampler.weight("open") == pytest.approx(0.05, abs=1e-4)


def test_floor_and_memory_are_the_configurations() -> None:
    config = SamplingConfig(order="curriculum", floor=0.01, memory=0.9)
    sampler = make_sampler(config, MINED, seed=0)
    assert isinstance(sampler, CurriculumSampler)
    assert sampler.weight("lost") == pytest.approx(0.01)
    sampler.update({"lost": [1.0]})
    assert sampler.weight("lost") == pytest.approx(0.1 * 0.9 + 0.01)
    assert isinstance(make_sampler(SamplingConfig(), MINED, seed=0), ShuffledSampler)
    drawn = [make_sampler(SamplingConfig(order=order), MINED, seed).draw(4) for order in ORDERS for seed in (1, 2)]
    assert drawn[0] != drawn[1]
    assert drawn[2] != drawn[3]


def test_tiers_follow_the_mean_accuracy() -> None:
    sampler = CurriculumSampler(MINED, seed=0)
    assert sampler.figures() == {"tier_too_hard": 0.25, "tier_middle": 0.5, "tier_too_easy": 0.25}
    for _ in range(5):
        sampler.update({"solved": [0.0, 1.0]})
    assert sampler.figures()["tier_middle"] == 0.75
    assert [tier(p) for p in (0.0, 0.09, 0.1, 0.9, 0.91, 1.0)] == [
        "too_hard", "too_hard", "middle", "middle", "too_easy", "too_easy"
    ]  # fmt: skip


def test_a_restored_curriculum_draws_on() -> None:
    sampler = CurriculumSampler(MINED, seed=3)
    for _ in range(4):
        sampler.update({sampler.draw(2)[0]: [1.0, 0.0, 0.0]})
    resumed = CurriculumSampler(dict(reversed(MINED.items())), seed=3)
    resumed.load_state_dict(json.loads(json.dumps(sampler.state_dict())))
    assert [resumed.draw(2) for _ in range(9)] == [sampler.draw(2) for _ in range(9)]
    assert CurriculumSampler(MINED, seed=4).draw(4) != CurriculumSampler(MINED, seed=5).draw(4)
    with pytest.raises(ValueError, match="not in the pool"):
        resumed.load_state_dict({"draws": 1, "moments": {"elsewhere": [0.5, 0.5]}})
