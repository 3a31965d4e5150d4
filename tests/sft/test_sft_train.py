"""SFT as its child runs it: what is learnt, from what, and the same weights after a kill as without."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import torch
from safetensors.torch import load_file

import tasks.student.torchvision_operators  # noqa: F401  before transformers

# isort: split
from transformers import TrainerCallback

from pipeline_config.schema import ConfigError, StudentConfig, load_config
from tasks.launcher.job import Job
from tasks.sft.dialogues import TrainingDialogues, collate_training
from tasks.sft.train import run
from tasks.sft.trainer import token_mean_loss
from tasks.student.checkpoint import Student, load_student
from tasks.student.encode import encode_dialogues
from tasks.student.freeze import parameter_digest, part_of
from tasks.student.trainer import last_complete

MakeJob = Callable[..., Job]


class Killed(Exception):
    pass


class KillAfter(TrainerCallback):
    def __init__(self, step: int) -> None:
        self.step = step

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.global_step == self.step:
            raise Killed


def weights(job: Job) -> dict[str, torch.Tensor]:
    (file,) = job.out.glob("*.safetensors")
    return load_file(file)


def test_the_student_learns_and_tells(make_job: MakeJob) -> None:
    job = make_job(epochs=4)
    facts = run(job)
    history = json.loads((job.out / "history.json").read_text())["steps"]
    assert [entry["step"] for entry in history] == list(range(1, 17))
    assert history[-1]["loss"] < 0.7 * history[0]["loss"]
    assert facts["steps"] == 16
    assert facts["dialogues"] == 14, "held-out dialogues are left out"
    assert facts["quarantined"] == facts["resumed_at"] == 0
    assert math.isclose(facts["loss"], history[-1]["loss"], rel_tol=1e-5)
    before = load_student(job.config.student.model, StudentConfig(precision="float32"))
    after = load_student(str(job.out), StudentConfig(precision="float32"))
    for part in ("vision", "merger", "language"):
        assert parameter_digest(after.model, part) != parameter_digest(before.model, part)


def test_frozen_parts_stay(make_job: MakeJob) -> None:
    job = make_job(freeze={"vision": True, "merger": True})
    run(job)
    before = load_student(job.config.student.model, StudentConfig(precision="float32")).model
    after = load_student(str(job.out), StudentConfig(precision="float32")).model
    assert parameter_digest(after, "vision") == parameter_digest(before, "vision")
    assert parameter_digest(after, "merger") == parameter_digest(before, "merger")
    assert parameter_digest(after, "language") != parameter_digest(before, "language")


def test_the_loss_is_the_models_own(small_student: Path, dialogues: Path) -> None:
    """Without mask and without the prompt's logits, the loss is what the plain forward pass gives."""
    student = load_student(str(small_student), StudentConfig(precision="float32"))
    rows = [row for row in pq.read_table(dialogues).to_pylist() if row["split"] == "train"][:5]
    batch = collate_training(student, TrainingDialogues(student, dialogues, 400).encoded[:5])
    labels = batch.pop("labels")
    assert len({int(row.sum()) for row in batch["logits_to_keep"]}) > 1, "rows differ in length"
    ours = token_mean_loss(student.model(**batch), labels)
    theirs = student.model(**encode_dialogues(student, rows, 400)).loss
    torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-6)


def test_accumulation_changes_nothing(make_job: MakeJob) -> None:
    """Nor does it scale the gradient before it is clipped, which the weights do not show: Adam divides by it."""
    at_once = make_job("at_once", batch_size=14, save_steps=99)
    in_parts = make_job("in_parts", batch_size=4, accumulate=4, save_steps=99)
    assert run(at_once)["steps"] == run(in_parts)["steps"] == 1
    assert_same(weights(at_once), weights(in_parts), atol=1e-4)
    (one,), (other,) = (json.loads((job.out / "history.json").read_text())["steps"] for job in (at_once, in_parts))
    assert other["grad_norm"] == pytest.approx(one["grad_norm"], rel=1e-3)
    assert other["loss"] == pytest.approx(one["loss"], rel=1e-3)


@pytest.mark.parametrize("lora", [None, {"r": 4, "alpha": 8, "dropout": 0.5}], ids=["full", "lora"])
def test_a_resumed_run_ends_in_the_same_weights(lora: dict[str, Any] | None, make_job: MakeJob) -> None:
    options = {"student": {"lora": lora}, "epochs": 2.5, "accumulate": 1}
    whole, broken = make_job("whole", **options), make_job("broken", **options)
    assert run(whole)["steps"] == 10
    with pytest.raises(Killed):
        run(broken, [KillAfter(8)])
    checkpoints = broken.folder / "checkpoints"
    newest = last_complete(checkpoints)
    assert newest is not None
    assert newest.name == "checkpoint-6"
    half_written = checkpoints / "checkpoint-9"
    half_written.mkdir()
    (half_written / "trainer_state.json").write_text("{")
    assert not broken.out.exists()
    facts = run(broken)
    assert (facts["resumed_at"], facts["steps"]) == (6, 10)
    assert_same(weights(whole), weights(broken), atol=0)
    losses = [json.loads((job.out / "history.json").read_text())["steps"] for job in (whole, broken)]
    assert [entry["loss"] for entry in losses[0]] == [entry["loss"] for entry in losses[1]]


def test_dialogues_too_long_are_quarantined(make_job: MakeJob) -> None:
    job = make_job()
    lengths = TrainingDialogues(
        load_student(job.config.student.model, StudentConfig(precision="float32")), Path(job.inputs["dialogues"]), 400
    ).lengths
    limit = sorted(lengths)[9]
    job = make_job("short", max_tokens=limit)
    facts = run(job)
    expected = [f"d{i:02d}" for i, length in enumerate(lengths) if length > limit]
    quarantine = pq.read_table(job.folder / "quarantine.parquet").to_pylist()
    assert [row["id"] for row in quarantine] == expected
    assert facts["quarantined"] == len(expected) > 0
    assert all(f"exceed max_tokens {limit}" in row["reason"] for row in quarantine)


def test_an_epoch_sees_the_dialogues_of_a_sub_task_as_often_as_asked(small_student: Path, dialogues: Path) -> None:
    student = load_student(str(small_student), StudentConfig(precision="float32"))
    once = TrainingDialogues(student, dialogues, 400)
    sub_task = pq.read_table(dialogues)["sub_task"][0].as_py()
    train = pq.read_table(dialogues, filters=[("split", "=", "train"), ("sub_task", "=", sub_task)])
    assert len(TrainingDialogues(student, dialogues, 400, {sub_task: 3})) == len(once) + 2 * train.num_rows


def test_repeats_are_the_configurations(make_job: MakeJob) -> None:
    assert run(make_job(repeats={"mcq": 3}, batch_size=42, save_steps=99))["dialogues"] == 14 * 3


def test_the_seed_draws_the_order_of_batches(make_job: MakeJob) -> None:
    losses = []
    for seed in (1, 2):
        job = dataclasses.replace(make_job(f"seed{seed}", save_steps=99), seed=seed)
        run(job)
        losses.append([entry["loss"] for entry in json.loads((job.out / "history.json").read_text())["steps"]])
    assert losses[0][0] != pytest.approx(losses[1][0], rel=1e-4)


def test_new_adapters_start_from_the_seed(make_job: MakeJob) -> None:
    """One batch holds all dialogues: their order changes rounding alone."""
    lora = {"lora": {"r": 4, "alpha": 8, "dropout": 0.0}}
    started = []
    for name, seed in (("first", 1), ("again", 1), ("other", 2)):
        job = dataclasses.replace(make_job(name, student=lora, batch_size=14, save_steps=99, lr=1e-6), seed=seed)
        run(job)
        started.append({key: tensor for key, tensor in weights(job).items() if "lora_A" in key})
    assert started[0]
    for key, tensor in started[0].items():
        torch.testing.assert_close(started[1][key], tensor)
        assert (started[2][key] - tensor).abs().max() > 1e-2


def test_the_checkpoint_before_stays_while_the_next_is_written(make_job: MakeJob) -> None:
    job = make_job(save_steps=1)
    assert run(job)["steps"] == 4
    assert sorted(path.name for path in (job.folder / "checkpoints").iterdir()) == ["checkpoint-2", "checkpoint-3"]


def test_nothing_to_train_on_is_said(make_job: MakeJob, dialogues: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"all 14 dialogues exceed 10 tokens; raise sft\.max_tokens"):
        run(make_job(max_tokens=10))
    held_out = pq.read_table(dialogues, filters=[("split", "=", "test")])
    pq.write_table(held_out, tmp_path / "test.parquet")
    with pytest.raises(ConfigError, match="holds no training dialogue"):
        run(make_job(rows=tmp_path / "test.parquet"))


def test_devices_that_are_not_there_are_said(make_job: MakeJob) -> None:
    with pytest.raises(ConfigError, match=r"student\.devices is 2, but 1 process"):
        run(make_job(student={"devices": 2}))


def test_a_loss_that_is_no_number_is_said(make_job: MakeJob) -> None:
    job = make_job(lr=1e30)
    with pytest.raises(ValueError, match=r"lower sft\.optimiser\.lr"):
        run(job)
    assert not job.out.exists()


def test_half_precision_keeps_float32_weights_in_training(make_job: MakeJob) -> None:
    job = make_job(student={"precision": "bfloat16"}, save_steps=99)
    assert math.isfinite(run(job)["loss"])
    assert {tensor.dtype for tensor in weights(job).values()} == {torch.float32}
    assert load_student(str(job.out), job.config.student).model.dtype == torch.bfloat16


def test_lora_in_half_precision_moves_all_that_trains(make_job: MakeJob) -> None:
    """At the rates of the 7B recipe, where bfloat16 weights without float32 ones behind them hardly move."""
    rates = load_config("qwen2_5_vl_7b").sft.optimiser.model_dump()
    lora = {"r": 4, "alpha": 8, "dropout": 0.0}
    job = make_job(
        student={"precision": "bfloat16", "lora": lora}, epochs=9, batch_size=4, optimiser=rates, save_steps=99
    )
    assert run(job)["steps"] >= 35
    trained = weights(job)
    base = load_student(job.config.student.model, StudentConfig(precision="bfloat16")).model
    for part in ("vision", "merger"):
        pairs = [
            (parameter.float(), trained[f"base_model.model.{name}"])
            for name, parameter in base.named_parameters()
            if part_of(name) == part
        ]
        moved = sum(int((before != after).sum()) for before, after in pairs)
        assert moved / sum(before.numel() for before, _ in pairs) > 0.99, part


def assert_same(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor], atol: float) -> None:
    assert first.keys() == second.keys()
    for name in first:
        torch.testing.assert_close(first[name], second[name], rtol=0, atol=atol, msg=name)


@pytest.mark.parametrize(
    ("precision", "lora"), [("float32", {"r": 4, "alpha": 8, "dropout": 0.0}), ("bfloat16", None)], ids=["lora", "full"]
)
def test_a_frozen_tower_sees_a_picture_once_and_the_student_learns_the_same(
    make_job: MakeJob,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    pictures_seen: list[int],
    lora: dict[str, Any] | None,
    precision: str,
) -> None:
    """Over the epochs of a run, and over runs: the second finds them on disk and ends in the same bytes."""
    monkeypatch.setenv("DISCERN_HOME", str(tmp_path / "home"))
    settings = {"student": {"lora": lora, "precision": precision}, "epochs": 2, "freeze": {"vision": True}, "lr": 1e-3}
    first, second, plain = (make_job(name, **settings) for name in ("first", "second", "plain"))
    run(first)
    assert sum(pictures_seen) == 7, "seven pictures"
    num_calls = len(pictures_seen)
    run(second)
    assert len(pictures_seen) == num_calls
    monkeypatch.setattr(Student, "features", None)
    run(plain)
    assert len(pictures_seen) == num_calls + 8, "a batch a step"
    assert_same(weights(first), weights(second), atol=0)
    kept, computed = (
        [entry["loss"] for entry in json.loads((job.out / "history.json").read_text())["steps"]]
        for job in (first, plain)
    )
    assert kept == pytest.approx(computed, rel=1e-4 if precision == "float32" else 2e-2)
    if precision == "float32":
        assert_same(weights(first), weights(plain), atol=1e-5)
