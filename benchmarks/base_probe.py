"""Do the tiny base's frozen vision features tell the distortions apart on photographs it has never seen?

    python -m benchmarks.base_probe --json FILE [--student DIR]

A logistic regression on the merged vision tokens (their mean, maximum and standard deviation over the picture) is
fitted on degraded crops of the shipped training photographs and tested on crops of the held-out ones: one distortion
over the whole picture at each of three severities, or none; 11 classes of equal size. The gate is 45 %. Prints accuracy
per severity and recall per class.
"""

from __future__ import annotations

import argparse
import csv
import json
from pathlib import Path

from tasks.student import torchvision_operators as _torchvision_operators  # noqa: F401  before transformers

import numpy as np  # isort: skip
import torch
from numpy.typing import NDArray
from PIL import Image
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from transformers import AutoModelForImageTextToText, AutoProcessor

from data_contracts.records import DISTORTIONS, SEVERITIES
from tasks.media.degradations import degrade

PHOTOGRAPHS = Path("tasks/media/photographs")
STUDENT = Path("tasks/student/tiny")
NONE = "No distortion"
CLASSES = (*DISTORTIONS, NONE)
GATE = 0.45
SIDE = 168
_BATCH = 33


def photographs_of(split: str) -> list[Path]:
    """Shipped photographs of a split."""
    with (PHOTOGRAPHS / "photographs.csv").open(newline="", encoding="utf-8") as file:
        return [PHOTOGRAPHS / row["file"] for row in csv.DictReader(file) if row["split"] == split]


def crop_of(picture: Image.Image, rng: np.random.Generator) -> NDArray[np.uint8]:
    """A square crop of 168 pixels a side that shows between 1/2.5 and 1/1.3 of the photograph's shorter side."""
    extent = int(min(picture.size) / rng.uniform(1.3, 2.5))
    left, top = (int(rng.integers(0, length - extent + 1)) for length in picture.size)
    box = (left, top, left + extent, top + extent)
    return np.asarray(picture.resize((SIDE, SIDE), Image.Resampling.LANCZOS, box=box))


def examples(split: str, crops: int, seed: int) -> tuple[list[Image.Image], NDArray[np.int64], NDArray[np.int64]]:
    """Pictures, classes and severities; per photograph `crops` crops for every class and severity."""
    rng = np.random.default_rng(seed)
    pictures, classes, severities = [], [], []
    for path in photographs_of(split):
        with Image.open(path) as file:
            photograph = file.convert("RGB")
        for _ in range(crops):
            for index, name in enumerate(CLASSES):
                for rank, severity in enumerate(SEVERITIES):
                    pixels = crop_of(photograph, rng)
                    if name != NONE:
                        pixels = degrade(pixels, name, severity, None, rng)
                    pictures.append(Image.fromarray(pixels))
                    classes.append(index)
                    severities.append(rank)
    return pictures, np.array(classes), np.array(severities)


def features(student: Path, pictures: list[Image.Image]) -> NDArray[np.float32]:
    """Mean, maximum and standard deviation of the merged vision tokens, pictures x (3 x width)."""
    processor = AutoProcessor.from_pretrained(student)
    model = AutoModelForImageTextToText.from_pretrained(student, dtype=torch.float32).eval()
    pooled = []
    with torch.no_grad():
        for start in range(0, len(pictures), _BATCH):
            inputs = processor.image_processor(images=pictures[start : start + _BATCH], return_tensors="pt")
            tokens = model.model.visual(inputs["pixel_values"], grid_thw=inputs["image_grid_thw"]).pooler_output
            tokens = tokens.view(len(inputs["image_grid_thw"]), -1, tokens.shape[-1])
            pooled.append(torch.cat([tokens.mean(1), tokens.amax(1), tokens.std(1)], dim=1))
    return torch.cat(pooled).numpy()


def probe(student: Path, train_crops: int, test_crops: int) -> dict[str, object]:
    """Fit on the training photographs, test on the held-out ones."""
    pictures, classes, _ = examples("train", train_crops, seed=1)
    held_out, wanted, severities = examples("test", test_crops, seed=2)
    regression = make_pipeline(StandardScaler(), LogisticRegression(C=0.05, max_iter=600))
    regression.fit(features(student, pictures), classes)
    right = regression.predict(features(student, held_out)) == wanted
    distorted = wanted != CLASSES.index(NONE)
    return {
        "student": str(student),
        "accuracy": float(right.mean()),
        "gate": GATE,
        "per_severity": {
            name: float(right[distorted & (severities == rank)].mean()) for rank, name in enumerate(SEVERITIES)
        },
        "recall": {name: float(right[wanted == index].mean()) for index, name in enumerate(CLASSES)},
        "num_train": len(classes),
        "num_test": len(wanted),
        "num_train_photographs": len(photographs_of("train")),
        "num_test_photographs": len(photographs_of("test")),
    }


def main() -> None:
    """Probe, print, write; exit 1 below the gate."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, required=True)
    parser.add_argument("--student", type=Path, default=STUDENT)
    parser.add_argument("--train-crops", type=int, default=4, help="per photograph, class and severity")
    parser.add_argument("--test-crops", type=int, default=2)
    arguments = parser.parse_args()
    result = probe(arguments.student, arguments.train_crops, arguments.test_crops)
    print(f"accuracy {result['accuracy']:.3f} on {result['num_test']} held-out crops (gate {GATE}, chance 0.091)")
    for key in ("per_severity", "recall"):
        for name, value in result[key].items():  # type: ignore[attr-defined]
            print(f"  {name:26s} {value:.3f}")
    arguments.json.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    if float(str(result["accuracy"])) < GATE:
        raise SystemExit(1)


if __name__ == "__main__":
    main()
