"""Muon for the matrices, AdamW for the rest, warm-up and cosine, checkpoints that training resumes from."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from tasks.student.pretrain.settings import Settings


@dataclass
class Training:
    """A model in training: `modules` by name are saved and restored together with the optimizers and the step."""

    modules: dict[str, nn.Module]
    settings: Settings
    rate: float
    num_steps: int
    step: int = 0

    def __post_init__(self) -> None:
        named = [(f"{key}.{name}", p) for key, m in self.modules.items() for name, p in m.named_parameters()]
        named = [(name, weight) for name, weight in named if weight.requires_grad]
        matrices = [weight for name, weight in named if _is_hidden_matrix(name, weight)]
        others = [weight for name, weight in named if not _is_hidden_matrix(name, weight)]
        decay = self.settings.weight_decay
        self.optimizers: list[torch.optim.Optimizer] = [
            torch.optim.Muon(matrices, lr=self.rate, weight_decay=decay, adjust_lr_fn="match_rms_adamw"),
            torch.optim.AdamW(others, lr=self.rate, weight_decay=0.0, betas=(0.9, 0.98)),
        ]
        self.weights = matrices + others

    def update(self, loss: torch.Tensor) -> None:
        """One step down the loss."""
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.weights, 1.0)
        rate = self.rate * schedule(self.step, self.num_steps, self.settings.warmup)
        for optimizer in self.optimizers:
            for group in optimizer.param_groups:
                group["lr"] = rate
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        self.step += 1

    def save(self, path: Path) -> None:
        """Write the state beside `path`, then rename."""
        state: dict[str, Any] = {
            "step": self.step,
            "modules": {name: module.state_dict() for name, module in self.modules.items()},
            "optimizers": [optimizer.state_dict() for optimizer in self.optimizers],
        }
        torch.save(state, path.with_suffix(".making"))
        path.with_suffix(".making").rename(path)

    def resume(self, path: Path) -> None:
        """Continue from `path` if it is there."""
        if not path.exists():
            return
        state = torch.load(path, weights_only=True)
        self.step = state["step"]
        for name, module in self.modules.items():
            module.load_state_dict(state["modules"][name])
        for optimizer, saved in zip(self.optimizers, state["optimizers"], strict=True):
            optimizer.load_state_dict(saved)


def _is_hidden_matrix(name: str, weight: nn.Parameter) -> bool:
    return weight.ndim == 2 and not any(part in name for part in ("embed_tokens", "lm_head", "heads."))


def schedule(step: int, num_steps: int, warmup: int) -> float:
    """Share of the full rate: linear warm-up, then half a cosine down to 2 %."""
    if step < warmup:
        return (step + 1) / warmup
    done = (step - warmup) / max(1, num_steps - warmup)
    return 0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * min(1.0, done)))


def freeze(weights: Iterable[nn.Parameter]) -> None:
    """Take weights out of training."""
    for weight in weights:
        weight.requires_grad_(False)
