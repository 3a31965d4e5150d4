"""A stage as Prefect runs it: its cache key, its retry rule, its folder, and how it publishes what it made.

A verb's whole ``task.py``:

    @task(**stage_options("compress"))
    def compress(run: Run, config: PipelineConfig, annotations: Ref) -> Ref:
        with open_stage("compress", run, config, {"annotations": annotations}) as stage:
            from tasks.compress.merge import merge
            return stage.publish_table("dialogues", merge(annotations.path, config.compress))

`open_stage` keeps the stage's lineage row, MLflow run, progress and cache entry, so that a verb does not have to know
them. Imports no Prefect. Ours, not of a paper.
"""

from __future__ import annotations

import contextlib
import errno
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa

from data_contracts.check import ContractError
from data_contracts.refs import Ref, Run
from pipeline_config.schema import ConfigError, PipelineConfig
from tasks.launcher.cache import SECTIONS, CacheEntry, cache_key, stage_digest
from tasks.launcher.child import LOGGER, ChildFailed, run_child
from tasks.launcher.job import DiskFull, Job, disk_full
from tasks.launcher.pace import Pace, likely_cause
from tasks.launcher.publish import disk_space, move_in, write_table
from tasks.launcher.source import source_digest
from tasks.launcher.terminal import Progress
from tasks.lineage.store import Lineage
from tasks.student.duration import expected_seconds, sizes_of
from tasks.student.memory import model_shape
from tasks.student.precision import choice_for
from tasks.tracking.runs import Call, MetricPoint, Tracking

RETRY_DELAYS = [2, 8, 30]  # seconds
FLUSH_AFTER = 200  # metrics
FLUSH_SECONDS = 5.0


# -------------------------------------------------------------------------------------------------- for Prefect's @task
def stage_options(stage: str) -> dict[str, Any]:
    """Keyword arguments for Prefect's `@task`: name, retries and their rule, cache key, persistence.

    The task's parameters are ``run``, ``config`` and refs (or None). Raises KeyError for a stage that
    `tasks.launcher.cache.SECTIONS` does not know.
    """
    assert stage in SECTIONS, f"{stage}: say in tasks/launcher/cache.py which sections of the configuration it reads"

    def cache_key_fn(context: Any, parameters: Mapping[str, Any]) -> str:
        return cache_key(stage, parameters["run"], parameters)

    return {
        "name": stage,
        "retries": len(RETRY_DELAYS),
        "retry_delay_seconds": RETRY_DELAYS,
        "retry_condition_fn": may_retry,
        "cache_key_fn": cache_key_fn,
        "persist_result": True,
    }


def may_retry(task: Any, task_run: Any, state: Any) -> bool:
    """False where a retry would only repeat the failure: configuration, contract, full disk, a user's error."""
    error = getattr(state, "data", None)
    if isinstance(error, ConfigError | ContractError | DiskFull):
        return False
    return not (isinstance(error, ChildFailed) and not error.retryable)


def result_storage(home: Path | str) -> Path:
    """Where Prefect keeps the refs that cached stages return: under the home, like everything else a run writes."""
    return Path(home).absolute() / "cache" / "prefect"


# ------------------------------------------------------------------------------------------------------------ the stage
class Stage:
    """One stage of one run, while it runs. Made by `open_stage`."""

    def __init__(self, name: str, run: Run, config: PipelineConfig, inputs: Mapping[str, Ref]) -> None:
        self.name, self.run, self.config, self.inputs = name, run, config, dict(inputs)
        self.folder = run.folder / name
        self.folder.mkdir(parents=True, exist_ok=True)
        self.published: list[Ref] = []
        self.facts: dict[str, Any] = {}
        self.lineage = Lineage(run.home)
        # A run without an MLflow run is not tracked: a verb tried by hand, a test.
        self.tracking = Tracking(run.home, config.tracking) if run.mlflow_run_id else None
        self.mlflow_run_id = self._mlflow_run()
        url = self.tracking.url(self.mlflow_run_id) if self.tracking and self.mlflow_run_id else None
        source = source_digest(name)
        self.run_id = self.lineage.record_stage(run, name, self.inputs, source, self.mlflow_run_id, url)
        self._progress = Progress(name, LOGGER)
        self._pace: Pace | None = None
        self._points: list[MetricPoint] = []
        self._flushed = time.monotonic()

    def child(
        self, module: str, options: dict[str, Any] | None = None, devices: int = 1, *, name: str | None = None
    ) -> dict[str, Any]:
        """Run a module of this verb in a child process (`tasks.launcher.child.run_child`) and return its facts.

        The child's `Job`: inputs = the stage's; folder = ``<stage folder>/<name>`` (default: the module's last word),
        survives a retry; out = ``<that folder>/out``, to be given to `publish_folder`. Give children of the same module
        different names. Its progress is shown as the stage's, its metrics go to the stage's MLflow run.
        """
        folder = self.folder / (name or module.rpartition(".")[2])
        self._pace = self._expected_pace()
        job = Job(
            config=self.config,
            inputs={key: ref.uri for key, ref in self.inputs.items()},
            out=folder / "out",
            folder=folder,
            seed=self.config.seed,
            options=options or {},
        )
        return run_child(
            module,
            job.to_dict(),
            folder,
            devices=devices,
            env=self._child_environment(),
            on_progress=lambda figures: self.progress(**figures),
            on_metrics=self._on_metrics,
        )

    def publish_table(self, kind: str, table: pa.Table, quarantine: list[dict[str, Any]] | None = None) -> Ref:
        """Publish ``<stage folder>/<kind>.parquet``: write beside, check the contract, rename, record.

        quarantine: rows that the stage itself left out: dicts with at least ``id`` and ``reason``. They and the rows
        that break the contract go to ``<stage folder>/quarantine/<kind>.parquet``; the others are published.
        Raises ContractError if the table as a whole breaks its contract or no row is left, DiskFull.
        """
        ref, left_out = write_table(kind, table, self.folder, quarantine or [])
        where = str(self.folder / "quarantine" / f"{kind}.parquet")
        self.lineage.record_quarantine(self.run_id, kind, left_out, where)
        if left_out:
            num_rows = len({row["id"] for row in left_out})
            LOGGER.warning("%s: %d row(s) of %s in quarantine, with the reason: %s", self.name, num_rows, kind, where)
        return self._record(ref)

    def publish_folder(self, kind: str, folder: Path) -> Ref:
        """Move a finished folder (a student) or file to ``<stage folder>/<kind>``, and record it. Raises DiskFull."""
        return self._record(move_in(kind, folder, self.folder))

    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """Metrics of the stage's MLflow run, sent in batches."""
        self._points += [MetricPoint(name, float(v), step or 0, int(time.time() * 1000)) for name, v in metrics.items()]
        self._flush(if_due=True)

    def log_artifact(self, path: Path) -> None:
        """A file or folder to stand beside the stage's MLflow run."""
        if self.tracking and self.mlflow_run_id:
            self.tracking.log_artifact(self.mlflow_run_id, path)

    def log_trace(self, call: Call) -> None:
        """A call as a trace of the stage's MLflow run."""
        if self.tracking and self.mlflow_run_id:
            self.tracking.log_trace(self.mlflow_run_id, call)

    def progress(self, done: float, total: float, **figures: float) -> None:
        """How far the stage is: a bar with the time left in a terminal, else a log line now and then."""
        self._progress.update(done, total, **figures)
        if self._pace is not None:
            self._pace.update(done, total)

    def note(self, **facts: Any) -> None:
        """Numbers and short words that go to the lineage, the summary and the stage's table in Prefect's UI."""
        self.facts.update(facts)

    # ---------------------------------------------------------------------------------------------------------- inside
    def _mlflow_run(self) -> str | None:
        """The stage's MLflow run: on a retry the same, its id stands in the stage's folder."""
        if self.tracking is None:
            return None
        kept = self.folder / "mlflow_run_id"
        known = kept.read_text().strip() if kept.exists() else None
        tags = {"discern.run_id": self.run.run_id}
        run_id = self.tracking.start_stage(self.run.mlflow_run_id, self.name, tags, known)
        if known is None:
            kept.write_text(run_id)
            sections = {name: getattr(self.config, name).model_dump(mode="json") for name in SECTIONS[self.name]}
            self.tracking.log_params(run_id, {"seed": self.config.seed, **sections})
            for ref in self.inputs.values():
                self.tracking.log_dataset(run_id, ref, "input")
        return run_id

    def _expected_pace(self) -> Pace | None:
        """None for a stage that runs no student, and where the student's size is not known before it is loaded."""
        if "student" not in SECTIONS[self.name] or "dialogues" not in self.inputs:
            return None
        try:
            shape = model_shape(self.config)
        except ConfigError:
            return None
        choice = choice_for(Path(self.run.home))
        sizes = sizes_of(self.inputs["dialogues"].path, self.config)
        expected = expected_seconds(self.config, shape, sizes, choice.operations)[self.name]
        return Pace(self.name, expected, lambda: likely_cause(self.config.student, choice), LOGGER.warning)

    def _child_environment(self) -> dict[str, str]:
        environment = {}
        model = self.config.student.model
        if model.startswith("builtin:") or Path(model).exists():
            environment["HF_HUB_OFFLINE"] = "1"
        if self.config.student.threads:
            environment["OMP_NUM_THREADS"] = str(self.config.student.threads)
        if self.tracking and self.mlflow_run_id:
            environment |= {"MLFLOW_RUN_ID": self.mlflow_run_id, "MLFLOW_TRACKING_URI": self.tracking.uri}
        return environment

    def _record(self, ref: Ref) -> Ref:
        self.lineage.record_dataset(self.run_id, ref)
        if self.tracking and self.mlflow_run_id:
            self.tracking.log_dataset(self.mlflow_run_id, ref, "output")
        self.published = [known for known in self.published if known.kind != ref.kind] + [ref]
        rows = f", {ref.rows:,} rows" if ref.rows else ""
        LOGGER.info("%s: published %s%s, %s", self.name, ref.kind, rows, ref.uri)
        return ref

    def _on_metrics(self, sent: Mapping[str, Any]) -> None:
        step, when = int(sent["step"]), int(sent["milliseconds"])
        self._points += [MetricPoint(name, value, step, when) for name, value in sent["metrics"].items()]
        self._flush(if_due=True)

    def _flush(self, if_due: bool = False) -> None:
        due = len(self._points) >= FLUSH_AFTER or time.monotonic() - self._flushed > FLUSH_SECONDS
        if if_due and not due:
            return
        points, self._points, self._flushed = self._points, [], time.monotonic()
        if points and self.tracking and self.mlflow_run_id:
            self.tracking.log_metrics(self.mlflow_run_id, points)

    def _end(self, state: str, status: str, seconds: float, reason: str | None = None) -> None:
        """Record how it ended; what is recorded about a failure must not hide the failure."""
        facts = {name: value for name, value in self.facts.items() if value is not None}
        numbers = {name: float(v) for name, v in facts.items() if isinstance(v, int | float)}
        with contextlib.suppress(*([Exception] if reason else [])):
            self.log_metrics({"seconds": seconds, **numbers})
            self._flush()
            if self.tracking and self.mlflow_run_id:
                self.tracking.end(self.mlflow_run_id, status)
        with contextlib.suppress(*([Exception] if reason else [])):
            self.lineage.end_stage(self.run_id, state, seconds, facts, reason)
            self.lineage.snapshot()


@contextlib.contextmanager
def open_stage(stage: str, run: Run, config: PipelineConfig, inputs: Mapping[str, Ref | None]) -> Iterator[Stage]:
    """The stage's folder, lineage row, MLflow run, progress and cache entry, for as long as it runs.

    inputs: name -> ref; None is left out. On a retry it is the same folder, lineage row and MLflow run.
    Raises DiskFull for an OSError that says so, else what the stage raises, recorded as the reason of the failure.
    """
    given = {name: ref for name, ref in inputs.items() if ref is not None}
    digest = stage_digest(stage, config, given)
    with disk_space(run.folder / stage, 0):
        opened = Stage(stage, run, config, given)
    started = time.monotonic()
    LOGGER.info("%s: started in %s", stage, opened.folder)
    try:
        with opened._progress:
            yield opened
        CacheEntry(Path(run.home), digest).add(opened.published)
        opened._end("complete", "FINISHED", time.monotonic() - started)
    except Exception as error:
        told = _disk_full(error, opened.folder)
        opened._end("failed", "FAILED", time.monotonic() - started, str(told).partition("\n")[0] or repr(told))
        if told is error:
            raise
        raise told from error
    except BaseException as stop:
        # Ctrl-C, or Prefect's answer to SIGTERM: checkpoints stay, the row says so.
        opened._end("cancelled", "KILLED", time.monotonic() - started, type(stop).__name__)
        raise
    LOGGER.info("%s: finished in %.1f s", stage, time.monotonic() - started)


def _disk_full(error: Exception, folder: Path) -> Exception:
    if isinstance(error, OSError) and error.errno == errno.ENOSPC and not isinstance(error, DiskFull):
        return disk_full(Path(error.filename) if isinstance(error.filename, str) else folder, 0)
    return error


# ------------------------------------------------------------------------------------------------------- what it leaves
def stage_facts(run: Run, stage: str, ref: Ref) -> dict[str, Any]:
    """What a stage of this run did, for the summary and for Prefect's UI. Call it once the stage has returned `ref`.

    ``rows``, ``seconds`` (0 if cached), ``cached``, ``quarantined``, ``attempts``, ``kind``, ``dataset_id``, ``uri``,
    ``made_by_run``, ``made_in_seconds``, ``mlflow_run_id``, ``mlflow_url``, ``notes``. Of a cached stage the last five
    are those of the run that made what is reused; that this run reused it is recorded in the lineage (the next snapshot
    shows it).
    """
    lineage = Lineage(run.home)
    row = lineage.stage_run(run, stage)
    if row is None or row["state"] != "complete":
        lineage.record_reuse(run, stage, ref)
        row = lineage.stage_run(run, stage)
    assert row is not None
    return {
        "rows": ref.rows,
        "seconds": row["seconds"],
        "cached": row["state"] == "cached",
        "quarantined": row["num_quarantined"],
        "attempts": row["attempts"],
        "kind": ref.kind,
        "dataset_id": ref.digest,
        "uri": ref.uri,
        "made_by_run": row["made_by_run_id"],
        "made_in_seconds": row["made_in_seconds"],
        "mlflow_run_id": row["mlflow_run_id"],
        "mlflow_url": row["mlflow_url"],
        "notes": row["facts"],
    }


def stage_table(facts: Mapping[str, Any]) -> list[dict[str, str]]:
    """What `stage_facts` tells, as the one row of a table artifact in Prefect's UI."""
    notes = {name: f"{value:.4g}" if isinstance(value, float) else str(value) for name, value in facts["notes"].items()}
    made = f"run {facts['made_by_run']}, {facts['made_in_seconds'] or 0:.1f} s" if facts["cached"] else ""
    return [
        {
            "kind": facts["kind"],
            "rows": f"{facts['rows']:,}",
            "quarantined": f"{facts['quarantined']:,}",
            "seconds": f"{facts['seconds']:.1f}",
            "attempts": str(facts["attempts"]),
            "taken from": made,
            "MLflow": f"[run]({facts['mlflow_url']})" if facts["mlflow_url"] else "",
            "file": facts["uri"],
            **notes,
        }
    ]
