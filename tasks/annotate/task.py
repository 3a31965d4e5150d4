"""annotate: samples -> annotations, the teacher's reasoning where it agrees with the gold."""

from __future__ import annotations

import asyncio
import contextlib
import os
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from uuid import UUID

import pyarrow as pa
from prefect import task
from prefect.artifacts import acreate_progress_artifact, aupdate_progress_artifact, update_progress_artifact
from prefect.blocks.system import Secret
from prefect.client.orchestration import get_client
from prefect.concurrency.asyncio import concurrency
from prefect.exceptions import ObjectNotFound

from data_contracts.refs import Ref, Run
from pipeline_config.schema import ConfigError, OpenAITeacher, PipelineConfig
from tasks.launcher.child import LOGGER
from tasks.launcher.stage import Stage, open_stage, stage_options
from tasks.tracking.runs import Call

CHECKED_ROWS = 2_000  # of the annotations, evenly spread, on which the rewards' health is checked
ARTIFACT_SECONDS = 5.0  # between renewals of the progress artifact


@task(**stage_options("annotate"))
def annotate(run: Run, config: PipelineConfig, samples: Ref) -> Ref:
    """Annotations of train and test split; test questions pass through unasked.

    Where not all could be asked (the budget is spent, requests stand in batch files) those that were are published,
    and ConfigError says how to go on.
    """
    with open_stage("annotate", run, config, {"samples": samples}) as stage:
        from tasks.annotate.annotate import annotate_samples, make_teacher

        settings = config.annotate.teacher
        artifact = _ProgressArtifact()
        with _traces(stage) as on_reply:
            if isinstance(settings, OpenAITeacher):
                key = "" if settings.batch_folder else api_key(settings.api_key_variable)
                teacher = make_teacher(settings, key, _around(settings.shared_limit), on_reply)
            else:
                teacher = make_teacher(settings)

            def on_progress(done: float, total: float, **figures: float) -> None:
                stage.progress(done, total, **figures)
                artifact.renew(done / total)

            journal = Path(run.home) / "journal"
            annotated = asyncio.run(
                annotate_samples(samples.path, journal, config.annotate, config.rewards, teacher, on_progress)
            )
        artifact.end()
        stage.note(**annotated.figures)
        _check_rewards(annotated.table, config)
        published = stage.publish_table("annotations", annotated.table, annotated.quarantine)
        if annotated.not_asked is not None:
            _stop_or_go_on(settings, annotated.not_asked, annotated.figures, published)
        return published


def _around(shared_limit: str | None) -> Any:
    """What makes the context of every request: a slot of Prefect's limit. Raises ConfigError if there is no such."""
    if shared_limit is None:
        return contextlib.nullcontext
    try:
        with get_client(sync_client=True) as client:
            client.read_global_concurrency_limit_by_name(shared_limit)
    except ObjectNotFound:
        raise ConfigError(
            f"annotate.teacher.shared_limit: Prefect has no concurrency limit {shared_limit}; "
            f"`prefect gcl create {shared_limit} --limit 16` makes it"
        ) from None
    return lambda: concurrency(shared_limit, strict=True)


def _stop_or_go_on(settings: Any, why: str, figures: dict[str, float], published: Ref) -> None:
    """Raise ConfigError unless the config says to go on with what is annotated."""
    if settings.batch_folder is None and settings.when_spent == "go_on":
        return
    if folder := settings.batch_folder:
        cure = f"send the files of {folder}/requests to the batch endpoint, put its result files into {folder}/results"
    else:
        spent = f"{figures['cost']:.4g} is spent"
        cure = f"raise annotate.teacher.budget ({spent}), or set annotate.teacher.when_spent: go_on"
    raise ConfigError(
        f"annotate: {figures['not_asked']:,.0f} questions were not asked ({why}); the {published.rows:,} rows that are "
        f"done stand in {published.uri}; {cure}; then start the same command again: nothing is asked twice"
    )


def _check_rewards(annotations: pa.Table, config: PipelineConfig) -> None:
    """Raise ContractError if a reward pays for tricks on these questions, before a student is trained on it."""
    from tasks.rewards.health import health_report, require_healthy

    every = max(1, annotations.num_rows // CHECKED_ROWS)
    rows = annotations.take(list(range(0, annotations.num_rows, every))).to_pylist()
    require_healthy(health_report(rows, config.rewards), config.rewards)


class _ProgressArtifact:
    """The share of the questions that is done, in Prefect's UI. What goes wrong there stops nothing."""

    def __init__(self) -> None:
        self._id: UUID | None = None
        self._due = 0.0
        self._writing: asyncio.Future[None] | None = None

    def renew(self, share: float) -> None:
        """Inside the event loop; now and then."""
        if time.monotonic() >= self._due and (self._writing is None or self._writing.done()):
            self._due = time.monotonic() + ARTIFACT_SECONDS
            self._writing = asyncio.ensure_future(self._write(100 * share))

    def end(self) -> None:
        if self._id is not None:
            with contextlib.suppress(Exception):
                update_progress_artifact(self._id, 100.0)

    async def _write(self, percent: float) -> None:
        with contextlib.suppress(Exception):
            if self._id is None:
                created = acreate_progress_artifact(percent, "annotate-progress", "questions done, in per cent")
                self._id = await created
            else:
                await aupdate_progress_artifact(self._id, percent)


@contextlib.contextmanager
def _traces(stage: Stage) -> Iterator[Any]:
    """Called with request, reply and seconds, keeps `trace_share` of them as MLflow traces, chosen by content."""
    share = stage.config.annotate.trace_share
    with ThreadPoolExecutor(1, "traces") as writer:

        def write(request: Any, reply: Any, seconds: float) -> None:
            inputs = {"instruction": request.instruction, "prompt": request.prompt, "media": request.media}
            outputs = {"text": reply.text, "refusal": reply.refusal}
            counted = {name: getattr(reply, name) for name in ("prompt_tokens", "completion_tokens", "cost")}
            attributes = {"request_key": request.key, "attempt": request.attempt, **counted}
            try:
                stage.log_trace(Call(request.model, inputs, outputs, attributes, seconds))
            except Exception as error:
                LOGGER.warning("annotate: a trace was not kept: %s", error)

        def on_reply(request: Any, reply: Any, seconds: float) -> None:
            if int(request.key[:8], 16) < share * 2**32:
                writer.submit(write, request, reply, seconds)

        yield on_reply


def api_key(variable: str) -> str:
    """The key in this environment variable, else in the Prefect Secret block of that name.

    Prefect's block names hold lower-case letters, digits and dashes: OPENAI_API_KEY is the block ``openai-api-key``.
    Raises ConfigError if there is neither.
    """
    if key := os.environ.get(variable):
        return key
    block = variable.lower().replace("_", "-")
    try:
        return str(Secret.load(block).get())  # type: ignore[union-attr]
    except ValueError:
        raise ConfigError(
            f"annotate.teacher.api_key_variable: neither the environment variable {variable} nor the Prefect Secret "
            f"{block} is set; set one of them (to any text if the endpoint wants no key)"
        ) from None
