"""A teacher behind any OpenAI-compatible endpoint: what it is asked, and by which client (`tasks.endpoint.client`).

Ours, not of a paper.
"""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

from pipeline_config.schema import OpenAITeacher
from tasks.annotate.prompts import answer_schema, instruction_for, prompt_for, template_for
from tasks.annotate.teacher import QUESTION_FIELDS, Row
from tasks.endpoint.budget import estimate_tokens
from tasks.endpoint.client import Endpoint, RequestRefused
from tasks.endpoint.completion import Parts
from tasks.endpoint.offline import BatchFolder
from tasks.endpoint.pictures import picture_parts, scaled_size
from tasks.endpoint.request import Reply, Request


class EndpointTeacher:
    """Asks `endpoint`; of a `BatchFolder` the answers come in a later run."""

    def __init__(self, config: OpenAITeacher, endpoint: Endpoint | BatchFolder) -> None:
        self.name = config.model
        self.max_in_flight = config.max_in_flight
        self.shown: tuple[str, ...] = (*QUESTION_FIELDS, "answer") if config.show_gold else QUESTION_FIELDS
        self._config = config
        self._endpoint = endpoint
        self._takes_schemas = True

    def request(self, question: Row, sample: Row, attempt: int) -> Request:
        """Raises ConfigError on an unknown template."""
        return request_of(self._config, question, sample, attempt)

    async def ask(self, request: Request, question: Row, sample: Row) -> Reply:
        """Raises as `Endpoint.ask` and `BatchFolder.ask` do."""

        def parts() -> Parts:
            return picture_parts([Path(sample["media_path"])], self._config.max_pixels)

        pixels = num_pixels(self._config, sample)
        if self._takes_schemas:
            try:
                return await self._endpoint.ask(request, parts, pixels)
            except RequestRefused:
                if not self._config.structured:
                    raise
        plain = replace(request, sampling=_sampling(self._config))
        reply = await self._endpoint.ask(plain, parts, pixels)
        self._takes_schemas = False  # it is the schema that was refused
        return reply

    def found(self, reply: Reply) -> None:
        """What the journal holds was paid from the same budget."""
        self._endpoint.budget.spend(reply.cost)

    async def close(self) -> None:
        await self._endpoint.close()


def request_of(config: OpenAITeacher, question: Row, sample: Row, attempt: int) -> Request:
    """What this try at a question asks. Raises ConfigError on an unknown template."""
    template = template_for(question, config.prompts)
    shown_as = f" at most {config.max_pixels} pixels" if config.max_pixels else ""
    return Request(
        model=config.model,
        instruction=instruction_for(question, template, structured=config.structured, show_gold=config.show_gold),
        prompt=prompt_for(question, show_gold=config.show_gold),
        media=f"{sample['sample_id']}{shown_as}",
        sampling=_sampling(config, question if config.structured else None),
        attempt=attempt,
    )


def prompt_tokens(config: OpenAITeacher, question: Row, sample: Row) -> float:
    """Estimated tokens of what a question's first try sends."""
    request = request_of(config, question, sample, 1)
    return estimate_tokens(request.instruction + request.prompt, num_pixels(config, sample))


def num_pixels(config: OpenAITeacher, sample: Row) -> float:
    """Of a sample's picture as it is sent."""
    width, height = scaled_size(sample["width"], sample["height"], config.max_pixels)
    return float(width * height)


def _sampling(config: OpenAITeacher, question: Row | None = None) -> str:
    """JSON of the body's other fields. question: its answer is to follow a schema."""
    fields = {"temperature": config.temperature, "top_p": config.top_p, "max_tokens": config.max_new_tokens}
    return json.dumps(fields | ({"response_format": answer_schema(question)} if question is not None else {}))
