"""The OpenAI-compatible teacher against a real HTTP server that answers, refuses, stalls and breaks off."""

from __future__ import annotations

import asyncio
import base64
import logging
import re
import time
import traceback
from email.utils import formatdate
from pathlib import Path
from typing import Any

import pytest

from pipeline_config.schema import ConfigError, OpenAITeacher
from tasks.annotate.openai_teacher import EndpointTeacher
from tasks.annotate.teacher import read_reply
from tasks.endpoint.client import Endpoint as Client
from tasks.endpoint.request import EndpointUnavailable, Reply
from tests.annotate.endpoint import Endpoint, complete, drop, fail, hang, question, sample

KEY = "sk-very-secret-0123456789"


def settings(endpoint: Endpoint, **fields: Any) -> OpenAITeacher:
    config = {"kind": "openai", "base_url": endpoint.base_url, "model": "judge-1", "timeout_seconds": 5.0, **fields}
    return OpenAITeacher.model_validate(config)


def teacher_of(config: OpenAITeacher) -> EndpointTeacher:
    return EndpointTeacher(config, Client(config, KEY, section="annotate.teacher", first_pause=0.02))


def ask(folder: Path, config: OpenAITeacher, times: int = 1) -> list[Reply]:
    """Ask one question, `times` tries at once."""
    row = sample(folder, 0, [])

    async def asking() -> list[Reply]:
        teacher = teacher_of(config)
        try:
            requests = [teacher.request(question(), row, attempt) for attempt in range(1, times + 1)]
            return await asyncio.gather(*(teacher.ask(request, question(), row) for request in requests))
        finally:
            await teacher.close()

    return asyncio.run(asking())


def test_the_picture_the_question_and_the_form_are_sent(endpoint: Endpoint, tmp_path: Path) -> None:
    prices = [{"model": "judge-1", "prompt": 2.0, "completion": 10.0}]
    [reply] = ask(tmp_path, settings(endpoint, max_new_tokens=77, temperature=0.5, top_p=0.8, prices=prices))
    [request] = endpoint.requests
    assert request["path"] == "/v1/chat/completions"
    assert request["headers"]["Authorization"] == f"Bearer {KEY}"
    body = request["body"]
    assert (body["model"], body["max_tokens"], body["temperature"], body["top_p"]) == ("judge-1", 77, 0.5, 0.8)
    system, user = body["messages"]
    picture, text = user["content"]
    data = picture["image_url"]["url"].removeprefix("data:image/png;base64,")
    assert base64.b64decode(data) == (tmp_path / "0.png").read_bytes()
    assert question()["question"] in text["text"]
    assert "<think>your reasoning</think><answer>your answer</answer>" in system["content"]
    answer = read_reply("key", reply)
    assert (answer.reasoning, answer.answer) == ("Grain covers the sky.", "B")
    assert (reply.prompt_tokens, reply.completion_tokens) == (1000, 50)
    assert reply.cost == pytest.approx(0.0025)


@pytest.mark.parametrize("form", ["seconds", "date"])
def test_retry_after_is_honoured_by_all_requests(endpoint: Endpoint, tmp_path: Path, form: str) -> None:
    until = int(time.time()) + 2 if form == "date" else time.time() + 0.5
    endpoint.script = [fail(429, headers={"Retry-After": formatdate(until, usegmt=True) if form == "date" else "0.5"})]
    row = sample(tmp_path, 0, [])

    async def asking() -> None:
        teacher = teacher_of(settings(endpoint))

        async def one(attempt: int) -> Reply:
            while attempt == 2 and not endpoint.requests:
                await asyncio.sleep(0.01)
            await asyncio.sleep(0.2 * (attempt - 1))
            return await teacher.ask(teacher.request(question(), row, attempt), question(), row)

        await asyncio.gather(one(1), one(2))
        await teacher.close()

    asyncio.run(asking())
    refused, *others = (request["at"] for request in endpoint.requests)
    assert len(others) == 2
    assert min(others) >= min(until, refused + 0.5) - 0.01


@pytest.mark.parametrize("failure", [fail(500), fail(503), fail(408), drop, hang(1.0), lambda h: h.send(200, b"{")])
def test_passing_failures_are_tried_again(endpoint: Endpoint, tmp_path: Path, failure: Any) -> None:
    endpoint.script = [failure, failure]
    [reply] = ask(tmp_path, settings(endpoint, timeout_seconds=0.4))
    assert reply.text == endpoint.text
    assert len(endpoint.requests) == 3


@pytest.mark.parametrize("status", [400, 401, 403, 404, 422])
def test_what_no_retry_can_mend_ends_at_once_without_the_key(endpoint: Endpoint, tmp_path: Path, status: int) -> None:
    endpoint.script = [fail(status, f"Incorrect API key provided: {KEY}")]
    named = rf"judge-1 at {re.escape(endpoint.base_url)}: HTTP {status}.*check "
    with pytest.raises(ConfigError, match=named) as raised:
        ask(tmp_path, settings(endpoint))
    assert len(endpoint.requests) == 1
    assert KEY not in "".join(traceback.format_exception(raised.value))


def test_a_spent_quota_is_not_waited_for(endpoint: Endpoint, tmp_path: Path) -> None:
    endpoint.script = [fail(429, "You exceeded your current quota", code="insufficient_quota")]
    with pytest.raises(ConfigError, match="quota is used up"):
        ask(tmp_path, settings(endpoint))
    assert len(endpoint.requests) == 1


def test_a_wait_of_hours_is_refused(endpoint: Endpoint, tmp_path: Path) -> None:
    endpoint.script = [fail(429, headers={"Retry-After": "7200"})]
    with pytest.raises(EndpointUnavailable, match="asks to wait 7200 s"):
        ask(tmp_path, settings(endpoint))


def test_the_last_failure_is_named_when_every_attempt_failed(endpoint: Endpoint, tmp_path: Path) -> None:
    endpoint.script = [fail(500, "out of memory")] * 3
    with pytest.raises(EndpointUnavailable, match=r"no answer in 3 attempts, the last: HTTP 500.*out of memory"):
        ask(tmp_path, settings(endpoint, max_attempts=3))
    assert len(endpoint.requests) == 3


def test_an_endpoint_that_is_not_there_is_named(endpoint: Endpoint, tmp_path: Path) -> None:
    endpoint.close()
    with pytest.raises(
        EndpointUnavailable,
        match=rf"{re.escape(endpoint.base_url)}: no answer in 2 attempts, the last: connection failed .*base_url",
    ):
        ask(tmp_path, settings(endpoint, max_attempts=2))


def test_another_protocol_is_named(endpoint: Endpoint, tmp_path: Path) -> None:
    endpoint.script = [lambda handler: handler.send(200, b"<html>hello</html>", {"Content-Type": "text/html"})]
    with pytest.raises(ConfigError, match="usually ends in /v1"):
        ask(tmp_path, settings(endpoint))


def test_refusals_and_cut_answers_are_answers(endpoint: Endpoint, tmp_path: Path) -> None:
    config = settings(endpoint)
    endpoint.script = [complete("", refusal="I cannot look at this.")]
    assert ask(tmp_path, config)[0].refusal == "I cannot look at this."
    endpoint.script = [fail(400, "flagged", code="content_filter")]
    assert "flagged" in (ask(tmp_path, config)[0].refusal or "")
    endpoint.script = [complete("<think>It is", finish_reason="length")]
    [cut] = ask(tmp_path, config)
    assert (cut.finish_reason, read_reply("", cut).answer) == ("length", None)
    assert len(endpoint.requests) == 3


def test_a_separate_thought_is_joined_to_the_answer(endpoint: Endpoint, tmp_path: Path) -> None:
    endpoint.script = [complete("<answer>B</answer>", reasoning_content="Grain.")]
    [reply] = ask(tmp_path, settings(endpoint))
    assert read_reply("", reply).reasoning == "Grain."


def test_the_key_stands_in_no_log(endpoint: Endpoint, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    endpoint.script = [fail(500, f"worker of {KEY} died"), complete(f"<think>{KEY}</think><answer>B</answer>")]
    [reply] = ask(tmp_path, settings(endpoint))
    assert len(caplog.records) > 3
    assert KEY not in caplog.text
    assert KEY not in reply.text


def test_a_picture_that_is_gone_is_named(endpoint: Endpoint, tmp_path: Path) -> None:
    row = {**sample(tmp_path, 0, []), "media_path": str(tmp_path / "gone.png")}

    async def asking() -> None:
        teacher = teacher_of(settings(endpoint))
        try:
            await teacher.ask(teacher.request(question(), row, 1), question(), row)
        finally:
            await teacher.close()

    with pytest.raises(ConfigError, match=r"gone\.png: cannot be read"):
        asyncio.run(asking())
