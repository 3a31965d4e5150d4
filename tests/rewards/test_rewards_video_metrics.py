"""Metrics of video answers, captions and repeated tries."""

from __future__ import annotations

import pytest

from tasks.rewards.judge import LexicalEntailment
from tasks.rewards.metrics.video import (
    accuracy_by_type,
    event_f1,
    pass_at_k,
    set_f1,
    temporal_metrics,
    tracking_metrics,
)


def test_temporal_metrics() -> None:
    rows = [
        {"gold": "0 to 10", "answer": "0 to 10"},
        {"gold": "0 to 10", "answer": "0 to 5"},
        {"gold": "0 to 10", "answer": "0:00 - 0:04"},
        {"gold": "0 to 10", "answer": None},
    ]
    assert temporal_metrics(rows) == pytest.approx(
        {"miou": (1 + 0.5 + 0.4) / 4, "recall@0.3": 0.75, "recall@0.5": 0.5, "recall@0.7": 0.25}
    )
    with pytest.raises(ValueError, match="no time span"):
        temporal_metrics([{"gold": "soon", "answer": None}])


def test_tracking_metrics() -> None:
    rows = [
        {"gold": "[[0,0,1,1],[0,0,1,1]]", "answer": "[[0,0,1,1],[0,0,1,0.5]]"},
        {"gold": "[[0,0,1,1],[0,0,1,1]]", "answer": "[[0,0,1,1]]"},
    ]
    assert tracking_metrics(rows) == pytest.approx(
        {"average_overlap": 1.5 / 4, "success@0.5": 0.5, "success@0.75": 0.25}
    )


def test_accuracy_by_type() -> None:
    rows = [{"problem_type": t, "accuracy": a} for t, a in (("mos", 1), ("mos", 0), ("choice", 1))]
    assert accuracy_by_type(rows) == {"choice": 1.0, "mos": 0.5}


def test_event_precision_and_recall() -> None:
    judge = LexicalEntailment(0.7)
    result = event_f1(
        "A dog runs. A woman opens the door.", "The dog is running. A cat sleeps. The dog runs fast.", judge
    )
    assert result["recall"] == 0.5
    assert result["precision"] == pytest.approx(2 / 3) or result["precision"] == pytest.approx(1 / 3)
    assert result["judge"] == "lexical"
    assert event_f1("A dog runs.", "", judge)["f1"] == 0.0


def test_actions_and_objects() -> None:
    assert set_f1(["running", "open the door"], ["runs", "opens the door", "runs"]) == 1.0
    assert set_f1(["dog", "cat"], ["dog", "door"]) == 0.5
    assert set_f1([], []) == 1.0


@pytest.mark.parametrize(
    ("n", "c", "k", "value"), [(8, 0, 1, 0.0), (8, 8, 1, 1.0), (8, 2, 1, 0.25), (4, 2, 2, 5 / 6), (4, 1, 4, 1.0)]
)
def test_pass_at_k(n: int, c: int, k: int, value: float) -> None:
    assert pass_at_k(n, c, k) == pytest.approx(value)


def test_pass_at_k_is_undefined_beyond_the_tries() -> None:
    with pytest.raises(ValueError, match="pass@5"):
        pass_at_k(4, 2, 5)
