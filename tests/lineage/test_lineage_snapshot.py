"""Analysts' snapshot: it answers while a run is writing, and leads any row back to its file and its annotation."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from data_contracts.records import SCHEMAS
from data_contracts.refs import Ref, Run, digest_of
from tasks.lineage.snapshot import KEPT, VIEW_NAMES, VIEWS, snapshot
from tasks.lineage.store import Lineage

# Only the columns that the views look at; the others are null.
ROWS: dict[str, list[dict[str, Any]]] = {
    "samples": [
        {"sample_id": "s1", "media_path": "/m/1.png", "source": "made", "source_file": "/p/a.png", "split": "train"},
        {"sample_id": "s2", "media_path": "/m/2.png", "source_file": "/v/b.json", "source_row": 4, "split": "test"},
    ],
    "annotations": [
        {
            "question_id": "q1",
            "sub_task": "mcq",
            "answer": "B",
            "teacher": "measured",
            "reasoning": "grain",
            "tries": 2,
            "reward": 1.0,
            "source_row": 7,
            "cost": 0.5,
            "prompt_tokens": 10,
        },
        {
            "question_id": "q2",
            "sub_task": "mcq",
            "answer": "A",
            "teacher": "measured",
            "reward": 0.0,
            "tries": 3,
            "cost": 0.25,
            "prompt_tokens": 30,
        },
        {"question_id": "q3", "sub_task": "qa", "answer": "Noise", "split": "test", "tries": 0},
    ],
    "dialogues": [
        {"dialogue_id": "d1", "sample_id": "s1", "split": "train", "merged_from": ["q2", "q1"], "prompt": "1. 2."},
        {"dialogue_id": "d2", "sample_id": "s2", "split": "test", "merged_from": ["q3"]},
    ],
    "difficulty": [
        {
            "dialogue_id": "d1",
            "sub_task": "mcq",
            "pool": "hard",
            "pass_rate": 0.25,
            "num_rollouts": 4,
            "num_all_right": 1,
        }
    ],
    "rollouts": [
        {
            "rollout_id": "r1",
            "step": 3,
            "dialogue_id": "d1",
            "rollout": 0,
            "completion": "so",
            "reward": 0.5,
            "parts": [("format", 1.0)],
            "advantage": -0.7,
            "trained": True,
        }
    ],
    "evaluation": [
        {"student": "sft", "question_id": "q3", "dialogue_id": "d2", "accuracy": 0.5},
        {"student": "grpo", "question_id": "q3", "dialogue_id": "d2", "accuracy": 1.0},
    ],
}
STAGES = {
    "ingest": ([], "samples"),
    "annotate": (["samples"], "annotations"),
    "compress": (["annotations"], "dialogues"),
    "mine": (["dialogues"], "difficulty"),
    "grpo": (["dialogues", "difficulty"], "rollouts"),
    "evaluate": (["dialogues"], "evaluation"),
}


def publish(lineage: Lineage, run: Run, rows: dict[str, list[dict[str, Any]]]) -> dict[str, Ref]:
    """All stages of a run, each with its dataset, and a student made by grpo."""
    config = {"student": {"model": "builtin:tiny"}, "grpo": {"steps": 30}}
    lineage.record_run(run, "tiny", config, 5)
    refs: dict[str, Ref] = {}
    for stage, (inputs, kind) in STAGES.items():
        started = lineage.record_stage(run, stage, {name: refs[name] for name in inputs}, "source")
        path = run.folder / stage / f"{kind}.parquet"
        path.parent.mkdir(parents=True)
        pq.write_table(pa.Table.from_pylist(rows[kind], schema=SCHEMAS[kind]), path)
        refs[kind] = Ref(kind, str(path), digest_of(path), len(rows[kind]))
        lineage.record_dataset(started, refs[kind])
        if stage == "grpo":
            student = run.folder / stage / "student"
            student.mkdir()
            (student / "model.safetensors").write_text(run.run_id)
            lineage.record_dataset(started, Ref("student", str(student), digest_of(student), 0))
        lineage.end_stage(started, "complete", 1.5, {"noted": stage})
    lineage.end_run(run.run_id, "complete", 9.0)
    return refs


@pytest.fixture(scope="module")
def manifest(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Snapshot of a home with one run, only to be read."""
    lineage = Lineage(tmp_path_factory.mktemp("home"))
    publish(lineage, Run("run-1", str(lineage.home), "m"), ROWS)
    return snapshot(lineage)


@pytest.fixture
def lineage(tmp_path: Path) -> Lineage:
    return Lineage(tmp_path)


def ask(manifest: Path, sql: str) -> list[dict[str, Any]]:
    with duckdb.connect(str(manifest), read_only=True) as connection:
        cursor = connection.execute(sql)
        names = [column[0] for column in cursor.description or ()]
        return [dict(zip(names, row, strict=True)) for row in cursor.fetchall()]


def test_a_prompt_leads_back_to_its_file_its_annotation_row_and_its_teacher(manifest: Path) -> None:
    rows = ask(manifest, "SELECT * FROM ancestry WHERE dialogue_id = 'd1' ORDER BY number")
    assert [(row["number"], row["question_id"], row["gold"]) for row in rows] == [(1, "q2", "A"), (2, "q1", "B")]
    second = rows[1]
    assert (second["source_file"], second["source_row"], second["media_path"]) == ("/p/a.png", 7, "/m/1.png")
    assert (second["teacher"], second["reasoning"], second["reward"], second["run_id"]) == (
        "measured", "grain", 1.0, "run-1",
    )  # fmt: skip


def test_rollouts_and_answers_lead_back_too(manifest: Path) -> None:
    rollouts = ask(manifest, "SELECT * FROM rollout_ancestry ORDER BY number")
    assert [(r["rollout_id"], r["question_id"], r["source_file"]) for r in rollouts] == [
        ("r1", "q2", "/p/a.png"),
        ("r1", "q1", "/p/a.png"),
    ]
    assert rollouts[0]["parts"] == {"format": 1.0}
    answers = ask(manifest, "SELECT student, source_file, source_row FROM evaluation_ancestry ORDER BY student")
    assert answers == [
        {"student": "grpo", "source_file": "/v/b.json", "source_row": 4},
        {"student": "sft", "source_file": "/v/b.json", "source_row": 4},
    ]


def test_the_other_views_count_what_there_is(lineage: Lineage) -> None:
    run = Run("run-1", str(lineage.home), "m")
    refs = publish(lineage, run, ROWS)
    stage = lineage.record_stage(run, "compress", {"annotations": refs["annotations"]}, "source")
    lineage.record_quarantine(stage, "dialogues", [{"id": "d9", "reason": "too long"}], "/q.parquet")
    lineage.end_stage(stage, "complete", 1.0, {})
    later = Run("run-2", run.home, "m2")
    lineage.record_run(later, "tiny", {}, 5)
    lineage.record_reuse(later, "mine", refs["difficulty"])
    manifest = snapshot(lineage)

    stages = ask(manifest, "SELECT * FROM stage_runs WHERE run_id = 'run-1' AND stage = 'compress'")
    assert [(s["state"], s["num_rows"], s["num_quarantined"], s["attempts"]) for s in stages] == [("complete", 2, 1, 2)]
    reused = ask(manifest, "SELECT cached, num_rows, made_by_run_id, seconds FROM stage_runs WHERE run_id = 'run-2'")
    assert reused == [{"cached": True, "num_rows": 1, "made_by_run_id": "run-1", "seconds": 0.0}]
    failures = ask(manifest, "SELECT stage, row_id, reason FROM contract_failures")
    assert failures == [{"stage": "compress", "row_id": "d9", "reason": "too long"}]
    (cost,) = ask(manifest, "SELECT * FROM teacher_cost")
    assert (cost["num_asked"], cost["num_accepted"], cost["num_tries"], cost["cost"]) == (2, 1, 5, 0.75)
    (pool,) = ask(manifest, "SELECT * FROM difficulty_by_sub_task")
    assert (pool["pool"], pool["num_prompts"], pool["mean_pass_rate"]) == ("hard", 1, 0.25)
    (card,) = ask(manifest, "SELECT * FROM model_card")
    assert (card["stage"], card["base"], card["settings"], card["seed"]) == ("grpo", "builtin:tiny", '{"steps":30}', 5)
    assert dict(card["made_from"]) == {
        "dialogues": refs["dialogues"].digest,
        "difficulty": refs["difficulty"].digest,
    }
    assert (card["num_questions"], card["mean_accuracy"]) == (1, 1.0)


def test_difficulty_counts_prompts_by_how_many_rollouts_were_right(lineage: Lineage) -> None:
    [row] = ROWS["difficulty"]
    right = [0, 0, 0, 1, 4, 4]
    mined = [{**row, "dialogue_id": f"d{i}", "num_all_right": n, "pass_rate": n / 4} for i, n in enumerate(right)]
    publish(lineage, Run("run-1", str(lineage.home), "m"), {**ROWS, "difficulty": mined})
    (pool,) = ask(snapshot(lineage), "SELECT * FROM difficulty_by_sub_task")
    assert (pool["num_prompts"], pool["num_never_right"], pool["num_always_right"]) == (6, 3, 2)
    assert (pool["lowest_pass_rate"], pool["highest_pass_rate"], pool["mean_pass_rate"]) == (0, 1, 0.375)


def test_two_runs_keep_their_own_ancestors_and_one_content_stands_once(lineage: Lineage) -> None:
    publish(lineage, Run("run-1", str(lineage.home), "m"), ROWS)
    other = {**ROWS, "annotations": [{**row, "reasoning": "other"} for row in ROWS["annotations"]]}
    other["dialogues"] = [{**row, "prompt": "other"} for row in ROWS["dialogues"]]
    publish(lineage, Run("run-2", str(lineage.home), "m"), other)
    manifest = snapshot(lineage)
    told = ask(manifest, "SELECT run_id, reasoning FROM ancestry WHERE question_id = 'q1' ORDER BY run_id")
    assert told == [{"run_id": "run-1", "reasoning": "grain"}, {"run_id": "run-2", "reasoning": "other"}]
    assert ask(manifest, "SELECT count(*) AS n FROM samples") == [{"n": 2}]


def test_a_deleted_or_cut_file_takes_its_rows_but_not_the_views(lineage: Lineage) -> None:
    refs = publish(lineage, Run("run-1", str(lineage.home), "m"), ROWS)
    refs["rollouts"].path.unlink()
    content = refs["evaluation"].path.read_bytes()
    refs["evaluation"].path.write_bytes(content[: len(content) // 2])
    manifest = snapshot(lineage)
    assert ask(manifest, "SELECT * FROM rollout_ancestry") == []
    assert ask(manifest, "SELECT * FROM evaluation_ancestry") == []
    assert len(ask(manifest, "SELECT * FROM ancestry")) == 3


def test_a_file_published_without_a_present_column_still_has_its_rows(lineage: Lineage) -> None:
    refs = publish(lineage, Run("run-1", str(lineage.home), "m"), ROWS)
    path = refs["rollouts"].path
    pq.write_table(pq.read_table(path).drop_columns(["trained"]), path)
    (row,) = ask(snapshot(lineage), "SELECT DISTINCT rollout_reward, trained FROM rollout_ancestry")
    assert row == {"rollout_reward": 0.5, "trained": None}


def test_all_views_answer_on_a_home_where_nothing_was_published(lineage: Lineage) -> None:
    manifest = snapshot(lineage)
    assert {path.stem for path in VIEWS.glob("*.sql")} == set(VIEW_NAMES)
    for name in (*VIEW_NAMES, *SCHEMAS):
        assert ask(manifest, f"SELECT * FROM {name}") == []


def test_the_snapshot_answers_while_a_run_is_writing(lineage: Lineage) -> None:
    run = Run("run-1", str(lineage.home), "m")
    publish(lineage, run, ROWS)
    manifest = snapshot(lineage)
    stop, errors = threading.Event(), []

    def write() -> None:
        number = 0
        try:
            while not stop.is_set():
                lineage.record_stage(run, f"stage-{number}", {}, "source")
                snapshot(lineage)
                number += 1
        except Exception as error:
            errors.append(error)

    writer = threading.Thread(target=write)
    writer.start()
    code = (
        "import duckdb, sys\n"
        "for _ in range(20):\n"
        "    with duckdb.connect(sys.argv[1], read_only=True) as connection:\n"
        "        assert connection.execute('SELECT count(*) FROM ancestry').fetchone() == (3,)\n"
        "held = duckdb.connect(sys.argv[1], read_only=True)\n"
        "before = held.execute('SELECT count(*) FROM run').fetchone()\n"
        "print(held.execute('SELECT count(*) FROM ancestry').fetchone()[0])\n"
    )
    try:
        reader = subprocess.run(
            [sys.executable, "-c", code, str(manifest)], capture_output=True, timeout=120, check=False
        )
    finally:
        stop.set()
        writer.join()
    assert reader.returncode == 0, reader.stderr.decode()
    assert reader.stdout.split() == [b"3"]
    assert errors == []
    assert len(list((lineage.folder / "snapshots").glob("*.duckdb"))) == KEPT
    assert ask(manifest, "SELECT max(started_at) AS t FROM run")[0]["t"] is not None


def test_a_reader_that_writes_and_is_killed_spoils_nothing(lineage: Lineage) -> None:
    publish(lineage, Run("run-1", str(lineage.home), "m"), ROWS)
    manifest = snapshot(lineage)
    pid = os.fork()
    if pid == 0:
        manifest.resolve().chmod(0o644)
        connection = duckdb.connect(str(manifest))
        connection.execute("CREATE TABLE mine AS SELECT 1 AS x")
        os.kill(os.getpid(), signal.SIGKILL)
    os.waitpid(pid, 0)
    again = snapshot(lineage)
    assert len(ask(again, "SELECT * FROM ancestry")) == 3
    assert "mine" not in {row["table_name"] for row in ask(again, "SELECT table_name FROM duckdb_tables()")}
    for _ in range(KEPT):
        snapshot(lineage)
    assert [path.name for path in (lineage.folder / "snapshots").glob("*.wal")] == []


def test_a_snapshot_that_fails_leaves_the_last_one(
    lineage: Lineage, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    publish(lineage, Run("run-1", str(lineage.home), "m"), ROWS)
    manifest = snapshot(lineage)
    before = manifest.resolve()
    lineage.record_stage(Run("run-1", str(lineage.home), "m"), "later", {}, "source")
    monkeypatch.setattr("tasks.lineage.snapshot.VIEW_NAMES", ("no_such_view",))
    with pytest.raises(FileNotFoundError):
        snapshot(lineage)
    assert manifest.resolve() == before
    assert len(ask(manifest, "SELECT * FROM ancestry")) == 3
    assert len(list((lineage.folder / "snapshots").glob("*.duckdb"))) == 1
