"""Stages as Prefect runs them: cached while their files hold, retried after a crash, never after a user's error."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import duckdb
import psutil
import pyarrow as pa
import pytest

from data_contracts.check import ContractError
from data_contracts.records import ANNOTATIONS, DIALOGUES
from data_contracts.refs import Ref, Run
from pipeline_config.schema import PipelineConfig
from tasks.launcher.child import ChildFailed
from tasks.launcher.source import ROOT
from tasks.launcher.stage import open_stage, result_storage, stage_facts, stage_options, stage_table
from tasks.lineage.store import Lineage
from tasks.tracking.runs import Tracking

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

CHILD = """
import json, os, signal
from tasks.launcher.job import child_main, progress
from tasks.tracking.log import MetricLog
from pipeline_config.schema import ConfigError

def run(job):
    tried = job.folder / "tried"
    attempt = int(tried.read_text()) + 1 if tried.exists() else 1
    tried.write_text(str(attempt))
    if job.options["how"] == "refused":
        raise ConfigError("student.model: /nowhere: no such checkpoint; name one that exists")
    if attempt == 1:
        MetricLog().log({"loss": 2.0}, 1)
        os.kill(os.getpid(), signal.SIGKILL)
    MetricLog().log({"loss": 1.0}, 2)
    progress(2, 2, loss=1.0)
    job.out.mkdir(exist_ok=True)
    (job.out / "model.safetensors").write_text("weights")
    return {"attempt": attempt, "mlflow_run_id": os.environ["MLFLOW_RUN_ID"]}

child_main(run)
"""


# A flow as its own process; argv: home, how the stage is called. PYTHONPATH leads to the child.
FLOW = """
import json, sys
from prefect import flow, task
from data_contracts.refs import Ref, Run
from pipeline_config.schema import PipelineConfig
from tasks.launcher.child import children_end_with
from tasks.launcher.stage import open_stage, stage_options

home, how = sys.argv[1:3]
config = PipelineConfig.model_validate(json.loads(sys.argv[3]))

@task(**stage_options("sft"))
def sft(run: Run, config: PipelineConfig) -> Ref:
    with open_stage("sft", run, config, {}) as stage:
        stage.child("prefect_test_family")

@flow(name="to-be-cancelled")
def body():
    with children_end_with():
        if how == "submitted":
            sft.submit(Run("run-1", home, ""), config).result()
        else:
            sft(Run("run-1", home, ""), config)

body()
"""
FAMILY = """
import os, subprocess, sys, time
from tasks.launcher.job import child_main

def run(job):
    (job.folder / "checkpoint").write_text("kept")
    other = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(300)"])
    (job.folder / "pids").write_text(f"{os.getpid()} {other.pid}")
    time.sleep(300)

child_main(run)
"""


def settings(**changes: Any) -> PipelineConfig:
    tree = {
        "name": "prefect-test",
        "ingest": {"sources": [{"kind": "degrade", "name": "made"}]},
        "sft": {"optimiser": {"lr": 1e-4}},
        "grpo": {"optimiser": {"lr": 1e-5}},
        **changes,
    }
    return PipelineConfig.model_validate(tree)


def annotation(number: int) -> dict[str, Any]:
    return {
        "question_id": f"q{number}", "category": "perception", "sub_task": "qa", "kind": "qa",
        "problem_type": "free_form", "question": "which?", "options": [], "answer": "Noise", "sample_id": "s1",
        "media_path": "/m/1.png", "source_photograph": "a", "split": "train", "tries": 0,
    }  # fmt: skip


def dialogue(number: int, **changes: Any) -> dict[str, Any]:
    pair = {
        "question_id": f"q{number}", "sub_task": "qa", "kind": "qa", "problem_type": "free_form",
        "question": "which?", "options": [], "answer": "Noise",
    }  # fmt: skip
    return {
        "dialogue_id": f"d{number}", "sample_id": "s1", "media_path": "/m/1.png", "source_photograph": "a",
        "split": "train", "sub_task": "qa", "prompt": "which?", "response": "<think></think><answer>Noise</answer>",
        "merged_from": [f"q{number}"], "pairs": [pair], "num_pairs": 1, "num_tokens": 9, **changes,
    }  # fmt: skip


@pytest.fixture(scope="module")
def prefect_server() -> Iterator[None]:
    os.environ.setdefault("PREFECT_SERVER_ANALYTICS_ENABLED", "false")
    from prefect.testing.utilities import prefect_test_harness

    with prefect_test_harness(server_startup_timeout=180):
        yield


class Pipeline:
    """Two tiny data stages and a training stage, with the options of real ones; counts what really runs."""

    def __init__(self, home: Path) -> None:
        from prefect import task

        self.home = home
        self.ran: list[str] = []
        self.rows = [dialogue(1), dialogue(2)]
        self.how = "trained"

        @task(**stage_options("annotate"))
        def annotate(run: Run, config: PipelineConfig, samples: Ref | None = None) -> Ref:
            with open_stage("annotate", run, config, {"samples": samples}) as stage:
                self.ran.append("annotate")
                stage.note(asked=2)
                table = pa.Table.from_pylist([annotation(1), annotation(2)], schema=ANNOTATIONS)
                return stage.publish_table("annotations", table, [{"id": "q3", "reason": "no agreement"}])

        @task(**stage_options("compress"))
        def compress(run: Run, config: PipelineConfig, annotations: Ref) -> Ref:
            with open_stage("compress", run, config, {"annotations": annotations}) as stage:
                self.ran.append("compress")
                return stage.publish_table("dialogues", pa.Table.from_pylist(self.rows, schema=DIALOGUES))

        @task(**{**stage_options("sft"), "retry_delay_seconds": [0, 0, 0]})
        def sft(run: Run, config: PipelineConfig, dialogues: Ref) -> Ref:
            with open_stage("sft", run, config, {"dialogues": dialogues}) as stage:
                self.ran.append("sft")
                stage.note(**stage.child("prefect_test_child", {"how": self.how}))
                return stage.publish_folder("student", stage.folder / "prefect_test_child" / "out")

        self.stages = {"annotate": annotate, "compress": compress, "sft": sft}

    def run(self, name: str, config: PipelineConfig, upto: str = "compress", tracked: bool = False) -> dict[str, Any]:
        """One run, as the flows do it; returns the stages' facts and notes in `ran` what was not cached."""
        from prefect import flow

        parent = Tracking(self.home, config.tracking).start_run(name) if tracked else ""
        run = Run(name, str(self.home), parent)
        self.ran.clear()
        stored = {
            stage: task.with_options(result_storage=result_storage(self.home)) for stage, task in self.stages.items()
        }

        @flow(name="launcher-test")
        def body() -> dict[str, Any]:
            refs = {"annotate": stored["annotate"](run, config)}
            refs["compress"] = stored["compress"](run, config, refs["annotate"])
            if upto == "sft":
                refs["sft"] = stored["sft"](run, config, refs["compress"])
            facts = {stage: stage_facts(run, stage, ref) for stage, ref in refs.items()}
            Lineage(self.home).snapshot()
            return facts

        return dict(body())


@pytest.fixture
def pipeline(prefect_server: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Pipeline:
    (tmp_path / "prefect_test_child.py").write_text(CHILD)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    return Pipeline(tmp_path / "home")


def test_the_same_run_again_is_cached_and_recorded_as_reuse(pipeline: Pipeline) -> None:
    first = pipeline.run("first", settings())
    assert pipeline.ran == ["annotate", "compress"]
    again = pipeline.run("again", settings(name="renamed"))
    assert pipeline.ran == []
    assert (again["annotate"]["cached"], again["annotate"]["seconds"], again["annotate"]["rows"]) == (True, 0.0, 2)
    assert (again["annotate"]["made_by_run"], again["annotate"]["quarantined"]) == ("first", 1)
    assert again["annotate"]["notes"] == {"asked": 2}
    assert stage_table(again["annotate"])[0]["taken from"].startswith("run first, ")
    assert (first["annotate"]["cached"], first["annotate"]["attempts"]) == (False, 1)
    assert again["compress"]["uri"] == first["compress"]["uri"]
    with duckdb.connect(str(pipeline.home / "manifest.duckdb"), read_only=True) as lineage:
        states = lineage.execute("SELECT run_id, stage, state FROM stage_runs ORDER BY ALL").fetchall()
        traced = lineage.execute("SELECT question_id FROM ancestry WHERE dialogue_id = 'd2'").fetchall()
    assert states == []  # no pipeline run was recorded: the flows do that
    assert traced == [("q2",)]
    kept = {path.name for path in result_storage(pipeline.home).iterdir()}
    assert {name.partition("-")[0] for name in kept} == {"annotate", "compress"}


def drop_file(facts: dict[str, Any]) -> None:
    Path(facts["compress"]["uri"]).unlink()


def spoil_file(facts: dict[str, Any]) -> None:
    path = Path(facts["compress"]["uri"])
    times = path.stat()
    content = path.read_bytes()
    path.write_bytes(content[:-9] + b"x" + content[-8:])
    os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))


def drop_run(facts: dict[str, Any]) -> None:
    shutil.rmtree(Path(facts["compress"]["uri"]).parents[1])


@pytest.mark.parametrize(
    ("spoil", "runs_again"),
    [(drop_file, ["compress"]), (spoil_file, ["compress"]), (drop_run, ["annotate", "compress"])],
)
def test_a_hit_counts_only_while_the_file_holds(
    pipeline: Pipeline, spoil: Callable[[dict[str, Any]], None], runs_again: list[str]
) -> None:
    first = pipeline.run("first", settings())
    spoil(first)
    again = pipeline.run("again", settings())
    assert pipeline.ran == runs_again
    assert again["compress"]["dataset_id"] == first["compress"]["dataset_id"]
    pipeline.run("third", settings())
    assert pipeline.ran == []


def test_a_setting_reaches_the_stages_that_read_it(pipeline: Pipeline) -> None:
    pipeline.run("first", settings())
    pipeline.run("second", settings(compress={"max_pairs": 3}))
    assert pipeline.ran == ["compress"]
    pipeline.run("third", settings(grpo={"optimiser": {"lr": 3e-5}}))
    assert pipeline.ran == []
    pipeline.run("fourth", settings(seed=1))
    assert pipeline.ran == ["annotate", "compress"]


def test_a_broken_contract_is_not_retried_and_leaves_nothing_published(pipeline: Pipeline) -> None:
    pipeline.rows = [dialogue(1, prompt=" "), dialogue(2, split="other")]
    with pytest.raises(ContractError, match="not one of 2 rows meets the contract; first: d1: prompt"):
        pipeline.run("broken", settings())
    assert pipeline.ran == ["annotate", "compress"]
    folder = pipeline.home / "runs" / "broken" / "compress"
    assert not (folder / "dialogues.parquet").exists()
    assert (folder / "quarantine" / "dialogues.parquet").exists()


def test_a_killed_child_is_retried_in_one_row_and_one_mlflow_run(pipeline: Pipeline) -> None:
    facts = pipeline.run("killed", settings(), upto="sft", tracked=True)["sft"]
    assert pipeline.ran == ["annotate", "compress", "sft", "sft"]
    assert (facts["attempts"], facts["notes"]["attempt"]) == (2, 2)
    assert facts["notes"]["mlflow_run_id"] == facts["mlflow_run_id"]
    tracking = Tracking(pipeline.home, settings().tracking)
    runs = tracking.client.search_runs([tracking.experiment_id], "tags.stage = 'sft'")
    assert [run.info.run_id for run in runs] == [facts["mlflow_run_id"]]
    assert runs[0].info.status == "FINISHED"
    history = tracking.client.get_metric_history(facts["mlflow_run_id"], "loss")
    assert sorted((metric.step, metric.value) for metric in history) == [(1, 2.0), (2, 1.0)]
    digests = {entry.dataset.digest for entry in runs[0].inputs.dataset_inputs}
    assert facts["dataset_id"] in digests
    assert json.loads(runs[0].inputs.dataset_inputs[0].dataset.source)["uri"].startswith(str(pipeline.home))
    with duckdb.connect(str(pipeline.home / "manifest.duckdb"), read_only=True) as lineage:
        rows = lineage.execute("SELECT state, attempts FROM run WHERE name = 'sft'").fetchall()
    assert rows == [("complete", 2)]


def test_a_users_error_in_the_child_is_not_retried(pipeline: Pipeline) -> None:
    pipeline.how = "refused"
    with pytest.raises(ChildFailed, match=r"^student.model: /nowhere: no such checkpoint"):
        pipeline.run("refused", settings(), upto="sft")
    assert pipeline.ran == ["annotate", "compress", "sft"]


@pytest.mark.parametrize("how", ["called", "submitted"])
def test_sigterm_ends_the_stages_children_and_keeps_the_checkpoint(
    pipeline: Pipeline, tmp_path: Path, how: str
) -> None:
    from prefect.settings import PREFECT_API_URL

    (tmp_path / "prefect_test_family.py").write_text(FAMILY)
    environment = {
        **os.environ,
        "PREFECT_API_URL": str(PREFECT_API_URL.value()),
        "PYTHONPATH": os.pathsep.join([str(ROOT), str(tmp_path)]),
    }
    asked = [sys.executable, "-c", FLOW, str(pipeline.home), how, settings().model_dump_json()]
    flow = subprocess.Popen(asked, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    folder = pipeline.home / "runs" / "run-1" / "sft" / "prefect_test_family"
    deadline = time.monotonic() + 200
    while not (folder / "pids").exists():
        assert flow.poll() is None, flow.communicate()[0].decode()[-3000:]
        assert time.monotonic() < deadline
        time.sleep(0.1)
    time.sleep(0.5)
    family = [psutil.Process(int(pid)) for pid in (folder / "pids").read_text().split()]
    flow.send_signal(signal.SIGTERM)
    said = flow.communicate(timeout=100)[0].decode()
    assert flow.returncode != 0
    _, alive = psutil.wait_procs(family, timeout=20)
    assert alive == [], said[-3000:]
    assert (folder / "checkpoint").read_text() == "kept"
    row = Lineage(pipeline.home).stage_run(Run("run-1", str(pipeline.home), ""), "sft")
    assert row is not None
    # In a thread the stage sees its child ended by a signal; in the main thread it is told itself.
    assert row["state"] == ("cancelled" if how == "called" else "failed"), said[-3000:]
    assert row["attempts"] == 1
