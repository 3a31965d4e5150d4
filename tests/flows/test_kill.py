"""Training children that are killed, and a run that is cancelled."""

from __future__ import annotations

import signal
import sys
from pathlib import Path
from typing import Any

import duckdb
import psutil
import pytest

from tests.flows.desk import wait_until

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
