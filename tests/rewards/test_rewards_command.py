"""``python -m tasks.rewards``: JSONL in, JSONL out; the health report."""

from __future__ import annotations

import io
import json
import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline_config.schema import RewardsConfig
from tasks.rewards.__main__ import main, score_lines
from tasks.rewards.examples import QUESTIONS, turn

GOOD = json.dumps({"sample": QUESTIONS[0], "completion": turn("B")})


def test_a_malformed_line_costs_only_itself(capsys: pytest.CaptureFixture[str]) -> None:
    lines = [
        GOOD,
        "not json",
        "[]",
        '{"sample": {}}',
        '{"sample": {}, "completion": 3}',
        '{"sample": {"problem_type": "riddle"}, "completion": "x"}',
        "",
        GOOD,
    ]
    out = io.StringIO()
    assert score_lines([line + "\n" for line in lines], out, RewardsConfig()) == 1
    results = [json.loads(line) for line in out.getvalue().splitlines()]
    assert [r.get("line") for r in results] == [None, 2, 3, 4, 5, 6, None]
    assert (
        results[0]
        == results[-1]
        == {"total": 2.0, "parts": {"choice": 1.0, "format": 1.0, "accuracy": 1.0}, "reason": "read"}
    )
    assert "line 6: field 'problem_type': no rubric for 'riddle'" in capsys.readouterr().err


def test_as_a_program_over_standard_input() -> None:
    lines = "".join(f"{line}\n" for line in (GOOD, "oops"))
    program = [sys.executable, "-m", "tasks.rewards"]
    scored = subprocess.run(program, input=lines, capture_output=True, text=True, check=False)
    assert (scored.returncode, scored.stderr[:7]) == (1, "line 2:")
    assert [json.loads(line).get("total") for line in scored.stdout.splitlines()] == [2.0, None]


def test_examples_can_be_scored(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--examples"]) == 0
    examples, out = capsys.readouterr().out.splitlines(), io.StringIO()
    assert score_lines(examples, out, RewardsConfig()) == 0
    results = [json.loads(line) for line in out.getvalue().splitlines()]
    assert len(results) == len(QUESTIONS)
    assert {r["parts"]["accuracy"] for r in results} == {1.0}


def test_settings_and_rubrics_from_the_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "lines.jsonl"
    file.write_text(GOOD + "\n")
    assert main(["--input", str(file), "--set", "rubrics.choice={choice: 5}"]) == 0
    assert json.loads(capsys.readouterr().out)["total"] == 5.0
    assert main(["--input", str(file), "--set", "rewards.nonsense=1"]) == 2
    assert "nonsense" in capsys.readouterr().err
    assert main(["--input", str(tmp_path / "missing.jsonl")]) == 2


@pytest.mark.parametrize("suffix", ["parquet", "jsonl"])
def test_health_of_a_dataset(suffix: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = [
        {k: q.get(k) for k in ("question_id", "question", "problem_type", "options", "answer")} for q in QUESTIONS[:6]
    ]
    file = tmp_path / f"questions.{suffix}"

    def write(entries: list[dict]) -> None:
        if suffix == "parquet":
            pq.write_table(pa.Table.from_pylist(entries), file)
        else:
            file.write_text("\n".join(json.dumps(entry) for entry in entries))

    write(rows)
    assert main(["--health", str(file)]) == 0
    printed = capsys.readouterr().out
    assert "choice: healthy" in printed
    assert "0.000  tricks: a number between 0 and 10" in printed
    assert all(name in printed for name in ("gold repeated", "number of apples (mos_threshold)", "all letters"))
    write([*rows, {**rows[0], "question_id": "odd", "answer": "Z"}])
    assert main(["--health", str(file)]) == 1
    assert "choice: UNFIT" in capsys.readouterr().out
    assert main(["--health", str(file), "--allow", "choice"]) == 0
    assert main(["--health", str(tmp_path / "none.parquet")]) == 2
