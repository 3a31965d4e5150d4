"""A model server without a model: the OpenAI chat protocol, with a latency and with faults. For benchmarks and tests.

    python -m benchmarks.model_server --latency 0.2                       prints its base URL, serves until killed
    python -m benchmarks.model_server --faults 0.3 --seed 1               30 % of the requests meet one of FAULTS

Answers a question with options by one of the first four letters, drawn at random. ``GET /state`` tells how many
requests came, how many are under way, and how often each request (by its X-Client-Request-Id) got a whole answer.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
from collections import Counter
from typing import Any

from aiohttp import web

FAULTS = ("busy", "error", "hang", "truncated", "wrong", "refusal", "slow", "dropped", "prose")
USAGE = {"prompt_tokens": 600, "completion_tokens": 40, "total_tokens": 640}


class Server:
    """latency: seconds before an answer. faults: share of the requests that meet one, drawn with `seed`."""

    def __init__(self, latency: float, faults: float, seed: int) -> None:
        self.latency, self.faults = latency, faults
        self.random = random.Random(seed)
        self.num_received = self.in_flight = 0
        self.num_faults: Counter[str] = Counter()
        self.answers: Counter[str] = Counter()

    async def complete(self, request: web.Request) -> web.StreamResponse:
        self.num_received += 1
        self.in_flight += 1
        try:
            await request.read()
            fault = self.random.choice(FAULTS) if self.random.random() < self.faults else None
            if fault:
                self.num_faults[fault] += 1
            await asyncio.sleep(self.latency)
            return await self.respond(request, fault)
        except ConnectionResetError:
            return web.Response()  # the client has gone
        finally:
            self.in_flight -= 1

    async def respond(self, request: web.Request, fault: str | None) -> web.StreamResponse:
        if fault == "busy":
            return web.json_response({"error": {"message": "slow down"}}, status=429, headers={"Retry-After": "0.05"})
        if fault == "error":
            return web.json_response({"error": {"message": "worker died"}}, status=500)
        if fault == "hang":
            await asyncio.sleep(3600)
        letter = self.random.choice("ABCD")
        text = f"<think>Grain covers the sky.</think><answer>{letter}</answer>"
        message: dict[str, Any] = {"role": "assistant", "content": text}
        if fault == "refusal":
            message = {"role": "assistant", "content": None, "refusal": "I cannot look at this."}
        if fault == "prose":
            message["content"] = "It looks noisy to me."
        choice = {"index": 0, "finish_reason": "stop", "message": message}
        completion = {"id": "c", "object": "chat.completion", "created": 1, "model": "m", "choices": [choice]}
        body = json.dumps({**completion, "usage": USAGE}).encode()
        if fault == "truncated":
            return web.Response(body=body[: len(body) // 2], content_type="application/json")
        if fault == "wrong":
            return web.json_response({"choices": [], "detail": "no worker"})
        response = web.StreamResponse(headers={"Content-Type": "application/json", "Content-Length": str(len(body))})
        await response.prepare(request)
        if fault in ("slow", "dropped"):
            await response.write(body[:100])
            if fault == "dropped":
                assert request.transport is not None
                request.transport.abort()
                return response
            await asyncio.sleep(0.1)
            await response.write(body[100:])
        else:
            await response.write(body)
        await response.write_eof()
        self.answers[request.headers.get("X-Client-Request-Id", "")] += 1
        return response

    async def state(self, request: web.Request) -> web.Response:
        return web.json_response(
            {
                "num_received": self.num_received,
                "in_flight": self.in_flight,
                "faults": dict(self.num_faults),
                "answers": dict(self.answers),
            }
        )


async def serve(server: Server, port: int) -> None:
    application = web.Application(client_max_size=64 * 2**20)
    application.router.add_post("/v1/chat/completions", server.complete)
    application.router.add_get("/state", server.state)
    runner = web.AppRunner(application, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", port).start()
    host, chosen = runner.addresses[0]
    print(f"http://{host}:{chosen}/v1", flush=True)
    await asyncio.Event().wait()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--latency", type=float, default=0.0, help="seconds")
    parser.add_argument("--faults", type=float, default=0.0, help="share of the requests")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--port", type=int, default=0)
    arguments = parser.parse_args()
    asyncio.run(serve(Server(arguments.latency, arguments.faults, arguments.seed), arguments.port))


if __name__ == "__main__":
    main()
