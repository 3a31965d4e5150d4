"""Rough GPU memory of a training stage from shape numbers alone, for ``--dry-run``: no weights, no torch."""

from __future__ import annotations

from pipeline_config.schema import PipelineConfig


def estimate_memory(config: PipelineConfig) -> dict[str, dict[str, float]]:
    """GiB per device for ``sft`` and ``grpo``: weights, gradients, optimiser, activations, total.

    Raises ConfigError if ``student.shape`` is missing and the model is not builtin.
    """
    raise NotImplementedError
