"""Rewards of the frame: think and answer, with glue, boxed."""

from __future__ import annotations

from tasks.rewards.answers.turn import BOXED, TAGS, has_format
from tasks.rewards.reward import Item, Outcome, reward


@reward(
    "format",
    judges="form",
    source="VideoChat-R1 sec. 3 (R_format); an empty think block counts, ours",
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
    formula="1 if the turn is think, answer and `<glue>[(s, e), ..]</glue>` with s <= e; else 0",
    example=(
        {"problem_type": "grounded_qa", "answer": "B", "glue": [[1, 4]]},
        "<think>He jumps.</think><answer>B</answer><glue>[(1.0, 4.0)]</glue>",
        1.0,
    ),
)
def think_answer_glue(item: Item) -> Outcome:
    """The frame of grounded answers; a glue block that holds no list of spans is no glue block."""
    from tasks.rewards.answers.spans import read_spans

    return float(has_format(item.turn.text, glue=True) and bool(read_spans(item.turn.glue)))


@reward(
    "format_boxed",
    judges="form",
    source="GLM-4.1V-Thinking sec. 5",
    formula="1 if exactly one `<|begin_of_box|>..<|end_of_box|>`, no `\\boxed`, no nested or repeated tag; else 0",
    example=(
        {"problem_type": "mathematics", "answer": "12"},
        "<think>3 * 4</think><answer>It is <|begin_of_box|>12<|end_of_box|></answer>",
        1.0,
    ),
)
def boxed(item: Item) -> Outcome:
    """The frame of verifiable answers inside prose."""
    text = item.turn.text
    start, end = text.find(BOXED[0]), text.find(BOXED[1])
    one = text.count(BOXED[0]) == text.count(BOXED[1]) == 1 and 0 <= start < end
    content = text[start + len(BOXED[0]) : end].strip() if one else ""
    return float(
        bool(content) and "\\boxed" not in text and has_format(text) and not any(tag in content for tag in TAGS)
    )
