"""The child: real students with random weights answer held-out dialogues; blind rows; a retry; the stage's task."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from data_contracts.records import DIALOGUES, EVALUATION
from data_contracts.refs import Ref, Run, digest_of
from pipeline_config.schema import ConfigError, PipelineConfig
from tasks.evaluate import answer
from tasks.evaluate.items import swap_pictures
from tasks.evaluate.report import make_report
from tasks.evaluate.task import evaluate
from tasks.launcher.job import Job
from tasks.student.checkpoint import load_student
from tasks.student.encode import Prompt
from tasks.student.generate import generate
from tests import processes

Row = dict[str, Any]


def _job(folder: Path, config: PipelineConfig, dialogues: list[Row], student: Path, **more: str) -> Job:
    folder.mkdir(parents=True, exist_ok=True)
    table = folder / "dialogues.parquet"
    pq.write_table(pa.Table.from_pylist(dialogues, schema=DIALOGUES), table)
    inputs = {"dialogues": str(table), "sft": str(student), "grpo": str(student), **more}
    settings = config.model_copy(update={"student": config.student.model_copy(update={"model": str(student)})})
    return Job(config=settings, inputs=inputs, out=folder / "out", folder=folder, seed=3)


def test_every_student_answers_every_question(
    tmp_path: Path, config: PipelineConfig, dialogues: list[Row], student_folder: Path
) -> None:
    job = _job(tmp_path / "first", config, dialogues, student_folder, champion=str(student_folder))
    facts = answer.run(job)
    assert facts == {
        "num_dialogues": 30,
        "num_questions": facts["num_questions"],
        "num_photographs": 6,
        "num_half_asked": 0,
        "num_students": 6,
    }
    table = pq.read_table(job.out)
    assert table.schema.equals(EVALUATION)
    rows = table.to_pylist()
    by_student = {name: [r for r in rows if r["student"] == name] for name in {r["student"] for r in rows}}
    assert by_student.keys() == {"base", "sft", "grpo", "swapped", "constant", "champion"}
    asked = {r["question_id"] for r in by_student["base"]}
    held_out = {p["question_id"] for row in dialogues if row["split"] == "test" for p in row["pairs"]}
    assert asked <= held_out
    assert all({r["question_id"] for r in own} == asked and len(own) == len(asked) for own in by_student.values())

    def said(name: str) -> list[str]:
        return [r["completion"] for r in by_student[name]]

    assert said("sft") == said("grpo") == said("base") == said("champion")  # one checkpoint, greedy


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The media paths of the prompts that students are given from here on."""
    from tasks.student import generate as module

    given: list[str] = []
    completed = module.completed

    def counting(student: Any, prompts: Any, **settings: Any) -> Any:
        given.extend(prompt.media_path for prompt in prompts)
        return completed(student, prompts, **settings)

    monkeypatch.setattr(module, "completed", counting)
    return given


def test_processes_share_the_dialogues_and_write_what_one_would(
    tmp_path: Path,
    config: PipelineConfig,
    dialogues: list[Row],
    student_folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    asked: list[str],
) -> None:
    alone, shared = (_job(tmp_path / name, config, dialogues, student_folder) for name in ("alone", "shared"))
    facts = answer.run(alone)
    assert len(asked) == 4 * 30
    everyone = asked.copy()
    monkeypatch.setenv("WORLD_SIZE", "2")
    for rank in ("1", "0"):
        asked.clear()
        monkeypatch.setenv("RANK", rank)
        assert answer.run(shared) == (facts if rank == "0" else {})
        assert asked == everyone[int(rank) :: 2]
        assert shared.out.exists() is (rank == "0")
    assert pq.read_table(shared.out).equals(pq.read_table(alone.out))


def test_a_killed_run_asks_what_it_lacks_and_nothing_again(
    tmp_path: Path,
    config: PipelineConfig,
    dialogues: list[Row],
    student_folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    asked: list[str],
) -> None:
    """Killed while the second of four students answers."""
    whole, killed = (_job(tmp_path / name, config, dialogues, student_folder) for name in ("whole", "killed"))
    answer.run(whole)
    monkeypatch.setattr("tasks.launcher.parts.KEYS_PER_PART", 10)
    rows_of = answer.evaluation_rows

    def dying(student: str, *rest: Any) -> Any:
        if len(list((killed.folder / "parts" / "swapped").glob("*.parquet"))) == 1:
            raise KeyboardInterrupt
        return rows_of(student, *rest)

    with monkeypatch.context() as patch:
        patch.setattr(answer, "evaluation_rows", dying)
        with pytest.raises(KeyboardInterrupt):
            answer.run(killed)
    assert not killed.out.exists()
    asked.clear()
    answer.run(killed)
    assert len(asked) == 4 * 30 - 30 - 10
    assert pq.read_table(killed.out).equals(pq.read_table(whole.out))
    asked.clear()
    answer.run(killed)
    assert asked == [], "all is there"


def test_every_row_is_what_its_own_student_says_greedily(
    tmp_path: Path, config: PipelineConfig, dialogues: list[Row], student_folder: Path, folders: dict[str, Path]
) -> None:
    """Base, SFT and GRPO are other checkpoints; every answer is cut, and so worth what the configuration says."""
    rewards = config.rewards.model_copy(update={"truncated": 0.25, "untagged": "unparseable"})
    settings = config.model_copy(update={"rewards": rewards})
    job = _job(tmp_path, settings, dialogues, student_folder)
    models = {"base": student_folder, "sft": folders["qwen2_5_vl"], "grpo": folders["qwen2_vl"]}
    job.inputs.update({name: str(models[name]) for name in ("sft", "grpo")})
    answer.run(job)
    said: dict[str, dict[str, str]] = {}
    for row in pq.read_table(job.out).to_pylist():
        said.setdefault(row["student"], {})[row["dialogue_id"]] = row["completion"]
        assert row["student"] == "constant" or row["accuracy"] == 0.25
    chosen = [row for row in dialogues if row["dialogue_id"] in said["base"]]
    swapped = swap_pictures(chosen, {row["media_path"]: (56, 56) for row in chosen}, job.seed)
    for name, model in {**models, "swapped": models["sft"]}.items():
        shown = [swapped[row["media_path"]] if name == "swapped" else row["media_path"] for row in chosen]
        prompts = [Prompt(row["prompt"], path) for row, path in zip(chosen, shown, strict=True)]
        settings_of_sampling: dict[str, Any] = {"temperature": 0, "max_new_tokens": 4, "batch_size": 8, "seed": 0}
        expected = generate(load_student(str(model), config.student), prompts, **settings_of_sampling)
        assert [said[name][row["dialogue_id"]] for row in chosen] == [group[0].text for group in expected], name
    assert len({tuple(of_student.values()) for of_student in said.values()}) == 5


def test_which_questions_are_asked_is_drawn_from_the_seed(
    tmp_path: Path, config: PipelineConfig, dialogues: list[Row], student_folder: Path
) -> None:
    few = config.model_copy(update={"evaluate": config.evaluate.model_copy(update={"prompts": 10})})
    asked = []
    for seed in (1, 2):
        job = replace(_job(tmp_path / str(seed), few, dialogues, student_folder), seed=seed)
        answer.run(job)
        asked.append(set(pq.read_table(job.out)["dialogue_id"].to_pylist()))
    assert len(asked[0]) == len(asked[1]) == 10  # two pictures, each asked everything
    assert asked[0] != asked[1]


@pytest.mark.slow
def test_two_processes_killed_go_on_and_write_what_one_would(
    tmp_path: Path, config: PipelineConfig, dialogues: list[Row], student_folder: Path
) -> None:
    """Killed in the answers of the second student."""
    whole, killed = (_job(tmp_path / name, config, dialogues, student_folder) for name in ("whole", "killed"))
    facts = answer.run(whole)
    parts = killed.folder / "parts"
    child = f"{processes.IN_SMALL_PARTS}\nfrom tasks.evaluate.answer import *\nchild_main(run)"
    process = processes.start(killed, child, processes.TWO)
    processes.kill_when(process, lambda: len(list(parts.glob("swapped/*.parquet"))) >= 3, killed)
    finished = len(list(parts.glob("*/*.parquet")))
    assert finished < 4 * facts["num_dialogues"]
    assert not killed.out.exists()
    (killed.folder / "child.log").unlink()
    processes.finish(processes.start(killed, child, processes.TWO), killed)
    assert len(processes.asked(killed)) == 4 * facts["num_dialogues"] - finished
    assert json.loads((killed.folder / "result.json").read_text()) == facts
    assert pq.read_table(killed.out).equals(pq.read_table(whole.out))


def test_only_the_blind_student_is_shown_other_pictures(
    tmp_path: Path, config: PipelineConfig, dialogues: list[Row], student_folder: Path
) -> None:
    held_out = [row for row in dialogues if row["split"] == "test"]
    photograph_of = {row["media_path"]: row["source_photograph"] for row in held_out}
    for sitting in answer._sittings(_job(tmp_path, config, dialogues, student_folder), held_out):
        same = [photograph_of[path] == photograph_of[shown] for path, shown in sitting.pictures.items()]
        assert len(same) == len(photograph_of)
        assert not any(same) if sitting.name == "swapped" else all(same)


@pytest.mark.slow
def test_the_stage_publishes_rows_scores_and_what_the_report_needs(
    tmp_path: Path, config: PipelineConfig, dialogues: list[Row], student_folder: Path
) -> None:
    run = Run("run-1", str(tmp_path / "home"), "")
    job = _job(tmp_path / "job", config, dialogues, student_folder)
    table = Path(job.inputs["dialogues"])
    student = Ref("student", str(student_folder), digest_of(student_folder), 0)
    published, measured = evaluate.fn(
        run, job.config, Ref("dialogues", str(table), digest_of(table), len(dialogues)), student, student
    )
    assert published.holds()
    assert (measured.kind, measured.holds()) == ("scores", True)
    scores = json.loads(measured.path.read_text())
    assert scores["champion_digest"] is None
    assert set(scores["pairs"]) == {"sft - base", "sft - constant", "sft - swapped", "grpo - sft", "grpo - base"}
    assert scores["pairs"]["grpo - sft"]["composite"] == {"mean": 0.0, "low": 0.0, "high": 0.0}
    report = make_report(run, job.config, {**scores, "stages": {}}, {"evaluate": published, "grpo": student})
    assert report == tmp_path / "home" / "reports" / "run-1" / "report.html"
    assert report.read_text().count("<article") == config.evaluate.gallery


def test_the_constant_is_fitted_on_training_questions_alone(
    tmp_path: Path, config: PipelineConfig, dialogues: list[Row], student_folder: Path
) -> None:
    blurred = [row for row in dialogues if row["split"] == "test" or row["sample_id"] in ("s61", "s70")]
    job = _job(tmp_path, config, blurred, student_folder)
    chosen = [row for row in blurred if row["split"] == "test"]
    rows = answer.constant_rows(blurred, chosen, job)
    types = [r for r in rows if r["kind"] == "type"]
    assert {r["answer"] for r in types} == {"B"}  # both training pictures are blurred
    assert {r["accuracy"] for r in types} == {0.0, 1.0}
    assert sum(r["accuracy"] for r in types) == len(types) / 2


def test_a_kind_of_question_never_trained_on_is_the_users_error(
    tmp_path: Path, config: PipelineConfig, dialogues: list[Row], student_folder: Path
) -> None:
    untrained = [row for row in dialogues if row["split"] == "test" or row["sub_task"] != "score"]
    job = _job(tmp_path, config, untrained, student_folder)
    with pytest.raises(ConfigError, match="held-out questions of score / score have none like them"):
        answer.constant_rows(untrained, [row for row in untrained if row["split"] == "test"], job)
