"""GRPO in real processes: killed with SIGKILL and started again, shared by two processes, under ZeRO."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from safetensors.torch import load_file

from tasks.launcher.child import run_child
from tasks.launcher.job import Job
from tasks.tracking.log import METRICS_MARK
from tests import processes
from tests.processes import TWO, finish, kill_when

pytestmark = pytest.mark.slow
# The child as `tasks.grpo.train` starts it, with this folder's reward in the table and no tracking store.
CHILD = f"""
import importlib.util
spec = importlib.util.spec_from_file_location("grpo_conftest", {str(Path(__file__).with_name("conftest.py"))!r})
conftest = importlib.util.module_from_spec(spec)
spec.loader.exec_module(conftest)
from tasks.rewards.reward import reward
reward("letters", judges="form", source="test", departs="", formula="letters / characters")(conftest.letters)
from tasks.grpo.train import run
from tasks.launcher.job import child_main
child_main(run)
"""
# Its ranks call the model different numbers of times while they sample, and sample the same as without.
UNEVEN = f"""
import os
import tasks.grpo.trainer as trainer
def generate(*args, once=trainer.generate, **settings):
    for _ in range(int(os.environ["RANK"])):
        once(*args, **settings)
    return once(*args, **settings)
trainer.generate = generate
{CHILD}"""
SHARED: dict[str, Any] = {
    "steps": 40,
    "max_rollouts": 64,  # ends it, and its schedule, with the fourth step
    "optimiser": {"lr": 6e-2, "scheduler": "cosine"},
    "save_steps": 2,
    "prompts_per_step": 4,
    "batch_size": 1,
    "probe_prompts": 2,
    "loss_per": "token",
    "config_student": {"devices": 2},
}


def start(job: Job, launcher: Sequence[str] = (), child: str = CHILD) -> subprocess.Popen[bytes]:
    return processes.start(job, child, launcher)


def kill_after(process: subprocess.Popen[bytes], seen: Path, job: Job) -> None:
    """Kill once ``seen`` exists."""
    kill_when(process, seen.exists, job)


def steps_of(job: Job) -> list[dict[str, float]]:
    steps: list[dict[str, float]] = json.loads((job.out / "history.json").read_text())["steps"]
    return steps


@pytest.fixture(scope="module")
def unsharded(make_job_in: Callable[..., Job], tmp_path_factory: pytest.TempPathFactory) -> Job:
    """A finished run of two processes that hold the student whole."""
    job = make_job_in(tmp_path_factory.mktemp("unsharded"), **SHARED)
    finish(start(job, TWO), job)
    return job


def test_killed_at_some_moment_it_ends_as_if_it_had_not_been(make_job: Callable[..., Job]) -> None:
    settings = {"steps": 30, "save_steps": 5, "probe_prompts": 2, "batch_size": 2, "lr": 1e-2}
    whole, killed = make_job("whole", **settings), make_job("killed", **settings)
    undisturbed = start(whole)
    process = start(killed)
    kill_after(process, killed.folder / "rollouts" / "step-000012-rank-000.parquet", killed)
    assert not killed.out.exists()
    assert (killed.folder / "checkpoints" / "checkpoint-10" / "complete.json").is_file()
    finish(start(killed), killed)
    finish(undisturbed, whole)
    for name in ("out/model.safetensors", "out/history.json"):
        assert (killed.folder / name).read_bytes() == (whole.folder / name).read_bytes(), name
    rows = [pq.read_table(job.folder / "rollouts.parquet").to_pylist() for job in (killed, whole)]
    assert rows[0] == rows[1]
    assert len(rows[0]) == 30 * 2 * 4


def test_two_processes_share_the_prompts_of_a_step(unsharded: Job) -> None:
    job = unsharded
    rows = pq.read_table(job.folder / "rollouts.parquet").to_pylist()
    assert len({row["rollout_id"] for row in rows}) == len(rows) == 4 * 4 * 4
    for entry in steps_of(job):
        of_step = [row for row in rows if row["step"] == entry["step"]]
        assert len({row["dialogue_id"] for row in of_step}) == 4
        assert entry["reward"] == pytest.approx(sum(row["reward"] for row in of_step) / 16), "over both processes"
        assert entry["grad_norm"] > 0
    facts = json.loads((job.folder / "result.json").read_text())
    assert facts["probe_after"] != facts["probe_before"]


def test_two_processes_are_probed_as_one(unsharded: Job, make_job: Callable[..., Job]) -> None:
    alone = make_job("alone", **{**SHARED, "steps": 0, "config_student": {}})
    finish(start(alone), alone)
    one, two = (json.loads((job.folder / "probe_before.json").read_text()) for job in (alone, unsharded))
    assert one == two
    assert len(set(one["rewards"])) == 2


@pytest.mark.timeout(600)
@pytest.mark.parametrize("stage", [2, 3])
def test_sharded_it_trains_the_same_student_and_survives_a_kill(
    stage: int, unsharded: Job, make_job: Callable[..., Job], zero_file: Callable[[int], str]
) -> None:
    whole, killed = (make_job(name, deepspeed=zero_file(stage), **SHARED) for name in ("whole", "killed"))
    finish(start(whole, TWO, UNEVEN), whole)
    kill_after(start(killed, TWO), killed.folder / "rollouts" / "step-000003-rank-000.parquet", killed)
    assert not killed.out.exists()
    assert (killed.folder / "checkpoints" / "checkpoint-2" / "complete.json").is_file()
    finish(start(killed, TWO), killed)
    for name in ("out/model.safetensors", "out/history.json"):
        assert (killed.folder / name).read_bytes() == (whole.folder / name).read_bytes(), name
    rows, again, expected = (
        pq.read_table(job.folder / "rollouts.parquet").to_pylist() for job in (whole, killed, unsharded)
    )
    assert rows == again
    # Sums in another order round differently.
    assert [row["completion"] for row in rows] == [row["completion"] for row in expected]
    for ours, theirs in zip(steps_of(whole), steps_of(unsharded), strict=True):
        del theirs["skipped_updates"]  # DeepSpeed's engine makes every update
        assert ours == pytest.approx(theirs, rel=1e-3, abs=1e-6)
    files = [job.out / "model.safetensors" for job in (whole, unsharded)]
    trained, expected_weights, before = map(load_file, [*files, Path(whole.inputs["student"]) / "model.safetensors"])
    assert trained.keys() == expected_weights.keys() == before.keys(), "the names that others know"
    off = sum(float((trained[name] - weight).square().sum()) for name, weight in expected_weights.items())
    moved = sum(float((before[name] - weight).square().sum()) for name, weight in expected_weights.items())
    assert off**0.5 <= 1e-3 * moved**0.5


def test_the_launcher_starts_it_and_hears_its_progress(make_job: Callable[..., Job]) -> None:
    job = make_job(steps=2, rubric="format")
    heard: list[dict[str, float]] = []
    facts = run_child("tasks.grpo.train", job.to_dict(), job.folder, on_progress=heard.append)
    assert facts == {"steps": 2, "num_prompts": 12, "num_filled_up": 0, "num_rollouts": 16}
    assert [(line["done"], line["total"]) for line in heard] == [(1, 2), (2, 2)]
    log = (job.folder / "child.log").read_text()
    sent = [json.loads(line.removeprefix(METRICS_MARK)) for line in log.splitlines() if line.startswith(METRICS_MARK)]
    assert [line["step"] for line in sent] == [1, 2]
    assert {"reward", "entropy", "zero_variance_share", "grad_norm"} <= set(sent[0]["metrics"])
