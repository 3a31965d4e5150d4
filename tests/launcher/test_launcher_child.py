"""A child's end, however it comes: facts, one clear message, a retry, and nothing that outlives its parent."""

from __future__ import annotations

import json
import os
import pickle
import signal
import subprocess
import sys
import textwrap
import threading
import time
from pathlib import Path
from typing import Any

import psutil
import pytest

from pipeline_config.schema import PipelineConfig
from tasks.launcher.child import ChildFailed, children_end_with, run_child
from tasks.launcher.job import Job

CONFIG = PipelineConfig.model_validate(
    {
        "name": "child-test",
        "ingest": {"sources": [{"kind": "degrade", "name": "made"}]},
        "sft": {"optimiser": {"lr": 1e-4}},
        "grpo": {"optimiser": {"lr": 1e-5}},
    }
)
CHILD = """
import errno, os, signal, subprocess, sys, time
from pathlib import Path
from data_contracts.check import ContractError
from pipeline_config.schema import ConfigError
from tasks.launcher.job import child_main, progress
from tasks.tracking.log import MetricLog

def run(job):
    what = job.options["what"]
    if what == "facts":
        progress(1, 2, loss=0.5)
        MetricLog().log({"loss": 0.5}, 1)
        print("a line\\rand another")
        job.out.mkdir()
        return {"name": job.config.name, "input": job.inputs["a"], "seed": job.seed, "cwd": os.getcwd(),
                "offline": os.environ.get("HF_HUB_OFFLINE"), "grandparent": os.environ["DISCERN_LIFELINE"]}
    if what == "config":
        raise ConfigError("demo.yaml: sft.epochs: must be positive; write 1")
    if what == "contract":
        raise ContractError("dialogues: row d1: prompt is empty")
    if what == "value":
        raise ValueError("pictures/a.png: no picture")
    if what == "memory":
        raise MemoryError
    if what == "torch_memory":
        raise type("OutOfMemoryError", (RuntimeError,), {})("CUDA out of memory")
    if what == "disk":
        with open("/dev/full", "w") as full:
            full.write("x" * 100_000)
    if what == "crash":
        raise KeyError("lost")
    if what == "exit":
        sys.exit(job.options["code"])
    if what == "killed":
        os.kill(os.getpid(), signal.SIGKILL)
    if what == "retry":
        tried = job.folder / "tried"
        if not tried.exists():
            tried.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return {"tried": True}
    if what == "ranks":
        import torch.distributed as dist
        dist.init_process_group("gloo")
        import torch
        total = torch.ones(1)
        dist.all_reduce(total)
        progress(1, 1)
        if job.options.get("error"):
            raise ConfigError("said by a rank")
        if job.options.get("wait"):
            (job.folder / f"pid{os.environ['RANK']}").write_text(str(os.getpid()))
            time.sleep(100)
        return {"world": int(total.item()), "rank": os.environ["RANK"]}
    if what == "family":
        child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(100)"])
        (job.folder / "pids").write_text(f"{os.getpid()} {child.pid}")
        if job.options.get("stubborn"):
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
        time.sleep(100)

if __name__ == "__main__":
    child_main(run)
"""
# A parent that runs the family and is told to end; argv: folder, how it waits.
PARENT = """
import json, sys, threading
from pathlib import Path
from tasks.launcher.child import run_child
folder = Path(sys.argv[1])
job = json.loads((folder / "asked.json").read_text())
run = lambda: run_child("the_child", job, folder, env={"PYTHONPATH": str(folder.parent / "modules")})
if sys.argv[2] == "main":
    run()
else:
    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    modules = tmp_path / "modules"
    modules.mkdir()
    (modules / "the_child.py").write_text(CHILD)
    folder = tmp_path / "stage"
    folder.mkdir()
    return folder


def job_of(folder: Path, what: str, **options: Any) -> dict[str, Any]:
    return Job(CONFIG, {"a": "/data/a.parquet"}, folder / "out", folder, 7, {"what": what, **options}).to_dict()


def start(folder: Path, what: str, devices: int = 1, **kwargs: Any) -> dict[str, Any]:
    options = kwargs.pop("options", {})
    env = {"PYTHONPATH": str(folder.parent / "modules"), **kwargs.pop("env", {})}
    return run_child("the_child", job_of(folder, what, **options), folder, devices=devices, env=env, **kwargs)


def pids(folder: Path, name: str = "pids") -> list[int]:
    deadline = time.monotonic() + 60
    while not (folder / name).exists() or not (folder / name).read_text():
        assert time.monotonic() < deadline, "the child did not start"
        time.sleep(0.05)
    return [int(word) for word in (folder / name).read_text().split()]


def all_gone(family: list[int], seconds: float) -> bool:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if not any(_alive(pid) for pid in family):
            return True
        time.sleep(0.05)
    return False


def _alive(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def test_facts_progress_metrics_and_lines_come_back(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # From a folder that has a package `tasks` of its own.
    elsewhere = folder.parent / "elsewhere"
    (elsewhere / "tasks").mkdir(parents=True)
    (elsewhere / "tasks" / "__init__.py").write_text("raise RuntimeError('the wrong tasks')")
    monkeypatch.chdir(elsewhere)
    shown: list[Any] = []
    metrics: list[Any] = []
    lines: list[str] = []
    facts = start(
        folder,
        "facts",
        env={"HF_HUB_OFFLINE": "1"},
        on_progress=shown.append,
        on_metrics=metrics.append,
        on_line=lines.append,
    )
    assert facts == {
        "name": "child-test", "input": "/data/a.parquet", "seed": 7, "cwd": str(elsewhere), "offline": "1",
        "grandparent": "stdin",
    }  # fmt: skip
    assert shown == [{"done": 1, "total": 2, "loss": 0.5}]
    assert (metrics[0]["step"], metrics[0]["metrics"]) == (1, {"loss": 0.5})
    assert lines == ["a line", "and another"]
    assert (folder / "child.log").read_text().count("\n") == 4
    assert (folder / "out").is_dir()


def test_a_job_is_read_as_it_was_written(folder: Path) -> None:
    job = job_of(folder, "facts")
    assert Job.from_dict(json.loads(json.dumps(job))).to_dict() == job


@pytest.mark.parametrize(
    ("what", "message"),
    [
        ("config", "demo.yaml: sft.epochs: must be positive; write 1"),
        ("contract", "dialogues: row d1: prompt is empty"),
        ("value", "ValueError: pictures/a.png: no picture"),
    ],
)
def test_a_users_error_is_one_line_and_never_retried(folder: Path, what: str, message: str) -> None:
    with pytest.raises(ChildFailed) as failed:
        start(folder, what)
    assert (str(failed.value), failed.value.returncode, failed.value.retryable) == (message, 2, False)


@pytest.mark.parametrize(
    ("what", "code", "said"),
    [
        ("memory", 75, "ran out of memory"),
        ("torch_memory", 75, "ran out of memory"),
        ("crash", 1, "KeyError: 'lost'"),
        ("killed", -9, "was ended by SIGKILL"),
    ],
)
def test_a_crash_is_retried_and_shows_the_last_lines(folder: Path, what: str, code: int, said: str) -> None:
    with pytest.raises(ChildFailed) as failed:
        start(folder, what)
    assert (failed.value.returncode, failed.value.retryable) == (code, True)
    assert said in str(failed.value)
    again = pickle.loads(pickle.dumps(failed.value))  # Prefect keeps the exception of a failed task
    assert (str(again), again.retryable, again.tail) == (str(failed.value), True, failed.value.tail)


@pytest.mark.parametrize(("code", "retryable"), [(2, False), (3, True)])
def test_a_child_that_says_nothing_is_known_by_its_exit_code(folder: Path, code: int, retryable: bool) -> None:
    with pytest.raises(ChildFailed, match=f"ended with exit code {code}") as failed:
        start(folder, "exit", options={"code": code})
    assert (failed.value.returncode, failed.value.retryable) == (code, retryable)


def test_a_full_disk_is_named_with_its_cure_and_not_retried(folder: Path) -> None:
    with pytest.raises(ChildFailed) as failed:
        start(folder, "disk")
    assert (failed.value.returncode, failed.value.retryable) == (28, False)
    assert "no room left" in str(failed.value)
    assert "DISCERN_HOME" in str(failed.value)


def test_a_retry_does_not_take_the_last_attempts_word(folder: Path) -> None:
    with pytest.raises(ChildFailed, match="KeyError"):
        start(folder, "crash")
    with pytest.raises(ChildFailed, match="SIGKILL"):
        start(folder, "retry")
    assert start(folder, "retry") == {"tried": True}
    assert "KeyError" in (folder / "child.log").read_text()


@pytest.mark.parametrize("stubborn", [False, True])
def test_ctrl_c_ends_the_whole_group(folder: Path, stubborn: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tasks.launcher.child.GRACE_SECONDS", 1.0)
    family: list[int] = []

    def interrupt() -> None:
        family.extend(pids(folder))
        time.sleep(0.3)
        signal.raise_signal(signal.SIGINT)

    threading.Thread(target=interrupt, daemon=True).start()
    with pytest.raises(KeyboardInterrupt):
        start(folder, "family", options={"stubborn": stubborn})
    assert len(family) == 2
    assert all_gone(family, 5)


def test_a_flow_that_is_left_ends_children_that_other_threads_wait_for(folder: Path) -> None:
    failures: list[ChildFailed] = []

    def stage() -> None:
        try:
            start(folder, "family")
        except ChildFailed as error:
            failures.append(error)

    def flow() -> None:
        thread = threading.Thread(target=stage)
        try:
            with children_end_with():
                thread.start()
                pids(folder)
                raise KeyboardInterrupt
        finally:
            thread.join(20)
            assert not thread.is_alive()

    with pytest.raises(KeyboardInterrupt):
        flow()
    assert "was told to end with its flow" in str(failures[0])
    assert not failures[0].retryable
    assert all_gone(pids(folder), 5)


@pytest.mark.parametrize(("waits_in", "number"), [("main", signal.SIGKILL), ("thread", signal.SIGTERM)])
def test_a_parent_that_is_ended_leaves_nothing_behind(folder: Path, waits_in: str, number: int) -> None:
    (folder / "asked.json").write_text(json.dumps(job_of(folder, "family")))
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    parent = subprocess.Popen([sys.executable, "-c", PARENT, str(folder), waits_in], env=environment)
    family = pids(folder)
    assert all(_alive(pid) for pid in family)
    parent.send_signal(number)
    parent.wait(20)
    assert all_gone(family, 15)


@pytest.mark.slow
def test_ranks_under_torchrun_meet_and_a_users_error_of_theirs_is_known(folder: Path) -> None:
    shown: list[Any] = []
    assert start(folder, "ranks", devices=2, on_progress=shown.append) == {"world": 2, "rank": "0"}
    assert shown == [{"done": 1, "total": 1}]
    with pytest.raises(ChildFailed) as failed:
        start(folder, "ranks", devices=2, options={"error": True})
    assert (str(failed.value), failed.value.retryable) == ("said by a rank", False)


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_ranks_under_torchrun_end_with_the_parent(folder: Path, number: int) -> None:
    (folder / "asked.json").write_text(json.dumps(job_of(folder, "ranks", wait=True)))
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    code = textwrap.dedent(PARENT).replace("folder, env=", "folder, devices=2, env=")
    parent = subprocess.Popen([sys.executable, "-c", code, str(folder), "main"], env=environment)
    family = pids(folder, "pid0") + pids(folder, "pid1")
    family += [child.pid for child in psutil.Process(parent.pid).children(recursive=True)]
    parent.send_signal(number)
    parent.wait(20)
    assert all_gone(family, 60)
