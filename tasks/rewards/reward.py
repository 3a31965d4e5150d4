"""What a reward is: a named pure function of one question and one answer, and the table of all of them.

    @reward("choice", judges="answer", source="..", departs="..", formula="..")
    def choice(item: Item) -> Outcome: ...

Outcome: a float in the reward's range; None where the reward does not apply to this question; `Unread` where the answer
cannot be read, which scores ``rewards.unparseable``; `Noted` where the reason must say how the value came about. A
malformed question raises `SampleError`; no answer raises anything.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from tasks.rewards.answers.turn import Turn

if TYPE_CHECKING:
    from pipeline_config.schema import RewardsConfig


class SampleError(ValueError):
    """A question that cannot be scored whatever the answer; the message names the field."""


@dataclass(frozen=True)
class Unread:
    """The answer could not be read; why, in a few words."""

    why: str


@dataclass(frozen=True)
class Noted:
    """A value and what must be said of it, as "judge: lexical"."""

    value: float
    note: str


Outcome = float | None | Unread | Noted


@dataclass(frozen=True)
class Item:
    """One question with one answer to it.

    sample: question-like mapping (``problem_type``, ``question``, ``options``, ``answer`` ..). answer: the text of the
    answer field that answers this question, None if there is none. turn: the whole turn it stood in.
    """

    sample: Mapping[str, Any]
    answer: str | None
    turn: Turn
    settings: RewardsConfig

    @property
    def gold(self) -> str:
        gold = self.sample.get("answer")
        if not isinstance(gold, str) or not gold.strip():
            raise SampleError(f"field 'answer': the gold answer is {gold!r}; it must be a text")
        return gold.strip()


@dataclass(frozen=True)
class Reward:
    """A reward and what docs/rewards.md says of it.

    judges: ``answer`` counts towards accuracy; ``form`` judges the frame of the turn; ``gate`` makes the total 0
    where it is 0; ``group`` needs the other answers of the group or batch and is None alone. departs: where it departs
    from the code that the source's authors released, and why. continuous: near answers earn something, so that constant
    answers do. hacks: families of `tasks.rewards.tricks` that the health report tries on it.
    """

    name: str
    function: Callable[[Item], Outcome]
    judges: Literal["answer", "form", "gate", "group"]
    source: str
    departs: str
    formula: str
    continuous: bool
    hacks: tuple[Literal["judge", "unit", "loop"], ...]
    example: tuple[dict[str, Any], str, float] | None


REWARDS: dict[str, Reward] = {}


def reward(
    name: str,
    *,
    judges: Literal["answer", "form", "gate", "group"],
    source: str,
    departs: str,
    formula: str,
    continuous: bool = False,
    hacks: tuple[Literal["judge", "unit", "loop"], ...] = (),
    example: tuple[dict[str, Any], str, float] | None = None,
) -> Callable[[Callable[[Item], Outcome]], Callable[[Item], Outcome]]:
    """Enter a function into the table under a name. example: (sample, completion, value), tested as written."""

    def enter(function: Callable[[Item], Outcome]) -> Callable[[Item], Outcome]:
        assert name not in REWARDS, f"two rewards are named {name}"
        REWARDS[name] = Reward(name, function, judges, source, departs, formula, continuous, hacks, example)
        return function

    return enter


def read_gold(value: Any, field: str = "answer") -> Any:
    """A gold that was read, or SampleError where it could not be (None)."""
    if value is None:
        raise SampleError(f"field '{field}': the gold cannot be read as this problem type's answer")
    return value
