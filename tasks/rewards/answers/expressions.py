r"""Reading a mathematical expression as the entire answer field: "sqrt(2)/2", "\frac{1}{2}", "2**10", "2x + 1".

A small grammar of our own turns the text into a sympy expression; nothing is evaluated as code. The length of the text,
the depth of its nesting and the size of every power are bounded, so that no answer ("9**9**9**9") takes long or much
memory.
"""

from __future__ import annotations

import re
import unicodedata
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from tasks.rewards.answers.numbers import plain_notation
from tasks.rewards.answers.units import RAISED, RAISED_RUN

if TYPE_CHECKING:
    from sympy import Expr

MAX_CHARACTERS = 256
MAX_DEPTH = 24  # of brackets, roots and functions
MAX_BITS = 2048  # of a number that a power makes
MAX_DEGREE = 64  # of a power of a variable
MAX_WORD = 3  # letters that stand together: "2xy" is a product, "apples" is a word

_TOKEN = re.compile(
    r"\s*(?:(?P<number>(?:\d{1,3}(?:,\d{3}){1,5}(?:\.\d{1,30})?|\d{1,30}(?:\.\d{0,30})?|\.\d{1,30})(?:[eE][+-]?\d{1,3})?)"
    r"|(?P<word>\\?[A-Za-z]+|[Α-ω])(?:_(?P<index>\{[A-Za-z0-9]{1,8}\}|[A-Za-z0-9]))?"
    r"|(?P<sign>\*\*|[-+*/^(){}\[\]]))\s*"
)
_RESPELLED = {
    **dict.fromkeys(("\\left", "\\right"), ""),
    **dict.fromkeys(("×", "·", "⋅", "\\times", "\\cdot"), "*"),
    **dict.fromkeys(("÷", "\\div"), "/"),
    **dict.fromkeys(("\\dfrac", "\\tfrac"), "\\frac"),
    **dict.fromkeys(("√",), "\\sqrt "),
}
_RESPELL = re.compile("|".join(f"{re.escape(s)}(?![A-Za-z])" if s[0] == "\\" else s for s in _RESPELLED))
_SHORT_FRACTION = re.compile(r"\\frac\s?(\d)\s?(\d)")
_FUNCTIONS = {
    **{name: name for name in ("sin", "cos", "tan", "cot", "sinh", "cosh", "tanh", "asin", "acos", "atan", "exp")},
    **{"arcsin": "asin", "arccos": "acos", "arctan": "atan", "abs": "Abs", "ln": "log", "log": "log"},
}
_CONSTANTS = {"pi": "pi", "π": "pi", "e": "E", "i": "I"}
Token = tuple[str, str]  # kind ("number", "name", "variable", "sign") and text


class _NoExpression(Exception):
    """The text is no expression, or one too large to compute with."""


@lru_cache(maxsize=4096)
def read_expression(field: str) -> Expr | None:
    """The sympy expression that a field holds, or None if it holds anything else.

    Read: the four operations, powers (`^`, `**`, raised digits), brackets, products without a sign ("2x"), roots,
    LaTeX's fractions, trigonometric functions, exp, ln and log (natural), abs, pi, e, i, and variables: one Latin or
    Greek letter, with an index or not. A lone word, a list, an equation, a range in words, an infinite value is none.
    """
    tokens = _tokens(field)
    if not tokens or (len(tokens) > 1 and all(kind == "variable" for kind, _ in tokens)):
        return None
    import sympy  # a quarter of a second

    try:
        expression: Expr = _Parser(tokens).whole()
    except (_NoExpression, ArithmeticError, TypeError, ValueError):
        return None
    return None if expression.has(sympy.oo, -sympy.oo, sympy.zoo, sympy.nan) else expression


def agree(gold: Expr, found: Expr, tolerance: float) -> bool:
    """True if |found - gold| <= tolerance * |gold|; with variables, at two points and at those where one is negative.

    A negative variable counts only where both stay real: sqrt(x^2) is no x, but sqrt(xy) is sqrt(x) sqrt(y).
    """
    from sympy import Rational

    variables = sorted(gold.free_symbols | found.free_symbols, key=str)
    points = [{v: Rational(17 + 12 * k + 29 * n, 19 + 2 * k) for k, v in enumerate(variables)} for n in range(2)]
    if not all(_near(gold, found, tolerance, point) for point in points[: len(variables) + 1]):
        return False
    flipped = [{**points[0], v: -points[0][v]} for v in variables]
    return all(
        _near(gold, found, tolerance, point)
        for point in flipped
        if all(e.evalf(20, subs=point).is_real for e in (gold, found))
    )


def _near(gold: Expr, found: Expr, tolerance: float, point: dict[Any, Any]) -> bool:
    from sympy import Abs

    size, error = (Abs(e).evalf(20, subs=point) for e in (gold, found - gold))
    return bool(size.is_number and error.is_number and size.is_finite and error <= tolerance * size)


def _tokens(field: str) -> list[Token] | None:
    """The tokens of a field, None where it holds something that no expression holds."""
    if len(field) > MAX_CHARACTERS or "\n" in field:
        return None
    text = _RESPELL.sub(lambda found: _RESPELLED[found.group()], plain_notation(field))
    text = RAISED_RUN.sub(lambda found: f"^({found.group().translate(RAISED)})", text)
    text = _SHORT_FRACTION.sub(r"\\frac{\1}{\2}", text).strip()
    tokens: list[Token] = []
    at = 0
    while at < len(text):
        found = _TOKEN.match(text, at)
        if found is None:
            return None
        at = found.end()
        if number := found["number"]:
            tokens.append(("number", number.replace(",", "")))
        elif sign := found["sign"]:
            tokens.append(("sign", "^" if sign == "**" else sign))
        else:
            words = _words(found["word"], found["index"])
            if words is None:
                return None
            tokens += words
    return tokens


def _words(word: str, index: str | None) -> list[Token] | None:
    """A function, a constant, or variables that stand together."""
    name = word.removeprefix("\\")
    if name in _FUNCTIONS or name in _CONSTANTS or name in ("sqrt", "frac"):
        return None if index else [("name", name)]
    greek = _greek_letter(name)
    if greek is None and (name != word or len(name) > MAX_WORD):
        return None
    letters = [greek] if greek else list(name)
    letters[-1] += f"_{index.strip('{}')}" if index else ""
    return [("variable", letter) for letter in letters]


def _greek_letter(name: str) -> str | None:
    """The letter that "theta", "Theta" or "vartheta" names, else None."""
    case = "CAPITAL" if name[0].isupper() else "SMALL"
    letter = name.removeprefix("var").upper().replace("LAMBDA", "LAMDA")  # as Unicode spells it
    try:
        return unicodedata.lookup(f"GREEK {case} LETTER {letter}")
    except KeyError:
        return None


class _Parser:
    """One pass over the tokens by recursive descent, lowest precedence first."""

    def __init__(self, tokens: list[Token]) -> None:
        import sympy

        self.sympy, self.tokens, self.at, self.depth = sympy, tokens, 0, 0

    def peek(self) -> Token:
        return self.tokens[self.at] if self.at < len(self.tokens) else ("end", "")

    def take(self, *signs: str) -> str:
        """The next token's text if it is one of these signs, else ""."""
        kind, text = self.peek()
        if kind != "sign" or text not in signs:
            return ""
        self.at += 1
        return text

    def whole(self) -> Any:
        value = self.sum()
        if self.at < len(self.tokens):
            raise _NoExpression
        return value

    def sum(self) -> Any:
        value = self.product()
        while sign := self.take("+", "-"):
            term = self.product()
            value = value + term if sign == "+" else value - term
        return value

    def product(self) -> Any:
        value = self.signed()
        while True:
            if self.take("*"):
                value = value * self.signed()
            elif self.take("/"):
                value = value / self.signed()
            elif self.peek()[0] in ("variable", "name") or self.peek() in (("sign", "("), ("sign", "{")):
                value = value * self.power()  # "2x", never "3 4"
            else:
                return value

    def signed(self) -> Any:
        minus = False
        while sign := self.take("+", "-"):
            minus ^= sign == "-"
        value = self.power()
        return -value if minus else value

    def power(self) -> Any:
        levels = [self.atom()]
        while self.take("^"):
            minus = self.take("-")
            level = self.atom()
            levels.append(-level if minus else level)
        value = levels.pop()
        while levels:  # from the right
            value = self.raised(levels.pop(), value)
        return value

    def atom(self) -> Any:
        self.depth += 1
        if self.depth > MAX_DEPTH:
            raise _NoExpression
        kind, text = self.peek()
        self.at += 1
        if kind == "number":
            value = self.sympy.Rational(text)
        elif kind == "variable":
            value = self.sympy.Symbol(text)
        elif kind == "name":
            value = self.named(text)
        elif text in ("(", "{"):
            value = self.sum()
            if not self.take(")" if text == "(" else "}"):
                raise _NoExpression
        else:
            raise _NoExpression
        self.depth -= 1
        return value

    def named(self, name: str) -> Any:
        if name in _CONSTANTS:
            return getattr(self.sympy, _CONSTANTS[name])
        if name == "frac":
            above = self.atom()
            return above / self.atom()
        if name == "sqrt":
            degree = self.sympy.Integer(2)
            if self.take("["):
                degree = self.atom()
                if not self.take("]") or not degree.is_Integer or degree < 2:
                    raise _NoExpression
            radicand = self.atom()
            if degree % 2 and radicand.is_negative:
                return -self.raised(-radicand, 1 / degree)  # the real root
            return self.raised(radicand, 1 / degree)
        exponent = self.atom() if self.take("^") else self.sympy.Integer(1)  # "sin^2 x"
        argument = self.argument()
        if name == "exp":
            return self.raised(self.raised(self.sympy.E, argument), exponent)
        return self.raised(getattr(self.sympy, _FUNCTIONS[name])(argument), exponent)

    def argument(self) -> Any:
        """What a function is of: its brackets, or the product that follows it ("sin 2x")."""
        if self.peek() in (("sign", "("), ("sign", "{")):
            return self.atom()
        value = self.power()
        while self.peek()[0] == "variable" or self.peek()[1] in _CONSTANTS:
            value = value * self.power()
        return value

    def raised(self, base: Any, exponent: Any) -> Any:
        """base ^ exponent, refused where it would be too large to compute with."""
        if exponent.free_symbols:
            inner = exponent.atoms(self.sympy.Pow, self.sympy.exp)
            if any(power.exp.free_symbols for power in inner):
                raise _NoExpression  # a tower of variables
        elif base.free_symbols:
            self.check(exponent, MAX_DEGREE)
        elif base.is_Rational:
            self.check(exponent * max(int(base.p).bit_length(), int(base.q).bit_length()), MAX_BITS)
        else:
            self.check(exponent * self.sympy.log(self.sympy.Abs(base)), MAX_BITS)
            self.check(exponent, MAX_BITS)
        return base**exponent

    def check(self, value: Any, limit: int) -> None:
        if not abs(complex(value)) <= limit:
            raise _NoExpression
