"""The lineage: which run of which job read and wrote which dataset, in DuckDB under the home.

    lineage = Lineage(run.home)
    stage_run_id = lineage.record_stage(run, "compress", {"annotations": ref}, source_digest)
    lineage.record_dataset(stage_run_id, published)
    lineage.end_stage(stage_run_id, "complete", seconds, facts)

DuckDB lets one process write and locks readers out meanwhile. So the file here is private, each call opens and closes
it behind one lock that holds across processes, and analysts read snapshots (`tasks.lineage.snapshot`). A retry records
nothing twice. Ours, not of a paper.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa

import data_contracts
from data_contracts.refs import Ref, Run, text_digest

SCHEMA_FILE = Path(data_contracts.__file__).parent / "lineage.sql"
FOLDER = "lineage"
PATIENCE_SECONDS = 120.0
_QUARANTINED = pa.schema(
    [
        (name, pa.string())
        for name in ("run_id", "kind", "row_id", "column_name", "expectation", "value", "reason", "uri")
    ]
)


class LineageBusy(RuntimeError):
    """The private file could not be opened in time: another program holds it open."""


def stage_run_id(run_id: str, stage: str) -> str:
    """Id of a stage's run: the same on every retry."""
    return text_digest(f"{run_id}/{stage}")


class Lineage:
    """Writer and reader of one home's lineage. Keeps nothing open between calls; safe across threads and processes."""

    def __init__(self, home: Path | str, patience: float = PATIENCE_SECONDS) -> None:
        self.home = Path(home)
        self.folder = self.home / FOLDER
        self.path = self.folder / "lineage.duckdb"
        self.patience = patience

    # ------------------------------------------------------------------------------------------------- pipeline runs
    def record_run(self, run: Run, name: str, config: Mapping[str, Any], seed: int) -> None:
        """A pipeline's run has begun, or goes on."""
        with self.connection() as connection:
            connection.execute(
                """INSERT INTO run (run_id, name, state, attempts, started_at, mlflow_run_id, seed, config)
                   VALUES (?, ?, 'running', 1, ?, ?, ?, ?)
                   ON CONFLICT (run_id) DO UPDATE SET state = 'running', attempts = attempts + 1, reason = NULL""",
                [run.run_id, name, _now(), run.mlflow_run_id, seed, json.dumps(config)],
            )

    def end_run(self, run_id: str, state: str, seconds: float, reason: str | None = None) -> None:
        """A pipeline's run has ended: ``complete``, ``failed`` or ``cancelled``."""
        self._end(run_id, state, seconds, reason, None)

    # --------------------------------------------------------------------------------------------------- stages' runs
    def record_stage(
        self,
        run: Run,
        stage: str,
        inputs: Mapping[str, Ref],
        source_digest: str,
        mlflow_run_id: str | None = None,
        mlflow_url: str | None = None,
    ) -> str:
        """A stage's run has begun, or is tried again. Returns its id."""
        run_id, job_id = stage_run_id(run.run_id, stage), text_digest(f"{stage}/{source_digest}")
        with self.connection() as connection:
            connection.execute(
                "INSERT INTO job VALUES (?, ?, ?) ON CONFLICT DO NOTHING", [job_id, stage, source_digest]
            )
            connection.execute(
                """INSERT INTO run (run_id, parent_run_id, name, job_id, state, attempts, started_at, mlflow_run_id,
                                    mlflow_url)
                   VALUES (?, ?, ?, ?, 'running', 1, ?, ?, ?)
                   ON CONFLICT (run_id) DO UPDATE
                   SET state = 'running', attempts = attempts + 1, reason = NULL, job_id = excluded.job_id""",
                [run_id, run.run_id, stage, job_id, _now(), mlflow_run_id, mlflow_url],
            )
            for name, ref in inputs.items():
                _insert_dataset(connection, ref, None)
                connection.execute(
                    "INSERT OR REPLACE INTO input VALUES (?, ?, ?, ?)", [run_id, name, ref.digest, ref.uri]
                )
        return run_id

    def end_stage(
        self, run_id: str, state: str, seconds: float, facts: Mapping[str, Any], reason: str | None = None
    ) -> None:
        """A stage's run has ended: ``complete``, ``failed`` (with the reason) or ``cancelled``."""
        self._end(run_id, state, seconds, reason, facts)

    def record_dataset(self, run_id: str, ref: Ref) -> None:
        """A stage's run has published a dataset; publishing the kind again replaces it."""
        with self.connection() as connection:
            _insert_dataset(connection, ref, run_id)
            connection.execute(
                "INSERT OR REPLACE INTO output VALUES (?, ?, ?, ?)", [run_id, ref.kind, ref.digest, ref.uri]
            )

    def record_quarantine(self, run_id: str, kind: str, rows: Sequence[Mapping[str, Any]], uri: str) -> None:
        """Rows left out of a dataset that a stage's run publishes, each with ``id``, ``reason`` and, from a contract,
        ``column``, ``expectation`` and ``value``."""
        renamed = {"row_id": "id", "column_name": "column"}
        records = [
            {name: _text(row.get(renamed.get(name, name))) for name in _QUARANTINED.names}
            | {"run_id": run_id, "kind": kind, "uri": uri}
            for row in rows
        ]
        arrow = pa.Table.from_pylist(records, schema=_QUARANTINED)
        with self.connection() as connection:
            connection.execute("DELETE FROM quarantined WHERE run_id = ? AND kind = ?", [run_id, kind])
            connection.register("rows_left_out", arrow)
            connection.execute("INSERT INTO quarantined SELECT * FROM rows_left_out")
            connection.unregister("rows_left_out")

    def record_reuse(self, run: Run, stage: str, ref: Ref) -> None:
        """A stage was cached: this run reuses what an earlier run of the stage made, its inputs and all its outputs."""
        run_id = stage_run_id(run.run_id, stage)
        with self.connection() as connection:
            found = connection.execute(
                """SELECT run_id FROM output JOIN run USING (run_id)
                   WHERE dataset_id = ? AND uri = ? AND name = ? AND state = 'complete' AND run_id <> ?
                   ORDER BY started_at DESC LIMIT 1""",
                [ref.digest, ref.uri, stage, run_id],
            ).fetchall()
            maker = found[0][0] if found else None
            connection.execute(
                """INSERT INTO run (run_id, parent_run_id, name, state, attempts, started_at, ended_at, seconds,
                                    reused_run_id)
                   VALUES (?, ?, ?, 'cached', 0, ?, ?, 0, ?)
                   ON CONFLICT (run_id) DO UPDATE SET state = 'cached', reused_run_id = excluded.reused_run_id""",
                [run_id, run.run_id, stage, _now(), _now(), maker],
            )
            _insert_dataset(connection, ref, None)
            connection.execute(
                "INSERT OR REPLACE INTO output VALUES (?, ?, ?, ?)", [run_id, ref.kind, ref.digest, ref.uri]
            )
            for name, key in (("input", "name"), ("output", "kind")):
                connection.execute(
                    f"INSERT OR REPLACE INTO {name} SELECT ?, {key}, dataset_id, uri FROM {name} WHERE run_id = ?",
                    [run_id, maker],
                )

    # --------------------------------------------------------------------------------------------------------- reading
    def stage_run(self, run: Run, stage: str) -> dict[str, Any] | None:
        """The stage's row in this pipeline's run, None if it has none.

        Columns of ``run``, of which ``mlflow_run_id``, ``mlflow_url`` and ``facts`` are those of the run that made the
        output, for a cached stage an earlier one; as are ``made_by_run_id`` (the pipeline's run), ``made_in_seconds``
        and ``num_quarantined``.
        """
        rows = self.read(
            """SELECT run.*, maker.parent_run_id AS made_by_run_id, maker.seconds AS made_in_seconds,
                      maker.mlflow_run_id AS maker_mlflow_run_id, maker.mlflow_url AS maker_mlflow_url,
                      maker.facts AS maker_facts,
                      (SELECT count(DISTINCT (kind, row_id)) FROM quarantined WHERE run_id = maker.run_id)
                      AS num_quarantined
               FROM run LEFT JOIN run maker ON maker.run_id = coalesce(run.reused_run_id, run.run_id)
               WHERE run.run_id = ?""",
            [stage_run_id(run.run_id, stage)],
        )
        if not rows:
            return None
        row = rows[0]
        row["mlflow_run_id"], row["mlflow_url"] = row.pop("maker_mlflow_run_id"), row.pop("maker_mlflow_url")
        row["facts"] = json.loads(row.pop("maker_facts") or "{}")
        return row

    def read(self, sql: str, parameters: Sequence[Any] = ()) -> list[dict[str, Any]]:
        """Rows of a query on the private file, as dictionaries."""
        with self.connection() as connection:
            cursor = connection.execute(sql, list(parameters))
            names = [column[0] for column in cursor.description or ()]
            return [dict(zip(names, row, strict=True)) for row in cursor.fetchall()]

    def snapshot(self) -> Path:
        """Give analysts what has been recorded so far: `tasks.lineage.snapshot.snapshot`."""
        from tasks.lineage.snapshot import snapshot

        return snapshot(self)

    # ---------------------------------------------------------------------------------------------------------- inside
    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Hold the one lock; it is let go when the process ends, however it ends."""
        self.folder.mkdir(parents=True, exist_ok=True)
        deadline = time.monotonic() + self.patience
        descriptor = os.open(self.folder / "lock", os.O_RDWR | os.O_CREAT, 0o644)
        try:
            while True:
                try:
                    fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    break
                except BlockingIOError:
                    self._wait(deadline, "another process of the pipeline holds its lock")
            yield
        finally:
            os.close(descriptor)

    @contextlib.contextmanager
    def connection(self) -> Iterator[duckdb.DuckDBPyConnection]:
        """The lock and a connection in one transaction: all of a call is recorded, or nothing."""
        with self.locked(), contextlib.closing(self.open()) as connection:
            connection.begin()
            try:
                yield connection
            except BaseException:
                connection.rollback()
                raise
            connection.commit()

    def open(self) -> duckdb.DuckDBPyConnection:
        """A connection to the private file; only while `locked`."""
        deadline = time.monotonic() + self.patience
        while True:
            try:
                connection = duckdb.connect(str(self.path))
                break
            except duckdb.IOException as error:
                self._wait(deadline, str(error))
        connection.execute(SCHEMA_FILE.read_text())
        return connection

    def _wait(self, deadline: float, why: str) -> None:
        if time.monotonic() > deadline:
            raise LineageBusy(
                f"{self.path} is in use ({why}); close what holds it, read {self.home / 'manifest.duckdb'}"
            )
        time.sleep(0.02)

    def _end(
        self, run_id: str, state: str, seconds: float, reason: str | None, facts: Mapping[str, Any] | None
    ) -> None:
        with self.connection() as connection:
            connection.execute(
                """UPDATE run SET state = ?, ended_at = ?, seconds = coalesce(seconds, 0) + ?, reason = ?,
                                  facts = coalesce(?, facts) WHERE run_id = ?""",
                [state, _now(), seconds, reason, json.dumps(facts, default=str) if facts is not None else None, run_id],
            )


def _insert_dataset(connection: duckdb.DuckDBPyConnection, ref: Ref, maker: str | None) -> None:
    connection.execute(
        """INSERT INTO dataset VALUES (?, ?, ?, ?, ?, ?)
           ON CONFLICT (dataset_id) DO UPDATE SET run_id = coalesce(run_id, excluded.run_id)""",
        [ref.digest, ref.kind, ref.rows, num_bytes(ref.path), maker, _now()],
    )


def num_bytes(path: Path) -> int:
    """Bytes of a file, or of all files of a folder; 0 if nothing stands there."""
    if path.is_dir():
        return sum(p.stat().st_size for p in path.rglob("*") if p.is_file())
    return path.stat().st_size if path.exists() else 0


def _now() -> datetime:
    return datetime.now(UTC).replace(tzinfo=None)


def _text(value: Any) -> str | None:
    return None if value is None else str(value)
