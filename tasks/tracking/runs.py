"""MLflow: one parent run per run of the pipeline, a child per stage, datasets under our own digests.

    tracking = Tracking(home, config.tracking)
    parent = tracking.start_run("demo", {"seed": "0"})
    child = tracking.start_stage(parent, "sft")
    tracking.log_dataset(child, ref, "input")
    tracking.end(child, "FINISHED")

The store is SQLite under the home unless the configuration names another; artifacts stand under the home too, whatever
the current folder is. MLflow (seconds) is imported at the first call, and never asked to send anything anywhere. Runs
are named by id throughout: MLflow's "active run" is per thread, and a stage may run in any. Ours, not of a paper.
"""

from __future__ import annotations

import contextlib
import fcntl
import functools
import json
import logging
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from data_contracts.refs import Ref
from pipeline_config.schema import TrackingConfig

DATABASE = "mlflow.db"
ARTIFACTS = "mlartifacts"
DEFAULT_UI = "http://127.0.0.1:5000"  # where `mlflow server` listens unless told otherwise
ENVIRONMENT = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "DO_NOT_TRACK": "true",
    "MLFLOW_ENABLE_ASYNC_TRACE_LOGGING": "false",  # else what a short run traces is lost at its end
}
MAX_PARAM_CHARACTERS = 500
BATCH = 1000  # metrics of one request, MLflow's own limit


@dataclass(frozen=True)
class MetricPoint:
    """One metric at one step."""

    name: str
    value: float
    step: int = 0
    milliseconds: int = 0  # since the epoch, 0 = now


@dataclass(frozen=True)
class Call:
    """A call of a model that has just ended, after so many seconds."""

    name: str
    inputs: Mapping[str, Any]
    outputs: Mapping[str, Any]
    attributes: Mapping[str, Any]
    seconds: float


def tracking_uri(home: Path | str, config: TrackingConfig) -> str:
    """The tracking (and model registry) store: the configured one, else SQLite under the home. Imports no MLflow."""
    return config.uri or f"sqlite:///{Path(home).absolute() / DATABASE}"


class Tracking:
    """The tracking store of one home. Safe across threads and processes."""

    def __init__(self, home: Path | str, config: TrackingConfig) -> None:
        self.home = Path(home).absolute()
        self.uri = tracking_uri(home, config)
        self.experiment = config.experiment

    # ------------------------------------------------------------------------------------------------------------ runs
    def start_run(self, name: str, tags: Mapping[str, str] | None = None, run_id: str | None = None) -> str:
        """A pipeline's run: a new one, or `run_id` gone on with. Returns its id."""
        return self._start(name, dict(tags or {}), run_id)

    def start_stage(
        self, parent: str, stage: str, tags: Mapping[str, str] | None = None, run_id: str | None = None
    ) -> str:
        """A stage's run under its parent: a new one, or on a retry `run_id` gone on with. Returns its id."""
        return self._start(stage, {"mlflow.parentRunId": parent, "stage": stage, **(tags or {})}, run_id)

    def end(self, run_id: str, status: str = "FINISHED") -> None:
        """status: ``FINISHED``, ``FAILED`` or ``KILLED``."""
        self.client.set_terminated(run_id, status)

    def url(self, run_id: str) -> str:
        """The run's page in MLflow's UI; of a local store, where ``mlflow server`` shows it by default."""
        base = self.uri if self.uri.startswith("http") else DEFAULT_UI
        return f"{base.rstrip('/')}/#/experiments/{self.experiment_id}/runs/{run_id}"

    # ------------------------------------------------------------------------------------------------- what runs carry
    def log_params(self, run_id: str, params: Mapping[str, Any]) -> None:
        """Settings; nested ones get dotted names."""
        from mlflow.entities import Param

        flat = [Param(name, text[:MAX_PARAM_CHARACTERS]) for name, text in _flat(params)]
        for start in range(0, len(flat), 100):
            self.client.log_batch(run_id, params=flat[start : start + 100])

    def log_metrics(self, run_id: str, points: Sequence[MetricPoint]) -> None:
        """Metrics, in batches."""
        from mlflow.entities import Metric

        now = int(time.time() * 1000)
        metrics = [Metric(p.name, p.value, p.milliseconds or now, p.step) for p in points]
        for start in range(0, len(metrics), BATCH):
            self.client.log_batch(run_id, metrics=metrics[start : start + BATCH])

    def log_dataset(self, run_id: str, ref: Ref, context: str) -> None:
        """A dataset or student the run read (context ``input``) or made (``output``), under our digest."""
        from mlflow.entities import Dataset, DatasetInput, InputTag

        dataset = Dataset(
            name=ref.kind,
            digest=ref.digest,
            source_type="local",
            source=json.dumps({"uri": ref.uri}),
            profile=json.dumps({"num_rows": ref.rows}),
        )
        self.client.log_inputs(run_id, [DatasetInput(dataset, [InputTag("mlflow.data.context", context)])])

    def log_artifact(self, run_id: str, path: Path) -> None:
        """A file, or a folder with all it holds."""
        if path.is_dir():
            self.client.log_artifacts(run_id, str(path), path.name)
        else:
            self.client.log_artifact(run_id, str(path))

    def log_trace(self, run_id: str, call: Call) -> None:
        """A call as a trace of the run."""
        client = self.client  # sets the environment
        import mlflow

        mlflow.set_tracking_uri(self.uri)  # traces go to the process's store, whatever the client's is
        ended = time.time_ns()
        span = client.start_trace(
            call.name,
            inputs=dict(call.inputs),
            experiment_id=self.experiment_id,
            run_id=run_id,
            start_time_ns=ended - int(call.seconds * 1e9),
        )
        client.end_trace(span.trace_id, outputs=dict(call.outputs), attributes=dict(call.attributes), end_time_ns=ended)

    # ---------------------------------------------------------------------------------------------------------- inside
    @functools.cached_property
    def client(self) -> Any:
        """An `mlflow.MlflowClient` of this store."""
        os.environ.update(ENVIRONMENT)
        for noisy in ("mlflow.store.db.utils", "alembic"):
            logging.getLogger(noisy).setLevel(logging.WARNING)
        from mlflow import MlflowClient

        with self._one_at_a_time():
            client = MlflowClient(tracking_uri=self.uri, registry_uri=self.uri)
            client.search_experiments(max_results=1)
        return client

    @functools.cached_property
    def experiment_id(self) -> str:
        """Of our experiment, made if missing, with its artifacts under the home."""
        client = self.client  # before the lock: it takes the same one
        with self._one_at_a_time():
            found = client.get_experiment_by_name(self.experiment)
            if found is not None:
                return str(found.experiment_id)
            local = not self.uri.startswith("http")
            location = (self.home / ARTIFACTS / self.experiment).as_uri() if local else None
            return str(client.create_experiment(self.experiment, artifact_location=location))

    def _start(self, name: str, tags: dict[str, str], run_id: str | None) -> str:
        if run_id is not None:
            self.client.update_run(run_id, status="RUNNING")
            return run_id
        return str(self.client.create_run(self.experiment_id, run_name=name, tags=tags).info.run_id)

    @contextlib.contextmanager
    def _one_at_a_time(self) -> Iterator[None]:
        """Two processes that find an empty SQLite file would both create its tables, and one would fail."""
        if not self.uri.startswith("sqlite"):
            yield
            return
        self.home.mkdir(parents=True, exist_ok=True)
        with (self.home / ".mlflow.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield


def _flat(tree: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    for name, value in tree.items():
        if isinstance(value, Mapping) and value:
            yield from _flat(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", str(value)
