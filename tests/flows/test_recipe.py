"""The 7B recipe's own file, at a tiny size: LoRA, gradient checkpointing and two processes under ZeRO, end to end."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from tests.flows.desk import ROOT

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]
STAGES = ["ingest", "annotate", "compress", "sft", "mine", "grpo", "evaluate", "promote"]
ADAPTERS = "adapter_model.safetensors"
FIXTURE = ROOT / "tests" / "fixtures" / "vida"
# Data, teacher and model that are here, and counts; every other key is the recipe's.
TINY = {
    "ingest.test_share": 0.34,
    "annotate.teacher": "{kind: measured}",
    "annotate.rejected": "answer_only",
    "student.model": "builtin:tiny",
    "student.shape": "null",
    "student.min_pixels": 56 * 56,
    "student.max_pixels": 112 * 112,
    "student.devices": 2,
    "sft.accumulate": 1,
    "mine.prompts": 6,
    "mine.num_rollouts": 4,
    "mine.max_new_tokens": 24,
    "grpo.steps": 2,
    "grpo.prompts_per_step": 4,
    "grpo.num_rollouts": 4,
    "grpo.max_new_tokens": 24,
    "grpo.probe_prompts": 2,
    "evaluate.prompts": 40,
    "evaluate.max_new_tokens": 24,
    "evaluate.replicates": 50,
}


def twice_the_fixture(folder: Path) -> dict[str, Path]:
    """Its three pictures, and each turned by 90 degrees as a picture of its own: enough to hold two out."""
    rows = json.loads((FIXTURE / "metadata.json").read_text())
    (folder / "images").mkdir()
    for row in rows:
        with Image.open(FIXTURE / "images" / row["image"]) as picture:
            picture.save(folder / "images" / row["image"])
            picture.transpose(Image.Transpose.ROTATE_90).save(folder / "images" / f"turned_{row['image']}")
    turned = [{**row, "image": f"turned_{row['image']}"} for row in rows]
    (folder / "metadata.json").write_text(json.dumps(rows + turned))
    return {"ingest.sources.0.images": folder / "images", "ingest.sources.0.metadata": folder / "metadata.json"}


@pytest.mark.parametrize(("stage", "precision"), [(2, "auto"), (3, "bfloat16")], ids=["zero2", "zero3-bfloat16"])
def test_the_7b_recipe_trains_samples_and_registers(stage: int, precision: str, desk: Any, tmp_path: Path) -> None:
    deepspeed = f"pipeline_config/deepspeed/zero{stage}.json"
    settings = {
        **TINY,
        **twice_the_fixture(tmp_path),
        "student.precision": precision,
        "sft.deepspeed": deepspeed,
        "grpo.deepspeed": deepspeed,
    }
    arguments = [part for key, value in settings.items() for part in ("--set", f"{key}={value}")]
    done = desk.flow("--config", "qwen2_5_vl_7b", *arguments, timeout=800)
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-6000:]
    summary = desk.summary()
    assert list(summary["stages"]) == STAGES
    assert {"base", "sft", "grpo"} <= summary["students"].keys()
    assert summary["promotion"]["decision"] in ("promoted", "refused")
    assert (summary["promotion"]["model"], int(summary["promotion"]["version"])) == ("discern-qwen2_5_vl_7b", 1)
    kept = (path.parent for path in (desk.home / "runs").rglob("history.json"))
    students = [folder for folder in kept if (folder / ADAPTERS).is_file()]
    histories = [json.loads((folder / "history.json").read_text())["steps"] for folder in students]
    assert sorted(any("reward" in entry for entry in steps) for steps in histories) == [False, True], "SFT's and GRPO's"
    assert all(math.isfinite(entry["loss"]) for steps in histories for entry in steps)
    if precision == "bfloat16":
        dtypes = {weight.dtype for folder in students for weight in load_file(folder / ADAPTERS).values()}
        assert dtypes == {torch.bfloat16}, "one, its float32 copies are DeepSpeed's"
