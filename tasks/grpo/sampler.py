"""Which prompts a GRPO step rolls out: pure, seeded, with a state that goes into the checkpoint.

`ShuffledSampler` takes every prompt in turn. `CurriculumSampler` prefers those whose outcome is open now: RLCS
(GLM-4.1V-Thinking, arXiv 2507.01006), whose weights are not published; the variance, the floor and the memory are ours.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import numpy as np

from pipeline_config.schema import SamplingConfig

TIERS = ("too_hard", "middle", "too_easy")
TOO_HARD, TOO_EASY = 0.1, 0.9  # mean accuracy below and above which a prompt is no longer of the middle


class PromptSampler(Protocol):
    """Draws the prompts of a step and hears how they went."""

    def draw(self, num_prompts: int) -> list[str]:
        """Dialogue ids, none twice; all of a pool that is smaller than ``num_prompts``."""

    def update(self, accuracies: Mapping[str, Sequence[float]]) -> None:
        """Accuracy rewards, in [0, 1], of a step's rollouts by dialogue id."""

    def figures(self) -> dict[str, float]:
        """What the curves show of the pool's state."""

    def state_dict(self) -> dict[str, Any]:
        """All that the next draws depend on beside the constructor's arguments; JSON."""

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on after a checkpoint. ValueError: the state names prompts that are not in this pool."""


class ShuffledSampler:
    """Every prompt once per epoch, each epoch in its own seeded order."""

    def __init__(self, dialogue_ids: Sequence[str], seed: int) -> None:
        self.dialogue_ids = _distinct(dialogue_ids)
        self.seed = seed
        self._epoch = 0
        self._queue: list[str] = []

    def draw(self, num_prompts: int) -> list[str]:
        """See `PromptSampler`."""
        num_prompts = min(num_prompts, len(self.dialogue_ids))
        if len(self._queue) < num_prompts:
            # What is left of the last epoch comes first; its ids go to the end of the new one: no step holds one twice.
            left = list(self._queue)
            order = np.random.default_rng([self.seed, self._epoch]).permutation(len(self.dialogue_ids))
            fresh = [self.dialogue_ids[i] for i in order]
            self._queue = left + [i for i in fresh if i not in left] + [i for i in fresh if i in left]
            self._epoch += 1
        step, self._queue = self._queue[:num_prompts], self._queue[num_prompts:]
        return step

    def update(self, accuracies: Mapping[str, Sequence[float]]) -> None:
        """The order does not depend on outcomes."""

    def figures(self) -> dict[str, float]:
        """None: it keeps no estimates."""
        return {}

    def state_dict(self) -> dict[str, Any]:
        """See `PromptSampler`."""
        return {"epoch": self._epoch, "queue": list(self._queue)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """See `PromptSampler`."""
        _refuse_unknown(state["queue"], self.dialogue_ids)
        self._epoch, self._queue = int(state["epoch"]), list(state["queue"])


class CurriculumSampler:
    """Draws a prompt with a weight of floor + variance of its accuracy, estimated from mining and every rollout since.

    For answers that are right or wrong the variance is p (1 - p): low for the too easy and the too hard, high in the
    middle. The floor keeps solved prompts in play, which GLM-4.1V-Thinking found training to need.
    """

    def __init__(
        self, mined: Mapping[str, Sequence[float]], seed: int, *, floor: float = 0.05, memory: float = 0.5
    ) -> None:
        """mined: accuracy rewards by dialogue id. memory: weight of the estimate beside a new group's."""
        self.dialogue_ids = _distinct(list(mined))
        self.seed, self.floor, self.memory = seed, floor, memory
        self._draws = 0
        self._moments = {i: _moments(mined[i]) for i in self.dialogue_ids}  # mean and mean square

    def draw(self, num_prompts: int) -> list[str]:
        """See `PromptSampler`."""
        weights = np.array([self.weight(i) for i in self.dialogue_ids])
        drawn = np.random.default_rng([self.seed, self._draws]).choice(
            len(weights), size=min(num_prompts, len(weights)), replace=False, p=weights / weights.sum()
        )
        self._draws += 1
        return [self.dialogue_ids[i] for i in drawn]

    def weight(self, dialogue_id: str) -> float:
        """What the chance of a prompt's next draw is proportional to."""
        mean, square = self._moments[dialogue_id]
        return max(0.0, square - mean**2) + self.floor

    def update(self, accuracies: Mapping[str, Sequence[float]]) -> None:
        """See `PromptSampler`."""
        for dialogue_id, group in accuracies.items():
            old, new = self._moments[dialogue_id], _moments(group)
            self._moments[dialogue_id] = (
                self.memory * old[0] + (1 - self.memory) * new[0],
                self.memory * old[1] + (1 - self.memory) * new[1],
            )

    def figures(self) -> dict[str, float]:
        """tier_<name>: share of the pool."""
        tiers = Counter(tier(mean) for mean, _ in self._moments.values())
        return {f"tier_{name}": tiers[name] / len(self.dialogue_ids) for name in TIERS}

    def state_dict(self) -> dict[str, Any]:
        """See `PromptSampler`."""
        return {"draws": self._draws, "moments": {i: list(moments) for i, moments in self._moments.items()}}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """See `PromptSampler`."""
        _refuse_unknown(state["moments"], self.dialogue_ids)
        self._draws = int(state["draws"])
        self._moments |= {i: (mean, square) for i, (mean, square) in state["moments"].items()}


def make_sampler(config: SamplingConfig, mined: Mapping[str, Sequence[float]], seed: int) -> PromptSampler:
    """The configured sampler over the prompts of ``mined``: accuracy rewards by dialogue id."""
    if config.order == "curriculum":
        return CurriculumSampler(mined, seed, floor=config.floor, memory=config.memory)
    return ShuffledSampler(list(mined), seed)


def tier(pass_rate: float) -> str:
    """Name in TIERS of a mean accuracy."""
    return "too_hard" if pass_rate < TOO_HARD else "too_easy" if pass_rate > TOO_EASY else "middle"


def _moments(rewards: Sequence[float]) -> tuple[float, float]:
    values = np.asarray(rewards, dtype=np.float64)
    return float(values.mean()), float((values**2).mean())


def _distinct(dialogue_ids: Sequence[str]) -> tuple[str, ...]:
    assert len(set(dialogue_ids)) == len(dialogue_ids), "a prompt stands in the pool once"
    assert dialogue_ids, "a sampler needs prompts"
    return tuple(sorted(dialogue_ids))


def _refuse_unknown(named: Sequence[str] | Mapping[str, Any], dialogue_ids: Sequence[str]) -> None:
    if unknown := set(named) - set(dialogue_ids):
        raise ValueError(f"the state names {len(unknown)} prompts that are not in the pool, such as {min(unknown)}")
