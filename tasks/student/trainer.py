"""What SFT and GRPO add alike to transformers' Trainer: our parameter groups, and checkpoints that survive a kill.

A checkpoint is written file by file; ``complete.json`` comes last and at once, so a checkpoint without it is what a
kill left behind. Ours, not of a paper.
"""

from __future__ import annotations

import tasks.student.torchvision_operators  # noqa: F401  before transformers

# isort: split
import json
import os
import shutil
from pathlib import Path
from typing import Any, Literal

import torch
from transformers import PreTrainedModel, PrinterCallback, Trainer, TrainingArguments

from pipeline_config.schema import ConfigError, OptimiserConfig, PipelineConfig
from tasks.student.checkpoint import Student
from tasks.student.freeze import parameter_groups
from tasks.student.precision import precision_of
from tasks.student.startable import deepspeed_refusals
from tasks.student.zero import find_deepspeed, sharded_parameters

COMPLETE_FILE = "complete.json"


class StudentTrainer(Trainer):
    """A Trainer of ``student`` in place; keyword arguments otherwise as Trainer's."""

    def __init__(
        self, student: Student, optimiser: OptimiserConfig, *, args: TrainingArguments, **settings: Any
    ) -> None:
        self.student = student
        self.optimiser_config = optimiser
        if args.n_gpu > 1:
            args._n_gpu = 1  # a process drives one device; the Trainer would spread it over all that it sees
        super().__init__(model=student.model, args=args, **settings)
        self.remove_callback(PrinterCallback)  # what is worth telling goes through TrainingReport

    def checkpoint_state(self) -> dict[str, Any]:
        """What a subclass keeps in a checkpoint beside the Trainer's own state; read back by `checkpoint_state_of`."""
        return {}

    def create_optimizer(self, model: torch.nn.Module | None = None) -> torch.optim.Optimizer:
        """The Trainer's optimizer over our groups of parameters."""
        if self.optimizer is None:
            optimizer_class, settings = self.get_optimizer_cls_and_kwargs(self.args, self.student.model)
            self.optimizer = optimizer_class(parameter_groups(self.student.model, self.optimiser_config), **settings)
        return self.optimizer

    def _save(self, output_dir: str | None = None, state_dict: dict[str, torch.Tensor] | None = None) -> None:
        """A full model's weights under the names its modules have.

        The Trainer (transformers 5.23) saves them under the hub's names but resumes from the modules' own: a resumed
        Qwen2-VL would go on from the weights it started with, after no more than a warning. Adapters under ZeRO-3 stand
        in DeepSpeed's own files alone, which is where they are resumed from: the Trainer hands over no frozen weights,
        without which peft (0.21) cannot save a frozen vision tower.
        """
        if not isinstance(self.model, PreTrainedModel):
            if not sharded_parameters(self.model):
                super()._save(output_dir, state_dict)
        elif self.args.should_save:
            self.model.save_pretrained(str(output_dir), state_dict=state_dict, save_original_format=False)

    def _save_checkpoint(self, model: torch.nn.Module, trial: Any) -> None:
        super()._save_checkpoint(model, trial)
        self.accelerator.wait_for_everyone()
        if self.args.should_save:
            path = Path(str(self.args.output_dir)) / f"checkpoint-{self.state.global_step}" / COMPLETE_FILE
            beside = path.with_suffix(".part")
            beside.write_text(json.dumps(self.checkpoint_state()))
            beside.replace(path)


def training_arguments(
    config: PipelineConfig, optimiser: OptimiserConfig, deepspeed: Path | None, folder: Path, seed: int, **own: Any
) -> TrainingArguments:
    """The Trainer's settings that SFT and GRPO share, and a stage's ``own``.

    Made before the student is loaded: DeepSpeed's ZeRO-3 has to know of it then.
    """
    on_cpu = not torch.cuda.is_available()
    return TrainingArguments(
        output_dir=str(folder),
        learning_rate=optimiser.lr,
        lr_scheduler_type=optimiser.scheduler,
        warmup_steps=optimiser.warmup_share,
        adam_beta2=optimiser.beta2,
        max_grad_norm=optimiser.max_grad_norm,
        logging_nan_inf_filter=False,
        # The older one is the way back while the newer is being written.
        save_total_limit=2,
        seed=seed,
        bf16=precision_of(config.student) == "bfloat16",
        activation_checkpointing=config.student.gradient_checkpointing,
        deepspeed=str(find_deepspeed(deepspeed)) if deepspeed else None,
        use_cpu=on_cpu,
        # Nothing trained has a buffer that changes, and a broadcast in each forward needs as many on every rank.
        ddp_broadcast_buffers=False,
        dataloader_pin_memory=not on_cpu,
        remove_unused_columns=False,
        disable_tqdm=True,
        report_to=[],
        **own,
    )


def check_devices(stage: Literal["sft", "grpo"], config: PipelineConfig, world_size: int) -> None:
    """Raises ConfigError if other processes run than configured, or DeepSpeed is asked for on one device."""
    devices = config.student.devices
    if world_size != devices:
        raise ConfigError(f"student.devices is {devices}, but {world_size} process(es) run; start it with torchrun")
    for refusal in deepspeed_refusals(stage, getattr(config, stage).deepspeed, devices):
        raise ConfigError(refusal)


def last_complete(folder: Path) -> Path | None:
    """The newest checkpoint in ``folder`` that was written to its end, or None."""
    complete = [path for path in folder.glob("checkpoint-*") if (path / COMPLETE_FILE).is_file()]
    return max(complete, key=steps_done, default=None)


def checkpoint_state_of(checkpoint: Path) -> dict[str, Any]:
    """What `StudentTrainer.checkpoint_state` put into a complete checkpoint."""
    state: dict[str, Any] = json.loads((checkpoint / COMPLETE_FILE).read_text())
    return state


def steps_done(checkpoint: Path) -> int:
    """Optimizer steps before a checkpoint, from its name."""
    return int(checkpoint.name.rpartition("-")[2])


def discard_incomplete(folder: Path) -> None:
    """Remove what kills left half-written, from rank 0 only."""
    if os.environ.get("RANK", "0") == "0":
        for path in folder.glob("checkpoint-*"):
            if not (path / COMPLETE_FILE).is_file():
                shutil.rmtree(path)
