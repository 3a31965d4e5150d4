"""SFT in a child process: dialogues in, a fine-tuned student out.

    python -m tasks.sft.train JOB.json        (under torchrun where there is more than one device)

inputs: ``dialogues``. Trains ``config.student.model`` on the training split, loss on the assistant's tokens alone. A
child that was killed goes on from its last complete checkpoint: weights, optimizer, schedule, random state, order of
batches. Writes the student to ``job.out`` with ``history.json`` (loss per step) beside its weights, and dialogues that
were too long to ``job.folder/quarantine.parquet``.

Departs from the official MIPI baseline in its loss: mean over the labelled tokens of the whole optimizer step, not of
each micro-batch (ours).
"""

from __future__ import annotations

import tasks.student.torchvision_operators  # noqa: F401  before anything imports torchvision

# isort: split
import math
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from transformers import TrainerCallback, set_seed

from tasks.launcher.job import Job, child_main, is_rank_zero, progress
from tasks.sft.dialogues import TrainingDialogues
from tasks.sft.trainer import SftTrainer, sft_arguments
from tasks.student.checkpoint import load_student, save_student
from tasks.student.freeze import freeze
from tasks.student.report import TrainingReport
from tasks.student.trainer import check_devices, discard_incomplete, last_complete, steps_done
from tasks.student.zero import sharded_parameters

QUARANTINE_FILE = "quarantine.parquet"


def run(job: Job, callbacks: Sequence[TrainerCallback] = ()) -> dict[str, Any]:
    """Train, or go on training, and write the student. Returns the facts the stage notes.

    Keys: steps, resumed_at (step), dialogues, quarantined, tokens (of all epochs, vision included), loss (mean of the
    last tenth of the steps), seconds (of this attempt's training).
    Raises ConfigError; ValueError if the loss is no number any more.
    """
    set_seed(job.seed)
    args = sft_arguments(job.config, job.folder / "checkpoints", job.seed)
    check_devices("sft", job.config, args.world_size)
    student = load_student(job.config.student.model, job.config.student, train=True)
    freeze(student.model, job.config.sft.freeze)
    sft = job.config.sft
    dialogues = TrainingDialogues(student, Path(job.inputs["dialogues"]), sft.max_tokens, sft.repeats)
    trainer = SftTrainer(student, dialogues, job.config, args, callbacks)
    discard_incomplete(job.folder / "checkpoints")
    trainer.accelerator.wait_for_everyone()
    checkpoint = last_complete(job.folder / "checkpoints")
    started = time.monotonic()
    trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
    seconds = time.monotonic() - started
    history = [entry for entry in trainer.state.log_history if "loss" in entry]
    facts = {
        "steps": trainer.state.global_step,
        "resumed_at": steps_done(checkpoint) if checkpoint else 0,
        "dialogues": len(dialogues),
        "quarantined": len(dialogues.quarantined),
        "tokens": round(sum(dialogues.lengths) * job.config.sft.epochs),
        "loss": _closing_loss(history),
        "seconds": round(seconds, 2),
    }
    _write(job, student, trainer, history, dialogues.quarantined)
    return facts


def _closing_loss(history: list[dict[str, float]]) -> float:
    losses = [entry["loss"] for entry in history]
    last = losses[-max(1, len(losses) // 10) :]
    mean = sum(last) / len(last)
    if not math.isfinite(mean):
        raise ValueError(f"sft: the loss is {mean} after {len(losses)} steps; lower sft.optimiser.lr or max_grad_norm")
    return round(mean, 6)


def _write(
    job: Job, student: Any, trainer: SftTrainer, history: list[dict[str, float]], quarantined: list[dict[str, str]]
) -> None:
    """Student and history in ``job.out``, which appears only when both are there; the quarantine in job.folder."""
    sharded = sharded_parameters(student.model)
    state_dict = trainer.accelerator.get_state_dict(trainer.model_wrapped) if sharded else None
    if not is_rank_zero():
        return
    if quarantined:
        pq.write_table(pa.Table.from_pylist(quarantined), job.folder / QUARANTINE_FILE)
    save_student(student, job.out, state_dict, {"steps": history})


def _child(job: Job) -> dict[str, Any]:
    from tasks.tracking.log import MetricLog

    with MetricLog() as log:
        return run(job, [TrainingReport(progress, log.log)])


if __name__ == "__main__":
    child_main(_child)
