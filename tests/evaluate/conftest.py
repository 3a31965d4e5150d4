"""Dialogues about degraded pictures, pictures on disk, and students whose answers are known."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipeline_config.schema import PipelineConfig
from tasks.evaluate.items import evaluation_rows
from tasks.student.turns import assistant_turn, merge_answers, merge_prompt

Row = dict[str, Any]
OPTIONS = ["Noise", "Motion blur", "Low clarity", "Overexposure"]
SEVERE = "<|object_ref_start|>Severe {}<|object_ref_end|><|box_start|>({},{}),({},{})<|box_end|>"


def _pair(number: int, sample: str, sub_task: str, kind: str, problem_type: str, question: str, answer: str) -> Row:
    options = OPTIONS if problem_type == "choice" else []
    lines = "".join(f"\n{'ABCD'[i]}. {option}" for i, option in enumerate(options))
    return {
        "question_id": f"{sample}-{sub_task}-{number}",
        "sub_task": sub_task,
        "kind": kind,
        "problem_type": problem_type,
        "question": question + lines,
        "options": options,
        "answer": answer,
    }


def questions(sample: str, noise: bool) -> dict[str, list[Row]]:
    """Questions per sub-task about a picture with noise top left, or motion blur bottom right."""
    name, corners = ("noise", (0, 0, 500, 500)) if noise else ("motion blur", (400, 400, 1000, 1000))
    box = SEVERE.format(name, *corners)
    region = box[box.index("<|box_start|>") :]
    level, mos = ("poor", "2.10") if noise else ("bad", "1.40")
    description = "\n".join(
        (
            "A photograph.",
            f"Distortions: {box}",
            f"Overall: key distortions: {box}",
            f"Thus, the quality of the image is {level}.",
        )
    )
    return {
        "mcq": [
            _pair(
                0, sample, "mcq", "type", "choice", "Which distortion affects the image most?", "A" if noise else "B"
            ),
            _pair(1, sample, "mcq", "significance", "choice", "Which lowers the quality most?", "A" if noise else "B"),
        ],
        "score": [_pair(0, sample, "score", "score", "mos", "Rate the quality.", mos)],
        "dist_detect": [_pair(0, sample, "dist_detect", "dist_detect", "detection", "Where are all distortions?", box)],
        "reg_perception": [
            _pair(
                0,
                sample,
                "reg_perception",
                "reg_perception",
                "region",
                f"What distortion affects this region {region}?",
                f"Severe {name}",
            )
        ],
        "assess": [_pair(0, sample, "assess", "assess", "description", "Please evaluate the image.", description)],
    }


@pytest.fixture(scope="session")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of PNGs of 56 x 56 pixels: p0_0.png .. p7_1.png, two crops of each of eight photographs."""
    from PIL import Image

    folder = tmp_path_factory.mktemp("pictures")
    rng = np.random.default_rng(0)
    for photograph in range(8):
        for crop in range(2):
            pixels = rng.integers(0, 255, (56, 56, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(folder / f"p{photograph}_{crop}.png")
    return folder


@pytest.fixture(scope="session")
def dialogues(pictures: Path) -> list[Row]:
    """Rows of the dialogues table: photographs 0..5 are held out, 6 and 7 are trained on."""
    rows = []
    for photograph in range(8):
        for crop in range(2):
            sample = f"s{photograph}{crop}"
            for sub_task, pairs in questions(sample, noise=(photograph + crop) % 2 == 0).items():
                answers = merge_answers([pair["answer"] for pair in pairs])
                rows.append(
                    {
                        "dialogue_id": f"{sample}-{sub_task}",
                        "sample_id": sample,
                        "media_path": str(pictures / f"p{photograph}_{crop}.png"),
                        "source_photograph": f"photo_{photograph}.jpg",
                        "split": "test" if photograph < 6 else "train",
                        "sub_task": sub_task,
                        "prompt": merge_prompt([pair["question"] for pair in pairs]),
                        "response": assistant_turn("", answers),
                        "merged_from": [pair["question_id"] for pair in pairs],
                        "pairs": pairs,
                        "num_pairs": len(pairs),
                        "num_tokens": 50,
                    }
                )
    return rows


@pytest.fixture(scope="session")
def config() -> PipelineConfig:
    return PipelineConfig.model_validate(
        {
            "name": "test",
            "seed": 3,
            "ingest": {"sources": [{"kind": "degrade", "name": "photographs"}]},
            "sft": {"optimiser": {"lr": 1e-3}},
            "grpo": {"optimiser": {"lr": 1e-3}},
            "evaluate": {"prompts": 30, "max_new_tokens": 4, "batch_size": 8, "replicates": 200, "gallery": 4},
        }
    )


@pytest.fixture(scope="session")
def answered(dialogues: list[Row], config: PipelineConfig) -> Callable[[str, Callable[[Row], str]], list[Row]]:
    """Evaluation rows of a student whose turn about each held-out dialogue is given by a function."""
    from tasks.rewards.score import score

    def answer(student: str, turn: Callable[[Row], str]) -> list[Row]:
        rows: list[Row] = []
        for dialogue in dialogues:
            if dialogue["split"] == "test":
                text = turn(dialogue)
                scored = score(dialogue, text, config.rewards)
                rows += evaluation_rows(student, dialogue, text, scored.pair_answers, scored.pair_accuracy)
        return rows

    return answer
