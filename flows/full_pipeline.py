"""The main job: media and annotations go in, a student that sees more than its base comes out.

    media + annotations
      └ ingest   -> samples      one row per media file
      └ annotate -> annotations  one row per question: the teacher's reasoning, verified against gold
      └ compress -> dialogues    one row per training prompt: Q-A pairs of one image merged
      └ sft      -> student      checkpoint
      └ mine     -> difficulty   one row per (prompt, k rollouts)
      └ grpo     -> student      checkpoint, and every rollout
      └ evaluate -> evaluation   one row per (held-out question, student); scores; report
      └ promote  -> alias        champion moves only if the gate passes

    python -m flows.full_pipeline --config demo
    python -m flows.full_pipeline --config demo --set grpo.steps=60 --set seed=1
    python -m flows.full_pipeline --config qwen2_5_vl_7b --dry-run      checks everything, loads no weights
    prefect deployment run full-pipeline/demo --watch

Follows Bilibili's MIPI 2025 entry (methods in the stages' own docstrings); the orchestration around it is ours.
"""

from __future__ import annotations

from typing import Any

from flows.run import main, open_run, pipeline_flow
from tasks.annotate.task import annotate
from tasks.compress.task import compress
from tasks.evaluate.task import evaluate
from tasks.grpo.task import grpo
from tasks.ingest.task import ingest
from tasks.mine.task import mine
from tasks.promote.champion import present_champion
from tasks.promote.task import promote
from tasks.sft.task import sft


@pipeline_flow("full-pipeline")
def full_pipeline(config: str = "demo", overrides: dict[str, Any] | None = None) -> dict[str, Any]:
    """Run every stage; a stage whose inputs, configuration and code are unchanged is taken from the cache.

    config: name of a shipped configuration or path of a YAML file. overrides: dotted keys, as in
    ``{"grpo.steps": 60}``. Returns the summary that stands in ``summary.json``.
    """
    with open_run("full-pipeline", config, overrides) as pipeline:
        run, settings = pipeline.run, pipeline.config
        samples = ingest(run, settings)
        annotations = annotate(run, settings, samples)
        dialogues = compress(run, settings, annotations)
        sft_student = sft(run, settings, dialogues)
        difficulty = mine(run, settings, dialogues, sft_student)
        grpo_student = grpo(run, settings, dialogues, difficulty, sft_student)
        champion = present_champion(settings, grpo_student)
        evaluation, scores = evaluate(run, settings, dialogues, sft_student, grpo_student, champion)
        alias = promote(run, settings, evaluation, scores, grpo_student)
        return pipeline.close(
            scores,
            ingest=samples,
            annotate=annotations,
            compress=dialogues,
            sft=sft_student,
            mine=difficulty,
            grpo=grpo_student,
            evaluate=evaluation,
            promote=alias,
        )


if __name__ == "__main__":
    main(full_pipeline)
