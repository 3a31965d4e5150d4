"""Dynamic sampling expansion: roll out more prompts than a step trains on, as many as are likely to be needed, and
keep the groups with most to learn from (GLM-4.1V-Thinking, arXiv 2507.01006; the decay, the cap and the fractions that
are carried over are ours).

Whole groups are kept or dropped, so advantages never change; figures are taken before anything is dropped.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

DECAY = 0.9


class Expansion:
    """The factor by which the next step rolls out more prompts than it wants: the moving average of
    1 / (1 - share of groups with nothing to learn from)."""

    def __init__(self, cap: float) -> None:
        """cap: largest factor; 1 switches expansion off."""
        assert cap >= 1, "a step cannot roll out fewer prompts than it trains on"
        self.cap = cap
        self.factor = 1.0
        self.owed = 0.0  # prompts that earlier steps rolled out too few

    def num_to_draw(self, num_wanted: int, multiple_of: int = 1) -> int:
        """Prompts of the next step so that about ``num_wanted`` groups have variance; what rounding down leaves out
        is added to a later step. multiple_of: of the result, and a divisor of num_wanted."""
        exact = num_wanted * self.factor + self.owed
        num_drawn = multiple_of * math.floor(round(exact / multiple_of, 6))
        self.owed = exact - num_drawn
        return num_drawn

    def update(self, num_groups: int, num_equal: int) -> None:
        """num_equal: of a step's groups, those whose rewards are all equal (all right or all wrong)."""
        useful = 1 - num_equal / num_groups
        ratio = min(self.cap, 1 / useful) if useful > 0 else self.cap
        self.factor = DECAY * self.factor + (1 - DECAY) * ratio

    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint keeps."""
        return {"factor": self.factor, "owed": self.owed}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on after a checkpoint."""
        self.factor, self.owed = float(state["factor"]), float(state["owed"])


def balanced_groups(rewards: NDArray[np.float64], num_groups: int) -> NDArray[np.intp]:
    """Rows, ascending, of the ``num_groups`` groups whose rewards differ most; rewards: (groups, G).

    For rewards that are right or wrong these are the groups with as many right as wrong ones (GLM-4.1V-Thinking's
    choice); the variance says the same of graded rewards (ours). Among equals the first drawn stay.
    """
    order = np.argsort(-np.round(rewards.var(axis=1), 9), kind="stable")
    return np.sort(order[:num_groups])
