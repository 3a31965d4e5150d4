"""Stage ``ingest``: media and annotations -> samples, one row per media file, with the questions it can answer."""

from __future__ import annotations

from prefect import task

from data_contracts.refs import Ref, Run
from pipeline_config.schema import PipelineConfig
from tasks.launcher.stage import open_stage, stage_options


@task(**stage_options("ingest"))
def ingest(run: Run, config: PipelineConfig) -> Ref:
    """Publish the samples of the config's sources."""
    with open_stage("ingest", run, config, {}) as stage:
        from tasks.ingest.ingest import ingest as make_samples

        made = make_samples(config.ingest, config.seed, stage.folder / "media", stage.progress)
        stage.note(**made.facts)
        return stage.publish_table("samples", made.table, made.quarantine)
