"""Intervals of the metrics: a paired bootstrap over source photographs.

Pictures cut from one photograph are not independent, so photographs are drawn, with replacement, and every metric is
RECOMPUTED on the draw (an mAP is no mean of per-picture values). All students see the same draws, so differences are
paired.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from tasks.rewards.metrics.challenge import metrics_of, tally_rows

Interval = tuple[float, float, float]


def bootstrap(
    rows_by_student: Mapping[str, Sequence[Mapping[str, Any]]], replicates: int, seed: int, confidence: float = 0.95
) -> tuple[dict[str, dict[str, Interval]], dict[tuple[str, str], dict[str, Interval]]]:
    """Intervals per student, and of the difference a - b per ordered pair of students.

    Returns ({student: {metric: (mean, low, high)}}, {(a, b): {metric: (mean, low, high)}}). ``mean`` is the point
    estimate on all data, not the mean of the replicates; low and high are percentiles of the replicates. A metric
    that one of two students lacks is absent from their difference.
    """
    photographs = sorted({str(row["source_photograph"]) for rows in rows_by_student.values() for row in rows})
    weights = draw(len(photographs), replicates, seed)
    points: dict[str, dict[str, float]] = {}
    replicas: dict[str, dict[str, np.ndarray]] = {}
    for student, rows in rows_by_student.items():
        values = metrics_of(tally_rows(rows, photographs), weights)
        points[student] = {name: float(v[0]) for name, v in values.items()}
        replicas[student] = {name: v[1:] for name, v in values.items()}
    tails = [50 * (1 - confidence), 50 * (1 + confidence)]
    students = {s: {m: interval(points[s][m], replicas[s][m], tails) for m in points[s]} for s in points}
    pairs = {
        (a, b): {
            m: interval(points[a][m] - points[b][m], replicas[a][m] - replicas[b][m], tails)
            for m in points[a]
            if m in points[b]
        }
        for a in points
        for b in points
        if a != b
    }
    return students, pairs


def draw(num_groups: int, replicates: int, seed: int) -> np.ndarray:
    """Counts of each group in each draw with replacement, (1 + replicates, groups); row 0 is all data once."""
    rng = np.random.default_rng(seed)
    ones = np.ones((1, num_groups))
    if num_groups == 0 or replicates == 0:
        return ones
    return np.concatenate([ones, rng.multinomial(num_groups, np.full(num_groups, 1 / num_groups), size=replicates)])


def interval(point: float, replicas: np.ndarray, tails: Sequence[float]) -> Interval:
    """(point, low, high); the point three times where there are no replicates."""
    if replicas.size == 0:
        return point, point, point
    low, high = np.percentile(replicas, tails)
    return point, float(low), float(high)
