"""The probe samples as training does."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pyarrow.parquet as pq
import pytest

from pipeline_config.schema import StudentConfig
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
