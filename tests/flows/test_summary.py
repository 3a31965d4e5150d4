"""What a finished run says of itself."""

from __future__ import annotations

import json
from pathlib import Path

from data_contracts.refs import Ref, Run, digest_of
from flows.summary import summarise


def test_the_figures_are_those_of_the_scores_that_were_published(tmp_path: Path) -> None:
    rows, measured = tmp_path / "evaluation.parquet", tmp_path / "measured.json"
    rows.write_text("rows")
    (tmp_path / "scores.json").write_text(json.dumps({"students": {"sft": "of another run"}}))
    measured.write_text(json.dumps({"students": {"sft": {"composite": {"value": 3.0}}}, "pairs": {}}))
    evaluation = Ref("evaluation", str(rows), digest_of(rows), 1)
    scores = Ref("scores", str(measured), digest_of(measured), 0)
    summary = summarise(Run("run-1", str(tmp_path), ""), "f", "tiny", {}, {"evaluate": evaluation}, scores)
    assert summary["students"] == {"sft": {"composite": {"value": 3.0}}}
    assert summary["datasets"] == {"evaluate": evaluation.to_dict(), "scores": scores.to_dict()}
