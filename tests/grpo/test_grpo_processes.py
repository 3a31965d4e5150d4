"""GRPO in real processes: killed with SIGKILL and started again, shared by two processes, under ZeRO."""

from __future__ import annotations

import dataclasses
import functools
import json
import math
import subprocess
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import torch
from safetensors.torch import load_file

from pipeline_config.schema import StudentConfig
from tasks.launcher.child import run_child
from tasks.launcher.job import Job
from tasks.student.checkpoint import load_student, save_student
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
# The completions of one rank are a token long, so that its training forward makes a call fewer than the other's.
ONE_TOKEN = f"""
import dataclasses, os
import tasks.grpo.trainer as trainer
def generate(student, *args, once=trainer.generate, **settings):
    groups = once(student, *args, **settings)
    if os.environ["RANK"] == "0":
        return groups
    def cut(completion):
        ids = completion.token_ids[:1]
        return dataclasses.replace(
            completion, token_ids=ids, logprobs=completion.logprobs[:1], text=student.tokenizer.decode(ids)
        )
    return [[cut(completion) for completion in group] for group in groups]
trainer.generate = generate
{CHILD}"""
# Of four updates the second has a sudden gradient and the last a loss that is no number, each on one rank alone.
BROKEN = f"""
import os
import tasks.grpo.trainer as trainer
calls = []
def clipped_loss(*args, real=trainer.clipped_loss, **settings):
    update, micro = divmod(len(calls), 2)
    calls.append(1)
    loss, sums = real(*args, **settings)
    scale = {{(1, "0"): 1e5, (3, "1"): float("nan")}}.get((update, os.environ["RANK"]), 1.0)
    return (loss * scale if micro == 1 else loss), sums
trainer.clipped_loss = clipped_loss
{CHILD}"""
LORA = {"r": 4, "alpha": 8, "dropout": 0.0}
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
        assert ours == pytest.approx(theirs, rel=1e-3, abs=1e-6)
    files = [job.out / "model.safetensors" for job in (whole, unsharded)]
    trained, expected_weights, before = map(load_file, [*files, Path(whole.inputs["student"]) / "model.safetensors"])
    assert trained.keys() == expected_weights.keys() == before.keys(), "the names that others know"
    off = sum(float((trained[name] - weight).square().sum()) for name, weight in expected_weights.items())
    moved = sum(float((before[name] - weight).square().sum()) for name, weight in expected_weights.items())
    assert off**0.5 <= 1e-3 * moved**0.5


@pytest.mark.parametrize("student", [{}, {"precision": "bfloat16"}], ids=["float32", "bfloat16"])
def test_ranks_may_make_different_numbers_of_forwards(student: dict[str, Any], make_job: Callable[..., Job]) -> None:
    student = {"devices": 2, **student}
    job = make_job(steps=2, prompts_per_step=4, batch_size=1, config_student=student)
    finish(start(job, TWO, ONE_TOKEN), job, seconds=120)  # otherwise they wait for each other
    rows = pq.read_table(job.folder / "rollouts.parquet").to_pylist()
    lengths = [[row["num_tokens"] for row in rows[first : first + 4]] for first in range(0, len(rows), 4)]
    assert [set(group) == {1} for group in lengths] == [False, False, True, True] * 2, "the second rank's"
    assert all(entry["grad_norm"] > 0 for entry in steps_of(job))


@pytest.mark.timeout(600)
def test_updates_are_skipped_under_deepspeed_as_without(
    make_job: Callable[..., Job], zero_file: Callable[[int], str]
) -> None:
    """A spike and a loss that is no number: no rank moves a weight, and the schedule goes on."""
    optimiser = {"lr": 1e-2, "scheduler": "linear", "warmup_share": 0.0}
    student = {"devices": 2}
    settings = {"steps": 4, "prompts_per_step": 4, "batch_size": 1, "save_steps": 1, "config_student": student}
    ddp, *sharded = jobs = [
        make_job(f"zero{stage}", deepspeed=zero_file(stage) if stage else None, optimiser=optimiser, **settings)
        for stage in (0, 2, 3)
    ]
    for job in jobs:
        finish(start(job, TWO, BROKEN), job)
        steps = steps_of(job)
        assert [entry["skipped_updates"] for entry in steps] == [0, 1, 0, 1]
        assert math.isfinite(steps[1]["grad_norm"])
        assert not math.isfinite(steps[3]["grad_norm"])
        before_the_last = trained_weights(job.folder / "checkpoints" / "checkpoint-3")
        for name, weight in trained_weights(job.out).items():
            inside = name.replace("model.", "model.language_model.").replace("visual.", "model.visual.")
            assert torch.equal(weight, before_the_last[inside]), name
    for job in sharded:
        for ours, theirs in zip(steps_of(job)[:3], steps_of(ddp)[:3], strict=True):
            assert ours == pytest.approx(theirs, rel=1e-3, abs=1e-6)
        assert steps_of(job)[3]["learning_rate"] == pytest.approx(steps_of(ddp)[3]["learning_rate"])
        for name, weight in trained_weights(ddp.out).items():
            torch.testing.assert_close(trained_weights(job.out)[name], weight, rtol=1e-3, atol=1e-4, msg=name)


@pytest.fixture(scope="module")
def adapted_student(student_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The student in adapters that say something, as SFT leaves it."""
    student = load_student(str(student_folder), StudentConfig.model_validate({"lora": LORA}), train=True)
    torch.manual_seed(1)
    with torch.no_grad():
        for parameter in student.model.parameters():
            if parameter.requires_grad:
                parameter.add_(torch.randn_like(parameter) * 0.01)
    folder = tmp_path_factory.mktemp("adapted") / "student"
    save_student(student, folder)
    return folder


@pytest.fixture(scope="module")
def single_precision(
    make_job_in: Callable[..., Job], adapted_student: Path, tmp_path_factory: pytest.TempPathFactory
) -> Callable[[bool], Job]:
    """single_precision(lora) -> a finished run of two processes in float32 that hold the student whole."""

    @functools.cache
    def finished(lora: bool) -> Job:
        job = combined(make_job_in, tmp_path_factory.mktemp("single"), adapted_student if lora else None)
        finish(start(job, TWO), job)
        return job

    return finished


def combined(make: Callable[..., Job], parent: Path, adapted: Path | None, **student: Any) -> Job:
    """Two steps of two processes that train the vision tower too; adapted: the student, in adapters."""
    deepspeed = student.pop("deepspeed", None)
    settings = {"steps": 2, "prompts_per_step": 4, "batch_size": 1, "lr": 1e-3, "freeze": {"vision": False}}
    config_student = {"devices": 2, "lora": LORA if adapted else None, **student}
    job = make(parent, config_student=config_student, deepspeed=deepspeed, **settings)
    return dataclasses.replace(job, inputs={**job.inputs, "student": str(adapted)}) if adapted else job


def trained_weights(folder: Path) -> dict[str, torch.Tensor]:
    (file,) = folder.glob("*.safetensors")
    return load_file(file)


@pytest.mark.parametrize("stage", [None, 2, 3], ids=["ddp", "zero2", "zero3"])
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@pytest.mark.parametrize("lora", [False, True], ids=["full", "lora"])
def test_every_precision_trains_under_every_zero(
    lora: bool,
    precision: str,
    stage: int | None,
    single_precision: Callable[[bool], Job],
    adapted_student: Path,
    make_job_in: Callable[..., Job],
    zero_file: Callable[[int], str],
    tmp_path: Path,
) -> None:
    """Two steps are those of whole float32 weights, as far as the precision goes, and move all that trains."""
    single = single_precision(lora)
    job = combined(
        make_job_in,
        tmp_path,
        adapted_student if lora else None,
        precision=precision,
        deepspeed=zero_file(stage) if stage else None,
    )
    finish(start(job, TWO), job)
    close = {"rel": 1e-3, "abs": 1e-6} if precision == "float32" else {"rel": 0.3, "abs": 0.05}
    for ours, theirs in zip(steps_of(job), steps_of(single), strict=True):
        for name in ("reward", "entropy", "grad_norm"):
            assert ours[name] == pytest.approx(theirs[name], **close), name
        assert 0 <= ours["logprob_gap"] < (1e-5 if precision == "float32" else 0.05), "the policy that samples trains"
        assert ours["skipped_updates"] == 0
    trained, before = trained_weights(job.out), trained_weights(Path(job.inputs["student"]))
    assert trained.keys() == before.keys(), "the names that others know"
    for part in ("visual.blocks", "visual.merger", "lora_B" if lora else "layers."):
        pairs = [(before[name].to(weight.dtype), weight) for name, weight in trained.items() if part in name]
        moved = sum(int((start != end).sum()) for start, end in pairs)
        assert moved > 0.9 * sum(start.numel() for start, _ in pairs) > 0, part


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
