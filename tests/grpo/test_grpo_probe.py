"""The probe: what one process samples alone, several sample in shares; rewards that look at a whole batch see it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from pipeline_config.schema import StudentConfig
from tasks.grpo import probe as module
from tasks.grpo.probe import probe
from tasks.launcher.job import Job
from tasks.student.checkpoint import load_student


def test_processes_sample_shares_and_the_first_scores_them_all(
    student_folder: Path,
    tables: dict[str, Path],
    make_job: Callable[..., Job],
    letters_reward: None,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    student = load_student(str(student_folder), StudentConfig())
    dialogues = pq.read_table(tables["dialogues"]).to_pylist()[:7]
    config = make_job(probe_rollouts=3).config
    alone = probe(student, dialogues, config, seed=4)
    assert len(set(alone["rewards"])) == 7, "prompts can be told apart"
    sampled: list[int] = []
    generate = module.generate

    def counting(student: Any, prompts: Any, **settings: Any) -> Any:
        sampled.append(len(prompts))
        return generate(student, prompts, **settings)

    monkeypatch.setattr(module, "generate", counting)
    monkeypatch.setenv("WORLD_SIZE", "3")
    gathered: list[Any] = []
    monkeypatch.setattr(module, "gather_object", lambda own: gathered.extend(own) or list(gathered))
    found = {}
    for rank in (2, 1, 0):
        monkeypatch.setenv("RANK", str(rank))
        found[rank] = probe(student, dialogues, config, seed=4)
    assert sampled == [2, 2, 3]
    assert found == {0: alone, 1: {}, 2: {}}
    monkeypatch.setattr(module, "gather_object", lambda own: [*gathered[:2], *own])
    monkeypatch.setenv("RANK", "2")
    assert probe(student, dialogues[:2], config, seed=4) == {}, "more processes than prompts"
    assert sampled[-1] == 0
