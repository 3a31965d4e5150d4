"""What a training loop tells while it runs: progress for the terminal, figures for the tracking store."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from transformers import TrainerCallback


class TrainingReport(TrainerCallback):
    """Reports each logged step of a transformers Trainer; does nothing on ranks other than 0.

    progress(done, total, **figures): `tasks.launcher.job.progress`. log(figures, step): `tasks.tracking.log.MetricLog.log`.
    """

    def __init__(self, progress: Callable[..., None], log: Callable[[Mapping[str, float], int], Any]) -> None:
        self.progress = progress
        self.log = log
