"""A stage keeps its lineage row, MLflow run and cache entry, however it ends."""

from __future__ import annotations

import errno
import importlib
import logging
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from data_contracts.check import ContractError
from data_contracts.records import DIFFICULTY
from data_contracts.refs import Ref, Run
from pipeline_config.schema import ConfigError, PipelineConfig
from tasks.launcher.child import ChildFailed
from tasks.launcher.job import DiskFull
from tasks.launcher.stage import may_retry, open_stage, stage_facts, stage_options, stage_table
from tasks.launcher.terminal import Progress
from tasks.lineage.store import Lineage
from tasks.tracking.runs import Tracking

CONFIG = PipelineConfig.model_validate(
    {
        "name": "stage-test",
        "ingest": {"sources": [{"kind": "degrade", "name": "made"}]},
        "sft": {"optimiser": {"lr": 1e-4}},
        "grpo": {"optimiser": {"lr": 1e-5}},
    }
)
ROW = {
    "dialogue_id": "d1", "sub_task": "mcq", "num_rollouts": 1, "rewards": [0.5], "pass_rate": 0.5, "num_all_right": 0,
    "pool": "hard", "why": "neither", "completions": ["a"],
}  # fmt: skip
TABLE = pa.Table.from_pylist([ROW], schema=DIFFICULTY)


@pytest.fixture
def run(tmp_path: Path) -> Run:
    return Run("run-1", str(tmp_path), "")


def row_of(run: Run, stage: str = "mine") -> dict[str, Any]:
    row = Lineage(run.home).stage_run(run, stage)
    assert row is not None
    return row


def fail_with(run: Run, error: BaseException) -> None:
    with open_stage("mine", run, CONFIG, {}) as stage:
        stage.note(asked=3)
        raise error


def test_a_stage_that_ends_well_is_told_in_facts(run: Run) -> None:
    dialogues = Ref("dialogues", "/d.parquet", "digest", 4)
    with open_stage("mine", run, CONFIG, {"dialogues": dialogues, "champion": None}) as stage:
        stage.note(hard=1, share=None)
        ref = stage.publish_table("difficulty", TABLE, [{"id": "d2", "reason": "too long"}])
    facts = stage_facts(run, "mine", ref)
    assert (facts["rows"], facts["cached"], facts["quarantined"], facts["attempts"]) == (1, False, 1, 1)
    assert facts["seconds"] > 0
    assert (facts["dataset_id"], facts["kind"], facts["mlflow_url"]) == (ref.digest, "difficulty", None)
    assert facts["notes"] == {"hard": 1}
    assert ref.path == run.folder / "mine" / "difficulty.parquet"
    (shown,) = stage_table(facts)
    assert (shown["rows"], shown["quarantined"], shown["hard"], shown["taken from"]) == ("1", "1", "1", "")
    inputs = Lineage(run.home).read("SELECT name, dataset_id FROM input")
    assert inputs == [{"name": "dialogues", "dataset_id": "digest"}]


CHILD = """
from tasks.launcher.job import child_main
child_main(lambda job: {**job.to_dict(), "config": job.config.name})
"""


def test_a_child_gets_the_stages_inputs_folder_options_and_seed(
    run: Run, tmp_path: Path, tables: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "modules").mkdir()
    (tmp_path / "modules" / "some_child.py").write_text(CHILD)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "modules"))
    dialogues = Ref("dialogues", str(tables["dialogues"]), "digest", 12)
    with open_stage("mine", run, CONFIG.model_copy(update={"seed": 11}), {"dialogues": dialogues}) as stage:
        facts = stage.child("some_child", {"wanted": 2}, name="first")
    folder = run.folder / "mine" / "first"
    assert facts == {
        "config": "stage-test", "inputs": {"dialogues": dialogues.uri}, "out": str(folder / "out"),
        "folder": str(folder), "seed": 11, "options": {"wanted": 2},
    }  # fmt: skip


def test_a_failure_is_recorded_with_its_reason(run: Run) -> None:
    with pytest.raises(ContractError):
        fail_with(run, ContractError("dialogues: d1: prompt is empty\nand more"))
    row = row_of(run)
    assert (row["state"], row["reason"], row["facts"]) == ("failed", "dialogues: d1: prompt is empty", {"asked": 3})


def test_being_told_to_stop_is_recorded_as_such(run: Run) -> None:
    with pytest.raises(KeyboardInterrupt):
        fail_with(run, KeyboardInterrupt())
    assert row_of(run)["state"] == "cancelled"


def test_a_disk_that_fills_up_anywhere_in_a_stage_is_named(run: Run) -> None:
    with pytest.raises(DiskFull, match=r"^/media/a.png: no room left"):
        fail_with(run, OSError(errno.ENOSPC, "No space left on device", "/media/a.png"))
    assert row_of(run)["reason"].startswith("/media/a.png: no room left")


@pytest.mark.slow
def test_an_mlflow_run_is_gone_on_with_on_a_retry(run: Run) -> None:
    tracking = Tracking(run.home, CONFIG.tracking)
    tracked = Run("run-1", run.home, tracking.start_run("stage-test"))
    with pytest.raises(RuntimeError):
        fail_with(tracked, RuntimeError("lost"))
    first = row_of(tracked)["mlflow_run_id"]
    assert tracking.client.get_run(first).info.status == "FAILED"
    with open_stage("mine", tracked, CONFIG, {}) as stage:
        stage.log_metrics({"pass_rate": 0.5}, step=3)
        (stage.folder / "plot.png").write_bytes(b"png")
        stage.log_artifact(stage.folder / "plot.png")
        ref = stage.publish_table("difficulty", TABLE)
    facts = stage_facts(tracked, "mine", ref)
    assert (facts["mlflow_run_id"], facts["attempts"]) == (first, 2)
    assert facts["mlflow_url"].endswith(first)
    kept = tracking.client.get_run(first)
    assert (kept.info.status, kept.data.metrics["pass_rate"]) == ("FINISHED", 0.5)
    assert kept.data.params["mine.num_rollouts"] == "8"
    assert kept.data.tags["mlflow.parentRunId"] == tracked.mlflow_run_id
    assert ref.digest in {entry.dataset.digest for entry in kept.inputs.dataset_inputs}
    assert [a.path for a in tracking.client.list_artifacts(first)] == ["plot.png"]


class State:
    """What Prefect hands to the retry rule, as far as the rule looks at it."""

    def __init__(self, data: object) -> None:
        self.data = data


@pytest.mark.parametrize(
    ("error", "retried"),
    [
        (ConfigError("x"), False),
        (ContractError("x"), False),
        (DiskFull("x"), False),
        (ChildFailed("x", 2, False, []), False),
        (ChildFailed("x", -9, True, []), True),
        (TimeoutError("x"), True),
    ],
)
def test_the_retry_rule(error: Exception, retried: bool) -> None:
    assert may_retry(None, None, State(error)) is retried


def test_an_unknown_stage_says_where_to_declare_it() -> None:
    with pytest.raises(AssertionError, match=r"tasks/launcher/cache.py"):
        stage_options("polish")


def test_without_a_terminal_progress_is_a_line_now_and_then(caplog: pytest.LogCaptureFixture) -> None:
    logger = logging.getLogger("test-progress")
    with caplog.at_level(logging.INFO, logger="test-progress"), Progress("mine", logger) as progress:
        for done in range(1, 101):
            progress.update(done, 100, loss=0.5, note="words are left out")  # type: ignore[arg-type]
    assert [record.message for record in caplog.records] == ["mine: 100 of 100 loss 0.5"]


def test_in_a_terminal_progress_is_a_bar_with_the_time_left(monkeypatch: pytest.MonkeyPatch) -> None:
    from rich.console import Console

    console = Console(force_terminal=True, width=100, record=True, file=open("/dev/null", "w"))  # noqa: PTH123, SIM115
    monkeypatch.setattr("tasks.launcher.terminal._console", lambda: console)
    logger = logging.getLogger("test-progress")
    with Progress("mine", logger) as progress, Progress("grpo", logger) as second:
        progress.update(40, 100, loss=0.5)
        second.update(1, 2)  # one bar at a time
        progress._bar.refresh()
    shown = console.export_text()
    assert "mine" in shown
    assert "40/100" in shown
    assert "loss 0.5" in shown
    assert "grpo" not in shown
    with Progress("grpo", logger) as again:
        again.update(1, 2)
        assert again._bar is not None


@pytest.mark.parametrize(("stage", "num_inputs"), [("sft", 1), ("mine", 2), ("grpo", 3), ("evaluate", 3)])
def test_every_stage_of_a_student_starts_a_process_per_device(
    stage: str, num_inputs: int, run: Run, tables: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    started: list[tuple[str, int]] = []

    def start(module: str, job: Any, folder: Path, *, devices: int = 1, **rest: Any) -> dict[str, Any]:
        started.append((module, devices))
        raise ConfigError("seen enough")

    monkeypatch.setattr("tasks.launcher.stage.run_child", start)
    config = CONFIG.model_copy(update={"student": CONFIG.student.model_copy(update={"devices": 3})})
    task = getattr(importlib.import_module(f"tasks.{stage}.task"), stage)
    with pytest.raises(ConfigError, match="seen enough"):
        task.fn(run, config, *[Ref("dialogues", str(tables["dialogues"]), "digest", 12)] * num_inputs)
    assert [devices for _, devices in started] == [3]
