"""Numbers: reading, numerical, regression, tolerances, mean relative accuracy."""

from __future__ import annotations

import pytest

from pipeline_config.schema import RewardsConfig
from tasks.rewards.answers.numbers import read_number, read_quantity
from tasks.rewards.answers.units import read_unit, unit_asked
from tasks.rewards.examples import turn
from tasks.rewards.numeric import mean_relative_accuracy
from tasks.rewards.score import score


@pytest.mark.parametrize(
    ("field", "value", "unit"),
    [
        ("3.42", 3.42, ""),
        (" 3.42. ", 3.42, ""),
        ("-7", -7.0, ""),
        ("+7", 7.0, ""),
        (".5", 0.5, ""),
        ("1,234.5 kg", 1234.5, "kilogram"),
        ("12,345,678", 12345678.0, ""),
        ("$5", 5.0, "dollar"),
        ("50%", 50.0, "percent"),
        ("-2e3", -2000.0, ""),
        ("9.81 m/s^2", 9.81, "metre / second ** 2"),
        ("20 °C", 20.0, "degree_Celsius"),
        ("3 square metres", 3.0, "metre ** 2"),
        ("−7", -7.0, ""),
        ("6.02×10^23", 6.02e23, ""),
        ("6.02 × 10²³", 6.02e23, ""),
        (r"$6.02 \times 10^{23}$", 6.02e23, ""),
        ("3 x 10**-5 m", 3e-5, "metre"),
        ("1.6·10⁻¹⁹ C", 1.6e-19, "coulomb"),
        (r"9.81\,\text{m/s}^2", 9.81, "metre / second ** 2"),
        (r"\boxed{30^\circ}", 30.0, "degree"),
    ],
)
def test_one_number_with_its_unit(field: str, value: float, unit: str) -> None:
    quantity = read_quantity(field)
    assert quantity is not None
    assert (quantity.value, quantity.unit) == (value, unit)


@pytest.mark.parametrize(
    "field",
    [
        "",
        "a number between 0 and 10",
        "3 or 4",
        "3-4",
        "3 4",
        "1,23",
        "nan",
        "inf",
        "1e999",
        "about 3",
        "3, 4",
        "0 to 10",
        "12 apples",
        "3 dogs",
        "9 am",
        "3 m or kg",
        "$5 kg",
    ],
)
def test_everything_else_is_no_number(field: str) -> None:
    assert read_quantity(field) is None


def test_a_bare_number_bears_no_unit() -> None:
    assert read_number("3.42") == 3.42
    assert read_number("3.42 km") is None


def test_fractions_are_read_as_numbers_only() -> None:
    assert read_number("3/4") == 0.75
    assert read_number("3/0") is None


@pytest.mark.parametrize(
    ("gold", "answer", "expected"),
    [
        ("12", "12", 1.0),
        ("12", "12.0", 0.0),
        ("12.0", "12", 0.0),
        ("12.341", "12.349", 0.0),
        ("12.341", "12.344", 1.0),
        ("1234", "1,234", 1.0),
        ("12", "13", 0.0),
        ("12", "twelve", 0.0),
    ],
)
def test_numerical_of_video_r1(gold: str, answer: str, expected: float, rewards: RewardsConfig) -> None:
    sample = {"problem_type": "numerical", "answer": gold}
    assert score(sample, turn(answer), rewards).accuracy == expected


@pytest.mark.parametrize(
    ("gold", "answer", "expected"),
    [("4", "3", 0.75), ("4", "5", 0.75), ("4", "100", 0.0), ("-4", "-4", 1.0), ("0", "0", 1.0), ("0", "1", 0.0)],
)
def test_regression_is_one_minus_the_relative_error(
    gold: str, answer: str, expected: float, rewards: RewardsConfig
) -> None:
    assert score({"problem_type": "regression", "answer": gold}, turn(answer), rewards).accuracy == expected


@pytest.mark.parametrize(
    ("problem_type", "gold", "answer", "expected"),
    [
        ("mathematics", "1", "1.0000009", 1.0),
        ("mathematics", "1", "1.000002", 0.0),
        ("mathematics", "5e-7", "0", 0.0),
        ("mathematics", "5e-7", "6e-7", 0.0),
        ("mathematics", "5e-7", "5.0000001e-7", 1.0),
        ("mathematics", "0", "1e-7", 0.0),
        ("mathematics", "-3", "−3", 1.0),
        ("mathematics", "1024", "2**10", 1.0),
        ("mathematics", "1024", "2^9", 0.0),
        ("mathematics", "0.5", r"\frac{1}{2}", 1.0),
        ("mathematics", r"\frac{1}{2}", "0.5", 1.0),
        ("mathematics", "1.4142136", "sqrt(2)", 1.0),
        ("mathematics", "sqrt(2)/2", r"\frac{1}{\sqrt{2}}", 1.0),
        ("mathematics", r"\frac{\sqrt{3}}{2}", "√2/2", 0.0),
        ("mathematics", "0", "sqrt(2)^2 - 2", 1.0),
        ("mathematics", "x^2 + 3x + 2", "(x+1)(x+2)", 1.0),
        ("mathematics", "x^2 + 3x + 2", "(x+1)(x+3)", 0.0),
        ("mathematics", "(1, 2)", "(1,2)", 1.0),
        ("mathematics", "no solution", "no solution", 1.0),
        ("mathematics", "12", "1 2", 0.0),
        ("mathematics", "no solution", "on solution", 0.0),
        ("physics", "602000000000000000000000", "6.02×10^23", 1.0),
        ("physics", "5 MW", "5 mW", 0.0),
        ("physics", "5 MW", "5 MW", 1.0),
        ("physics", "5 joules", "5 Joules", 1.0),
        ("physics", "9.81 m/s^2", "9.81 m/s²", 1.0),
        ("physics", r"m g \sin\theta", "mg sin(θ)", 1.0),
        ("mathematics", "0.75", "3/4", 1.0),
        ("mathematics", "x + 1", "x+1", 1.0),
        ("mathematics", "x + 1", "x+2", 0.0),
        ("mathematics", "5", "a number between 0 and 10", 0.0),
        ("physics", "100000", "100000.9", 1.0),
        ("physics", "100000", "100002", 0.0),
        ("physics", "9.81 m/s^2", "9.81 m/s", 0.0),
        ("chart", "100", "102.4", 1.0),
        ("chart", "100", "102.6", 0.0),
        ("chart", "2021", "2020", 0.0),
        ("chart", "2021", "2021", 1.0),
        ("chart", "2021.0", "2020", 1.0),
    ],
)
def test_tolerances_of_glm(problem_type: str, gold: str, answer: str, expected: float, rewards: RewardsConfig) -> None:
    sample = {"problem_type": problem_type, "question": "How much?", "answer": gold}
    completion = f"<think>x</think><answer>It is <|begin_of_box|>{answer}<|end_of_box|>.</answer>"
    scored = score(sample, completion, rewards)
    assert scored.accuracy == expected
    assert scored.parts["format_boxed"] == 1.0
    assert scored.total == expected + 1.0


@pytest.mark.parametrize(
    ("problem_type", "question", "gold", "answer", "expected"),
    [
        ("regression", "How long is the room, in metres?", "4.2", "4.2 m", 1.0),
        ("regression", "How long is the room, in metres?", "4.2", "420 cm", 1.0),
        ("regression", "How long is the room, in metres?", "4.2", "4.2 km", 0.0),
        ("regression", "How long is the room, in metres?", "4.2", "4.2 kg", 0.0),
        ("regression", "How long is the room?", "4.2", "4.2 km", 0.0),
        ("regression", "How long is the room?", "4.2 m", "4200 mm", 1.0),
        ("numerical", "How many apples are there?", "12", "12 apples", 0.0),
        ("numerical", "How many minutes?", "90", "90 minutes", 1.0),
        ("numerical", "How many minutes?", "90", "90 s", 0.0),
        ("numerical", "What does it cost, in dollars?", "5", "$5", 1.0),
        ("chart", "What percentage is blue?", "50", "50%", 1.0),
        ("chart", "How large is the share?", "0.5", "50%", 1.0),
        ("physics", "How much power?", "5 mW", "5 MW", 0.0),
        ("physics", "How much power?", "5 mW", "0.005 W", 1.0),
        ("physics", "How warm?", "293.15 K", "20 °C", 1.0),
        ("physics", "How fast?", "10 m/s", "36 km/h", 1.0),
        ("physics", "How fast?", "10 m/s", "10 m s^-1", 1.0),
    ],
)
def test_units_are_converted_or_refused(
    problem_type: str, question: str, gold: str, answer: str, expected: float, rewards: RewardsConfig
) -> None:
    sample = {"problem_type": problem_type, "question": question, "answer": gold}
    assert score(sample, turn(answer), rewards).accuracy == pytest.approx(expected, abs=1e-9)


@pytest.mark.parametrize(
    ("spelled", "named"),
    [
        ("KILOMETRES", "kilometre"),
        ("km/h", "kilometre / hour"),
        ("kilometres per hour", "kilometre / hour"),
        ("J/(kg·K)", "joule / kelvin / kilogram"),
        ("m·s⁻²", "metre / second ** 2"),
        ("sq. ft", "foot ** 2"),
        ("nautical miles", "nautical_mile"),
        ("kΩ", "kiloohm"),
        ("degrees Celsius", "degree_Celsius"),
        ("mW", "milliwatt"),
        ("MW", "megawatt"),
        ("cats", None),
        ("KM", None),
        ("m(", None),
        ("", None),
    ],
)
def test_names_of_units(spelled: str, named: str | None) -> None:
    assert read_unit(spelled) == named


def test_the_unit_a_question_asks_for() -> None:
    assert unit_asked("How tall (in cm) is the man?") == "centimetre"
    assert unit_asked("How big is the room in square meters?") == "metre ** 2"
    assert unit_asked("How many apples are in the picture?") == ""
    assert unit_asked("Is it longer in feet or in metres?") == ""


def test_mean_relative_accuracy() -> None:
    assert mean_relative_accuracy([1.0], [1.0]) == 1.0
    assert mean_relative_accuracy([None, 3.0], [1.0, 1.0]) == 0.0
    # relative error .2 is below 1 - t for t = .5, .55, .. .75: six of ten thresholds
    assert mean_relative_accuracy([1.2], [1.0]) == pytest.approx(0.6)
