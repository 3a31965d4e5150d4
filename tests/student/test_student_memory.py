"""The memory estimate follows the plan: what is frozen, sharded or recomputed costs less, and it needs no torch."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from pipeline_config.schema import ConfigError, PipelineConfig, load_config
from tasks.student.memory import estimate_memory, model_shape

SEVEN_B = "qwen2_5_vl_7b"
ZERO3 = {"sft.deepspeed": "pipeline_config/deepspeed/zero3.json"}


def recipe(overrides: dict[str, Any] | None = None) -> PipelineConfig:
    """As on a GPU that computes bfloat16 fast, whatever this machine does."""
    return load_config(SEVEN_B, {"student.precision": "bfloat16", **(overrides or {})})


def sft(overrides: dict[str, Any] | None = None) -> dict[str, float]:
    return estimate_memory(recipe(overrides))["sft"]


def test_full_training_of_seven_billions() -> None:
    """16 bytes per parameter in all (2 weights, 2 gradients, 12 optimiser), before anything is sharded."""
    alone = sft({"student.lora": None, "student.devices": 1})
    billions = 8_292_166_656 / 2**30
    assert alone["weights"] == pytest.approx(2 * billions, abs=0.01)
    assert alone["gradients"] == pytest.approx(2 * billions, abs=0.01)
    assert alone["optimiser"] == pytest.approx(12 * billions, abs=0.01)
    assert alone["total"] == pytest.approx(sum(alone[k] for k in alone if k != "total"), abs=0.03)


def test_sharding() -> None:
    full = {"student.lora": None}
    alone, zero2, zero3 = sft({**full, "student.devices": 1}), sft(full), sft({**full, **ZERO3})
    assert zero2["weights"] == alone["weights"]
    assert zero2["gradients"] == pytest.approx(alone["gradients"] / 8, abs=0.01)
    assert zero2["optimiser"] == pytest.approx(alone["optimiser"] / 8, abs=0.01)
    assert zero3["weights"] == pytest.approx(alone["weights"] / 8, abs=0.01)


def test_sampling_under_zero3_needs_room_for_whole_weights() -> None:
    full = {"student.lora": None, "grpo.deepspeed": "pipeline_config/deepspeed/zero3.json"}
    zero2 = estimate_memory(recipe({"student.lora": None}))["grpo"]
    zero3 = estimate_memory(recipe(full))["grpo"]
    assert zero3["weights"] == pytest.approx(zero2["weights"] / 8, abs=0.01)
    assert zero3["gathered"] == zero2["weights"]
    parts = {name: zero3[name] for name in ("weights", "gradients", "optimiser")}
    assert zero3["activations"] < zero3["gathered"]
    assert zero3["total"] == pytest.approx(sum(parts.values()) + zero3["gathered"], abs=0.03)
    longer = {**full, "grpo.batch_size": 16}
    zero3 = estimate_memory(recipe(longer))["grpo"]
    assert zero3["activations"] > zero3["gathered"]
    assert zero3["total"] == pytest.approx(sum(parts.values()) + zero3["activations"], abs=0.03)
    assert "gathered" not in sft(ZERO3)


def test_lora_recomputation_and_freezing_cost_less() -> None:
    lora = sft()
    assert lora["optimiser"] < sft({"student.lora": None})["optimiser"] / 5
    assert sft({"sft.freeze": {"vision": True}})["gradients"] < lora["gradients"]
    assert lora["activations"] < sft({"student.gradient_checkpointing": False})["activations"] / 5


def test_a_reference_is_a_second_model() -> None:
    full = {"student.lora": None}
    without = estimate_memory(recipe(full))["grpo"]
    with_reference = estimate_memory(recipe({**full, "grpo.beta": 0.04}))["grpo"]
    assert with_reference["weights"] == pytest.approx(2 * without["weights"], abs=0.01)


def test_the_shape_is_read_from_a_local_checkpoint(folders: dict[str, Path]) -> None:
    shapes = {
        family: model_shape(load_config("demo", {"student.model": str(folder)})) for family, folder in folders.items()
    }
    assert {(shape.hidden, shape.layers, shape.vocabulary) for shape in shapes.values()} == {(32, 2, 272)}
    for shape in shapes.values():
        assert shape.parameters - shape.vision_parameters == 272 * 32 + 2 * (32 * 96 + 64 + 3 * 32 * 64 + 64) + 32


def test_without_shape_and_checkpoint_it_says_what_to_give() -> None:
    config: PipelineConfig = recipe({"student.shape": None})
    with pytest.raises(ConfigError, match=r"student\.shape: missing.*vision_parameters"):
        estimate_memory(config)


def test_a_missing_deepspeed_file_is_named() -> None:
    with pytest.raises(ConfigError, match=r"deepspeed nowhere\.json: no such file.*zero2\.json"):
        sft({"sft.deepspeed": "nowhere.json"})


def test_it_needs_no_torch() -> None:
    script = (
        "import sys; from pipeline_config.schema import load_config; from tasks.student.memory import estimate_memory;"
        f"estimate_memory(load_config('{SEVEN_B}')); print('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", script], capture_output=True, text=True).stdout.strip() == "False"
