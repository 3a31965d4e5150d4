"""What is done when not every question can be asked: budgets, batch files, bad luck, Ctrl-C."""

from __future__ import annotations

import asyncio
import json
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from pipeline_config.schema import AnnotateConfig, RewardsConfig
from tasks.annotate.annotate import Annotated, annotate_samples, make_teacher
from tests.annotate.endpoint import RIGHT, Endpoint, Handler, complete, fail, question, sample, write_samples
from tests.annotate.test_annotate_run import ANNOTATE

PRICES = [{"model": "judge-1", "prompt": 2.0, "completion": 10.0}]
COST = 0.0025  # of a request that counts 1,000 and 50 tokens, at these prices


def run(
    folder: Path, samples: Path, endpoint: Endpoint, tries: int = 1, agreement: float = 0.6, **teacher: Any
) -> Annotated:
    settings = {"kind": "openai", "base_url": endpoint.base_url, "model": "judge-1", "max_in_flight": 4, **teacher}
    config = AnnotateConfig.model_validate({"teacher": settings, "tries": tries, "agreement": agreement})
    made = make_teacher(config.teacher, "key")
    return asyncio.run(annotate_samples(samples, folder / "journal", config, RewardsConfig(), made))


def many(folder: Path, num: int, **fields: Any) -> Path:
    return write_samples(folder, [sample(folder, n, [question(**fields)]) for n in range(num)])


def test_a_spent_budget_stops_and_a_larger_one_goes_on(endpoint: Endpoint, tmp_path: Path) -> None:
    samples = many(tmp_path, 40)
    fields: dict[str, Any] = {"prices": PRICES, "max_new_tokens": 50, "max_in_flight": 1}
    first = run(tmp_path, samples, endpoint, budget=10.4 * COST, **fields)
    asked = len(endpoint.requests)
    assert first.figures["cost"] == pytest.approx(asked * COST)
    assert 8 <= asked <= 10
    assert (first.table.num_rows, first.figures["not_asked"]) == (asked, 40 - asked)
    assert first.not_asked is not None
    assert "the budget of 0.026 leaves" in first.not_asked
    assert len(first.quarantine) == 40 - asked
    assert {row["reason"][:10] for row in first.quarantine} == {"not asked:"}

    same = run(tmp_path, samples, endpoint, budget=10.4 * COST, **fields)
    assert len(endpoint.requests) == asked  # what was spent before counts
    assert same.table.equals(first.table)

    more = run(tmp_path, samples, endpoint, budget=100 * COST, **fields)
    assert len(endpoint.requests) == 40
    assert (more.table.num_rows, more.not_asked) == (40, None)
    assert more.figures["cost"] == pytest.approx(40 * COST)
    assert more.figures["spent"] == pytest.approx((40 - asked) * COST)
    assert sum(more.table["cost"].to_pylist()) == pytest.approx(40 * COST)


def test_rejected_questions_are_paid_for_too(endpoint: Endpoint, tmp_path: Path) -> None:
    endpoint.script = [complete("<think>Smear.</think><answer>A</answer>")]
    annotated = run(tmp_path, many(tmp_path, 2), endpoint, prices=PRICES, max_in_flight=1)
    assert (annotated.table.num_rows, annotated.figures["accepted"], annotated.figures["tries"]) == (1, 1, 2)
    assert annotated.figures["cost"] == pytest.approx(2 * COST)


def test_a_question_without_gold_takes_the_answer_most_tries_agree_on(endpoint: Endpoint, tmp_path: Path) -> None:
    samples = many(tmp_path, 2, answer=None)
    wrong = complete("<think>Smear.</think><answer>A</answer>")
    endpoint.script = [complete(), wrong, complete(), complete(), wrong, wrong, complete(), complete()]
    annotated = run(tmp_path, samples, endpoint, tries=4, agreement=0.5, max_in_flight=1)
    [row] = annotated.table.to_pylist()
    assert (row["answer"], row["reward"], row["tries"], row["reasoning"]) == ("B", 0.75, 4, "Grain covers the sky.")
    [left_out] = annotated.quarantine
    assert "no gold, and 50% of 4 tries agree" in left_out["reason"]


def test_a_question_that_gets_no_answer_is_put_aside_with_the_reason(endpoint: Endpoint, tmp_path: Path) -> None:
    def respond(handler: Handler) -> None:
        broken = "the third one" in str(handler.body["messages"])
        (fail(400, "picture refused") if broken else complete())(handler)

    endpoint.always = respond
    rows = [sample(tmp_path, n, [question(f"{'the third one' if n == 2 else 'Which'}?")]) for n in range(6)]
    annotated = run(tmp_path, write_samples(tmp_path, rows), endpoint, max_in_flight=1)
    assert annotated.table.num_rows == 5
    [left_out] = annotated.quarantine
    assert "no answer: judge-1 at" in left_out["reason"]
    assert "picture refused" in left_out["reason"]


def test_a_refused_schema_is_left_out(endpoint: Endpoint, tmp_path: Path) -> None:
    def respond(handler: Handler) -> None:
        asked = "response_format" in handler.body
        (fail(400, "response_format is not supported") if asked else complete())(handler)

    endpoint.always = respond
    annotated = run(tmp_path, many(tmp_path, 6), endpoint, structured=True, max_in_flight=1)
    assert annotated.table.num_rows == 6
    assert len(endpoint.requests) == 7  # asked for once
    again = run(tmp_path, many(tmp_path, 6), endpoint, structured=True)
    assert again.figures["teacher_calls"] == 0


def test_batch_files_go_out_and_their_results_come_back(endpoint: Endpoint, tmp_path: Path) -> None:
    samples, folder = many(tmp_path, 3), tmp_path / "batch"
    posted = run(tmp_path, samples, endpoint, batch_folder=folder, prices=PRICES)
    assert posted.figures["not_asked"] == 3
    lines = [json.loads(line) for line in (folder / "requests" / "0001.jsonl").read_text().splitlines()]
    assert lines[0]["body"]["messages"][1]["content"][0]["type"] == "image_url"
    texts = [RIGHT, RIGHT, "<think>Smear.</think><answer>A</answer>"]
    usage = {"prompt_tokens": 1000, "completion_tokens": 50}
    answers = [
        {
            "custom_id": line["custom_id"],
            "response": {"status_code": 200, "body": {"choices": [{"message": {"content": text}}], "usage": usage}},
        }
        for line, text in zip(lines, texts, strict=True)
    ]
    (folder / "results" / "out.jsonl").write_text("\n".join(map(json.dumps, answers)))
    second = run(tmp_path, samples, endpoint, tries=2, batch_folder=folder, prices=PRICES)
    assert (second.table.num_rows, second.figures["accepted"], second.figures["not_asked"]) == (2, 2, 1)
    [line] = (folder / "requests" / "0001.jsonl").read_text().splitlines()  # the second try of the third question
    assert json.loads(line)["custom_id"] not in {answer["custom_id"] for answer in answers}
    assert endpoint.requests == []
    (folder / "results" / "out.jsonl").unlink()
    done = run(tmp_path, samples, endpoint, batch_folder=folder, prices=PRICES)
    assert (done.figures["journal_hits"], done.figures["accepted"]) == (3, 2)  # the journal has them now
    assert done.figures["cost"] == pytest.approx(3 * COST)


def test_ctrl_c_keeps_what_was_answered(endpoint: Endpoint, tmp_path: Path) -> None:
    endpoint.always = complete(seconds=0.02)
    samples = many(tmp_path, 60)
    teacher = {"kind": "openai", "base_url": endpoint.base_url, "model": "judge-1", "max_in_flight": 4}
    command = [
        sys.executable,
        "-c",
        ANNOTATE,
        str(samples),
        str(tmp_path / "journal"),
        json.dumps({"teacher": teacher}),
    ]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    while len(endpoint.requests) < 30:
        assert process.poll() is None
        time.sleep(0.005)
    process.send_signal(signal.SIGINT)
    assert "KeyboardInterrupt" in process.communicate(timeout=60)[1]
    assert process.returncode != 0
    before = len(endpoint.requests)
    finished = subprocess.run(command, capture_output=True, text=True, check=True)
    assert finished.stdout.strip() == "60"
    assert 60 <= len(endpoint.requests) <= 60 + 4
    assert len(endpoint.requests) - before <= 60 - before + 4


def test_a_run_that_is_cancelled_begins_no_more(
    endpoint: Endpoint, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The place of the first request to end is given to no other."""
    endpoint.always = complete(seconds=0.3)
    samples = many(tmp_path, 8)
    config = AnnotateConfig.model_validate(
        {"teacher": {"kind": "openai", "base_url": endpoint.base_url, "model": "judge-1", "max_in_flight": 2}}
    )
    begun = []

    async def cancelled() -> None:
        teacher = make_teacher(config.teacher, "key")
        ask = teacher.ask

        async def counting(*arguments: Any) -> Any:
            begun.append(arguments)
            return await ask(*arguments)

        monkeypatch.setattr(teacher, "ask", counting)
        run = asyncio.create_task(annotate_samples(samples, tmp_path / "journal", config, RewardsConfig(), teacher))
        while len(endpoint.requests) < 2:
            await asyncio.sleep(0.01)
        run.cancel()
        with pytest.raises(asyncio.CancelledError):
            await run

    asyncio.run(cancelled())
    assert len(begun) == len(endpoint.requests) == 2
