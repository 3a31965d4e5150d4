"""A run of a pipeline, from its configuration to its summary; what every flow file here begins and ends with.

A flow opens a run, calls its stages in order and closes it with what they published:

    with open_run("build-dataset", config, overrides) as pipeline:
        samples = ingest(pipeline.run, pipeline.config)
        return pipeline.close(ingest=samples)
"""

from __future__ import annotations

import argparse
import contextlib
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

# Said before Prefect is imported: no telemetry, and patience with the embedded server of a busy machine.
os.environ.setdefault("PREFECT_SERVER_ANALYTICS_ENABLED", "false")
os.environ.setdefault("DO_NOT_TRACK", "1")
os.environ.setdefault("PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS", "180")

import yaml
from prefect import Flow, flow
from prefect.artifacts import create_table_artifact
from prefect.context import FlowRunContext
from prefect.exceptions import TerminationSignal
from prefect.filesystems import LocalFileSystem
from prefect.runtime import flow_run
from prefect.settings import PREFECT_API_URL

from data_contracts.check import ContractError
from data_contracts.refs import Ref, Run
from flows.summary import print_summary, summarise, write_summary
from pipeline_config.home import home
from pipeline_config.schema import ConfigError, PipelineConfig, load_config
from tasks.endpoint.request import EndpointUnavailable
from tasks.launcher.child import LOGGER, ChildFailed, children_end_with
from tasks.launcher.job import DiskFull, write_atomically
from tasks.launcher.stage import result_storage, stage_facts, stage_table
from tasks.lineage.store import Lineage
from tasks.student.precision import settled
from tasks.tracking.runs import Tracking

# Their message says what to do; no traceback is needed.
CLEAR = (ConfigError, ContractError, ChildFailed, DiskFull, EndpointUnavailable)
EXIT_FAILED, EXIT_USER = 1, 2


def pipeline_flow(name: str) -> Callable[[Callable[..., dict[str, Any]]], Flow[..., dict[str, Any]]]:
    """Prefect's `@flow` with this name; its runs are named for the configuration."""
    return flow(name=name, flow_run_name="{config}", persist_result=False)


@dataclass
class Pipeline:
    """An open run. config: validated, overrides applied, precision chosen."""

    flow: str
    config: PipelineConfig
    run: Run
    tracking: Tracking
    summary: dict[str, Any] = field(default_factory=dict)

    def close(self, scores: Ref | None = None, **refs: Ref) -> dict[str, Any]:
        """Write and print the summary of the stages' published refs, in their order; returns it.

        scores: what evaluate published beside its rows.
        """
        lineage = Lineage(self.run.home)
        stages = {stage: stage_facts(self.run, stage, ref) for stage, ref in refs.items()}
        lineage.snapshot()
        folder = Path(self.run.home)
        self.summary = summarise(self.run, self.flow, self.config.name, stages, refs, scores)
        report = None
        if "evaluate" in refs:
            from tasks.evaluate.report import make_report

            report = make_report(self.run, self.config, self.summary, refs)
        write_summary(self.summary, folder)
        self._show_in_prefect(stages)
        print_summary(self.summary, folder, report)
        return self.summary

    def _show_in_prefect(self, stages: dict[str, dict[str, Any]]) -> None:
        """One table artifact per stage, with a link to its MLflow run."""
        for stage, facts in stages.items():
            create_table_artifact(stage_table(facts), key=stage, description=f"{stage} of run {self.run.run_id}")


@contextlib.contextmanager
def open_run(flow_name: str, config: str, overrides: dict[str, Any] | None) -> Iterator[Pipeline]:
    """Begin a run, or go on with the one this flow run began: configuration, folders, MLflow run, lineage row.

    Raises ConfigError before anything is written. However the body ends, MLflow and lineage are told.
    """
    settings = load_config(config, overrides)
    started = time.monotonic()
    folder = home()
    settings, chosen = settled(settings, folder)
    run = _identify(settings, folder)
    tracking = Tracking(folder, settings.tracking)
    run = Run(run.run_id, run.home, _mlflow_run(tracking, run, settings, chosen))
    LOGGER.info(chosen)
    lineage = Lineage(folder)
    lineage.record_run(run, flow_name, settings.model_dump(mode="json"), settings.seed)
    state, status, reason = "failed", "FAILED", None
    try:
        with _results_under(folder), children_end_with():
            yield Pipeline(flow_name, settings, run, tracking)
        state, status = "complete", "FINISHED"
    except Exception as error:
        reason = str(error)
        raise
    except BaseException:
        state, status, reason = "cancelled", "KILLED", "cancelled"
        raise
    finally:
        lineage.end_run(run.run_id, state, time.monotonic() - started, reason)
        lineage.snapshot()
        tracking.end(run.mlflow_run_id, status)


def _results_under(folder: Path) -> FlowRunContext:
    """The present flow run's context with its results stored under the home.

    Prefect fixes their place when a flow starts, from settings that know nothing of the home.
    """
    context = FlowRunContext.get()
    assert context is not None, "a run is opened inside a flow"
    storage = LocalFileSystem(basepath=str(result_storage(folder)))
    store = context.result_store.model_copy(update={"result_storage": storage})
    return context.model_copy(update={"result_store": store})


def _identify(settings: PipelineConfig, folder: Path) -> Run:
    """A run's id holds the start and the id of Prefect's flow run, so a flow that is retried goes on in its folder."""
    start = flow_run.get_scheduled_start_time() or datetime.now(UTC)
    run_id = f"{settings.name}-{start.astimezone(UTC):%Y%m%d-%H%M%S}-{str(flow_run.get_id() or os.getpid())[:8]}"
    run = Run(run_id, str(folder), "")
    run.folder.mkdir(parents=True, exist_ok=True)
    return run


def _mlflow_run(tracking: Tracking, run: Run, settings: PipelineConfig, precision: str) -> str:
    note = run.folder / "mlflow_run_id"
    earlier = note.read_text() if note.exists() else None
    tags = {"config": settings.name, "run_id": run.run_id, "precision": precision}
    run_id = tracking.start_run(run.run_id, tags, earlier)
    if earlier is None:
        tracking.log_params(run_id, settings.model_dump(mode="json"))
        write_atomically(note, run_id)
    return run_id


def main(pipeline: Flow[..., dict[str, Any]]) -> None:
    """The command line of a flow file.

    Exit codes: 0 done; 2 something has to be changed first; 1 it failed; 128 and a signal's number: that ended it.
    """
    parser = argparse.ArgumentParser(prog=f"python -m flows.{pipeline.fn.__name__}", description=pipeline.fn.__doc__)
    parser.add_argument("--config", default="demo", help="name of a shipped configuration, or path of a YAML file")
    parser.add_argument(
        "--set", action="append", default=[], metavar="KEY=VALUE", dest="overrides", help="dotted key, YAML value"
    )
    parser.add_argument("--dry-run", action="store_true", help="check everything, print the plan, run nothing")
    arguments = parser.parse_args()
    try:
        overrides = dict(_override(text) for text in arguments.overrides)
        if arguments.dry_run:
            from flows.plan import make_plan, print_plan

            plan = make_plan(load_config(arguments.config, overrides))
            print_plan(plan)
            sys.exit(EXIT_USER if plan.findings else 0)
        load_config(arguments.config, overrides)
        with _ended_by_signals():
            _run_pipeline(pipeline, arguments.config, overrides)
    except CLEAR as error:
        print(f"error: {error}", file=sys.stderr)
        repairable = not isinstance(error, ChildFailed) or not error.retryable
        sys.exit(EXIT_USER if repairable else EXIT_FAILED)


def _run_pipeline(pipeline: Flow[..., dict[str, Any]], config: str, overrides: dict[str, Any]) -> None:
    if not PREFECT_API_URL.value():
        from flows.server import EmbeddedServer

        EmbeddedServer()
    pipeline(config=config, overrides=overrides)


@contextlib.contextmanager
def _ended_by_signals() -> Iterator[None]:
    """SIGTERM and Ctrl-C unwind the body, then end the process in order, so that Prefect stops its server.

    Prefect raises the signal again when its flow has ended, which by default kills at once. SIGINT also works where a
    shell has it ignored, as in background jobs.
    """

    def end(number: int, frame: object) -> None:
        raise TerminationSignal(number)

    numbers = (signal.SIGTERM, signal.SIGINT)
    signal.signal(signal.SIGTERM, end)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        yield
    except (TerminationSignal, KeyboardInterrupt) as error:
        for number in numbers:
            signal.signal(number, signal.SIG_IGN)  # the rest is short, and a second signal would leave it half done
        told = signal.Signals(error.signal if isinstance(error, TerminationSignal) else signal.SIGINT)
        print(f"ended by {told.name}; the same command takes every finished stage from the cache", file=sys.stderr)
        sys.exit(128 + told)


def _override(text: str) -> tuple[str, Any]:
    key, separator, value = text.partition("=")
    if not separator or not key:
        raise ConfigError(f"--set {text}: write KEY=VALUE, as in --set grpo.steps=60")
    return key, yaml.safe_load(value)
