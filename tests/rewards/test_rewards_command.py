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
from tests.rewards.endpoint import Endpoint

ROWS = Path(__file__).parents[1] / "fixtures" / "rows"
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
        == {"id": "q0", "total": 2.0, "parts": {"choice": 1.0, "format": 1.0, "accuracy": 1.0}, "reason": "read"}
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


# -------------------------------------------------------------------------------------------- other projects' layouts
def scored(rows: list[dict] | str, *, kind: str | None = None, **rewards: object) -> list[dict]:
    """What the command answers to rows, given as JSONL, or to a text."""
    text = rows if isinstance(rows, str) else "".join(json.dumps(row) + "\n" for row in rows)
    out = io.StringIO()
    score_lines(io.StringIO(text), out, RewardsConfig.model_validate(rewards), kind)
    return [json.loads(line) for line in out.getvalue().splitlines()]


def test_rows_of_video_r1_as_published() -> None:
    results = scored((ROWS / "video_r1.jsonl").read_text())
    assert [(r["id"], r["parts"]["accuracy"]) for r in results] == [
        (1, 1.0),
        (2, 1.0),
        (3, 1.0),
        (4, 0.75),
        (5, 0.0),
    ]
    assert results[-1]["reason"] == "choice 0: 'A', the gold is 'B'"


def test_rows_of_videochat_r1_in_one_array() -> None:
    text = (ROWS / "videochat_r1.json").read_text()
    assert text.startswith("[")
    spans = scored(text, kind="temporal_grounding")
    assert [r["parts"]["temporal_iou"] for r in spans] == [1.0, 0.5]
    assert scored(text)[0]["error"].startswith("field 'problem_type': the row has none; say with --as KIND")
    assert scored(json.dumps(json.loads(text)), kind="temporal_grounding") == spans


@pytest.mark.parametrize(
    ("kind", "gold", "answer", "value"),
    [
        ("temporal_grounding", [1.5, 4], "1.5 to 4", 1.0),
        ("temporal_grounding", [[1.5, 4]], "1.5 to 4", 1.0),
        ("tracking", [[0, 0, 0.5, 0.5]] * 8, str([[0, 0, 0.5, 0.5]] * 8), 1.0),
        ("numerical", 12, "12", 1.0),
        ("regression", 4.0, "3", 0.75),
        ("caption", ["A dog runs.", "A cat sleeps."], "A dog runs.", 0.5),
        ("video_quality", "<answer> Good </answer>", "good", 1.0),
        ("video_quality", "<think>Sharp.</think><answer>Good</answer>", "good", 1.0),
    ],
)
def test_golds_that_are_lists_and_numbers(kind: str, gold: object, answer: str, value: float) -> None:
    for field in ("solution", "answer", "gt"):
        (result,) = scored([{"problem": "?", field: gold, "completion": turn(answer)}], kind=kind)
        assert result["parts"]["accuracy"] == value


def test_a_first_line_that_is_an_array_costs_only_itself() -> None:
    assert ["line" in result for result in scored(f"[]\n{GOOD}\n")] == [True, False]
    assert [result["line"] for result in scored('[{"problem": \n"a"')] == [1]
    assert scored("[]") == []


def test_rows_of_grounded_questions() -> None:
    row = {
        "video": "1.mp4",
        "question": "Why?",
        "options": ["(A) to hide", "(B) to eat"],
        "answer": "(B)",
        "duration": 9,
    }
    completion = "<think>He eats.</think><answer>B</answer><glue>[(1, 4)]</glue>"
    (result,) = scored([{**row, "glue": [[1, 4]], "completion": completion}], kind="grounded_qa")
    assert result["total"] == 3.0


def test_a_judge_that_cannot_be_asked_ends_the_program(
    endpoint: Endpoint, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    endpoint.failures, endpoint.status = 100, 401
    file = tmp_path / "lines.jsonl"
    sample = {"problem_type": "judged", "question": "Who?", "answer": "a dog"}
    file.write_text(json.dumps({"sample": sample, "completion": turn("the dog")}))
    judge = f"judge={{kind: openai, base_url: {endpoint.url}, model: m, journal: {tmp_path}}}"
    assert main(["--input", str(file), "--set", judge]) == 2
    assert "check rewards.judge" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("kind", "gold"),
    [
        ("numerical", [1, 2]),
        ("temporal_grounding", [1, 2, 3]),
        ("rouge", True),
        ("judged", {"a": 1}),
        ("choice", []),
        ("choice", "<answer>A<answer>"),
    ],
)
def test_other_golds_are_refused(kind: str, gold: object) -> None:
    (result,) = scored([{"problem": "?", "solution": gold, "problem_type": kind, "completion": "x"}])
    assert "cannot be read as the gold of" in result["error"]


@pytest.mark.parametrize(
    "options", [["cat", "dog"], {"A": "cat", "B": "dog"}, "A. cat\nB. dog", "(A) cat\n(B) dog", ["A. cat", "B. dog"]]
)
def test_options_of_any_layout(options: object) -> None:
    row = {"problem_type": "choice", "question": "?", "options": options, "answer": "dog"}
    results = scored([{"sample": row, "completion": turn(text)} for text in ("B", "dog", "A")])
    assert [r["parts"]["choice"] for r in results] == [1.0, 1.0, 0.0]


@pytest.mark.parametrize("options", ["cat, dog", {"1": "cat", "2": "dog"}, {"B": "dog", "A": "cat"}, "B. dog\nA. cat"])
def test_options_that_cannot_be_read_are_refused(options: object) -> None:
    row = {"problem_type": "choice", "question": "?", "options": options, "answer": "A"}
    (result,) = scored([{"sample": row, "completion": turn("A")}])
    assert result["error"].startswith("field 'options': ")


def test_ids_are_passed_through() -> None:
    row = {"problem_type": "mos", "answer": "3.0", "completion": turn("3.0")}
    assert scored([{**row, "id": 7}, {**row, "problem_id": "p"}, row, {**row, "id": "bad", "completion": 1}]) == [
        {"id": 7, "total": 2.0, "parts": {"mos_threshold": 1.0, "format": 1.0, "accuracy": 1.0}, "reason": "read"},
        {"id": "p", "total": 2.0, "parts": {"mos_threshold": 1.0, "format": 1.0, "accuracy": 1.0}, "reason": "read"},
        {"total": 2.0, "parts": {"mos_threshold": 1.0, "format": 1.0, "accuracy": 1.0}, "reason": "read"},
        {"id": "bad", "line": 4, "error": '"completion" must be a text, it is int'},
    ]


@pytest.mark.parametrize(
    ("problem_type", "answer", "completion", "reason"),
    [
        ("choice", "B", turn("(A)"), "choice 0: '(A)', the gold is 'B'"),
        ("choice", "B", turn("A B"), "choice: no single option"),
        ("choice", "B", "B", "format 0: 1 if the turn is"),
        ("regression", "4", turn("3"), "regression 0.75: '3', the gold is '4'"),
        ("judged", "red", turn("green"), "judge: lexical; 'green' does not say 'red'"),
        ("caption", "A dog runs.", turn("A cat sleeps."), "judge: lexical; 1 of 1 events missed, as 'A dog runs.'"),
        ("mathematics", "1", turn("1", "wait wait " * 60), "repetition_gate 0: 0 if fewer than"),
    ],
)
def test_the_reason_says_why_an_answer_is_wrong(problem_type: str, answer: str, completion: str, reason: str) -> None:
    sample = {"problem_type": problem_type, "question": "?", "answer": answer, "events": [answer]}
    (result,) = scored([{"sample": sample, "completion": completion}])
    assert reason in result["reason"]
    assert "\n" not in result["reason"]


def test_group_rewards_over_lines_of_one_group() -> None:
    rubrics = {"mos": {"mos_threshold": 1, "length_bonus": 1, "order_bonus": 1, "mos_ranking": 1}}
    good = {"problem_type": "mos", "question": "?", "answer": "4.0"}
    poor = {"problem_type": "mos", "question": "?", "answer": "2.0"}
    lines = [
        {"sample": good, "completion": turn("4.0"), "group": "a", "num_tokens": 400},
        {"sample": poor, "completion": turn("2.0"), "group": "b", "num_tokens": 400},
        {"sample": good, "completion": turn("4.1"), "group": "a", "num_tokens": 20},
        {"sample": good, "completion": turn("1.0"), "group": "a", "shuffled": True},
        {"sample": poor, "completion": turn("3.0"), "group": "a", "num_tokens": 9},
        {"sample": poor, "completion": turn("2.0")},
        {"sample": {"problem_type": "mos"}, "completion": turn("2.0"), "group": "b"},
    ]
    results = scored(lines, rubrics=rubrics)
    first, second, third, shuffled, foreign, alone, bad = results
    assert (first["parts"]["length_bonus"], third["parts"]["length_bonus"]) == (0.2, 0.0)
    assert (first["parts"]["order_bonus"], third["parts"]["order_bonus"]) == (0.3, 0.3)
    assert second["parts"]["length_bonus"] == 0.0  # one right answer alone earns none
    assert second["parts"]["order_bonus"] is None
    assert first["parts"]["mos_ranking"] > 0.9
    assert first["total"] == pytest.approx(sum(first["parts"][name] for name in rubrics["mos"]))
    assert shuffled["parts"]["length_bonus"] is shuffled["parts"]["order_bonus"] is None
    assert alone["parts"]["mos_ranking"] is None
    assert foreign["error"] == "group 'a' asks something else on line 1"
    assert bad["line"] == 7


def test_head_ends_the_program_in_peace() -> None:
    program = ["bash", "-o", "pipefail", "-c", f"{sys.executable} -m tasks.rewards | head -1"]
    done = subprocess.run(program, input=f"{GOOD}\n" * 3000, capture_output=True, text=True, check=False)
    assert json.loads(done.stdout)["total"] == 2.0
    assert (done.stderr, done.returncode) == ("", 0)


def test_help_shows_the_shape_of_a_line(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["--help"])
    printed = capsys.readouterr().out
    assert '{"sample": {"problem_type": .., "question": .., "options": [..], "answer": ..}, "completion":' in printed
    assert "--as KIND" in printed


def test_kinds_and_files_that_do_not_exist(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--as", "riddle"]) == 2
    assert "--as riddle: no rubric has this name" in capsys.readouterr().err
    file = tmp_path / "rows.json"
    file.write_text((ROWS / "videochat_r1.json").read_text())
    assert main(["--health", str(file)]) == 2
    assert "line 1: field 'problem_type'" in capsys.readouterr().err
    assert main(["--health", str(file), "--as", "temporal_grounding"]) == 0
    assert "temporal_grounding: healthy (2 questions" in capsys.readouterr().out
    file.write_text('[{"problem": ')
    assert main(["--input", str(file)]) == 1
