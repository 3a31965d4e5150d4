"""Settings with which a student's stages cannot start, one sentence each, with its cure. Imports no torch. Ours.

Training raises what concerns it; ``--dry-run`` tells all of it before anything is spent.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator
from pathlib import Path

from pipeline_config.schema import StudentConfig
from tasks.student.zero import zero_stage

# Either lets transformers compute flash_attention_2; the second fetches the kernel.
_FLASH_PACKAGES = {"flash_attn": "flash-attn", "kernels": "kernels"}


def deepspeed_refusals(stage: str, deepspeed: Path | None, devices: int) -> Iterator[str]:
    """Of a stage's DeepSpeed file. Raises ConfigError as `zero_stage`."""
    if deepspeed and devices == 1:
        yield f"{stage}.deepspeed: needs student.devices of two or more; leave it out for one"
    if deepspeed and stage == "grpo" and zero_stage(deepspeed) == 0:
        yield (
            f"grpo.deepspeed: {deepspeed} names no ZeRO stage, and without one DeepSpeed cannot skip an update; let it "
            "name zero_optimization.stage 1, 2 or 3, or leave it out"
        )


def share_refusals(num_prompts: int, devices: int) -> Iterator[str]:
    """Of the prompts of a GRPO step, which the devices share evenly."""
    if num_prompts % devices:
        yield (
            f"grpo.prompts_per_step: {num_prompts} prompts cannot be shared by {devices} devices; "
            f"take a multiple of {devices}"
        )


def reference_refusals(beta: float, deepspeed: Path | None) -> Iterator[str]:
    """Of GRPO's KL to the SFT student. Raises ConfigError as `zero_stage`."""
    if beta and zero_stage(deepspeed) == 3:
        yield (
            f"grpo.beta: above 0 needs whole weights on each device, which ZeRO-3 ({deepspeed}) shards; "
            "set it to 0, or use pipeline_config/deepspeed/zero2.json"
        )


def attention_refusals(student: StudentConfig) -> Iterator[str]:
    """Of what is installed here. precision: as settled, not ``auto``."""
    if student.attention != "flash_attention_2":
        return
    if not any(map(importlib.util.find_spec, _FLASH_PACKAGES)):
        needed = " or ".join(_FLASH_PACKAGES.values())
        yield f"student.attention: flash_attention_2 needs {needed}, not installed here; install it, or use sdpa"
    if student.precision == "float32":
        yield "student.attention: flash_attention_2 takes bfloat16, and student.precision is float32; use sdpa"


def device_refusals(devices: int, num_gpus: int) -> Iterator[str]:
    """Of this machine's GPUs. Where there is none, the processes share the processor: slow, and no refusal."""
    if 0 < num_gpus < devices:
        yield (
            f"student.devices: {devices} processes need a GPU each, and this machine has {num_gpus}; lower it, or plan "
            "on the machine that is to run it"
        )
