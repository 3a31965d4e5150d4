"""Expressions: what is read, what is not, and that no text takes long."""

from __future__ import annotations

import subprocess
import sys
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tasks.rewards.answers.expressions import agree, read_expression

PIECES = [
    "9", "2", "1.5", "999999999999", "x", "y_1", "θ", "e", "i", "π", "sin ", "exp", "ln", "abs(", "sqrt", "\\frac",
    "\\sqrt", "[3]", "{", "}", "(", ")", "^", "**", "*", "/", "+", "-", "−", " ", "10", "e9", ".", "0", "^-", "}{",
    "(x+1)", "^64", "^(1/3)", "²", "\\left(", "\\cdot", ",", "or", "apples",
]  # fmt: skip


def value_of(text: str) -> complex:
    expression = read_expression(text)
    assert expression is not None, text
    return complex(expression)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1 + 2*3", 7),
        ("-2^2", -4),
        ("(-2)^2", 4),
        ("2^3^2", 512),
        ("2^-1", 0.5),
        ("6/2/3", 1),
        ("2(3+4)", 14),
        ("1,000/4", 250),
        (r"\dfrac{3}{4}", 0.75),
        (r"\frac12", 0.5),
        (r"\sqrt[3]{-8}", -2),
        ("2√9", 6),
        ("2³", 8),
        (r"5 \times 10^{-3}", 0.005),
        ("5^2*10^3", 25000),
        (r"\left(1+1\right)^2", 4),
        ("3.5", 3.5),
        ("2e3", 2000),
        ("ln(e^2)", 2),
        ("cos(π)", -1),
        ("sin^2 1 + cos^2 1", 1),
        ("abs(-3)", 3),
        ("i^2", -1),
    ],
)
def test_expressions_have_the_value_they_have_in_mathematics(text: str, value: float | None) -> None:
    if value is None:
        assert read_expression(text) is None
    else:
        assert value_of(text) == pytest.approx(value)


@pytest.mark.parametrize(
    "text",
    [
        "", "yes", "x y", "a dog", "3 or 4", "3 4", "x 2", "12 apples", "a number between 0 and 10", "1, 2", "(1, 2)",
        "x = 2", "1/0", "0^-1", "tan(π/2)", "(1", "1)", "2 +", "log_2 8", "3\n4", "__import__('os')", "50%",
        "\\input{x}", "9**9**9**9", "9^9^9", "10^10^10", "exp(exp(exp(9)))", "cosh(cosh(cosh(99)))",
        "sqrt(2)^999999999", "sqrt(2^1000+1)^2000", "(0.6+0.8i)^9999999", "x^x^x", "x^1000", "1.0001^10000",
        "(" * 100 + "1" + ")" * 100, "√" * 200 + "2", "sin " * 60 + "1", "1+" * 200 + "1",
    ],
)  # fmt: skip
def test_anything_else_and_what_is_too_large_is_no_expression(text: str) -> None:
    assert read_expression(text) is None


@pytest.mark.parametrize(
    ("gold", "found", "same"),
    [
        ("(x+1)(x+2)", "x^2 + 3x + 2", True),
        ("sin^2 x + cos^2 x", "1", True),
        ("2xy", "y*2*x", True),
        ("x_1 + x_2", "x_2 + x_1", True),
        ("x_1 + x_2", "x_1 + x_1", False),
        ("2x", "2X", False),
        (r"\theta/2", "θ/2", True),
        ("sin(lambda)", r"\sin\lambda", True),
        ("3 + 4i", "4i + 3", True),
        ("2x", "2", False),
        ("sqrt(x^2)", "x", False),
        ("abs(x)", "x", False),
        ("sqrt(xy)", "sqrt(x) sqrt(y)", True),
        ("ln(x^2)", "2 ln x", True),
        ("2", "2x", False),
    ],
)
def test_two_expressions_agree_where_their_values_do(gold: str, found: str, same: bool) -> None:
    a, b = read_expression(gold), read_expression(found)
    assert a is not None
    assert b is not None
    assert agree(a, b, 1e-6) is same
    assert agree(b, a, 1e-6) is same


@settings(max_examples=300, deadline=None)
@given(st.lists(st.sampled_from(PIECES), max_size=40).map("".join))
def test_no_text_raises_or_takes_long(text: str) -> None:
    gold = read_expression("2x + 1")
    assert gold is not None
    start = time.process_time()
    found = read_expression(text)
    if found is not None:
        agree(gold, found, 1e-6)
        assert agree(found, found, 1e-6)
    assert time.process_time() - start < 1.0


def test_prose_does_not_import_sympy() -> None:
    program = (
        "import sys; from tasks.rewards.answers.expressions import read_expression as read; "
        "print(read('I believe it is 5'), read('yes'), 'sympy' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout == "None None False\n"
