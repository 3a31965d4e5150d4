"""Prefect task: supervised fine-tuning on the dialogues' training split; a student."""

from __future__ import annotations

from prefect import task

from data_contracts.refs import Ref, Run
from pipeline_config.schema import PipelineConfig
from tasks.launcher.stage import open_stage, stage_options


@task(**stage_options("sft"))
def sft(run: Run, config: PipelineConfig, dialogues: Ref) -> Ref:
    """Publish the fine-tuned ``student``; dialogues that were too long for it are quarantined."""
    with open_stage("sft", run, config, {"dialogues": dialogues}) as stage:
        import shutil

        import pyarrow.parquet as pq

        stage.note(**stage.child("tasks.sft.train", devices=config.student.devices))
        folder = stage.folder / "train"
        quarantine = folder / "quarantine.parquet"
        if quarantine.exists():
            left_out = pq.read_table(quarantine).to_pylist()
            stage.lineage.record_quarantine(stage.run_id, "dialogues", left_out, str(quarantine))
        student = stage.publish_folder("student", folder / "out")
        shutil.rmtree(folder / "checkpoints", ignore_errors=True)
        return student
