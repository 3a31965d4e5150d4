"""From answered questions to scores: every metric per student, and what one student has over another.

The six metrics and their sum are the MIPI 2025 challenge's (`tasks/rewards/metrics`); correlation with the MOS,
accuracy per kind of choice and the share of well-formed turns stand beside them. Intervals are ours: 95 %, bootstrap
over source PHOTOGRAPHS, because questions about one photograph are not independent; each replicate computes every
metric anew (mAP does not average), and draws the same photographs for every student, so that differences are paired.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from tasks.rewards.answers.turn import read_turn
from tasks.rewards.metrics import bootstrap
from tasks.rewards.metrics.intervals import draw, interval

Row = Mapping[str, Any]

TOTAL = "composite"
PAIRS = (
    ("sft", "base"),
    ("sft", "constant"),
    ("sft", "swapped"),
    ("grpo", "sft"),
    ("grpo", "base"),
    ("grpo", "champion"),
)
FORMAT = "format"
TAILS = (2.5, 97.5)  # percentiles


@dataclass(frozen=True)
class Metric:
    """A metric's name and explanation for people."""

    title: str
    note: str


METRICS: dict[str, Metric] = {
    TOTAL: Metric("Sum of the six", "MIPI score, 0 to 6"),
    "perception_accuracy": Metric("Perception", "choices answered right"),
    "region_map": Metric("Regions named", "mAP: what affects a given region"),
    "distortion_map": Metric("Distortions found", "mAP of boxes, detection and regions"),
    "description_map": Metric("Distortions described", "mAP of boxes within descriptions"),
    "key_distortion_accuracy": Metric("Key distortion", "named and placed right"),
    "image_quality_accuracy": Metric("Quality level", "one of five levels, exact"),
    "key_distortion_recall": Metric("Key distortion, recall", "beside the precision, which few names can raise"),
    "detection_map": Metric("Distortions found, detection only", "mAP without the boxes of region answers"),
    "mos_srcc": Metric("MOS, rank correlation", "SRCC with the true score"),
    "mos_plcc": Metric("MOS, linear correlation", "PLCC with the true score"),
    "choice_accuracy/type": Metric("Choice of type", "accuracy"),
    "choice_accuracy/severity": Metric("Choice of severity", "accuracy"),
    "choice_accuracy/position": Metric("Choice of position", "accuracy"),
    "choice_accuracy/significance": Metric("Choice of significance", "accuracy"),
    FORMAT: Metric("Well-formed turns", "share with exactly one think and one answer block"),
}


def summarise(rows: Iterable[Row], replicates: int, seed: int) -> dict[str, Any]:
    """The scores as `summary.json` holds them.

    rows: of the evaluation table. Returns ``students``: name -> metric -> {value, low, high}, and ``pairs``:
    "sft - base" -> metric -> {mean, low, high} for those of `PAIRS` whose students are there; ``mean`` is the
    difference on all data. Metrics: those of `tasks.rewards.metrics.mipi`, and ``format``. Raises ValueError on a gold
    that cannot be read.
    """
    by_student: dict[str, list[Row]] = defaultdict(list)
    for row in rows:
        by_student[row["student"]].append(row)
    students, pairs = bootstrap(by_student, replicates, seed)
    formats = _format_replicas(by_student, replicates, seed)
    for name, replicas in formats.items():
        students[name][FORMAT] = interval(float(replicas[0]), replicas[1:], TAILS)
    for a, b in pairs:
        difference = formats[a] - formats[b]
        pairs[a, b][FORMAT] = interval(float(difference[0]), difference[1:], TAILS)
    return {
        "students": {name: _named(metrics, "value") for name, metrics in students.items()},
        "pairs": {f"{a} - {b}": _named(pairs[a, b], "mean") for a, b in PAIRS if (a, b) in pairs},
    }


def flat(scores: Mapping[str, Any]) -> dict[str, float]:
    """The values alone, as metrics of a run: ``sft.composite`` and so on."""
    return {
        f"{name}.{metric}": figures["value"]
        for name, metrics in scores["students"].items()
        for metric, figures in metrics.items()
    }


def _named(metrics: Mapping[str, tuple[float, float, float]], middle: str) -> dict[str, dict[str, float]]:
    return {name: dict(zip((middle, "low", "high"), values, strict=True)) for name, values in metrics.items()}


def _format_replicas(by_student: Mapping[str, list[Row]], replicates: int, seed: int) -> dict[str, np.ndarray]:
    """Share of well-formed turns, on all data and then per replicate, on the draws that `bootstrap` makes."""
    photographs = sorted({str(row["source_photograph"]) for rows in by_student.values() for row in rows})
    weights = draw(len(photographs), replicates, seed)
    shares = {}
    for name, rows in by_student.items():
        good, turns = np.zeros(len(photographs)), np.zeros(len(photographs))
        for row in {row["dialogue_id"]: row for row in rows}.values():
            place = photographs.index(str(row["source_photograph"]))
            good[place] += read_turn(row["completion"]).complete
            turns[place] += 1
        shares[name] = (weights @ good) / np.maximum(weights @ turns, 1)
    return shares
