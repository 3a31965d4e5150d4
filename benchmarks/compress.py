"""Does the compress stage keep up with Bilibili's 550,000 questions?

    python -m benchmarks.compress --json compress.json          # about two minutes; needs 400 MB of disk in /tmp

550,000 synthetic Q-A pairs of 11,848 pictures in the nine sub-tasks of ViDA-UGC (its numbers) go through the whole
stage as the pipeline runs it: merge, contract, Parquet, digest, lineage and snapshot; MLflow apart. Goals: under 8
seconds after imports, on two cores, and a peak of 1.5 GB resident memory, imports included. The stage runs in a process
of its own. Elapsed and processor seconds; they differ on a busy machine.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from data_contracts.records import ANNOTATIONS, DISTORTIONS, SEVERITIES, SUB_TASKS
from data_contracts.refs import Ref, Run, file_digest
from pipeline_config.schema import load_config

PAIRS, PICTURES, TEST_SHARE = 550_000, 11_848, 0.1
GOALS = {"seconds": 8.0, "megabytes": 1_500.0}
_BATCH_PICTURES = 500
_BOX = "<|box_start|>({},{}),({},{})<|box_end|>"
_SUFFIX = "Answer with a single option's letter (A, B, C, ...) from the given choices directly."


def _choice(name: str, phrase: str, box: str) -> dict[str, Any]:
    options = [name, *(other for other in DISTORTIONS[:4] if other != name)][:4]
    lettered = [f"{letter}. {option}" for letter, option in zip("ABCD", options, strict=True)]
    question = "\n".join([f"Which distortion affects the region {box} most?", *lettered, _SUFFIX])
    return {"problem_type": "choice", "question": question, "options": options, "answer": "A"}


def _open(problem_type: str, question: str, answer: str) -> Callable[[str, str, str], dict[str, Any]]:
    def asked(name: str, phrase: str, box: str) -> dict[str, Any]:
        labelled = f"<|object_ref_start|>{phrase}<|object_ref_end|>{box}"
        words = {"name": name.lower(), "phrase": phrase, "box": box, "labelled": labelled}
        fields = {"question": question.format(**words), "answer": answer.format(**words)}
        return {"problem_type": problem_type, "options": [], **fields}

    return asked


_ASKED: dict[str, Callable[[str, str, str], dict[str, Any]]] = {
    "mcq": _choice,
    "qa": _open("free_form", "What is the most significant distortion near {box}?", "{phrase}"),
    "score": _open("mos", "Please rate the quality of the region {box} from 1.00 (bad) to 5.00 (excellent).", "3.42"),
    "dist_detect": _open("detection", "Please provide the boxes of all distortions near {box}.", "{labelled}"),
    "ref_grounding": _open("grounding", "Please provide the box of the region affected by {phrase}.", "{box}"),
    "reg_perception": _open("region", "What distortion affects this region {box}?", "{phrase}"),
    "assess": _open(
        "description",
        "Please evaluate the quality of the image around {box} in detail and provide your reasons.",
        "The picture is dim and mostly green.\nDistortions: {labelled}\n"
        "Overall: the quality is lowered; key distortions: {labelled}\nThus, the quality of the image is poor.",
    ),
    "brief_assess": _open(
        "brief",
        "Please describe the quality around {box} briefly.",
        "The quality of the image is poor; its key distortion is {phrase}.",
    ),
    "dist_assess": _open(
        "distortion",
        "Please describe the {name} around {box}.",
        "{phrase} affects the top left of the image {box}.",
    ),
}


def write_annotations(path: Path, num_pairs: int, num_pictures: int) -> None:
    """Annotations in the order of the pictures, the pairs spread at random over pictures and sub-tasks."""
    rng = np.random.default_rng(0)
    groups = num_pictures * len(SUB_TASKS)
    sizes = (1 + rng.multinomial(max(0, num_pairs - groups), np.full(groups, 1 / groups))).reshape(num_pictures, -1)
    with pq.ParquetWriter(path, ANNOTATIONS) as writer:
        for first in range(0, num_pictures, _BATCH_PICTURES):
            pictures = range(first, min(first + _BATCH_PICTURES, num_pictures))
            rows = [row for picture in pictures for row in _of_picture(picture, sizes[picture], rng)]
            writer.write_table(pa.Table.from_pylist(rows, schema=ANNOTATIONS))


def _of_picture(picture: int, sizes: Any, rng: np.random.Generator) -> list[dict[str, Any]]:
    held_out = picture < TEST_SHARE * PICTURES
    rows = []
    for (sub_task, category), size in zip(SUB_TASKS.items(), sizes, strict=True):
        for _ in range(size):
            name, severity = DISTORTIONS[rng.integers(10)], SEVERITIES[rng.integers(3)]
            phrase, box = f"{severity} {name.lower()}", _BOX.format(*rng.integers(0, 1001, 4))
            key = hashlib.sha256(f"{picture} {len(rows)}".encode()).hexdigest()[:32]
            reasoning = f"Noise {rng.integers(40)} is high at the top left, suggesting {phrase.lower()}."
            row = dict.fromkeys(ANNOTATIONS.names)
            row |= {"question_id": key, "category": category, "sub_task": sub_task, "kind": sub_task}
            row |= _ASKED[sub_task](name, phrase, box)
            row |= {"sample_id": f"{picture:032x}", "media_path": f"/data/vida/images/{picture:05d}.png"}
            row |= {"source_photograph": f"photograph {picture}", "split": "test" if held_out else "train"}
            row |= {"prompt_tokens": 0, "completion_tokens": 0, "cost": 0.0, "teacher": "measured"}
            row |= {"tries": 0} if held_out else {"tries": 1, "reasoning": reasoning, "reward": 1.0, "request_key": key}
            rows.append(row)
    return rows


def run_stage(annotations: Path, home: Path) -> dict[str, Any]:
    """The stage in this process; figures of each part."""
    started = _now()
    import great_expectations  # noqa: F401  the contract's library, imported late by the pipeline

    from tasks.compress.merge import merge
    from tasks.launcher.stage import open_stage

    config = load_config("demo", {"compress.max_think_tokens": 40})
    ref = Ref("annotations", str(annotations), file_digest(annotations), pq.read_metadata(annotations).num_rows)
    run = Run("benchmark", str(home), "")
    parts = {"imports": _since(started)}
    began = _now()
    with open_stage("compress", run, config, {"annotations": ref}) as stage:
        parts["opening"] = _since(began)
        step = _now()
        table = merge(ref.path, config.compress, config.seed)
        parts["merge"], step = _since(step), _now()
        published = stage.publish_table("dialogues", table)
        parts["contract, Parquet, digest, lineage"], step = _since(step), _now()
    parts["closing, snapshot"] = _since(step)
    parts["whole stage after imports"] = _since(began)
    megabytes = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return {"pairs": ref.rows, "dialogues": published.rows, "parts": parts, "peak_megabytes": megabytes}


def _now() -> tuple[float, float]:
    return time.perf_counter(), time.process_time()


def _since(start: tuple[float, float]) -> dict[str, float]:
    return {"elapsed": time.perf_counter() - start[0], "processor": time.process_time() - start[1]}


def _in_process(*arguments: str) -> str:
    command = [sys.executable, "-m", "benchmarks.compress", *arguments]
    return subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, env=dict(os.environ)).stdout


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--json", type=Path, help="also write the figures here")
    parser.add_argument("--pairs", type=int, default=PAIRS)
    parser.add_argument("--pictures", type=int, default=PICTURES)
    parser.add_argument("--make", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--stage", type=Path, nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.make:
        return write_annotations(options.make, options.pairs, options.pictures)
    if options.stage:
        return print(json.dumps(run_stage(*options.stage)))
    with tempfile.TemporaryDirectory() as folder:
        annotations = Path(folder) / "annotations.parquet"
        _in_process("--make", str(annotations), "--pairs", str(options.pairs), "--pictures", str(options.pictures))
        figures = json.loads(_in_process("--stage", str(annotations), folder).splitlines()[-1])
    print(f"{figures['pairs']:,} pairs -> {figures['dialogues']:,} dialogues")
    print(f"{'seconds':40}{'elapsed':>9}{'processor':>11}")
    for name, seconds in figures["parts"].items():
        print(f"{name:40}{seconds['elapsed']:9.2f}{seconds['processor']:11.2f}")
    whole = figures["parts"]["whole stage after imports"]["elapsed"]
    print(f"whole stage: {whole:.2f} s (goal {GOALS['seconds']:g})")
    print(f"peak memory: {figures['peak_megabytes']:.0f} MB (goal {GOALS['megabytes']:g})")
    if options.json:
        options.json.write_text(json.dumps({**figures, "goals": GOALS}, indent=1))


if __name__ == "__main__":
    main()
