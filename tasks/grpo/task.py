"""Prefect task: GRPO on the mined prompts; a student, and every rollout it learnt from."""

from __future__ import annotations

from prefect import task

from data_contracts.refs import Ref, Run
from pipeline_config.schema import PipelineConfig
from tasks.launcher.stage import open_stage, stage_options


@task(**stage_options("grpo"))
def grpo(run: Run, config: PipelineConfig, dialogues: Ref, difficulty: Ref, student: Ref) -> Ref:
    """Publish ``rollouts`` and the trained ``student``, whose ref is returned."""
    inputs = {"dialogues": dialogues, "difficulty": difficulty, "student": student}
    with open_stage("grpo", run, config, inputs) as stage:
        import shutil

        import pyarrow.parquet as pq

        facts = stage.child("tasks.grpo.train", {"stage_run": f"{run.run_id}/grpo"}, devices=config.student.devices)
        stage.note(**facts)
        folder = stage.folder / "train"
        if facts["num_rollouts"]:
            stage.publish_table("rollouts", pq.read_table(folder / "rollouts.parquet"))
        trained = stage.publish_folder("student", folder / "out")
        shutil.rmtree(folder / "checkpoints", ignore_errors=True)
        return trained
