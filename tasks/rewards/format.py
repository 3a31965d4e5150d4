"""Rewards of the frame: think and answer, with glue, a track, boxed."""

from __future__ import annotations

from tasks.rewards.answers.boxes import read_boxes, read_track
from tasks.rewards.answers.spans import read_glue
from tasks.rewards.answers.turn import ANSWER, BOXED, has_format
from tasks.rewards.reward import Item, Outcome, read_gold, reward


@reward(
    "format",
    judges="form",
    source="VideoChat-R1 sec. 3 (R_format); an empty think block counts, ours",
    departs="the released pattern also takes repeated and nested tags and an empty answer; they are refused here, "
    "because they let a turn hold two answers or none",
    formula="1 if the turn is `<think>..</think>\\s*<answer>..</answer>` alone, no tag nested or repeated; else 0",
    example=({"problem_type": "choice", "answer": "B"}, "<think>Blocky edges.</think><answer>B</answer>", 1.0),
)
def think_answer(item: Item) -> Outcome:
    """The frame that cold start teaches and reinforcement keeps."""
    return float(has_format(item.turn.text))


@reward(
    "format_glue",
    judges="form",
    source="VideoChat-R1 sec. 3 (grounded question answering)",
    departs="as `format`; the list has the released spelling, white space around it aside",
    formula="1 if the turn is think, answer and `<glue>[(s, e), ..]</glue>` with s <= e; else 0",
    example=(
        {"problem_type": "grounded_qa", "answer": "B", "glue": [[1, 4]]},
        "<think>He jumps.</think><answer>B</answer><glue>[(1.0, 4.0)]</glue>",
        1.0,
    ),
)
def think_answer_glue(item: Item) -> Outcome:
    """The frame of grounded answers. An empty list says that there is no evidence."""
    return float(has_format(item.turn.text, glue=True) and read_glue(item.turn.glue) is not None)


_TRACK = "[[0, 0, 0.5, 0.5], [0, 0, 1, 1]]"


@reward(
    "format_tracking",
    judges="form",
    source="VideoChat-R1 sec. 3 (tracking)",
    departs="as `format`; the released code fixes 8 lists, here there are as many as the gold has, which is 8 in its "
    "data, and their members must be numbers",
    formula="1 if the turn has the frame of `format` and the answer is a list of lists of 4 numbers, as many as "
    "the gold has boxes (8); else 0",
    example=({"problem_type": "tracking", "answer": _TRACK}, f"<think>Left.</think><answer>{_TRACK}</answer>", 1.0),
)
def think_answer_track(item: Item) -> Outcome:
    """The frame of a track: `[[x1, y1, x2, y2], ..]` and nothing else."""
    gold, found = read_gold(read_boxes(item.gold)), read_track(item.answer)
    return float(has_format(item.turn.text) and found is not None and len(found) == len(gold))


@reward(
    "format_boxed",
    judges="form",
    source="GLM-4.1V-Thinking sec. 5",
    departs="the released check allows one box at most, counts it in the answer alone and leaves a missing one to the "
    "verifiers; here exactly one is asked for in the whole turn, so that the frame alone says whether an "
    "answer can be verified",
    formula="1 if the turn has the frame of `format`, one `<|begin_of_box|>..<|end_of_box|>`, not empty and in the "
    "answer, and no `\\boxed`; else 0",
    example=(
        {"problem_type": "mathematics", "answer": "12"},
        "<think>3 * 4</think><answer>It is <|begin_of_box|>12<|end_of_box|></answer>",
        1.0,
    ),
)
def boxed(item: Item) -> Outcome:
    """The frame of verifiable answers inside prose: the box stands in the answer."""
    text = item.turn.text
    if not has_format(text) or "\\boxed" in text or any(text.count(token) != 1 for token in BOXED):
        return 0.0
    start, end = (text.find(token) for token in BOXED)
    in_answer = text.find(ANSWER[0]) < start < end
    return float(in_answer and bool(text[start + len(BOXED[0]) : end].strip()))
