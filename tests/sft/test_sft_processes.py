"""SFT in real processes: killed with SIGKILL at any moment and started again, shared by two processes, under ZeRO."""

from __future__ import annotations

import json
import math
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from pipeline_config.schema import StudentConfig
from tasks.launcher.child import ChildFailed, run_child
from tasks.launcher.job import Job
from tasks.sft.train import run
from tasks.student.checkpoint import load_student, save_student
from tasks.student.trainer import steps_done

pytestmark = pytest.mark.slow
MakeJob = Callable[..., Job]
ROOT = Path(__file__).parents[2]
LORA = {"r": 4, "alpha": 8, "dropout": 0.0}


def start(job: Job) -> subprocess.Popen[bytes]:
    (job.folder / "job.json").write_text(json.dumps(job.to_dict()))
    return subprocess.Popen(
        [sys.executable, "-m", "tasks.sft.train", str(job.folder / "job.json")],
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        stdout=subprocess.DEVNULL,
    )


def weights(job: Job) -> dict[str, torch.Tensor]:
    (file,) = job.out.glob("*.safetensors")
    return load_file(file)


@pytest.mark.timeout(600)
def test_killed_again_and_again_it_ends_in_the_same_weights(make_job: MakeJob) -> None:
    """Kills fall anywhere, in the writing of a checkpoint too: one is written at every step."""
    options = {"epochs": 12, "save_steps": 1}
    whole, killed = make_job("whole", **options), make_job("killed", **options)
    facts = run_child("tasks.sft.train", whole.to_dict(), whole.folder, env={"OMP_NUM_THREADS": "1"})
    rng = np.random.default_rng(0)
    checkpoints = killed.folder / "checkpoints"
    for kills in range(1, 4):
        process = start(killed)
        while not any(steps_done(path) > 10 * kills for path in checkpoints.glob("checkpoint-*")):
            assert process.poll() is None, "ended before it was killed"
            time.sleep(0.01)
        time.sleep(rng.uniform(0, 0.3))
        process.kill()
        assert process.wait() == -signal.SIGKILL
        assert not killed.out.exists()
    again = run_child("tasks.sft.train", killed.to_dict(), killed.folder, env={"OMP_NUM_THREADS": "1"})
    assert again["resumed_at"] >= 30, "31 was begun when the last kill fell, 30 was complete"
    assert again["steps"] == facts["steps"] == 48
    for name, expected in weights(whole).items():
        assert torch.equal(weights(killed)[name], expected), name


def test_the_parent_hears_progress_and_user_errors(make_job: MakeJob) -> None:
    job = make_job(batch_size=7)
    heard: list[dict[str, float]] = []
    run_child("tasks.sft.train", job.to_dict(), job.folder, on_progress=heard.append)
    assert [(line["done"], line["total"]) for line in heard] == [(1, 2), (2, 2)]
    assert all(line["loss"] > 0 for line in heard)
    broken = make_job("broken", student={"model": "/nowhere"})
    with pytest.raises(ChildFailed, match="/nowhere: no folder is there") as failure:
        run_child("tasks.sft.train", broken.to_dict(), broken.folder)
    assert not failure.value.retryable


@pytest.mark.parametrize("stage", [None, 2, 3], ids=["ddp", "zero2", "zero3"])
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@pytest.mark.parametrize("lora", [None, LORA], ids=["full", "lora"])
def test_every_precision_trains_under_every_zero(
    lora: dict[str, float] | None,
    precision: str,
    stage: int | None,
    make_job: MakeJob,
    zero_file: Callable[[int], str],
) -> None:
    """Two processes take two steps as one process in float32 does, and move all that trains."""
    settings = {"batch_size": 7, "epochs": 2, "optimiser": {"lr": 1e-2, "scheduler": "constant"}}
    student = {"devices": 2, "lora": lora, "precision": precision}
    job = make_job("two", student=student, deepspeed=zero_file(stage) if stage else None, **settings)
    run_child("tasks.sft.train", job.to_dict(), job.folder, devices=2, env={"OMP_NUM_THREADS": "1"})
    single = make_job("one", student={"lora": lora}, accumulate=2, **settings)
    run(single)
    losses, expected = (
        [entry["loss"] for entry in json.loads((j.out / "history.json").read_text())["steps"]] for j in (job, single)
    )
    assert expected[1] < expected[0] - 0.05, "one update is seen in the next loss"
    assert losses == pytest.approx(expected, abs=1e-3 if precision == "float32" else 0.02)
    trained = weights(job)
    assert trained.keys() == weights(single).keys(), "the names that others know"
    save_student(load_student(job.config.student.model, single.config.student, train=True), single.folder / "start")
    (file,) = (single.folder / "start").glob("*.safetensors")
    start = load_file(file)
    for part in ("visual.blocks", "visual.merger", "lora_B" if lora else "layers."):
        pairs = [(start[name].to(weight.dtype), weight) for name, weight in trained.items() if part in name]
        moved = sum(int((before != after).sum()) for before, after in pairs)
        assert moved > 0.9 * sum(before.numel() for before, _ in pairs) > 0, part


@pytest.mark.timeout(600)
@pytest.mark.parametrize(
    ("stage", "lora", "frozen"),
    [
        (None, None, False),
        (None, None, True),
        (2, LORA, True),
        (3, None, True),
    ],
    ids=["ddp", "ddp-frozen", "zero2-lora-frozen", "zero3-frozen"],
)
def test_two_processes(
    stage: int | None,
    lora: dict[str, float] | None,
    frozen: bool,
    make_job: MakeJob,
    zero_file: Callable[[int], str],
    tmp_path: Path,
) -> None:
    """Two processes take the steps of one that accumulates two batches, and resume as it does.

    frozen: the tower, whose features are kept, but not under ZeRO-3.
    """
    settings = {"batch_size": 7, "epochs": 4, "save_steps": 3, "lr": 1e-3, "freeze": {"vision": frozen}}
    deepspeed = zero_file(stage) if stage else None
    job = make_job("two", student={"devices": 2, "lora": lora}, deepspeed=deepspeed, **settings)
    environment = {"OMP_NUM_THREADS": "1", "DISCERN_HOME": str(tmp_path / "home")}
    facts = run_child("tasks.sft.train", job.to_dict(), job.folder, devices=2, env=environment)
    files = list((tmp_path / "home" / "cache" / "features").glob("*/*"))
    assert len(files) == (7 if frozen and stage != 3 else 0), "one a picture"
    assert facts["steps"] == 4
    assert math.isfinite(facts["loss"])
    assert (job.folder / "checkpoints" / "checkpoint-3" / "complete.json").is_file()
    before = weights(job)
    again = run_child("tasks.sft.train", job.to_dict(), job.folder, devices=2, env=environment)
    assert again["resumed_at"] == 3
    assert all(torch.equal(weight, before[name]) for name, weight in weights(job).items())
    single = make_job("one", student={"lora": lora}, accumulate=2, **settings)
    run_child("tasks.sft.train", single.to_dict(), single.folder, env={"OMP_NUM_THREADS": "1"})
    losses = [
        [entry["loss"] for entry in json.loads((j.out / "history.json").read_text())["steps"]] for j in (job, single)
    ]
    assert losses[0] == pytest.approx(losses[1], rel=0.02)
    assert weights(job).keys() == weights(single).keys(), "the names that others know"
    ours, expected = (
        load_student(str(j.out), StudentConfig(precision="float32")).model.state_dict() for j in (job, single)
    )
    assert ours.keys() == expected.keys()
    for name, weight in expected.items():
        torch.testing.assert_close(ours[name], weight, rtol=0, atol=2e-3, msg=name)
