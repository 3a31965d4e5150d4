"""Whole GRPO runs of a tiny random student: what they write, that they learn, that a kill changes nothing."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

import tasks.student.torchvision_operators  # noqa: F401  before anything imports torchvision

# isort: split
import torch
from safetensors.torch import load_file
from transformers import TrainerCallback

from data_contracts.check import ContractError
from data_contracts.records import ROLLOUTS
from pipeline_config.schema import ConfigError, StudentConfig
from tasks.grpo.forward import completion_logprobs, training_forward
from tasks.grpo.train import run
from tasks.grpo.trainer import GrpoTrainer, whole_groups
from tasks.launcher.job import Job
from tasks.student.checkpoint import Student, load_student
from tasks.student.freeze import parameter_digest
from tasks.student.trainer import checkpoint_state_of, last_complete

MakeJob = Callable[..., Job]
FIGURES = {
    "reward", "reward_std", "accuracy", "part_letters", "entropy", "zero_variance_share", "clip_low", "clip_high",
    "approx_kl", "sampled_entropy", "logprob_gap", "all_right_share", "all_wrong_share", "expansion", "num_rollouts",
    "skipped_updates", "completion_tokens", "truncated_share", "grad_norm", "learning_rate", "loss", "step",
}  # fmt: skip
pytestmark = pytest.mark.usefixtures("letters_reward")


def history(job: Job) -> list[dict[str, float]]:
    steps: list[dict[str, float]] = json.loads((job.out / "history.json").read_text())["steps"]
    return steps


def weights(job: Job) -> dict[str, torch.Tensor]:
    return load_file(job.out / "model.safetensors")


def rollouts(job: Job) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = pq.read_table(job.folder / "rollouts.parquet").to_pylist()
    return rows


def last_state(job: Job) -> dict[str, Any]:
    """Sampler, expansion, guard and number of rollouts as the newest checkpoint keeps them."""
    newest = last_complete(job.folder / "checkpoints")
    assert newest is not None
    return checkpoint_state_of(newest)


class Interrupted(Exception):
    pass


class Interrupt(TrainerCallback):
    """Ends a run in the middle of a step: its rollouts are written, its update is not made."""

    def __init__(self, after_updates: int) -> None:
        self.after_updates = after_updates

    def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.global_step == self.after_updates:
            raise Interrupted


def test_three_steps_write_student_history_and_every_rollout(make_job: MakeJob, student_folder: Path) -> None:
    job = make_job(steps=3, prompts_per_step=2, num_rollouts=4, probe_prompts=3, probe_rollouts=2)
    facts = run(job)
    assert facts["steps"] == 3
    assert facts["num_prompts"] == 12
    assert facts["num_rollouts"] == 3 * 2 * 4
    table = pq.read_table(job.folder / "rollouts.parquet")
    assert table.schema.equals(ROLLOUTS)
    rows = table.to_pylist()
    assert len({row["rollout_id"] for row in rows}) == len(rows) == 24
    assert [row["step"] for row in rows] == [1] * 8 + [2] * 8 + [3] * 8
    for start in range(0, 24, 4):
        group = rows[start : start + 4]
        assert len({row["dialogue_id"] for row in group}) == 1
        assert [row["rollout"] for row in group] == [0, 1, 2, 3]
        assert sum(row["advantage"] for row in group) == pytest.approx(0, abs=1e-6)
        assert all(dict(row["parts"])["letters"] == row["reward"] for row in group)
    steps = history(job)
    assert [entry["step"] for entry in steps] == [1, 2, 3]
    assert all(set(entry) >= FIGURES for entry in steps)
    for entry in steps:
        rewards = [row["reward"] for row in rows if row["step"] == entry["step"]]
        assert entry["reward"] == pytest.approx(sum(rewards) / len(rewards))
        assert entry["clip_low"] == entry["clip_high"] == 0, "the first update of a step is on-policy"
        assert entry["approx_kl"] == pytest.approx(0, abs=1e-9)
        assert entry["logprob_gap"] < 1e-5, "the policy that samples is the one that trains"
        assert entry["sampled_entropy"] == pytest.approx(entry["entropy"], rel=0.25)
    probes = json.loads((job.out / "history.json").read_text())["probe"]
    assert probes["before"]["reward"] == facts["probe_before"]
    assert probes["after"]["reward"] == facts["probe_after"]
    assert len(probes["before"]["rewards"]) == 3
    before, after = (
        load_student(str(path), StudentConfig(precision="float32")).model for path in (student_folder, job.out)
    )
    assert parameter_digest(before, "vision") == parameter_digest(after, "vision"), "frozen by default"
    assert parameter_digest(before, "language") != parameter_digest(after, "language")


def test_it_learns_what_is_rewarded(make_job: MakeJob) -> None:
    job = make_job(
        steps=16, prompts_per_step=4, num_rollouts=8, batch_size=4, probe_prompts=8, probe_rollouts=8, lr=0.03
    )
    facts = run(job)
    assert facts["probe_before"] < 0.35
    assert facts["probe_after"] > 0.7
    entropies = [entry["entropy"] for entry in history(job)]
    assert entropies[-1] < entropies[0]


@pytest.mark.parametrize("inner_updates", [1, 2])
def test_an_interrupted_run_goes_on_as_if_nothing_had_been(make_job: MakeJob, inner_updates: int) -> None:
    settings = {"steps": 4, "save_steps": 1, "beta": 0.02, "probe_prompts": 2, "probe_rollouts": 2}
    whole, cut = (make_job(name, inner_updates=inner_updates, **settings) for name in ("whole", "cut"))
    run(whole)
    with pytest.raises(Interrupted):
        run(cut, [Interrupt(after_updates=3 * inner_updates - 1)])
    first_probe = (cut.folder / "probe_before.json").read_text()
    (cut.folder / "probe_before.json").write_text(first_probe.replace("{", '{"kept": 1, ', 1))
    assert (cut.folder / "rollouts" / "step-000003-rank-000.parquet").exists()
    # What a kill during the writing of the next checkpoint leaves behind.
    torn = cut.folder / "checkpoints" / f"checkpoint-{3 * inner_updates}"
    torn.mkdir()
    (torn / "model.safetensors").write_bytes(b"half")
    run(cut)
    assert weights(cut).keys() == weights(whole).keys()
    for name, tensor in weights(whole).items():
        assert torch.equal(tensor, weights(cut)[name]), name
    assert rollouts(cut) == rollouts(whole)
    assert history(cut) == history(whole)
    assert json.loads((cut.out / "history.json").read_text())["probe"]["before"]["kept"] == 1, "not probed again"
    states = [last_state(job) for job in (whole, cut)]
    assert states[0] == states[1]
    assert states[0]["guard"]["usual"] > 0


@pytest.mark.parametrize("lora", [None, {"r": 4, "alpha": 8, "dropout": 0.0}])
@pytest.mark.parametrize(("merger", "checkpointing"), [(False, False), (True, False), (True, True)])
def test_a_shared_prompt_trains_the_same_student(
    make_job: MakeJob, monkeypatch: pytest.MonkeyPatch, lora: dict[str, Any] | None, merger: bool, checkpointing: bool
) -> None:
    student = {"precision": "float32", "lora": lora, "gradient_checkpointing": checkpointing}
    frozen = {"vision": True, "merger": merger}
    settings = {
        "config_student": student,
        "freeze": frozen,
        "steps": 2,
        "inner_updates": 2,
        "beta": 0.02,
        "batch_size": 1,
        "lr": 1e-3,
    }
    repeated, shared = (make_job(name, **settings) for name in ("repeated", "shared"))
    run(shared)
    monkeypatch.setattr("tasks.grpo.trainer.training_forward", lambda config: completion_logprobs)
    run(repeated)
    file = "adapter_model.safetensors" if lora else "model.safetensors"
    theirs, ours = (load_file(job.out / file) for job in (repeated, shared))
    assert theirs.keys() == ours.keys()
    for name, tensor in theirs.items():
        torch.testing.assert_close(ours[name], tensor, rtol=1e-3, atol=1e-5, msg=name)
    assert rollouts(shared) == rollouts(repeated)


@pytest.mark.parametrize(
    ("prompt_B", "num_micros", "expected"),
    [
        ([0, 0, 0, 1, 2, 2], 3, [[0, 0, 0], [1], [2, 2]]),
        ([0, 0, 0, 1, 2, 2], 2, [[0, 0, 0], [1, 2, 2]]),
        ([3, 5, 5, 5], 1, [[3, 5, 5, 5]]),
        ([1, 1, 4], 2, [[1, 1], [4]]),
    ],
)
def test_a_micro_batch_is_made_of_whole_groups(prompt_B: list[int], num_micros: int, expected: list[list[int]]) -> None:
    prompts = torch.tensor(prompt_B)
    assert [prompts[whole_groups(prompts, micro, num_micros)].tolist() for micro in range(num_micros)] == expected


@pytest.mark.parametrize("checkpointing", [False, True])
def test_a_prompt_is_computed_once_for_all_its_completions(
    make_job: MakeJob, monkeypatch: pytest.MonkeyPatch, checkpointing: bool
) -> None:
    """Also where an update is several micro-batches: two of one prompt and its group each."""
    computed: list[tuple[int, int]] = []
    forward = training_forward

    def counting(config: Any) -> Any:
        def count(model: Any, prompts: Any, completions: Any, **settings: Any) -> Any:
            rows: list[int] = []
            handle = model.register_forward_pre_hook(
                lambda _, __, given: rows.append(len(given["input_ids"])), with_kwargs=True
            )
            logprobs = forward(config)(model, prompts, completions, **settings)
            handle.remove()
            computed.append((len(completions.prompt_B.unique()), rows[0]))
            return logprobs

        return count

    monkeypatch.setattr("tasks.grpo.trainer.training_forward", counting)
    student = {"gradient_checkpointing": checkpointing}
    run(make_job(steps=2, prompts_per_step=2, num_rollouts=4, batch_size=1, config_student=student))
    assert computed == [(1, 1)] * 4


def assert_same_run(first: Job, second: Job) -> None:
    """The same rollouts, and weights that differ by rounding."""
    ours = weights(first)
    for name, tensor in weights(second).items():
        torch.testing.assert_close(ours[name], tensor, rtol=1e-3, atol=1e-5, msg=name)
    assert rollouts(first) == rollouts(second)


@pytest.mark.parametrize("repeat_prompt", [False, True])
def test_a_tower_that_is_frozen_sees_a_picture_once_and_trains_the_same_student(
    make_job: MakeJob,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    pictures_seen: list[int],
    repeat_prompt: bool,
) -> None:
    """In rollouts and training of all steps and probes. One that trains: once for the rollouts and each forward."""
    monkeypatch.setenv("DISCERN_HOME", str(tmp_path / "home"))
    settings = {
        **{"steps": 3, "prompts_per_step": 4, "num_rollouts": 2, "batch_size": 4, "lr": 1e-3},
        **{"beta": 0.02, "probe_prompts": 2},
    }
    if repeat_prompt:
        monkeypatch.setattr("tasks.grpo.trainer.training_forward", lambda config: completion_logprobs)
    kept, plain, trained = (
        make_job(name, freeze={"vision": name != "trained"}, **settings) for name in ("kept", "plain", "trained")
    )
    run(kept)
    assert sum(pictures_seen) == 12, "twelve pictures"
    pictures_seen.clear()
    run(trained)
    assert sum(pictures_seen) == 2 * 2 + 3 * 4 * 3, "probes; rollouts, reference and policy"
    monkeypatch.setattr(Student, "features", None)
    run(plain)
    assert_same_run(kept, plain)
    start, ours = load_file(Path(kept.inputs["student"]) / "model.safetensors"), weights(kept)
    assert not all(torch.equal(tensor, ours[name]) for name, tensor in start.items() if "merger" in name)


@pytest.mark.parametrize("checkpointing", [False, True])
def test_a_tower_that_trains_sees_a_picture_once_a_step(
    make_job: MakeJob, monkeypatch: pytest.MonkeyPatch, pictures_seen: list[int], checkpointing: bool
) -> None:
    """Where a step is one forward; its gradients are those of a tower that sees it in rollouts and training."""
    settings = {
        **{"steps": 3, "prompts_per_step": 4, "num_rollouts": 2, "batch_size": 4, "lr": 1e-3},
        "freeze": {"vision": False},
        "config_student": {"gradient_checkpointing": checkpointing},
    }
    once, micros, plain = (
        make_job(name, **{**settings, "batch_size": 2 if name == "micros" else 4})
        for name in ("once", "micros", "plain")
    )
    run(once)
    assert pictures_seen == [4, 4, 4]
    pictures_seen.clear()
    run(micros)
    assert pictures_seen == [4, 2, 2] * 3, "rollouts, then two forwards"
    monkeypatch.setattr(Student, "features", None)
    run(plain)
    assert_same_run(once, plain)
    start, ours = load_file(Path(once.inputs["student"]) / "model.safetensors"), weights(once)
    assert not any(torch.equal(tensor, ours[name]) for name, tensor in start.items() if "visual.blocks" in name)


def test_lora_trains_adapters_against_its_own_start_and_resumes(make_job: MakeJob, student_folder: Path) -> None:
    lora = {"lora": {"r": 4, "alpha": 8, "dropout": 0.1}, "gradient_checkpointing": True}
    whole, cut = (
        make_job(name, config_student=lora, steps=3, save_steps=1, beta=0.1, batch_size=2) for name in ("whole", "cut")
    )
    run(whole)
    with pytest.raises(Interrupted):
        run(cut, [Interrupt(after_updates=2)])
    run(cut)
    adapters = [load_file(job.out / "adapter_model.safetensors") for job in (whole, cut)]
    assert all(torch.equal(tensor, adapters[1][name]) for name, tensor in adapters[0].items())
    assert history(cut) == history(whole)
    assert history(whole)[0]["reference_kl"] == 0 < history(whole)[-1]["reference_kl"]
    student = load_student(str(whole.out), whole.config.student)
    assert any("lora_B" in name and p.any() for name, p in student.model.named_parameters())


def test_mixed_precision_keeps_the_optimizers_weights_whole(make_job: MakeJob) -> None:
    job = make_job(steps=2, batch_size=2, config_student={"precision": "bfloat16"})
    run(job)
    assert all(abs(entry["approx_kl"]) < 1e-6 and entry["grad_norm"] > 0 for entry in history(job))
    assert all(0 < entry["logprob_gap"] < 0.05 for entry in history(job)), "sampling rounds as training, nearly"
    assert {tensor.dtype for tensor in weights(job).values()} == {torch.float32}


def test_a_finished_run_started_again_only_writes_its_output(make_job: MakeJob) -> None:
    job = make_job(steps=2)
    run(job)
    before, rows = weights(job), rollouts(job)
    run(job, [Interrupt(after_updates=0), Interrupt(after_updates=2)])
    assert all(torch.equal(tensor, before[name]) for name, tensor in weights(job).items())
    assert rollouts(job) == rows


def test_micro_batches_do_not_change_the_result(make_job: MakeJob) -> None:
    jobs = [make_job(f"b{size}", steps=2, batch_size=size, loss_per="token") for size in (2, 1)]
    for job in jobs:
        run(job)
    whole, cut = jobs
    assert [row["completion"] for row in rollouts(cut)] == [row["completion"] for row in rollouts(whole)]
    for entry, other in zip(history(whole), history(cut), strict=True):
        assert entry == pytest.approx(other, rel=1e-3, abs=1e-6)


def test_several_updates_clip(make_job: MakeJob) -> None:
    job = make_job(steps=2, inner_updates=4, lr=0.05, batch_size=2)
    facts = run(job)
    assert facts["steps"] == 2
    assert len(rollouts(job)) == 2 * 2 * 4
    steps = history(job)
    assert all(entry["approx_kl"] > 0 for entry in steps)
    assert any(entry["clip_high"] + entry["clip_low"] > 0 for entry in steps)


def test_groups_without_variance_do_not_move_the_policy(make_job: MakeJob, student_folder: Path) -> None:
    job = make_job(steps=2, rubric="format")
    run(job)
    assert all(entry["zero_variance_share"] == 1 and entry["grad_norm"] == 0 for entry in history(job))
    start = load_file(student_folder / "model.safetensors")
    decay = {name: tensor for name, tensor in weights(job).items() if not torch.equal(tensor, start[name])}
    assert not decay or all(torch.allclose(t, start[n], rtol=1e-2) for n, t in decay.items())


def test_a_reference_holds_the_policy_back(make_job: MakeJob) -> None:
    drifts = []
    for beta in (1e-6, 5.0):
        job = make_job(f"beta{beta}", steps=6, beta=beta, batch_size=2)
        run(job)
        assert history(job)[0]["reference_kl"] == 0, "it starts as the reference"
        drifts.append(history(job)[-1]["reference_kl"])
    assert 0 < drifts[1] < drifts[0] / 2


def test_no_step_passes_the_student_on(make_job: MakeJob, student_folder: Path) -> None:
    job = make_job(steps=0)
    assert run(job)["num_rollouts"] == 0
    start = load_file(student_folder / "model.safetensors")
    assert all(torch.equal(tensor, start[name]) for name, tensor in weights(job).items())


def test_difficulty_of_other_dialogues_is_refused(make_job: MakeJob, tmp_path: Path) -> None:
    job = make_job()
    table = pq.read_table(job.inputs["dialogues"])
    pq.write_table(table.slice(0, 11), tmp_path / "fewer.parquet")
    with pytest.raises(ContractError, match=r"d11.*is no row of .*fewer\.parquet"):
        run(dataclasses.replace(job, inputs={**job.inputs, "dialogues": str(tmp_path / "fewer.parquet")}))


def test_a_reference_under_zero3_is_refused_with_its_cure(make_job: MakeJob) -> None:
    with pytest.raises(ConfigError, match=r"grpo\.beta.*zero3\.json.*zero2\.json"):
        run(make_job(deepspeed="pipeline_config/deepspeed/zero3.json", beta=0.1))


CURRICULUM = {"sampling": {"order": "curriculum", "max_expansion": 4.0}}


def test_expansion_rolls_out_more_and_trains_on_the_groups_that_differ(make_job: MakeJob) -> None:
    # A reward that is mostly 0 or equal: most groups of four have nothing to learn from.
    job = make_job(steps=12, rubric="rare", batch_size=2, lr=1e-4, **CURRICULUM)
    run(job)
    steps, rows = history(job), rollouts(job)
    assert steps[-1]["expansion"] > steps[0]["expansion"] == 1.0
    assert max(len([row for row in rows if row["step"] == entry["step"]]) for entry in steps) > 2 * 4
    assert steps[-1]["num_rollouts"] == len(rows)
    dropped = 0
    for entry in steps:
        groups = [[row for row in rows if row["step"] == entry["step"]][i::4] for i in range(4)]
        by_prompt = list(zip(*groups, strict=True))
        assert entry["reward"] == pytest.approx(sum(r["reward"] for g in by_prompt for r in g) / (4 * len(by_prompt)))
        differ = [len({row["reward"] for row in group}) > 1 for group in by_prompt]
        assert entry["zero_variance_share"] == pytest.approx(1 - sum(differ) / len(by_prompt)), "over all groups"
        for group, differs in zip(by_prompt, differ, strict=True):
            assert len({row["dialogue_id"] for row in group}) == 1
            assert {row["trained"] for row in group} <= {differs}, "a group is trained on whole, or dropped"
            dropped += not group[0]["trained"]
        assert sum(group[0]["trained"] for group in by_prompt) == min(2, sum(differ))
        assert sum(entry[f"tier_{name}"] for name in ("too_hard", "middle", "too_easy")) == pytest.approx(1)
    assert dropped


def test_an_interrupted_curriculum_goes_on_as_if_nothing_had_been(make_job: MakeJob) -> None:
    settings = {"rubric": "rare", "steps": 6, "save_steps": 2, "inner_updates": 2, **CURRICULUM}
    whole, cut = (make_job(name, **settings) for name in ("whole", "cut"))
    run(whole)
    with pytest.raises(Interrupted):
        run(cut, [Interrupt(after_updates=2 * 5 - 1)])
    run(cut)
    assert rollouts(cut) == rollouts(whole)
    assert history(cut) == history(whole)
    assert last_state(cut) == last_state(whole)
    assert all(torch.equal(tensor, weights(cut)[name]) for name, tensor in weights(whole).items())


def test_it_ends_with_the_step_that_reaches_its_rollouts(make_job: MakeJob) -> None:
    job = make_job(steps=9, max_rollouts=17)
    assert run(job)["steps"] == 3
    assert len(rollouts(job)) == 24
    before = weights(job)
    assert run(job)["steps"] == 3, "started again it has nothing to do"
    assert all(torch.equal(tensor, before[name]) for name, tensor in weights(job).items())


@pytest.mark.parametrize("inner_updates", [1, 2])
def test_the_schedule_of_a_run_that_its_rollouts_end_is_that_of_so_many_steps(
    make_job: MakeJob, inner_updates: int
) -> None:
    """A step makes 8 rollouts."""
    optimiser = {"lr": 1e-3, "scheduler": "cosine", "warmup_share": 0.25}
    settings = {"inner_updates": inner_updates, "optimiser": optimiser}
    by_steps = make_job("steps", steps=4, **settings)
    by_rollouts = make_job("rollouts", steps=40, max_rollouts=32, **settings)
    for job in (by_steps, by_rollouts):
        run(job)
    rates = [[entry["learning_rate"] for entry in history(job)] for job in (by_steps, by_rollouts)]
    assert rates[1] == pytest.approx(rates[0], rel=1e-9)
    assert rates[1][-1] < 0.3 * max(rates[1])


def test_a_run_that_its_rollouts_end_resumes_at_its_place_in_the_schedule(make_job: MakeJob) -> None:
    optimiser = {"lr": 1e-2, "scheduler": "cosine", "warmup_share": 0.25}
    settings = {"steps": 40, "max_rollouts": 40, "inner_updates": 2, "save_steps": 2, "optimiser": optimiser}
    whole, cut = (make_job(name, **settings) for name in ("whole", "cut"))
    run(whole)
    with pytest.raises(Interrupted):
        run(cut, [Interrupt(after_updates=7)])
    run(cut)
    assert history(cut) == history(whole)
    assert all(torch.equal(tensor, weights(cut)[name]) for name, tensor in weights(whole).items())


def test_completions_cut_at_the_limit_are_not_trained_on(make_job: MakeJob) -> None:
    job = make_job(steps=2, max_new_tokens=3, overlong={"mask": True, "penalty_tokens": 2})
    run(job)
    rows = rollouts(job)
    assert any(row["truncated"] for row in rows)
    assert not any(row["trained"] for row in rows if row["truncated"])
    assert all(dict(row["parts"])["overlong"] == -1 for row in rows if row["truncated"])
    for row in rows:
        parts = dict(row["parts"])
        assert row["reward"] == pytest.approx(parts["letters"] + parts["overlong"])


def test_an_update_that_is_no_number_is_skipped(make_job: MakeJob, monkeypatch: pytest.MonkeyPatch) -> None:
    import tasks.grpo.trainer as module

    real, calls = module.clipped_loss, []

    def sometimes(*args: Any, **kwargs: Any) -> Any:
        calls.append(1)
        loss, sums = real(*args, **kwargs)
        return (loss * float("nan") if len(calls) == 2 else loss), sums

    monkeypatch.setattr(module, "clipped_loss", sometimes)
    job = make_job(steps=3, batch_size=2)
    run(job)
    assert [entry["skipped_updates"] for entry in history(job)] == [0, 1, 0]
    assert all(tensor.isfinite().all() for tensor in weights(job).values())
    monkeypatch.setattr(module, "clipped_loss", lambda *a, **k: (real(*a, **k)[0] * float("nan"), real(*a, **k)[1]))
    with pytest.raises(ValueError, match=r"lower grpo\.optimiser\.lr"):
        run(make_job("hopeless", steps=9, batch_size=2))


def test_thinking_can_be_cut_short_and_what_was_put_there_is_not_trained_on(
    make_job: MakeJob, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A student of random weights opens no thinking by itself: here every text counts as thinking that goes on."""
    import tasks.student.generate as sampling

    monkeypatch.setattr(sampling, "_answer_now", lambda student, token_ids: [5, 6])
    seen = []
    real = GrpoTrainer._micro_loss

    def looking(self: Any, model: Any, batch: Any, rows: slice, **settings: Any) -> torch.Tensor:
        seen.append(batch.completions.rows(rows))
        return real(self, model, batch, rows, **settings)

    monkeypatch.setattr(GrpoTrainer, "_micro_loss", looking)
    run(make_job(steps=1, max_think_tokens=3, batch_size=2))
    (completions,) = seen
    longer = completions.mask_BC.sum(1) > 5
    assert longer.any()
    assert completions.token_ids_BC[longer][:, 3:5].tolist() == [[5, 6]] * int(longer.sum())
    assert completions.in_loss_BC[longer][:, :6].tolist() == [[1, 1, 1, 0, 0, 1]] * int(longer.sum())


def test_devices_that_do_not_fit_the_configuration_are_refused(make_job: MakeJob) -> None:
    with pytest.raises(ConfigError, match=r"grpo\.deepspeed: needs student\.devices of two or more"):
        run(make_job(deepspeed="pipeline_config/deepspeed/zero2.json"))
    with pytest.raises(ConfigError, match="start it with torchrun"):
        run(make_job(config_student={"devices": 2}))
