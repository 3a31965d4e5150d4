"""Which mined prompts are kept, and why."""

from __future__ import annotations

from typing import Any

import pytest

from tasks.mine.select import Mined, select, summary, verdict

HARD, EASY, WRONG, SAME = [1.0, 0.0, 0.0, 0.5], [1.0] * 4, [0.0] * 4, [0.5] * 4


def mined(*rewards: list[float]) -> list[Mined]:
    return [Mined(f"d{i}", "mcq", r, [f"c{i}"] * len(r)) for i, r in enumerate(rewards)]


def chosen(rows: list[dict[str, Any]], name: str) -> set[str]:
    return {row["dialogue_id"] for row in rows if row["pool"] == name}


def pick(prompts: list[Mined], easy_pool: int = 8, random_control: bool = False, seed: int = 0) -> list[dict[str, Any]]:
    return select(prompts, right_above=0.99, easy_pool=easy_pool, random_control=random_control, seed=seed)


@pytest.mark.parametrize(
    ("rewards", "pool"),
    [
        (HARD, "hard"),
        ([1.0, 1.0, 1.0, 0.0], "hard"),
        ([0.25, 0.5, 0.25, 0.25], "hard"),  # never all right, but some rollouts are better than others
        (EASY, "easy"),
        ([1.0, 0.995], "easy"),  # above right_above counts as right
        ([0.99, 0.99], "dropped"),  # at right_above does not
        (WRONG, "dropped"),
        (SAME, "dropped"),
        ([0.7], "dropped"),
    ],
)
def test_neither_all_right_nor_all_equal_is_hard(rewards: list[float], pool: str) -> None:
    assert verdict(rewards, 0.99)[0] == pool


def test_the_reason_tells_wrong_from_same() -> None:
    assert "wrong" in verdict(WRONG, 0.99)[1]
    assert "0.50" in verdict(SAME, 0.99)[1]


def test_rows_are_those_of_the_contract() -> None:
    import pyarrow as pa

    from data_contracts.records import DIFFICULTY

    rows = pick(mined(HARD, EASY))
    table = pa.Table.from_pylist(rows, schema=DIFFICULTY)
    assert set(rows[0]) == set(DIFFICULTY.names)
    assert table.to_pylist()[0] == {
        "dialogue_id": "d0",
        "sub_task": "mcq",
        "num_rollouts": 4,
        "rewards": HARD,
        "pass_rate": 0.375,
        "num_all_right": 1,
        "pool": "hard",
        "why": "1 of 4 rollouts are right, accuracy 0.00 to 1.00",
        "completions": ["c0"] * 4,
    }


def test_the_easy_pool_has_its_size_and_the_rest_is_dropped_with_a_reason() -> None:
    rows = pick(mined(*[EASY] * 10, HARD), easy_pool=3)
    assert len(chosen(rows, "easy")) == 3
    beyond = [row for row in rows if row["pool"] == "dropped"]
    assert len(beyond) == 7
    assert all("beyond the easy pool of 3" in row["why"] for row in beyond)


def test_no_easy_pool() -> None:
    assert not chosen(pick(mined(EASY, HARD), easy_pool=0), "easy")


def test_the_random_control_is_as_large_as_what_hard_trains_on_and_may_overlap() -> None:
    prompts = mined(*[HARD] * 10, *[EASY] * 4, *[WRONG] * 26)
    rows = pick(prompts, easy_pool=2, random_control=True)
    assert len(chosen(rows, "hard")) == 10
    assert len(chosen(rows, "random")) == 12
    assert chosen(rows, "random") & chosen(rows, "hard"), "a prompt may stand in both"
    assert rows[:40] == pick(prompts, easy_pool=2), "the verdicts do not know of the control"
    assert [row["pool"] for row in rows[40:]] == ["random"] * 12
    assert rows[40]["rewards"] == next(r["rewards"] for r in rows if r["dialogue_id"] == rows[40]["dialogue_id"])


def test_the_choice_is_the_seeds() -> None:
    prompts = mined(*[HARD] * 10, *[EASY] * 10, *[WRONG] * 20)
    first, again, other = (pick(prompts, 4, True, seed) for seed in (1, 1, 2))
    assert first == again
    assert chosen(first, "random") != chosen(other, "random")


def test_the_random_control_is_drawn_apart_from_the_easy_pool() -> None:
    rows = pick(mined(*[EASY] * 20), easy_pool=5, random_control=True)
    assert len(chosen(rows, "easy")) == len(chosen(rows, "random")) == 5
    assert chosen(rows, "easy") != chosen(rows, "random")


def test_summary_counts_memberships() -> None:
    figures = summary(pick(mined(HARD, EASY, WRONG), easy_pool=8, random_control=True))
    assert figures["num_hard"] == 1
    assert figures["num_easy"] == 1
    assert figures["num_random"] == 2, "does not count as mined twice"
    assert figures["num_dropped"] == 1
    assert figures["pass_rate"] == pytest.approx((0.375 + 1.0) / 3)
