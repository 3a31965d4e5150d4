"""A training child's metrics: one line per step, from rank 0, numbers only."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest

from tasks.tracking.log import METRICS_MARK, MetricLog


def sent(capsys: pytest.CaptureFixture[str]) -> list[dict[str, object]]:
    return [json.loads(line.removeprefix(METRICS_MARK)) for line in capsys.readouterr().out.splitlines()]


def test_numbers_are_sent_and_the_rest_is_left_out(capsys: pytest.CaptureFixture[str]) -> None:
    with MetricLog() as log:
        log.log({"loss": np.float32(0.5), "step_time": 2, "note": "1.5", "missing": None, "nan": math.nan}, 7)
        log.log({"note": "nothing to send"}, 8)
    (line,) = sent(capsys)
    assert line["step"] == 7
    metrics = line["metrics"]
    assert isinstance(metrics, dict)
    assert (metrics["loss"], metrics["step_time"], set(metrics)) == (0.5, 2.0, {"loss", "step_time", "nan"})
    assert math.isnan(metrics["nan"])


def test_other_ranks_are_silent(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RANK", "1")
    with MetricLog() as log:
        log.log({"loss": 0.5}, 1)
    assert sent(capsys) == []
