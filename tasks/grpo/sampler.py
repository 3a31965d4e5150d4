"""Which prompts a GRPO step rolls out: pure, seeded, with a state that goes into the checkpoint."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np


class ShuffledSampler:
    """Every prompt once per epoch, each epoch in its own seeded order; never the same prompt twice in one step.

    A pool smaller than ``num_prompts`` gives steps as large as the pool.
    """

    def __init__(self, dialogue_ids: Sequence[str], num_prompts: int, seed: int) -> None:
        assert len(set(dialogue_ids)) == len(dialogue_ids), "a prompt stands in the pool once"
        assert dialogue_ids, "a sampler needs prompts"
        self.dialogue_ids = tuple(sorted(dialogue_ids))
        self.num_prompts = min(num_prompts, len(dialogue_ids))
        self.seed = seed
        self._epoch = 0
        self._queue: list[str] = []

    def draw(self) -> list[str]:
        """Dialogue ids of the next step."""
        if len(self._queue) < self.num_prompts:
            # What is left of the last epoch comes first; its ids go to the end of the new one: no step holds one twice.
            left = list(self._queue)
            order = np.random.default_rng([self.seed, self._epoch]).permutation(len(self.dialogue_ids))
            fresh = [self.dialogue_ids[i] for i in order]
            self._queue = left + [i for i in fresh if i not in left] + [i for i in fresh if i in left]
            self._epoch += 1
        step, self._queue = self._queue[: self.num_prompts], self._queue[self.num_prompts :]
        return step

    def state_dict(self) -> dict[str, Any]:
        """All that the next draws depend on beside the constructor's arguments; JSON."""
        return {"epoch": self._epoch, "queue": list(self._queue)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on after a checkpoint. ValueError: the state names prompts that are not in this pool."""
        if unknown := set(state["queue"]) - set(self.dialogue_ids):
            raise ValueError(f"the state names {len(unknown)} prompts that are not in the pool, such as {min(unknown)}")
        self._epoch, self._queue = int(state["epoch"]), list(state["queue"])
