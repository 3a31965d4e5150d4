"""The rollouts table: parts, what a restart throws away, the merge."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from data_contracts.records import ROLLOUTS
from tasks.grpo.rollouts import discard_after, merge_parts, rollout_id, write_part


def row(step: int, rollout: int, reward: float = 1.0) -> dict[str, Any]:
    return {
        "rollout_id": rollout_id("run/grpo", step, "d", rollout),
        "step": step,
        "dialogue_id": "d",
        "rollout": rollout,
        "prompt": "1. Which?",
        "completion": "<think></think><answer>B</answer>",
        "reward": reward,
        "parts": {"accuracy": reward, "format": None},
        "advantage": 0.5,
        "num_tokens": 7,
        "truncated": False,
    }


def test_parts_merge_in_the_order_of_steps_and_read_back(tmp_path: Path) -> None:
    for step, rank in [(10, 0), (2, 1), (2, 0)]:
        write_part(tmp_path / "parts", step, rank, [row(step, 2 * rank), row(step, 2 * rank + 1)])
    assert merge_parts(tmp_path / "parts", tmp_path / "rollouts.parquet") == 6
    table = pq.read_table(tmp_path / "rollouts.parquet")
    assert table.schema.equals(ROLLOUTS)
    rows = table.to_pylist()
    assert [(r["step"], r["rollout"]) for r in rows] == [(2, 0), (2, 1), (2, 2), (2, 3), (10, 0), (10, 1)]
    assert dict(rows[0]["parts"]) == {"accuracy": 1.0, "format": None}
    assert len({r["rollout_id"] for r in rows}) == 6


def test_a_restart_throws_away_what_the_checkpoint_has_not_seen(tmp_path: Path) -> None:
    for step in range(1, 6):
        write_part(tmp_path, step, 0, [row(step, 0)])
    (tmp_path / "step-000006-rank-000.part").write_bytes(b"half a file")
    assert discard_after(tmp_path, 3) == 2
    assert sorted(p.name for p in tmp_path.iterdir()) == [f"step-{s:06d}-rank-000.parquet" for s in (1, 2, 3)]


def test_a_step_written_again_replaces_itself(tmp_path: Path) -> None:
    write_part(tmp_path / "parts", 1, 0, [row(1, 0, reward=0.0)])
    write_part(tmp_path / "parts", 1, 0, [row(1, 0, reward=1.0)])
    assert merge_parts(tmp_path / "parts", tmp_path / "out.parquet") == 1
    assert pq.read_table(tmp_path / "out.parquet")["reward"].to_pylist() == [1.0]


def test_no_step_gives_an_empty_table(tmp_path: Path) -> None:
    assert merge_parts(tmp_path / "none", tmp_path / "out.parquet") == 0
    assert pq.read_table(tmp_path / "out.parquet").schema.equals(ROLLOUTS)


def test_ids_tell_runs_steps_dialogues_and_rollouts_apart() -> None:
    ids = {rollout_id(r, s, d, g) for r in ("a", "b") for s in (1, 11) for d in ("x", "y") for g in (0, 1)}
    assert len(ids) == 16
    assert rollout_id("a", 1, "x", 0) in ids
