"""Gathers what a run left and writes its report; called by the flow once every stage has returned, cached or not."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from data_contracts.refs import Ref, Run
from pipeline_config.schema import PipelineConfig
from tasks.evaluate.report.page import write_report


def make_report(run: Run, config: PipelineConfig, summary: Mapping[str, Any], refs: Mapping[str, Ref]) -> Path:
    """Write ``<home>/reports/<run id>/report.html`` and return its path.

    summary: as `flows.summary.summarise` gives it (``stages``, ``students``, ``pairs``, ``promotion``). refs: stage ->
    what it published; ``evaluate`` must be there, ``grpo`` and ``mine`` add curves and the difficulty histogram; a
    stage that is missing leaves a note in its place. Imports neither torch nor MLflow.
    """
    history = _history(refs.get("grpo"))
    return write_report(
        Path(run.home) / "reports" / run.run_id / "report.html",
        config=config,
        run=run,
        rows=_rows(refs["evaluate"]),
        scores={"students": summary["students"], "pairs": summary["pairs"]},
        stages=[{**facts, "stage": name} for name, facts in summary["stages"].items()],
        history=history.get("steps", []),
        probe=history.get("probe"),
        difficulty=_rows(refs["mine"]) if "mine" in refs else [],
        decision=summary.get("promotion"),
    )


def _rows(ref: Ref) -> list[dict[str, Any]]:
    return pq.read_table(ref.path).to_pylist()


def _history(student: Ref | None) -> dict[str, Any]:
    """GRPO's figures, which stand beside the student's weights."""
    path = student.path / "history.json" if student else None
    return json.loads(path.read_text()) if path and path.is_file() else {}
