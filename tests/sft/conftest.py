"""A student a fraction of the shipped one, a few dialogues about noise, and SFT jobs that take a second."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from data_contracts.records import DIALOGUES
from pipeline_config.schema import PipelineConfig
from tasks.launcher.job import Job
from tasks.student.location import resolve_model

NUM_TRAIN = 14
MODEL = "builtin:tiny"


def dialogue(index: int, media_path: Path, split: str = "train") -> dict[str, Any]:
    """A row of DIALOGUES whose length grows with its index."""
    num_pairs = 1 + index % 4
    return {
        "dialogue_id": f"d{index:02d}",
        "sample_id": f"s{index}",
        "media_path": str(media_path),
        "source_photograph": f"p{index}",
        "split": split,
        "sub_task": "mcq",
        "prompt": "\n".join(f"{i + 1}. What distortion is it?" for i in range(num_pairs)),
        "response": "<think></think><answer>" + "\n".join(f"{i + 1}. Noise" for i in range(num_pairs)) + "</answer>",
        "merged_from": [f"q{index}-{i}" for i in range(num_pairs)],
        "pairs": [],
        "num_pairs": num_pairs,
        "num_tokens": 10,
    }


@pytest.fixture(scope="session")
def dialogues(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Fourteen training dialogues and two held out, about seven pictures."""
    from PIL import Image

    folder = tmp_path_factory.mktemp("dialogues")
    rows = []
    for i in range(NUM_TRAIN + 2):
        picture = folder / f"{i % 7}.png"
        pixels = np.random.default_rng(i % 7).integers(0, 256, (56, 84, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(picture)
        rows.append(dialogue(i, picture, "train" if i < NUM_TRAIN else "test"))
    pq.write_table(pa.Table.from_pylist(rows, schema=DIALOGUES), folder / "dialogues.parquet")
    return folder / "dialogues.parquet"


@pytest.fixture(scope="session")
def small_student(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The shipped student's processor and architecture, one attention head wide and one layer deep, random weights."""
    import tasks.student.torchvision_operators  # noqa: F401

    # isort: split
    import torch
    from transformers import AutoConfig, AutoModelForImageTextToText, AutoProcessor

    folder = tmp_path_factory.mktemp("small_student")
    shipped = resolve_model(MODEL)
    config = AutoConfig.from_pretrained(shipped)
    text, vision = config.text_config, config.vision_config
    text.hidden_size, text.intermediate_size = text.hidden_size // text.num_attention_heads, 64
    text.num_attention_heads = text.num_key_value_heads = text.num_hidden_layers = 1
    text.layer_types = text.layer_types[:1]
    vision.out_hidden_size, vision.hidden_size, vision.intermediate_size = text.hidden_size, 32, 64
    vision.num_heads = vision.depth = 1
    torch.manual_seed(0)
    AutoModelForImageTextToText.from_config(config).save_pretrained(folder)
    AutoProcessor.from_pretrained(shipped).save_pretrained(folder)
    return folder


@pytest.fixture
def make_job(small_student: Path, dialogues: Path, tmp_path: Path) -> Callable[..., Job]:
    """make_job(name, student={...}, **keys of the config's sft section) -> a job in a folder of its own."""

    def make(name: str = "job", student: dict[str, Any] | None = None, rows: Path = dialogues, **sft: Any) -> Job:
        lr = sft.pop("lr", 1e-2)
        defaults = {"epochs": 1, "batch_size": 4, "max_tokens": 400, "save_steps": 3, "optimiser": {"lr": lr}}
        config = PipelineConfig.model_validate(
            {
                "name": "test",
                "ingest": {"sources": [{"kind": "degrade", "name": "unused"}]},
                "student": {"model": str(small_student), "precision": "float32", **(student or {})},
                "sft": {**defaults, **sft},
                "grpo": {"optimiser": {"lr": 1e-6}},
            }
        )
        folder = tmp_path / name
        folder.mkdir(exist_ok=True)
        return Job(config, {"dialogues": str(rows)}, folder / "out", folder, seed=7)

    return make
