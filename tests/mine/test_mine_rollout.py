"""Which prompts are mined, and a real mining run of a tiny random student."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from data_contracts.records import DIFFICULTY
from pipeline_config.schema import ConfigError, PipelineConfig
from tasks.launcher.job import Job
from tasks.mine.rollout import choose_prompts, run


def config(**mine: Any) -> PipelineConfig:
    return PipelineConfig.model_validate(
        {
            "name": "test",
            "ingest": {"sources": [{"kind": "degrade", "name": "unused"}]},
            "sft": {"optimiser": {"lr": 1e-3}},
            "grpo": {"optimiser": {"lr": 1e-3}},
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


def test_a_run_writes_one_row_per_prompt(student_folder: Path, tables: dict[str, Path], tmp_path: Path) -> None:
    settings = config(prompts=5, num_rollouts=3, max_new_tokens=6, batch_size=8, random_control=True)
    inputs = {"dialogues": str(tables["dialogues"]), "student": str(student_folder)}
    job = Job(settings, inputs, tmp_path / "out", tmp_path, 3)
    facts = run(job)
    table = pq.read_table(job.out)
    assert table.schema.equals(DIFFICULTY)
    rows = table.to_pylist()
    assert len(rows) == 5
    assert {len(r["rewards"]) for r in rows} == {len(r["completions"]) for r in rows} == {3}
    assert all(r["pool"] == "dropped" and r["why"] == "all 3 rollouts are wrong" for r in rows), "random weights"
    assert facts == {"num_hard": 0, "num_easy": 0, "num_random": 0, "num_dropped": 5, "pass_rate": 0}
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
    again = Job(settings, inputs, tmp_path / "again", tmp_path, 3)
    run(again)
    assert pq.read_table(again.out).equals(table)
