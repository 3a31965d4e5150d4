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
from tasks.student.trainer import StudentTrainer
from tasks.student.zero import find_deepspeed


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


def training_arguments(config: PipelineConfig, folder: Path, seed: int) -> TrainingArguments:
    """The Trainer's settings. Made before the student is loaded: DeepSpeed's ZeRO-3 has to know of it then."""
    sft, optimiser = config.sft, config.sft.optimiser
    on_cpu = not torch.cuda.is_available()
    return TrainingArguments(
        output_dir=str(folder),
        num_train_epochs=sft.epochs,
        per_device_train_batch_size=sft.batch_size,
        gradient_accumulation_steps=sft.accumulate,
        learning_rate=optimiser.lr,
        lr_scheduler_type=optimiser.scheduler,
        warmup_steps=optimiser.warmup_share,
        adam_beta2=optimiser.beta2,
        max_grad_norm=optimiser.max_grad_norm,
        logging_steps=1,
        logging_nan_inf_filter=False,
        save_steps=sft.save_steps,
        # The older one is the way back while the newer is being written.
        save_total_limit=2,
        seed=seed,
        bf16=config.student.precision == "bfloat16",
        activation_checkpointing=config.student.gradient_checkpointing,
        deepspeed=str(find_deepspeed(sft.deepspeed)) if sft.deepspeed else None,
        use_cpu=on_cpu,
        dataloader_pin_memory=not on_cpu,
        dataloader_num_workers=0 if on_cpu else 4,  # beside a GPU, large pictures are resized in time
        remove_unused_columns=False,
        disable_tqdm=True,
        report_to=[],
    )
