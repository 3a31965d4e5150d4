"""A teacher behind any OpenAI-compatible endpoint: a hosted one, vLLM, `transformers serve`.

The client's own retries are off; one policy decides here. Too many requests (429, honouring Retry-After), 5xx, timeouts
and lost connections are tried again, with growing pauses that all requests share; what a retry cannot mend (400, 401,
403, 404) ends the stage at once with the cure. A refusal and an answer cut at its token limit are answers. The key is
given in, goes into the request's header and nowhere else: it is struck out of every message. Ours, not of a paper.
"""

from __future__ import annotations

import asyncio
import base64
import json
import random
import time
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import Any

import openai
from openai.types.chat import ChatCompletion

from pipeline_config.schema import ConfigError, OpenAITeacher
from tasks.annotate.prompts import prompt_for
from tasks.annotate.teacher import Reply, Request, Row, TeacherUnavailable

LONGEST_PAUSE = 60.0  # seconds; of our own choosing
LONGEST_WAIT = 600.0  # seconds; that an endpoint may ask for before we give up
_MIME = {".png": "image/png", ".jpg": "image/jpeg", ".jpeg": "image/jpeg", ".webp": "image/webp", ".gif": "image/gif"}
_RETRIED = {408, 409, 425, 429}
_CURES = {
    400: "the endpoint refuses the request itself; check annotate.teacher (model, max_new_tokens, temperature)",
    401: "the key is not accepted; check the variable or Prefect Secret named in annotate.teacher.api_key_variable",
    403: "the key may not use this model; check annotate.teacher.model and the key's rights",
    404: "no such model or address; check annotate.teacher.model and base_url (it usually ends in /v1)",
    413: "the picture is too large for the endpoint; ingest smaller pictures",
    422: "the endpoint refuses the request itself; check annotate.teacher (model, max_new_tokens, temperature)",
}


class _TryAgain(Exception):
    """A failure that another attempt may mend.

    seconds: how long the endpoint asked to wait, if it did. busy: it has too much to do, so all requests wait.
    """

    def __init__(self, what: str, seconds: float | None = None, busy: bool = False) -> None:
        super().__init__(what)
        self.seconds = seconds
        self.busy = busy


class EndpointTeacher:
    """See the module. first_pause: seconds before the second attempt, doubled at each further one."""

    def __init__(self, config: OpenAITeacher, api_key: str, *, first_pause: float = 1.0) -> None:
        self.name = config.model
        self.max_in_flight = config.max_in_flight
        self._config = config
        self._key = api_key
        self._first_pause = first_pause
        self._not_before = 0.0  # on the monotonic clock: nobody asks earlier
        self._jitter = random.Random(0)  # spreads pauses; shapes no result
        self._sampling = json.dumps(
            {"temperature": config.temperature, "top_p": config.top_p, "max_tokens": config.max_new_tokens}
        )
        self._client = openai.AsyncOpenAI(
            api_key=api_key,
            base_url=config.base_url,
            max_retries=0,
            timeout=config.timeout_seconds,
            http_client=openai.DefaultAioHttpClient(),
        )

    def request(self, question: Row, sample: Row, attempt: int) -> Request:
        return Request(self._config.model, prompt_for(question), sample["sample_id"], self._sampling, attempt)

    async def ask(self, request: Request, question: Row, sample: Row) -> Reply:
        """Raises ConfigError (no retry can mend it) or TeacherUnavailable (every attempt failed)."""
        messages = _messages(request.prompt, Path(sample["media_path"]))
        last = ""
        for attempt in range(1, self._config.max_attempts + 1):
            await self._until_free()
            try:
                return await self._attempt(messages)
            except _TryAgain as failure:
                last = self._clean(str(failure))
                if attempt < self._config.max_attempts:
                    await self._pause(attempt, failure)
        raise TeacherUnavailable(
            f"teacher {self.name} at {self._config.base_url}: no answer in {self._config.max_attempts} attempts, "
            f"the last: {last}; check annotate.teacher.base_url and that the server runs, then start the same command "
            "again: answers received so far are in the journal and are not asked again"
        )

    async def _attempt(self, messages: list[Any]) -> Reply:
        failed: ConfigError | _TryAgain | None = None
        completion: Any = None
        try:
            async with asyncio.timeout(self._config.timeout_seconds):
                completion = await self._client.chat.completions.create(
                    model=self._config.model, messages=messages, **json.loads(self._sampling)
                )
        except (TimeoutError, openai.APITimeoutError):
            failed = _TryAgain(f"nothing within {self._config.timeout_seconds:g} s")
        except openai.APIConnectionError as error:
            failed = _TryAgain(f"connection failed ({error.__cause__ or error})")
        except openai.APIStatusError as error:
            if error.code in ("content_filter", "content_policy_violation"):
                return Reply("", refusal=self._clean(f"{error.code}: {error.message}"), finish_reason=str(error.code))
            failed = self._judge(error)
        except ValueError as error:
            failed = _TryAgain(f"unreadable reply ({error})")
        if failed is not None:
            raise failed  # outside the handler: a chained error would carry the request and its headers along
        return self._reply(completion)

    def _judge(self, error: openai.APIStatusError) -> ConfigError | _TryAgain:
        said = f"HTTP {error.status_code}: {error.message}"
        spent = error.code == "insufficient_quota"
        if (error.status_code in _RETRIED or error.status_code >= 500) and not spent:
            return _TryAgain(said, _retry_after(error.response.headers.get("retry-after")), error.status_code == 429)
        cure = "the account's quota is used up" if spent else _CURES.get(error.status_code, "see the endpoint's manual")
        return ConfigError(self._clean(f"teacher {self.name} at {self._config.base_url}: {said}; {cure}"))

    def _reply(self, completion: Any) -> Reply:
        if not isinstance(completion, ChatCompletion) or not completion.choices:
            raise ConfigError(
                f"teacher {self.name} at {self._config.base_url}: answers, but not in the OpenAI chat form; "
                "check annotate.teacher.base_url (it usually ends in /v1)"
            )
        choice, usage = completion.choices[0], completion.usage
        prompt_tokens = usage.prompt_tokens if usage else 0
        completion_tokens = usage.completion_tokens if usage else 0
        text = choice.message.content or ""
        thought = getattr(choice.message, "reasoning_content", None)  # vLLM, where it reads the think block itself
        if thought and "<think>" not in text:
            text = f"<think>{thought}</think>{text}"
        return Reply(
            text=self._clean(text),
            refusal=choice.message.refusal and self._clean(choice.message.refusal),
            finish_reason=choice.finish_reason or "stop",
            prompt_tokens=prompt_tokens,
            completion_tokens=completion_tokens,
            cost=(
                prompt_tokens * self._config.price_per_million_prompt_tokens
                + completion_tokens * self._config.price_per_million_completion_tokens
            )
            / 1e6,
        )

    async def _until_free(self) -> None:
        while (wait := self._not_before - time.monotonic()) > 0:
            await asyncio.sleep(wait)

    async def _pause(self, attempt: int, failure: _TryAgain) -> None:
        if failure.seconds is not None and failure.seconds > LONGEST_WAIT:
            raise TeacherUnavailable(
                f"teacher {self.name} at {self._config.base_url}: asks to wait {failure.seconds:.0f} s; start the same "
                "command again later: answers received so far are in the journal and are not asked again"
            )
        own = min(LONGEST_PAUSE, self._first_pause * 2 ** (attempt - 1)) * self._jitter.uniform(0.75, 1.25)
        seconds = own if failure.seconds is None else failure.seconds
        if failure.busy:
            self._not_before = max(self._not_before, time.monotonic() + seconds)
        else:
            await asyncio.sleep(seconds)

    def _clean(self, text: str) -> str:
        return text.replace(self._key, "***") if self._key else text

    async def close(self) -> None:
        await self._client.close()


def _messages(prompt: str, media: Path) -> list[Any]:
    try:
        data = base64.b64encode(media.read_bytes()).decode()
    except OSError as error:
        raise ConfigError(f"{media}: cannot be read for the teacher ({error.strerror}); run ingest again") from error
    mime = _MIME.get(media.suffix.lower(), "image/png")
    picture = {"type": "image_url", "image_url": {"url": f"data:{mime};base64,{data}"}}
    return [{"role": "user", "content": [picture, {"type": "text", "text": prompt}]}]


def _retry_after(header: str | None) -> float | None:
    """Seconds of a Retry-After header: a number or an HTTP date; None if there is none that can be read."""
    if not header:
        return None
    try:
        return max(0.0, float(header))
    except ValueError:
        pass
    try:
        return max(0.0, parsedate_to_datetime(header).timestamp() - time.time())
    except ValueError:
        return None
