"""Rewards of numbers: equal, near, near by the custom of the subject; in one unit."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from tasks.rewards.answers.expressions import agree, read_expression
from tasks.rewards.answers.numbers import Quantity, read_number, read_quantity
from tasks.rewards.answers.units import convert, unit_asked
from tasks.rewards.reward import Item, Outcome, Unread, read_gold, reward

MATHEMATICS, PHYSICS, CHART = 1e-6, 1e-5, 2.5e-2
YEARS = range(1500, 2101)  # whole numbers of a chart in this range are years, ours
RELATIVE_ACCURACY = tuple(0.5 + 0.05 * i for i in range(10))  # thresholds .5 .. .95


def read_measure(field: str | None) -> Quantity | None:
    """The quantity of a field, or its fraction "3/4" as one without a unit."""
    value = read_number(field)
    return read_quantity(field) or (None if value is None else Quantity(value, False, ""))


def in_unit_of_gold(found: Quantity | None, gold: Quantity, item: Item) -> Quantity | Unread:
    """The answer in the gold's unit, or where the gold bears none in the unit that the question asks for.

    An answer without a unit is taken to be in it; one whose unit measures something else is unread.
    """
    if found is None:
        return Unread("not one number, bare or with a known unit")
    if not found.unit:
        return found
    unit = gold.unit or unit_asked(str(item.sample.get("question") or ""))
    value = convert(found.value, found.unit, unit)
    return Unread(f"{found.unit} is no {unit or 'bare number'}") if value is None else replace(found, value=value)


@reward(
    "numerical",
    judges="answer",
    hacks=("unit",),
    source="Video-R1 sec. 3 (numerical)",
    departs='the released code reads plain floats alone and takes a thousands comma for a decimal mark ("1,234" '
    'differs from "1234"); here commas do not matter, units, a typographic minus and powers of ten are read, '
    "and units are converted",
    formula="0 if exactly one of gold and answer has a decimal mark; else 1 if equal when rounded to 2 places",
    example=({"problem_type": "numerical", "answer": "1234.50"}, "<think></think><answer>1,234.5</answer>", 1.0),
)
def numerical(item: Item) -> Outcome:
    """Counting and computing. Thousands commas do not matter, a decimal mark does."""
    gold = read_gold(read_quantity(item.gold))
    found = in_unit_of_gold(read_quantity(item.answer), gold, item)
    if isinstance(found, Unread):
        return found
    return float(gold.decimal == found.decimal and round(gold.value, 2) == round(found.value, 2))


@reward(
    "regression",
    judges="answer",
    continuous=True,
    hacks=("unit",),
    source="Video-R1 sec. 3 (regression); a gold of 0 scores 1 for 0 only, ours",
    departs="the released code adds 1e-9 above and below the fraction, so that a gold of 0 earns nothing even for 0; "
    "here 0 earns 1. Units, a typographic minus, powers of ten and fractions are read, and units are "
    "converted",
    formula="1 - clip(|answer - gold| / |gold|, 0, 1)",
    example=({"problem_type": "regression", "answer": "4.0"}, "<think></think><answer>3.0</answer>", 0.75),
)
def regression(item: Item) -> Outcome:
    """Sizes and distances: the relative error, subtracted from one."""
    gold = read_gold(read_measure(item.gold))
    found = in_unit_of_gold(read_measure(item.answer), gold, item)
    return found if isinstance(found, Unread) else 1 - min(relative_error(found.value, gold.value), 1.0)


def relative_error(found: float, gold: float) -> float:
    """|found - gold| / |gold|; for a gold of 0: 0 if equal, else 1."""
    return float(found != gold) if gold == 0 else abs(found - gold) / abs(gold)


def mean_relative_accuracy(found: Sequence[float | None], gold: Sequence[float]) -> float:
    """Mean over items and thresholds t = .5 .. .95 of [relative error < 1 - t] (VSI-Bench; Video-R1). None = no
    answer.
    """
    errors = [1.0 if f is None else relative_error(f, g) for f, g in zip(found, gold, strict=True)]
    hits = sum(error < 1 - t for error in errors for t in RELATIVE_ACCURACY)
    return hits / (len(errors) * len(RELATIVE_ACCURACY)) if errors else 0.0


def _within(item: Item, tolerance: float) -> Outcome:
    """1 if |answer - gold| <= tolerance * |gold|, both in the gold's unit.

    What is no plain number is compared as an expression; a gold that is none either, as a text without white space.
    """
    if item.answer is None:
        return Unread("no answer")
    gold, measured = read_measure(item.gold), read_measure(item.answer)
    if gold is not None and measured is not None:
        found = in_unit_of_gold(measured, gold, item)
        return (
            found if isinstance(found, Unread) else float(abs(found.value - gold.value) <= tolerance * abs(gold.value))
        )
    if gold is None and read_expression(item.gold) is None:
        return float("".join(item.gold.split()) == "".join(item.answer.split()))
    written = read_expression(item.answer)
    if written is None:
        return Unread("no number, bare or with a known unit, and no expression")
    expected = read_expression(item.gold)
    return float(expected is not None and agree(expected, written, tolerance))


@reward(
    "mathematics",
    judges="answer",
    hacks=("unit",),
    source="GLM-4.1V-Thinking sec. 5.2 (tolerance 1e-6)",
    departs="as `physics`",
    formula="1 if |answer - gold| <= 1e-6 * |gold|, else 0; expressions by their value, other golds by equal texts",
    example=({"problem_type": "mathematics", "answer": "0.75"}, "<think>x</think><answer>3/4</answer>", 1.0),
)
def mathematics(item: Item) -> Outcome:
    """Exact up to rounding, in any notation: "3/4", "\\frac{3}{4}", "sqrt(9)/4". "Between 0 and 10" is no number."""
    return _within(item, MATHEMATICS)


@reward(
    "physics",
    judges="answer",
    hacks=("unit",),
    source="GLM-4.1V-Thinking sec. 5.2 (tolerance 1e-5)",
    departs="the released verifiers hand the text to sympy in its strict mode, which takes no text, so that every "
    "answer goes to a model judge; 1e-6 is added to |gold|. Here a grammar of our own reads the text, the "
    "tolerance is relative at every size, units are converted, and no model is asked",
    formula="1 if |answer - gold| <= 1e-5 * |gold| in the gold's unit, else 0",
    example=({"problem_type": "physics", "answer": "9.81 m/s^2"}, "<think>x</think><answer>9.81</answer>", 1.0),
)
def physics(item: Item) -> Outcome:
    """Physics and chemistry: relative, because quantities come in any order of magnitude."""
    return _within(item, PHYSICS)


@reward(
    "chart",
    judges="answer",
    hacks=("unit",),
    source="GLM-4.1V-Thinking sec. 5.2 (relative tolerance 2.5e-2, years exact)",
    departs="as `physics`; the released code takes whole numbers from 1000 to 3000 for years, here 1500 to 2100 "
    "without unit and comma, so that counts are not held to the last digit",
    formula="1 if |answer - gold| <= .025 * |gold|, else 0; years and texts must be equal",
    example=({"problem_type": "chart", "answer": "2021"}, "<think>x</think><answer>2020</answer>", 0.0),
)
def chart(item: Item) -> Outcome:
    """Values read off a chart; a year is a name, not a size."""
    gold = read_quantity(item.gold)
    year = gold is not None and not gold.decimal and not gold.unit and "," not in item.gold and gold.value in YEARS
    return _within(item, 0.0 if year else CHART)
