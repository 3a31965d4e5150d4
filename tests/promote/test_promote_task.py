"""The stage: what its cache key sees, and what it decides anew."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from data_contracts.refs import Ref, Run
from pipeline_config.schema import PipelineConfig
from tasks.launcher.cache import cache_key
from tasks.promote.task import promote


def test_a_corrected_metric_gives_a_new_decision_on_equal_rows(
    home: Path,
    config: PipelineConfig,
    student: Callable[[str], Ref],
    evaluation: Callable[..., tuple[Ref, Ref]],
) -> None:
    challenger = student("challenger")

    def decide(run_id: str, rows: Ref, scores: Ref) -> tuple[str, dict[str, Any]]:
        """The stage under the key that Prefect looks up."""
        run = Run(run_id, str(home), "")
        given = {"run": run, "config": config, "evaluation": rows, "scores": scores, "student": challenger}
        key = cache_key("promote", run, given)
        return key, json.loads(promote.fn(**given).path.read_text())

    rows, scores = evaluation(-0.2)
    same_rows, corrected = evaluation(0.3)
    assert rows.digest == same_rows.digest
    key, refused = decide("run-1", rows, scores)
    assert refused["decision"] == "refused"
    again, promoted = decide("run-2", same_rows, corrected)
    assert again != key
    assert (promoted["decision"], promoted["version"]) == ("promoted", refused["version"])
    assert decide("run-3", rows, scores)[0] == key
