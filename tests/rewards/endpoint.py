"""A real HTTP server that speaks the OpenAI chat protocol and judges."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from pipeline_config.schema import OpenAIJudge


class Endpoint:
    """A chat endpoint that judges by `says`, after failing as often as it is told to.

    says: verdict on the judged texts, in the order of the prompt. quotes: it quotes the last of them after its verdict.
    replies: scripted ones; "KEY" in them is the fences' key.
    """

    def __init__(self) -> None:
        self.says: Callable[[list[str]], bool] = lambda texts: "dog" in texts[-1]
        self.seconds = 0.05
        self.prompts: list[str] = []
        self.failures = 0
        self.status = 503
        self.replies: list[str] = []
        self.quotes = False
        self.in_flight = self.most_in_flight = 0
        self.lock = threading.Lock()
        endpoint = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                status, reply = endpoint.answer(body["messages"][-1]["content"])
                payload = json.dumps(
                    {
                        "id": "1",
                        "object": "chat.completion",
                        "created": 0,
                        "model": body["model"],
                        "choices": [
                            {"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": reply}}
                        ],
                    }
                ).encode()
                self.send_response(status)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(payload)))
                self.end_headers()
                self.wfile.write(payload)

            def log_message(self, *_: object) -> None:
                return

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}/v1"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def answer(self, prompt: str) -> tuple[int, str]:
        with self.lock:
            self.prompts.append(prompt)
            if self.failures:
                self.failures -= 1
                return self.status, ""
            self.in_flight += 1
            self.most_in_flight = max(self.most_in_flight, self.in_flight)
            scripted = self.replies.pop(0) if self.replies else None
        time.sleep(self.seconds)
        with self.lock:
            self.in_flight -= 1
        key = prompt.split("<<<")[1].split("\n")[0]
        texts = [part.split(f"\n{key}>>>")[0] for part in prompt.split(f"<<<{key}\n")[1:]]
        reply = scripted or f"Thinking.\nVERDICT KEY: {'yes' if self.says(texts) else 'no'}"
        reply = reply.replace("KEY", key)
        return 200, f"{reply}\nThis is what I judged:\n{texts[-1]}" if self.quotes else reply


def settings(endpoint: Endpoint, folder: Path, **fields: object) -> OpenAIJudge:
    defaults = {"kind": "openai", "base_url": endpoint.url, "model": "judge-7b", "journal": folder}
    return OpenAIJudge.model_validate({**defaults, "max_attempts": 3, "timeout_seconds": 10, **fields})
