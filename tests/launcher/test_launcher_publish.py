"""Publishing: a table stands whole and within its contract, or not at all; what is left out is kept with the reason."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from data_contracts.check import ContractError
from data_contracts.records import DIFFICULTY
from data_contracts.refs import digest_of
from tasks.launcher import job, publish
from tasks.launcher.job import DiskFull
from tasks.launcher.publish import move_in, write_table


def mined(number: int, **changes: Any) -> dict[str, Any]:
    return {
        "dialogue_id": f"d{number}",
        "sub_task": "mcq",
        "num_rollouts": 1,
        "rewards": [0.5],
        "pass_rate": 0.5,
        "num_all_right": 0,
        "pool": "hard",
        "why": "neither",
        "completions": ["a"],
        **changes,
    }


def table(*rows: dict[str, Any]) -> pa.Table:
    return pa.Table.from_pylist(list(rows), schema=DIFFICULTY)


def test_offending_rows_are_set_aside_and_the_others_published(tmp_path: Path) -> None:
    rows = table(mined(1), mined(2, pool="?", pass_rate=2.0), mined(3))
    ref, left_out = write_table("difficulty", rows, tmp_path, [{"id": "d9", "reason": "too long", "tokens": 900}])
    assert (ref.kind, ref.rows, ref.digest) == ("difficulty", 2, digest_of(tmp_path / "difficulty.parquet"))
    assert pq.read_table(ref.path)["dialogue_id"].to_pylist() == ["d1", "d3"]
    assert pq.read_schema(ref.path).equals(DIFFICULTY)
    kept = pq.read_table(tmp_path / "quarantine" / "difficulty.parquet").to_pylist()
    assert [(row["id"], row["column"], row["row"]) for row in kept] == [
        ("d9", None, None),
        ("d2/?", "pass_rate", 1),
        ("d2/?", "pool", 1),
    ]
    assert kept[0]["reason"] == "too long"
    assert json.loads(kept[0]["record"]) == {"tokens": 900}
    assert json.loads(kept[2]["record"])["why"] == "neither"
    assert kept[2]["value"] == "'?'"
    assert len(left_out) == 3
    assert sorted(p.name for p in tmp_path.iterdir()) == ["difficulty.parquet", "quarantine"]


def test_columns_in_another_order_and_width_are_brought_into_form(tmp_path: Path) -> None:
    loose = table(mined(1)).select(DIFFICULTY.names[::-1])
    narrow = loose.set_column(loose.column_names.index("num_rollouts"), "num_rollouts", pa.array([1], pa.int8()))
    ref, _ = write_table("difficulty", narrow, tmp_path, [])
    assert pq.read_schema(ref.path).equals(DIFFICULTY)


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (table(), "the table is empty"),
        (table(mined(1, pool="?"), mined(2, why=" ")), "not one of 2 rows meets the contract; first: d1/\\?: pool"),
        (table(mined(1)).drop_columns(["why"]), r"missing \['why'\]"),
        (
            table(mined(1)).set_column(2, "num_rollouts", pa.array(["many"])),
            "a column cannot be read as data_contracts/records.py has it",
        ),
    ],
)
def test_a_table_that_cannot_stand_leaves_the_earlier_one(tmp_path: Path, rows: pa.Table, message: str) -> None:
    before, _ = write_table("difficulty", table(mined(7)), tmp_path, [])
    with pytest.raises(ContractError, match=message):
        write_table("difficulty", rows, tmp_path, [])
    assert before.holds()
    assert {p.name for p in tmp_path.iterdir()} <= {"difficulty.parquet", "quarantine"}


def test_a_clean_table_takes_the_last_attempts_quarantine_away(tmp_path: Path) -> None:
    write_table("difficulty", table(mined(1), mined(2, pool="?")), tmp_path, [])
    write_table("difficulty", table(mined(1)), tmp_path, [])
    assert list((tmp_path / "quarantine").iterdir()) == []


def test_no_room_is_said_before_anything_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before, _ = write_table("difficulty", table(mined(1)), tmp_path, [])
    monkeypatch.setattr(publish, "RESERVE", 2**60)
    with pytest.raises(DiskFull, match=r"difficulty.parquet: no room left .* MB are needed, .* set DISCERN_HOME"):
        write_table("difficulty", table(mined(1), mined(2)), tmp_path, [])
    assert before.holds()


def test_a_disk_that_fills_up_while_writing_leaves_the_earlier_table(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before, _ = write_table("difficulty", table(mined(1)), tmp_path, [])
    beside = tmp_path / f".difficulty.parquet.{publish.os.getpid()}.part"
    beside.symlink_to("/dev/full")  # every write to it is refused for lack of room
    monkeypatch.setattr(job, "free_bytes", lambda path: 5 * 2**20)
    with pytest.raises(DiskFull, match="5 MB are free"):
        write_table("difficulty", table(mined(1), mined(2)), tmp_path, [])
    assert before.holds()
    assert [p.name for p in tmp_path.iterdir()] == ["difficulty.parquet"]


def test_a_folder_moves_in_and_replaces_the_earlier_one(tmp_path: Path) -> None:
    for weights in ("first", "second"):
        out = tmp_path / "train" / "out"
        out.mkdir(parents=True)
        (out / weights).write_text(weights)
        ref = move_in("student", out, tmp_path)
        assert [p.name for p in ref.path.iterdir()] == [weights]
        assert ref.holds()
        assert not out.exists()
    again = move_in("student", ref.path, tmp_path)
    assert again == ref
    assert sorted(p.name for p in tmp_path.iterdir()) == ["student", "train"]


def test_a_file_moves_in_with_its_suffix(tmp_path: Path) -> None:
    decision = tmp_path / "decision.json"
    decision.write_text("{}")
    ref = move_in("alias", decision, tmp_path)
    assert (ref.path.name, ref.holds()) == ("alias.json", True)
