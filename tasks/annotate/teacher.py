"""What a teacher is: it gets a question about a picture and answers in the student's own form.

A teacher says what it would ask (`Teacher.request`) and asks it (`Teacher.ask`). Between the two stands the journal
(`tasks.endpoint.journal`), which asks only what was never answered before. Ours, not of a paper.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from tasks.endpoint.request import Reply, Request
from tasks.rewards.answers.turn import read_turn

Row = Mapping[str, Any]
# What a teacher may see of a question and of its sample: nothing that the gold could be read from. Only a teacher that
# is to explain the gold (`show_gold`) gets the answer too.
QUESTION_FIELDS = ("sub_task", "kind", "problem_type", "question", "options")
SAMPLE_FIELDS = ("sample_id", "media_type", "media_path", "width", "height")


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
    finish_reason: str = "stop"


def read_reply(request_key: str, reply: Reply) -> TeacherAnswer:
    """A reply taken apart: tagged blocks, or a JSON object with ``reasoning`` and ``answer``, alone or in a fence.
    Prose without either is no answer."""
    turn = read_turn(reply.text, untagged="unparseable")
    reasoning, answer = turn.think or None, turn.answer
    if answer is None and (found := _read_object(reply.text)) is not None:
        reasoning, answer = found
    return TeacherAnswer(
        reasoning=reasoning,
        answer=answer,
        prompt_tokens=reply.prompt_tokens,
        completion_tokens=reply.completion_tokens,
        cost=reply.cost,
        request_key=request_key,
        refusal=reply.refusal,
        finish_reason=reply.finish_reason,
    )


def _read_object(text: str) -> tuple[str | None, str] | None:
    """(reasoning, answer) of the JSON object that a text holds; None if there is none, or it has no answer."""
    start, end = text.find("{"), text.rfind("}")
    try:
        found = json.loads(text[start : end + 1])
    except (ValueError, RecursionError):
        return None
    if not isinstance(found, dict) or not isinstance(found.get("answer"), str | int | float):
        return None
    reasoning = found.get("reasoning")
    return reasoning.strip() or None if isinstance(reasoning, str) else None, str(found["answer"]).strip()


class Teacher(Protocol):
    """name: what stands in the annotations. max_in_flight: requests that it may be asked at once. shown: fields of the
    question that it gets."""

    name: str
    max_in_flight: int
    shown: tuple[str, ...]

    def request(self, question: Row, sample: Row, attempt: int) -> Request:
        """What this try would ask. question and sample hold `shown` and SAMPLE_FIELDS only."""

    async def ask(self, request: Request, question: Row, sample: Row) -> Reply:
        """Ask it. Raises ConfigError where asking again is of no use, EndpointUnavailable where it may be, Unanswered
        and NotAsked where it is this request alone."""

    def found(self, reply: Reply) -> None:
        """A request needed not be asked: the journal holds this reply."""

    async def close(self) -> None:
        """Give back what the teacher holds."""
