"""Which updates of the policy are skipped: those with a loss that is no number, and sudden gradients. Pure; ours.

It judges whole updates, by the norm of the gradient summed over micro-batches and ranks, without DeepSpeed and under
ZeRO 1, 2 and 3. A DeepSpeed engine without ZeRO cannot be asked, and is refused (`tasks.student.zero.guard_updates`).
Not guarded: a bad micro-batch takes the good ones of its update with it, and what of it shrinks in the sum is not seen.
"""

from __future__ import annotations

import math
from typing import Any

DECAY = 0.9
PATIENCE = 3  # skips in a row


class SpikeGuard:
    """Admits an update by the norm of its gradient, before clipping.

    A norm above ``factor`` times the moving average of the admitted ones is a spike, and skipped. After `PATIENCE`
    spikes in a row the next one is taken for the new level; as many that are no number end the run.
    """

    def __init__(self, factor: float | None) -> None:
        """factor: None admits every finite norm."""
        self.factor = factor
        self._usual: float | None = None
        self._skipped = 0  # in a row

    def admits(self, grad_norm: float) -> bool:
        """False: leave the weights as they are. Raises ValueError where waiting has not helped."""
        waited = self._skipped >= PATIENCE
        if math.isfinite(grad_norm):
            if waited or self.factor is None or self._usual is None or grad_norm <= self.factor * self._usual:
                return self._admit(grad_norm)
        elif waited:
            raise ValueError(
                f"grpo: {PATIENCE + 1} updates in a row have no finite loss or gradient; "
                "lower grpo.optimiser.lr or grpo.optimiser.max_grad_norm"
            )
        self._skipped += 1
        return False

    def _admit(self, grad_norm: float) -> bool:
        self._skipped = 0
        if grad_norm > 0:  # a step without advantages says nothing of the others
            self._usual = grad_norm if self._usual is None else DECAY * self._usual + (1 - DECAY) * grad_norm
        return True

    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint keeps."""
        return {"usual": self._usual, "skipped": self._skipped}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on after a checkpoint."""
        self._usual, self._skipped = state["usual"], int(state["skipped"])
