"""What a transformers Trainer tells while it runs: progress for the terminal, figures for the tracking store."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import tasks.student.torchvision_operators  # noqa: F401  before transformers

# isort: split
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments


class TrainingReport(TrainerCallback):
    """Passes on each step the Trainer logs; does nothing on ranks other than 0.

    progress(done, total, **figures): `tasks.launcher.job.progress`. log(figures, step): as
    `tasks.tracking.log.MetricLog.log`. The Trainer's closing summary (train_runtime and the like) is no step: left out.
    """

    def __init__(self, progress: Callable[..., None], log: Callable[[dict[str, float], int], Any]) -> None:
        self._progress = progress
        self._log = log

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: Mapping[str, float] | None = None,
        **kwargs: Any,
    ) -> None:
        if not state.is_world_process_zero or not logs or "train_runtime" in logs:
            return
        figures = {name: float(value) for name, value in logs.items() if isinstance(value, int | float)}
        self._progress(
            state.global_step, state.max_steps, **{k: figures[k] for k in ("loss", "reward") if k in figures}
        )
        self._log(figures, state.global_step)
