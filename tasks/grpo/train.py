"""GRPO in a child process: the SFT student in, a better student, its rollouts and its curves out.

    python -m tasks.grpo.train JOB.json        (under torchrun where there is more than one device)

inputs: ``dialogues``, ``difficulty``, ``student``. options: ``stage_run``, part of the rollouts' ids. A child that was
killed goes on from its last complete checkpoint: weights, optimizer, schedule, random state, sampler, expansion and
guard; the rollouts of steps that have to be run again are thrown away, and the probe taken before the first step is
read from disk.

Writes the student to ``job.out`` with ``history.json`` beside its weights (so the curves travel with a cached student)
and the rollouts to ``job.folder/rollouts.parquet``.
"""

from __future__ import annotations

import tasks.student.torchvision_operators  # noqa: F401  before anything imports torchvision

# isort: split
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
from transformers import TrainerCallback, TrainingArguments, set_seed

from data_contracts.check import ContractError
from pipeline_config.schema import ConfigError, PipelineConfig
from tasks.grpo.pool import probe_set, step_size, training_pool
from tasks.grpo.probe import probe
from tasks.grpo.rollouts import discard_after, merge_parts
from tasks.grpo.sampler import PromptSampler, make_sampler
from tasks.grpo.trainer import GrpoTrainer, derive_seed, micro_batches
from tasks.launcher.job import Job, child_main, is_rank_zero, progress, rank_and_world, write_atomically
from tasks.student.checkpoint import Student, load_student, save_student
from tasks.student.freeze import freeze
from tasks.student.report import TrainingReport
from tasks.student.startable import reference_refusals
from tasks.student.trainer import (
    check_devices,
    checkpoint_state_of,
    discard_incomplete,
    last_complete,
    steps_done,
    training_arguments,
)
from tasks.student.zero import whole_weights

ROLLOUTS_FILE = "rollouts.parquet"
PROBE_FILE = "probe_before.json"
# Streams of `derive_seed` under the job's seed; the Trainer's own start at 0 with (step, rank).
POOL_STREAM, SAMPLER_STREAM, PROBE_SET_STREAM, PROBE_STREAM = (1_000_000 + i for i in range(4))


def run(job: Job, callbacks: Sequence[TrainerCallback] = ()) -> dict[str, Any]:
    """Train, or go on training, and write student, rollouts and history. Returns the facts the stage notes.

    Keys: steps, num_prompts (of the pool), num_filled_up (of them, those that only fill it up to one step),
    num_rollouts, probe_before and probe_after (mean rewards; absent without probe prompts).
    Raises ConfigError, ContractError; ValueError if the loss is no number any more.
    """
    config = job.config
    for refusal in reference_refusals(config.grpo.beta, config.grpo.deepspeed):
        raise ConfigError(refusal)
    set_seed(job.seed)  # new adapters start at random
    dialogues = {row["dialogue_id"]: row for row in pq.read_table(job.inputs["dialogues"]).to_pylist()}
    difficulty = pq.read_table(job.inputs["difficulty"], columns=["dialogue_id", "pool", "rewards"]).to_pylist()
    pool, num_filled_up = training_pool(difficulty, config.grpo, derive_seed(job.seed, POOL_STREAM))
    if unknown := [i for i in pool if i not in dialogues]:
        raise ContractError(
            f"{job.inputs['difficulty']}: dialogue_id {unknown[0]} (and {len(unknown) - 1} more) is no row of "
            f"{job.inputs['dialogues']}; mine these dialogues again"
        )
    probed = probe_set(
        list(dialogues.values()),
        config.mine.sub_tasks,
        config.grpo.probe_prompts,
        derive_seed(job.seed, PROBE_SET_STREAM),
    )
    num_prompts = step_size(len(pool), config.grpo.prompts_per_step, rank_and_world()[1])
    args = grpo_arguments(config, job.folder / "checkpoints", job.seed, num_prompts)
    check_devices("grpo", config, args.world_size)
    student = load_student(job.inputs["student"], config.student, train=True)
    freeze(student.model, config.grpo.freeze)
    student.model.to(args.device)
    rewards = {row["dialogue_id"]: row["rewards"] for row in difficulty}
    sampler = make_sampler(config.grpo.sampling, {i: rewards[i] for i in pool}, derive_seed(job.seed, SAMPLER_STREAM))
    with whole_weights(student.model):
        before = _probe_before(job, student, probed)
    history, engine = _train(job, args, student, {i: dialogues[i] for i in pool}, sampler, num_prompts, callbacks)
    with whole_weights(student.model, engine):
        probes = {"before": before, "after": _probe(job, student, probed)} if probed else {}
        if not is_rank_zero():
            return {}
        num_rollouts = merge_parts(job.folder / "rollouts", job.folder / ROLLOUTS_FILE)
        save_student(student, job.out, history={"steps": history, "probe": probes})
    return {
        "steps": len(history),
        "num_prompts": len(pool),
        "num_filled_up": num_filled_up,
        "num_rollouts": num_rollouts,
        **{f"probe_{when}": figures["reward"] for when, figures in probes.items()},
    }


def _train(
    job: Job,
    args: TrainingArguments,
    student: Student,
    dialogues: Mapping[str, Mapping[str, Any]],
    sampler: PromptSampler,
    num_prompts: int,
    callbacks: Sequence[TrainerCallback],
) -> tuple[list[dict[str, float]], Any]:
    """Train ``student`` in place from the last complete checkpoint on.

    Returns one entry of figures per step, and DeepSpeed's engine, which holds the student from then on, or None.
    """
    config = job.config.grpo
    if config.steps == 0:
        return [], None
    checkpoint = last_complete(Path(str(args.output_dir)))
    state = checkpoint_state_of(checkpoint) if checkpoint else {}
    if checkpoint and config.max_rollouts is not None and state["num_rollouts"] >= config.max_rollouts:
        args.max_steps = steps_done(checkpoint)
    trainer = GrpoTrainer(
        student,
        dialogues,
        sampler,
        job.config,
        args,
        num_prompts=num_prompts,
        folder=job.folder,
        stage_run=str(job.options["stage_run"]),
        callbacks=callbacks,
    )
    if state:
        trainer.load_checkpoint_state(state)
    if is_rank_zero():
        discard_incomplete(Path(str(args.output_dir)))
        discard_after(job.folder / "rollouts", steps_done(checkpoint) // config.inner_updates if checkpoint else 0)
    trainer.accelerator.wait_for_everyone()
    trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
    trainer.accelerator.unwrap_model(trainer.model, keep_fp32_wrapper=False)  # the probes are both of whole precision
    steps = [entry for entry in trainer.state.log_history if "reward" in entry]
    return [{**entry, "step": entry["step"] // config.inner_updates} for entry in steps], trainer.deepspeed


def grpo_arguments(config: PipelineConfig, folder: Path, seed: int, num_prompts: int) -> TrainingArguments:
    """The Trainer's settings; a Trainer step is one update, so counts of steps are multiplied by ``inner_updates``.

    num_prompts: of a step, over all ranks. Raises ConfigError if the devices cannot share a step's prompts evenly.
    """
    grpo = config.grpo
    return training_arguments(
        config,
        grpo.optimiser,
        grpo.deepspeed,
        folder,
        seed,
        max_steps=grpo.steps * grpo.inner_updates,
        per_device_train_batch_size=1,
        gradient_accumulation_steps=micro_batches(config, num_prompts, rank_and_world()[1]),
        train_sampling_strategy="sequential",
        logging_steps=grpo.inner_updates,
        save_steps=grpo.save_steps * grpo.inner_updates,
    )


def _probe_before(job: Job, student: Student, probed: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The probe of the student GRPO starts from: taken once, and read from disk after a restart."""
    path = job.folder / PROBE_FILE
    if not probed:
        return {}
    # No process can find the file of another's probe here: a probe ends with what all have sampled.
    if not path.is_file():
        figures = _probe(job, student, probed)
        if is_rank_zero():
            write_atomically(path, json.dumps(figures))
        return figures
    before: dict[str, Any] = json.loads(path.read_text())
    return before


def _probe(job: Job, student: Student, probed: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    return probe(student, probed, job.config, derive_seed(job.seed, PROBE_STREAM))


def _child(job: Job) -> dict[str, Any]:
    from tasks.tracking.log import MetricLog

    with MetricLog() as log:
        return run(job, [TrainingReport(progress, log.log)])


if __name__ == "__main__":
    child_main(_child)
