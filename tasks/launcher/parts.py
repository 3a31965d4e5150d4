"""Tables that a child makes in parts: what is finished survives a kill, and several processes can share the work.

    parts = Parts(job.folder / "parts", SCHEMA, key="dialogue_id")
    for key in parts.own(keys):         # of this process: not those that an earlier start has finished
        parts.add(key, rows_of(key))
    parts.close()
    if is_rank_zero():
        table = parts.whole(keys)       # waits for the other processes

A part is a small Parquet file of one process, written whole or not at all. A child that is started again reads which
keys the parts hold and makes the others. Ours, not of a paper.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from tasks.launcher.job import rank_and_world

KEYS_PER_PART = 64
POLL_SECONDS = 0.2


def write_rows(path: Path, rows: Sequence[Mapping[str, Any]] | pa.Table, schema: pa.Schema) -> None:
    """Write a Parquet file so that a reader sees all of it or nothing, replacing what stood there."""
    table = rows if isinstance(rows, pa.Table) else pa.Table.from_pylist(list(rows), schema=schema)
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(f"{path.name}.part")
    pq.write_table(table, beside)
    beside.replace(path)


def read_rows(paths: Iterable[Path], schema: pa.Schema) -> pa.Table:
    """The rows of several files in their order; an empty table if there is none."""
    tables = [pq.read_table(path, schema=schema) for path in paths]
    return pa.concat_tables(tables) if tables else schema.empty_table()


class Parts:
    """The parts of one table in a folder of their own, as one of the processes that fill it sees them.

    key: the column that says what a row is about; the rows of one key are added together.
    """

    def __init__(self, folder: Path, schema: pa.Schema, key: str) -> None:
        self._folder, self._schema, self._key = folder, schema, key
        self._rank, self._world = rank_and_world()
        self._keys_of: dict[Path, set[str]] = {}  # of the parts that were read
        self._rows: list[Mapping[str, Any]] = []  # to be written
        self._num_keys = 0

    def own(self, keys: Sequence[str]) -> list[str]:
        """Of ``keys``, distinct and the same for every process, those that this process has to make."""
        finished = self._finished()
        return [key for key in keys[self._rank :: self._world] if key not in finished]

    def add(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """All rows of one key, at least one; written with those of others, at the latest by `close`."""
        assert rows, "a key without rows would be waited for"
        self._rows += rows
        self._num_keys += 1
        if self._num_keys == KEYS_PER_PART:
            self.close()

    def close(self) -> None:
        """Write what is not written yet."""
        if self._rows:
            taken = [
                int(path.stem.rpartition("-")[2]) for path in self._folder.glob(f"rank-{self._rank:03d}-*.parquet")
            ]
            name = f"rank-{self._rank:03d}-{max(taken, default=-1) + 1:06d}.parquet"
            write_rows(self._folder / name, self._rows, self._schema)
        self._rows, self._num_keys = [], 0

    def whole(self, keys: Sequence[str]) -> pa.Table:
        """All rows in the order of ``keys``, those of a key as they were added; waits until the last part is written.

        A process that fails has torchrun end the one that waits.
        """
        while not self._finished().issuperset(keys):
            time.sleep(POLL_SECONDS)
        table = read_rows(sorted(self._keys_of), self._schema)
        place = {key: number for number, key in enumerate(keys)}
        places = [place[key] for key in table[self._key].to_pylist()]
        return table.take(pa.array(sorted(range(len(places)), key=places.__getitem__), pa.int64()))

    def _finished(self) -> set[str]:
        for path in self._folder.glob("*.parquet"):
            if path not in self._keys_of:
                self._keys_of[path] = set(pq.read_table(path, columns=[self._key])[self._key].to_pylist())
        return set().union(*self._keys_of.values())
