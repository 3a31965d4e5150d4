"""Rewards that need more than one answer: of the group of one prompt, or of the batch.

``length_bonus``, ``order_bonus`` and ``mos_ranking`` are named in rubrics like any other reward; `score` alone gives
None for them and `tasks.rewards.batch.score_batch` fills them in.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from tasks.rewards.reward import Item, Outcome, reward

if TYPE_CHECKING:
    from pipeline_config.schema import RewardsConfig

EPSILON = 1e-6


@reward(
    "length_bonus",
    judges="group",
    source="Video-R1 sec. 3, released code",
    departs="no",
    formula="rewards.length_bonus.bonus (.2) for a correct answer of 320..512 tokens, if two are correct; else 0",
)
def length_bonus(item: Item) -> Outcome:
    """Think long enough, not too long. Correct answers of any length count towards the two."""
    return None


@reward(
    "order_bonus",
    judges="group",
    source="Video-R1 sec. 3 (T-GRPO)",
    departs="no by default; mu = 1 and p as the share of correct answers are the paper's, by the config",
    formula="alpha (.3) for a correct answer on ordered frames if p >= mu * p~, p and p~ the accuracies on ordered and "
    "shuffled frames; else 0. None for pictures",
)
def order_bonus(item: Item) -> Outcome:
    """Rewards what needs the order of time: the shuffled answers are scored, never trained on."""
    return None


@reward(
    "mos_ranking",
    judges="group",
    continuous=True,
    source="VisualQuality-R1 sec. 3",
    departs="the released code takes a random score from 1 to 5 for an answer without a number, here it earns 0; the "
    "value is cut at 1 (it may exceed it by the root of e), and predictions outside 0..100 are cut, so that "
    "one absurd number does not swamp the variances",
    formula="mean over the other pictures of sqrt(p * gt + e) + sqrt((1 - p)(1 - gt) + e), "
    "p = Phi((q - mean_other) / sqrt(var + var_other + e)), e = 1e-6, gt in {1, 0, .5}; cut at 1",
)
def mos_ranking(item: Item) -> Outcome:
    """Opinion scores as ranks: right is what orders the pictures of a batch as people do."""
    return None


def length_bonuses(accuracies: Sequence[float], num_tokens: Sequence[int], rewards: RewardsConfig) -> list[float]:
    """The bonus of each answer of one group."""
    bonus = rewards.length_bonus
    correct = [a > rewards.correct_above for a in accuracies]
    if sum(correct) < 2:
        return [0.0] * len(correct)
    return [
        bonus.bonus if right and bonus.shortest <= n <= bonus.longest else 0.0
        for right, n in zip(correct, num_tokens, strict=True)
    ]


def order_bonuses(ordered: Sequence[float], shuffled: Sequence[float], rewards: RewardsConfig) -> list[float]:
    """The bonus of each answer on ordered frames, from the accuracies on ordered and on shuffled frames."""
    settings = rewards.order_bonus
    if not ordered or not shuffled:
        return [0.0] * len(ordered)
    if settings.by == "mean":
        p, p_shuffled = sum(ordered) / len(ordered), sum(shuffled) / len(shuffled)
    else:
        p, p_shuffled = (sum(a > rewards.correct_above for a in group) / len(group) for group in (ordered, shuffled))
    if p < settings.mu * p_shuffled:
        return [0.0] * len(ordered)
    return [settings.alpha if a > rewards.correct_above else 0.0 for a in ordered]


def prefers(q: float, mean_other: float, variance: float, variance_other: float) -> float:
    """Probability that a picture scored q is better than another, both scores being normal (Thurstone)."""
    z = (q - mean_other) / math.sqrt(variance + variance_other + EPSILON)
    return 0.5 * (1 + math.erf(z / math.sqrt(2)))


def ranking_rewards(scores: Sequence[Sequence[float | None]], golds: Sequence[float]) -> list[list[float | None]]:
    """Ranking reward of every predicted score: scores[picture][rollout], golds[picture].

    Mean and variance (ddof 1, 0 for one answer) are of a picture's readable scores; an unreadable score earns 0. None
    where no other picture has a readable score to compare with.
    """
    readable = [[s for s in group if s is not None] for group in scores]
    means = [float(np.mean(g)) if g else math.nan for g in readable]
    variances = [float(np.var(g, ddof=1)) if len(g) > 1 else 0.0 for g in readable]
    results: list[list[float | None]] = []
    for i, group in enumerate(scores):
        others = [j for j in range(len(scores)) if j != i and readable[j]]
        row: list[float | None] = []
        for q in group:
            if not others or q is None:
                row.append(0.0 if others else None)
                continue
            fidelities = []
            for j in others:
                gt = 0.5 if golds[i] == golds[j] else float(golds[i] > golds[j])
                p = prefers(q, means[j], variances[i], variances[j])
                fidelities.append(math.sqrt(p * gt + EPSILON) + math.sqrt((1 - p) * (1 - gt) + EPSILON))
            row.append(min(1.0, sum(fidelities) / len(fidelities)))
        results.append(row)
    return results
