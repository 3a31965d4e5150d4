"""Five thousand questions, a server that fails in every way, and kill -9 five times: nothing is lost or paid twice."""

from __future__ import annotations

import json
import os
import random
import signal
import sqlite3
import subprocess
import sys
import time
import urllib.request
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tasks.endpoint.journal import FILE
from tests.annotate.endpoint import question, sample, write_samples

NUM_SAMPLES, PER_SAMPLE, IN_FLIGHT, KILLS = 250, 20, 32, 5

ANNOTATE = """
import asyncio, json, sys
from pathlib import Path
from pipeline_config.schema import AnnotateConfig, RewardsConfig
from tasks.annotate.annotate import annotate_samples, make_teacher
config = AnnotateConfig.model_validate(json.loads(sys.argv[3]))
teacher = make_teacher(config.teacher, "key")
done = asyncio.run(annotate_samples(Path(sys.argv[1]), Path(sys.argv[2]), config, RewardsConfig(), teacher))
ids = lambda rows: [row.get("question_id") or row["id"] for row in rows]
print(json.dumps([ids(done.table.to_pylist()), ids(done.quarantine), done.figures]))
"""


@pytest.fixture
def server() -> Iterator[str]:
    command = [sys.executable, "-m", "benchmarks.model_server", "--latency", "0.02", "--faults", "0.1", "--seed", "3"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        yield process.stdout.readline().strip()
        process.kill()


def state_of(server: str) -> dict[str, Any]:
    with urllib.request.urlopen(server.removesuffix("/v1") + "/state", timeout=30) as response:
        return dict(json.load(response))


def journalled(folder: Path) -> set[str]:
    if not (folder / FILE).exists():
        return set()
    with sqlite3.connect(folder / FILE) as connection:
        try:
            return {key for (key,) in connection.execute("SELECT request_key FROM reply")}
        except sqlite3.OperationalError:
            return set()


@pytest.mark.slow
def test_nothing_is_lost_and_nothing_answered_is_asked_again(server: str, tmp_path: Path) -> None:
    rows = [
        sample(tmp_path, n, [question(f"Which distortion affects part {m}?") for m in range(PER_SAMPLE)])
        for n in range(NUM_SAMPLES)
    ]
    samples, journal = write_samples(tmp_path, rows), tmp_path / "journal"
    teacher = {
        "kind": "openai",
        "base_url": server,
        "model": "m",
        "max_in_flight": IN_FLIGHT,
        "timeout_seconds": 1.0,
        "max_attempts": 8,
    }
    command = [sys.executable, "-c", ANNOTATE, str(samples), str(journal), json.dumps({"teacher": teacher, "tries": 2})]
    draw = random.Random(5)
    lost: Counter[str] = Counter()
    for _ in range(KILLS):
        target = len(journalled(journal)) + draw.randrange(100, 900)
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
        while len(journalled(journal)) < target:
            assert process.poll() is None
            time.sleep(0.05)
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
        time.sleep(0.3)  # the server notices
        answers, kept = state_of(server)["answers"], journalled(journal)
        newly = {key: count - 1 - lost[key] for key, count in answers.items() if key in kept}
        under_way = Counter({key: count - lost[key] for key, count in answers.items() if key not in kept})
        assert not any(newly.values()), "an answer that was in the journal was asked again"
        lost.update(+under_way)
    finished = subprocess.run(command, check=True, capture_output=True, text=True)
    rows_of, put_aside, figures = json.loads(finished.stdout)
    state = state_of(server)

    every = {q["question_id"] for row in rows for q in row["questions"]}
    assert len(every) == NUM_SAMPLES * PER_SAMPLE
    assert set(rows_of) | set(put_aside) == every
    assert len(rows_of) + len(put_aside) == len(every)
    assert set(state["faults"]) == {
        *("busy", "error", "hang", "truncated", "wrong", "refusal", "slow", "dropped", "prose"),
    }
    whole, distinct = sum(state["answers"].values()), len(state["answers"])
    print(
        f"\nwhole answers {whole:,} = distinct requests {distinct:,} + under way at the kills {lost.total()} "
        f"(at most {IN_FLIGHT} each); accepted {figures['accepted']:,.0f}, quarantined {len(put_aside):,}; "
        f"faults {sum(state['faults'].values()):,}"
    )
    assert whole <= distinct + lost.total()
    assert lost.total() <= KILLS * IN_FLIGHT
    assert figures["accepted"] > 0
