"""Merging questions into dialogues: invertible, within its caps, in the form the student's turns are written in."""

from __future__ import annotations

import hashlib
import math
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data_contracts.check import check
from data_contracts.records import ANNOTATIONS, DIALOGUES
from data_contracts.refs import text_digest
from pipeline_config.schema import CompressConfig, ConfigError
from tasks.compress.merge import merge, unmerge
from tasks.student.turns import assistant_turn, merge_answers, merge_prompt, split_answers, split_prompt, split_turn

SUB_TASKS = ["mcq", "qa", "assess"]


def annotation(number: int, sample: str = "s", sub_task: str = "mcq", **fields: Any) -> dict[str, Any]:
    row = dict.fromkeys(ANNOTATIONS.names)
    return row | {
        "question_id": text_digest(f"question {number}"),
        "sub_task": sub_task,
        "kind": "type",
        "problem_type": "choice",
        "question": f"Question {number}?",
        "options": ["Noise", "Motion blur"],
        "answer": "A",
        "sample_id": sample,
        "media_path": f"/media/{sample}.png",
        "source_photograph": f"photograph of {sample}",
        "split": "train",
        **fields,
    }


def merged(folder: Path, rows: list[dict[str, Any]], seed: int = 0, **config: Any) -> list[dict[str, Any]]:
    path = folder / "annotations.parquet"
    pq.write_table(pa.Table.from_pylist(rows, schema=ANNOTATIONS), path)
    table = merge(path, CompressConfig(**config), seed)
    assert table.schema == DIALOGUES
    return table.to_pylist()


TEXT = st.text(st.characters(codec="utf-8"), max_size=40)
LINES = st.lists(st.one_of(TEXT, st.sampled_from(["1. B", " 2. C", "١. x", "", "2."])), min_size=1, max_size=4)
ANSWER = LINES.map("\n".join).filter(lambda text: "</answer>" not in text)
SENTENCES = st.lists(st.sampled_from(["Noise is high.", "It is dark!", "Is 0.5 normal?", "so"]))
REASONING = st.none() | SENTENCES.map(" ".join)
ROW = st.fixed_dictionaries(
    {
        "sample": st.sampled_from(["a", "b"]),
        "sub_task": st.sampled_from(SUB_TASKS),
        "question": LINES.map("\n".join),
        "answer": ANSWER,
        "reasoning": REASONING,
    }
)
CONFIG = st.fixed_dictionaries(
    {
        "merge_by": st.sampled_from([None, ("image",), ("image", "sub_task")]),
        "max_pairs": st.integers(1, 5),
        "max_tokens": st.integers(10, 120),
        "max_think_tokens": st.integers(0, 12),
    }
)


@settings(max_examples=40, deadline=None)
@given(rows=st.lists(ROW, max_size=14), config=CONFIG, seed=st.integers(0, 3))
def test_merging_keeps_every_pair_and_can_be_undone(
    tmp_path_factory: pytest.TempPathFactory, rows: list[dict[str, Any]], config: dict[str, Any], seed: int
) -> None:
    given_rows = [annotation(number, **row) for number, row in enumerate(rows)]
    dialogues = merged(tmp_path_factory.mktemp("merge"), given_rows, seed, **config)
    back = unmerge(pa.Table.from_pylist(dialogues, schema=DIALOGUES)).to_pylist()
    by_id = {row["question_id"]: row for row in given_rows}
    assert sorted(row["question_id"] for row in back) == sorted(by_id)
    for row in back:
        assert row == {name: by_id[row["question_id"]][name] for name in ("question_id", "question", "answer")}
    for dialogue in dialogues:
        pairs = [by_id[question_id] for question_id in dialogue["merged_from"]]
        questions, answers = [row["question"] for row in pairs], [row["answer"] for row in pairs]
        assert dialogue["prompt"] == merge_prompt(questions)
        assert split_prompt(dialogue["prompt"], len(pairs)) == questions
        think = split_turn(dialogue["response"])[0]
        assert dialogue["response"] == assistant_turn(think, merge_answers(answers))
        assert split_answers(split_turn(dialogue["response"])[1], len(pairs)) == answers
        assert think == expected_think(pairs, config["max_think_tokens"])
        assert dialogue["dialogue_id"] == text_digest(",".join(dialogue["merged_from"]))
        for field in ("sample_id", "media_path", "source_photograph", "split"):
            assert {row[field] for row in pairs} == {dialogue[field]}
        assert dialogue["pairs"] == [{name: row[name] for name in dialogue["pairs"][0]} for row in pairs]
        assert dialogue["num_pairs"] == len(pairs) <= config["max_pairs"]
        assert dialogue["num_tokens"] == math.ceil((len(dialogue["prompt"]) + len(dialogue["response"])) / 4)
        indented = sum(text.count("\n") for text in questions + answers)
        assert len(pairs) == 1 or dialogue["num_tokens"] <= config["max_tokens"] + indented
        assert config["merge_by"] is not None or len(pairs) == 1
        assert [pair["sub_task"] for pair in dialogue["pairs"]] == [row["sub_task"] for row in pairs]
        sub_tasks = {row["sub_task"] for row in pairs}
        assert dialogue["sub_task"] == (sub_tasks.pop() if len(sub_tasks) == 1 else "mixed")
        assert config["merge_by"] != ("image", "sub_task") or dialogue["sub_task"] != "mixed"


def expected_think(pairs: list[dict[str, Any]], max_think_tokens: int) -> str:
    said: list[str] = []
    for row in pairs:
        text = row["reasoning"] or ""
        for mark in ".!?":
            text = text.replace(f"{mark} ", f"{mark}\n")
        said += [sentence for sentence in dict.fromkeys(text.split("\n")) if sentence and sentence not in said]
    while len(" ".join(said)) > 4 * max_think_tokens:
        said.pop()
    return " ".join(said)


def test_pairs_go_to_the_first_dialogue_with_room(tmp_path: Path) -> None:
    rows = [annotation(n, question="q" * size, answer="a") for n, size in enumerate([100, 300, 60, 200, 90, 10, 250])]
    config = {"merge_by": ("image",), "max_tokens": 120, "max_pairs": 3, "max_think_tokens": 0}
    dialogues = merged(tmp_path, rows, seed=3, **config)
    by_id = {row["question_id"]: row for row in rows}
    order = sorted(by_id, key=lambda question_id: hashlib.md5(f"{question_id}:3".encode()).hexdigest())
    room = 120 * 4 - len("<think></think><answer></answer>")
    bins: list[list[str]] = []
    for question_id in order:
        size = len(by_id[question_id]["question"]) + 1 + 8
        for held in bins:
            load = sum(len(by_id[other]["question"]) + 1 + 8 for other in held)
            if len(held) < 3 and load + size <= room:
                held.append(question_id)
                break
        else:
            bins.append([question_id])
    assert len(bins) > 2
    assert sorted(dialogue["merged_from"] for dialogue in dialogues) == sorted(bins)


@pytest.mark.parametrize(("size", "num_dialogues"), [(215, 1), (216, 2)])
def test_room_is_what_the_tags_and_numbers_leave(tmp_path: Path, size: int, num_dialogues: int) -> None:
    """480 characters: 31 of tags, and of each pair 8 of numbers and line ends and one of its answer."""
    rows = [annotation(n, question="q" * size) for n in range(2)]
    assert len(merged(tmp_path, rows, max_tokens=120, max_think_tokens=0)) == num_dialogues


@pytest.mark.parametrize(("size", "kept"), [(20, True), (21, False)])
def test_a_think_block_may_be_as_long_as_its_cap(tmp_path: Path, size: int, kept: bool) -> None:
    (dialogue,) = merged(tmp_path, [annotation(0, reasoning="x" * size)], max_think_tokens=5)
    assert split_turn(dialogue["response"])[0] == ("x" * size if kept else "")


def test_the_seed_draws_the_order_and_nothing_else(tmp_path: Path) -> None:
    rows = [annotation(n, sample=f"s{n % 5}") for n in range(40)]
    first, again, other = (merged(tmp_path, rows, seed) for seed in (0, 0, 1))
    assert first == again
    assert [d["merged_from"] for d in first] != [d["merged_from"] for d in other]
    assert [sorted(d["merged_from"]) for d in first] == [sorted(d["merged_from"]) for d in other]
    assert [d["sample_id"] for d in first] == [f"s{n}" for n in range(5)]  # in the order of the file


def test_pairs_stand_as_asked_where_the_config_says_so(tmp_path: Path) -> None:
    rows = [annotation(n, sample=f"s{n % 5}") for n in range(40)]
    for number, dialogue in enumerate(merged(tmp_path, rows, order="asked")):
        assert dialogue["merged_from"] == [row["question_id"] for row in rows[number::5]]


def test_held_out_and_answer_only_questions_have_an_empty_think_block(tmp_path: Path) -> None:
    rows = [annotation(0, "held out", split="test"), annotation(1, "rejected"), annotation(2, reasoning="  ")]
    for dialogue in merged(tmp_path, rows):
        assert dialogue["response"] == "<think></think><answer>A</answer>"


def test_a_pair_beyond_the_cap_stands_alone_and_whole(tmp_path: Path) -> None:
    rows = [annotation(0, question="x" * 5000), annotation(1), annotation(2)]
    dialogues = merged(tmp_path, rows, max_tokens=100)
    assert sorted(d["num_pairs"] for d in dialogues) == [1, 2]
    assert {d["prompt"] for d in dialogues if d["num_pairs"] == 1} == {"x" * 5000}


def test_pictures_are_never_mixed(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"compress\.merge_by.*add 'image'"):
        merged(tmp_path, [annotation(0)], merge_by=("sub_task",))


def test_dialogues_meet_their_contract(tmp_path: Path) -> None:
    rows = [annotation(n, f"s{n // 3}", reasoning="Noise is high.") for n in range(7)]
    rows += [annotation(n, f"s{n}", split="test") for n in range(7, 9)]
    table = pa.Table.from_pylist(merged(tmp_path, rows), schema=DIALOGUES)
    findings = check("dialogues", table)
    assert findings.ok, findings


def test_no_annotations_make_no_dialogues(tmp_path: Path) -> None:
    assert merged(tmp_path, []) == []


def test_dialogues_beyond_one_batch_keep_their_pairs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = [annotation(n, sample=f"s{n // 3}", answer="AB"[n % 2]) for n in range(60)]
    whole = merged(tmp_path, rows)
    monkeypatch.setattr("tasks.compress.assemble.BATCH", 7)
    assert merged(tmp_path, rows) == whole
