"""Settings that cannot start are refused with their cure, by the plan and by training alike."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import pytest

from pipeline_config.schema import CONFIG_FOLDER, ConfigError, StudentConfig, load_config
from tasks.student.startable import (
    attention_refusals,
    deepspeed_refusals,
    device_refusals,
    reference_refusals,
    share_refusals,
)

ZERO2, ZERO3 = (CONFIG_FOLDER / "deepspeed" / f"zero{stage}.json" for stage in (2, 3))


def flash(precision: str = "bfloat16") -> list[str]:
    student = StudentConfig.model_validate({"attention": "flash_attention_2", "precision": precision})
    return list(attention_refusals(student))


def test_attention_whose_package_is_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    installed: set[str] = set()
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: name if name in installed else None)
    (refusal,) = flash()
    assert "flash_attention_2 needs flash-attn or kernels" in refusal
    assert "use sdpa" in refusal
    for package in ("flash_attn", "kernels"):
        installed.add(package)
        assert flash() == []
        (refusal,) = flash("float32")
        assert "takes bfloat16, and student.precision is float32" in refusal
        installed.clear()
    assert [*attention_refusals(StudentConfig()), *attention_refusals(StudentConfig(attention="eager"))] == []


def test_the_library_refuses_it_too(folders: dict[str, Path]) -> None:
    from tasks.student.checkpoint import load_student

    assert flash(), "neither package is among the dependencies"
    with pytest.raises(ConfigError, match=r"student\.attention flash_attention_2.*use sdpa"):
        load_student(str(folders["qwen2_5_vl"]), StudentConfig(attention="flash_attention_2", precision="bfloat16"))


@pytest.mark.parametrize(
    ("devices", "num_gpus", "refused"), [(1, 0, False), (8, 0, False), (8, 8, False), (8, 7, True), (2, 1, True)]
)
def test_more_devices_than_gpus(devices: int, num_gpus: int, refused: bool) -> None:
    said = list(device_refusals(devices, num_gpus))
    assert bool(said) is refused
    assert all(f"student.devices: {devices}" in s and f"this machine has {num_gpus}" in s for s in said)


def test_what_training_refuses_at_its_start(tmp_path: Path) -> None:
    (one,) = deepspeed_refusals("sft", ZERO2, 1)
    assert one.startswith("sft.deepspeed: needs student.devices of two or more")
    assert [*deepspeed_refusals("sft", ZERO2, 2), *deepspeed_refusals("sft", None, 1)] == []
    plain = tmp_path / "plain.json"
    plain.write_text('{"bf16": {"enabled": "auto"}}')
    (unguarded,) = deepspeed_refusals("grpo", plain, 2)
    assert "names no ZeRO stage" in unguarded
    assert [*deepspeed_refusals("sft", plain, 2), *deepspeed_refusals("grpo", ZERO2, 2)] == []
    (shared,) = share_refusals(6, 4)
    assert shared == "grpo.prompts_per_step: 6 prompts cannot be shared by 4 devices; take a multiple of 4"
    assert list(share_refusals(8, 4)) == []
    (reference,) = reference_refusals(0.04, ZERO3)
    assert reference.startswith("grpo.beta: above 0 needs whole weights on each device")
    assert [*reference_refusals(0.0, ZERO3), *reference_refusals(0.04, ZERO2), *reference_refusals(0.04, None)] == []


@pytest.mark.parametrize(
    ("settings", "world", "said"),
    [
        ({"sft.deepspeed": str(ZERO2)}, 1, "sft.deepspeed: needs"),
        ({"student.devices": 2}, 1, "student.devices is 2, but 1 process"),
    ],
)
def test_training_raises_them(settings: dict[str, Any], world: int, said: str) -> None:
    from tasks.grpo.trainer import micro_batches
    from tasks.student.trainer import check_devices

    with pytest.raises(ConfigError, match=said):
        check_devices("sft", load_config("tiny", settings), world)
    with pytest.raises(ConfigError, match="3 prompts cannot be shared by 2 devices"):
        micro_batches(load_config("tiny"), 3, 2)
