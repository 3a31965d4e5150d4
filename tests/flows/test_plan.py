"""The dry run: findings are named with their cure, nothing is loaded, nothing is written."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from flows.plan import make_plan, print_plan
from pipeline_config.schema import load_config
from tasks.student.precision import Choice

ROOT = Path(__file__).parents[2]
VIDA = ROOT / "tests" / "fixtures" / "vida"
FIXTURE = {
    "ingest.sources.0.images": str(VIDA / "images"),
    "ingest.sources.0.metadata": str(VIDA / "metadata.json"),
    "student.precision": "bfloat16",
}


@pytest.fixture(autouse=True)
def _nothing_at_hand(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("OPENAI_API_KEY", "PREFECT_API_URL"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hub"))


def test_the_shipped_photographs_can_be_run() -> None:
    plan = make_plan(load_config("tiny"))
    assert plan.findings == []
    assert plan.num_files == 50
    assert plan.memory["sft"]["total"] > 0


def test_the_7b_recipe_on_three_pictures_lacks_only_key_and_weights() -> None:
    plan = make_plan(load_config("qwen2_5_vl_7b", FIXTURE))
    assert (plan.num_files, len(plan.findings)) == (3, 2)
    assert any("OPENAI_API_KEY" in finding for finding in plan.findings)
    assert any("Qwen/Qwen2.5-VL-7B-Instruct" in finding for finding in plan.findings)
    assert plan.memory["sft"]["total"] > plan.memory["sft"]["weights"] > 15


def test_the_teacher_is_asked_about_what_trains_at_every_try(capsys: pytest.CaptureFixture[str]) -> None:
    plan = make_plan(load_config("qwen2_5_vl_7b", {**FIXTURE, "ingest.test_share": 0.25, "annotate.tries": 3}))
    assert plan.num_asked == pytest.approx(0.75 * plan.num_questions)
    print_plan(plan)
    said = re.search(r"cost at most ([\d.]+); all tries: at most ([\d.]+)", capsys.readouterr().out)
    assert said is not None
    assert float(said[2]) == pytest.approx(3 * float(said[1]), abs=0.02)


@pytest.mark.parametrize(
    ("settings", "num_gpus", "said"),
    [
        ({"student.attention": "flash_attention_2"}, 8, "student.attention: flash_attention_2 needs flash-attn"),
        ({}, 4, "student.devices: 8 processes need a GPU each, and this machine has 4"),
        ({"grpo.prompts_per_step": 12}, 8, "grpo.prompts_per_step: 12 prompts cannot be shared by 8 devices"),
        ({"student.devices": 1, "sft.deepspeed": None}, 1, "grpo.deepspeed: needs student.devices of two or more"),
        ({"student.devices": 1, "grpo.deepspeed": None}, 1, "sft.deepspeed: needs student.devices of two or more"),
        (
            {"grpo.beta": 0.04, "grpo.deepspeed": "pipeline_config/deepspeed/zero3.json"},
            8,
            "grpo.beta: above 0 needs whole weights",
        ),
    ],
)
def test_what_would_end_after_the_paid_annotation_is_a_finding(
    settings: dict[str, Any], num_gpus: int, said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    machine = Choice("bfloat16", "a GPU", "it is fast", 1e14, num_gpus)
    monkeypatch.setattr("flows.plan.choice_for", lambda home: machine)
    plan = make_plan(load_config("qwen2_5_vl_7b", {**FIXTURE, **settings}))
    assert [finding for finding in plan.findings if finding.startswith(said)] == [plan.findings[2]]
    assert len(plan.findings) == 3, "beside the key and the weights"
    assert plan.notes == []


def test_a_plan_for_gpus_on_a_machine_without_says_what_it_cannot_check(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("flows.plan.choice_for", lambda home: Choice("bfloat16", "a processor", "it is fast", 1e11))
    plan = make_plan(load_config("qwen2_5_vl_7b", FIXTURE))
    assert len(plan.findings) == 2
    (note,) = plan.notes
    assert "this machine has no GPU; here 8 processes share its processor" in note
    print_plan(plan)
    printed = capsys.readouterr().out
    assert f"Note: {note}." in printed
    for stage in ("sft", "mine", "grpo", "evaluate"):
        assert f"Memory per device, {stage}: weights" in printed
    assert make_plan(load_config("tiny")).notes == []


def test_it_says_what_the_features_of_all_training_pictures_take(capsys: pytest.CaptureFixture[str]) -> None:
    """The shipped student makes of each of a picture's 64 patches 192 numbers of float32."""
    settings = {"student.precision": "float32", "student.features_gigabytes": 0.001}
    plan = make_plan(load_config("tiny", settings))
    [sizes] = plan.sizes
    assert plan.features_gigabytes == pytest.approx(sizes.num_pictures * 64 * 192 * 4 / 1e9)
    print_plan(plan)
    share = 0.001 / plan.features_gigabytes
    assert (
        f"student.features_gigabytes is 0.001: a random {share:.0%} of the pictures is kept" in capsys.readouterr().out
    )
    print_plan(make_plan(load_config("tiny", {"student.precision": "float32"})))
    assert "student.features_gigabytes is 10: all are kept" in capsys.readouterr().out
    print_plan(make_plan(load_config("tiny", {"student.features_gigabytes": 0})))
    assert "student.features_gigabytes is 0: they are kept in memory only" in capsys.readouterr().out


def test_a_deepspeed_file_is_found_where_training_finds_it(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    shipped, missing = "pipeline_config/deepspeed/zero2.json", "pipeline_config/deepspeed/zero9.json"
    config = load_config("qwen2_5_vl_7b", {**FIXTURE, "sft.deepspeed": shipped, "grpo.deepspeed": missing})
    findings = [finding for finding in make_plan(config).findings if "deepspeed" in finding]
    assert len(findings) == 1
    assert findings[0].startswith(f"deepspeed {missing}: no such file; shipped in ")


def test_missing_data_is_a_named_finding(tmp_path: Path) -> None:
    missing: dict[str, Any] = {**FIXTURE, "ingest.sources.0.images": str(tmp_path / "none")}
    assert any(
        str(tmp_path / "none") in finding for finding in make_plan(load_config("qwen2_5_vl_7b", missing)).findings
    )


def test_the_command_prints_the_plan_and_exits_2_on_findings(tmp_path: Path) -> None:
    settings = [part for key, value in FIXTURE.items() for part in ("--set", f"{key}={value}")]
    command = [
        sys.executable,
        "-X",
        "importtime",
        "-m",
        "flows.full_pipeline",
        "--config",
        "qwen2_5_vl_7b",
        "--dry-run",
    ]
    done = subprocess.run([*command, *settings], cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.returncode == 2
    assert "Memory per device, grpo" in done.stdout
    assert "2 finding(s)" in done.stdout
    assert "| torch\n" not in done.stderr
