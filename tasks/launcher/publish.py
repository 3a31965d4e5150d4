"""Publishing: write beside, check the contract, set offending rows aside, rename. Nothing stands half-published.

Ours, not of a paper.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from data_contracts.check import ContractError, Findings, check
from data_contracts.records import SCHEMAS
from data_contracts.refs import Ref, digest_of
from tasks.launcher.job import DiskFull, disk_full, free_bytes

QUARANTINE = pa.schema(
    [
        ("id", pa.string()),
        ("row", pa.int64()),  # position in the table as the stage made it, null where the stage left the row out
        ("column", pa.string()),
        ("expectation", pa.string()),
        ("value", pa.string()),
        ("reason", pa.string()),
        ("record", pa.string()),  # JSON: the whole row, or what else the stage says of it
    ]
)
RESERVE = 32 * 2**20  # bytes that must stay free beside what is about to be written


def write_table(kind: str, table: pa.Table, folder: Path, left_out: list[dict[str, Any]]) -> tuple[Ref, list[dict]]:
    """Publish a table as ``<folder>/<kind>.parquet``; returns its ref and every row that is not in it, with the reason.

    left_out: rows the stage itself left out, each with ``id`` and ``reason``. They and the rows that break the contract
    go to ``<folder>/quarantine/<kind>.parquet``.
    Raises ContractError if the table breaks its contract as a whole or no row is left, DiskFull.
    """
    table = _conform(kind, table)
    findings = check(kind, table)
    quarantined = [*left_out, *_offending(table, findings)]
    quarantine = folder / "quarantine" / f"{kind}.parquet"
    if quarantined:
        rows = [_quarantine_row(row) for row in quarantined]
        _write_parquet(pa.Table.from_pylist(rows, schema=QUARANTINE), quarantine)
    else:
        quarantine.unlink(missing_ok=True)
    kept = table
    if findings.offending:
        kept = table.filter(pa.array([row not in findings.offending for row in range(table.num_rows)]))
    if findings.table or (table.num_rows and not kept.num_rows):
        raise ContractError(_refusal(kind, table, findings, quarantine if quarantined else None))
    path = folder / f"{kind}.parquet"
    _write_parquet(kept, path)
    return Ref(kind, str(path), digest_of(path), kept.num_rows), quarantined


def move_in(kind: str, source: Path, folder: Path) -> Ref:
    """Publish a finished file or folder as ``<folder>/<kind>``, a file with its suffix; `source` may already be it."""
    path = folder / (kind + source.suffix if source.is_file() else kind)
    with disk_space(path, 0):
        _sync(source)
        if source != path:
            aside = path.with_name(f".{path.name}.old")
            _remove(aside)
            if path.exists():
                path.rename(aside)
            source.rename(path)
            _remove(aside)
        _sync_folder(path.parent)
    return Ref(kind, str(path), digest_of(path), 0)


@contextlib.contextmanager
def disk_space(path: Path, num_bytes: int) -> Iterator[None]:
    """Around writing about `num_bytes` at a path. Raises DiskFull, before if there is no room, or when it runs out."""
    if free_bytes(path) < num_bytes + RESERVE:
        raise disk_full(path, num_bytes + RESERVE)
    try:
        yield
    except OSError as error:
        if error.errno == errno.ENOSPC and not isinstance(error, DiskFull):
            raise disk_full(path, num_bytes) from error
        raise


def _conform(kind: str, table: pa.Table) -> pa.Table:
    schema = SCHEMAS[kind]
    if table.schema.equals(schema) or set(table.column_names) != set(schema.names):
        return table  # other columns: the contract names them
    try:
        return table.select(schema.names).cast(schema)
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
        raise ContractError(f"{kind}: a column cannot be read as data_contracts/records.py has it: {error}") from error


def _offending(table: pa.Table, findings: Findings) -> list[dict[str, Any]]:
    positions = sorted(findings.offending)
    records = dict(zip(positions, table.take(pa.array(positions, pa.int64())).to_pylist(), strict=True))
    return [{**finding, "record": records[finding["row"]]} for finding in findings.rows]


def _quarantine_row(row: dict[str, Any]) -> dict[str, Any]:
    """As the Parquet holds it; what a stage says beyond the columns goes to ``record``."""
    said = {name: row.get(name) for name in QUARANTINE.names}
    others = {name: value for name, value in row.items() if name not in said}
    record = row.get("record", others) or None
    return {
        **said,
        "id": str(row["id"]),
        "value": None if said["value"] is None else str(said["value"]),
        "record": record if record is None or isinstance(record, str) else json.dumps(record, default=str),
    }


def _refusal(kind: str, table: pa.Table, findings: Findings, quarantine: Path | None) -> str:
    if findings.table:
        return "; ".join(findings.table)
    first = findings.rows[0]
    return (
        f"{kind}: not one of {table.num_rows} rows meets the contract; first: {first['id']}: {first['column']}: "
        f"{first['reason']} (is {first['value']}); all of them are in {quarantine}"
    )


def _write_parquet(table: pa.Table, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(f".{path.name}.{os.getpid()}.part")
    with disk_space(path, table.nbytes):
        try:
            with beside.open("wb") as stream:
                pq.write_table(table, stream)
                stream.flush()
                os.fsync(stream.fileno())
            beside.replace(path)
        finally:
            beside.unlink(missing_ok=True)
        _sync_folder(path.parent)


def _sync(path: Path) -> None:
    for file in [path] if path.is_file() else [p for p in path.rglob("*") if p.is_file()]:
        with file.open("rb") as stream:
            os.fsync(stream.fileno())


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
