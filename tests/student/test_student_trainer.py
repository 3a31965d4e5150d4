"""The settings of a stage's optimizer reach it: rates, betas, clipping, warm-up, schedule."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import tasks.student.torchvision_operators  # noqa: F401  before transformers

# isort: split
from transformers import TrainingArguments

from pipeline_config.schema import PipelineConfig, StudentConfig
from tasks.grpo.train import grpo_arguments
from tasks.sft.trainer import sft_arguments
from tasks.student.checkpoint import load_student
from tasks.student.trainer import StudentTrainer

OPTIMISER = {
    "lr": 0.02, "lr_merger": 0.03, "lr_vision": 0.04, "weight_decay": 0.07, "warmup_share": 0.25, "max_grad_norm": 0.3,
    "beta2": 0.97,
}  # fmt: skip


def config(**sections: Any) -> PipelineConfig:
    tree: dict[str, Any] = {
        "name": "test",
        "ingest": {"sources": [{"kind": "degrade", "name": "unused"}]},
        "sft": {"optimiser": OPTIMISER, "batch_size": 5, "accumulate": 3, "epochs": 1.5, "save_steps": 7},
        "grpo": {"optimiser": OPTIMISER, "steps": 6, "inner_updates": 2, "save_steps": 5, "batch_size": 4},
    }  # fmt: skip
    return PipelineConfig.model_validate({**tree, **sections})


def sft(settings: PipelineConfig, folder: Path) -> TrainingArguments:
    return sft_arguments(settings, folder, 5)


def grpo(settings: PipelineConfig, folder: Path) -> TrainingArguments:
    return grpo_arguments(settings, folder, 5, num_prompts=10)


@pytest.mark.parametrize("arguments", [sft, grpo])
def test_optimizer_and_schedule_are_the_configurations(
    arguments: Callable[[PipelineConfig, Path], TrainingArguments], folders: dict[str, Path], tmp_path: Path
) -> None:
    settings = config()
    args = arguments(settings, tmp_path)
    student = load_student(str(folders["qwen2_5_vl"]), StudentConfig(), train=True)
    trainer = StudentTrainer(student, settings.sft.optimiser, args=args)
    trainer.create_optimizer_and_scheduler(num_training_steps=12)
    assert trainer.optimizer is not None
    assert trainer.lr_scheduler is not None
    assert args.max_grad_norm == 0.3
    assert args.seed == 5
    groups: dict[str, Any] = {group["part"]: group for group in trainer.optimizer.param_groups}
    assert {part: group["initial_lr"] for part, group in groups.items()} == {
        "language": 0.02, "merger": 0.03, "vision": 0.04
    }  # fmt: skip
    assert {group["betas"] for group in trainer.optimizer.param_groups} == {(0.9, 0.97)}
    assert {group["weight_decay"] for group in trainer.optimizer.param_groups} == {0.07, 0.0}
    rates = []
    for _ in range(12):
        rates.append(trainer.lr_scheduler.get_last_lr()[0] / trainer.optimizer.param_groups[0]["initial_lr"])
        trainer.optimizer.step()
        trainer.lr_scheduler.step()
    assert rates[:4] == pytest.approx([0, 1 / 3, 2 / 3, 1]), "a quarter of the steps warms up"
    assert rates[3:] == sorted(rates[3:], reverse=True)
    assert rates[-1] < 0.1, "a cosine ends near 0"


def test_counts_are_the_configurations(tmp_path: Path) -> None:
    args = sft(config(), tmp_path)
    assert (args.per_device_train_batch_size, args.gradient_accumulation_steps) == (5, 3)
    assert (args.num_train_epochs, args.save_steps, args.logging_steps) == (1.5, 7, 1)
    args = grpo(config(), tmp_path)
    assert args.max_steps == 6 * 2, "a Trainer step is an update"
    assert (args.save_steps, args.logging_steps) == (5 * 2, 2)
    assert args.gradient_accumulation_steps == 3, "ten prompts by fours"


@pytest.mark.parametrize("arguments", [sft, grpo])
@pytest.mark.parametrize("scheduler", ["linear", "constant"])
def test_the_schedule_is_the_configurations(
    arguments: Callable[[PipelineConfig, Path], TrainingArguments], scheduler: str, tmp_path: Path
) -> None:
    optimiser = {"optimiser": {**OPTIMISER, "scheduler": scheduler}}
    assert arguments(config(sft=optimiser, grpo=optimiser), tmp_path).lr_scheduler_type == scheduler


@pytest.mark.parametrize("arguments", [sft, grpo])
@pytest.mark.parametrize("checkpointing", [False, True])
def test_gradient_checkpointing_is_the_configurations(
    arguments: Callable[[PipelineConfig, Path], TrainingArguments], checkpointing: bool, tmp_path: Path
) -> None:
    student = {"gradient_checkpointing": checkpointing}
    assert arguments(config(student=student), tmp_path).activation_checkpointing is checkpointing
