"""The client against a real HTTP server: what becomes of requests when others fare better or worse."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest

from pipeline_config.schema import ConfigError, OpenAIJudge
from tasks.endpoint.budget import Budget
from tasks.endpoint.client import FAILURES_TO_OPEN, Endpoint
from tasks.endpoint.request import BudgetSpent, EndpointUnavailable, Reply, Request, Unanswered
from tests.annotate.endpoint import Endpoint as Server
from tests.annotate.endpoint import Handler, complete, fail, hang


@pytest.fixture
def server() -> Iterator[Server]:
    served = Server()
    yield served
    served.close()


def request(number: int = 0, **fields: Any) -> Request:
    return Request("judge-1", "rules", f"question {number}", "", '{"max_tokens": 5}', 1, **fields)


def ask(server: Server, requests: list[Request], **fields: Any) -> list[Any]:
    """Replies or exceptions, of requests made one after the other (`at_once`: together)."""
    at_once, around = fields.pop("at_once", False), fields.pop("around", contextlib.nullcontext)
    budget = Budget(fields.pop("budget", None))
    settings = {"kind": "openai", "base_url": server.base_url, "model": "judge-1", "timeout_seconds": 5.0, **fields}

    async def asking() -> list[Any]:
        config = OpenAIJudge.model_validate(settings)
        endpoint = Endpoint(config, "key", section="rewards.judge", budget=budget, around=around, first_pause=0.01)
        try:
            if at_once:
                return list(await asyncio.gather(*(endpoint.ask(r) for r in requests), return_exceptions=True))
            return [(await asyncio.gather(endpoint.ask(r), return_exceptions=True))[0] for r in requests]
        finally:
            await endpoint.close()

    return asyncio.run(asking())


def test_one_bad_request_among_good_ones_is_its_own_fault(server: Server) -> None:
    """A request that the server always stumbles over does not end the run while others are answered."""

    def respond(handler: Handler) -> None:
        body = str(handler.body["messages"])
        (fail(500, "stumbled") if "question 3'" in body or 'question 3"' in body else complete())(handler)

    server.always = respond
    replies = ask(server, [request(n) for n in range(8)], at_once=True, max_attempts=3, max_in_flight=2)
    assert [type(reply) for reply in replies] == [Reply] * 3 + [Unanswered] + [Reply] * 4
    assert "no answer in 3 attempts, the last: HTTP 500" in str(replies[3])


def test_a_refused_request_among_good_ones_is_its_own_fault(server: Server) -> None:
    server.script = [complete(), fail(400, "image too small"), complete()]
    first, second, third = ask(server, [request(n) for n in range(3)])
    assert (type(first), type(second), type(third)) == (Reply, Unanswered, Reply)
    assert "HTTP 400" in str(second)
    assert "image too small" in str(second)


def test_a_bad_key_ends_everything_even_late(server: Server) -> None:
    server.script = [complete(), fail(401)]
    assert isinstance(ask(server, [request(0), request(1)])[1], ConfigError)


def test_a_dead_server_is_not_hammered(server: Server) -> None:
    """With the breaker open one request probes; when it gives up, so do those that waited."""
    server.always = fail(500, "down")
    replies = ask(server, [request(n) for n in range(200)], at_once=True, max_attempts=4, max_in_flight=8)
    assert {type(reply) for reply in replies} == {EndpointUnavailable}
    assert "check rewards.judge.base_url and that the server runs" in str(replies[0])
    assert len(server.requests) <= FAILURES_TO_OPEN + 8 + 4


def test_a_server_that_comes_back_is_used_again_and_nobody_is_blamed(server: Server) -> None:
    """More probes fail than a request has attempts."""
    server.script = [complete()] * 10 + [fail(500)] * (FAILURES_TO_OPEN + 6)
    replies = ask(server, [request(n) for n in range(40)], at_once=True, max_attempts=4, max_in_flight=4)
    assert {type(reply) for reply in replies} == {Reply}


def test_a_server_that_does_not_come_back_is_given_up(server: Server) -> None:
    server.script = [complete()] * 10
    server.always = fail(503, "gone")
    fields = {"max_attempts": 4, "max_in_flight": 4, "deadline_seconds": 0.4}
    replies = ask(server, [request(n) for n in range(40)], at_once=True, **fields)
    assert [type(reply) for reply in replies].count(Reply) == 10
    assert [type(reply) for reply in replies].count(EndpointUnavailable) == 30


def test_fewer_are_asked_at_once_after_an_overload(server: Server) -> None:
    """429 for everybody above four at once: the client settles there, and everything is answered."""

    def respond(handler: Handler) -> None:
        crowded = server.in_flight > 4
        time.sleep(0.02)
        (fail(429) if crowded else complete())(handler)

    server.always = respond
    replies = ask(server, [request(n) for n in range(120)], at_once=True, max_attempts=20, max_in_flight=16)
    assert {type(reply) for reply in replies} == {Reply}
    late = len(server.requests) - 120
    assert late < 80  # without adapting every round of sixteen has twelve refused


def test_a_request_ends_at_its_deadline(server: Server) -> None:
    server.always = hang(0.3)
    started = time.monotonic()
    [failed] = ask(server, [request()], timeout_seconds=0.2, deadline_seconds=0.5, max_attempts=100)
    assert isinstance(failed, EndpointUnavailable)
    assert "nothing within" in str(failed)
    assert time.monotonic() - started < 3
    assert len(server.requests) <= 4


def test_an_estimate_of_tokens_that_was_too_low_is_corrected(server: Server) -> None:
    """A prompt of some twenty tokens by its characters is counted as a thousand, and costs .002; two cost too much."""
    prices = [{"model": "judge-1", "prompt": 2.0}]
    first, second = ask(server, [request(0), request(1)], prices=prices, budget=0.003)
    assert first.cost == pytest.approx(0.002)
    assert isinstance(second, BudgetSpent)
    assert len(server.requests) == 1


def test_the_tokens_of_answers_to_come_count_against_the_rate(server: Server) -> None:
    """4,000 tokens a second, as many at once after a pause, and more than 1,000 for each of seven requests."""
    limits = {"tokens_per_minute": 240_000, "max_new_tokens": 1000, "max_in_flight": 16}
    ask(server, [request(n) for n in range(7)], at_once=True, **limits)
    times = sorted(received["at"] for received in server.requests)
    assert times[-1] - times[0] > 0.4


def test_pauses_between_attempts_double(server: Server) -> None:
    server.script = [fail(500)] * 5
    [reply] = ask(server, [request()], max_attempts=6)
    assert isinstance(reply, Reply)
    times = [received["at"] for received in server.requests]
    assert times[5] - times[4] > 0.01 * 2**4 * 0.75, "a quarter less at most"


def test_every_attempt_runs_inside_the_context_given(server: Server) -> None:
    entered = left = 0

    @contextlib.asynccontextmanager
    async def around() -> AsyncIterator[None]:
        nonlocal entered, left
        entered += 1
        yield
        left += 1

    server.script = [fail(500), complete()]
    [reply] = ask(server, [request()], around=around)
    assert isinstance(reply, Reply)
    assert (entered, left) == (2, 1)  # the failed one left by its exception


def test_requests_bear_their_journal_key(server: Server) -> None:
    ask(server, [request(5)])
    assert server.requests[0]["headers"]["X-Client-Request-Id"] == request(5).key


def test_wrong_bodies_are_tried_again(server: Server) -> None:
    wrong = [b'{"choices": []}', b'{"choices": [{}]}', b'{"error": "x"}', b"{", b'{"choices": [{"message": null}]}']
    server.script = [lambda handler, body=body: handler.send(200, body) for body in wrong]
    [reply] = ask(server, [request()], max_attempts=6)
    assert isinstance(reply, Reply)
    assert len(server.requests) == 6


def test_content_in_parts_is_joined(server: Server) -> None:
    server.script = [complete([{"type": "text", "text": "VERDICT: "}, {"type": "text", "text": "yes"}])]  # type: ignore[arg-type]
    assert ask(server, [request()])[0].text == "VERDICT: yes"
