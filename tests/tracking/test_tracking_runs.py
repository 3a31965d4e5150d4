"""MLflow holds a run's tree, our digests, metrics and artifacts, in a store under the home."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
from pathlib import Path

import pytest

from data_contracts.refs import Ref
from pipeline_config.schema import TrackingConfig
from tasks.tracking.runs import Call, MetricPoint, Tracking, tracking_uri

STARTER = """
import sys
from pipeline_config.schema import TrackingConfig
from tasks.tracking.runs import Tracking
tracking = Tracking(sys.argv[1], TrackingConfig())
print(tracking.start_run("r"))
"""


@pytest.fixture(scope="module")
def tracking(tmp_path_factory: pytest.TempPathFactory) -> Tracking:
    return Tracking(tmp_path_factory.mktemp("home"), TrackingConfig())


def test_importing_the_module_and_asking_for_the_uri_imports_no_mlflow(tmp_path: Path) -> None:
    code = (
        "import sys; from tasks.tracking.runs import *; from pipeline_config.schema import TrackingConfig\n"
        "print(Tracking(sys.argv[1], TrackingConfig()).uri); sys.exit('mlflow' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True, check=False)
    assert done.returncode == 0
    assert done.stdout.strip() == f"sqlite:///{tmp_path}/mlflow.db"


def test_a_configured_store_wins(tmp_path: Path) -> None:
    assert tracking_uri(tmp_path, TrackingConfig(uri="http://tracker:5000")) == "http://tracker:5000"


def test_a_stage_is_a_child_and_a_retry_goes_on_with_it(tracking: Tracking) -> None:
    parent = tracking.start_run("demo", {"discern.run_id": "run-1"})
    child = tracking.start_stage(parent, "sft")
    tracking.end(child, "FAILED")
    assert tracking.client.get_run(child).info.status == "FAILED"
    assert tracking.start_stage(parent, "sft", run_id=child) == child
    assert tracking.client.get_run(child).info.status == "RUNNING"
    tracking.end(child)
    run = tracking.client.get_run(child)
    assert run.info.status == "FINISHED"
    assert run.data.tags["mlflow.parentRunId"] == parent
    assert tracking.client.get_run(parent).data.tags["discern.run_id"] == "run-1"
    assert tracking.url(child).endswith(f"/runs/{child}")


def test_a_dataset_stands_under_our_digest(tracking: Tracking, tmp_path: Path) -> None:
    run = tracking.start_run("demo")
    ref = Ref("dialogues", str(tmp_path / "dialogues.parquet"), "0123456789abcdef0123456789abcdef", 42)
    for _ in range(2):
        tracking.log_dataset(run, ref, "output")
    (entry,) = tracking.client.get_run(run).inputs.dataset_inputs
    assert (entry.dataset.name, entry.dataset.digest) == ("dialogues", ref.digest)
    assert json.loads(entry.dataset.source) == {"uri": ref.uri}
    assert {tag.key: tag.value for tag in entry.tags} == {"mlflow.data.context": "output"}


def test_metrics_params_and_artifacts_are_kept(tracking: Tracking, tmp_path: Path) -> None:
    run = tracking.start_run("demo")
    points = [MetricPoint("loss", 1 / (step + 1), step) for step in range(1500)] + [MetricPoint("rate", math.nan, 3)]
    tracking.log_metrics(run, points)
    tracking.log_params(run, {"sft": {"epochs": 1.0, "optimiser": {"lr": 1e-5}}, "long": "x" * 9000})
    file = tmp_path / "report.html"
    file.write_text("<p>fine</p>")
    folder = tmp_path / "plots"
    folder.mkdir()
    (folder / "a.png").write_bytes(b"png")
    tracking.log_artifact(run, file)
    tracking.log_artifact(run, folder)

    data = tracking.client.get_run(run).data
    assert len(tracking.client.get_metric_history(run, "loss")) == 1500
    assert data.metrics["loss"] == pytest.approx(1 / 1500)
    assert math.isnan(data.metrics["rate"])
    assert (data.params["sft.epochs"], data.params["sft.optimiser.lr"]) == ("1.0", "1e-05")
    artifacts = tracking.home / "mlartifacts" / "discern" / run / "artifacts"
    assert (artifacts / "report.html").read_text() == "<p>fine</p>"
    assert (artifacts / "plots" / "a.png").read_bytes() == b"png"


@pytest.mark.slow
def test_a_trace_belongs_to_its_run_and_is_there_at_once(tracking: Tracking) -> None:
    run_id = tracking.start_run("demo")
    attributes = {"cost": 0.5, "attempt": 1}
    tracking.log_trace(run_id, Call("judge-1", {"prompt": "Which?"}, {"text": "B"}, attributes, seconds=2.0))
    [trace] = tracking.client.search_traces(locations=[tracking.experiment_id], run_id=run_id)
    [span] = trace.data.spans
    assert (span.name, span.inputs, span.outputs) == ("judge-1", {"prompt": "Which?"}, {"text": "B"})
    assert span.attributes["cost"] == 0.5
    assert trace.info.execution_duration == pytest.approx(2_000, abs=1)


def test_processes_that_start_on_an_empty_home_share_one_store(tmp_path: Path) -> None:
    environment = {**os.environ, "PYTHONPATH": str(Path.cwd())}
    starters = [
        subprocess.Popen(
            [sys.executable, "-c", STARTER, str(tmp_path / "home")],
            cwd=tmp_path, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )
        for _ in range(3)
    ]  # fmt: skip
    said = [starter.communicate(timeout=200) for starter in starters]
    assert [starter.returncode for starter in starters] == [0, 0, 0], said
    runs = {out.strip() for out, _ in said}
    assert len(runs) == 3
    found = Tracking(tmp_path / "home", TrackingConfig())
    assert {found.client.get_run(run).info.experiment_id for run in runs} == {found.experiment_id}
    assert [path.name for path in tmp_path.iterdir()] == ["home"]
