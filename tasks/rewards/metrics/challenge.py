"""The six metrics of the MIPI 2025 challenge "Detailed Image Quality Assessment" and their sum, as its scorer has them.

    mipi(rows)  ->  {"perception_accuracy": .., "region_map": .., .., "composite": .., "mos_srcc": .., ..}

A row is EVALUATION-like: sub_task, kind, problem_type, question, options, gold, answer (text read as the answer, or
None), sample_id, source_photograph, media_path. Rows become the official files' objects (`documents`), of which each
metric reads what the official scorer reads (`official`), tallied per source photograph once; `metrics_of` then gives
every metric under any weighting of the photographs, which is what the bootstrap needs.

The order of the rows is the order of the submission, and an mAP depends on it. The reference holds the pictures that
were asked: a question without an answer is a miss, and so is the description of a picture that was asked for boxes
alone, or the reverse. Where the official scorer fails on an entry and gives 0 for a metric, so it is here, and a
warning says which entry it was.
"""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from tasks.rewards.answers.numbers import read_number
from tasks.rewards.average_precision import ClassFlags, match_pictures, mean_average_precision
from tasks.rewards.metrics.correlation import weighted_pearson, weighted_spearman
from tasks.rewards.metrics.documents import (
    DETECTION,
    UNREAD_MOS,
    Reference,
    Row,
    Submission,
    documents_of,
    image_names,
    read_reference,
    read_submission,
)
from tasks.rewards.metrics.official import MAPS, RATIOS, Unscorable

LOGGER = logging.getLogger(__name__)

SIX = (
    "perception_accuracy",
    "region_map",
    "distortion_map",
    "description_map",
    "key_distortion_accuracy",
    "image_quality_accuracy",
)
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

    Answers count in the order of the rows. Beside the six and ``composite``: key_distortion_recall (the accuracy is a
    precision: it can be gamed by naming few), detection_map (distortion mAP of the detection answers alone: the
    official one also counts the boxes of region answers, so that a true box that both name is once a false positive),
    mos_srcc, mos_plcc, mos_rmse, choice_accuracy/<kind>. Raises ValueError on a gold that cannot be read.
    """
    tally = tally_rows(list(rows))
    return {name: float(values[0]) for name, values in metrics_of(tally, np.ones((1, tally.num_groups))).items()}


def score_submission(submission: Path, reference: Path) -> dict[str, float]:
    """The same metrics from the official files in two folders, as the official scorer computes them.

    A file that is missing is an empty one. Pictures of the reference of which the submission says nothing count as
    missed, boxes about other pictures as false. What makes the official scorer give 0 for a whole metric (answers that
    are more or fewer than the questions, one that is no capital letter of its candidates, an entry without its fields)
    gives 0, and a warning that names it. Raises ValueError on a file that is no JSON list of objects.
    """
    one_group: defaultdict[str, int] = defaultdict(int)
    tally = tally_documents(read_submission(submission), read_reference(reference), one_group, 1)
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
    maps: dict[str, dict[str, ClassFlags]] = {}
    for metric, read_boxes in MAPS.items():
        if metric != "detection_map" or any(i.get("question_type") == DETECTION for i in submission.grounding):
            try:
                maps[metric] = match_pictures(*read_boxes(submission, reference), groups)
            except Unscorable as error:
                _warn(metric, error)
    for metric, read_counted in RATIOS.items():
        try:
            counted = list(read_counted(submission, reference))
        except Unscorable as error:
            _warn(metric, error)
            continue
        for name, picture, right, total in counted:
            numerators, denominators = counts[name]
            numerators[groups[picture]] += right
            denominators[groups[picture]] += total
    return Tally(num_groups, dict(counts), maps, _mos(submission, reference, groups))


def _warn(metric: str, error: Unscorable) -> None:
    if metric in SIX:
        LOGGER.warning("%s is 0, as the official scorer has it: %s", metric, error)


def _mos(
    submission: Submission, reference: Reference, groups: Mapping[str, int]
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Predicted, gold, group of every answer about a picture with a MOS. One without an answer stands in the middle,
    because leaving it out would reward silence."""
    gold = {item.get("image", ""): float(item["mos"]) for item in reference.metadata if item.get("mos") is not None}
    said = [(item["image"], item.get("pred_mos")) for item in submission.scoring if item.get("image") in gold]
    silent = gold.keys() - {image for image, _ in said}
    answers = [*said, *((image, None) for image in gold if image in silent)]
    read = [read_number(str(answer)) for _, answer in answers]
    return (
        np.array([UNREAD_MOS if value is None else value for value in read]),
        np.array([gold[image] for image, _ in answers]),
        np.array([groups[image] for image, _ in answers], dtype=int),
    )
