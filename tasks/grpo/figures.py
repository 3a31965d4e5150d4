"""What is measured at every GRPO step, over ALL its rollouts, gathered as sums so that means are exact."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from tasks.rewards.score import Score
    from tasks.student.generate import Completion


class Figures:
    """Weighted means in the making: name -> (sum, weight)."""

    def __init__(self) -> None:
        self._sums: dict[str, tuple[float, float]] = {}

    def add(self, sums: Mapping[str, tuple[float, float]]) -> None:
        """Add (sum, weight) per name."""
        for name, (value, weight) in sums.items():
            before = self._sums.get(name, (0.0, 0.0))
            self._sums[name] = (before[0] + value, before[1] + weight)

    def drain(self, accelerator: Any = None) -> dict[str, float]:
        """The means of what was added since the last call, over all ranks if there are several; then starts anew."""
        every_rank = [self._sums]
        if accelerator is not None and accelerator.num_processes > 1:
            from accelerate.utils import gather_object

            every_rank = gather_object(every_rank)
        total = Figures()
        for sums in every_rank:
            total.add(sums)
        self._sums = {}
        return {name: value / weight for name, (value, weight) in sorted(total._sums.items()) if weight}


def rollout_figures(
    completions: Sequence[Sequence[Completion]],
    scores: Sequence[Sequence[Score]],
    rewards: NDArray[np.float64],
    zero_variance: NDArray[np.bool_],
    right_above: float,
) -> dict[str, tuple[float, float]]:
    """(sum, weight) per figure of one step's rollouts.

    "reward" and "accuracy" per rollout; "reward_std" within a group (ddof 1), what advantages are made of;
    "zero_variance_share" of groups; "all_right_share" and "all_wrong_share" of groups by their accuracy;
    "sampled_entropy" per sampled token, nats: the mean of -log-prob, which estimates the policy's entropy;
    "completion_tokens" and "truncated_share" per rollout; "part_<name>" the parts of the reward beside accuracy, over
    the rollouts they apply to.
    """
    flat = [s for group in scores for s in group]
    sampled = [c for group in completions for c in group]
    num_sampled = sum(len(c.token_ids) - len(c.forced) for c in sampled)
    surprise = -sum(logprob for c in sampled for i, logprob in enumerate(c.logprobs) if i not in c.forced)
    figures = {
        "reward": (float(rewards.sum()), float(rewards.size)),
        "reward_std": (float(rewards.std(axis=1, ddof=1).sum()), float(len(rewards))),
        "zero_variance_share": (float(zero_variance.sum()), float(len(rewards))),
        "accuracy": _sum([s.accuracy for s in flat]),
        "all_right_share": _sum([min(s.accuracy for s in group) > right_above for group in scores]),
        "all_wrong_share": _sum([max(s.accuracy for s in group) <= 0 for group in scores]),
        "sampled_entropy": (surprise, float(num_sampled)),
        "completion_tokens": _sum([len(c.token_ids) for c in sampled]),
        "truncated_share": _sum([c.truncated for c in sampled]),
    }
    for name in sorted({name for s in flat for name in s.parts} - {"accuracy"}):
        values = [s.parts.get(name) for s in flat]
        figures[f"part_{name}"] = _sum([value for value in values if value is not None])
    return figures


def _sum(values: Sequence[float | bool]) -> tuple[float, float]:
    return float(sum(values)), float(len(values))
