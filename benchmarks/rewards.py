"""Are rewards and metrics cheap enough to be called everywhere?

    python -m benchmarks.rewards --json rewards.json

Measures, on one core: 10,000 mixed lines through ``python -m tasks.rewards`` as a program (goal: under 10 s); the
slowest of many hostile completions of one megabyte (goal: under 1 s); the paired bootstrap of 6 students x 2,000 rows x
1,000 replicates (goal: under 20 s); importing the entry point (goal: under .5 s). Elapsed and processor seconds; they
differ on a busy machine.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

from data_contracts.records import CHOICE_KINDS, DISTORTIONS, LEVELS, SEVERITIES
from pipeline_config.schema import RewardsConfig
from tasks.rewards.examples import NOISE, QUESTIONS, box_text, turn
from tasks.rewards.health import gold_completion
from tasks.rewards.metrics import bootstrap
from tasks.rewards.score import score

NUM_LINES, NUM_STUDENTS, NUM_ROWS, REPLICATES = 10_000, 6, 2_000, 1_000
HOSTILE = ("(", "<think>", "<answer>", "1", "1. ", "[", "{", "<|box_start|>(", NOISE, "A. ", " ", "\n", "0:", "a b ")


def mixed_lines() -> list[str]:
    """Every problem type in turn; gold answers, answers to other questions, and prose."""
    rewards = RewardsConfig()
    lines = []
    for number in range(NUM_LINES):
        sample = QUESTIONS[number % len(QUESTIONS)]
        other = QUESTIONS[(number * 7 + 3) % len(QUESTIONS)]
        completion = (
            gold_completion(sample, rewards),
            turn(str(other["answer"]), "The edges look soft."),
            f"I believe it is number {number}, because the picture is soft.",
        )[number // len(QUESTIONS) % 3]
        lines.append(json.dumps({"sample": sample, "completion": completion}))
    return lines


Seconds = tuple[float, float]  # elapsed, processor


def now(who: int = resource.RUSAGE_SELF) -> Seconds:
    usage = resource.getrusage(who)
    return time.perf_counter(), usage.ru_utime + usage.ru_stime


def since(start: Seconds, who: int = resource.RUSAGE_SELF) -> Seconds:
    elapsed, processor = now(who)
    return elapsed - start[0], processor - start[1]


def time_program() -> Seconds:
    """The whole program, start and imports included."""
    lines = "\n".join(mixed_lines())
    start = now(resource.RUSAGE_CHILDREN)
    done = subprocess.run(
        [sys.executable, "-m", "tasks.rewards"], input=lines, capture_output=True, text=True, check=True
    )
    assert len(done.stdout.splitlines()) == NUM_LINES, done.stderr
    return since(start, resource.RUSAGE_CHILDREN)


def time_import() -> Seconds:
    """What importing the entry point adds to starting Python."""
    times = []
    for statement in ("import tasks.rewards.score", "pass"):
        start = now(resource.RUSAGE_CHILDREN)
        subprocess.run([sys.executable, "-c", statement], check=True)
        times.append(since(start, resource.RUSAGE_CHILDREN))
    return times[0][0] - times[1][0], times[0][1] - times[1][1]


def time_hostile() -> Seconds:
    """The slowest completion over all problem types: a megabyte, and the longest field that is read."""
    rewards, slowest = RewardsConfig(), (0.0, 0.0)
    for question in QUESTIONS:
        score(question, turn("warm"), rewards)  # libraries are loaded on first use
    for unit in HOSTILE:
        for text in (unit * (1_000_000 // len(unit)), turn(unit * (60_000 // len(unit)))):
            for question in QUESTIONS:
                start = now()
                score(question, text, rewards)
                slowest = max(slowest, since(start), key=lambda seconds: seconds[1])
    return slowest


def evaluation_rows(seed: int) -> list[dict[str, Any]]:
    """Rows of every sub-task on 24 photographs, two in five answers wrong."""
    rng = np.random.default_rng(seed)
    rows: list[dict[str, Any]] = []
    while len(rows) < NUM_ROWS:
        sample = f"s{len(rows)}"
        fields = {"sample_id": sample, "media_path": None, "source_photograph": f"p{len(rows) % 24}", "options": []}

        def boxes() -> str:
            drawn = rng.choice(DISTORTIONS, 2, replace=False)
            return ", ".join(box_text(f"{rng.choice(SEVERITIES)} {d.lower()}", (0, 0, 500, 500)) for d in drawn)

        def described(text: str) -> str:
            level = rng.choice(LEVELS)
            return f"A.\nDistortions: {text}\nKey distortions: {text}\nThus, the quality of the image is {level}."

        gold, found = boxes(), boxes()
        found = gold if rng.random() < 0.6 else found
        asked = "What distortion affects this region <|box_start|>(0,0),(500,500)<|box_end|>?"
        mos = rng.uniform(1, 5, 2)
        items = [
            ("dist_detect", "detection", "?", gold, found),
            ("assess", "description", "?", described(gold), described(found)),
            ("score", "mos", "?", f"{mos[0]:.2f}", f"{mos[1]:.2f}"),
            (
                "reg_perception",
                "region",
                asked,
                "Minor noise",
                "Minor noise" if rng.random() < 0.6 else "Severe motion blur",
            ),
        ]
        rows += [
            {**fields, "sub_task": s, "kind": s, "problem_type": t, "question": q, "gold": g, "answer": a}
            for s, t, q, g, a in items
        ]
        for kind in CHOICE_KINDS:
            choice = {"sub_task": "mcq", "kind": kind, "problem_type": "choice", "question": "?", "gold": "B"}
            rows.append({**fields, **choice, "options": ["x", "y", "z"], "answer": "ABC"[rng.integers(3)]})
    return rows[:NUM_ROWS]


def time_bootstrap() -> Seconds:
    rows = {f"student {i}": evaluation_rows(i) for i in range(NUM_STUDENTS)}
    start = now()
    bootstrap(rows, REPLICATES, seed=0)
    return since(start)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--json", type=Path, help="also write the figures here")
    options = parser.parse_args()
    figures = {
        "10,000 mixed lines through the program": (time_program(), 10.0),
        "slowest hostile completion": (time_hostile(), 1.0),
        "bootstrap, 6 students x 2,000 rows x 1,000 replicates": (time_bootstrap(), 20.0),
        "importing the entry point": (time_import(), 0.5),
    }
    print(f"{'seconds':56}{'elapsed':>9}{'processor':>11}{'goal':>7}")
    for name, ((elapsed, processor), goal) in figures.items():
        print(f"{name:56}{elapsed:9.2f}{processor:11.2f}{goal:7.1f}")
    if options.json:
        table = {n: {"elapsed": e, "processor": p, "goal": g} for n, ((e, p), g) in figures.items()}
        options.json.write_text(json.dumps(table, indent=1))


if __name__ == "__main__":
    main()
