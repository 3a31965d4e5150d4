"""Units of numeric answers: which words are units, and how one is expressed in another.

Pint parses and converts; the units are those of units.txt, so that a word from a sentence ("apples") is none. Ours.
"""

from __future__ import annotations

import re
from functools import lru_cache
from pathlib import Path
from typing import Any

RAISED = str.maketrans("⁰¹²³⁴⁵⁶⁷⁸⁹⁺⁻", "0123456789+-")
RAISED_RUN = re.compile("[⁺⁻]?[⁰¹²³⁴⁵⁶⁷⁸⁹]{1,4}")
DEFINITIONS = Path(__file__).with_name("units.txt")
_NAME = r"[A-Za-z_%°µμΩΩÅ$€£¥]{1,24}"
_POWER = r"(?:(?:\^|\*\*)?-?[1-9]|⁻?[¹²³⁴])?"
_TERM = rf"{_NAME}{_POWER}"
_TERMS = rf"{_TERM}(?:\s?[·*.\s]\s?{_TERM}){{0,4}}"
UNIT = rf"{_TERMS}(?:\s?/\s?(?:{_TERM}|\({_TERMS}\))){{0,2}}"  # what a unit looks like; the table decides
_UNIT = re.compile(UNIT)
_SPELLINGS = tuple(
    (re.compile(pattern), written)
    for pattern, written in (
        (r"°\s?C\b|[Dd]egrees?\s[Cc]elsius\b", "degree_Celsius"),
        (r"°\s?F\b|[Dd]egrees?\s[Ff]ahrenheit\b", "degree_Fahrenheit"),
        (r"°", "degree"),
        (r"[ΩΩ]", "ohm"),
        (r"%|\b[Pp]er\s?cent(?:age)?\b", "percent"),
        (r"\$", "dollar"),
        (r"€", "euro"),
        (r"£", "pound_sterling"),
        (r"¥", "yen"),
        (r"\b([Nn]autical|[Ll]ight)[\s-](?=mile|year)", r"\1_"),
        (r"\b[Ss]q\b\.?", "square"),
        (r"[.·]", "*"),
    )
)
_EXPONENT = re.compile(r"(?:\^|\*\*)?(-?[1-9]|⁻?[¹²³⁴])(?=\W|$)")
_LONG_WORD = re.compile(r"[A-Za-z]{4,}(?!_)")
_ASKED = re.compile(r"\bin\s{1,2}|\bhow many\s{1,2}|\bwhat (?=percent)|\(\s{0,2}(?:in\s{1,2})?", re.IGNORECASE)
MAX_WORDS = 4  # of a unit in a question


@lru_cache(maxsize=1)
def _registry() -> Any:
    from pint import UnitRegistry  # a fifth of a second

    return UnitRegistry(DEFINITIONS, cache_folder=None)


@lru_cache(maxsize=4096)
def read_unit(text: str) -> str | None:
    """The name of a unit of units.txt, as Pint writes it ("metre / second ** 2"); None for anything else.

    Symbols keep their case (mW is no MW), words of four letters or more do not.
    """
    from pint import PintError

    text = text.strip().replace("−", "-")
    if len(text) > 64 or not _UNIT.fullmatch(text):
        return None
    for pattern, written in _SPELLINGS:
        text = pattern.sub(written, text)
    text = _EXPONENT.sub(lambda found: "**" + found.group(1).translate(RAISED), text)
    for spelled in (text, _LONG_WORD.sub(lambda found: found.group().lower(), text)):
        try:
            return str(_registry().parse_units(spelled))
        except PintError:
            continue
    return None


@lru_cache(maxsize=4096)
def convert(value: float, unit: str, to: str) -> float | None:
    """A value of one unit in another, both by the names of `read_unit`; None if they measure different things.

    "" is the unit of a bare number: 50 percent are .5 of it, and no metre is.
    """
    from pint import PintError

    if unit == to:
        return value
    try:
        return float(_registry().Quantity(value, unit or "dimensionless").to(to or "dimensionless").magnitude)
    except PintError:
        return None


@lru_cache(maxsize=4096)
def unit_asked(question: str) -> str:
    """The one unit that a question names after "in", "how many", or in parentheses; "" if it names none or several."""
    named = set()
    for lead in _ASKED.finditer(question[:4096]):
        words = re.split(r"[\s]+", question[lead.end() : lead.end() + 64])[:MAX_WORDS]
        for num_words in range(len(words), 0, -1):
            unit = read_unit(" ".join(words[:num_words]).rstrip("?.,;:)"))
            if unit is not None:
                named.add(unit)
                break
    return named.pop() if len(named) == 1 else ""
