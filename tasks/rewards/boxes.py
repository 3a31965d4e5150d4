"""Boxes: overlap, greedy matching, grounding of one box."""

from __future__ import annotations

import re
from collections.abc import Sequence

from tasks.rewards.answers.boxes import Box, LabelledBox, read_boxes, to_norm1000
from tasks.rewards.answers.quality import class_of, read_detections
from tasks.rewards.reward import Item, Outcome, SampleError, Unread, read_gold, reward


def box_iou(a: Box, b: Box) -> float:
    """Intersection over union of two boxes [x1, y1, x2, y2] of one scale; 0 for a box without area."""
    width, height = min(a[2], b[2]) - max(a[0], b[0]), min(a[3], b[3]) - max(a[1], b[1])
    if width <= 0 or height <= 0:
        return 0.0
    inner = width * height
    return inner / ((a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - inner)


def match_greedily(
    gold: Sequence[LabelledBox], found: Sequence[LabelledBox], threshold: float, labels: bool = True
) -> list[tuple[int, int, float]]:
    """Pairs (gold index, found index, IoU) with IoU >= threshold, each box at most once, best IoU first; of equal ones
    the first found box's, as in VLM-R1.

    labels: only boxes of one class match. Classes are distortions without their severity.
    """
    classes = [class_of(b.label) for b in gold], [class_of(b.label) for b in found]
    overlaps = [
        (-box_iou(g.box, f.box), j, i)
        for i, g in enumerate(gold)
        for j, f in enumerate(found)
        if not labels or classes[0][i] == classes[1][j]
    ]
    pairs: list[tuple[int, int, float]] = []
    taken_gold: set[int] = set()
    taken_found: set[int] = set()
    for negative, j, i in sorted(overlaps):
        if -negative >= threshold and -negative > 0 and i not in taken_gold and j not in taken_found:
            pairs.append((i, j, -negative))
            taken_gold.add(i)
            taken_found.add(j)
    return pairs


def f1_of_boxes(gold: Sequence[LabelledBox], found: Sequence[LabelledBox], threshold: float) -> float:
    """2 * matches / (gold + found); 1 if both are empty."""
    if not gold and not found:
        return 1.0
    return 2 * len(match_greedily(gold, found, threshold)) / (len(gold) + len(found))


def read_item_boxes(item: Item, text: str | None) -> list[LabelledBox] | None:
    """The labelled boxes of a text in 0..1000, from the scale that the sample declares in ``box_scale`` (norm1000)."""
    boxes = read_detections(text)
    scale = str(item.sample.get("box_scale") or "norm1000")
    if boxes is None or scale == "norm1000":
        return boxes
    size = float(item.sample.get("width") or 0), float(item.sample.get("height") or 0)
    try:
        return [LabelledBox(b.label, to_norm1000(b.box, scale, *size)) for b in boxes]
    except ValueError as error:
        raise SampleError(f"field 'box_scale': {error}") from error


@reward(
    "box_iou",
    judges="answer",
    continuous=True,
    source="VLM-R1 (referring expressions); VideoChat-R1 sec. 3 (R_IoU)",
    departs="VLM-R1 takes the first box that stands anywhere in the answer (and in its first version pays 1 for IoU > "
    ".5, else 0); here several boxes are unread, because an answer must commit to one",
    formula="area of the intersection / area of the union of the answer's one box and the gold's",
    example=(
        {"problem_type": "grounding", "answer": "<|box_start|>(0,0),(500,500)<|box_end|>"},
        "<think></think><answer><|box_start|>(0,0),(500,250)<|box_end|></answer>",
        0.5,
    ),
)
def grounding(item: Item) -> Outcome:
    """One box is asked for: an answer with several is unreadable."""
    gold = read_gold(read_item_boxes(item, item.gold))
    if len(gold) != 1:
        raise SampleError(f"field 'answer': grounding needs one gold box, there are {len(gold)}")
    found = read_item_boxes(item, item.answer)
    if not found or len(found) != 1:
        return Unread("not one box")
    return box_iou(gold[0].box, found[0].box)


_REGION_BOX = re.compile(r"<\|box_start\|>.{1,80}?<\|box_end\|>")


def question_box(question: str) -> LabelledBox | None:
    """The box a region question asks about, or None."""
    found = _REGION_BOX.search(question[:65_536])
    boxes = read_boxes(found.group()) if found else None
    return boxes[0] if boxes else None
