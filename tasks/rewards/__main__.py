"""Try a rubric on your data before a GPU hour is spent.

    python -m tasks.rewards < scored.jsonl > scores.jsonl
    python -m tasks.rewards --config demo --set rewards.mos_threshold=0.5 < scored.jsonl
    python -m tasks.rewards --as temporal_grounding --input answers.json
    python -m tasks.rewards --examples | python -m tasks.rewards
    python -m tasks.rewards --health annotations.parquet

Scoring: one JSON object per line, or one JSON array of them. Each is

    {"sample": {"problem_type": .., "question": .., "options": [..], "answer": ..}, "completion": "<think>.."}

or a row of Video-R1 or VideoChat-R1 (problem, solution or answer or gt, options, problem_type) with the field
"completion" (or "output") added. Golds may stand inside <answer> tags, be numbers, or lists for spans, boxes and
events; --as KIND is the problem type of rows that name none. Options are a list, an object {"A": ..}, or a text of
lines "A. ..". Optional beside them: "id", passed through; "truncated": true, cut at the token limit; "group": the
completions of one prompt bear the same, and earn their group rewards (length, order, ranking) together, with
"num_tokens" for the length bonus and "shuffled": true on the answers to shuffled frames.

Each gives one line {"id": .., "total": .., "parts": {..}, "reason": ".."} in the same order; the reason says why a part
is below 1. A row that cannot be used gives {"line": number, "error": ".."} (of an array: the place in it), is named on
stderr, and costs only itself; the exit code is then 1.

Health: a Parquet, JSON or JSONL file of questions, annotations, dialogues or samples; prints what every trick earns in
every domain; exit code 1 if a domain fails that --allow does not name. Exit code 2: the config or the file cannot be
used.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TextIO

from pipeline_config.schema import ConfigError, RewardsConfig, load_config
from tasks.rewards.examples import QUESTIONS
from tasks.rewards.health import DomainHealth, gold_completion, health_report
from tasks.rewards.judge import JudgeError
from tasks.rewards.lines import Line, grouped, read_line
from tasks.rewards.reward import SampleError
from tasks.rewards.rows import sample_of


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit code."""
    try:
        code = _run(_parser().parse_args(arguments))
        sys.stdout.flush()
        return code
    except BrokenPipeError:  # the reader, `head`, has what it wants
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except (ConfigError, JudgeError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2


def _parser() -> argparse.ArgumentParser:
    about, _, details = (__doc__ or "").partition("\n\n")
    parser = argparse.ArgumentParser(
        prog="python -m tasks.rewards",
        description=about,
        epilog=details,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--config", help="config whose rewards section is used (default: the shipped rubrics)")
    parser.add_argument(
        "--set", action="append", default=[], metavar="KEY=VALUE", help="override, as rewards.untagged=answer"
    )
    parser.add_argument("--input", type=Path, help="JSONL or JSON file to score (default: standard input)")
    parser.add_argument("--as", dest="kind", metavar="KIND", help="problem type of rows that name none")
    parser.add_argument("--health", type=Path, metavar="DATASET", help="report on a dataset instead of scoring")
    parser.add_argument("--allow", action="append", default=[], metavar="DOMAIN", help="a domain that may fail")
    parser.add_argument("--examples", action="store_true", help="print a line to score for every problem type")
    return parser


def _run(options: argparse.Namespace) -> int:
    rewards = rewards_of(options.config, options.set)
    if options.kind is not None and options.kind not in rewards.rubrics:
        raise ConfigError(
            f"--as {options.kind}: no rubric has this name; there are {', '.join(sorted(rewards.rubrics))}"
        )
    if options.examples:
        for question in QUESTIONS:
            print(json.dumps({"sample": question, "completion": gold_completion(question, rewards)}))
        return 0
    if options.health:
        report = health_report(read_rows(options.health, options.kind), rewards)
        return print_health(report, {*options.allow, *rewards.allow_unhealthy})
    if options.input is None:
        return score_lines(sys.stdin, sys.stdout, rewards, options.kind)
    with options.input.open(encoding="utf-8", errors="replace") as lines:
        return score_lines(lines, sys.stdout, rewards, options.kind)


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


def score_lines(lines: Iterable[str], out: TextIO, rewards: RewardsConfig, kind: str | None = None) -> int:
    """Score rows, one a line or one JSON array, into JSONL lines; returns 1 if a row could not be used, else 0.

    Rows are answered as they come, until one bears a group: it and all after it are answered at the end.
    """
    num_bad = 0
    waiting: list[Line] = []

    def answer(line: Line) -> int:
        if line.error is not None:
            print(f"line {line.number}: {line.error}", file=sys.stderr)
        out.write(json.dumps(line.result, ensure_ascii=False) + "\n")
        return int(line.error is not None)

    for number, row in numbered_rows(lines):
        line = read_line(number, row, rewards, kind)
        if waiting or line.group is not None:
            waiting.append(line)
        else:
            num_bad += answer(line)
    num_bad += sum(answer(line) for line in grouped(waiting, rewards))
    return int(num_bad > 0)


def numbered_rows(lines: Iterable[str]) -> Iterator[tuple[int, Any]]:
    """(number, row) of JSONL lines, or of a JSON array: there the place in it, from 1. Empty lines are skipped.

    What is no JSON is given as the ValueError that says so.
    """
    numbered = ((number, line) for number, line in enumerate(lines, start=1) if line.strip())
    first = next(numbered, None)
    if first is None:
        return
    if first[1].lstrip().startswith("["):
        every = [first, *numbered]
        rows = _rows_of_array(every)
        yield from [(number, _parsed(line)) for number, line in every] if rows is None else rows
        return
    yield first[0], _parsed(first[1])
    yield from ((number, _parsed(line)) for number, line in numbered)


def _rows_of_array(numbered: Sequence[tuple[int, str]]) -> list[tuple[int, Any]] | None:
    """The rows of lines that are one JSON array, or what is wrong with it; None if the first line is one of its own."""
    whole = _parsed("".join(line for _, line in numbered))
    if isinstance(whole, list):
        return list(enumerate(whole, start=1))
    number, line = numbered[0]
    return [(number, whole)] if isinstance(_parsed(line), ValueError) else None


def _parsed(text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        return ValueError(f"not valid JSON: {error}")


def read_rows(path: Path, kind: str | None = None) -> Iterator[dict[str, Any]]:
    """Rows of a Parquet, JSON or JSONL file, as samples. Raises ConfigError naming what cannot be used."""
    if not path.is_file():
        raise ConfigError(f"{path}: no such file; give a Parquet, JSON or JSONL file")
    if path.suffix == ".parquet":
        import pyarrow.parquet as pq

        rows = list(enumerate(pq.read_table(path).to_pylist(), start=1))
    else:
        with path.open(encoding="utf-8") as lines:
            rows = list(numbered_rows(lines))
    for number, row in rows:
        try:
            if not isinstance(row, dict):
                raise row if isinstance(row, ValueError) else SampleError("is no JSON object")
            yield sample_of(row.get("sample", row), kind)
        except ValueError as error:
            raise ConfigError(f"{path}: line {number}: {error}") from None


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
                print(f"    {value:.3f}  {title}: {'; '.join(names)}")
    return int(any(domain.findings and domain.domain not in allowed for domain in report))


def _by_value(earned: Mapping[str, float]) -> list[tuple[float, list[str]]]:
    """Names by what they earn, to three places, highest first."""
    values = sorted({round(value, 3) for value in earned.values()}, reverse=True)
    return [(value, [name for name, v in earned.items() if round(v, 3) == value]) for value in values]


if __name__ == "__main__":
    sys.exit(main())
