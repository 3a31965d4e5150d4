"""A row with its completion, scored: what ``python -m tasks.rewards`` answers. Ours."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from tasks.rewards.batch import with_group_rewards
from tasks.rewards.rows import id_of, sample_of
from tasks.rewards.score import Score, score

if TYPE_CHECKING:
    from pipeline_config.schema import RewardsConfig

COMPLETION_FIELDS = ("completion", "output")


@dataclass(frozen=True)
class Line:
    """One row. identity: passed through. group: what the completions of one prompt share, None if the row is alone.
    error: why it could not be used; sample and score are None then."""

    number: int
    identity: Any = None
    group: Any = None
    shuffled: bool = False
    num_tokens: int | None = None
    sample: dict[str, Any] | None = None
    score: Score | None = None
    error: str | None = None

    @property
    def result(self) -> dict[str, Any]:
        named = {} if self.identity is None else {"id": self.identity}
        if self.score is None:
            return {**named, "line": self.number, "error": self.error}
        return {**named, "total": self.score.total, "parts": self.score.parts, "reason": self.score.reason}


def read_line(number: int, row: Any, rewards: RewardsConfig, kind: str | None) -> Line:
    """A row, scored alone. What cannot be used becomes the line's error; JudgeError goes through."""
    line = Line(number)
    try:
        if isinstance(row, ValueError):
            raise row
        if not isinstance(row, dict) or not isinstance(row.get("sample", row), dict):
            raise ValueError('must be an object with an object "sample", or a row, and a text "completion"')
        sample = row.get("sample", row)
        line = replace(line, identity=id_of(row) if id_of(row) is not None else id_of(sample))
        completion = next((row[field] for field in COMPLETION_FIELDS if field in row), None)
        if not isinstance(completion, str):
            raise ValueError(f'"completion" must be a text, it is {type(completion).__name__}')
        group, num_tokens = row.get("group"), row.get("num_tokens")
        if isinstance(group, dict | list):
            raise ValueError('"group" must be a text or a number')
        if num_tokens is not None and not isinstance(num_tokens, int):
            raise ValueError(f'"num_tokens" must be a whole number, it is {num_tokens!r}')
        sample = sample_of(sample, kind)
        scored = score(sample, completion, rewards, truncated=bool(row.get("truncated")))
        return replace(
            line,
            group=group,
            shuffled=bool(row.get("shuffled")),
            num_tokens=num_tokens,
            sample=sample,
            score=scored,
        )
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        return replace(line, error=str(error))


def grouped(lines: Sequence[Line], rewards: RewardsConfig) -> list[Line]:
    """The lines, those of one group with their group rewards; pictures are ranked over all groups.

    Lines of a group must ask the same. The length bonus needs the number of tokens of every line of a group.
    """
    answered = {line.number: line for line in lines}
    groups: dict[Any, list[Line]] = {}
    for line in lines:
        if line.group is None or line.error is not None:
            continue
        first = groups.setdefault(line.group, [])
        if first and not _same_question(first[0], line):
            error = f"group {line.group!r} asks something else on line {first[0].number}"
            answered[line.number] = replace(line, score=None, error=error)
        else:
            first.append(line)
    trained = [[line for line in group if not line.shuffled] for group in groups.values()]
    shuffled = [[line.score.accuracy for line in group if line.shuffled and line.score] for group in groups.values()]
    counts = [[line.num_tokens for line in group] for group in trained]
    try:
        earned = with_group_rewards(
            [group[0].sample or {} for group in groups.values()],
            [[line.score for line in group if line.score] for group in trained],
            rewards,
            num_tokens=[None if None in of_one else [n for n in of_one if n is not None] for of_one in counts],
            on_shuffled=shuffled,
        )
    except ValueError as error:
        failed = [line for group in groups.values() for line in group]
        answered |= {line.number: replace(line, score=None, error=str(error)) for line in failed}
    else:
        for group, scores in zip(trained, earned, strict=True):
            answered |= {line.number: replace(line, score=s) for line, s in zip(group, scores, strict=True)}
    return [answered[line.number] for line in lines]


def _same_question(a: Line, b: Line) -> bool:
    asked = [
        {k: (line.sample or {}).get(k) for k in ("problem_type", "question", "options", "answer")} for line in (a, b)
    ]
    return asked[0] == asked[1]
