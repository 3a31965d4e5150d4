"""The client of an OpenAI-compatible endpoint: a hosted one, vLLM, `transformers serve`. Teacher and judge share it.

    endpoint = Endpoint(config.annotate.teacher, key, section="annotate.teacher")
    reply = await endpoint.ask(request, lambda: picture_parts([path], max_pixels))

The openai package sends (over aiohttp: its default transport needs ten times the processor time); its own retries are
off, and one policy decides here. Too many requests (429, honouring Retry-After), 5xx, timeouts, lost connections and
unreadable bodies are tried again; 400, 401, 403 and 404 never are. A refusal and an answer cut at its token limit are
answers. A request that fails while others are answered is `Unanswered`; one that fails while nobody is answered means
`EndpointUnavailable`. The key goes into the request's header and nowhere else: it is struck out of every message and
every reply. A request's journal key is sent along as ``X-Client-Request-Id``, by which an endpoint's logs can be
matched with the journal. Ours, not of a paper.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import random
import re
import time
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from dataclasses import replace
from email.utils import parsedate_to_datetime
from typing import Any

import openai

from pipeline_config.schema import ConfigError, EndpointConfig
from tasks.endpoint.budget import Budget, cost_of, estimate_tokens, price_of
from tasks.endpoint.completion import URL, Parts, body_of, reply_of
from tasks.endpoint.limits import LONGEST_PAUSE, AdaptiveLimit, Breaker, Rate
from tasks.endpoint.request import EndpointUnavailable, Reply, Request, Unanswered

LONGEST_WAIT = 600.0  # seconds; that an endpoint may ask for before we give up
FAILURES_TO_OPEN = 10  # in a row, of requests of any number
_RETRIED = {408, 409, 425, 429}
_OF_REQUEST = {400, 413, 422}  # it is this request that the endpoint refuses, perhaps no other
_RESUME = "start the same command again: answers received so far are in the journal and are not asked again"
_CURES = {
    400: "the endpoint refuses the request itself; check {section} (model, max_new_tokens, temperature)",
    401: "the key is not accepted; check the variable or Prefect Secret named in {section}.api_key_variable",
    403: "the key may not use this model; check {section}.model and the key's rights",
    404: "no such model or address; check {section}.model and base_url (it usually ends in /v1)",
    413: "the picture is too large for the endpoint; set max_pixels, or ingest smaller pictures",
    422: "the endpoint refuses the request itself; check {section} (model, max_new_tokens, temperature)",
}

Around = Callable[[], AbstractAsyncContextManager[Any]]


class _TryAgain(Exception):
    """A failure that another attempt may mend.

    seconds: how long the endpoint asked to wait, if it did. busy: it has too much to do, so all requests wait.
    """

    def __init__(self, what: str, seconds: float | None = None, busy: bool = False) -> None:
        super().__init__(what)
        self.seconds = seconds
        self.busy = busy


class RequestRefused(ConfigError):
    """The endpoint refuses a request itself (400, 413, 422), and has answered no other."""


class _Tried:
    """The attempts at one request: how many, how the last failed, and the seconds left, counted from the first."""

    def __init__(self, deadline_seconds: float) -> None:
        self.attempts = 0
        self.last = ""
        self._deadline_seconds = deadline_seconds
        self._first_sent = float("inf")

    def begin(self, is_probe: bool) -> float:
        """One more is sent; returns when, on the monotonic clock. A probe counts for nothing."""
        now = time.monotonic()
        self.attempts += not is_probe
        self._first_sent = now if is_probe else min(self._first_sent, now)
        return now

    @property
    def seconds_left(self) -> float:
        return self._first_sent + self._deadline_seconds - time.monotonic()


class Endpoint:
    """See the module. Of one event loop.

    section: of the config, named in messages. around: makes a context manager that every attempt runs in, such as
    Prefect's ``concurrency``. on_reply: told every request, its reply and the seconds it took.
    first_pause: seconds before the second attempt, doubled at each further one.
    """

    def __init__(
        self,
        config: EndpointConfig,
        api_key: str,
        *,
        section: str,
        budget: Budget | None = None,
        around: Around = contextlib.nullcontext,
        on_reply: Callable[[Request, Reply, float], None] = lambda request, reply, seconds: None,
        first_pause: float = 1.0,
    ) -> None:
        self.config = config
        self.price = price_of(config)
        self.budget = budget or Budget(None)
        self.limit = AdaptiveLimit(config.max_in_flight)
        self._section = section
        self._key = api_key
        self._around = around
        self._on_reply = on_reply
        self._first_pause = first_pause
        self._requests = Rate(config.requests_per_minute)
        self._tokens = Rate(config.tokens_per_minute)
        self._breaker = Breaker(FAILURES_TO_OPEN, first_pause)
        self._not_before = 0.0  # on the monotonic clock: nobody asks earlier
        self._longer = 1.0  # largest ratio of counted to estimated prompt tokens so far
        self._jitter = random.Random(0)  # spreads pauses; shapes no result
        self._client = openai.AsyncOpenAI(
            api_key=api_key or "none",
            base_url=config.base_url,
            max_retries=0,
            timeout=None,  # ours is over the whole attempt
            http_client=openai.DefaultAioHttpClient(),
        )

    @property
    def name(self) -> str:
        return f"{self.config.model} at {self.config.base_url}"

    async def ask(self, request: Request, parts: Callable[[], Parts] = tuple, num_pixels: float = 0.0) -> Reply:
        """The reply to a request; parts: makes what is shown before its prompt. num_pixels: of what is shown.

        Raises ConfigError (no retry of any request can mend it), EndpointUnavailable, Unanswered, BudgetSpent.
        """
        prompt_tokens = estimate_tokens(request.instruction + request.prompt, num_pixels)
        most = cost_of(self.price, prompt_tokens * self._longer, self.config.max_new_tokens)
        async with self.budget.reserve(most):
            reply = await self._persist(body_of(request, parts()), prompt_tokens, request)
            self.budget.spend(reply.cost)
        if reply.prompt_tokens:
            self._longer = max(self._longer, reply.prompt_tokens / prompt_tokens)
        return reply

    async def close(self) -> None:
        await self._client.close()

    # ------------------------------------------------------------------------------------------------ one request
    async def _persist(self, body: dict[str, Any], prompt_tokens: float, request: Request) -> Reply:
        """Attempts at a request until one is answered, they are used up, or its deadline has passed.

        Probes of a server that answers nobody are not the request's own attempts.
        """
        content = json.dumps(body).encode()
        asked = time.monotonic()
        tried = _Tried(self.config.deadline_seconds)
        while True:
            try:
                return await self._attempt(content, prompt_tokens, request, asked, tried)
            except _TryAgain as failure:
                tried.last = self._clean(str(failure))
                if self._is_dead:
                    raise self._unavailable(f"nobody is answered, the last failure: {tried.last}") from None
                if tried.attempts == self.config.max_attempts or tried.seconds_left <= 0:
                    why = f"no answer in {tried.attempts} attempts, the last: {tried.last}"
                    if self._breaker.last_success > asked:
                        raise Unanswered(f"{self.name}: {why}") from None
                    raise self._unavailable(why) from None
                await self._pause(tried.attempts, failure)

    async def _attempt(
        self, content: bytes, prompt_tokens: float, request: Request, asked: float, tried: _Tried
    ) -> Reply:
        """Wait for this attempt's turn, send it, and tell limits and breaker how it went."""
        await self._until_free()
        await self._requests.take()
        await self._tokens.take(prompt_tokens + self.config.max_new_tokens)
        await self.limit.acquire()
        try:
            async with self._breaker.attempt(asked) as is_probe, self._around():
                sent = tried.begin(is_probe)
                try:
                    seconds = min(self.config.timeout_seconds, tried.seconds_left)
                    reply = await self._send(request, content, seconds)
                except _TryAgain as failure:
                    if failure.busy:
                        self.limit.overloaded(sent)
                    self._breaker.failed(is_probe)
                    raise
                self._breaker.succeeded()
        finally:
            self.limit.release()
        self.limit.succeeded()
        used = reply.prompt_tokens + reply.completion_tokens
        self._tokens.correct(used - prompt_tokens - self.config.max_new_tokens if used else 0.0)
        self._on_reply(request, reply, time.monotonic() - sent)
        return reply

    async def _send(self, request: Request, content: bytes, seconds: float) -> Reply:
        failed: Exception
        try:
            async with asyncio.timeout(seconds):
                body = await self._client.post(
                    URL,
                    content=content,
                    cast_to=str,
                    options={"headers": {"Content-Type": "application/json", "X-Client-Request-Id": request.key}},
                )
            return self._read(body)
        except ConfigError:
            raise
        except TimeoutError:
            failed = _TryAgain(f"nothing within {seconds:.3g} s", busy=True)
        except openai.APIConnectionError as error:
            failed = _TryAgain(f"connection failed ({error.__cause__ or error})")
        except openai.APIStatusError as error:
            if error.code in ("content_filter", "content_policy_violation"):
                return Reply("", refusal=self._clean(f"{error.code}: {error.message}"), finish_reason=str(error.code))
            failed = self._judge(error)
        except (OSError, ValueError) as error:
            failed = _TryAgain(f"unreadable reply ({error})")
        raise failed  # outside the handler: a chained error would carry the request and its headers along

    def _judge(self, error: openai.APIStatusError) -> Exception:
        status = error.status_code
        said = self._clean(f"HTTP {status}: {error.message}")
        spent = error.code == "insufficient_quota"
        if (status in _RETRIED or status >= 500) and not spent:
            busy = status in (429, 503, 529)
            return _TryAgain(said, _retry_after(error.response.headers.get("retry-after")), busy)
        if status in _OF_REQUEST and self._has_answered:
            return Unanswered(f"{self.name}: {said}")
        cure = "the account's quota is used up" if spent else _CURES.get(status, "see the endpoint's manual")
        kind = RequestRefused if status in _OF_REQUEST else ConfigError
        return kind(f"{self.name}: {said}; {cure.format(section=self._section)}")

    def _read(self, body: str) -> Reply:
        """The reply in a response's body. Raises ValueError if it cannot be read, ConfigError if none ever could."""
        try:
            reply = reply_of(json.loads(body), self.price)
        except ValueError:
            if self._has_answered or body.lstrip().startswith("{"):
                raise
            raise ConfigError(
                f"{self.name}: answers, but not in the OpenAI chat form; check {self._section}.base_url (it usually "
                "ends in /v1)"
            ) from None
        refusal = None if reply.refusal is None else self._clean(reply.refusal)
        return replace(reply, text=self._clean(reply.text), refusal=refusal)

    # ---------------------------------------------------------------------------------------------------- policy
    @property
    def _has_answered(self) -> bool:
        return self._breaker.last_success > float("-inf")

    @property
    def _is_dead(self) -> bool:
        """Probes have failed for as long as a server may take to come back; one that never answered gets few."""
        if self._has_answered:
            return self._breaker.seconds_open > self.config.deadline_seconds
        return self._breaker.probes >= self.config.max_attempts

    def _unavailable(self, why: str) -> EndpointUnavailable:
        said = f"{self.name}: {why}; check {self._section}.base_url and that the server runs, then {_RESUME}"
        self._breaker.give_up(said)
        return EndpointUnavailable(said)

    async def _until_free(self) -> None:
        while (wait := self._not_before - time.monotonic()) > 0:
            await asyncio.sleep(wait)

    async def _pause(self, attempt: int, failure: _TryAgain) -> None:
        if failure.seconds is not None and failure.seconds > LONGEST_WAIT:
            raise EndpointUnavailable(f"{self.name}: asks to wait {failure.seconds:.0f} s; later, {_RESUME}")
        own = min(LONGEST_PAUSE, self._first_pause * 2 ** max(0, attempt - 1)) * self._jitter.uniform(0.75, 1.25)
        if failure.seconds is not None:
            self._not_before = max(self._not_before, time.monotonic() + failure.seconds)
        else:
            await asyncio.sleep(own)

    def _clean(self, text: str) -> str:
        return text.replace(self._key, "***") if self._key else text


def _retry_after(header: str | None) -> float | None:
    """Seconds of a Retry-After header: a number or an HTTP date; None if there is none that can be read."""
    if not header:
        return None
    if re.fullmatch(r"\d+(\.\d+)?", header.strip()):
        return float(header)
    with contextlib.suppress(ValueError):
        return max(0.0, parsedate_to_datetime(header).timestamp() - time.time())
    return None
