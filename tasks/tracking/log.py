"""Metrics of a training child on their way to MLflow.

    with MetricLog() as log:
        log.log({"loss": 0.7, "lr": 1e-5}, step)

The child writes one ``@metrics {json}`` line per call on stdout, from rank 0 only; the stage that runs it
(`tasks.launcher.stage`) logs them in batches to the stage's MLflow run. So a child neither imports MLflow (seconds) nor
writes to its store, and a run without a parent shows its metrics in the terminal. Ours, not of a paper.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Mapping
from typing import Any

METRICS_MARK = "@metrics "


class MetricLog:
    """Sends metrics to the MLflow run of the stage that this process belongs to."""

    def __enter__(self) -> MetricLog:
        return self

    def __exit__(self, *exception: object) -> None:
        """Nothing is held back: each call has already been written."""

    def log(self, metrics: Mapping[str, Any], step: int) -> None:
        """Metrics of one step. What is no number (None, text) is left out; a NaN is kept, it means something."""
        numbers = {name: number for name, value in metrics.items() if (number := _number(value)) is not None}
        if numbers and os.environ.get("RANK", "0") == "0":
            sent = {"step": int(step), "milliseconds": int(time.time() * 1000), "metrics": numbers}
            print(METRICS_MARK + json.dumps(sent), flush=True)


def _number(value: Any) -> float | None:
    try:
        return None if isinstance(value, str) else float(value)
    except (TypeError, ValueError):
        return None
