"""What is costly to make and used again, kept in memory up to a number of bytes. Ours."""

from __future__ import annotations

from collections import OrderedDict
from typing import Generic, TypeVar

T = TypeVar("T")


class Kept(Generic[T]):
    """Values by key; beyond `most_bytes` the least recently used are dropped, never the last one."""

    def __init__(self, most_bytes: int) -> None:
        self._most_bytes = most_bytes
        self._values: OrderedDict[str, tuple[T, int]] = OrderedDict()
        self._bytes = 0

    def get(self, key: str) -> T | None:
        """The value, now the most recently used; None if it is not kept."""
        if key not in self._values:
            return None
        self._values.move_to_end(key)
        return self._values[key][0]

    def put(self, key: str, value: T, num_bytes: int) -> None:
        """Keep a value under a key that is not kept."""
        self._values[key] = value, num_bytes
        self._bytes += num_bytes
        while self._bytes > self._most_bytes and len(self._values) > 1:
            self._bytes -= self._values.popitem(last=False)[1][1]
