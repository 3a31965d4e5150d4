"""Which mined prompts are worth GRPO's rollouts: pure rules from k accuracy rewards to a pool and a reason.

Bilibili (MIPI 2025) keeps samples that are "neither all correct nor all incorrect" and does not publish the sampling
counts. A merged prompt is right in parts, so the rule here is about the k accuracy rewards (ours):

- easy: every rollout is all right (accuracy above ``right_above``). A seeded few stay, the rest are dropped; dropping
  all solved prompts destabilises training (GLM-4.1V-Thinking).
- hard: not easy, and the k rewards differ. That is all GRPO can learn from: equal rewards have no advantage.
- dropped: every rollout equally wrong, or a solved prompt beyond the easy pool.

Every mined prompt has one row with its verdict. The random control stands beside: a prompt that is drawn for it has a
second row, pool "random", so both sets can be selected by their pool alone.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

POOLS = ("hard", "easy", "dropped", "random")
EQUAL = 1e-6  # accuracy rewards closer than this count as equal


@dataclass(frozen=True)
class Mined:
    """k rollouts of one prompt. rewards: accuracy in [0, 1], one a rollout, as are the completions."""

    dialogue_id: str
    sub_task: str
    rewards: Sequence[float]
    completions: Sequence[str] = field(default=())


def num_all_right(rewards: Sequence[float], right_above: float) -> int:
    """Rollouts whose every answer is right: accuracy above ``right_above``."""
    return sum(reward > right_above for reward in rewards)


def verdict(rewards: Sequence[float], right_above: float) -> tuple[str, str]:
    """Pool ("hard", "easy" or "dropped") of one prompt by its own rewards, and the reason in words."""
    assert rewards, "a mined prompt has at least one rollout"
    right, k = num_all_right(rewards, right_above), len(rewards)
    if right == k:
        return "easy", f"all {k} rollouts are right"
    low, high = min(rewards), max(rewards)
    if high - low > EQUAL:
        return "hard", f"{right} of {k} rollouts are right, accuracy {low:.2f} to {high:.2f}"
    if high <= EQUAL:
        return "dropped", f"all {k} rollouts are wrong"
    return "dropped", f"all {k} rollouts score the same {high:.2f}"


def select(
    mined: Sequence[Mined], *, right_above: float, easy_pool: int, random_control: bool, seed: int
) -> list[dict[str, Any]]:
    """Rows of the DIFFICULTY table: the verdicts in the order of ``mined``, then the random control's.

    easy_pool: solved prompts kept. random_control: also draw a random set from all mined prompts, as large as the hard
    and easy pools together, which is what GRPO trains on under ``pool: hard``.
    """
    verdicts = [verdict(prompt.rewards, right_above) for prompt in mined]
    easy_rng, random_rng = (np.random.default_rng([seed, stream]) for stream in (0, 1))
    solved = [i for i, (pool, _) in enumerate(verdicts) if pool == "easy"]
    kept = set(easy_rng.permutation(solved)[:easy_pool].tolist()) if solved else set()
    for i in solved:
        if i not in kept:
            verdicts[i] = ("dropped", f"{verdicts[i][1]}, beyond the easy pool of {easy_pool}")
    num_random = sum(pool != "dropped" for pool, _ in verdicts) if random_control else 0
    drawn = sorted(random_rng.permutation(len(mined))[:num_random].tolist())
    return [
        *(_row(prompt, *found, right_above) for prompt, found in zip(mined, verdicts, strict=True)),
        *(_row(mined[i], "random", f"drawn for the random control; {verdicts[i][1]}", right_above) for i in drawn),
    ]


def summary(rows: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """Sizes of the pools and the mean pass rate, for the run's summary."""
    pools = [row["pool"] for row in rows]
    mined = [row["pass_rate"] for row in rows if row["pool"] != "random"]
    return {**{f"num_{name}": float(pools.count(name)) for name in POOLS}, "pass_rate": float(np.mean(mined))}


def _row(prompt: Mined, pool: str, why: str, right_above: float) -> dict[str, Any]:
    return {
        "dialogue_id": prompt.dialogue_id,
        "sub_task": prompt.sub_task,
        "num_rollouts": len(prompt.rewards),
        "rewards": [float(reward) for reward in prompt.rewards],
        "pass_rate": float(np.mean(prompt.rewards)),
        "num_all_right": num_all_right(prompt.rewards, right_above),
        "pool": pool,
        "why": why,
        "completions": list(prompt.completions),
    }
