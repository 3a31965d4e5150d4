"""Which prompts are mined, and a real mining run of a tiny random student."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from data_contracts.records import DIALOGUES, DIFFICULTY
from pipeline_config.schema import ConfigError, PipelineConfig, StudentConfig
from tasks.launcher.child import run_child
from tasks.launcher.job import Job
from tasks.mine.rollout import choose_prompts, run
from tasks.rewards import score as score_module
from tasks.student.checkpoint import load_student
from tasks.student.encode import Prompt
from tasks.student.generate import generate
from tests.processes import IN_SMALL_PARTS, TWO, asked, finish, kill_when, start


def config(rewards: dict[str, Any] | None = None, **mine: Any) -> PipelineConfig:
    return PipelineConfig.model_validate(
        {
            "name": "test",
            "ingest": {"sources": [{"kind": "degrade", "name": "unused"}]},
            "sft": {"optimiser": {"lr": 1e-3}},
            "grpo": {"optimiser": {"lr": 1e-3}},
            "rewards": rewards or {},
            "mine": mine,
        }
    )


def row(i: int, photograph: str, split: str = "train", sub_task: str = "mcq") -> dict[str, Any]:
    return {"dialogue_id": f"d{i}", "source_photograph": photograph, "split": split, "sub_task": sub_task}


def test_prompts_come_in_turns_from_every_photograph() -> None:
    rows = [row(i, "many" if i < 90 else f"few{i}") for i in range(100)]
    chosen = choose_prompts(rows, config(prompts=22), seed=1)
    counts = Counter(r["source_photograph"] for r in chosen)
    assert len(chosen) == len({r["dialogue_id"] for r in chosen}) == 22
    assert counts["many"] == 12
    assert len(counts) == 11
    assert choose_prompts(rows, config(prompts=22), seed=1) == chosen
    assert choose_prompts(rows, config(prompts=22), seed=2) != chosen


def test_only_training_dialogues_of_the_sub_tasks_are_mined() -> None:
    rows = [row(0, "a"), row(1, "a", split="test"), row(2, "a", sub_task="assess"), row(3, "b", sub_task="qa")]
    chosen = choose_prompts(rows, config(prompts=50, sub_tasks=["mcq", "qa"]), seed=0)
    assert {r["dialogue_id"] for r in chosen} == {"d0", "d3"}


def test_no_such_sub_task_names_what_there_is() -> None:
    with pytest.raises(ConfigError, match=r"mine\.sub_tasks.*mixed.*compress\.merge_by"):
        choose_prompts([row(0, "a", sub_task="mixed")], config(), seed=0)


@pytest.fixture
def make_job(student_folder: Path, tables: dict[str, Path], tmp_path: Path) -> Callable[..., Job]:
    """make_job(name, ...): a mining job in a folder of its own; keys of ``mine``."""

    def make(name: str, **mine: Any) -> Job:
        settings = {"prompts": 9, "num_rollouts": 3, "max_new_tokens": 6, "batch_size": 8, "random_control": True}
        (tmp_path / name).mkdir()
        inputs = {"dialogues": str(tables["dialogues"]), "student": str(student_folder)}
        return Job(config(**{**settings, **mine}), inputs, tmp_path / name / "out", tmp_path / name, 3)

    return make


@pytest.fixture
def prompts_begun(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The prompts that are given to be sampled from here on."""
    from tasks.student import generate as module

    begun: list[str] = []
    completed = module.completed

    def counting(student: Any, prompts: Any, **settings: Any) -> Any:
        begun.extend(prompt.media_path for prompt in prompts)
        return completed(student, prompts, **settings)

    monkeypatch.setattr(module, "completed", counting)
    return begun


def test_a_run_writes_one_row_per_prompt(make_job: Callable[..., Job]) -> None:
    job = make_job("job", prompts=5)
    facts = run(job)
    table = pq.read_table(job.out)
    assert table.schema.equals(DIFFICULTY)
    rows = table.to_pylist()
    assert [r["dialogue_id"] for r in rows] == [
        r["dialogue_id"] for r in choose_prompts(pq.read_table(job.inputs["dialogues"]).to_pylist(), job.config, 3)
    ]
    assert {len(r["rewards"]) for r in rows} == {len(r["completions"]) for r in rows} == {3}
    assert all(r["pool"] == "dropped" and r["why"] == "all 3 rollouts are wrong" for r in rows), "random weights"
    assert facts == {"num_hard": 0, "num_easy": 0, "num_random": 0, "num_dropped": 5, "pass_rate": 0}
    assert sorted(path.name for path in job.folder.iterdir()) == ["out", "parts"]
    again = make_job("again", prompts=5)
    run(again)
    assert pq.read_table(again.out).equals(table)


def mined(folder: Path, settings: PipelineConfig, student: Path, dialogues: Path, seed: int = 3) -> dict[str, Any]:
    """Rows of DIFFICULTY by dialogue."""
    folder.mkdir()
    run(Job(settings, {"dialogues": str(dialogues), "student": str(student)}, folder / "out", folder, seed))
    return {row["dialogue_id"]: row for row in pq.read_table(folder / "out").to_pylist()}


def test_a_prompt_is_judged_by_its_own_completions(
    folders: dict[str, Path], tables: dict[str, Path], tmp_path: Path
) -> None:
    """The gold of every second dialogue is what this student says to it first of all; so they differ."""
    student, dialogues = folders["qwen2_5_vl"], pq.read_table(tables["dialogues"]).to_pylist()
    prompts = [Prompt(text=row["prompt"], media_path=row["media_path"]) for row in dialogues]
    likeliest = generate(
        load_student(str(student), StudentConfig()), prompts, temperature=0, max_new_tokens=6, batch_size=12, seed=0
    )
    said = {group[0].text: row for group, row in zip(likeliest, dialogues, strict=True)}
    assert len(said) > 6
    for i, (text, row) in enumerate(said.items()):
        row["pairs"][0] |= {"problem_type": "OCR", "answer": text if i % 2 else "something else"}
    pq.write_table(pa.Table.from_pylist(list(said.values()), schema=DIALOGUES), tmp_path / "dialogues.parquet")
    settings = config(prompts=12, num_rollouts=2, max_new_tokens=6, top_p=1e-6, easy_pool=9)
    found = mined(tmp_path / "mine", settings, student, tmp_path / "dialogues.parquet")
    assert len(found) == len(said)
    for i, (text, row) in enumerate(said.items()):
        verdict = found[row["dialogue_id"]]
        assert verdict["completions"] == [text] * 2
        assert verdict["rewards"] == [i % 2, i % 2]
        assert verdict["pool"] == ("easy" if i % 2 else "dropped")


def test_rollouts_are_drawn_anew_from_every_seed(student_folder: Path, tables: dict[str, Path], tmp_path: Path) -> None:
    settings = config(prompts=12, num_rollouts=3, max_new_tokens=6)
    first, other = (mined(tmp_path / str(seed), settings, student_folder, tables["dialogues"], seed) for seed in (1, 2))
    assert first.keys() == other.keys()
    for dialogue_id, row in first.items():
        assert len({*row["completions"], *other[dialogue_id]["completions"]}) == 6
    few = config(prompts=4, num_rollouts=2, max_new_tokens=2)
    chosen = [mined(tmp_path / f"few{seed}", few, student_folder, tables["dialogues"], seed).keys() for seed in (1, 2)]
    assert chosen[0] != chosen[1]
    for name, setting in {"cold": {"temperature": 1e-3}, "nucleus": {"top_p": 1e-6}}.items():
        settings = config(prompts=12, num_rollouts=3, max_new_tokens=6, **setting)
        rows = mined(tmp_path / name, settings, student_folder, tables["dialogues"])
        assert all(len(set(row["completions"])) == 1 for row in rows.values())


def test_a_completion_cut_at_the_limit_scores_what_the_configuration_says(
    student_folder: Path, tables: dict[str, Path], tmp_path: Path
) -> None:
    settings = config({"truncated": 0.5, "untagged": "unparseable"}, prompts=12, num_rollouts=3, max_new_tokens=96)
    rows = mined(tmp_path / "mine", settings, student_folder, tables["dialogues"])
    assert {reward for row in rows.values() for reward in row["rewards"]} == {0.0, 0.5}


def test_processes_share_the_prompts_and_mine_what_one_would(
    make_job: Callable[..., Job], monkeypatch: pytest.MonkeyPatch, prompts_begun: list[str]
) -> None:
    alone, shared = make_job("alone"), make_job("shared")
    run(alone)
    assert len(prompts_begun) == 9
    everyone = prompts_begun.copy()
    monkeypatch.setenv("WORLD_SIZE", "2")
    for rank in ("1", "0"):
        prompts_begun.clear()
        monkeypatch.setenv("RANK", rank)
        facts = run(shared)
        assert prompts_begun == everyone[int(rank) :: 2]
        assert shared.out.exists() is (rank == "0")
        assert bool(facts) is (rank == "0")
    assert pq.read_table(shared.out).equals(pq.read_table(alone.out))


def test_a_killed_run_rolls_out_what_it_lacks_and_nothing_again(
    make_job: Callable[..., Job], monkeypatch: pytest.MonkeyPatch, prompts_begun: list[str]
) -> None:
    whole, killed = make_job("whole"), make_job("killed")
    run(whole)
    everyone = sorted(prompts_begun)
    monkeypatch.setattr("tasks.launcher.parts.KEYS_PER_PART", 2)
    scored = score_module.score

    def dying(row: Any, *rest: Any, **settings: Any) -> Any:
        if len(list((killed.folder / "parts").glob("*.parquet"))) == 2:
            raise KeyboardInterrupt
        return scored(row, *rest, **settings)

    with monkeypatch.context() as patch:
        patch.setattr(score_module, "score", dying)
        with pytest.raises(KeyboardInterrupt):
            run(killed)
    finished = pa.concat_tables(pq.read_table(p) for p in (killed.folder / "parts").glob("*.parquet"))
    media_of = {r["dialogue_id"]: r["media_path"] for r in pq.read_table(killed.inputs["dialogues"]).to_pylist()}
    done = [media_of[i] for i in finished["dialogue_id"].to_pylist()]
    assert len(done) == 4
    prompts_begun.clear()
    run(killed)
    assert sorted(prompts_begun + done) == everyone
    assert pq.read_table(killed.out).equals(pq.read_table(whole.out))
    prompts_begun.clear()
    run(killed)
    assert prompts_begun == [], "all is there"


def test_what_is_right_and_how_many_easy_prompts_stay_are_the_configurations(
    student_folder: Path, tables: dict[str, Path], tmp_path: Path
) -> None:
    """Every rollout is cut, and so worth one half."""
    rewards = {"truncated": 0.5, "untagged": "unparseable"}
    settings = {"prompts": 12, "num_rollouts": 2, "max_new_tokens": 2}
    for right_above, easy_pool, num_easy in ((0.4, 3, 3), (0.4, 12, 12), (0.5, 12, 0)):
        chosen = config(rewards, right_above=right_above, easy_pool=easy_pool, **settings)
        rows = mined(tmp_path / f"{right_above}-{easy_pool}", chosen, student_folder, tables["dialogues"]).values()
        assert sum(row["pool"] == "easy" for row in rows) == num_easy
        assert {row["num_all_right"] for row in rows} == {2 if right_above < 0.5 else 0}


def test_thinking_is_cut_short_where_the_configuration_says_so(
    student_folder: Path, tables: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A student of random weights opens no thinking by itself: here every text counts as thinking that goes on."""
    monkeypatch.setattr("tasks.student.generate._answer_now", lambda student, token_ids: [5, 6])
    put_there = load_student(str(student_folder), StudentConfig()).tokenizer.decode([5, 6])
    settings = config(prompts=12, num_rollouts=1, max_new_tokens=8, max_think_tokens=3)
    rows = mined(tmp_path / "mine", settings, student_folder, tables["dialogues"])
    assert all(put_there in row["completions"][0] for row in rows.values())


@pytest.mark.slow
def test_two_processes_mine_the_table_of_one(make_job: Callable[..., Job]) -> None:
    alone, shared = make_job("alone"), make_job("shared")
    facts = run_child("tasks.mine.rollout", alone.to_dict(), alone.folder)
    assert run_child("tasks.mine.rollout", shared.to_dict(), shared.folder, devices=2) == facts
    assert pq.read_table(shared.out).equals(pq.read_table(alone.out))
    written = {path.name.rpartition("-")[0] for path in (shared.folder / "parts").iterdir()}
    assert written == {"rank-000", "rank-001"}


@pytest.mark.slow
def test_two_processes_killed_go_on_with_what_they_lack(make_job: Callable[..., Job]) -> None:
    child = f"{IN_SMALL_PARTS}\nfrom tasks.mine.rollout import *\nchild_main(run)"
    whole, killed = make_job("whole", prompts=12), make_job("killed", prompts=12)
    run(whole)
    parts = killed.folder / "parts"
    kill_when(start(killed, child, TWO), lambda: len(list(parts.glob("*.parquet"))) >= 4, killed)
    assert not killed.out.exists()
    everyone = asked(killed)
    assert len(set(everyone)) == len(everyone) == 12
    media_of = {
        r["dialogue_id"]: Path(r["media_path"]).stem for r in pq.read_table(killed.inputs["dialogues"]).to_pylist()
    }
    finished = [media_of[i] for path in parts.glob("*.parquet") for i in pq.read_table(path)["dialogue_id"].to_pylist()]
    (killed.folder / "child.log").unlink()
    finish(start(killed, child, TWO), killed)
    assert 4 <= len(finished) < 12
    assert sorted(asked(killed) + finished) == sorted(everyone)
    assert pq.read_table(killed.out).equals(pq.read_table(whole.out))
