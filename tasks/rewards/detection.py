"""Labelled detection: F1, the VLM-R1 form, average precision."""

from __future__ import annotations

import numpy as np

from tasks.rewards.answers.quality import class_of
from tasks.rewards.average_precision import match_pictures, mean_average_precision
from tasks.rewards.boxes import f1_of_boxes, match_greedily, read_item_boxes
from tasks.rewards.reward import Item, Outcome, Unread, read_gold, reward

_NOISE = "<|object_ref_start|>Severe noise<|object_ref_end|><|box_start|>(0,0),(500,500)<|box_end|>"


@reward(
    "detection_f1",
    judges="answer",
    continuous=True,
    source="ours; classes and threshold of the official MIPI score",
    departs="nothing is released; ours",
    formula="2 * matches / (gold boxes + found boxes), a match having the gold's distortion and IoU >= rewards.box_iou",
    example=({"problem_type": "detection", "answer": _NOISE}, f"<think></think><answer>{_NOISE}</answer>", 1.0),
)
def detection_f1(item: Item) -> Outcome:
    """The default of detection: unlike the VLM-R1 form it is 1 for every answer the official score counts as right."""
    gold = read_gold(read_item_boxes(item, item.gold))
    found = read_item_boxes(item, item.answer)
    if found is None:
        return Unread("no list of boxes")
    return f1_of_boxes(gold, found, item.settings.box_iou)


@reward(
    "detection_vlm_r1",
    judges="answer",
    continuous=True,
    source="VLM-R1 (detection)",
    departs="the released code compares whole labels in lower case, here the severity that a label may begin with is "
    "no part of it (`distortion_q_insight` pays for it); text it cannot read counts there as no boxes, which "
    "is right where the gold has none, and here as unread",
    formula=".7 * (sum of the matches' IoU, 0 for a wrong label) / gold "
    "+ .3 * (1 - (missed / gold + false / found) / 2)",
    example=({"problem_type": "detection", "answer": _NOISE}, f"<think></think><answer>{_NOISE}</answer>", 1.0),
)
def detection_vlm_r1(item: Item) -> Outcome:
    """Greedy matches at IoU >= .5, whatever their labels; gold, missed, found and false are numbers of boxes.

    A box in the right place under a wrong label counts as found and earns its share of the .3. Both lists empty is 1,
    one of them empty is 0.
    """
    gold = read_gold(read_item_boxes(item, item.gold))
    found = read_item_boxes(item, item.answer)
    if found is None:
        return Unread("no list of boxes")
    if not gold or not found:
        return float(not gold and not found)
    matches = match_greedily(gold, found, 0.5, labels=False)
    named = [iou for i, j, iou in matches if class_of(gold[i].label) == class_of(found[j].label)]
    missed, false = 1 - len(matches) / len(gold), 1 - len(matches) / len(found)
    return 0.7 * sum(named) / len(gold) + 0.3 * (1 - (missed + false) / 2)


@reward(
    "detection_map",
    judges="answer",
    continuous=True,
    source="VLM-R1 (mAP reward), with the rules of the official MIPI score",
    departs="the released code calls COCO's mAP, which reads precision at 101 points and drops labels that the gold "
    "lacks; here the rules of the official MIPI score hold, so that reward and metric are one",
    formula="mAP of this picture at IoU >= rewards.box_iou, all-point interpolation; a class only predicted has AP 0",
    example=({"problem_type": "detection", "answer": _NOISE}, f"<think></think><answer>{_NOISE}</answer>", 1.0),
)
def detection_map(item: Item) -> Outcome:
    """The metric itself as the reward. Both lists empty is 1."""
    gold = read_gold(read_item_boxes(item, item.gold))
    found = read_item_boxes(item, item.answer)
    if found is None:
        return Unread("no list of boxes")
    if not gold or not found:
        return float(not gold and not found)
    these, those = ([(class_of(b.label), b.box) for b in boxes] for boxes in (gold, found))
    flags = match_pictures({"": these}, {"": those}, {"": 0}, item.settings.box_iou)
    return float(mean_average_precision(flags, np.ones((1, 1)))[0])
