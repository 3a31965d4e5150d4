"""Prefect task: base, SFT and GRPO students, two blind rows and the present champion on the same held-out questions."""

from __future__ import annotations

from prefect import task

from data_contracts.refs import Ref, Run
from pipeline_config.schema import PipelineConfig
from tasks.launcher.child import LOGGER
from tasks.launcher.stage import open_stage, stage_options


@task(**stage_options("evaluate"))
def evaluate(
    run: Run, config: PipelineConfig, dialogues: Ref, sft: Ref, grpo: Ref, champion: Ref | None = None
) -> tuple[Ref, Ref]:
    """Publish and return ``evaluation``, one row per held-out question and student, and ``scores``, a JSON file.

    champion: of the registry, as `tasks.promote.champion.present_champion` finds it; None where there is none. The
    scores are as `tasks.evaluate.scores.summarise` gives them, and ``champion_digest``.
    """
    inputs: dict[str, Ref | None] = {"dialogues": dialogues, "sft": sft, "grpo": grpo, "champion": champion}
    with open_stage("evaluate", run, config, inputs) as stage:
        import json

        import pyarrow.parquet as pq

        from tasks.evaluate.scores import flat, summarise

        facts = stage.child("tasks.evaluate.answer", devices=config.student.devices)
        stage.note(**facts)
        if facts["num_half_asked"]:
            LOGGER.warning(
                "evaluate: %d pictures are asked for their distortions or for a description, but not for both; "
                "the official score counts the other as missed. Ask both of every picture, or neither.",
                facts["num_half_asked"],
            )
        table = pq.read_table(stage.folder / "answer" / "out")
        scores = summarise(table.to_pylist(), config.evaluate.replicates, config.seed)
        scores["champion_digest"] = champion.digest if champion else None
        path = stage.folder / "scores.json"
        path.write_text(json.dumps(scores, indent=1))
        stage.log_metrics(flat(scores))
        stage.log_artifact(path)
        return stage.publish_table("evaluation", table), stage.publish_folder("scores", path)
