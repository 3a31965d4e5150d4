"""Prefect as its users meet it: a stock server and worker, `prefect deploy --all`, a deployment run that completes."""

from __future__ import annotations

import json
import urllib.request
from pathlib import Path
from typing import Any

import pytest

from tests.flows.desk import PREFECT, wait_until

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]


def ask(desk: Any, path: str, body: dict[str, Any]) -> Any:
    request = urllib.request.Request(
        desk.environment["PREFECT_API_URL"] + path,
        data=json.dumps(body).encode(),
        headers={"content-type": "application/json"},
    )
    with urllib.request.urlopen(request, timeout=30) as answer:
        return json.load(answer)


@pytest.fixture
def worker(desk: Any, tmp_path: Path) -> Any:
    process = desk.start(
        str(PREFECT), "worker", "start", "--pool", "discern", "--type", "process", log=tmp_path / "worker.log"
    )
    try:
        wait_until(lambda: ask(desk, "/work_pools/filter", {}), 90, "the worker to make its pool")
        yield process
    finally:
        process.terminate()
        process.wait(60)


def test_deploy_all_and_run_the_demo_deployment(desk: Any, worker: Any, tmp_path: Path) -> None:
    deployed = desk.run(str(PREFECT), "--no-prompt", "deploy", "--all")
    assert deployed.returncode == 0, deployed.stdout + deployed.stderr
    done = desk.run(
        str(PREFECT), "deployment", "run", "full-pipeline/demo", "--param", "config=tiny", "--watch", timeout=600
    )
    said = done.stdout + done.stderr + (tmp_path / "worker.log").read_text()[-4000:]
    assert done.returncode == 0, said
    runs = ask(desk, "/flow_runs/filter", {"flow_runs": {"state": {"type": {"any_": ["COMPLETED"]}}}})
    assert any(run["parameters"]["config"] == "tiny" for run in runs), said
    tables = ask(desk, "/artifacts/filter", {"artifacts": {"type": {"any_": ["table"]}}})
    assert {"ingest", "sft", "grpo", "promote"} <= {artifact["key"] for artifact in tables}
    assert (desk.home / "summary.json").exists()
