"""Which side a photograph stands on: all that comes from it, and from what looks like it, goes to the same split."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from data_contracts.refs import text_digest

_ROWS_AT_ONCE = 2048


@dataclass(frozen=True)
class Placed:
    """What the split looks at. photograph: its unit. perceptual_hash: 16 hex digits. split: declared, or None."""

    photograph: str
    perceptual_hash: str
    split: str | None


@dataclass(frozen=True)
class Split:
    """sides: ``train`` or ``test`` per item. num_photographs: distinct ones. num_joined: those that look like another.

    num_conflicts: groups declared as both train and test, which went to train as a whole.
    """

    sides: list[str]
    num_photographs: int
    num_joined: int
    num_conflicts: int


def split_photographs(items: Sequence[Placed], test_share: float, near_duplicate_bits: int, seed: int) -> Split:
    """Split by photograph; photographs with hashes at most near_duplicate_bits apart form one group.

    A declared split holds for its whole group; a group declared as both goes to train, so that nothing held out was
    trained on. Of the groups without one, test_share are drawn by the digest of seed and name, so that adding
    photographs moves few others.
    """
    photographs = sorted({item.photograph for item in items})
    number = {name: i for i, name in enumerate(photographs)}
    units = np.array([number[item.photograph] for item in items])
    groups = _groups(units, [item.perceptual_hash for item in items], len(photographs), near_duplicate_bits)
    declared: dict[int, set[str]] = {}
    names: dict[int, str] = {}
    for unit, group in enumerate(groups):
        names.setdefault(int(group), photographs[unit])
        declared.setdefault(int(group), set())
    for item, unit in zip(items, units, strict=True):
        if item.split:
            declared[int(groups[unit])].add(item.split)
    side = {group: "train" if "train" in splits else "test" for group, splits in declared.items() if splits}
    open_groups = sorted(set(names) - set(side), key=lambda group: text_digest(f"{seed} {names[group]}"))
    num_test = round(test_share * len(open_groups))
    if test_share > 0 and len(open_groups) > 1:
        num_test = min(max(num_test, 1), len(open_groups) - 1 if test_share < 1 else len(open_groups))
    side |= {group: "test" if rank < num_test else "train" for rank, group in enumerate(open_groups)}
    sizes = np.bincount(groups)
    return Split(
        sides=[side[int(groups[unit])] for unit in units],
        num_photographs=len(photographs),
        num_joined=int(sizes[sizes > 1].sum()),
        num_conflicts=sum(len(splits) > 1 for splits in declared.values()),
    )


def _groups(units: NDArray[np.int64], hashes: Sequence[str], num_units: int, bits: int) -> NDArray[np.int32]:
    """Group per unit: units joined by near-equal hashes, through others if need be."""
    values, first = np.unique(np.array([int(h, 16) for h in hashes], dtype=np.uint64), return_inverse=True)
    left, right = [first], [np.arange(len(first)) + len(values)]  # nodes: distinct hashes, then items, then units
    left.append(np.arange(len(first)) + len(values))
    right.append(units + len(values) + len(first))
    for start in range(0, len(values), _ROWS_AT_ONCE):
        block = values[start : start + _ROWS_AT_ONCE]
        rows, columns = np.nonzero(np.bitwise_count(block[:, None] ^ values[None, start:]) <= bits)
        left.append(rows + start)
        right.append(columns + start)
    size = len(values) + len(first) + num_units
    a, b = np.concatenate(left), np.concatenate(right)
    graph = coo_array((np.ones(len(a), dtype=bool), (a, b)), shape=(size, size))
    _, labels = connected_components(graph, directed=False)
    return np.unique(labels[-num_units:], return_inverse=True)[1].astype(np.int32)
