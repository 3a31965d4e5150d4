"""A stage as Prefect runs it: its cache key, its retry rule, its folder, and how it publishes what it made.

A verb's whole ``task.py``:

    @task(**stage_options("compress"))
    def compress(run: Run, config: PipelineConfig, annotations: Ref) -> Ref:
        with open_stage("compress", run, config, {"annotations": annotations}) as stage:
            from tasks.compress.merge import merge
            return stage.publish_table("dialogues", merge(annotations.path, config.compress))

Imports no Prefect. Ours, not of a paper.
"""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from data_contracts.check import ContractError, check
from data_contracts.refs import Ref, Run, digest_of
from pipeline_config.schema import ConfigError, PipelineConfig
from tasks.launcher.child import LOGGER, ChildFailed, run_child
from tasks.launcher.job import DiskFull, Job

RETRY_DELAYS = [2, 8, 30]


def stage_options(stage: str) -> dict[str, Any]:
    """Keyword arguments for Prefect's `@task`: name, retries and their rule, cache key, persistence."""
    return {
        "name": stage,
        "retries": len(RETRY_DELAYS),
        "retry_delay_seconds": RETRY_DELAYS,
        "retry_condition_fn": may_retry,
        "persist_result": True,
    }


def may_retry(task: Any, task_run: Any, state: Any) -> bool:
    """False where a retry would only repeat the failure: configuration, contract, full disk, a user's error."""
    error = getattr(state, "data", None)
    if isinstance(error, ConfigError | ContractError | DiskFull):
        return False
    return not (isinstance(error, ChildFailed) and not error.retryable)


class Stage:
    """One stage of one run, while it runs. Made by `open_stage`."""

    def __init__(self, name: str, run: Run, config: PipelineConfig, inputs: dict[str, Ref]) -> None:
        self.name, self.run, self.config, self.inputs = name, run, config, inputs
        self.folder = run.folder / name
        self.folder.mkdir(parents=True, exist_ok=True)

    def child(
        self, module: str, options: dict[str, Any] | None = None, devices: int = 1, *, name: str | None = None
    ) -> dict[str, Any]:
        """Run a module of this verb in a child process (`tasks.launcher.child.run_child`) and return its facts.

        The child's `Job`: inputs = the stage's; folder = ``<stage folder>/<name>`` (default: the module's last word),
        survives a retry; out = ``<that folder>/out``, to be given to `publish_folder`. Give children of the same module
        different names.
        """
        folder = self.folder / (name or module.rpartition(".")[2])
        job = Job(
            config=self.config,
            inputs={key: ref.uri for key, ref in self.inputs.items()},
            out=folder / "out",
            folder=folder,
            seed=self.config.seed,
            options=options or {},
        )
        return run_child(module, job.to_dict(), folder, devices=devices, on_progress=self._on_progress)

    def publish_table(self, kind: str, table: pa.Table, quarantine: list[dict[str, Any]] | None = None) -> Ref:
        """Write, check, rename, record. Offending rows and `quarantine` go to a Parquet beside, with the reason.

        quarantine: rows that the stage itself left out: dicts with at least ``id`` and ``reason``.
        Raises ContractError if the table as a whole breaks its contract or nothing is left, DiskFull.
        """
        findings = check(kind, table)
        if not findings.ok:
            raise ContractError(f"{self.name}: {kind}: {findings}")
        path = self.folder / f"{kind}.parquet"
        beside = path.with_suffix(".part")
        pq.write_table(table, beside)
        beside.replace(path)
        return Ref(kind, str(path), digest_of(path), table.num_rows)

    def publish_folder(self, kind: str, folder: Path) -> Ref:
        """Move a finished folder (a student) to its place, ``<stage folder>/<kind>``, and record it."""
        path = self.folder / kind
        if folder != path:
            if path.exists():
                shutil.rmtree(path)
            folder.replace(path)
        return Ref(kind, str(path), digest_of(path), 0)

    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
        """Metrics of the stage's MLflow run."""

    def log_artifact(self, path: Path) -> None:
        """A file to stand beside the stage's MLflow run."""

    def progress(self, done: float, total: float, **figures: float) -> None:
        """How far the stage is: a bar with ETA in a terminal, else a log line now and then."""

    def note(self, **facts: Any) -> None:
        """Numbers and short words that go to the lineage, the summary and the stage's table in Prefect's UI."""

    def _on_progress(self, figures: dict[str, float]) -> None:
        self.progress(**figures)


@contextlib.contextmanager
def open_stage(stage: str, run: Run, config: PipelineConfig, inputs: dict[str, Ref]) -> Iterator[Stage]:
    """The stage's folder, lineage rows, MLflow run and progress, for as long as it runs."""
    LOGGER.info("%s: started", stage)
    yield Stage(stage, run, config, inputs)
