"""The analysts' database: ``manifest.duckdb`` under the home, a symlink to the newest snapshot of the lineage.

    duckdb -readonly runs/manifest.duckdb 'SELECT * FROM ancestry LIMIT 3'

A snapshot is a new file each time and never written again, so whoever reads one never stops the pipeline, and what
becomes of it (a reader that opens it for writing and is killed) touches no later one. Besides the lineage's tables it
holds a view per dataset kind over the published Parquet files, with the ``dataset_id`` and the pipeline's ``run_id`` of
each row, and the views of ``data_contracts/views``. Ours, not of a paper.
"""

from __future__ import annotations

import contextlib
import os
import uuid
from datetime import UTC, datetime
from pathlib import Path

import duckdb

import data_contracts
from data_contracts.records import SCHEMAS
from tasks.lineage.store import Lineage

VIEWS = Path(data_contracts.__file__).parent / "views"
# In the order in which they build on one another.
VIEW_NAMES = (
    *("stage_runs", "contract_failures", "made_from", "ancestry", "rollout_ancestry", "evaluation_ancestry"),
    *("difficulty_by_sub_task", "teacher_cost", "model_card"),
)
MANIFEST = "manifest.duckdb"
KEPT = 3  # a reader may have resolved the symlink just before it moved


def snapshot(lineage: Lineage) -> Path:
    """Make a new snapshot and point ``manifest.duckdb`` to it. Returns the symlink."""
    folder = lineage.folder / "snapshots"
    folder.mkdir(parents=True, exist_ok=True)
    with lineage.locked():
        new = folder / f"{datetime.now(UTC):%Y%m%dT%H%M%S.%fZ}-{uuid.uuid4().hex[:8]}.duckdb"
        try:
            _copy(lineage, new)
            _create_views(new)
        except BaseException:
            new.unlink(missing_ok=True)
            raise
        new.chmod(0o444)
        manifest = lineage.home / MANIFEST
        beside = manifest.with_name(f".{MANIFEST}.{new.stem}")
        beside.symlink_to(os.path.relpath(new, lineage.home))
        beside.replace(manifest)
        for old in sorted(folder.glob("*.duckdb"))[:-KEPT]:
            old.unlink(missing_ok=True)
            old.with_name(old.name + ".wal").unlink(missing_ok=True)
    return manifest


def _copy(lineage: Lineage, new: Path) -> None:
    with contextlib.closing(lineage.open()) as connection:
        connection.execute(f"ATTACH {_quoted(new)} AS snapshot")
        connection.execute("COPY FROM DATABASE lineage TO snapshot")
        connection.execute("DETACH snapshot")


def _create_views(path: Path) -> None:
    with contextlib.closing(duckdb.connect(str(path))) as connection:
        for kind in SCHEMAS:
            connection.execute(_rows_view(connection, kind))
        for name in VIEW_NAMES:
            connection.execute((VIEWS / f"{name}.sql").read_text())


def _rows_view(connection: duckdb.DuckDBPyConnection, kind: str) -> str:
    """The view over all published rows of a kind: each content once, from a file that still stands.

    It has the kind's present columns, null in files that were published without them.
    """
    connection.register("no_rows", SCHEMAS[kind].empty_table())
    columns = connection.execute("DESCRIBE SELECT * FROM no_rows").fetchall()
    connection.unregister("no_rows")
    nulls = ", ".join(f"CAST(NULL AS {column[1]}) AS {column[0]}" for column in columns)
    no_rows = f"SELECT {nulls}, CAST(NULL AS VARCHAR) AS dataset_id, CAST(NULL AS VARCHAR) AS run_id WHERE false"
    published = connection.execute(
        "SELECT DISTINCT dataset_id, uri FROM output WHERE kind = ? ORDER BY ALL", [kind]
    ).fetchall()
    paths = {dataset_id: uri for dataset_id, uri in published if _is_readable(connection, uri)}
    if not paths:
        return f"CREATE VIEW {kind} AS {no_rows}"
    files = ", ".join(_quoted(uri) for uri in paths.values())
    names = ", ".join(f"({_quoted(uri)}, {_quoted(dataset_id)})" for dataset_id, uri in paths.items())
    return f"""
        CREATE VIEW {kind} AS
        {no_rows}
        UNION ALL BY NAME
        SELECT file.* EXCLUDE (filename), dataset.dataset_id, maker.parent_run_id AS run_id
        FROM read_parquet([{files}], union_by_name = true, filename = true) AS file
        JOIN (VALUES {names}) AS published (uri, dataset_id) ON published.uri = file.filename
        JOIN dataset ON dataset.dataset_id = published.dataset_id
        LEFT JOIN run AS maker ON maker.run_id = dataset.run_id"""


def _is_readable(connection: duckdb.DuckDBPyConnection, uri: str) -> bool:
    """False for a file that was deleted or spoilt: one view over all files must not fail for it."""
    try:
        connection.execute(f"DESCRIBE SELECT * FROM read_parquet({_quoted(uri)})").fetchall()
    except duckdb.Error:
        return False
    return True


def _quoted(text: Path | str) -> str:
    return "'" + str(text).replace("'", "''") + "'"
