"""A teacher with a price, through the flow: budget, resume, cost in the lineage, traces, and the key nowhere."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import duckdb
import pytest

from tests.flows.desk import PREFECT, ROOT, Desk

KEY = "sk-very-secret-9876543210"
LIMIT = "discern-test-teacher"
COST = (600 * 2.0 + 40 * 10.0) / 1e6  # what the server counts, at the prices below
pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]


@pytest.fixture
def endpoint() -> Iterator[str]:
    command = [sys.executable, "-m", "benchmarks.model_server", "--latency", "0.005"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=ROOT) as process:
        assert process.stdout is not None
        yield process.stdout.readline().strip()
        process.kill()


def build(desk: Desk, endpoint: str, budget: float, *more: str) -> subprocess.CompletedProcess[str]:
    prices = [{"model": "m", "prompt": 2.0, "completion": 10.0}]
    teacher = {"kind": "openai", "base_url": endpoint, "model": "m", "prices": prices, "budget": budget}
    teacher |= {"max_new_tokens": 64, "shared_limit": LIMIT, "max_in_flight": 8}
    settings = [
        f"annotate.teacher={json.dumps(teacher)}",
        "annotate.tries=2",
        "annotate.trace_share=0.2",
        "ingest.questions={sub_tasks: [mcq]}",
        *more,
    ]
    arguments = [part for setting in settings for part in ("--set", setting)]
    return desk.flow("--config", "tiny", *arguments, flow="build_dataset")


def ask(desk: Desk, query: str) -> list[dict[str, Any]]:
    with duckdb.connect(str(desk.home / "manifest.duckdb"), read_only=True) as lineage:
        return lineage.sql(query).df().to_dict("records")


def test_a_budget_stops_the_flow_and_a_larger_one_finishes_it(desk: Desk, endpoint: str) -> None:
    desk.environment["OPENAI_API_KEY"] = KEY
    created = desk.run(str(PREFECT), "gcl", "create", LIMIT, "--limit", "4")
    assert created.returncode == 0, created.stderr

    first = build(desk, endpoint, 0.05)
    assert first.returncode == 2, first.stdout[-4000:] + first.stderr[-4000:]
    [message] = [line for line in first.stderr.splitlines() if "questions were not asked" in line][-1:]
    assert "the budget of 0.05 leaves" in message
    assert "raise annotate.teacher.budget" in message
    [stopped] = ask(desk, "SELECT * FROM teacher_cost")
    assert 0.03 < stopped["cost_of_stage"] <= 0.05
    assert stopped["cost_of_stage"] == pytest.approx(stopped["paid_by_run"])
    states = ask(desk, "SELECT state FROM stage_runs WHERE stage = 'annotate'")
    assert [row["state"] for row in states] == ["failed"]

    done = build(desk, endpoint, 100.0)
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-4000:]
    notes = desk.summary()["stages"]["annotate"]["notes"]
    assert notes["not_asked"] == 0
    assert notes["cost"] == pytest.approx(notes["tries"] * COST)
    assert notes["spent"] == pytest.approx(notes["cost"] - stopped["cost_of_stage"])
    finished = ask(desk, "SELECT * FROM teacher_cost ORDER BY cost_of_stage DESC")[0]
    assert finished["cost_of_stage"] == pytest.approx(notes["cost"])
    assert finished["cost"] == pytest.approx(finished["num_tries"] * COST)
    assert finished["cost"] <= finished["cost_of_stage"]

    artifact = desk.run(str(PREFECT), "artifact", "inspect", "annotate-progress")
    assert "'data': 100" in artifact.stdout, artifact.stdout + artifact.stderr
    assert _num_traces(desk) > 5
    written = [path for path in desk.home.rglob("*") if path.is_file()]
    assert len(written) > 20
    for path in [*written, *Path(desk.environment["PREFECT_HOME"]).rglob("*.db*")]:
        assert KEY.encode() not in path.read_bytes(), path
    assert KEY not in first.stdout + first.stderr + done.stdout + done.stderr


def test_a_limit_that_nobody_made_is_named(desk: Desk, endpoint: str) -> None:
    desk.environment["OPENAI_API_KEY"] = KEY
    done = build(desk, endpoint, 100.0, "annotate.teacher.shared_limit=nobody-made-this")
    assert done.returncode == 2, done.stdout[-4000:] + done.stderr[-4000:]
    assert "prefect gcl create nobody-made-this" in done.stderr.strip().splitlines()[-1]


def _num_traces(desk: Desk) -> int:
    script = (
        "import mlflow, sys; mlflow.set_tracking_uri(sys.argv[1]); "
        "e = [x.experiment_id for x in mlflow.search_experiments()]; "
        "print(len(mlflow.search_traces(locations=e, return_type='list')))"
    )
    done = desk.run(sys.executable, "-c", script, f"sqlite:///{desk.home / 'mlflow.db'}")
    assert done.returncode == 0, done.stderr[-2000:]
    return int(done.stdout.strip().splitlines()[-1])
