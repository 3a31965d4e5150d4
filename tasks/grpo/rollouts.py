"""The rollouts of every step as a table: one small Parquet part per step while training, one table at the end.

Parts make a resume exact: a part is written whole or not at all, and parts of steps that the checkpoint has not seen
are thrown away before those steps run again, so no row is double.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from data_contracts.records import ROLLOUTS
from data_contracts.refs import text_digest
from tasks.launcher.parts import read_rows, write_rows

_PART = re.compile(r"step-(\d+)-rank-(\d+)\.parquet")


def rollout_id(stage_run: str, step: int, dialogue_id: str, rollout: int) -> str:
    """Content id of one rollout of one stage run; a retry gives the same ids."""
    return text_digest("\n".join([stage_run, str(step), dialogue_id, str(rollout)]))


def write_part(folder: Path, step: int, rank: int, rows: Sequence[Mapping[str, Any]]) -> None:
    """Write one rank's rows of one step (keys of ROLLOUTS, ``parts`` a dict), replacing what stood there."""
    path = folder / f"step-{step:06d}-rank-{rank:03d}.parquet"
    write_rows(path, [{**row, "parts": list(row["parts"].items())} for row in rows], ROLLOUTS)


def discard_after(folder: Path, step: int) -> int:
    """Remove the parts of steps after ``step``, and half-written ones; the number of parts removed."""
    stale = [path for path, part_step in _parts(folder) if part_step > step]
    for path in [*stale, *folder.glob("*.part")]:
        path.unlink()
    return len(stale)


def merge_parts(folder: Path, out: Path) -> int:
    """Write all parts as one Parquet file in the order of steps and ranks; the number of rows."""
    table = read_rows([path for path, _ in sorted(_parts(folder))], ROLLOUTS)
    write_rows(out, table, ROLLOUTS)
    return int(table.num_rows)


def _parts(folder: Path) -> list[tuple[Path, int]]:
    found = ((path, _PART.fullmatch(path.name)) for path in folder.glob("step-*.parquet"))
    return [(path, int(match[1])) for path, match in found if match]
