"""What a step of GRPO makes of its configuration: each number that is only passed on changes what comes out."""

from __future__ import annotations

import dataclasses
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import tasks.student.torchvision_operators  # noqa: F401  before anything imports torchvision

# isort: split
import torch

from pipeline_config.schema import PipelineConfig, StudentConfig
from tasks.grpo.train import run
from tasks.grpo.trainer import GrpoTrainer, disable_dropout
from tasks.launcher.job import Job
from tasks.student.checkpoint import load_student
from tasks.student.encode import Prompt, encode_prompts

MakeJob = Callable[..., Job]
pytestmark = pytest.mark.usefixtures("letters_reward")


def history(job: Job) -> list[dict[str, float]]:
    steps: list[dict[str, float]] = json.loads((job.out / "history.json").read_text())["steps"]
    return steps


def rollouts(job: Job) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = pq.read_table(job.folder / "rollouts.parquet").to_pylist()
    return rows


def groups(job: Job) -> list[list[dict[str, Any]]]:
    """Rollouts by step and prompt."""
    rows, size = rollouts(job), job.config.grpo.num_rollouts
    return [rows[start : start + size] for start in range(0, len(rows), size)]


@pytest.mark.parametrize("loss_per", ["sample", "token", "constant"])
def test_the_loss_of_the_first_update_is_that_of_its_rollouts(make_job: MakeJob, loss_per: str) -> None:
    """The ratio is 1 there, so a token's loss is minus its advantage, whatever the model."""
    job = make_job(steps=2, loss_per=loss_per, max_new_tokens=96)
    run(job)
    for entry in history(job):
        rows = [row for row in rollouts(job) if row["step"] == entry["step"]]
        lengths = np.array([row["num_tokens"] for row in rows])
        assert len(set(lengths)) > 1
        weights = {
            "sample": np.full(len(rows), 1 / len(rows)),
            "token": lengths / lengths.sum(),
            "constant": lengths / (len(rows) * job.config.grpo.max_new_tokens),
        }
        expected = {name: -float(weight @ [row["advantage"] for row in rows]) for name, weight in weights.items()}
        assert all(abs(expected[loss_per] - other) > 1e-3 for name, other in expected.items() if name != loss_per)
        assert entry["loss"] == pytest.approx(expected[loss_per], abs=1e-5)


@pytest.mark.parametrize("scale_by_std", [True, False])
def test_advantages_are_divided_by_the_groups_deviation_where_that_is_wanted(
    make_job: MakeJob, scale_by_std: bool
) -> None:
    job = make_job(steps=1, scale_by_std=scale_by_std)
    run(job)
    for group in groups(job):
        rewards = np.array([row["reward"] for row in group])
        divisor = rewards.std(ddof=1) + 1e-4 if scale_by_std else 1
        assert [row["advantage"] for row in group] == pytest.approx((rewards - rewards.mean()) / divisor)


def test_a_group_that_is_kept_keeps_its_advantages(make_job: MakeJob, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where more groups are rolled out than trained on, and the first of them are not those that are kept."""
    trained: dict[int, list[tuple[int, float]]] = {}
    real = GrpoTrainer._micro_loss

    def looking(self: Any, model: Any, batch: Any, rows: slice, **settings: Any) -> torch.Tensor:
        lengths = batch.completions.rows(rows).mask_BC.sum(1).tolist()
        seen = trained.setdefault(self.state.global_step + 1, [])
        seen += [(n, a) for n, a in zip(lengths, batch.advantages[rows].tolist(), strict=True) if a]
        return real(self, model, batch, rows, **settings)

    monkeypatch.setattr(GrpoTrainer, "_micro_loss", looking)
    job = make_job(
        steps=24, rubric="rare", batch_size=8, lr=1e-4, sampling={"order": "curriculum", "max_expansion": 4.0}
    )
    run(job)
    others_first = 0
    for step, seen in trained.items():
        rows = [row for row in rollouts(job) if row["step"] == step]
        chosen = [row for row in rows if row["trained"]]
        others_first += not rows[0]["trained"] and bool(chosen)
        assert seen == [(row["num_tokens"], pytest.approx(row["advantage"])) for row in chosen]
    assert others_first


@pytest.mark.parametrize(("wide", "narrow"), [("clip_high", "clip_low"), ("clip_low", "clip_high")])
def test_each_side_of_the_ratio_has_its_own_bound(make_job: MakeJob, wide: str, narrow: str) -> None:
    job = make_job(steps=2, inner_updates=4, lr=0.05, batch_size=8, **{wide: 1e6, narrow: 1e-3})
    run(job)
    assert all(entry[wide] == 0 for entry in history(job))
    assert any(entry[narrow] > 0 for entry in history(job))


def test_the_policy_that_trains_drops_nothing_out(make_job: MakeJob) -> None:
    job = make_job(steps=2, config_student={"lora": {"r": 4, "alpha": 8, "dropout": 0.5}})
    run(job)
    assert all(entry["grad_norm"] > 0 for entry in history(job))
    assert all(entry["logprob_gap"] < 1e-5 for entry in history(job))


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
@pytest.mark.parametrize("family", ["qwen2_vl", "qwen2_5_vl"])
def test_no_dropout_of_a_family_is_left_on(
    family: str, attention: str, folders: dict[str, Path], tables: dict[str, Path], tmp_path: Path
) -> None:
    """Two forwards in train mode say what one in eval mode does."""
    checkpoint = tmp_path / "student"
    shutil.copytree(folders[family], checkpoint)
    tree = json.loads((checkpoint / "config.json").read_text())
    tree["text_config"]["attention_dropout"] = 0.5
    (checkpoint / "config.json").write_text(json.dumps(tree))
    lora = {"r": 4, "alpha": 8, "dropout": 0.5}
    config = StudentConfig.model_validate({"precision": "float32", "attention": attention, "lora": lora})
    student = load_student(str(checkpoint), config, train=True)
    with torch.no_grad():
        for name, parameter in student.model.named_parameters():
            if "lora_B" in name:
                parameter.normal_()
        batch = encode_prompts(student, [Prompt("Which?", str(tables["dialogues"].with_name("0.png")))])
        expected = student.model.eval()(**batch).logits
        student.model.train()
        assert not torch.allclose(student.model(**batch).logits, student.model(**batch).logits)
        disable_dropout(student.model)
        for _ in range(2):
            assert torch.equal(student.model(**batch).logits, expected)


@pytest.mark.parametrize(
    ("settings", "num_distinct"),
    [({}, 4), ({"temperature": 1e-3}, 1), ({"top_p": 1e-6}, 1)],
    ids=["as is", "cold", "nucleus"],
)
def test_rollouts_have_the_temperature_and_the_nucleus_of_the_configuration(
    make_job: MakeJob, settings: dict[str, float], num_distinct: int
) -> None:
    job = make_job(steps=1, **settings)
    run(job)
    assert [len({row["completion"] for row in group}) for group in groups(job)] == [num_distinct] * 2


def test_the_training_forward_has_the_temperature_of_the_rollouts(make_job: MakeJob) -> None:
    job = make_job(steps=1, temperature=0.6)
    run(job)
    assert history(job)[0]["logprob_gap"] < 1e-5


@pytest.mark.parametrize(("spike_factor", "skips"), [(1.001, True), (1e9, False)])
def test_the_spike_factor_is_the_configurations(make_job: MakeJob, spike_factor: float, skips: bool) -> None:
    job = make_job(steps=6, spike_factor=spike_factor)
    run(job)
    assert any(entry["skipped_updates"] for entry in history(job)) is skips


def test_without_expansion_a_step_rolls_out_what_it_trains_on(make_job: MakeJob) -> None:
    job = make_job(steps=6, rubric="rare")
    run(job)
    assert any(entry["zero_variance_share"] for entry in history(job))
    assert all(entry["expansion"] == 1 for entry in history(job))
    assert len(rollouts(job)) == 6 * 2 * 4


def test_the_curriculum_starts_from_what_was_mined(make_job: MakeJob, tmp_path: Path) -> None:
    """Of twelve prompts three were right at times; without a floor no other is drawn."""
    job = make_job(steps=1, prompts_per_step=3, sampling={"order": "curriculum", "floor": 1e-9})
    table = pq.read_table(job.inputs["difficulty"])
    rows = [{**row, "rewards": [0.0, float(i % 4 == 0)] * 2} for i, row in enumerate(table.to_pylist())]
    pq.write_table(pa.Table.from_pylist(rows, schema=table.schema), tmp_path / "difficulty.parquet")
    job.inputs["difficulty"] = str(tmp_path / "difficulty.parquet")
    run(job)
    assert {row["dialogue_id"] for row in rollouts(job)} == {row["dialogue_id"] for row in rows[::4]}


@pytest.mark.parametrize(("right_above", "share"), [(0.4, 1.0), (0.6, 0.0)])
def test_a_group_is_all_right_above_the_threshold_of_mining(
    make_job: MakeJob, right_above: float, share: float
) -> None:
    """Every completion is cut, and so half right."""
    job = make_job(steps=1, max_new_tokens=2)
    tree = job.config.model_dump()
    tree["rewards"] |= {"truncated": 0.5, "untagged": "unparseable", "rubrics": {"choice": {"choice": 1, "letters": 1}}}
    tree["mine"]["right_above"] = right_above
    job = dataclasses.replace(job, config=PipelineConfig.model_validate(tree))
    run(job)
    assert history(job)[0]["accuracy"] == 0.5
    assert history(job)[0]["all_right_share"] == share
