"""How a dialogue's two turns are written: numbered questions, numbered answers, the assistant's two blocks.

The paper does not publish its merge form; this one is ours. Pure text, no torch. Every writer has an exact inverse.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

_NUMBERED = re.compile(r"^ *\d+\. ")
_TURN = re.compile(r"<think>(.*?)</think><answer>(.*)</answer>", re.DOTALL)


def merge_prompt(questions: Sequence[str]) -> str:
    """One user turn of several questions: ``1. ...\\n2. ...``; a single question stands unnumbered (ours).

    Raises ValueError if there is no question.
    """
    return _merge(questions)


def merge_answers(answers: Sequence[str]) -> str:
    """The answer block of several answers, numbered as their questions are; a single answer stands unnumbered (ours).

    Raises ValueError if there is no answer.
    """
    return _merge(answers)


def split_prompt(prompt: str, num_pairs: int) -> list[str]:
    """The questions that `merge_prompt` put into this prompt. Raises ValueError if it does not hold that many."""
    return _split(prompt, num_pairs)


def split_answers(answer: str, num_pairs: int) -> list[str]:
    """The answers that `merge_answers` put into this block. Raises ValueError if it does not hold that many.

    Meant for gold; what a student wrote is read by `tasks/rewards/answers.py`, which forgives more.
    """
    return _split(answer, num_pairs)


def assistant_turn(think: str | None, answer: str) -> str:
    """``<think>THINK</think><answer>ANSWER</answer>``; without reasoning the think block stands empty.

    Raises ValueError if the reasoning holds ``</think>`` or the answer ``</answer>``: the turn could not be read back.
    """
    think = think or ""
    for text, tag in ((think, "</think>"), (answer, "</answer>")):
        if tag in text:
            raise ValueError(f"a turn's text holds the tag {tag}: {text[:80]!r}")
    return f"<think>{think}</think><answer>{answer}</answer>"


def split_turn(turn: str) -> tuple[str, str]:
    """(reasoning, answer) of a turn written by `assistant_turn`. Raises ValueError if it is not one."""
    match = _TURN.fullmatch(turn)
    if match is None or "</answer>" in match[2]:
        raise ValueError(f"not <think>..</think><answer>..</answer>: {turn[:80]!r}")
    return match[1], match[2]


def _merge(items: Sequence[str]) -> str:
    if not items:
        raise ValueError("nothing to merge: a dialogue holds at least one question")
    if len(items) == 1:
        return items[0]
    return "\n".join(f"{number}. {_indent(item)}" for number, item in enumerate(items, 1))


def _split(text: str, num_pairs: int) -> list[str]:
    if num_pairs == 1:
        return [text]
    items: list[list[str]] = []
    for line in text.split("\n"):
        start = f"{len(items) + 1}. "
        if line.startswith(start):
            items.append([line[len(start) :]])
        elif items:
            items[-1].append(line)
        else:
            raise ValueError(f"does not begin with '1. ': {text[:80]!r}")
    if len(items) != num_pairs:
        raise ValueError(f"holds {len(items)} numbered items, not {num_pairs}: {text[:80]!r}")
    return ["\n".join([first, *(_outdent(line) for line in rest)]) for first, *rest in items]


def _indent(item: str) -> str:
    """An item whose later lines look numbered gets one space before them, so that only our numbers start a line."""
    first, *rest = item.split("\n")
    return "\n".join([first, *(f" {line}" if _NUMBERED.match(line) else line for line in rest)])


def _outdent(line: str) -> str:
    return line[1:] if line.startswith(" ") and _NUMBERED.match(line) else line
