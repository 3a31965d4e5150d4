"""Each contract accepts a good table and names the row, the column and the reason of a bad one."""

from __future__ import annotations

import copy
import json
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

import pyarrow as pa
import pytest

from data_contracts import records
from data_contracts.check import EXPECTATIONS, _validate, check

BOX = [100, 200, 500, 600]


def question(number: int = 0, **changes: Any) -> dict[str, Any]:
    return {
        "question_id": f"q{number}",
        "category": "perception",
        "sub_task": "mcq",
        "kind": "type",
        "problem_type": "choice",
        "question": "Which distortion affects the image most?\nA. Noise\nB. Motion blur",
        "options": ["Noise", "Motion blur"],
        "answer": "B",
        "source_row": None,
        **changes,
    }


def sample(number: int = 0, **changes: Any) -> dict[str, Any]:
    return {
        "sample_id": f"s{number}",
        "media_type": "image",
        "media_path": f"/pictures/{number}.png",
        "width": 112,
        "height": 112,
        "perceptual_hash": "00ff",
        "source": "made",
        "source_file": "/photographs/a.png",
        "source_row": None,
        "source_photograph": "a",
        "split": "train",
        "mos": 3.2,
        "level": "fair",
        "distortions": [
            {
                "id": 0,
                "distortion": "Noise",
                "severity": "Severe",
                "box": BOX,
                "position": "center",
                "significance": 0.7,
            }
        ],
        "questions": [question(number)],
        **changes,
    }


def annotation(number: int = 0, **changes: Any) -> dict[str, Any]:
    return {
        **question(number),
        "sample_id": "s0",
        "media_path": "/pictures/0.png",
        "source_photograph": "a",
        "split": "train",
        "reasoning": "Grain everywhere.",
        "reward": 1.0,
        "tries": 1,
        "teacher": "measured",
        "request_key": None,
        "prompt_tokens": 0,
        "completion_tokens": 0,
        "cost": 0.0,
        **changes,
    }


def dialogue(number: int = 0, num_pairs: int = 2, **changes: Any) -> dict[str, Any]:
    pairs = [
        {
            key: question(2 * number + i)[key]
            for key in ("question_id", "sub_task", "kind", "problem_type", "question", "options", "answer")
        }
        for i in range(num_pairs)
    ]
    merged = num_pairs > 1
    answers = "\n".join(f"{i + 1}. B" for i in range(num_pairs)) if merged else "B"
    return {
        "dialogue_id": f"d{number}",
        "sample_id": "s0",
        "media_path": "/pictures/0.png",
        "source_photograph": "a",
        "split": "train",
        "sub_task": "mcq",
        "prompt": "\n".join(f"{i + 1}. which?" for i in range(num_pairs)) if merged else "which?",
        "response": f"<think>x</think><answer>{answers}</answer>",
        "merged_from": [pair["question_id"] for pair in pairs],
        "pairs": pairs,
        "num_pairs": num_pairs,
        "num_tokens": 20,
        **changes,
    }


def difficulty(number: int = 0, **changes: Any) -> dict[str, Any]:
    return {
        "dialogue_id": f"d{number}",
        "sub_task": "mcq",
        "num_rollouts": 2,
        "rewards": [1.0, 0.5],
        "pass_rate": 0.75,
        "num_all_right": 1,
        "pool": "hard",
        "why": "neither all right nor all wrong",
        "completions": ["a", "b"],
        **changes,
    }


def rollout(number: int = 0, **changes: Any) -> dict[str, Any]:
    return {
        "rollout_id": f"r{number}",
        "step": 0,
        "dialogue_id": "d0",
        "rollout": number,
        "prompt": "which?",
        "completion": "",
        "reward": 0.0,
        "parts": [("format", 0.0), ("accuracy", None)],
        "advantage": -0.5,
        "trained": True,
        "num_tokens": 0,
        "truncated": True,
        **changes,
    }


def evaluated(number: int = 0, **changes: Any) -> dict[str, Any]:
    return {
        "student": "sft",
        "question_id": f"q{number}",
        "dialogue_id": "d0",
        "sample_id": "s0",
        "media_path": "/pictures/0.png",
        "source_photograph": "a",
        "sub_task": "mcq",
        "kind": "type",
        "problem_type": "choice",
        "question": "which?",
        "options": ["Noise", "Motion blur"],
        "gold": "B",
        "completion": "<think></think><answer>B</answer>",
        "answer": "B",
        "accuracy": 1.0,
        **changes,
    }


ROWS = {
    "samples": sample,
    "annotations": annotation,
    "dialogues": dialogue,
    "difficulty": difficulty,
    "rollouts": rollout,
    "evaluation": evaluated,
}


def table(kind: str, rows: list[dict[str, Any]]) -> pa.Table:
    return pa.Table.from_pylist(rows, schema=records.SCHEMAS[kind])


@pytest.mark.parametrize("kind", list(records.SCHEMAS))
def test_good_rows_break_nothing(kind: str) -> None:
    findings = check(kind, table(kind, [ROWS[kind](0), ROWS[kind](1)]))
    assert findings.ok, findings
    assert findings.num_expectations > 10


def test_rows_that_lack_what_may_be_missing_break_nothing() -> None:
    bare = sample(1, mos=None, level=None, distortions=None)
    pristine = sample(2, distortions=[], mos=5.0, level="excellent")
    assert check("samples", table("samples", [bare, pristine])).ok
    held_out = annotation(1, split="test", reasoning=None, reward=None, tries=0, teacher=None)
    assert check("annotations", table("annotations", [held_out])).ok
    assert check("dialogues", table("dialogues", [dialogue(0, num_pairs=1)])).ok


def with_distortion(number: int, **changes: Any) -> dict[str, Any]:
    row = copy.deepcopy(sample(number))
    row["distortions"][0].update(changes)
    return row


def with_question(number: int, **changes: Any) -> dict[str, Any]:
    return sample(number, questions=[question(number, **changes)])


def with_pair(number: int, **changes: Any) -> dict[str, Any]:
    row = copy.deepcopy(dialogue(number))
    row["pairs"][1].update(changes)
    return row


def miscounted(number: int, by: int) -> dict[str, Any]:
    row = dialogue(number)
    row["num_pairs"] += by
    return row


# kind -> what makes a row bad, the column that is blamed, words of the reason
BAD: dict[str, list[tuple[Callable[..., dict[str, Any]], dict[str, Any], str, str]]] = {
    "samples": [
        (sample, {"split": "validation"}, "split", "split is not one of: train, test"),
        (sample, {"mos": 5.2}, "mos", "mos is outside 1..5"),
        (sample, {"media_path": " "}, "media_path", "media_path is empty or blank"),
        (sample, {"width": 0}, "width", "width is below 1"),
        (with_distortion, {"distortion": "noise"}, "distortions.distortion", "distortion is not one of"),
        (with_distortion, {"box": [0, 0, 10]}, "distortions.num_coordinates", "box has not four coordinates"),
        (with_distortion, {"box": None}, "distortions.num_coordinates", "box has not four coordinates"),
        (with_distortion, {"box": [0, 0, 1001, 10]}, "distortions.x2", "x2 is outside 0..1000"),
        (with_distortion, {"box": [10, 0, 10, 10]}, "distortions.x2, x1", "box is empty: x2 <= x1"),
        (with_question, {"answer": ""}, "questions.answer", "answer is empty or blank"),
        (with_question, {"question_id": "q0"}, "questions.question_id", "stands in more than one row"),
    ],
    "annotations": [
        (annotation, {"answer": "b"}, "choice_answer", "the answer of a choice is not one capital letter"),
        (annotation, {"answer": "C"}, "num_options, choice_position", "a letter beyond its options"),
        (annotation, {"problem_type": "mos", "answer": "3.4"}, "mos_answer", "not a number in [1, 5]"),
        (annotation, {"problem_type": "mos", "answer": "5.01"}, "mos_answer", "not a number in [1, 5]"),
        (annotation, {"category": "localisation"}, "category, category_of_sub_task", "category is not the one"),
        (annotation, {"reward": None}, "unrewarded_reasoning", "without a reward"),
        (annotation, {"split": "test"}, "held_out_reasoning", "would leak into training"),
        (annotation, {"reasoning": "a </think> b"}, "reasoning", "holds a think or answer tag"),
        (annotation, {"reward": 1.5}, "reward", "reward is outside 0..1"),
    ],
    "dialogues": [
        (miscounted, {"by": 1}, "num_pairs, num_merged", "number of ids in merged_from"),
        (dialogue, {"response": "<think></think><answer>1. B 2. C</answer>"}, "merged_response", "not numbered"),
        (dialogue, {"response": "<answer>1. B\n2. C</answer>"}, "response", "response is not <think>"),
        (
            dialogue,
            {"response": "<think>a</think><think>b</think><answer>1. B\n2. C</answer>"},
            "num_tags",
            "exactly one think block",
        ),
        (dialogue, {"prompt": "which? and where?"}, "merged_prompt", "are not numbered"),
        (with_pair, {"sub_task": "mixed"}, "pairs.sub_task", "sub_task is not one of"),
        (with_pair, {"answer": "Z"}, "pairs.num_options, choice_position", "a letter beyond its options"),
    ],
    "difficulty": [
        (difficulty, {"rewards": [1.0]}, "num_rollouts, num_rewards", "not the number of rewards"),
        (difficulty, {"rewards": [1.0, 2.0]}, "rewards.value", "a reward is outside 0..1"),
        (difficulty, {"num_all_right": 3}, "num_rollouts, num_all_right", "larger than num_rollouts"),
        (difficulty, {"pool": "medium"}, "pool", "pool is not one of"),
    ],
    "rollouts": [(rollout, {"reward": None}, "reward", "reward is missing")],
    "evaluation": [
        (evaluated, {"student": "teacher"}, "student", "student is not one of"),
        (evaluated, {"accuracy": -0.1}, "accuracy", "accuracy is outside 0..1"),
    ],
}


@pytest.mark.parametrize("kind", list(records.SCHEMAS))
def test_bad_rows_are_named_and_no_others(kind: str) -> None:
    bad = [make(number, **changes) for number, (make, changes, _, _) in enumerate(BAD[kind], start=1)]
    twice = [ROWS[kind](100), ROWS[kind](100)]
    findings = check(kind, table(kind, [ROWS[kind](0), *bad, *twice, ROWS[kind](200)]))
    for row, (_, changes, column, reason) in enumerate(BAD[kind], start=1):
        named = [f for f in findings.rows if f["row"] == row and f["column"] == column]
        assert [reason in f["reason"] for f in named] == [True], (changes, findings.rows)
        assert named[0]["id"] == "/".join(str(bad[row - 1][name]) for name in records.ID_COLUMNS[kind])
    # Rows 0 and the last are good, but row 0 shares its question with one of the bad samples.
    first = {0} if kind == "samples" else set()
    assert findings.offending == first | set(range(1, len(bad) + 3))
    assert findings.table == []


def test_an_empty_table_is_blamed_on_no_row() -> None:
    findings = check("dialogues", table("dialogues", []))
    assert findings.rows == []
    assert findings.table == ["dialogues: the table is empty: nothing came out of the stage"]


def test_a_wrong_column_is_named() -> None:
    wrong = table("difficulty", [difficulty()]).drop_columns(["why"])
    assert "missing ['why']" in check("difficulty", wrong).table[0]


def test_the_words_in_the_suites_are_those_of_the_records() -> None:
    words = {
        "distortion": records.DISTORTIONS,
        "severity": records.SEVERITIES,
        "level": records.LEVELS,
        "split": records.SPLITS,
        "category": records.CATEGORIES,
        "problem_type": records.ProblemType.__args__,
    }
    seen = set()
    for path in EXPECTATIONS.glob("*.json"):
        for expectation in json.loads(path.read_text())["expectations"]:
            kwargs = expectation["kwargs"]
            if expectation["type"] == "expect_column_values_to_be_in_set" and kwargs["column"] in words:
                assert tuple(kwargs["value_set"]) == tuple(words[kwargs["column"]]), path.name
                seen.add(kwargs["column"])
            assert expectation["meta"]["reason"], path.name
    assert seen == set(words)


def test_every_kind_has_a_suite_and_every_suite_a_kind() -> None:
    kinds = {path.stem.partition(".")[0] for path in EXPECTATIONS.glob("*.json")}
    assert kinds == set(records.SCHEMAS)


@pytest.mark.slow
def test_a_hundred_thousand_rows_take_seconds() -> None:
    check("rollouts", table("rollouts", [rollout()]))  # imports are not what is timed
    many = table("annotations", [annotation(i) for i in range(110_000)])
    started = time.perf_counter()
    assert check("annotations", many).ok
    assert time.perf_counter() - started < 10


def test_an_expectation_that_cannot_be_evaluated_is_an_error_not_a_finding() -> None:
    suite = {
        "name": "broken",
        "expectations": [
            {
                "type": "expect_column_values_to_be_between",
                "kwargs": {"column": "x", "min_value": 1},
                "meta": {"reason": "none"},
            }
        ],
    }
    with pytest.raises(RuntimeError, match="'column': 'x'"):
        _validate(suite, pa.table({"row": [0], "x": [[1]]}))


def test_importing_the_module_imports_no_great_expectations() -> None:
    code = "import sys, data_contracts.check; sys.exit(any(m in sys.modules for m in ('great_expectations', 'pandas')))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
