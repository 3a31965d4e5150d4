"""compress: annotations -> dialogues, the questions of a picture merged into training prompts."""

from __future__ import annotations

from prefect import task

from data_contracts.refs import Ref, Run
from pipeline_config.schema import PipelineConfig
from tasks.launcher.stage import open_stage, stage_options


@task(**stage_options("compress"))
def compress(run: Run, config: PipelineConfig, annotations: Ref) -> Ref:
    """Dialogues of train and test split."""
    with open_stage("compress", run, config, {"annotations": annotations}) as stage:
        from tasks.compress.merge import merge

        table = merge(annotations.path, config.compress, config.seed)
        num_pairs = sum(table["num_pairs"].to_pylist())
        stage.note(pairs=num_pairs, dialogues=table.num_rows, pairs_per_dialogue=num_pairs / max(1, table.num_rows))
        return stage.publish_table("dialogues", table)
