"""A training loop's steps reach the terminal and the tracking store, from rank 0 alone."""

from __future__ import annotations

from typing import Any

import pytest

import tasks.student.torchvision_operators  # noqa: F401  before transformers

# isort: split
from transformers import TrainerControl, TrainerState, TrainingArguments

from tasks.student.report import TrainingReport


@pytest.mark.parametrize("rank_zero", [True, False])
def test_steps_are_passed_on_from_rank_zero(rank_zero: bool, tmp_path: Any) -> None:
    told: list[tuple[Any, ...]] = []
    report = TrainingReport(
        lambda done, total, **figures: told.append((done, total, figures)),
        lambda figures, step: told.append((figures, step)),
    )
    args = TrainingArguments(output_dir=str(tmp_path), use_cpu=True, report_to=[])
    state = TrainerState(global_step=3, max_steps=10, is_world_process_zero=rank_zero)
    logs = {"loss": 0.5, "learning_rate": 1e-3, "note": "words are no metric"}
    report.on_log(args, state, TrainerControl(), logs=logs)
    report.on_log(args, state, TrainerControl(), logs={"train_runtime": 1.0, "train_loss": 0.5})
    expected = [(3, 10, {"loss": 0.5}), ({"loss": 0.5, "learning_rate": 1e-3}, 3)]
    assert told == (expected if rank_zero else [])
