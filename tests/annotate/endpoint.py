"""A real HTTP server that speaks the OpenAI chat protocol and misbehaves on demand, and samples to ask about."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from data_contracts.records import SAMPLES
from data_contracts.refs import file_digest, text_digest

RIGHT = "<think>Grain covers the sky.</think><answer>B</answer>"
Respond = Callable[["Handler"], None]


class Handler(BaseHTTPRequestHandler):
    """Answers a request as the endpoint's next scripted response says, else as `endpoint.always` does.

    body: of the request, read.
    """

    protocol_version = "HTTP/1.1"
    server: Any
    body: dict[str, Any]

    def do_POST(self) -> None:
        endpoint: Endpoint = self.server.endpoint
        body = self.rfile.read(int(self.headers["Content-Length"]))
        with endpoint.lock:
            request = {"headers": self.headers, "path": self.path, "body": json.loads(body), "at": time.time()}
            endpoint.requests.append(request)
            respond = endpoint.script.pop(0) if endpoint.script else endpoint.always
            self.body = request["body"]
            endpoint.in_flight += 1
            endpoint.most_in_flight = max(endpoint.most_in_flight, endpoint.in_flight)
        try:
            respond(self)
        finally:
            with endpoint.lock:
                endpoint.in_flight -= 1

    def send(self, status: int, body: Any, headers: dict[str, str] | None = None) -> None:
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        self.send_response(status)
        for name, value in {"Content-Type": "application/json", **(headers or {})}.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, format: str, *args: Any) -> None:
        pass


class Endpoint:
    """script: responses to the next requests, in order; always: the response otherwise, with `text` unless replaced.

    requests: what came in.
    """

    def __init__(self) -> None:
        self.script: list[Respond] = []
        self.requests: list[dict[str, Any]] = []
        self.always: Respond = complete()
        self.text = RIGHT
        self.lock = threading.Lock()
        self.in_flight = self.most_in_flight = 0
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self._server.handle_error = lambda *_: None  # type: ignore[method-assign]  # clients that go away are expected
        self._server.endpoint = self  # type: ignore[attr-defined]
        self.base_url = f"http://127.0.0.1:{self._server.server_port}/v1"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()


def complete(text: str | None = None, seconds: float = 0.0, **message: Any) -> Respond:
    def respond(handler: Handler) -> None:
        time.sleep(seconds)
        content = handler.server.endpoint.text if text is None else text
        finish = message.pop("finish_reason", "stop")
        choice = {"index": 0, "finish_reason": finish, "message": {"role": "assistant", "content": content, **message}}
        usage = {"prompt_tokens": 1000, "completion_tokens": 50, "total_tokens": 1050}
        completion = {"id": "c", "object": "chat.completion", "created": 1, "model": "m", "choices": [choice]}
        handler.send(200, {**completion, "usage": usage})

    return respond


def fail(status: int, message: str = "no", code: str | None = None, headers: dict[str, str] | None = None) -> Respond:
    return lambda handler: handler.send(status, {"error": {"message": message, "code": code}}, headers)


def hang(seconds: float) -> Respond:
    return lambda handler: time.sleep(seconds)


def drop(handler: Handler) -> None:
    """Half a body, then the connection is gone."""
    handler.send_response(200)
    handler.send_header("Content-Type", "application/json")
    handler.send_header("Content-Length", "1000")
    handler.end_headers()
    handler.wfile.write(b'{"id": "c", "choi')
    handler.wfile.flush()
    handler.connection.close()
    handler.close_connection = True


def question(text: str = "Which distortion affects the image most?", **fields: Any) -> dict[str, Any]:
    options = ["Motion blur", "Noise", "Overexposure", "No distortion"]
    asked = "\n".join([text, *(f"{letter}. {option}" for letter, option in zip("ABCD", options, strict=True))])
    row = {
        "category": "perception",
        "sub_task": "mcq",
        "kind": "type",
        "problem_type": "choice",
        "question": asked,
        "options": options,
        "answer": "B",
        "source_row": None,
        **fields,
    }
    return {"question_id": text_digest(json.dumps(row)), **row}


def sample(folder: Path, number: int, questions: list[dict[str, Any]], split: str = "train") -> dict[str, Any]:
    """A sample of grey noise; its questions get ids of their own."""
    path = folder / f"{number}.png"
    pixels = np.random.default_rng(number).integers(0, 256, (56, 56, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path)
    digest = file_digest(path)
    row = dict.fromkeys(SAMPLES.names)
    return row | {
        "sample_id": digest,
        "media_type": "image",
        "media_path": str(path),
        "width": 56,
        "height": 56,
        "source": "test",
        "source_file": str(path),
        "source_photograph": f"photograph {number}",
        "split": split,
        "distortions": [],
        "questions": [{**q, "question_id": text_digest(digest + q["question_id"])} for q in questions],
    }


def write_samples(folder: Path, rows: list[dict[str, Any]]) -> Path:
    path = folder / "samples.parquet"
    pq.write_table(pa.Table.from_pylist(rows, schema=SAMPLES), path)
    return path
