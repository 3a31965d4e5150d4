"""What is asked of a model and what comes back. Ours, not of a paper."""

from __future__ import annotations

import json
from dataclasses import dataclass

from data_contracts.refs import text_digest
from pipeline_config.schema import ConfigError


class EndpointUnavailable(ConnectionError):
    """The endpoint answers nobody; the message names it, the last failure and the cure. Worth another try later."""


class Unanswered(RuntimeError):
    """This one request got no answer, while others did: every attempt failed, or the endpoint refuses it."""


class NotAsked(ConfigError):
    """This request was not sent, and a retry would not send it: see the subclasses."""


class BudgetSpent(NotAsked):
    """Sending it could cost more than the budget leaves."""


class Posted(NotAsked):
    """It stands in a batch file, to be sent by somebody else."""


@dataclass(frozen=True)
class Request:
    """What is asked, by content: two equal requests are one.

    model: its name, or name and version of a teacher of ours. instruction, prompt: the system's and the user's turn.
    media: digest of what is shown, empty if nothing is. sampling: JSON of what else shapes the answer. attempt: 1 is
    the first try.
    """

    model: str
    instruction: str
    prompt: str
    media: str
    sampling: str
    attempt: int

    @property
    def key(self) -> str:
        content = [self.model, self.instruction, self.prompt, self.media, self.sampling, self.attempt]
        return text_digest(json.dumps(content))


@dataclass(frozen=True)
class Reply:
    """What came back, as it came. text: whole turn. refusal: why there is none. cost: in the currency of the prices."""

    text: str
    refusal: str | None = None
    finish_reason: str = "stop"
    prompt_tokens: int = 0
    completion_tokens: int = 0
    cost: float = 0.0
