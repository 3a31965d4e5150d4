"""Batch files: what is asked, and the results as a batch endpoint gives them."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest

from pipeline_config.schema import ConfigError, OpenAITeacher
from tasks.endpoint import offline
from tasks.endpoint.offline import BatchFolder
from tasks.endpoint.request import Posted, Reply, Request

CONFIG = OpenAITeacher(
    kind="openai", base_url="http://x/v1", model="m", prices=[{"model": "m", "prompt": 1.0, "completion": 2.0}]
)


def request(number: int) -> Request:
    return Request("m", "rules", f"question {number}", "", '{"max_tokens": 5}', 1)


def ask(folder: Path, numbers: range) -> list[Reply | None]:
    async def one(batch: BatchFolder, number: int) -> Reply | None:
        try:
            return await batch.ask(request(number))
        except Posted:
            return None

    async def asking() -> list[Reply | None]:
        batch = BatchFolder(CONFIG, folder)
        replies = [await one(batch, number) for number in numbers]
        await batch.close()
        return replies

    return asyncio.run(asking())


def lines(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(x) for path in sorted((folder / "requests").iterdir()) for x in path.read_text().splitlines()]


def result(key: str, text: str, status: int = 200) -> str:
    message = {"role": "assistant", "content": text}
    body = {"choices": [{"message": message}], "usage": {"prompt_tokens": 1_000, "completion_tokens": 10}}
    return json.dumps({"id": "r", "custom_id": key, "response": {"status_code": status, "body": body}, "error": None})


def test_requests_are_posted_and_results_answer_them(tmp_path: Path) -> None:
    assert ask(tmp_path, range(3)) == [None] * 3
    posted = lines(tmp_path)
    assert [line["custom_id"] for line in posted] == [request(n).key for n in range(3)]
    assert posted[0]["method"], posted[0]["url"] == ("POST", "/v1/chat/completions")
    assert posted[0]["body"]["messages"] == [
        {"role": "system", "content": "rules"},
        {"role": "user", "content": "question 0"},
    ]
    text = [result(posted[2]["custom_id"], "two"), result(posted[0]["custom_id"], "none", 500), ""]
    (tmp_path / "results" / "b.jsonl").write_text("\n".join(text))
    (tmp_path / "results" / "a.jsonl").write_text(result(posted[1]["custom_id"], "eins – één"))
    first, second, third = ask(tmp_path, range(3))
    assert (first, second and second.text, third and third.text) == (None, "eins – één", "two")
    assert second is not None
    assert second.cost == pytest.approx(0.00102)
    assert [line["custom_id"] for line in lines(tmp_path)] == [request(0).key]  # only what is still to be asked


def test_files_hold_no_more_than_an_endpoint_takes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(offline, "MOST_REQUESTS", 4)
    ask(tmp_path, range(10))
    assert [len(path.read_text().splitlines()) for path in sorted((tmp_path / "requests").iterdir())] == [4, 4, 2]
    monkeypatch.setattr(offline, "MOST_BYTES", 500)
    ask(tmp_path, range(10))
    assert all(path.stat().st_size <= 500 for path in (tmp_path / "requests").iterdir())
    assert len(lines(tmp_path)) == 10


@pytest.mark.parametrize(
    "line", ["{", '{"response": null}', "[]", '{"custom_id": "a", "response": {"status_code": 200}}']
)
def test_a_line_that_is_no_result_is_named(tmp_path: Path, line: str) -> None:
    (tmp_path / "results").mkdir()
    (tmp_path / "results" / "r.jsonl").write_text(result("k", "fine") + "\n" + line + "\n")
    if line == '{"response": null}':  # failed at the endpoint: asked again
        ask(tmp_path, range(1))
        return
    with pytest.raises(ConfigError, match=r"r\.jsonl: line 2: no result of a batch"):
        ask(tmp_path, range(1))
