"""What a teacher is: it gets a question about a picture, never the gold, and answers in the student's own form.

A teacher says what it would ask (`Teacher.request`) and asks it (`Teacher.ask`). Between the two stands the journal
(`tasks.annotate.journal.JournalledTeacher`), which asks only what was never answered before. Ours, not of a paper.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Protocol

from data_contracts.refs import text_digest
from tasks.rewards.answers.turn import read_turn

Row = Mapping[str, Any]
# What a teacher may see of a question and of its sample: nothing that the gold could be read from.
QUESTION_FIELDS = ("sub_task", "kind", "problem_type", "question", "options")
SAMPLE_FIELDS = ("sample_id", "media_type", "media_path", "width", "height")


class TeacherUnavailable(ConnectionError):
    """The teacher gave no answer after every attempt; the message names endpoint, last failure and cure."""


@dataclass(frozen=True)
class Request:
    """What is asked, by content: two equal requests are one.

    teacher: model, or name and version of a teacher of ours. prompt: whole text. media: digest of the media file.
    sampling: JSON of what else shapes the answer. attempt: 1 is the first try of the question.
    """

    teacher: str
    prompt: str
    media: str
    sampling: str
    attempt: int

    @property
    def key(self) -> str:
        return text_digest(json.dumps(asdict(self), sort_keys=True))


@dataclass(frozen=True)
class Reply:
    """What came back, as it came. text: whole turn. refusal: why there is none. cost: in the config's currency."""

    text: str
    refusal: str | None = None
    finish_reason: str = "stop"
    prompt_tokens: int = 0
    completion_tokens: int = 0
    cost: float = 0.0


@dataclass(frozen=True)
class TeacherAnswer:
    """One try at a question. reasoning and answer: contents of the two blocks, None where a block is missing."""

    reasoning: str | None
    answer: str | None
    prompt_tokens: int
    completion_tokens: int
    cost: float
    request_key: str
    refusal: str | None


def read_reply(request_key: str, reply: Reply) -> TeacherAnswer:
    """A reply taken apart. Only tagged answers count: prose without an answer block is no answer."""
    turn = read_turn(reply.text, untagged="unparseable")
    return TeacherAnswer(
        reasoning=turn.think or None,
        answer=turn.answer,
        prompt_tokens=reply.prompt_tokens,
        completion_tokens=reply.completion_tokens,
        cost=reply.cost,
        request_key=request_key,
        refusal=reply.refusal,
    )


class Teacher(Protocol):
    """name: what stands in the annotations. max_in_flight: requests that it may be asked at once."""

    name: str
    max_in_flight: int

    def request(self, question: Row, sample: Row, attempt: int) -> Request:
        """What this try would ask. question and sample hold QUESTION_FIELDS and SAMPLE_FIELDS only."""

    async def ask(self, request: Request, question: Row, sample: Row) -> Reply:
        """Ask it. Raises ConfigError where asking again is of no use, TeacherUnavailable where it may be."""

    async def close(self) -> None:
        """Give back what the teacher holds."""
