"""The whole flow on the tiny configuration, as a command: what it leaves, and what a second run does not do again."""

from __future__ import annotations

import json
import re
import sys
from typing import Any

import duckdb
import pytest

STAGES = ["ingest", "annotate", "compress", "sft", "mine", "grpo", "evaluate", "promote"]
pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]


def test_every_stage_ran_and_left_its_numbers(finished: Any) -> None:
    summary = finished.summary()
    assert list(summary["stages"]) == STAGES
    assert all(facts["rows"] > 0 or stage in ("sft", "grpo") for stage, facts in summary["stages"].items())
    assert not any(facts["cached"] for facts in summary["stages"].values())
    assert {"base", "sft", "grpo", "constant", "swapped"} <= summary["students"].keys()
    for pair in ("sft - base", "sft - constant", "sft - swapped", "grpo - sft"):
        difference = summary["pairs"][pair]["composite"]
        assert difference["low"] <= difference["high"]
    assert summary["promotion"]["decision"] in ("promoted", "refused")


def test_a_training_prompt_is_traced_to_its_file_teacher_and_reward(finished: Any) -> None:
    with duckdb.connect(str(finished.home / "manifest.duckdb"), read_only=True) as lineage:
        rows = lineage.sql("SELECT * FROM ancestry LIMIT 1").df()
    assert len(rows) == 1
    assert {"dialogue_id", "question_id", "sample_id", "source_file", "reward"} <= set(rows.columns)


def test_the_chosen_precision_stands_in_log_mlflow_and_lineage(finished: Any) -> None:
    from mlflow import MlflowClient

    with duckdb.connect(str(finished.home / "manifest.duckdb"), read_only=True) as lineage:
        ((config,),) = lineage.sql("SELECT config FROM run WHERE config IS NOT NULL").fetchall()
    precision = json.loads(config)["student"]["precision"]
    assert precision in ("float32", "bfloat16")
    client = MlflowClient(f"sqlite:///{finished.home / 'mlflow.db'}")
    note = finished.home / "runs" / finished.summary()["run_id"] / "mlflow_run_id"
    run = client.get_run(note.read_text())
    assert run.data.params["student.precision"] == precision
    assert run.data.tags["precision"].startswith(f"student.precision: {precision}, chosen for")
    assert run.data.tags["precision"] in finished.output


def test_the_same_run_again_is_all_cache(finished: Any) -> None:
    before = finished.summary()
    again = finished.run(sys.executable, "-X", "importtime", "-m", "flows.full_pipeline", "--config", "tiny")
    assert again.returncode == 0, again.stdout[-4000:]
    after = finished.summary()
    assert all(facts["cached"] for facts in after["stages"].values()), after["stages"]
    assert after["students"] == before["students"]
    imported = set(re.findall(r"\|\s+([\w.]+)$", again.stderr, flags=re.MULTILINE))
    assert "prefect" in imported
    assert not imported & {"torch", "great_expectations", "transformers"}


def test_wrong_input_ends_in_one_clear_message(desk: Any) -> None:
    for arguments, said in (
        (["--set", "grpo.stepz=1"], "grpo.stepz"),
        (["--set", "ingest.sources.0.photographs=/no/such/folder"], "/no/such/folder"),
        (["--set", "student.model=/no/such/model"], "/no/such/model"),
    ):
        done = desk.flow("--config", "tiny", *arguments)
        assert done.returncode == 2, done.stdout[-3000:] + done.stderr[-3000:]
        assert said in done.stderr.strip().splitlines()[-1]
        assert not (desk.home / "summary.json").exists()
