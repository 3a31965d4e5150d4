"""Try a rubric on your data before a GPU hour is spent.

    python -m tasks.rewards < scored.jsonl > scores.jsonl
    python -m tasks.rewards --config demo --set rewards.mos_threshold=0.5 < scored.jsonl
    python -m tasks.rewards --examples | python -m tasks.rewards
    python -m tasks.rewards --health annotations.parquet

Scoring: one JSON object per line, ``{"sample": {..}, "completion": ".."}`` (optional ``"truncated": true``), gives
one line ``{"total": .., "parts": {..}, "reason": ".."}`` in the same order. A line that cannot be used gives
``{"line": number, "error": ".."}``, is named on stderr, and costs only itself; the exit code is then 1.

Health: a Parquet or JSONL file of questions, annotations, dialogues or samples; prints the report of every domain;
exit code 1 if a domain fails that ``--allow`` does not name. Exit code 2: the config or the file cannot be used.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TextIO

from pipeline_config.schema import ConfigError, RewardsConfig, load_config
from tasks.rewards.examples import QUESTIONS
from tasks.rewards.health import DomainHealth, gold_completion, health_report
from tasks.rewards.score import score


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit code."""
    parser = argparse.ArgumentParser(prog="python -m tasks.rewards", description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("--config", help="config whose rewards section is used (default: the shipped rubrics)")
    parser.add_argument(
        "--set", action="append", default=[], metavar="KEY=VALUE", help="override, as rewards.untagged=answer"
    )
    parser.add_argument("--input", type=Path, help="JSONL file to score (default: standard input)")
    parser.add_argument("--health", type=Path, metavar="DATASET", help="report on a dataset instead of scoring")
    parser.add_argument("--allow", action="append", default=[], metavar="DOMAIN", help="a domain that may fail")
    parser.add_argument("--examples", action="store_true", help="print a line to score for every problem type")
    options = parser.parse_args(arguments)
    try:
        rewards = rewards_of(options.config, options.set)
        if options.examples:
            for question in QUESTIONS:
                print(json.dumps({"sample": question, "completion": gold_completion(question, rewards)}))
            return 0
        if options.health:
            return print_health(
                health_report(read_rows(options.health), rewards), {*options.allow, *rewards.allow_unhealthy}
            )
        if options.input is None:
            return score_lines(sys.stdin, sys.stdout, rewards)
        with options.input.open(encoding="utf-8", errors="replace") as lines:
            return score_lines(lines, sys.stdout, rewards)
    except (ConfigError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2


def rewards_of(config: str | None, overrides: Sequence[str]) -> RewardsConfig:
    """The rewards section of a config, or the default, with ``key=value`` overrides. Raises ConfigError."""
    import yaml

    parsed: dict[str, Any] = {}
    for text in overrides:
        key, sign, value = text.partition("=")
        if not sign:
            raise ConfigError(f"--set {text}: write it as key=value")
        parsed[key if key.startswith("rewards.") else f"rewards.{key}"] = yaml.safe_load(value)
    return load_config(config or "demo", parsed).rewards if config or parsed else RewardsConfig()


def score_lines(lines: Iterable[str], out: TextIO, rewards: RewardsConfig) -> int:
    """Score JSONL lines into JSONL lines; returns 1 if a line could not be used, else 0. Empty lines are skipped."""
    num_bad = 0
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            entry = json.loads(line)
            if not isinstance(entry, dict) or not isinstance(entry.get("sample"), dict):
                raise ValueError('must be an object with an object "sample" and a text "completion"')
            if not isinstance(entry.get("completion"), str):
                raise ValueError(f'"completion" must be a text, it is {type(entry.get("completion")).__name__}')
            scored = score(entry["sample"], entry["completion"], rewards, truncated=bool(entry.get("truncated")))
            result: dict[str, Any] = {"total": scored.total, "parts": scored.parts, "reason": scored.reason}
        except (ValueError, TypeError, KeyError, RecursionError) as error:
            num_bad += 1
            print(f"line {number}: {error}", file=sys.stderr)
            result = {"line": number, "error": str(error)}
        out.write(json.dumps(result, ensure_ascii=False) + "\n")
    return int(num_bad > 0)


def read_rows(path: Path) -> Iterator[dict[str, Any]]:
    """Rows of a Parquet or JSONL file. Raises ConfigError naming what cannot be used."""
    if not path.is_file():
        raise ConfigError(f"{path}: no such file; give a Parquet or JSONL file")
    if path.suffix == ".parquet":
        import pyarrow.parquet as pq

        yield from pq.read_table(path).to_pylist()
        return
    with path.open(encoding="utf-8") as lines:
        for number, line in enumerate(lines, start=1):
            try:
                row = json.loads(line) if line.strip() else None
            except ValueError as error:
                raise ConfigError(f"{path}: line {number}: not valid JSON: {error}") from error
            if row is not None:
                yield row.get("sample", row) if isinstance(row, dict) else {}


def print_health(report: Sequence[DomainHealth], allowed: set[str]) -> int:
    """Print the report; returns 1 if a domain fails that is not allowed."""
    for domain in report:
        verdict = (
            "healthy" if not domain.findings else "unfit, allowed by name" if domain.domain in allowed else "UNFIT"
        )
        kind = f"continuous, best constant {domain.best_constant:.3f}" if domain.continuous else "discrete"
        judged = f", judge {domain.judge}" if domain.judge else ""
        print(f"{domain.domain}: {verdict} ({domain.num_questions} questions, {kind}{judged})")
        for finding in domain.findings:
            print(f"  ! {finding}")
        for title, earned in (("constants", domain.constants), ("tricks", domain.tricks)):
            for value, names in _by_value(earned):
                print(f"    {value:.3f}  {title}: {', '.join(names)}")
    return int(any(domain.findings and domain.domain not in allowed for domain in report))


def _by_value(earned: Mapping[str, float]) -> list[tuple[float, list[str]]]:
    """Names by what they earn, to three places, highest first."""
    values = sorted({round(value, 3) for value in earned.values()}, reverse=True)
    return [(value, [name for name, v in earned.items() if round(v, 3) == value]) for value in values]


if __name__ == "__main__":
    sys.exit(main())
