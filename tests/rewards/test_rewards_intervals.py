"""The bootstrap: recomputed metrics, paired draws, photographs as units."""

from __future__ import annotations

import numpy as np
import pytest

from tasks.rewards.metrics import bootstrap, mipi
from tasks.rewards.metrics.challenge import metrics_of, tally_rows
from tasks.rewards.metrics.intervals import draw


def rows_of(accuracies: list[list[bool]], scores: bool = False) -> list[dict]:
    """One list per photograph: choices that are right or wrong, and opinion scores if wanted."""
    rows = []
    for photograph, answers in enumerate(accuracies):
        for number, right in enumerate(answers):
            fields = {
                "question_id": f"{photograph}-{number}",
                "sample_id": f"{photograph}-{number}",
                "media_path": None,
                "source_photograph": f"photo {photograph}",
                "question": "?",
            }
            choice = {"sub_task": "mcq", "kind": "type", "problem_type": "choice", "options": ["a", "b"], "gold": "A"}
            rows.append({**fields, **choice, "answer": "A" if right else "B"})
            if scores:
                gold = 1 + (photograph * 7 + number * 3) % 5
                mos = {"sub_task": "score", "kind": "score", "problem_type": "mos", "options": [], "gold": f"{gold}.00"}
                rows.append({**fields, **mos, "answer": f"{gold if right else 6 - gold}.50"})
    return rows


def test_every_metric_is_recomputed_on_the_draw() -> None:
    """A weighting of photographs gives what literal copies of their rows give."""
    rng = np.random.default_rng(0)
    rows = rows_of([[bool(v) for v in rng.integers(0, 2, 4)] for _ in range(5)], scores=True)
    weights = draw(5, 20, seed=1)
    values = metrics_of(tally_rows(rows), weights)
    for replicate, counts in enumerate(weights):
        copies = []
        for photograph, count in enumerate(counts):
            for copy in range(int(count)):
                copies += [
                    {**r, "sample_id": f"{r['sample_id']}#{copy}"}
                    for r in rows
                    if r["source_photograph"] == f"photo {photograph}"
                ]
        expected = mipi(copies)
        for name, series in values.items():
            assert series[replicate] == pytest.approx(expected[name]), name


def test_point_estimate_and_percentiles() -> None:
    rows = rows_of([[True] * 4, [False] * 4, [True, False] * 2, [True] * 3 + [False]])
    students, _ = bootstrap({"sft": rows}, 2000, seed=0)
    mean, low, high = students["sft"]["perception_accuracy"]
    assert mean == mipi(rows)["perception_accuracy"] == 9 / 16
    assert low < mean < high
    # the mean of four photographs' shares 1, 0, .5, .75 has standard error .183: the interval is about 2 * 1.96 of it
    assert high - low == pytest.approx(0.7, abs=0.1)


def test_differences_are_paired() -> None:
    """b is right wherever a is, and once more per photograph: the difference does not vary although both do."""
    a = [[True, True, False, False], [False, False, False, False], [True, False, False, False]]
    b = [[True, True, True, False], [True, False, False, False], [True, True, False, False]]
    students, pairs = bootstrap({"a": rows_of(a), "b": rows_of(b)}, 500, seed=0)
    assert pairs["b", "a"]["perception_accuracy"] == pytest.approx((0.25, 0.25, 0.25))
    assert pairs["a", "b"]["perception_accuracy"] == pytest.approx((-0.25, -0.25, -0.25))
    assert students["a"]["perception_accuracy"][1] < students["a"]["perception_accuracy"][2]


def test_pictures_of_one_photograph_move_together() -> None:
    """Sixteen pictures of one photograph are one observation: no spread at all."""
    students, _ = bootstrap({"a": rows_of([[True, False] * 8])}, 200, seed=0)
    assert students["a"]["perception_accuracy"] == (0.5, 0.5, 0.5)


def test_same_seed_same_intervals_and_students_may_differ_in_rows() -> None:
    rows = {"a": rows_of([[True], [False], [True]]), "b": rows_of([[True], [True]], scores=True)}
    assert bootstrap(rows, 50, seed=3) == bootstrap(rows, 50, seed=3)
    _, pairs = bootstrap(rows, 50, seed=3)
    assert "mos_srcc" not in pairs["a", "b"]
    assert "composite" in pairs["a", "b"]


def test_without_replicates_the_interval_is_the_point() -> None:
    students, _ = bootstrap({"a": rows_of([[True], [False]])}, 0, seed=0)
    assert students["a"]["perception_accuracy"] == (0.5, 0.5, 0.5)
