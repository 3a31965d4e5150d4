"""Reading a choice: a letter, or an option's full text, as the entire answer field."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

_LEAD = re.compile(
    r"(?:(?:the|my)\s{1,4})?(?:(?:best|correct|right|final)\s{1,4}){0,2}(?:answer|option|choice)(?:\s{1,4}is)?"
    r"(?:\s{0,4}:\s{0,4}|\s{1,4})(?:(?:option|choice)\s{1,4})?",
    re.IGNORECASE,
)
_BOXED = re.compile(r"\$?\\boxed\s?\{(?:\\(?:text|textbf|mathrm|mathbf)\s?\{([^{}]*)\}|([^{}]*))\}\$?(\.?)")
_LETTER = re.compile(r"\(?([A-Za-z])(?:\)\.?|[.:,]|(?=\s|$))\s{0,8}(.*)", re.DOTALL)
_LETTERED = re.compile(r"\(?([A-Z])[.):]\s{0,8}(.*)", re.DOTALL)
_OPTION_LINE = re.compile(r"^\s{0,8}\(?([A-Z])[.):]\s{1,4}(.+?)\s{0,8}$", re.MULTILINE)


def clean_text(text: str) -> str:
    """Text as options are compared: case folded, white space collapsed, without a closing full stop."""
    return " ".join(text.casefold().split()).rstrip(" .")


def option_texts(options: Sequence[str] | Mapping[str, Any] | str | None, question: str = "") -> list[str]:
    """The options without their letters: given ones, else those that the question lists as "A. .." lines.

    options: a list; a mapping from the letters A, B, .. ; or a text of "A. .." lines. Raises ValueError for another
    mapping or text.
    """
    if isinstance(options, str) and options.strip():
        texts = _listed(options)
        if not texts:
            raise ValueError(f"field 'options': {options[:60]!r} is no list, and no text of lines 'A. ..', 'B. ..'")
        return texts
    if isinstance(options, Mapping):
        if not _in_sequence(list(options)):
            raise ValueError(f"field 'options': its keys are {list(options)[:8]}; they must be the letters A, B, ..")
        return [str(text) for text in options.values()]
    texts = [str(option) for option in options or ()]
    if not texts:
        return _listed(question)
    stripped = [_LETTERED.fullmatch(text.strip()) for text in texts]
    if all(m and m.group(2) and m.group(1).upper() == chr(ord("A") + i) for i, m in enumerate(stripped)):
        return [m.group(2).strip() for m in stripped if m]
    return texts


def _listed(text: str) -> list[str]:
    """The options that a text lists as lines "A. ..", "B. .."; [] if their letters are not in sequence."""
    lines = _OPTION_LINE.findall(text[:65_536])
    return [option for _, option in lines] if _in_sequence([letter for letter, _ in lines]) else []


def _in_sequence(letters: Sequence[str]) -> bool:
    return list(letters) == [chr(ord("A") + i) for i in range(len(letters))]


def read_choice(field: str | None, options: Sequence[str]) -> int | None:
    """Index of the chosen option, or None.

    Read: "C", "c", "C.", "(C)", "C)", "**C**", "\\boxed{C}", "Answer: C", "The best answer is (C).", "C. text" and "(C)
    text" where the text is option C's, and an option's full text alone if it is that of one option only. The field must
    hold nothing else: "A B C D" or "B because .." choose nothing, and "A dog .." is no A. options: texts without
    letters; if empty, only the letter forms are read.
    """
    if field is None or len(field) > 4096:
        return None
    plain = _BOXED.sub(r"\1\2\3", field.replace("**", "")).strip()
    bare = plain[lead.end() :] if (lead := _LEAD.match(plain)) else plain
    for text in (field, plain, bare):
        by_text = [i for i, option in enumerate(options) if clean_text(option) == clean_text(text)]
        if len(by_text) == 1:
            return by_text[0]
    letter = _LETTER.fullmatch(bare)
    if letter is None:
        return None
    index = ord(letter.group(1).upper()) - ord("A")
    rest = clean_text(letter.group(2))
    if (options and index >= len(options)) or (rest and not (options and rest == clean_text(options[index]))):
        return None
    return index
