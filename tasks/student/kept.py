"""What is costly to make and used again, kept in memory up to a number of bytes. Ours.

Epochs come in another order each time, and of keys in random order the least recently used is as likely to be the next
as any: to keep what was used last would mean to drop almost everything just before it is used. So a fixed share of the
keys stays, chosen by their digests: whatever the order, the same ones are found in every epoch. A smaller part holds
what was used last, which a step uses several times.
"""

from __future__ import annotations

import hashlib
import heapq
from collections import OrderedDict
from typing import Generic, TypeVar

T = TypeVar("T")


class Kept(Generic[T]):
    """Values by key: of those that do not fit into `kept_bytes` the ones of the lowest digests, and of the others the
    most recently used up to `recent_bytes`, of these at least one."""

    def __init__(self, kept_bytes: int, recent_bytes: int) -> None:
        self._kept_bytes, self._recent_bytes = kept_bytes, recent_bytes
        self._kept: dict[str, tuple[T, int]] = {}
        self._ranks: list[tuple[int, str]] = []  # of the kept keys, a heap with the highest digest first
        self._recent: OrderedDict[str, tuple[T, int]] = OrderedDict()
        self._num_kept = self._num_recent = 0  # bytes

    def get(self, key: str) -> T | None:
        """The value; None if it is neither kept nor recent."""
        if key in self._kept:
            return self._kept[key][0]
        if key not in self._recent:
            return None
        self._recent.move_to_end(key)
        return self._recent[key][0]

    def put(self, key: str, value: T, num_bytes: int) -> None:
        """Hold a value under a key that is not held."""
        if num_bytes > self._kept_bytes:  # none of the others has to make room for what does not fit alone
            self._put_recent(key, value, num_bytes)
            return
        self._kept[key] = value, num_bytes
        self._num_kept += num_bytes
        heapq.heappush(self._ranks, (-_digest(key), key))
        while self._num_kept > self._kept_bytes:
            _, highest = heapq.heappop(self._ranks)
            dropped, size = self._kept.pop(highest)
            self._num_kept -= size
            self._put_recent(highest, dropped, size)

    def _put_recent(self, key: str, value: T, num_bytes: int) -> None:
        self._recent[key] = value, num_bytes
        self._num_recent += num_bytes
        while self._num_recent > self._recent_bytes and len(self._recent) > 1:
            self._num_recent -= self._recent.popitem(last=False)[1][1]


def _digest(key: str) -> int:
    return int.from_bytes(hashlib.sha256(key.encode()).digest()[:8])
