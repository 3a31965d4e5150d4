"""What GRPO adds to SFT over several seeds: with mined prompts, with as many random ones, and with a curriculum.

    python -m benchmarks.seeds --config small --seeds 1 2 3 --json seeds.json --plot seeds.svg

Runs the flow per seed and way of choosing prompts; everything before GRPO comes from the cache after the first. All
ways have the same number of rollouts. All seeds hold out the same photographs, so the paired bootstrap draws
photographs once for all seeds: per draw the metric is recomputed for each seed and student, and the difference averaged
over the seeds. The curves are over all rollouts of a step, those of dropped groups too.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import yaml

from pipeline_config.home import home
from pipeline_config.schema import load_config

WAYS = {
    "mined": ["grpo.pool=hard"],
    "random": ["grpo.pool=random"],
    "curriculum": ["grpo.pool=hard", "grpo.sampling.order=curriculum", "grpo.sampling.max_expansion=4"],
}
CURVES = {
    "reward": "Mean reward",
    "zero_variance_share": "Share of groups without variance",
    "sampled_entropy": "Entropy per token, nats",
}
STRETCHES = 5  # of a curve, in the printed table

History = list[dict[str, float]]


def run(config: str, seed: int, way: str, overrides: list[str]) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """Rows of the evaluation of one run, and GRPO's history: ``steps`` and ``probe``."""
    settings = [f"seed={seed}", "mine.random_control=true", *WAYS[way], *overrides]
    parts = (setting.partition("=") for setting in settings)
    grpo = load_config(config, {key: yaml.safe_load(value) for key, _, value in parts}).grpo
    # Expansion rolls out more a step, so it ends with an earlier one.
    settings.append(f"grpo.max_rollouts={grpo.steps * grpo.prompts_per_step * grpo.num_rollouts}")
    # The champion of an earlier seed is no part of the question.
    settings.append(f"promote.registered_model=seeds-{config}-{seed}-{way}")
    command = [sys.executable, "-m", "flows.full_pipeline", "--config", config]
    subprocess.run([*command, *(part for setting in settings for part in ("--set", setting))], check=True)
    datasets = json.loads((home() / "summary.json").read_text())["datasets"]
    history = json.loads((Path(datasets["grpo"]["uri"]) / "history.json").read_text())
    return pq.read_table(datasets["evaluate"]["uri"]).to_pylist(), history


def replicates(rows: list[dict[str, Any]], weights: np.ndarray, photographs: list[str]) -> dict[str, np.ndarray]:
    """Metric -> values on all data (first) and on every draw, of one student."""
    from tasks.rewards.metrics.challenge import metrics_of, tally_rows

    return metrics_of(tally_rows(rows, photographs), weights)


def compare(
    rows: Mapping[tuple[int, str], list[dict[str, Any]]], ways: Sequence[str], num_draws: int
) -> dict[str, dict[str, dict[str, Any]]]:
    """Differences averaged over the seeds, with 95 % intervals over photographs.

    rows: (seed, student) -> rows; students are ``sft`` and the ways. Pairs: each way and sft, each other way and mined.
    """
    from tasks.rewards.metrics.intervals import draw

    photographs = sorted({row["source_photograph"] for group in rows.values() for row in group})
    weights = draw(len(photographs), num_draws, seed=0)
    values = {key: replicates(group, weights, photographs) for key, group in rows.items()}
    seeds = sorted({seed for seed, _ in rows})
    compared = {}
    pairs = [(way, "sft") for way in ways] + [(way, "mined") for way in ways if way != "mined" and "mined" in ways]
    for a, b in pairs:
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


def stretches(histories: Sequence[History], key: str) -> np.ndarray:
    """Means of a curve over fifths of the rollouts, averaged over the seeds; each step weighs its rollouts."""
    by_seed = []
    for steps in histories:
        ends = np.array([0, *(step["num_rollouts"] for step in steps)])
        sums = np.cumsum([0, *(step[key] * num for step, num in zip(steps, np.diff(ends), strict=True))])
        edges = np.linspace(0, ends[-1], STRETCHES + 1)
        by_seed.append(np.diff(np.interp(edges, ends, sums)) / np.diff(edges))
    return np.mean(by_seed, axis=0)


def plot(histories: Mapping[str, Sequence[History]], path: Path) -> None:
    """A panel per curve: every seed faint, their mean over a grid of rollouts strong, both smoothed over ten steps."""
    import matplotlib

    matplotlib.use("svg")
    from matplotlib import pyplot

    figure, panels = pyplot.subplots(1, len(CURVES), figsize=(4.2 * len(CURVES), 3.0), layout="constrained")
    for axes, (key, title) in zip(panels, CURVES.items(), strict=True):
        for number, (way, seeds) in enumerate(histories.items()):
            grid = np.linspace(0, min(steps[-1]["num_rollouts"] for steps in seeds), 200)
            curves = []
            for steps in seeds:
                value = np.array([step[key] for step in steps])
                smooth = np.array([value[max(0, i - 9) : i + 1].mean() for i in range(len(value))])
                curves.append(np.interp(grid, [step["num_rollouts"] for step in steps], smooth))
                axes.plot(grid, curves[-1], color=f"C{number}", alpha=0.25, linewidth=1)
            axes.plot(grid, np.mean(curves, axis=0), color=f"C{number}", linewidth=2, label=way)
        axes.set(title=title, xlabel="rollouts")
    panels[0].legend(frameon=False)
    figure.savefig(path)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", default="small")
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    parser.add_argument("--ways", nargs="+", choices=WAYS, default=list(WAYS))
    parser.add_argument("--set", action="append", default=[], dest="overrides", metavar="KEY=VALUE")
    parser.add_argument("--draws", type=int, default=1000)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--plot", type=Path)
    arguments = parser.parse_args()
    rows: dict[tuple[int, str], list[dict[str, Any]]] = {}
    histories: dict[str, list[dict[str, Any]]] = {way: [] for way in arguments.ways}
    for seed in arguments.seeds:
        for way in arguments.ways:
            evaluated, history = run(arguments.config, seed, way, arguments.overrides)
            rows[seed, way] = [row for row in evaluated if row["student"] == "grpo"]
            rows[seed, "sft"] = [row for row in evaluated if row["student"] == "sft"]
            histories[way].append(history)
    compared = compare(rows, arguments.ways, arguments.draws)
    print(f"{'pair':20} {'metric':20} {'difference':>10}  95 % over photographs")
    for pair, metrics in compared.items():
        for metric in ("composite", "perception_accuracy"):
            one = metrics[metric]
            print(f"{pair:20} {metric:20} {one['mean']:+10.3f}  {one['low']:+.3f} .. {one['high']:+.3f}")
    print(f"\n{'curve, by fifths of the rollouts':34}" + "".join(f"{i + 1:8}" for i in range(STRETCHES)))
    curves = {
        way: {key: stretches([h["steps"] for h in of_way], key).tolist() for key in CURVES}
        for way, of_way in histories.items()
    }
    for key in CURVES:
        for way, means in curves.items():
            print(f"{key + ', ' + way:34}" + "".join(f"{value:8.3f}" for value in means[key]))
    probes = {
        way: {when: float(np.mean([h["probe"][when]["reward"] for h in of_way])) for when in ("before", "after")}
        for way, of_way in histories.items()
    }
    for way, probe in probes.items():
        print(f"fixed probe, {way}: mean reward {probe['before']:.3f} before, {probe['after']:.3f} after")
    if arguments.json:
        results = {"differences": compared, "curves": curves, "probes": probes, "histories": histories}
        arguments.json.write_text(json.dumps(results, indent=1) + "\n")
    if arguments.plot:
        plot({way: [h["steps"] for h in of_way] for way, of_way in histories.items()}, arguments.plot)


if __name__ == "__main__":
    main()
