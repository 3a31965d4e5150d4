"""Agreement of predicted and true opinion scores."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np


def weighted_pearson(x: np.ndarray, y: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Pearson's correlation under each row of weights (replicates x items); x, y: (items,) or (replicates, items).

    0 where it is undefined (fewer than two items, or all equal).
    """
    num = np.maximum(weights.sum(axis=1, keepdims=True), 1)
    dx = x - (weights * x).sum(axis=1, keepdims=True) / num
    dy = y - (weights * y).sum(axis=1, keepdims=True) / num
    covariance = (weights * dx * dy).sum(axis=1)
    spread = np.sqrt((weights * dx * dx).sum(axis=1) * (weights * dy * dy).sum(axis=1))
    return np.where(spread > 1e-12, covariance / np.maximum(spread, 1e-12), 0.0)


def weighted_ranks(x: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Ranks of x (items,) where item i stands ``weights[r, i]`` times; ties share their mean rank. (replicates,
    items).
    """
    order = np.argsort(x, kind="stable")
    in_order = weights[:, order]
    values, first = np.unique(x[order], return_index=True)
    per_value = np.add.reduceat(in_order, first, axis=1)
    ranks = np.cumsum(per_value, axis=1) - per_value + (per_value + 1) / 2
    return ranks[:, np.searchsorted(values, x)]


def weighted_spearman(x: np.ndarray, y: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Spearman's correlation under each row of weights."""
    if x.size == 0:
        return np.zeros(len(weights))
    return weighted_pearson(weighted_ranks(x, weights), weighted_ranks(y, weights), weights)


def correlations(predicted: Sequence[float], gold: Sequence[float]) -> dict[str, float]:
    """srcc, plcc, krcc (Kendall's tau-b), rmse of two series of equal length; correlations are 0 where undefined."""
    x, y = np.asarray(predicted, dtype=float), np.asarray(gold, dtype=float)
    if x.shape != y.shape or x.ndim != 1 or x.size == 0:
        raise ValueError(f"two series of equal length are needed, not {x.shape} and {y.shape}")
    from scipy.stats import kendalltau  # seconds to import

    ones = np.ones((1, x.size))
    tau = float(kendalltau(x, y).statistic)
    return {
        "srcc": float(weighted_spearman(x, y, ones)[0]),
        "plcc": float(weighted_pearson(x, y, ones)[0]),
        "krcc": 0.0 if np.isnan(tau) else tau,
        "rmse": float(np.sqrt(np.mean((x - y) ** 2))),
    }
