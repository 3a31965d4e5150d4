"""Rewards of picture quality: opinion score, phrases, ViDA-UGC's sentences and descriptions."""

from __future__ import annotations

import math

from tasks.rewards.answers.numbers import Quantity, read_quantity
from tasks.rewards.answers.quality import (
    Phrase,
    read_affected_region,
    read_brief,
    read_description,
    read_phrase,
)
from tasks.rewards.boxes import box_iou, f1_of_boxes, read_item_boxes
from tasks.rewards.reward import Item, Outcome, SampleError, Unread, read_gold, reward
from tasks.rewards.text import rouge

GAUSSIAN_WIDTH = 0.5  # of the MOS scale [1, 5], ours


def _opinion_scores(item: Item) -> tuple[float, Quantity | None]:
    gold = read_gold(read_quantity(item.gold))
    found = read_quantity(item.answer)
    return gold.value, found if found is not None and not found.unit else None


@reward(
    "mos_threshold",
    judges="answer",
    continuous=True,
    hacks=("unit",),
    source="Q-Insight (score reward)",
    departs='the released code reads {"rating": ..} as JSON, here the field is the bare number',
    formula="1 if |answer - gold| < rewards.mos_threshold (.35), else 0",
    example=({"problem_type": "mos", "answer": "3.42"}, "<think></think><answer>3.10</answer>", 1.0),
)
def mos_threshold(item: Item) -> Outcome:
    """An opinion score is right when it is near enough. A constant answer earns the share of golds near it."""
    gold, found = _opinion_scores(item)
    return Unread("not one number") if found is None else float(abs(found.value - gold) < item.settings.mos_threshold)


@reward(
    "mos_gaussian",
    judges="answer",
    continuous=True,
    hacks=("unit",),
    source="ours; the smooth form of Q-Insight's threshold",
    departs="nothing is released; ours",
    formula="exp(-(answer - gold)^2 / (2 * .5^2))",
    example=({"problem_type": "mos", "answer": "3.00"}, "<think></think><answer>3.50</answer>", 0.6065),
)
def mos_gaussian(item: Item) -> Outcome:
    """Dense where the threshold is blind."""
    gold, found = _opinion_scores(item)
    if found is None:
        return Unread("not one number")
    distance = min(abs(found.value - gold), 100.0)
    return math.exp(-(distance**2) / (2 * GAUSSIAN_WIDTH**2))


def _phrases(item: Item) -> tuple[Phrase | None, Phrase | None]:
    return read_phrase(item.gold), read_phrase(item.answer)


@reward(
    "region_phrase",
    judges="answer",
    source="ours; exact form of Q-Insight's distortion reward",
    departs="nothing is released; ours",
    formula="1 if distortion and severity are the gold's (Slight = Minor), else 0",
    example=(
        {"problem_type": "region", "answer": "Minor noise"},
        "<think></think><answer>Slight noise</answer>",
        1.0,
    ),
)
def region_phrase(item: Item) -> Outcome:
    """What distorts a region. A gold that lists boxes (ViDA-UGC's own files) is scored as `detection_f1`."""
    gold, found = _phrases(item)
    if gold is None:
        boxes = read_gold(read_item_boxes(item, item.gold))
        answer = read_item_boxes(item, item.answer)
        return Unread("no list of boxes") if answer is None else f1_of_boxes(boxes, answer, item.settings.box_iou)
    return Unread("no known distortion") if found is None else float(found == gold)


@reward(
    "distortion_q_insight",
    judges="answer",
    source="Q-Insight (distortion reward)",
    departs="the released code reads class and severity from JSON and compares them as written; here they are one "
    'phrase ("Slight noise"), and Slight is Minor, as in ViDA-UGC',
    formula=".25 if the distortion is the gold's, + .75 if the severity is too",
    continuous=True,
    example=({"problem_type": "region", "answer": "Minor noise"}, "<think></think><answer>Severe noise</answer>", 0.25),
)
def distortion_q_insight(item: Item) -> Outcome:
    """Part of the reward for the class alone; severity counts only where the class is right."""
    gold, found = _phrases(item)
    read_gold(gold)
    if found is None or gold is None:
        return Unread("no known distortion")
    return 0.25 * (found.distortion == gold.distortion) + 0.75 * (found == gold)


@reward(
    "free_form",
    judges="answer",
    source="ours for phrases; Video-R1 (free-form) for other texts",
    departs="phrases: nothing is released; ours. Other texts: as `rouge`",
    formula="phrase golds: 1 if distortion and severity agree, else 0; other golds: mean F of ROUGE-1, -2, -L",
    example=(
        {"problem_type": "free_form", "answer": "Moderate noise"},
        "<think></think><answer>moderate noise.</answer>",
        1.0,
    ),
)
def free_form(item: Item) -> Outcome:
    """Open questions: exact where the gold is a distortion's phrase, otherwise by common words."""
    gold, found = _phrases(item)
    if gold is None:
        return rouge(item.gold, item.answer)
    return Unread("no known distortion") if found is None else float(found == gold)


@reward(
    "brief",
    judges="answer",
    continuous=True,
    source="ours",
    departs="nothing is released; ours",
    formula="mean of: level is the gold's; key distortion's phrase is the gold's. Other golds: ROUGE",
    example=(
        {"problem_type": "brief", "answer": "The quality of the image is poor; its key distortion is severe noise."},
        "<think></think><answer>The quality of the image is poor; its key distortion is minor noise.</answer>",
        0.5,
    ),
)
def brief(item: Item) -> Outcome:
    """The one-sentence description."""
    gold, found = read_brief(item.gold), read_brief(item.answer)
    if gold is None:
        return rouge(item.gold, item.answer)
    if found is None:
        return Unread("not the sentence of level and key distortion")
    return ((found.level == gold.level) + (found.phrase == gold.phrase)) / 2


@reward(
    "affected_region",
    judges="answer",
    continuous=True,
    source="ours",
    departs="nothing is released; ours",
    formula="mean of: severity is the gold's; IoU >= rewards.box_iou. 0 for another distortion. Other golds: ROUGE",
    example=(
        {
            "problem_type": "distortion",
            "answer": "Severe noise affects the top left of the image <|box_start|>(0,0),(500,500)<|box_end|>.",
        },
        "<think></think><answer>"
        "Minor noise affects the left of the image <|box_start|>(0,0),(500,450)<|box_end|>.</answer>",
        0.5,
    ),
)
def affected_region(item: Item) -> Outcome:
    """How strong one distortion is, and where. The position word follows from the box and is not scored twice."""
    gold, found = read_affected_region(item.gold), read_affected_region(item.answer)
    if gold is None:
        return rouge(item.gold, item.answer)
    if found is None:
        return Unread("not the sentence of severity, position and box")
    if found.phrase.distortion != gold.phrase.distortion:
        return 0.0
    near = box_iou(found.box.box, gold.box.box) >= item.settings.box_iou
    return ((found.phrase.severity == gold.phrase.severity) + near) / 2


@reward(
    "description",
    judges="answer",
    continuous=True,
    source="ours; the three description terms of the official MIPI score, for one picture",
    departs="the official score takes the three over all pictures and counts key distortions by precision; one "
    "picture needs F1, or naming few would pay",
    formula="mean of: level is the gold's; detection F1 of all boxes; F1 of the key distortions",
    example=(
        {
            "problem_type": "description",
            "answer": "A field.\nDistortions: No distortion.\nOverall: key distortions: none.\n"
            "Thus, the quality of the image is good.",
        },
        "<think></think><answer>A field.\nDistortions: No distortion.\nOverall: key distortions: none.\n"
        "Thus, the quality of the image is fair.</answer>",
        2 / 3,
    ),
)
def description(item: Item) -> Outcome:
    """The detailed description. Its first line, what the picture shows, is not scored."""
    gold, found = read_description(item.gold), read_description(item.answer)
    if gold is None:
        raise SampleError("field 'answer': the gold is no description ending in the sentence of the level")
    if found is None:
        return Unread("not the lines of content, distortions, key distortions and level")
    boxes = f1_of_boxes(gold.distortions, found.distortions, item.settings.box_iou)
    key = f1_of_boxes(gold.key, found.key, item.settings.box_iou)
    return ((found.level == gold.level) + boxes + key) / 3
