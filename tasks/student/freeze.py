"""Which part of a student learns, how fast, and the proof: parts are ``vision``, ``merger`` and ``language``.

Works on Qwen2-VL and Qwen2.5-VL, full or LoRA.
"""

from __future__ import annotations

from typing import Any, Literal

from pipeline_config.schema import FreezeConfig, OptimiserConfig

Part = Literal["vision", "merger", "language"]


def freeze(model: Any, config: FreezeConfig) -> None:
    """Switch off the gradients of the parts the config freezes (LoRA: of what else would train of them)."""
    raise NotImplementedError


def parameter_groups(model: Any, config: OptimiserConfig) -> list[dict[str, Any]]:
    """Groups for torch.optim: per part its learning rate, norms and biases without weight decay; trainable ones only.

    Raises ConfigError if nothing is left to train.
    """
    raise NotImplementedError


def parameter_digest(model: Any, part: Part) -> str:
    """Content id of a part's parameters, names and bytes: equal before and after a step if the part is frozen."""
    raise NotImplementedError
