"""Metrics of video answers, captions and repeated tries, over the rewards' own readers."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from tasks.rewards.answers.boxes import read_boxes
from tasks.rewards.answers.spans import read_spans
from tasks.rewards.caption import f1
from tasks.rewards.judge import Judge
from tasks.rewards.lexical import content_stems, sentences
from tasks.rewards.temporal import spans_iou, tracking_overlaps

RECALL_AT = (0.3, 0.5, 0.7)
SUCCESS_AT = (0.5, 0.75)

Row = Mapping[str, Any]


def temporal_metrics(rows: Iterable[Row]) -> dict[str, float]:
    """mIoU and recall at IoU >= .3, .5, .7 of temporal grounding (Charades-STA). Rows: gold, answer. Unread = IoU 0."""
    overlaps = []
    for row in rows:
        gold, found = read_spans(row["gold"]), read_spans(row["answer"])
        if not gold:
            raise ValueError(f"the gold {row['gold']!r} is no time span")
        overlaps.append(spans_iou(gold, found) if found else 0.0)
    means = {f"recall@{t}": sum(o >= t for o in overlaps) / max(1, len(overlaps)) for t in RECALL_AT}
    return {"miou": sum(overlaps) / max(1, len(overlaps)), **means}


def tracking_metrics(rows: Iterable[Row]) -> dict[str, float]:
    """Average overlap and success rates at IoU >= .5 and .75 over all frames (GOT-10k). A track of another length:
    0.
    """
    overlaps: list[float] = []
    for row in rows:
        gold, found = read_boxes(row["gold"]), read_boxes(row["answer"])
        if not gold:
            raise ValueError(f"the gold {row['gold']!r} is no list of boxes")
        fits = found is not None and len(found) == len(gold)
        overlaps += (
            tracking_overlaps([g.box for g in gold], [f.box for f in found or ()]) if fits else [0.0] * len(gold)
        )
    rates = {f"success@{t}": sum(o >= t for o in overlaps) / max(1, len(overlaps)) for t in SUCCESS_AT}
    return {"average_overlap": sum(overlaps) / max(1, len(overlaps)), **rates}


def accuracy_by_type(rows: Iterable[Row]) -> dict[str, float]:
    """Mean accuracy per problem type of rows with ``problem_type`` and ``accuracy``."""
    by_type: dict[str, list[float]] = defaultdict(list)
    for row in rows:
        by_type[str(row["problem_type"])].append(float(row["accuracy"]))
    return {name: sum(values) / len(values) for name, values in sorted(by_type.items())}


def event_f1(
    reference: str, predicted: str, judge: Judge, *, events: Sequence[str] | None = None
) -> dict[str, float | str]:
    """precision, recall, F1 of events (DREAM-1K), and who judged.

    Recall: reference events that the predicted caption entails; precision: predicted events that the reference entails.
    events: of the reference; None = its sentences. Predicted events are the prediction's sentences.
    """
    wanted, told = list(events) if events is not None else sentences(reference), sentences(predicted)
    recalled = judge.entails(predicted, wanted)
    confirmed = judge.entails(reference, told)
    recall = sum(v.yes for v in recalled) / len(wanted) if wanted else 1.0
    precision = sum(v.yes for v in confirmed) / len(told) if told else float(not wanted)
    harmonic = 2 * precision * recall / (precision + recall) if precision + recall > 0 else 0.0
    return {"precision": precision, "recall": recall, "f1": harmonic, "judge": judge.by}


def set_f1(gold: Iterable[str], found: Iterable[str]) -> float:
    """F1 of two lists of short texts (actions, objects), compared by their stemmed words, repeats dropped."""
    a, b = ({frozenset(content_stems(text)) for text in texts if text.strip()} for texts in (gold, found))
    return f1(len(a & b), len(b), len(a))


def pass_at_k(num_tries: int, num_right: int, k: int) -> float:
    """Unbiased estimate of the chance that one of k tries is right, from num_tries of which num_right were right.

    1 - C(n - c, k) / C(n, k) (Chen et al. 2021). Raises ValueError unless 0 <= right <= tries and 1 <= k <= tries.
    """
    if not 0 <= num_right <= num_tries or not 1 <= k <= num_tries:
        raise ValueError(f"pass@{k} of {num_right} right in {num_tries} tries is undefined")
    return 1.0 - math.comb(num_tries - num_right, k) / math.comb(num_tries, k)
