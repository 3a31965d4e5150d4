"""Tables in parts: what is finished is not made again, processes share the keys, the whole is in order."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tasks.launcher import parts as module
from tasks.launcher.parts import Parts, read_rows, write_rows

SCHEMA = pa.schema([("key", pa.string()), ("value", pa.int64())])
KEYS = [f"k{i}" for i in range(10)]


def rows_of(key: str) -> list[dict[str, Any]]:
    """Two of some keys, one of others."""
    number = int(key[1:])
    return [{"key": key, "value": 10 * number + i} for i in range(1 + number % 2)]


def parts_of(folder: Path, monkeypatch: pytest.MonkeyPatch, rank: int = 0, world: int = 1) -> Parts:
    monkeypatch.setenv("RANK", str(rank))
    monkeypatch.setenv("WORLD_SIZE", str(world))
    return Parts(folder, SCHEMA, "key")


@pytest.fixture(autouse=True)
def _small_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "KEYS_PER_PART", 3)


def test_the_whole_is_in_the_order_of_the_keys(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    parts = parts_of(tmp_path / "parts", monkeypatch)
    for key in reversed(parts.own(KEYS)):  # they end in another order
        parts.add(rows_of(key))
    parts.close()
    assert [pq.read_metadata(path).num_rows for path in sorted((tmp_path / "parts").iterdir())] == [5, 4, 5, 1]
    assert parts.whole(KEYS).to_pylist() == [row for key in KEYS for row in rows_of(key)]
    assert parts.whole(KEYS).schema.equals(SCHEMA)


def test_what_a_kill_left_is_made_and_nothing_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    killed = parts_of(tmp_path, monkeypatch)
    for key in KEYS[:5]:
        killed.add(rows_of(key))  # the last two are in no part
    (tmp_path / "rank-000-000001.parquet.part").write_bytes(b"half a file")
    (tmp_path / "rank-000-000000.parquet").rename(tmp_path / "rank-000-000001.parquet")  # as if one had been removed
    parts = parts_of(tmp_path, monkeypatch)
    assert parts.own(KEYS) == KEYS[3:]
    for key in parts.own(KEYS):
        parts.add(rows_of(key))
    parts.close()
    assert parts.own(KEYS) == []
    assert parts.whole(KEYS).to_pylist() == [row for key in KEYS for row in rows_of(key)]


@pytest.mark.parametrize("restarted_as", [1, 2, 3])
def test_processes_share_the_keys_whoever_has_finished_before(
    restarted_as: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each key is one process's, even if some have written parts before the others ask for theirs."""
    first = parts_of(tmp_path, monkeypatch, 1, 2)
    assert first.own(KEYS) == KEYS[1::2]
    for key in first.own(KEYS)[:3]:
        first.add(rows_of(key))
    made: list[str] = ["k1", "k3", "k5"]
    for rank in reversed(range(restarted_as)):
        parts = parts_of(tmp_path, monkeypatch, rank, restarted_as)
        for key in parts.own(KEYS):
            parts.add(rows_of(key))
            made.append(key)
        parts.close()
    assert sorted(made) == KEYS
    assert parts.whole(KEYS).to_pylist() == [row for key in KEYS for row in rows_of(key)]


def test_the_first_process_waits_for_the_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "POLL_SECONDS", 0.01)
    other, first = parts_of(tmp_path, monkeypatch, 1, 2), parts_of(tmp_path, monkeypatch, 0, 2)
    for key in first.own(KEYS):
        first.add(rows_of(key))
    first.close()
    found: list[pa.Table] = []
    waiting = threading.Thread(target=lambda: found.append(first.whole(KEYS)))
    waiting.start()
    for key in other.own(KEYS)[:3]:
        other.add(rows_of(key))
    waiting.join(0.2)
    assert waiting.is_alive(), "two keys are missing"
    for key in other.own(KEYS):
        other.add(rows_of(key))
    other.close()
    waiting.join(10)
    assert found[0].num_rows == 15


def test_a_file_is_written_whole_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "new" / "table.parquet"
    write_rows(path, rows_of("k1"), SCHEMA)

    def torn(table: pa.Table, beside: Path) -> None:
        beside.write_bytes(b"half a file")
        raise OSError("torn")

    monkeypatch.setattr(pq, "write_table", torn)
    with pytest.raises(OSError, match="torn"):
        write_rows(path, rows_of("k2"), SCHEMA)
    assert read_rows([path], SCHEMA).to_pylist() == rows_of("k1")
    assert read_rows([], SCHEMA).schema.equals(SCHEMA)
