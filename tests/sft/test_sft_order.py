"""The order of training: everything once, like lengths together, the same from the same seed."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from tasks.sft.dialogues import LengthGroupedSampler

LENGTHS = st.lists(st.integers(1, 500), min_size=1, max_size=200)


@given(LENGTHS, st.integers(1, 17), st.integers(0, 3))
def test_every_dialogue_once_per_epoch(lengths: list[int], batch_size: int, epoch: int) -> None:
    sampler = LengthGroupedSampler(lengths, batch_size, seed=1)
    sampler.set_epoch(epoch)
    assert sorted(sampler) == list(range(len(lengths)))
    assert len(sampler) == len(lengths)


def test_order_depends_on_seed_and_epoch_alone() -> None:
    lengths = list(np.random.default_rng(0).integers(20, 400, 300))

    def order(seed: int, epoch: int) -> list[int]:
        sampler = LengthGroupedSampler(lengths, 8, seed)
        sampler.set_epoch(epoch)
        return list(sampler)

    assert order(1, 2) == order(1, 2)
    assert order(1, 2) != order(1, 3)
    assert order(1, 2) != order(2, 2)


def test_grouping_pads_little() -> None:
    lengths = np.random.default_rng(0).integers(100, 500, 1203)

    def padded(order: list[int]) -> int:
        return sum(len(chunk) * lengths[chunk].max() for chunk in np.split(np.array(order), range(16, 1203, 16)))

    grouped = padded(list(LengthGroupedSampler(lengths, 16, seed=0)))
    shuffled = padded(list(np.random.default_rng(0).permutation(1203)))
    assert grouped < 1.05 * lengths.sum() < 0.7 * shuffled


def test_long_and_short_batches_are_mixed() -> None:
    lengths = np.sort(np.random.default_rng(0).integers(100, 500, 512))
    means = lengths[np.array(list(LengthGroupedSampler(lengths, 16, seed=0)))].reshape(-1, 16).mean(1)
    assert abs(np.corrcoef(means, np.arange(len(means)))[0, 1]) < 0.5
