"""Reading one number, with its unit, as the entire answer field."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass

from tasks.rewards.answers.units import RAISED, UNIT, read_unit

_NUMBER = r"[+-]?(?:\d{1,3}(?:,\d{3}){1,5}(?:\.\d{0,30})?|\d{1,30}(?:\.\d{0,30})?|\.\d{1,30})(?:[eE][+-]?\d{1,3})?"
_QUANTITY = re.compile(rf"([$€£¥]\s?)?({_NUMBER})(?:\s{{0,4}}({UNIT}))?\.?")
_FRACTION = re.compile(r"([+-]?\d{1,15})\s{0,2}/\s{0,2}(\d{1,15})")

_WRAPPED = re.compile(r"\$([^$]*)\$|\\\((.*)\\\)|\\boxed\s?\{(.*)\}", re.DOTALL)
_TEXT = re.compile(r"\\(?:text|textrm|mathrm|mbox)\s?\{([^{}]*)\}")
_SPACE = re.compile(r"\\[,;:! ]|~")
_DEGREES = re.compile(r"\^\s?(?:\{\s?\\circ\s?\}|\\circ(?![A-Za-z]))")
_SCIENTIFIC = re.compile(
    r"([+-]?\d{1,30}(?:\.\d{0,30})?)\s?(?:×|·|⋅|\*|x|\\times|\\cdot)\s?10"
    r"(?:\s?(?:\^|\*\*)\s?(?:([+-]?\d{1,3})|\{\s?([+-]?\d{1,3})\s?\}|\(([+-]?\d{1,3})\))|([⁺⁻]?[⁰¹²³⁴⁵⁶⁷⁸⁹]{1,3}))(?![\d.^*])"
)


@dataclass(frozen=True)
class Quantity:
    """A number as it was written. decimal: it bears a decimal mark. unit: by the name of `read_unit`, "" if none."""

    value: float
    decimal: bool
    unit: str


def plain_notation(field: str) -> str:
    """A number or expression in plain characters: without LaTeX's frame, spaces and text commands, with "-" for the
    typographic minus, "°" for degrees and "6.02e23" for "6.02 × 10^23"."""
    text = field.strip()
    while wrapped := _WRAPPED.fullmatch(text):
        text = next(inner for inner in wrapped.groups() if inner is not None).strip()
    text = _SPACE.sub(" ", _TEXT.sub(r" \1", text.replace("−", "-")))
    text = _DEGREES.sub("°", text).replace("\\%", "%").strip()
    scientific = _SCIENTIFIC.match(text)
    if scientific is None:
        return text
    mantissa, *exponents = scientific.groups()
    exponent = next(e for e in exponents if e).translate(RAISED)
    return f"{mantissa}e{exponent}{text[scientific.end() :]}"


def read_quantity(field: str | None) -> Quantity | None:
    """The field's one number: "3.42", "1,234.5 kg", "$5", "50%", "-2e3", "6.02×10^23"; None if it holds anything else.

    A range or a sentence ("a number between 0 and 10") is no number, and a word that is no known unit ("12 apples")
    makes it a sentence. Finite values only.
    """
    if field is None or len(field) > 128:
        return None
    found = _QUANTITY.fullmatch(plain_notation(field))
    if found is None:
        return None
    currency, number, unit = found.groups()
    named = "" if currency is None and unit is None else read_unit(currency or unit)
    value = float(number.replace(",", ""))
    if not math.isfinite(value) or named is None or (currency and unit):
        return None
    return Quantity(value, "." in number, named)


def read_number(field: str | None) -> float | None:
    """The value of a number without a unit, or of a plain fraction "3/4"; None for anything else."""
    quantity = read_quantity(field)
    if quantity is not None:
        return None if quantity.unit else quantity.value
    fraction = _FRACTION.fullmatch(plain_notation(field)) if field is not None and len(field) <= 128 else None
    if fraction is None or int(fraction.group(2)) == 0:
        return None
    return int(fraction.group(1)) / int(fraction.group(2))
