"""The memory estimate follows the plan: what is frozen, sharded or recomputed costs less, and it needs no torch."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pipeline_config.schema import ConfigError, PipelineConfig, load_config
from tasks.student.checkpoint import load_student
from tasks.student.memory import estimate_memory, features_gigabytes, model_shape
from tasks.student.tensor_files import TensorFiles
from tasks.student.vision import KeptFeatures

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
    sampling = zero3["gathered"] + zero3["prefill"] + zero3["cache"]
    assert zero3["activations"] < sampling
    assert zero3["total"] == pytest.approx(sum(parts.values()) + sampling, abs=0.03)
    longer = {**full, "grpo.batch_size": 64}
    zero3 = estimate_memory(recipe(longer))["grpo"]
    assert zero3["activations"] > sampling
    assert zero3["total"] == pytest.approx(sum(parts.values()) + zero3["activations"], abs=0.03)
    assert "gathered" not in sft(ZERO3)


def test_prefill_is_bounded_by_tokens_and_not_by_rows() -> None:
    """64 evaluation prompts at ``max_pixels`` are 64 x (8192 vision + 2048 text) tokens."""
    bounded = estimate_memory(recipe())["evaluate"]
    at_once = estimate_memory(recipe({"student.prefill_tokens": 2**30}))["evaluate"]
    # Of a 7B layer in half precision, at its widest: gate, up, product (18944 each), residual, norm, sum (3584 each);
    # keys and values of 4 heads of 128 in 28 layers; of a vision token the float32 pixels of two frames of 28 x 28.
    per_prompt = 10240 * (2 * 3 * (18944 + 3584) + 2 * 2 * 28 * 512) + 8192 * 4 * 2 * 3 * 28 * 28
    assert at_once["prefill"] == pytest.approx(64 * per_prompt / 2**30, rel=0.01)
    assert at_once["prefill"] > 80
    assert bounded["prefill"] == pytest.approx(3 * per_prompt / 2**30, rel=0.01), "3 x 10240 are within 32768"
    assert at_once["total"] - bounded["total"] == pytest.approx(at_once["prefill"] - bounded["prefill"], abs=0.02)
    alone = estimate_memory(recipe({"student.prefill_tokens": 1}))["evaluate"]
    assert alone["prefill"] == pytest.approx(per_prompt / 2**30, rel=0.01), "a longer prompt is computed alone"


@pytest.mark.parametrize(
    ("stage", "overrides", "prompts", "rows", "new"),
    [
        ("evaluate", {}, 64, 64, 1024),
        ("mine", {}, 16, 128, 1024),
        ("mine", {"mine.num_rollouts": 4, "mine.max_new_tokens": 100}, 32, 128, 100),
        ("evaluate", {"evaluate.batch_size": 7}, 7, 7, 1024),
        ("grpo", {}, 2, 16, 1024),  # 16 prompts of 8 rollouts on 8 devices
        ("grpo", {"grpo.sampling": {"max_expansion": 4.0}}, 8, 64, 1024),
        ("grpo", {"student.devices": 1, "mine.batch_size": 32}, 4, 32, 1024),
        ("grpo", {"grpo.deepspeed": "pipeline_config/deepspeed/zero3.json"}, 16, 16, 1024),  # repeated per rollout
    ],
)
def test_keys_and_values_of_all_that_is_live(
    stage: str, overrides: dict[str, Any], prompts: int, rows: int, new: int
) -> None:
    parts = estimate_memory(recipe(overrides))[stage]
    per_token = 2 * 28 * 512 * 2  # keys and values, layers, 4 heads of 128, bytes
    held = prompts * 10240 + rows * (new + 64)
    assert parts["cache"] == pytest.approx(per_token * held / 2**30, abs=0.01)


def test_larger_pictures_and_longer_dialogues_take_more() -> None:
    usual = estimate_memory(recipe())
    for longer in ({"student.max_pixels": 2 * 6422528}, {"compress.max_tokens": 4096}):
        larger = estimate_memory(recipe(longer))
        assert all(larger[stage]["cache"] > usual[stage]["cache"] for stage in ("mine", "grpo", "evaluate"))
    whole = estimate_memory(recipe({"student.precision": "float32"}))
    for stage in ("mine", "evaluate"):
        parts = usual[stage]
        assert parts["total"] == pytest.approx(sum(parts[k] for k in ("weights", "prefill", "cache")), abs=0.02)
        assert [whole[stage][k] for k in ("weights", "cache")] == pytest.approx(
            [2 * parts[k] for k in ("weights", "cache")], abs=0.02
        )
        assert estimate_memory(recipe({"student.lora": None}))[stage]["weights"] == pytest.approx(
            2 * 8_292_166_656 / 2**30, abs=0.01
        )


def test_lora_recomputation_and_freezing_cost_less() -> None:
    lora = sft()
    assert lora["optimiser"] < sft({"student.lora": None})["optimiser"] / 5
    assert sft({"sft.freeze": {"vision": True}})["gradients"] < lora["gradients"]
    assert lora["activations"] < sft({"student.gradient_checkpointing": False})["activations"] / 5


@pytest.mark.parametrize("vision", [False, True])
def test_a_reference_is_a_second_copy_of_what_trains(vision: bool) -> None:
    full = {"student.lora": None, "grpo.freeze.vision": vision}
    without = estimate_memory(recipe(full))["grpo"]
    with_reference = estimate_memory(recipe({**full, "grpo.beta": 0.04}))["grpo"]
    trained = 2 * (8_292_166_656 - vision * 676_550_144) / 2**30
    assert with_reference["weights"] == pytest.approx(without["weights"] + trained, abs=0.02)


@pytest.mark.parametrize("lora", [None, {"r": 4, "alpha": 8, "dropout": 0.0}], ids=["full", "lora"])
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_weights_are_counted_as_they_are_loaded(
    precision: str, lora: dict[str, Any] | None, folders: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    from tasks.student.checkpoint import load_student

    monkeypatch.setattr("tasks.student.memory.GIB", 1)
    overrides = {"student.model": str(folders["qwen2_5_vl"]), "student.precision": precision, "student.lora": lora}
    config = load_config("demo", {**overrides, "sft.freeze.vision": False})
    estimated = estimate_memory(config)["sft"]
    parameters = list(load_student(config.student.model, config.student, train=True).model.parameters())
    assert estimated["weights"] == pytest.approx(sum(p.nbytes for p in parameters), rel=0.02)
    assert estimated["gradients"] == pytest.approx(sum(p.nbytes for p in parameters if p.requires_grad), rel=0.05)


def test_under_deepspeed_all_weights_are_of_one_type() -> None:
    half, single = sft(), sft({"student.precision": "float32"})
    assert half["weights"] == pytest.approx(single["weights"] / 2, abs=0.01)
    assert half["gradients"] == pytest.approx(single["gradients"] / 2, abs=0.01)
    alone = sft({"student.devices": 1, "sft.deepspeed": None})
    vision, whole = 676_550_144 / 2**30, 8_292_166_656 / 2**30
    adapters = single["weights"] / 4 - whole - vision
    assert alone["weights"] == pytest.approx(2 * whole + 4 * (vision + adapters), abs=0.02)


def test_the_shape_is_read_from_a_local_checkpoint(folders: dict[str, Path]) -> None:
    shapes = {
        family: model_shape(load_config("demo", {"student.model": str(folder)})) for family, folder in folders.items()
    }
    assert {(shape.hidden, shape.layers, shape.vocabulary, shape.kv_width) for shape in shapes.values()} == {
        (32, 2, 272, 16)  # two key-value heads of four, each 8 wide
    }
    for shape in shapes.values():
        assert shape.parameters - shape.vision_parameters == 272 * 32 + 2 * (32 * 96 + 64 + 3 * 32 * 64 + 64) + 32


def test_without_shape_and_checkpoint_it_says_what_to_give() -> None:
    config: PipelineConfig = recipe({"student.shape": None})
    with pytest.raises(ConfigError, match=r"student\.shape: missing.*vision_parameters.*kv_width"):
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


def test_a_micro_batch_of_grpo_is_a_prompt_and_all_its_completions() -> None:
    """Twice the completions add as many tokens as they have; their logits weigh most."""
    eight, sixteen = (
        estimate_memory(recipe({"grpo.num_rollouts": number}))["grpo"]["activations"] for number in (8, 16)
    )
    tokens, hidden, layers, vocabulary = 8 * 1024, 3584, 28, 152_064
    added = tokens * hidden * (2 * layers + 34) + 2 * 4 * tokens * vocabulary
    assert sixteen - eight == pytest.approx(added / 2**30, abs=0.02)


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@pytest.mark.parametrize("family", ["qwen2_vl", "qwen2_5_vl"])
def test_features_take_the_gigabytes_it_says(
    family: str, precision: str, folders: dict[str, Path], picture: Callable[[int, int], str], tmp_path: Path
) -> None:
    config = load_config("demo", {"student.model": str(folders[family]), "student.precision": precision})
    paths = [picture(140, 84), picture(168, 224)]
    student = load_student(config.student.model, config.student)
    KeptFeatures(student, TensorFiles(tmp_path, 10**7)).of(paths)
    needed = features_gigabytes(config, model_shape(config), sum(student.pictures.num_tokens(path) for path in paths))
    written = sum(path.stat().st_size for path in tmp_path.glob("*/*"))
    assert 0 <= written - needed * 1e9 <= 200 * len(paths), "headers"
