"""The SFT student as the reference of the KL term: a copy of what trains, taken before the first update.

Only the trainable parameters are copied, so LoRA costs an adapter and not a second model. (With adapters that start
at zero this equals switching them off; with adapters that SFT has trained it is the SFT student, which "off" is not.)
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch
from torch import nn


class Reference:
    """A snapshot of a model's trainable parameters, whole ones, that can be put in their place for a forward pass."""

    def __init__(self, model: nn.Module) -> None:
        self._parameters = [p for p in model.parameters() if p.requires_grad]
        assert not any(hasattr(p, "ds_id") for p in self._parameters), "ZeRO-3 shards them"
        self._snapshot = [p.detach().clone() for p in self._parameters]

    @contextlib.contextmanager
    def in_place(self) -> Iterator[None]:
        """Inside, the model is the reference and builds no graph. Never enter between a forward and its backward."""
        self._swap()
        try:
            with torch.no_grad():
                yield
        finally:
            self._swap()

    def _swap(self) -> None:
        for i, parameter in enumerate(self._parameters):
            present = parameter.data
            # The snapshot is taken before the model moves to its device.
            parameter.data = self._snapshot[i].to(present.device)
            self._snapshot[i] = present
