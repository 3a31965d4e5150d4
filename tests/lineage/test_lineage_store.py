"""The lineage records once what is told twice, from many processes at once, and survives a killed writer."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import duckdb
import pytest

from data_contracts.refs import Ref, Run
from tasks.lineage.store import Lineage, LineageBusy, stage_run_id

WRITER = """
import sys
from data_contracts.refs import Ref, Run
from tasks.lineage.store import Lineage
home, who = sys.argv[1], int(sys.argv[2])
lineage = Lineage(home)
for number in range(3):
    run = Run(f"run-{who}-{number}", home, "m")
    lineage.record_run(run, "tiny", {}, 0)
    stage = lineage.record_stage(run, "ingest", {}, "source")
    lineage.record_dataset(stage, Ref("samples", f"{home}/{who}-{number}.parquet", f"digest-{who}-{number}", 1))
    lineage.record_dataset(stage, Ref("media", f"{home}/shared", "the same content", 0))
    lineage.end_stage(stage, "complete", 1.0, {})
"""


@pytest.fixture
def lineage(tmp_path: Path) -> Lineage:
    return Lineage(tmp_path)


@pytest.fixture
def run(tmp_path: Path) -> Run:
    return Run("run-1", str(tmp_path), "mlflow-parent")


def ref(run: Run, kind: str, digest: str | None = None, rows: int = 3) -> Ref:
    return Ref(kind, f"{run.home}/{kind}.parquet", digest or f"digest of {kind}", rows)


def test_a_stage_tried_again_is_one_run_with_two_attempts(lineage: Lineage, run: Run) -> None:
    lineage.record_run(run, "tiny", {"seed": 3}, 3)
    samples, annotations = ref(run, "samples"), ref(run, "annotations")
    first = lineage.record_stage(run, "annotate", {"samples": samples}, "source-1", "mlflow-child")
    lineage.end_stage(first, "failed", 2.0, {"asked": 1}, "the teacher did not answer")
    assert (lineage.stage_run(run, "annotate") or {})["reason"] == "the teacher did not answer"

    second = lineage.record_stage(run, "annotate", {"samples": samples}, "source-1", "mlflow-child")
    for _ in range(2):
        lineage.record_dataset(second, annotations)
        lineage.record_quarantine(second, "annotations", [{"id": "q1", "reason": "no"}], "q.parquet")
    lineage.end_stage(second, "complete", 3.0, {"asked": 5})

    assert first == second == stage_run_id("run-1", "annotate")
    row = lineage.stage_run(run, "annotate")
    assert row is not None
    assert (row["state"], row["attempts"], row["seconds"], row["reason"]) == ("complete", 2, 5.0, None)
    assert (row["facts"], row["num_quarantined"], row["mlflow_run_id"]) == ({"asked": 5}, 1, "mlflow-child")
    counts = {
        table: lineage.read(f"SELECT count(*) AS n FROM {table}")[0]["n"]
        for table in ("job", "run", "dataset", "input", "output", "quarantined")
    }
    assert counts == {"job": 1, "run": 2, "dataset": 2, "input": 1, "output": 1, "quarantined": 1}


def test_publishing_again_replaces_what_was_published_and_left_out(lineage: Lineage, run: Run) -> None:
    stage = lineage.record_stage(run, "compress", {}, "source")
    lineage.record_dataset(stage, ref(run, "dialogues", "old"))
    lineage.record_quarantine(stage, "dialogues", [{"id": "a", "reason": "x"}, {"id": "b", "reason": "x"}], "q")
    lineage.record_dataset(stage, ref(run, "dialogues", "new"))
    lineage.record_quarantine(stage, "dialogues", [{"id": "a", "reason": "x", "column": "prompt", "value": 3}], "q")
    assert [row["dataset_id"] for row in lineage.read("SELECT * FROM output")] == ["new"]
    rows = lineage.read("SELECT row_id, column_name, value FROM quarantined")
    assert rows == [{"row_id": "a", "column_name": "prompt", "value": "3"}]


def test_a_cached_stage_points_to_the_run_that_made_its_output(lineage: Lineage, run: Run) -> None:
    annotations, dialogues = ref(run, "annotations"), ref(run, "dialogues")
    lineage.record_run(run, "tiny", {}, 0)
    made = lineage.record_stage(run, "compress", {"annotations": annotations}, "source", "mlflow-child")
    lineage.record_dataset(made, dialogues)
    lineage.record_dataset(made, ref(run, "beside"))
    lineage.end_stage(made, "complete", 7.0, {"merged": 9})

    later = Run("run-2", run.home, "mlflow-2")
    lineage.record_run(later, "tiny", {}, 0)
    for _ in range(2):
        lineage.record_reuse(later, "compress", dialogues)
    row = lineage.stage_run(later, "compress")
    assert row is not None
    assert (row["state"], row["seconds"], row["reused_run_id"]) == ("cached", 0.0, made)
    assert (row["made_by_run_id"], row["made_in_seconds"], row["mlflow_run_id"]) == ("run-1", 7.0, "mlflow-child")
    assert row["facts"] == {"merged": 9}
    again = lineage.read("SELECT kind FROM output WHERE run_id = ? ORDER BY kind", [row["run_id"]])
    assert [entry["kind"] for entry in again] == ["beside", "dialogues"]
    assert lineage.read("SELECT name FROM input WHERE run_id = ?", [row["run_id"]]) == [{"name": "annotations"}]
    # A third run reuses from the maker, not from the one that reused.
    third = Run("run-3", run.home, "mlflow-3")
    lineage.record_reuse(third, "compress", dialogues)
    assert (lineage.stage_run(third, "compress") or {})["reused_run_id"] == made


def test_processes_that_write_at_once_lose_nothing(tmp_path: Path) -> None:
    writers = [
        subprocess.Popen([sys.executable, "-c", WRITER, str(tmp_path), str(who)], stderr=subprocess.PIPE)
        for who in range(3)
    ]
    for writer in writers:
        _, complaints = writer.communicate(timeout=120)
        assert writer.returncode == 0, complaints.decode()
    lineage = Lineage(tmp_path)
    stages = lineage.read("SELECT count(*) AS n FROM run WHERE parent_run_id IS NOT NULL AND state = 'complete'")
    assert stages == [{"n": 9}]
    assert lineage.read("SELECT count(*) AS n FROM dataset") == [{"n": 10}]
    assert lineage.read("SELECT count(*) AS n FROM output") == [{"n": 18}]


def test_threads_of_one_process_may_write_at_once(lineage: Lineage, run: Run) -> None:
    threads = [threading.Thread(target=lineage.record_stage, args=(run, f"stage-{i}", {}, "source")) for i in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert lineage.read("SELECT count(*) AS n FROM run") == [{"n": 8}]


def test_a_writer_killed_within_its_transaction_leaves_the_lineage_usable(lineage: Lineage, run: Run) -> None:
    lineage.record_run(run, "tiny", {}, 0)
    pid = os.fork()
    if pid == 0:
        with lineage.connection() as connection:
            connection.execute("UPDATE run SET name = 'half'")
            os.kill(os.getpid(), signal.SIGKILL)
    os.waitpid(pid, 0)
    assert lineage.read("SELECT name FROM run") == [{"name": "tiny"}]


def test_a_call_that_fails_records_nothing(lineage: Lineage, run: Run) -> None:
    lineage.record_run(run, "tiny", {}, 0)

    def fail_half_way() -> None:
        with lineage.connection() as connection:
            connection.execute("UPDATE run SET name = 'half'")
            raise ValueError("half way")

    with pytest.raises(ValueError, match="half way"):
        fail_half_way()
    assert lineage.read("SELECT name FROM run") == [{"name": "tiny"}]


def test_who_holds_the_private_file_is_waited_for_then_named(tmp_path: Path) -> None:
    lineage = Lineage(tmp_path, patience=0.3)
    lineage.record_run(Run("run-1", str(tmp_path), ""), "tiny", {}, 0)
    code = (
        "import duckdb, sys, time\n"
        "held = duckdb.connect(sys.argv[1])\n"
        "print('open', flush=True)\n"
        "time.sleep(float(sys.argv[2]))"
    )
    holder = subprocess.Popen([sys.executable, "-c", code, str(lineage.path), "60"], stdout=subprocess.PIPE)
    assert holder.stdout is not None
    holder.stdout.readline()
    try:
        with pytest.raises(LineageBusy, match=r"manifest\.duckdb"):
            lineage.read("SELECT 1")
    finally:
        holder.kill()
        holder.communicate()
    assert lineage.read("SELECT count(*) AS n FROM run") == [{"n": 1}]

    shortly = subprocess.Popen([sys.executable, "-c", code, str(lineage.path), "1"], stdout=subprocess.PIPE)
    assert shortly.stdout is not None
    shortly.stdout.readline()
    started = time.monotonic()
    assert Lineage(tmp_path).read("SELECT count(*) AS n FROM run") == [{"n": 1}]
    assert time.monotonic() - started < 30
    shortly.communicate()


def test_the_private_file_is_a_plain_duckdb_file(lineage: Lineage, run: Run) -> None:
    lineage.record_run(run, "tiny", {}, 0)
    with duckdb.connect(str(lineage.path), read_only=True) as connection:
        assert connection.execute("SELECT name FROM run").fetchall() == [("tiny",)]
