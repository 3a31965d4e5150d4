"""`student.precision: auto` is what this machine computes fast: chosen once, said, and named to every stage."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from pipeline_config.schema import StudentConfig, load_config
from tasks.launcher.cache import stage_digest
from tasks.launcher.child import child_environment
from tasks.student import precision
from tasks.student.checkpoint import load_student
from tasks.student.precision import Choice, choose, precision_of, settled
from tasks.student.trainer import training_arguments

WITHOUT_BFLOAT16 = {"ONEDNN_MAX_CPU_ISA": "AVX2", "ATEN_CPU_CAPABILITY": "avx2"}
FAST, SLOW = Choice("bfloat16", "a device", "it is fast", 1e12), Choice("float32", "a device", "it is slow", 1e11)

on_a_processor = pytest.mark.skipif(torch.cuda.is_available(), reason="the choice is the GPU's")


def products(monkeypatch: pytest.MonkeyPatch, *, supported: bool, ratio: float) -> None:
    """A processor whose product in bfloat16 takes `ratio` of the time in float32."""
    monkeypatch.setattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", lambda: supported)
    monkeypatch.setattr(
        precision,
        "_product_seconds",
        lambda dtypes, _: {dtype: 0.01 * (ratio if dtype == torch.bfloat16 else 1.0) for dtype in dtypes},
    )


@on_a_processor
@pytest.mark.parametrize(
    ("supported", "ratio", "expected"),
    [(True, 0.4, "bfloat16"), (True, 1.3, "float32"), (False, 0.4, "float32"), (True, 11.0, "float32")],
    ids=["native", "emulated", "hidden", "avx2"],
)
def test_instructions_are_asked_and_a_product_confirms(
    monkeypatch: pytest.MonkeyPatch, supported: bool, ratio: float, expected: str
) -> None:
    products(monkeypatch, supported=supported, ratio=ratio)
    assert choose().precision == expected


@on_a_processor
def test_the_operations_are_those_of_the_chosen_precision(monkeypatch: pytest.MonkeyPatch) -> None:
    products(monkeypatch, supported=True, ratio=0.5)
    half = choose().operations
    products(monkeypatch, supported=True, ratio=2.0)
    assert half == pytest.approx(2 * choose().operations)


@pytest.mark.parametrize("native", [True, False])
def test_a_gpu_says_what_it_has(monkeypatch: pytest.MonkeyPatch, native: bool) -> None:
    def supported(including_emulation: bool = True) -> bool:
        return native or including_emulation

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "a GPU")
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 3)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", supported)
    monkeypatch.setattr(precision, "_product_seconds", lambda dtypes, _: dict.fromkeys(dtypes, 0.01))
    assert choose().precision == ("bfloat16" if native else "float32")
    assert choose().num_gpus == 3


@on_a_processor
def test_a_processor_without_the_instructions_computes_in_float32() -> None:
    """Real: oneDNN and torch are told to leave out what is newer than AVX2, as an older processor has to."""
    done = subprocess.run(
        [sys.executable, "-m", "tasks.student.precision"],
        env=child_environment(WITHOUT_BFLOAT16),
        capture_output=True,
        text=True,
        check=True,
    )
    assert json.loads(done.stdout)["precision"] == "float32"


def test_the_choice_is_made_once_for_a_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[Any] = []
    run = subprocess.run

    def counting(*arguments: Any, **settings: Any) -> Any:
        calls.append(arguments)
        return run(*arguments, **settings)

    monkeypatch.setattr(subprocess, "run", counting)
    monkeypatch.delenv("ONEDNN_MAX_CPU_ISA", raising=False)
    first = settled(load_config("demo"), tmp_path)
    assert settled(load_config("demo"), tmp_path) == first
    assert len(calls) == 1
    monkeypatch.setenv("ONEDNN_MAX_CPU_ISA", "AVX2")
    settled(load_config("demo"), tmp_path)
    assert len(calls) == 2, "the variable changes what the machine can do"


def test_a_named_precision_is_kept_and_nothing_is_asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(precision, "choice_for", lambda home: pytest.fail("asked"))
    config = load_config("demo", {"student.precision": "bfloat16"})
    assert settled(config, tmp_path)[0] == config


@pytest.mark.parametrize("choice", [FAST, SLOW])
def test_the_choice_is_said_and_part_of_the_cache_key(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, choice: Choice
) -> None:
    monkeypatch.setattr(precision, "choice_for", lambda home: choice)
    config, sentence = settled(load_config("demo"), tmp_path)
    assert config.student.precision == choice.precision
    assert sentence == f"student.precision: {choice.precision}, chosen for a device: {choice.reason}"
    named = load_config("demo", {"student.precision": choice.precision})
    other = load_config("demo", {"student.precision": (SLOW if choice is FAST else FAST).precision})
    for stage in ("sft", "mine", "grpo", "evaluate"):
        assert stage_digest(stage, config, {}) == stage_digest(stage, named, {})
        assert stage_digest(stage, config, {}) != stage_digest(stage, other, {})


@pytest.mark.parametrize(("choice", "dtype"), [(FAST, torch.bfloat16), (SLOW, torch.float32)])
def test_auto_reaches_weights_and_training(
    monkeypatch: pytest.MonkeyPatch,
    student_folder: Path,
    tmp_path: Path,
    choice: Choice,
    dtype: torch.dtype,
) -> None:
    monkeypatch.setattr(precision, "choice_here", lambda: choice)
    assert precision_of(StudentConfig()) == choice.precision
    assert load_student(str(student_folder), StudentConfig()).model.dtype == dtype
    config = load_config("tiny")
    assert training_arguments(config, config.sft.optimiser, None, tmp_path, 0).bf16 == (choice is FAST)


@pytest.fixture
def plan_lines(capsys: pytest.CaptureFixture[str]) -> Callable[[], list[str]]:
    return lambda: capsys.readouterr().out.splitlines()


def test_the_dry_run_says_it(plan_lines: Callable[[], list[str]]) -> None:
    from flows.plan import make_plan, print_plan

    plan = make_plan(load_config("tiny"))
    print_plan(plan)
    assert plan.config.student.precision != "auto"
    assert any(line.startswith(f"student.precision: {plan.config.student.precision}") for line in plan_lines())
