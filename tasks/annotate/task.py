"""annotate: samples -> annotations, the teacher's reasoning where it agrees with the gold."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

import pyarrow as pa
from prefect import task
from prefect.blocks.system import Secret

from data_contracts.refs import Ref, Run
from pipeline_config.schema import ConfigError, OpenAITeacher, PipelineConfig
from tasks.launcher.stage import open_stage, stage_options

CHECKED_ROWS = 2_000  # of the annotations, evenly spread, on which the rewards' health is checked


@task(**stage_options("annotate"))
def annotate(run: Run, config: PipelineConfig, samples: Ref) -> Ref:
    """Annotations of train and test split; test questions pass through unasked."""
    with open_stage("annotate", run, config, {"samples": samples}) as stage:
        from tasks.annotate.annotate import annotate_samples

        teacher = config.annotate.teacher
        key = api_key(teacher.api_key_variable) if isinstance(teacher, OpenAITeacher) else ""
        journal = Path(run.home) / "journal"
        annotated = asyncio.run(
            annotate_samples(samples.path, journal, config.annotate, config.rewards, key, stage.progress)
        )
        stage.note(**annotated.figures)
        _check_rewards(annotated.table, config)
        return stage.publish_table("annotations", annotated.table, annotated.quarantine)


def _check_rewards(annotations: pa.Table, config: PipelineConfig) -> None:
    """Raise ContractError if a reward pays for tricks on these questions, before a student is trained on it."""
    from tasks.rewards.health import health_report, require_healthy

    every = max(1, annotations.num_rows // CHECKED_ROWS)
    rows = annotations.take(list(range(0, annotations.num_rows, every))).to_pylist()
    require_healthy(health_report(rows, config.rewards), config.rewards)


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
