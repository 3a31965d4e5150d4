"""Mean average precision as the official MIPI scorer computes it, for many reweightings of the pictures at once.

Which box is a true positive is decided inside one picture; resampling pictures only changes how often its boxes
count. So boxes are matched once, and a replicate of the bootstrap is a cumulative sum over weights.

Rules of the official scorer: classes are those of the gold and of the predictions together; a class that was only
predicted has AP 0; a prediction goes to the gold box of its class and picture that it overlaps most, and is true if
that IoU >= threshold and the gold box is not taken, else false; all confidences are equal and sorting is stable, so
predictions count in the order given; all-point interpolation (VOC 2010).
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from tasks.rewards.answers.boxes import Box
from tasks.rewards.boxes import box_iou

ClassBox = tuple[str, Box]


@dataclass(frozen=True)
class ClassFlags:
    """One class: true (bool) and group (int) of every prediction in order; group of every gold box."""

    true: np.ndarray
    group: np.ndarray
    gold_group: np.ndarray


def match_pictures(
    gold: Mapping[str, Sequence[ClassBox]],
    found: Mapping[str, Sequence[ClassBox]],
    groups: Mapping[str, int],
    threshold: float = 0.5,
) -> dict[str, ClassFlags]:
    """Flags per class. gold, found: picture -> (class, box) in order; groups: picture -> unit of the resampling."""
    true: dict[str, list[bool]] = defaultdict(list)
    group: dict[str, list[int]] = defaultdict(list)
    gold_group: dict[str, list[int]] = defaultdict(list)
    for picture, boxes in gold.items():
        for name, _ in boxes:
            gold_group[name].append(groups[picture])
    for picture, boxes in found.items():
        taken: set[int] = set()
        candidates = gold.get(picture, ())
        for name, box in boxes:
            overlaps = [(box_iou(box, g), -i) for i, (n, g) in enumerate(candidates) if n == name]
            best, index = max(overlaps, default=(0.0, 0))
            hit = best > 0 and best >= threshold and -index not in taken
            if hit:
                taken.add(-index)
            true[name].append(hit)
            group[name].append(groups[picture])
    return {
        name: ClassFlags(
            np.array(true[name], dtype=bool), np.array(group[name], dtype=int), np.array(gold_group[name], dtype=int)
        )
        for name in sorted({*gold_group, *group})
    }


def mean_average_precision(classes: Mapping[str, ClassFlags], weights: np.ndarray) -> np.ndarray:
    """mAP under each row of weights (replicates x groups, counts); returns one value per row.

    A class without gold and predictions under a row is left out of its mean; 0 where there is no gold or no prediction.
    """
    total = np.zeros(len(weights))
    num_classes = np.zeros(len(weights))
    for flags in classes.values():
        num_gold = weights[:, flags.gold_group].sum(axis=1)
        per_box = weights[:, flags.group]
        cumulative = np.cumsum(per_box, axis=1)
        hits = per_box * flags.true
        precision = np.cumsum(hits, axis=1) / np.maximum(cumulative, 1)
        envelope = np.maximum.accumulate(precision[:, ::-1], axis=1)[:, ::-1]
        total += (hits * envelope).sum(axis=1) / np.maximum(num_gold, 1)
        num_classes += (num_gold > 0) | (per_box.sum(axis=1) > 0)
    return total / np.maximum(num_classes, 1)
