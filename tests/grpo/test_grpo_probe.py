"""The probe samples as training does, and several processes sample what one would."""

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

pytestmark = pytest.mark.usefixtures("letters_reward")


def probed(job: Job, seed: int) -> dict[str, Any]:
    rows = pq.read_table(job.inputs["dialogues"]).to_pylist()[:3]
    return probe(load_student(job.inputs["student"], StudentConfig()), rows, job.config, seed)


def test_means_are_over_every_rollout(make_job: Callable[..., Job]) -> None:
    figures = probed(make_job(probe_rollouts=3), seed=1)
    assert (figures["num_prompts"], figures["num_rollouts"]) == (3, 3)
    assert figures["reward"] == pytest.approx(sum(figures["rewards"]) / 3)
    assert len(set(figures["rewards"])) == 3
    assert probed(make_job(probe_rollouts=2), seed=1)["rewards"] != figures["rewards"]


@pytest.mark.parametrize("setting", [{"temperature": 1e-3}, {"top_p": 1e-6}], ids=["cold", "nucleus"])
def test_temperature_and_nucleus_are_those_of_training(make_job: Callable[..., Job], setting: dict[str, float]) -> None:
    assert probed(make_job(), seed=1) != probed(make_job(), seed=2)
    assert probed(make_job(**setting), seed=1) == probed(make_job(**setting), seed=2)


def test_lengths_are_those_of_training(make_job: Callable[..., Job], monkeypatch: pytest.MonkeyPatch) -> None:
    """A student of random weights opens no thinking by itself: here every text counts as thinking that goes on."""
    assert probed(make_job(max_new_tokens=4), seed=1) != probed(make_job(max_new_tokens=8), seed=1)
    monkeypatch.setattr("tasks.student.generate._answer_now", lambda student, token_ids: [5, 6])
    assert probed(make_job(max_think_tokens=3), seed=1) != probed(make_job(), seed=1)


def test_processes_sample_shares_and_the_first_scores_them_all(
    student_folder: Path,
    tables: dict[str, Path],
    make_job: Callable[..., Job],
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
