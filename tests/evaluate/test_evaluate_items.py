"""Which dialogues are asked, and that a swapped picture is always one of another photograph."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline_config.schema import ConfigError
from tasks.evaluate.items import choose, evaluation_rows, half_asked, swap_pictures

Row = dict[str, Any]


def _row(number: int, photograph: str, sub_task: str, sample: str, split: str = "test") -> Row:
    return {
        "dialogue_id": f"d{number:05}",
        "sample_id": sample,
        "media_path": f"{sample}.png",
        "source_photograph": photograph,
        "sub_task": sub_task,
        "split": split,
    }


def _grid(photographs: int = 6, pictures: int = 4, sub_tasks: int = 5) -> list[Row]:
    return [
        _row(((p * pictures + i) * sub_tasks) + s, f"photo{p}", f"task{s}", f"s{p}_{i}")
        for p in range(photographs)
        for i in range(pictures)
        for s in range(sub_tasks)
    ]


@pytest.mark.parametrize("limit", [5, 17, 30, 61, 119])
def test_whole_pictures_are_asked_and_photographs_evenly(limit: int) -> None:
    chosen = choose(_grid(), limit, seed=1)
    assert limit - 5 < len(chosen) == len({row["dialogue_id"] for row in chosen}) <= limit
    of_picture = Counter(row["sample_id"] for row in chosen)
    assert set(of_picture.values()) == {5}  # every sub-task
    of_photograph = [sum(sample.startswith(f"s{number}_") for sample in of_picture) for number in range(6)]
    assert max(of_photograph) - min(of_photograph) <= 1


def test_pictures_with_few_questions_are_not_preferred() -> None:
    """Six pictures have five prompts, two have one: whoever goes on to any that fits always ends with a small one."""
    rows = [*_grid(6, 1, 5), *(_row(900 + i, f"photo{i}", "task0", f"t{i}") for i in range(6, 8))]
    asked = [{row["sample_id"] for row in choose(rows, 11, seed)} for seed in range(20)]
    assert not all({"t6", "t7"} & samples for samples in asked)


def test_the_seed_decides_which_pictures_of_a_photograph_are_asked() -> None:
    chosen = [choose(_grid(1, 8, 2), 4, seed) for seed in range(4)]
    assert len({tuple(row["sample_id"] for row in rows) for rows in chosen}) > 1


def test_the_order_is_by_sub_task_and_dialogue() -> None:
    chosen = choose(_grid(), 30, seed=1)
    assert chosen == sorted(chosen, key=lambda row: (row["sub_task"], row["dialogue_id"]))


def test_fewer_than_one_picture_needs_is_the_users_error() -> None:
    with pytest.raises(ConfigError, match=r"evaluate\.prompts: 4 are not enough: the first picture alone has 5"):
        choose(_grid(), 4, seed=1)


def _asked(sample: str, *problem_types: str) -> Row:
    return {"sample_id": sample, "pairs": [{"problem_type": name} for name in problem_types]}


def test_pictures_asked_for_half_of_what_the_official_score_reads_are_counted() -> None:
    rows = [
        *(_asked("whole", "detection"), _asked("whole", "description", "region")),
        *(_asked("boxes", "detection"), _asked("boxes", "choice"), _asked("told", "description")),
        *(_asked("regions", "region"), _asked("choices", "choice", "mos")),
    ]
    assert half_asked(rows) == ["boxes", "told", "regions"]
    assert half_asked([row for row in rows if row["pairs"][0]["problem_type"] != "description"]) == ["regions"]
    assert half_asked([_asked("a", "choice"), _asked("b", "region")]) == []


def test_the_seed_decides_and_the_order_of_the_table_does_not() -> None:
    assert choose(_grid(), 17, seed=1) == choose(_grid()[::-1], 17, seed=1)
    assert choose(_grid(), 17, seed=1) != choose(_grid(), 17, seed=2)


def test_fewer_than_asked_for_are_all_taken_and_training_rows_never() -> None:
    rows = [*_grid(2, 1, 2), _row(900, "photo9", "task0", "s9", split="train")]
    assert {row["dialogue_id"] for row in choose(rows, 500, seed=0)} == {row["dialogue_id"] for row in rows[:-1]}


def test_nothing_held_out_is_the_users_error() -> None:
    with pytest.raises(ConfigError, match="no dialogue is held out"):
        choose([_row(0, "photo0", "mcq", "s0", split="train")], 5, seed=0)


PICTURES = st.lists(
    st.tuples(st.integers(0, 6), st.sampled_from([(56, 56), (112, 56), (84, 84)])), min_size=2, max_size=40
).filter(lambda found: len({photograph for photograph, _ in found}) > 1)


@given(PICTURES, st.integers(0, 9))
def test_every_picture_is_swapped_for_one_of_another_photograph(
    found: list[tuple[int, tuple[int, int]]], seed: int
) -> None:
    rows = [_row(i, f"photo{photograph}", "mcq", f"s{i}") for i, (photograph, _) in enumerate(found)]
    sizes = {f"s{i}.png": size for i, (_, size) in enumerate(found)}
    photograph_of = {row["media_path"]: row["source_photograph"] for row in rows}
    swapped = swap_pictures(rows, sizes, seed)
    assert swapped.keys() == sizes.keys()
    assert swapped == swap_pictures(rows[::-1], sizes, seed)
    for path, other in swapped.items():
        assert photograph_of[path] != photograph_of[other]
        same_size = {photograph_of[p] for p, size in sizes.items() if size == sizes[path]}
        if len(same_size) > 1:
            assert sizes[other] == sizes[path]


def test_the_seed_decides_whose_picture_is_shown() -> None:
    rows = [_row(i, f"photo{i}", "mcq", f"s{i}") for i in range(9)]
    sizes = {f"s{i}.png": (56, 56) for i in range(9)}
    assert swap_pictures(rows, sizes, seed=1) != swap_pictures(rows, sizes, seed=2)


def test_one_photograph_cannot_be_swapped() -> None:
    with pytest.raises(ConfigError, match="at least two"):
        swap_pictures([_row(0, "photo0", "mcq", "s0")], {"s0.png": (56, 56)}, seed=0)


def test_a_dialogue_over_sub_tasks_becomes_rows_that_know_theirs(dialogues: list[Row]) -> None:
    # A description that ingest cannot read as one is asked as a free-form question, and stays a question of "assess".
    free_form = {**dialogues[4]["pairs"][0], "question_id": "f", "problem_type": "free_form", "answer": "Rather dark."}
    pairs = [*(row["pairs"][0] for row in dialogues[:5]), free_form]
    dialogue = {**dialogues[0], "sub_task": "mixed", "pairs": pairs}
    rows = evaluation_rows("sft", dialogue, "turn", ["A", None, "x", "y", "z", "f"], [1.0, 0.0, 0.5, 0.0, 0.0, 0.0])
    assert [row["sub_task"] for row in rows] == ["mcq", "score", "dist_detect", "reg_perception", "assess", "assess"]
    assert [row["answer"] for row in rows] == ["A", None, "x", "y", "z", "f"]
    assert len({row["question_id"] for row in rows}) == 6
