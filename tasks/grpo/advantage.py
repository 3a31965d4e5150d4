"""Group advantages of GRPO: a rollout's reward against the other rollouts of its prompt. Pure, on numpy arrays."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

STD_OFFSET = 1e-4  # Video-R1's
EQUAL = 1e-6  # rewards closer than this count as equal


def group_advantages(rewards: NDArray[np.float64], *, scale_by_std: bool = True) -> NDArray[np.float64]:
    """(R - mean) / (std + 1e-4) within each group, std with ddof 1 (Video-R1; DeepSeekMath's GRPO).

    rewards: (num_groups, G), G >= 2. scale_by_std False leaves the division out (Dr. GRPO). Groups of equal rewards
    get exact zeros, so float noise is never blown up by the small divisor.
    """
    rewards = np.asarray(rewards, dtype=np.float64)
    assert rewards.ndim == 2, "rewards are (num_groups, G)"
    assert rewards.shape[1] >= 2, "a group needs two rollouts to compare"
    centred = rewards - rewards.mean(axis=1, keepdims=True)
    if scale_by_std:
        centred = centred / (rewards.std(axis=1, ddof=1, keepdims=True) + STD_OFFSET)
    centred[has_zero_variance(rewards)] = 0.0
    return centred


def has_zero_variance(rewards: NDArray[np.float64]) -> NDArray[np.bool_]:
    """(num_groups,) True where all rewards of a group are equal: nothing to learn from it."""
    rewards = np.asarray(rewards, dtype=np.float64)
    equal: NDArray[np.bool_] = (rewards.max(axis=1) - rewards.min(axis=1)) <= EQUAL
    return equal
