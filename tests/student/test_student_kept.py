"""What is kept in memory: a fixed share of the keys, whatever the order, and what was used last."""

from __future__ import annotations

import numpy as np
import pytest

from tasks.student.kept import Kept

KEYS = [f"key {i}" for i in range(400)]


def hits(kept: Kept[str], seed: int, num_bytes: int = 10) -> set[str]:
    """Keys found in an epoch in random order; what is not found is put."""
    found = set()
    for i in np.random.default_rng(seed).permutation(len(KEYS)):
        if kept.get(KEYS[i]) is not None:
            found.add(KEYS[i])
        else:
            kept.put(KEYS[i], KEYS[i], num_bytes)
    return found


@pytest.mark.parametrize("share", [0.08, 0.5, 1.0])
def test_a_share_that_fits_is_found_in_every_shuffled_epoch(share: float) -> None:
    kept: Kept[str] = Kept(kept_bytes=round(share * 10 * len(KEYS)), recent_bytes=0)
    assert not hits(kept, 0)
    for epoch in (1, 2, 3):
        assert len(hits(kept, epoch)) == pytest.approx(share * len(KEYS), abs=2)


def test_the_share_does_not_depend_on_the_order() -> None:
    found = []
    for seed in (0, 1):
        kept: Kept[str] = Kept(kept_bytes=1000, recent_bytes=0)
        hits(kept, seed)
        found.append({key for key in KEYS if kept.get(key)})
    assert len(found[0] & found[1]) >= 100
    assert len(found[0] ^ found[1]) <= 2, "the one that was used last"


def test_what_was_used_last_is_found_too() -> None:
    kept: Kept[str] = Kept(kept_bytes=100, recent_bytes=30)
    for key in KEYS:
        kept.put(key, key, 10)
        assert kept.get(key) == key
    assert all(kept.get(key) for key in KEYS[-3:])
    assert sum(kept.get(key) is not None for key in KEYS) <= 13
    kept.get(KEYS[-3])
    kept.put("another", "", 10)
    assert kept.get(KEYS[-3]) is not None, "used since"


def test_what_is_larger_than_the_share_moves_nothing_out() -> None:
    kept: Kept[str] = Kept(kept_bytes=100, recent_bytes=0)
    for key in KEYS[:10]:
        kept.put(key, key, 10)
    kept.put("large", "large", 101)
    assert kept.get("large") == "large"
    assert all(kept.get(key) for key in KEYS[:10])


def test_unequal_sizes_stay_within_their_bytes() -> None:
    sizes = np.random.default_rng(0).integers(1, 60, len(KEYS)).tolist()
    kept: Kept[str] = Kept(kept_bytes=2000, recent_bytes=100)
    for key, size in zip(KEYS, sizes, strict=True):
        kept.put(key, key, size)
    held = sum(size for key, size in zip(KEYS, sizes, strict=True) if kept.get(key))
    assert 1900 <= held <= 2100
