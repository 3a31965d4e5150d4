"""Which part of a student learns, how fast, and the proof: parts are ``vision``, ``merger`` and ``language``.

Works on Qwen2-VL and Qwen2.5-VL, full or LoRA. Learning rates per part follow the official MIPI baseline.
"""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Any, Literal

from data_contracts.refs import ID_DIGITS
from pipeline_config.schema import ConfigError, FreezeConfig, OptimiserConfig

if TYPE_CHECKING:
    from torch import nn

Part = Literal["vision", "merger", "language"]


def part_of(name: str) -> Part:
    """The part a parameter belongs to, from its name."""
    _, visual, inside = f".{name}".partition(".visual.")
    if not visual:
        return "language"
    return "merger" if "merger" in inside.split(".") else "vision"


def freeze(model: nn.Module, config: FreezeConfig) -> None:
    """Switch off the gradients of the parts the config freezes (LoRA: of what else would train of them)."""
    for name, parameter in model.named_parameters():
        if getattr(config, part_of(name)):
            parameter.requires_grad_(False)


def parameter_groups(model: nn.Module, config: OptimiserConfig) -> list[dict[str, Any]]:
    """Groups for torch.optim: per part its learning rate, norms and biases without weight decay; trainable ones only.

    Raises ConfigError if nothing is left to train.
    """
    rates: dict[Part, float] = {
        "vision": config.lr if config.lr_vision is None else config.lr_vision,
        "merger": config.lr if config.lr_merger is None else config.lr_merger,
        "language": config.lr,
    }
    undecayed = _undecayed(model)
    members: dict[tuple[Part, bool], list[Any]] = {}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            members.setdefault((part_of(name), name not in undecayed), []).append(parameter)
    if not members:
        raise ConfigError("freeze: vision, merger and language are all frozen, nothing is left to train; unfreeze one")
    return [
        {"params": parameters, "lr": rates[part], "weight_decay": config.weight_decay if decayed else 0.0, "part": part}
        for (part, decayed), parameters in members.items()
    ]


def parameter_digest(model: nn.Module, part: Part) -> str:
    """Content id of a part's parameters, names and bytes: equal before and after a step if the part is frozen."""
    import torch

    digest = hashlib.sha256()
    for name, parameter in model.named_parameters():
        if part_of(name) == part:
            digest.update(name.encode())
            digest.update(parameter.detach().cpu().contiguous().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()[:ID_DIGITS]


def _undecayed(model: nn.Module) -> set[str]:
    """Names of biases and of norms' parameters; by module, since ZeRO-3 hides the parameters' shapes."""
    return {
        f"{module_name}.{name}".lstrip(".")
        for module_name, module in model.named_modules()
        for name, _ in module.named_parameters(recurse=False)
        if name == "bias" or "norm" in type(module).__name__.lower()
    }
