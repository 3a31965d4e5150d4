"""A stage that will take more than three times what was expected says so once, with the likely cause."""

from __future__ import annotations

import logging
import os
from pathlib import Path
from typing import Any

import psutil
import pytest

from pipeline_config.schema import StudentConfig
from tasks.launcher import pace as pace_module
from tasks.launcher.pace import Pace, likely_cause
from tasks.student.precision import Choice

SLOW, FAST = Choice("float32", "a processor", "it has none", 1e11), Choice("bfloat16", "a GPU", "it has", 1e12)


class Clock:
    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.start = self.now = 1000.0
        monkeypatch.setattr(pace_module.time, "monotonic", lambda: self.now)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    return Clock(monkeypatch)


def report(clock: Clock, pace: Pace, *reports: tuple[float, float], total: float = 1000) -> None:
    """(seconds since the test began, done) of each."""
    for seconds, done in reports:
        clock.now = clock.start + seconds
        pace.update(done, total)


def test_it_is_said_once_after_the_first_minute(clock: Clock) -> None:
    said: list[str] = []
    pace = Pace("sft", 300.0, lambda: "it is slow.", said.append)
    report(clock, pace, (0, 0), (30, 5), (59, 9))
    assert said == []
    report(clock, pace, (61, 20), (90, 30), (200, 60))
    assert len(said) == 1
    assert said[0].startswith(
        "sft: will take about 51 min; 5 min were expected of this machine. Likely cause: it is slow."
    )


@pytest.mark.parametrize(("done", "warns"), [(60, True), (70, False), (500, False)])
def test_three_times_is_the_bound(clock: Clock, done: float, warns: bool) -> None:
    """A thousand in 300 s are expected; 60 in 60 s make a thousand in 1,000 s."""
    said: list[str] = []
    report(clock, Pace("sft", 300.0, lambda: "", said.append), (0, 0), (60, done))
    assert bool(said) == warns


def test_what_an_earlier_attempt_did_does_not_count(clock: Clock) -> None:
    said: list[str] = []
    resumed = Pace("sft", 300.0, lambda: "", said.append)
    report(clock, resumed, (0, 900), (60, 910))
    assert len(said) == 1, "the last tenth, expected in 30 s, takes 600 s"


@pytest.fixture
def quiet(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "getloadavg", lambda: (1.0, 1.0, 1.0))
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(4)), raising=False)


def test_causes(quiet: None, monkeypatch: pytest.MonkeyPatch) -> None:
    assert "set it to auto" in likely_cause(StudentConfig(precision="bfloat16"), SLOW)
    assert "slower at this work" in likely_cause(StudentConfig(precision="bfloat16"), FAST)
    assert "student.threads is 1 on 4 processors" in likely_cause(StudentConfig(precision="float32", threads=1), SLOW)
    full: Any = type("Memory", (), {"percent": 95.0})
    monkeypatch.setattr(psutil, "virtual_memory", lambda: full)
    monkeypatch.setattr(psutil, "swap_memory", lambda: full)
    assert "swaps" in likely_cause(StudentConfig(precision="float32"), SLOW)
    monkeypatch.setattr(os, "getloadavg", lambda: (6.5, 1.0, 1.0))
    assert "load 6.5 on 4 processor(s)" in likely_cause(StudentConfig(precision="float32"), SLOW)


def test_a_stage_warns(
    clock: Clock,
    tables: dict[str, Path],
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A real stage of the shipped student, whose child reports a step a minute."""
    from data_contracts.refs import Ref, Run, digest_of
    from pipeline_config.schema import load_config
    from tasks.launcher import stage as stage_module
    from tasks.launcher.stage import open_stage

    def slow_child(*_: Any, on_progress: Any, **__: Any) -> dict[str, Any]:
        for step in range(4):
            on_progress({"done": step, "total": 1000})
            clock.now += 61
        return {}

    monkeypatch.setattr(stage_module, "run_child", slow_child)
    monkeypatch.setattr(stage_module, "choice_for", lambda home: SLOW)
    config = load_config("tiny", {"student.precision": "bfloat16"})
    path = tables["dialogues"]
    dialogues = Ref("dialogues", str(path), digest_of(path), 1)
    with (
        caplog.at_level(logging.WARNING, "prefect.task_runs.discern"),
        open_stage("sft", Run("run-1", str(tmp_path), ""), config, {"dialogues": dialogues}) as stage,
    ):
        stage.child("tasks.sft.train")
    warnings = [record.message for record in caplog.records if "will take about" in record.message]
    assert len(warnings) == 1
    assert "student.precision is bfloat16, which is slow on a processor" in warnings[0]
