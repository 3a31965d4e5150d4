"""Training children that are killed, a run that is cancelled, and a flow told to end that has a server of its own."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import duckdb
import psutil
import pytest

from tests.flows.desk import ROOT, wait_until

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

SETTINGS = ["--config", "tiny", "--set", "sft.save_steps=2", "--set", "grpo.steps=4", "--set", "grpo.save_steps=1"]


def children_of(process: Any, module: str) -> list[psutil.Process]:
    try:
        family = psutil.Process(process.pid).children(recursive=True)
        return [child for child in family if module in child.cmdline()]
    except psutil.NoSuchProcess:
        return []


def checkpoint(home: Path, stage: str) -> bool:
    return any(home.glob(f"**/{stage}/**/checkpoints/checkpoint-*/complete.json"))


def kill_when_checkpointed(desk: Any, process: Any, stage: str) -> None:
    module = f"tasks.{stage}.train"
    wait_until(lambda: process.poll() is not None or checkpoint(desk.home, stage), 400, f"a checkpoint of {stage}")
    killed = children_of(process, module)
    assert killed, f"{module} had already ended"
    killed[0].send_signal(signal.SIGKILL)


def test_a_killed_trainer_resumes_in_the_same_run(desk: Any, tmp_path: Path) -> None:
    log = tmp_path / "flow.log"
    process = desk.start(sys.executable, "-m", "flows.full_pipeline", *SETTINGS, log=log)
    for stage in ("sft", "grpo"):
        kill_when_checkpointed(desk, process, stage)
    assert process.wait(500) == 0, log.read_text()[-6000:]
    for stage in ("sft", "grpo"):
        (child_log,) = desk.home.glob(f"runs/*/{stage}/train/child.log")
        assert child_log.read_text().count('"step": 1,') == 1, "it began anew"
        with duckdb.connect(str(desk.home / "manifest.duckdb"), read_only=True) as lineage:
            rows = lineage.execute("SELECT state, attempts FROM stage_runs WHERE stage = ?", [stage]).fetchall()
        assert rows == [("complete", 2)]


def test_cancelling_ends_the_child_and_keeps_the_checkpoint(desk: Any, tmp_path: Path) -> None:
    log = tmp_path / "flow.log"
    process = desk.start(sys.executable, "-m", "flows.full_pipeline", *SETTINGS, log=log)
    wait_until(lambda: process.poll() is not None or checkpoint(desk.home, "sft"), 400, "a checkpoint of sft")
    family = psutil.Process(process.pid).children(recursive=True)
    assert children_of(process, "tasks.sft.train")
    process.send_signal(signal.SIGTERM)
    assert process.wait(60) != 0
    _gone, alive = psutil.wait_procs(family, timeout=30)
    assert not alive
    assert checkpoint(desk.home, "sft")


@pytest.fixture(scope="module")
def serverless(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Environment of a user without a Prefect server: each flow starts its own."""
    others = ("PREFECT_", "MLFLOW_", "DISCERN_")
    return {
        **{name: value for name, value in os.environ.items() if not name.startswith(others)},
        "PREFECT_HOME": str(tmp_path_factory.mktemp("prefect")),
        "NO_PROXY": "127.0.0.1",
    }


def children(process: subprocess.Popen[str]) -> list[psutil.Process]:
    with contextlib.suppress(psutil.NoSuchProcess):
        return psutil.Process(process.pid).children(recursive=True)
    return []


def has_server(family: list[psutil.Process]) -> bool:
    return any("uvicorn" in child.cmdline() for child in family)


@pytest.mark.parametrize(
    ("number", "to_group", "ignored", "when"),
    [
        (signal.SIGTERM, False, False, "starting"),
        (signal.SIGTERM, False, True, "ingest"),
        (signal.SIGINT, True, False, "sft"),  # Ctrl-C in a terminal
        (signal.SIGINT, False, True, "ingest"),
        (signal.SIGKILL, False, False, "ingest"),
    ],
    ids=["SIGTERM while it starts", "SIGTERM", "Ctrl-C", "SIGINT although ignored", "SIGKILL"],
)
def test_a_flow_that_is_ended_ends_its_server(
    serverless: dict[str, str], tmp_path: Path, number: signal.Signals, to_group: bool, ignored: bool, when: str
) -> None:
    home, log = tmp_path / "runs", tmp_path / "flow.log"
    sigint = signal.SIG_IGN if ignored else signal.default_int_handler
    with log.open("w") as stream:
        process = subprocess.Popen(
            [sys.executable, "-m", "flows.full_pipeline", "--config", "tiny"],
            cwd=ROOT,
            env={**serverless, "DISCERN_HOME": str(home)},
            stdout=stream,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
            preexec_fn=lambda: signal.signal(signal.SIGINT, sigint),
        )
    started: dict[str, Callable[[], bool]] = {
        "starting": lambda: has_server(children(process)),
        "ingest": lambda: any(home.glob("runs/*/ingest")),
        "sft": lambda: bool(children_of(process, "tasks.sft.train")),
    }
    family: list[psutil.Process] = []
    try:
        wait_until(lambda: process.poll() is not None or started[when](), 200, when)
        family = children(process)
        assert has_server(family), log.read_text()
        (os.killpg if to_group else os.kill)(process.pid, number)
        code = process.wait(20)
        _gone, alive = psutil.wait_procs(family, timeout=20)
        assert not alive
    finally:
        for left in (process, *family):
            with contextlib.suppress(psutil.NoSuchProcess):
                left.kill()
    if number == signal.SIGKILL:
        return
    said = log.read_text()
    assert code == 128 + number, said
    assert said.count(f"ended by {number.name}; ") == 1
    assert "Traceback" not in said
    if when != "starting":
        assert "Flow run 'tiny' - Finished in state Crashed" in said, "the server was told"
        with duckdb.connect(str(home / "manifest.duckdb"), read_only=True) as lineage:
            assert lineage.execute("SELECT state FROM run WHERE parent_run_id IS NULL").fetchall() == [("cancelled",)]
