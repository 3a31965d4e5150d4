"""A registry in a home of its own, students, and evaluations whose outcome the test chooses."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from data_contracts.refs import Ref, digest_of
from pipeline_config.schema import PipelineConfig, TrackingConfig
from tasks.promote.registry import Registry
from tasks.tracking.runs import Tracking

CONFIG = {
    "name": "test",
    "ingest": {"sources": [{"kind": "degrade", "name": "photographs"}]},
    "sft": {"optimiser": {"lr": 1e-3}},
    "grpo": {"optimiser": {"lr": 1e-3}},
}
Evaluate = Callable[..., tuple[Ref, Ref]]


@pytest.fixture(scope="session")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A home whose MLflow store is made once: its tables take seconds."""
    folder = tmp_path_factory.mktemp("home")
    Tracking(folder, TrackingConfig()).start_run("first")
    return folder


@pytest.fixture
def home(store: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("DISCERN_HOME", str(store))
    return store


@pytest.fixture
def config(request: pytest.FixtureRequest) -> PipelineConfig:
    """A configuration whose registered model no other test has."""
    return PipelineConfig.model_validate({**CONFIG, "promote": {"registered_model": request.node.name}})


@pytest.fixture
def registry(home: Path, config: PipelineConfig) -> Registry:
    return Registry(Tracking(home, config.tracking), config.promote.registered_model)


@pytest.fixture
def student(tmp_path: Path) -> Callable[[str], Ref]:
    """A published student of these weights; what promotion moves about needs no model that runs."""

    def make(weights: str) -> Ref:
        folder = tmp_path / f"students-{weights}" / "student"
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "model.safetensors").write_text(weights)
        (folder / "config.json").write_text("{}")
        return Ref("student", str(folder), digest_of(folder), 0)

    return make


@pytest.fixture
def evaluation(tmp_path: Path) -> Evaluate:
    """Rows and scores of an evaluation in which the challenger gains this much over the champion it was measured
    against, or the base; the rows are always the same."""

    def make(gain: float, champion: Ref | None = None, low: float | None = None) -> tuple[Ref, Ref]:
        pair = f"grpo - {'champion' if champion else 'base'}"
        figures = {"mean": gain, "low": gain - 0.1 if low is None else low, "high": gain + 0.1}
        folder = tmp_path / f"evaluation-{gain}-{champion.digest if champion else None}"
        folder.mkdir(exist_ok=True)
        scores = {
            "students": {},
            "pairs": {pair: {"composite": figures}},
            "champion_digest": champion.digest if champion else None,
        }
        measured, table = folder / "measured.json", folder / "evaluation.parquet"
        measured.write_text(json.dumps(scores))
        table.write_text("rows")
        return Ref("evaluation", str(table), digest_of(table), 1), Ref("scores", str(measured), digest_of(measured), 0)

    return make
