"""Prefect task: the SFT student rolls out training prompts; which of them are worth GRPO."""

from __future__ import annotations

from prefect import task

from data_contracts.refs import Ref, Run
from pipeline_config.schema import PipelineConfig
from tasks.launcher.stage import open_stage, stage_options


@task(**stage_options("mine"))
def mine(run: Run, config: PipelineConfig, dialogues: Ref, student: Ref) -> Ref:
    """Publish ``difficulty``, one row per mined prompt."""
    with open_stage("mine", run, config, {"dialogues": dialogues, "student": student}) as stage:
        import pyarrow.parquet as pq

        stage.note(**stage.child("tasks.mine.rollout", devices=config.student.devices))
        return stage.publish_table("difficulty", pq.read_table(stage.folder / "rollout" / "out"))
