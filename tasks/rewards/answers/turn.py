"""The frame of an assistant turn: tags, boxed answers, numbered answers.

Everything here walks the text with ``str.find`` or anchored patterns without nested repetition, so that reading is
linear in the length of the text whatever it holds.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

THINK = ("<think>", "</think>")
ANSWER = ("<answer>", "</answer>")
GLUE = ("<glue>", "</glue>")
BOXED = ("<|begin_of_box|>", "<|end_of_box|>")
TAGS = (*THINK, *ANSWER, *GLUE)
END_TOKENS = ("<|im_end|>", "<|endoftext|>")

# A field longer than this is no answer; the bound keeps rewards that compare word by word cheap.
MAX_FIELD_CHARACTERS = 65_536

# "1. B", "2) C", "(3) D", "4: E"; never the "3." of "3.42".
_NUMBERED = re.compile(r"\s{0,8}\(?(\d{1,3})[.):](?!\d)[ \t]{0,8}(.*)", re.DOTALL)


@dataclass(frozen=True)
class Turn:
    """One assistant turn, taken apart.

    text: without end-of-turn tokens. think, answer, glue: contents of the blocks, stripped; None where a block is
    absent, unclosed or repeated, or an answer or glue stands inside the thinking. tagged: some tag stands in the text.
    complete: the frame of `has_format`, without glue.
    """

    text: str
    think: str | None
    answer: str | None
    glue: str | None
    tagged: bool
    complete: bool


def read_turn(completion: str, untagged: str = "answer") -> Turn:
    """Take a completion apart. Never raises.

    untagged: what a completion with no tag at all means: ``answer`` (the whole text is the answer field; the missing
    frame costs the format reward only) or ``unparseable``.

    The released codes take the first `<answer>` of a turn (VideoChat-R1's temporal grounding the last) wherever it
    stands. Here an answer stands once and outside the thinking, or a turn could try several.
    """
    text = strip_end_tokens(completion)
    tagged = any(tag in text for tag in TAGS)
    think, answer, glue = (_only_block(text, tags) for tags in (THINK, ANSWER, GLUE))
    answer, glue = (None if _is_thought(text, tags[0]) else b for b, tags in ((answer, ANSWER), (glue, GLUE)))
    if not tagged and untagged == "answer":
        answer = text
    if answer is not None:
        answer = unbox(answer)
    if answer is not None and (not answer or len(answer) > MAX_FIELD_CHARACTERS or any(tag in answer for tag in TAGS)):
        answer = None
    return Turn(text, think, answer, glue, tagged, has_format(text))


def strip_end_tokens(completion: str) -> str:
    """The completion stripped of white space and of the tokens that end a turn."""
    text = completion.strip()
    for token in END_TOKENS:
        text = text.removesuffix(token).rstrip()
    return text


def _only_block(text: str, tags: tuple[str, str]) -> str | None:
    """Content of the one block with these tags, or None if there is none or more than one of either tag."""
    opening, closing = tags
    start = text.find(opening)
    end = text.find(closing, start + len(opening)) if start >= 0 else -1
    if end < 0 or text.find(opening, start + 1) >= 0 or text.find(closing) != end or text.find(closing, end + 1) >= 0:
        return None
    return text[start + len(opening) : end].strip()


def _is_thought(text: str, tag: str) -> bool:
    """True if the first of these tags stands inside the thinking: a think tag opened before it, or closing after it
    (chat templates may write the opening one into the prompt), and not the other way round.
    """
    at = text.find(tag)
    opened, closed = text.rfind(THINK[0], 0, at), text.rfind(THINK[1], 0, at)
    opening, closing = text.find(THINK[0], at), text.find(THINK[1], at)
    return opened > closed or (closing >= 0 and not 0 <= opening < closing)


def has_format(text: str, glue: bool = False) -> bool:
    """True for ``<think>..</think>\\s*<answer>..</answer>`` (with glue: ``\\s*<glue>..</glue>`` after it) as the
    whole text.

    Every tag stands exactly once, so nothing is nested or repeated. The think block may be empty: questions whose
    teacher reasoning was rejected are trained with an empty one. The answer block may not (VideoChat-R1 eq. 1-3, and
    ours for empty blocks).
    """
    blocks = (THINK, ANSWER, GLUE) if glue else (THINK, ANSWER)
    at = 0
    for opening, closing in blocks:
        while at < len(text) and text[at].isspace():
            at += 1
        end = text.find(closing, at)
        if not text.startswith(opening, at) or end < 0:
            return False
        if opening != THINK[0] and not text[at + len(opening) : end].strip():
            return False
        at = end + len(closing)
    return at == len(text) and all(text.count(tag) <= 1 for tag in TAGS) and (glue or GLUE[0] not in text)


def unbox(field: str) -> str | None:
    """The content of a field's one ``<|begin_of_box|>..<|end_of_box|>`` (GLM-4.1V), or the field itself if it has no
    box.

    None where box tokens are repeated, unclosed or out of order.
    """
    field = field.strip()
    opening, closing = BOXED
    if opening not in field and closing not in field:
        return field
    start, end = field.find(opening), field.find(closing)
    if field.count(opening) != 1 or field.count(closing) != 1 or end < start:
        return None
    return field[start + len(opening) : end].strip()


def split_numbered(field: str, num_answers: int) -> list[str | None]:
    """The answers 1..num_answers of a merged answer field, by their number.

    One answer stands unnumbered, though "1. X" is read too, unless the gold itself begins with "1.". Lines that bear
    no number continue the answer above them. A number that is missing or repeated, or any text before the first
    number, is no answer: None.
    """
    if num_answers == 1:
        numbered = _NUMBERED.fullmatch(field)
        bare = numbered.group(2).strip() if numbered and numbered.group(1) == "1" else ""
        return [bare or field]
    found: dict[int, list[list[str]]] = {}
    current: list[str] | None = None
    for line in field.split("\n"):
        start = _NUMBERED.fullmatch(line)
        if start:
            current = [start.group(2)]
            found.setdefault(int(start.group(1)), []).append(current)
        elif current is not None:
            current.append(line)
        elif line.strip():
            return [None] * num_answers
    answers: list[str | None] = []
    for number in range(1, num_answers + 1):
        blocks = found.get(number, [])
        answers.append("\n".join(blocks[0]).strip() or None if len(blocks) == 1 else None)
    return answers
