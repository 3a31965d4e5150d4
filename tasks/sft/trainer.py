"""SFT's Trainer: its batches, its loss, its settings."""

from __future__ import annotations

import tasks.student.torchvision_operators  # noqa: F401  before transformers

# isort: split
import functools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from pipeline_config.schema import PipelineConfig
from tasks.sft.dialogues import LengthGroupedSampler, TrainingDialogues, collate_training
from tasks.student.checkpoint import Student
from tasks.student.encode import NO_LABEL
from tasks.student.trainer import StudentTrainer, training_arguments


class SftTrainer(StudentTrainer):
    """Trains ``student`` in place on ``dialogues``."""

    def __init__(
        self,
        student: Student,
        dialogues: TrainingDialogues,
        config: PipelineConfig,
        args: TrainingArguments,
        callbacks: Sequence[TrainerCallback] = (),
    ) -> None:
        self.order = LengthGroupedSampler(dialogues.lengths, config.sft.batch_size, args.seed)
        super().__init__(
            student,
            config.sft.optimiser,
            args=args,
            train_dataset=dialogues,
            data_collator=functools.partial(collate_training, student),
            compute_loss_func=token_mean_loss,
            callbacks=[*callbacks, _Order(self.order), _NoFinalCheckpoint()],
        )

    def _get_train_sampler(self, train_dataset: Any = None) -> LengthGroupedSampler:
        return self.order


class _Order(TrainerCallback):
    """Tells the sampler its epoch: after a resume in several processes the loader's own way does not reach it."""

    def __init__(self, order: LengthGroupedSampler) -> None:
        self.order = order

    def on_epoch_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        self.order.set_epoch(int(state.epoch or 0))


class _NoFinalCheckpoint(TrainerCallback):
    """The last step's checkpoint would only repeat the student, which is saved right after it."""

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        if state.global_step >= state.max_steps:
            control.should_save = False


def token_mean_loss(outputs: Any, labels: torch.Tensor, num_items_in_batch: torch.Tensor | None = None) -> torch.Tensor:
    """Cross-entropy per labelled token, over all micro-batches and ranks of a step.

    outputs.logits: (labelled tokens, vocabulary), as ``logits_to_keep`` of `collate_training` leaves them.
    """
    targets = labels[:, 1:]
    targets = targets[targets != NO_LABEL]
    total = torch.nn.functional.cross_entropy(outputs.logits.float(), targets, reduction="sum")
    return total / (len(targets) if num_items_in_batch is None else num_items_in_batch)


def sft_arguments(config: PipelineConfig, folder: Path, seed: int) -> TrainingArguments:
    """The Trainer's settings."""
    sft = config.sft
    return training_arguments(
        config,
        sft.optimiser,
        sft.deepspeed,
        folder,
        seed,
        num_train_epochs=sft.epochs,
        per_device_train_batch_size=sft.batch_size,
        gradient_accumulation_steps=sft.accumulate,
        logging_steps=1,
        save_steps=sft.save_steps,
        # Beside a GPU, large pictures are resized in time.
        dataloader_num_workers=4 if torch.cuda.is_available() else 0,
    )
