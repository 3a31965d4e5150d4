"""The chat completion of the OpenAI protocol: a request as its body, a body as a reply. Pure; ours."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from pipeline_config.schema import Price
from tasks.endpoint.budget import cost_of
from tasks.endpoint.request import Reply, Request

URL = "/chat/completions"
Parts = Sequence[dict[str, Any]]


def body_of(request: Request, parts: Parts) -> dict[str, Any]:
    """What is shown (parts) stands before the prompt."""
    user: Any = [*parts, {"type": "text", "text": request.prompt}] if parts else request.prompt
    messages = [{"role": "user", "content": user}]
    if request.instruction:
        messages.insert(0, {"role": "system", "content": request.instruction})
    return {"model": request.model, "messages": messages, **json.loads(request.sampling)}


def reply_of(completion: Any, price: Price) -> Reply:
    """Raises ValueError on anything that is no chat completion."""
    try:
        choice, usage = completion["choices"][0], completion.get("usage") or {}
        message = choice["message"]
        text = message.get("content") or ""
        if not isinstance(text, str):  # a list of parts
            text = "".join(part.get("text") or "" for part in text)
        thought = message.get("reasoning_content") or message.get("reasoning")  # vLLM reads the think block itself
        prompt_tokens = int(usage.get("prompt_tokens") or 0)
        completion_tokens = int(usage.get("completion_tokens") or 0)
    except (LookupError, TypeError, AttributeError, ValueError) as error:
        raise ValueError(f"no chat completion ({type(error).__name__}: {error})") from None
    if thought and "<think>" not in text:
        text = f"<think>{thought}</think>{text}"
    return Reply(
        text=text,
        refusal=str(message["refusal"]) if message.get("refusal") else None,
        finish_reason=choice.get("finish_reason") or "stop",
        prompt_tokens=prompt_tokens,
        completion_tokens=completion_tokens,
        cost=cost_of(price, prompt_tokens, completion_tokens),
    )
