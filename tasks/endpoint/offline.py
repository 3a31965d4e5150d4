"""An endpoint that is not called: requests go to files in OpenAI's Batch form, replies come from its result files.

    folder/requests/0001.jsonl ..     written anew by every run: what nobody has answered yet
    folder/results/*.jsonl            put there by you, in any order and number, as the Batch endpoint gave them

A request's ``custom_id`` is its journal key. Ours, not of a paper.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, TextIO

from pipeline_config.schema import ConfigError, EndpointConfig
from tasks.endpoint.budget import Budget, price_of
from tasks.endpoint.completion import URL, Parts, body_of, reply_of
from tasks.endpoint.request import Posted, Reply, Request

MOST_REQUESTS = 50_000  # of one file, OpenAI's own limit
MOST_BYTES = 180 * 2**20  # a little under its 200 MB


class BatchFolder:
    """Asked like an `Endpoint`. num_posted: requests written now. Raises ConfigError on a result that is none."""

    def __init__(self, config: EndpointConfig, folder: Path) -> None:
        self.budget = Budget(None)
        self.num_posted = 0
        self._price = price_of(config)
        self._requests, self._results = folder / "requests", folder / "results"
        self._found: dict[str, tuple[Path, int]] = {}  # key -> file and offset of its line
        self._num_files = self._in_file = 0
        self._file: TextIO | None = None
        for made in (self._requests, self._results):
            made.mkdir(parents=True, exist_ok=True)
        for path in sorted(self._results.glob("*.jsonl")):
            self._index(path)
        for old in self._requests.glob("*.jsonl"):
            old.unlink()

    async def ask(self, request: Request, parts: Callable[[], Parts] = tuple, num_pixels: float = 0.0) -> Reply:
        """The reply in the result files. Raises Posted if there is none: then the request stands in a file."""
        if (place := self._found.get(request.key)) is not None:
            path, offset = place
            with path.open("rb") as lines:
                lines.seek(offset)
                return reply_of(json.loads(lines.readline())["response"]["body"], self._price)
        self._post(request.key, body_of(request, parts()))
        raise Posted(f"posted to {self._requests}")

    async def close(self) -> None:
        if self._file is not None:
            self._file.close()

    def _index(self, path: Path) -> None:
        """Remember where the finished lines are; failed ones are left out, so that they are asked again."""
        with path.open("rb") as lines:
            offset = 0
            for number, line in enumerate(lines, 1):
                if line.strip():
                    try:
                        result = json.loads(line)
                        response = result.get("response") or {}
                        if response.get("status_code") == 200 and not result.get("error"):
                            reply_of(response["body"], self._price)
                            self._found[str(result["custom_id"])] = (path, offset)
                    except (ValueError, LookupError, TypeError, AttributeError) as error:
                        raise ConfigError(
                            f"{path}: line {number}: no result of a batch ({error}); take the file as the endpoint "
                            "gave it"
                        ) from None
                offset += len(line)

    def _post(self, key: str, body: dict[str, Any]) -> None:
        line = json.dumps({"custom_id": key, "method": "POST", "url": f"/v1{URL}", "body": body}) + "\n"
        if self._file is None or self._in_file == MOST_REQUESTS or self._file.tell() + len(line) > MOST_BYTES:
            if self._file is not None:
                self._file.close()
            self._num_files += 1
            self._in_file = 0
            self._file = (self._requests / f"{self._num_files:04d}.jsonl").open("w", encoding="ascii")
        self._file.write(line)
        self._in_file += 1
        self.num_posted += 1
