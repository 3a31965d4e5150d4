"""Reading time spans, in seconds, as the entire answer field."""

from __future__ import annotations

import re

Span = tuple[float, float]

_NUMBER = r"(\d{1,7}(?:\.\d{0,9})?)"
_CLOCK = r"((?:\d{1,3}:)?\d{1,4}:\d{1,2}(?:\.\d{1,9})?)"
_TIME = rf"(?:{_CLOCK}|{_NUMBER})(?:\s{{0,2}}(?:seconds|second|secs|sec|s)\b)?"
_JOIN = r"\s{0,4}(?:to|until|through|and|[-–—~,])\s{0,4}"
_SPAN = re.compile(
    rf"[(\[]?\s{{0,4}}(?:from\s|between\s)?\s{{0,4}}{_TIME}{_JOIN}{_TIME}(?:\s{{0,4}}[)\]])?\.?", re.IGNORECASE
)
_PAIR = r"\((\d{1,9}(?:\.\d{1,20})?),\s*(\d{1,9}(?:\.\d{1,20})?)\)"
_PAIRS = re.compile(_PAIR)
_GLUE = re.compile(rf"\[(?:{_PAIR}(?:,\s*{_PAIR})*,?)?\]")
_BETWEEN = re.compile(r"[\s,;]{1,16}(?:and\s{1,4})?")


def seconds(clock: str | None, number: str | None) -> float:
    """Seconds of "1:02:03.5", "02:03" or "12.5"."""
    if number is not None:
        return float(number)
    assert clock is not None
    total = 0.0
    for part in clock.split(":"):
        total = total * 60 + float(part)
    return total


def read_spans(field: str | None) -> list[Span] | None:
    """All spans of a field that holds nothing but spans: "12.54 to 17.83", "0:12 - 0:17", "[(1, 2), (3.5, 4)]", "[]".

    Also "from 1s to 2s", "between 1 and 2 seconds", "(1, 2)", "[1, 2]", "00:01:02.5-00:01:04". None if it holds
    anything else, or a span that ends before it starts.
    """
    if field is None:
        return None
    text = field.strip()
    whole = _SPAN.fullmatch(text)
    if whole is None and text.startswith("[") and text.endswith("]"):
        text = text[1:-1].strip()
    spans: list[Span] = []
    at = 0
    while at < len(text):
        span = _SPAN.match(text, at)
        if span is None:
            return None
        start, end = seconds(*span.groups()[:2]), seconds(*span.groups()[2:])
        if end < start:
            return None
        spans.append((start, end))
        gap = _BETWEEN.match(text, span.end())
        if gap is None and span.end() < len(text):
            return None
        at = gap.end() if gap else len(text)
    return spans if spans or field.strip() == "[]" else None


def read_glue(field: str | None) -> list[Span] | None:
    """The spans of a glue block: `[(1.0, 4.5), (7, 9)]` or `[]`, the one spelling that VideoChat-R1 takes.

    None if it holds anything else, or a span that ends before it starts.
    """
    if field is None or _GLUE.fullmatch(field) is None:
        return None
    spans = [(float(start), float(end)) for start, end in _PAIRS.findall(field)]
    return None if any(end < start for start, end in spans) else spans


def read_span(field: str | None) -> Span | None:
    """The field's one span, or None."""
    spans = read_spans(field)
    return spans[0] if spans and len(spans) == 1 else None
