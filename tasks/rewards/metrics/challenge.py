"""The six metrics of the MIPI 2025 challenge "Detailed Image Quality Assessment" and their sum.

    mipi(rows)  ->  {"perception_accuracy": .., "region_map": .., .., "composite": .., "mos_srcc": .., ..}

A row is EVALUATION-like: sub_task, kind, problem_type, question, options, gold, answer (text read as the answer, or
None), sample_id, source_photograph, media_path. Rows become the official files' objects (`documents`), which are
tallied per source photograph once; `metrics_of` then gives every metric under any weighting of the photographs, which
is what the bootstrap needs.

Departures from the official scorer: the gold of the distortion mAP are the pictures with a detection item, that of
the description metrics the pictures with a description (the same where every picture was asked everything); a file
that does not match its reference is an error that names the item instead of a metric of 0.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from tasks.rewards.answers.quality import NO_DISTORTION
from tasks.rewards.average_precision import ClassBox, ClassFlags, match_pictures, mean_average_precision
from tasks.rewards.boxes import box_iou
from tasks.rewards.metrics.correlation import weighted_pearson, weighted_spearman
from tasks.rewards.metrics.documents import (
    DETECTION,
    REGION,
    Document,
    Reference,
    Row,
    Submission,
    documents_of,
    image_names,
    read_reference,
    read_submission,
)

SIX = (
    "perception_accuracy",
    "region_map",
    "distortion_map",
    "description_map",
    "key_distortion_accuracy",
    "image_quality_accuracy",
)
KEY_IOU = 0.5  # strictly above, as in the official scorer

Counts = dict[str, tuple[np.ndarray, np.ndarray]]


@dataclass(frozen=True)
class Tally:
    """What the metrics need, per group of pictures (axis of length P).

    ratios: name -> (numerators, denominators), each (P,). maps: name -> flags per class. mos: predicted, gold, group.
    """

    num_groups: int
    ratios: Counts
    maps: dict[str, dict[str, ClassFlags]]
    mos: tuple[np.ndarray, np.ndarray, np.ndarray]


def mipi(rows: Iterable[Row]) -> dict[str, float]:
    """All metrics of one student. The six are 0 where no row belongs to them; the others are absent then.

    Beside the six and ``composite``: key_distortion_recall (the accuracy is a precision: it can be gamed by naming
    few), detection_map (distortion mAP of the detection answers alone: the official one also counts the boxes of
    region answers, so that a true box that both name is once a false positive), mos_srcc, mos_plcc, mos_rmse,
    choice_accuracy/<kind>. Raises ValueError on a gold that cannot be read.
    """
    tally = tally_rows(list(rows))
    return {name: float(values[0]) for name, values in metrics_of(tally, np.ones((1, tally.num_groups))).items()}


def score_submission(submission: Path, reference: Path) -> dict[str, float]:
    """The same metrics from the official files in two folders. Raises ValueError where they do not belong together."""
    files, truth = read_submission(submission), read_reference(reference)
    images = [item["image"] for item in (*truth.metadata, *truth.regions, *truth.mcq)]
    tally = tally_documents(files, truth, {image: 0 for image in images}, 1)
    return {name: float(values[0]) for name, values in metrics_of(tally, np.ones((1, 1))).items()}


def metrics_of(tally: Tally, weights: np.ndarray) -> dict[str, np.ndarray]:
    """Every metric under each row of weights (replicates x groups); arrays of length replicates."""
    values = {name: np.zeros(len(weights)) for name in SIX}
    for name, (numerators, denominators) in tally.ratios.items():
        values[name] = (weights @ numerators) / np.maximum(weights @ denominators, 1)
    for name, classes in tally.maps.items():
        if classes or name in SIX:
            values[name] = mean_average_precision(classes, weights)
    values["composite"] = np.sum([values[name] for name in SIX], axis=0)
    predicted, gold, group = tally.mos
    if predicted.size:
        per_item = weights[:, group]
        values["mos_srcc"] = weighted_spearman(predicted, gold, per_item)
        values["mos_plcc"] = weighted_pearson(predicted, gold, per_item)
        squares = (per_item * (predicted - gold) ** 2).sum(axis=1)
        values["mos_rmse"] = np.sqrt(squares / np.maximum(per_item.sum(axis=1), 1))
    return values


def tally_rows(rows: Sequence[Row], photographs: Sequence[str] | None = None) -> Tally:
    """Read and match every row once. photographs: the axis, if it is to hold more than these rows' own."""
    axis = sorted({str(row["source_photograph"]) for row in rows}) if photographs is None else photographs
    index = {name: i for i, name in enumerate(axis)}
    names = image_names(rows)
    groups = {names[str(row["sample_id"])]: index[str(row["source_photograph"])] for row in rows}
    submission, reference = documents_of(rows)
    return tally_documents(submission, reference, groups, len(axis))


def tally_documents(submission: Submission, reference: Reference, groups: Mapping[str, int], num_groups: int) -> Tally:
    """Tally a submission against its reference. groups: image -> unit of the resampling."""
    counts: Counts = defaultdict(lambda: (np.zeros(num_groups), np.zeros(num_groups)))
    metadata = {item["image"]: item for item in reference.metadata}
    _count_choices(counts, submission, reference, groups)
    for item in submission.description:
        if item["image"] in metadata:
            _count_description(counts, item, metadata[item["image"]], groups[item["image"]])
    maps = _match_maps(submission, reference, metadata, groups)
    return Tally(num_groups, dict(counts), maps, _mos(submission, metadata, groups))


def _count_choices(counts: Counts, submission: Submission, reference: Reference, groups: Mapping[str, int]) -> None:
    predicted = {item["id"]: item for item in submission.perception}
    gold = {item["id"]: item for item in reference.mcq}
    if len(predicted) != len(submission.perception) or set(predicted) != set(gold):
        odd = sorted(set(predicted) ^ set(gold), key=str)
        raise ValueError(f"perception: ids differ from the reference or repeat (first of them: {odd[:3]})")
    for key, item in gold.items():
        right = chosen_candidate(predicted[key]) == item["correct_ans"]
        for name in ("perception_accuracy", f"choice_accuracy/{predicted[key].get('concern')}"):
            numerators, denominators = counts[name]
            numerators[groups[item["image"]]] += right
            denominators[groups[item["image"]]] += 1


def chosen_candidate(item: Document) -> str:
    """The candidate named by the first character of ``pred_ans``. Raises ValueError where the official scorer gives
    0.
    """
    text = str(item["pred_ans"]).strip()
    index = ord(text[0]) - ord("A") if text else -1
    if not 0 <= index < len(item["candidates"]):
        raise ValueError(f"perception: item {item['id']}: {text[:20]!r} is no capital letter of its candidates")
    return str(item["candidates"][index])


def _count_description(counts: Counts, item: Document, gold: Document, group: int) -> None:
    numerators, denominators = counts["image_quality_accuracy"]
    numerators[group] += item["image_quality"] == gold["level"]
    denominators[group] += 1
    if not gold["distortions"]:
        return
    highest = max(d.get("significance_score") or 0 for d in gold["distortions"])
    gold_key = class_boxes(
        (d for d in gold["distortions"] if (d.get("significance_score") or 0) == highest), lower=True
    )
    found_key = class_boxes(item["key_distortions"], lower=True)
    for name, these, those in (
        ("key_distortion_accuracy", found_key, gold_key),
        ("key_distortion_recall", gold_key, found_key),
    ):
        counts[name][0][group] += num_matched(these, those)
        counts[name][1][group] += len(these)


def num_matched(these: Sequence[ClassBox], those: Sequence[ClassBox]) -> int:
    """How many of these have a box of the same class and IoU > .5 among those."""
    return sum(any(a == b and box_iou(box, other) > KEY_IOU for b, other in those) for a, box in these)


def class_boxes(distortions: Iterable[Document], *, lower: bool = False, negatives: bool = False) -> list[ClassBox]:
    """(class, box) of the official files' distortions, named as the official scorer has it.

    lower: names are compared in lower case (descriptions), else as written. negatives: "No distortion" is a class like
    any other, else left out. Entries without four coordinates are left out.
    """
    boxes: list[ClassBox] = []
    for entry in distortions:
        name, corners = str(entry.get("distortion")), entry.get("coordinates") or ()
        if (negatives or name != NO_DISTORTION) and len(corners) == 4:
            x1, y1, x2, y2 = (float(corner) for corner in corners)
            boxes.append((name.lower().replace("_", " ").strip() if lower else name, (x1, y1, x2, y2)))
    return boxes


def _match_maps(
    submission: Submission, reference: Reference, metadata: Mapping[str, Document], groups: Mapping[str, int]
) -> dict[str, dict[str, ClassFlags]]:
    """Flags of the mAPs. The distortion mAP counts the boxes of detection and of region answers (official rule)."""
    found: dict[str, dict[str, list[ClassBox]]] = {name: defaultdict(list) for name in (REGION, DETECTION, "both")}
    for item in submission.grounding:
        kind, image = item.get("question_type"), item["image"]
        found[kind or REGION][image] += class_boxes(item["distortions"], negatives=kind == DETECTION)
        if kind is not None:
            found["both"][image] += class_boxes(item["distortions"], negatives=True)
    regions: dict[str, list[ClassBox]] = defaultdict(list)
    for item in reference.regions:
        regions[item["image"]] += class_boxes(item["distortions"])
    described = {i["image"]: class_boxes(i["all_distortions"], lower=True) for i in submission.description}
    detected = [i["image"] for i in submission.grounding if i.get("question_type") == DETECTION]

    def flags(gold: Mapping[str, list[ClassBox]], boxes: Mapping[str, list[ClassBox]]) -> dict[str, ClassFlags]:
        return match_pictures(gold, {image: boxes.get(image, []) for image in gold}, groups)

    def truth(images: Iterable[str], lower: bool) -> dict[str, list[ClassBox]]:
        asked = [image for image in dict.fromkeys(images) if image in metadata]
        return {image: class_boxes(metadata[image]["distortions"], lower=lower) for image in asked}

    return {
        "region_map": flags(regions, found[REGION]),
        "distortion_map": flags(truth(detected, False), found["both"]),
        "detection_map": flags(truth(detected, False), found[DETECTION]),
        "description_map": flags(truth(described, True), described),
    }


def _mos(
    submission: Submission, metadata: Mapping[str, Document], groups: Mapping[str, int]
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    known: list[Any] = [i for i in submission.scoring if metadata.get(i["image"], {}).get("mos") is not None]
    predicted = np.array([float(item["pred_mos"]) for item in known])
    gold = np.array([float(metadata[item["image"]]["mos"]) for item in known])
    return predicted, gold, np.array([groups[item["image"]] for item in known], dtype=int)
