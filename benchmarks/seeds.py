"""Does GRPO add to SFT, and do mined prompts beat equally many random ones? Over several seeds.

    python -m benchmarks.seeds --config small --seeds 1 2 3 --json seeds.json

Runs the flow per seed with the mined pool and again with the random one; everything before GRPO comes from the cache
the second time. All seeds hold out the same photographs, so the paired bootstrap draws photographs once for all seeds:
per draw the metric is recomputed for each seed and student, and the difference averaged over the seeds.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq

from pipeline_config.home import home

POOLS = ("hard", "random")


def run(config: str, seed: int, pool: str, overrides: list[str]) -> list[dict[str, Any]]:
    """Rows of the evaluation of one run."""
    command = [sys.executable, "-m", "flows.full_pipeline", "--config", config]
    settings = [f"seed={seed}", "mine.random_control=true", f"grpo.pool={pool}", *overrides]
    # The champion of an earlier seed is no part of the question.
    settings.append(f"promote.registered_model=seeds-{config}-{seed}-{pool}")
    subprocess.run([*command, *(part for setting in settings for part in ("--set", setting))], check=True)
    summary = json.loads((home() / "summary.json").read_text())
    return pq.read_table(summary["datasets"]["evaluate"]["uri"]).to_pylist()


def replicates(rows: list[dict[str, Any]], weights: np.ndarray, photographs: list[str]) -> dict[str, np.ndarray]:
    """Metric -> values on all data (first) and on every draw, of one student."""
    from tasks.rewards.metrics.challenge import metrics_of, tally_rows

    return metrics_of(tally_rows(rows, photographs), weights)


def compare(rows: dict[tuple[int, str], list[dict[str, Any]]], num_draws: int) -> dict[str, dict[str, dict[str, Any]]]:
    """Differences averaged over the seeds, with 95 % intervals over photographs.

    rows: (seed, student) -> rows; students are ``sft``, ``hard`` and ``random``.
    """
    from tasks.rewards.metrics.intervals import draw

    photographs = sorted({row["source_photograph"] for group in rows.values() for row in group})
    weights = draw(len(photographs), num_draws, seed=0)
    values = {key: replicates(group, weights, photographs) for key, group in rows.items()}
    seeds = sorted({seed for seed, _ in rows})
    compared = {}
    for a, b in (("hard", "sft"), ("random", "sft"), ("hard", "random")):
        metrics = {}
        for metric in values[seeds[0], a]:
            by_seed = np.stack([values[seed, a][metric] - values[seed, b][metric] for seed in seeds])
            low, high = np.percentile(by_seed[:, 1:].mean(0), [2.5, 97.5])
            metrics[metric] = {
                "mean": float(by_seed[:, 0].mean()),
                "low": float(low),
                "high": float(high),
                "seeds": by_seed[:, 0].tolist(),
            }
        compared[f"{a} - {b}"] = metrics
    return compared


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", default="small")
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    parser.add_argument("--set", action="append", default=[], dest="overrides", metavar="KEY=VALUE")
    parser.add_argument("--draws", type=int, default=1000)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    rows: dict[tuple[int, str], list[dict[str, Any]]] = {}
    for seed in arguments.seeds:
        for pool in POOLS:
            evaluated = run(arguments.config, seed, pool, arguments.overrides)
            rows[seed, pool] = [row for row in evaluated if row["student"] == "grpo"]
            rows[seed, "sft"] = [row for row in evaluated if row["student"] == "sft"]
    compared = compare(rows, arguments.draws)
    print(f"{'pair':16} {'metric':26} {'difference':>10}  95 % over photographs")
    for pair, metrics in compared.items():
        for metric in ("composite", "perception_accuracy"):
            one = metrics[metric]
            print(f"{pair:16} {metric:26} {one['mean']:+10.3f}  {one['low']:+.3f} .. {one['high']:+.3f}")
    if arguments.json:
        arguments.json.write_text(json.dumps(compared, indent=1) + "\n")


if __name__ == "__main__":
    main()
