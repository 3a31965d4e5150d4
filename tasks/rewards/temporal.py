"""Rewards of time: one span, several spans, a tracked box."""

from __future__ import annotations

from collections.abc import Sequence

from tasks.rewards.answers.boxes import Box, read_boxes
from tasks.rewards.answers.spans import Span, read_glue, read_span
from tasks.rewards.boxes import box_iou
from tasks.rewards.reward import Item, Noted, Outcome, SampleError, Unread, read_gold, reward


def merged(spans: Sequence[Span]) -> list[Span]:
    """The spans in order, overlapping ones joined."""
    joined: list[Span] = []
    for start, end in sorted(spans):
        if joined and start <= joined[-1][1]:
            joined[-1] = joined[-1][0], max(joined[-1][1], end)
        else:
            joined.append((start, end))
    return joined


def spans_iou(a: Sequence[Span], b: Sequence[Span]) -> float:
    """Shared duration / joint duration of two sets of spans, each merged first. Two empty sets: 1.

    Spans without duration share nothing unless the sets are equal.
    """
    a, b = merged(a), merged(b)
    if a == b:
        return 1.0
    shared, i, j = 0.0, 0, 0
    while i < len(a) and j < len(b):
        shared += max(0.0, min(a[i][1], b[j][1]) - max(a[i][0], b[j][0]))
        if a[i][1] < b[j][1]:
            i += 1
        else:
            j += 1
    joint = sum(end - start for start, end in (*a, *b)) - shared
    return min(1.0, shared / joint) if joint > 0 else 0.0


@reward(
    "temporal_iou",
    judges="answer",
    continuous=True,
    source="VideoChat-R1 sec. 3 (R_IoU of temporal grounding)",
    departs='the released code takes the last "s to e" or "s and e" anywhere in the answer; here the field must be '
    "one span, in more spellings (clock times, seconds, brackets), and a span that ends before it starts is "
    "unread",
    formula="|I ∩ J| / |I ∪ J| of the answer's one span and the gold's",
    example=(
        {"problem_type": "temporal_grounding", "answer": "10.00 to 20.00"},
        "<think></think><answer>15.00 to 20.00</answer>",
        0.5,
    ),
)
def temporal_iou(item: Item) -> Outcome:
    """When something happens. A span that ends before it starts, or several spans, cannot be read."""
    gold, found = read_gold(read_span(item.gold)), read_span(item.answer)
    return Unread("not one span") if found is None else spans_iou([gold], [found])


@reward(
    "glue_iou",
    judges="answer",
    continuous=True,
    source="VideoChat-R1 sec. 3 (R_IoU of grounded question answering)",
    departs="spans without duration: the released code gives 1 where neither side has any, here they must be equal. "
    "White space around the list is allowed",
    formula="IoU of the merged spans of `<glue>` and of the gold's; both empty: 1",
    example=(
        {"problem_type": "grounded_qa", "answer": "B", "glue": [[0, 4], [6, 10]]},
        "<think></think><answer>B</answer><glue>[(0, 4), (3, 4)]</glue>",
        0.5,
    ),
)
def glue_iou(item: Item) -> Outcome:
    """Where the evidence stands. Golds: field ``glue``, a list of [start, end] in seconds."""
    spans = item.sample.get("glue")
    if spans is None:
        raise SampleError("field 'glue': grounded answers need the list of [start, end] of their evidence")
    try:
        gold = [(float(start), float(end)) for start, end in spans]
    except (TypeError, ValueError) as error:
        raise SampleError(f"field 'glue': {spans!r} is no list of [start, end]") from error
    found = read_glue(item.turn.glue)
    if found is None:
        return Unread("no list of spans in <glue>")
    value = spans_iou(gold, found)
    return value if value == 1 else Noted(value, f"glue_iou {value:.3g}: {found}, the gold is {gold}")


def tracking_overlaps(gold: Sequence[Box], found: Sequence[Box]) -> list[float]:
    """IoU per frame of two tracks of equal length."""
    return [1.0 if g == f else box_iou(g, f) for g, f in zip(gold, found, strict=True)]


@reward(
    "tracking_iou",
    judges="answer",
    continuous=True,
    source="VideoChat-R1 sec. 3 (R_IoU of tracking)",
    departs="the released code reads 8 lists of 4 and scores two equal boxes without area 0; here boxes are read in "
    "any spelling of `read_boxes` (the frame is judged by `format_tracking`), and equal boxes overlap fully, "
    "so that every gold scores 1",
    formula="mean IoU of the boxes, one per frame; as many as the gold has (8), else unreadable",
    example=(
        {"problem_type": "tracking", "answer": "[[0, 0, 0.5, 0.5], [0, 0, 1, 1]]"},
        "<think></think><answer>[[0, 0, 0.5, 0.25], [0, 0, 1, 1]]</answer>",
        0.75,
    ),
)
def tracking_iou(item: Item) -> Outcome:
    """One object through the sampled frames, boxes normalised as the gold's are."""
    gold, found = read_gold(read_boxes(item.gold)), read_boxes(item.answer)
    if found is None or len(found) != len(gold):
        return Unread(f"not a list of {len(gold)} boxes")
    overlaps = tracking_overlaps([g.box for g in gold], [f.box for f in found])
    return sum(overlaps) / len(overlaps)
