"""The six metrics of the MIPI 2025 challenge "Detailed Image Quality Assessment" and their sum, over EVALUATION-like rows.

    mipi(rows)  ->  {"perception_accuracy": .., "region_map": .., .., "composite": .., "mos_srcc": .., ..}

A row needs sub_task, kind, question, options, gold, answer (text read as the answer, or None), sample_id and
source_photograph. Rows are tallied per source photograph once; `metrics_of` then gives every metric under any weighting of
the photographs, which is what the bootstrap needs.

Where this departs from the official scorer, each time the same where every picture was asked everything: the gold of the
distortion mAP are the pictures with a detection row, that of the description metrics the pictures with an ``assess`` row.
Predictions whose name is no known distortion are left out, as our exporter leaves them out of the submission.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from data_contracts.records import DISTORTIONS
from tasks.rewards.answers.boxes import LabelledBox
from tasks.rewards.answers.choice import option_texts, read_choice
from tasks.rewards.answers.numbers import read_number
from tasks.rewards.answers.quality import NO_DISTORTION, class_of, read_detections, read_phrase, scan_description
from tasks.rewards.boxes import box_iou, question_box
from tasks.rewards.average_precision import ClassBox, ClassFlags, match_pictures, mean_average_precision
from tasks.rewards.metrics.correlation import weighted_pearson, weighted_spearman

SIX = (
    "perception_accuracy",
    "region_map",
    "distortion_map",
    "description_map",
    "key_distortion_accuracy",
    "image_quality_accuracy",
)
UNREAD_MOS = 3.0  # an unreadable opinion score stands as the middle of [1, 5]: leaving it out would reward silence
KEY_IOU = 0.5  # strictly above, as in the official scorer

Row = Mapping[str, Any]


@dataclass
class Tally:
    """What the metrics need of the rows, per source photograph (axis of length P).

    ratios: name -> (numerators, denominators), each (P,). maps: name -> flags per class. mos: predicted, gold, photograph.
    """

    photographs: tuple[str, ...]
    ratios: dict[str, tuple[np.ndarray, np.ndarray]]
    maps: dict[str, dict[str, ClassFlags]]
    mos: tuple[np.ndarray, np.ndarray, np.ndarray]


@dataclass
class Picture:
    """The boxes of one picture, by what asked for them; None where nothing did. Lists keep the order of the rows."""

    group: int
    region_gold: list[ClassBox] | None = None
    region_found: list[ClassBox] | None = None
    detection_gold: list[ClassBox] | None = None
    detection_found: list[ClassBox] | None = None
    description_gold: list[ClassBox] | None = None
    description_found: list[ClassBox] | None = None


def mipi(rows: Iterable[Row]) -> dict[str, float]:
    """All metrics of one student. The six are 0 where no row belongs to them; the others are absent then.

    Beside the six and ``composite``: key_distortion_recall (the accuracy is a precision: it can be gamed by naming few),
    detection_map (distortion mAP of the detection answers alone: the official one also counts the boxes of region answers,
    so that a true box that both name is once a false positive), mos_srcc, mos_plcc, mos_rmse, choice_accuracy/<kind>.
    """
    tally = tally_rows(list(rows))
    ones = np.ones((1, len(tally.photographs)))
    return {name: float(values[0]) for name, values in metrics_of(tally, ones).items()}


def metrics_of(tally: Tally, weights: np.ndarray) -> dict[str, np.ndarray]:
    """Every metric under each row of weights (replicates x photographs); arrays of length replicates."""
    values = {name: np.zeros(len(weights)) for name in SIX}
    for name, (numerators, denominators) in tally.ratios.items():
        values[name] = (weights @ numerators) / np.maximum(weights @ denominators, 1)
    for name, classes in tally.maps.items():
        if not classes and name not in SIX:
            continue
        values[name] = mean_average_precision(classes, weights)
    values["composite"] = sum((values[name] for name in SIX), np.zeros(len(weights)))
    predicted, gold, photograph = tally.mos
    if predicted.size:
        per_row = weights[:, photograph]
        values["mos_srcc"] = weighted_spearman(predicted, gold, per_row)
        values["mos_plcc"] = weighted_pearson(predicted, gold, per_row)
        squares = (per_row * (predicted - gold) ** 2).sum(axis=1)
        values["mos_rmse"] = np.sqrt(squares / np.maximum(per_row.sum(axis=1), 1))
    return values


def tally_rows(rows: Sequence[Row], photographs: Sequence[str] | None = None) -> Tally:
    """Read and match every row once. photographs: the axis, if it is to hold more than these rows' own."""
    axis = tuple(photographs if photographs is not None else sorted({str(row["source_photograph"]) for row in rows}))
    index = {name: i for i, name in enumerate(axis)}
    counts: dict[str, tuple[np.ndarray, np.ndarray]] = defaultdict(lambda: (np.zeros(len(axis)), np.zeros(len(axis))))
    pictures: dict[str, Picture] = {}
    mos: list[tuple[float, float, int]] = []
    for row in rows:
        group = index[str(row["source_photograph"])]
        picture = pictures.setdefault(str(row["sample_id"]), Picture(group))
        sub_task = row["sub_task"]
        if row["problem_type"] == "choice":
            right = choice_is_right(row)
            for name in ("perception_accuracy", f"choice_accuracy/{row['kind']}"):
                counts[name][0][group] += right
                counts[name][1][group] += 1
        elif row["problem_type"] == "mos":
            mos.append((*read_mos(row), group))
        elif sub_task == "reg_perception":
            _add_region(picture, row)
        elif sub_task == "dist_detect":
            picture.detection_gold = (picture.detection_gold or []) + class_boxes(read_detections(row["gold"]))
            picture.detection_found = (picture.detection_found or []) + class_boxes(read_detections(row["answer"]))
        elif sub_task == "assess":
            _add_description(picture, row, counts)
    predicted, gold, photograph = (np.array(column) for column in zip(*mos, strict=True)) if mos else (np.zeros(0),) * 3
    return Tally(axis, dict(counts), match_all(pictures), (predicted, gold, photograph.astype(int)))


def choice_is_right(row: Row) -> bool:
    """True if the answer reads as the gold's option."""
    options = option_texts(row["options"], str(row["question"] or ""))
    chosen = read_choice(row["answer"], options)
    return chosen is not None and chosen == read_choice(row["gold"], options)


def read_mos(row: Row) -> tuple[float, float]:
    """Predicted and gold opinion score; the prediction is clipped to [1, 5], and UNREAD_MOS where none can be read."""
    gold, found = read_number(row["gold"]), read_number(row["answer"])
    if gold is None:
        raise ValueError(f"question {row.get('question_id')}: the gold opinion score {row['gold']!r} is no number")
    return (UNREAD_MOS if found is None else min(5.0, max(1.0, found))), gold


def class_boxes(boxes: Iterable[LabelledBox] | None) -> list[ClassBox]:
    """(class, box) of the boxes that name a known distortion."""
    return [(name, b.box) for b in boxes or () if (name := class_of(b.label)) in DISTORTIONS]


def region_boxes(question: str, answer: str | None) -> list[ClassBox]:
    """What a region answer says: its own boxes if it lists any, else its phrase on the box of the question."""
    phrase, asked = read_phrase(answer), question_box(question)
    if phrase is None:
        return class_boxes(read_detections(answer))
    return [] if phrase.distortion == NO_DISTORTION or asked is None else [(phrase.distortion, asked.box)]


def _add_region(picture: Picture, row: Row) -> None:
    picture.region_gold = (picture.region_gold or []) + region_boxes(row["question"], row["gold"])
    picture.region_found = (picture.region_found or []) + region_boxes(row["question"], row["answer"])


def _add_description(picture: Picture, row: Row, counts: dict[str, tuple[np.ndarray, np.ndarray]]) -> None:
    gold, found = scan_description(row["gold"]), scan_description(row["answer"])
    picture.description_gold = (picture.description_gold or []) + class_boxes(gold.distortions)
    picture.description_found = (picture.description_found or []) + class_boxes(found.distortions)
    level = counts["image_quality_accuracy"]
    level[0][picture.group] += found.level == gold.level
    level[1][picture.group] += 1
    if gold.distortions:
        gold_key, found_key = class_boxes(gold.key), class_boxes(found.key)
        for name, these, those in (
            ("key_distortion_accuracy", found_key, gold_key),
            ("key_distortion_recall", gold_key, found_key),
        ):
            counts[name][0][picture.group] += num_matched(these, those)
            counts[name][1][picture.group] += len(these)


def num_matched(these: Sequence[ClassBox], those: Sequence[ClassBox]) -> int:
    """How many of these have a box of the same class and IoU > .5 among those."""
    return sum(any(a == b and box_iou(box, other) > KEY_IOU for b, other in those) for a, box in these)


def match_all(pictures: Mapping[str, Picture]) -> dict[str, dict[str, ClassFlags]]:
    """The three mAPs' flags. Distortion mAP counts the boxes of detection and of region answers (official rule)."""
    groups = {key: p.group for key, p in pictures.items()}

    def flags(gold: dict[str, list[ClassBox] | None], found: dict[str, list[ClassBox]]) -> dict[str, ClassFlags]:
        asked = {key: boxes for key, boxes in gold.items() if boxes is not None}
        return match_pictures(asked, {key: found[key] for key in asked}, groups)

    return {
        "region_map": flags(
            {k: p.region_gold for k, p in pictures.items()}, {k: p.region_found or [] for k, p in pictures.items()}
        ),
        "distortion_map": flags(
            {k: p.detection_gold for k, p in pictures.items()},
            {k: (p.region_found or []) + (p.detection_found or []) for k, p in pictures.items()},
        ),
        "detection_map": flags(
            {k: p.detection_gold for k, p in pictures.items()}, {k: p.detection_found or [] for k, p in pictures.items()}
        ),
        "description_map": flags(
            {k: p.description_gold for k, p in pictures.items()},
            {k: p.description_found or [] for k, p in pictures.items()},
        ),
    }
