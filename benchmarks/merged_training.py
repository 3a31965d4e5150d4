"""Does merging the Q-A pairs of one picture pay, and does it cost accuracy?

    python -m benchmarks.merged_training --json merged.json                   the table of speeds
    python -m benchmarks.merged_training --accuracy --json merged.json        and the held-out accuracy at 224 px

The same pairs (five per picture) train the tiny student merged and one by one, with equally many pairs in an optimizer
step. Speed: seconds of one epoch, the two in turn, ratio pair by pair, median. Short text: choice questions; long text:
descriptions. Accuracy: both are trained on the same pairs for the same epochs, each asked held-out questions in its own
form; the difference is bootstrapped over source photographs.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import statistics
import tempfile
from collections import defaultdict
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from data_contracts.records import ANNOTATIONS
from pipeline_config.schema import PipelineConfig, load_config

PAIRS = 5
SIDES = (112, 168, 224, 336)
TEXTS = {"short": ["mcq"], "long": ["assess", "brief_assess", "dist_assess", "dist_detect", "qa"]}
FORMS: dict[str, list[str] | None] = {"merged": ["image"], "single": None}


def configure(side: int, text: str, form: str, num_crops: int, epochs: float) -> PipelineConfig:
    batch = PAIRS * 4
    return load_config(
        "demo",
        {
            "ingest.sources.0.side": side,
            "ingest.sources.0.crops_per_photograph": num_crops,
            "ingest.sources.0.test_crops_per_photograph": num_crops,
            "ingest.questions": {"sub_tasks": TEXTS[text], "regions_per_image": 3},
            "compress": {"merge_by": FORMS[form], "order": "asked", "max_pairs": PAIRS, "max_tokens": 2000},
            "sft.repeats": {},
            "sft.freeze": {},
            "sft.epochs": epochs,
            "sft.batch_size": batch // PAIRS if form == "merged" else batch,
            "sft.max_tokens": 4096,
        },
    )


def dialogues(config: PipelineConfig, folder: Path) -> Path:
    """Dialogues of five questions per picture, with the embedded teacher's reasoning where it agrees with the gold."""
    from tasks.compress.merge import merge

    annotations = folder / "annotations.parquet"
    if not annotations.exists():
        questions = defaultdict(list)
        for row in annotated(config, folder):
            questions[row["sample_id"]].append(row)
        rows = []
        for asked in questions.values():
            # A picture with fewer questions is asked some of them again: the text's length is what counts here.
            for number, row in enumerate((asked * PAIRS)[:PAIRS]):
                rows.append({**row, "question_id": f"{row['question_id']}-{number}"})
        pq.write_table(pa.Table.from_pylist(rows, schema=ANNOTATIONS), annotations)
    path = folder / f"{'merged' if config.compress.merge_by else 'single'}.parquet"
    if not path.exists():
        pq.write_table(merge(annotations, config.compress, config.seed), path)
    return path


def annotated(config: PipelineConfig, folder: Path) -> list[dict[str, Any]]:
    """Rows of ANNOTATIONS of the shipped photographs' questions."""
    from tasks.annotate.annotate import annotate_samples
    from tasks.ingest.ingest import ingest

    samples = folder / "samples.parquet"
    pq.write_table(ingest(config.ingest, config.seed, folder / "media").table, samples)
    work = annotate_samples(samples, folder, config.annotate, config.rewards)
    rows: list[dict[str, Any]] = asyncio.run(work).table.to_pylist()
    return rows


def train(config: PipelineConfig, path: Path, folder: Path) -> dict[str, Any]:
    """Facts of one training run in this process; the student stands in ``folder/out``."""
    from tasks.launcher.job import Job
    from tasks.sft.train import run

    return run(Job(config, {"dialogues": str(path)}, folder / "out", folder, config.seed))


def speed(side: int, text: str, num_crops: int, repeats: int, root: Path) -> dict[str, Any]:
    data = root / f"{side}-{text}"
    seconds: dict[str, list[float]] = {form: [] for form in FORMS}
    tokens = {}
    for repeat in range(repeats):
        for form in FORMS:
            config = configure(side, text, form, num_crops, epochs=1)
            facts = train(config, dialogues(config, data), data / f"{form}-{repeat}")
            seconds[form].append(facts["seconds"])
            tokens[form] = facts["tokens"]
    ratios = [single / merged for single, merged in zip(seconds["single"], seconds["merged"], strict=True)]
    return {
        "side": side,
        "text": text,
        "seconds": seconds,
        "tokens": tokens,
        "ratio": statistics.median(ratios),
        "ratio_low": min(ratios),
        "ratio_high": max(ratios),
        "token_ratio": tokens["single"] / tokens["merged"],
    }


def answers(config: PipelineConfig, path: Path, student_folder: Path) -> list[dict[str, Any]]:
    """EVALUATION-like rows of the held-out questions."""
    from tasks.rewards.score import score
    from tasks.student.checkpoint import load_student
    from tasks.student.encode import Prompt
    from tasks.student.generate import generate

    rows = pq.read_table(path, filters=[("split", "=", "test")]).to_pylist()
    student = load_student(str(student_folder), config.student)
    prompts = [Prompt(row["prompt"], row["media_path"]) for row in rows]
    completions = generate(student, prompts, temperature=0, max_new_tokens=96, batch_size=64, seed=config.seed)
    evaluated = []
    for row, (completion,) in zip(rows, completions, strict=True):
        scored = score(row, completion.text, config.rewards, truncated=completion.truncated)
        for pair, answer, accuracy in zip(row["pairs"], scored.pair_answers, scored.pair_accuracy, strict=True):
            place = {name: row[name] for name in ("sample_id", "source_photograph")}
            evaluated.append({**pair, **place, "gold": pair["answer"], "answer": answer, "accuracy": accuracy})
    return evaluated


def accuracy(side: int, num_crops: int, epochs: float, replicates: int, root: Path) -> dict[str, Any]:
    from tasks.rewards.metrics import bootstrap

    evaluated, seconds = {}, {}
    for form in FORMS:
        config = configure(side, "short", form, num_crops, epochs)
        folder = root / f"accuracy-{side}"
        path = dialogues(config, folder)
        seconds[form] = train(config, path, folder / form)["seconds"]
        evaluated[form] = answers(config, path, folder / form / "out")
    students, pairs = bootstrap(evaluated, replicates, seed=0)
    metric = "perception_accuracy"
    return {
        "side": side,
        "epochs": epochs,
        "seconds": seconds,
        "accuracy": {form: students[form][metric] for form in FORMS},
        "difference": pairs[("merged", "single")][metric],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, help="write the figures here")
    parser.add_argument("--sides", type=int, nargs="+", default=SIDES)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--crops", type=int, default=2, help="per photograph, of the speed runs")
    parser.add_argument("--accuracy", action="store_true", help="also train both to compare held-out accuracy")
    parser.add_argument("--accuracy-crops", type=int, default=12)
    parser.add_argument("--epochs", type=float, default=4)
    arguments = parser.parse_args()
    figures: dict[str, Any] = {"speed": []}
    with tempfile.TemporaryDirectory() as root:
        print(f"{'side':>5} {'text':>6} {'single s':>9} {'merged s':>9} {'faster':>7}  tokens")
        for side in arguments.sides:
            for text in TEXTS:
                row = speed(side, text, arguments.crops, arguments.repeats, Path(root))
                figures["speed"].append(row)
                middle = {form: statistics.median(row["seconds"][form]) for form in FORMS}
                print(
                    f"{side:5} {text:>6} {middle['single']:9.2f} {middle['merged']:9.2f} {row['ratio']:6.2f}x"
                    f"  {row['token_ratio']:.2f}x fewer",
                    flush=True,
                )
        if arguments.accuracy:
            figures["accuracy"] = accuracy(224, arguments.accuracy_crops, arguments.epochs, 1000, Path(root))
            point, low, high = figures["accuracy"]["difference"]
            values = {form: round(value[0], 3) for form, value in figures["accuracy"]["accuracy"].items()}
            print(f"held-out accuracy at 224 px {values}; merged - single {point:+.3f} ({low:+.3f} .. {high:+.3f})")
    if arguments.json:
        arguments.json.write_text(json.dumps(figures, indent=1) + "\n")


if __name__ == "__main__":
    main()
