"""Prefect task: the challenger enters the registry, and becomes champion if the gate holds."""

from __future__ import annotations

from prefect import task

from data_contracts.refs import Ref, Run
from pipeline_config.schema import PipelineConfig
from tasks.launcher.stage import open_stage, stage_options


@task(**stage_options("promote"))
def promote(run: Run, config: PipelineConfig, evaluation: Ref, scores: Ref, student: Ref) -> Ref:
    """Publish ``alias``: a JSON file that says which version was registered, what was decided and why.

    evaluation, scores: as `tasks.evaluate.task.evaluate` returns them. The scores are an input of their own, so that a
    corrected metric gives a new decision where the rows are the same.
    """
    inputs = {"evaluation": evaluation, "scores": scores, "student": student}
    with open_stage("promote", run, config, inputs) as stage:
        import json
        from dataclasses import replace

        from tasks.promote.decide import promote_student
        from tasks.promote.registry import Registry
        from tasks.tracking.runs import Tracking

        tracking = stage.tracking or Tracking(run.home, config.tracking)
        registry = Registry(tracking, config.promote.registered_model)
        mlflow_run_id = stage.mlflow_run_id or tracking.start_run("promote")
        alias = promote_student(registry, config, evaluation, scores, student, run.run_id, mlflow_run_id)
        stage.note(**{**alias, "reasons": "; ".join(alias["reasons"])})
        path = stage.folder / "alias.json"
        path.write_text(json.dumps(alias, indent=1))
        return replace(stage.publish_folder("alias", path), rows=1)  # one decision
