"""Aliases in a real MLflow store: who is challenger, champion, previous after promotions, refusals and retries."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from data_contracts.refs import Ref
from pipeline_config.schema import ConfigError, PipelineConfig
from tasks.promote.champion import present_champion
from tasks.promote.decide import promote_student
from tasks.promote.registry import Registry

Student = Callable[[str], Ref]
Evaluate = Callable[..., tuple[Ref, Ref]]
Promote = Callable[[tuple[Ref, Ref], Ref], dict[str, Any]]


@pytest.fixture
def promote(registry: Registry, config: PipelineConfig) -> Promote:
    run_id = registry.tracking.start_run("promote")

    def run(evaluation: tuple[Ref, Ref], student: Ref) -> dict[str, Any]:
        return promote_student(registry, config, *evaluation, student, "run-1", run_id)

    return run


def aliases(registry: Registry) -> dict[str, str]:
    found = registry.client.get_registered_model(registry.name).aliases
    return {alias: str(version) for alias, version in found.items()}


def test_the_way_of_three_students(
    promote: Promote,
    registry: Registry,
    config: PipelineConfig,
    student: Student,
    evaluation: Evaluate,
) -> None:
    first, worse, better = student("first"), student("worse"), student("better")

    assert present_champion(config, first) is None
    told = promote(evaluation(0.5), first)
    assert (told["version"], told["decision"], told["against"]) == ("1", "promoted", "the base")
    assert aliases(registry) == {"champion": "1"}

    champion = present_champion(config, worse)
    assert champion is not None
    assert champion.digest == first.digest
    assert champion.uri != first.uri
    assert champion.holds()
    told = promote(evaluation(-0.2, champion), worse)
    assert (told["version"], told["decision"], told["alias"]) == ("2", "refused", "challenger")
    assert told["reasons"] == ["composite: gain -0.2000 is below +0.0000"]
    assert aliases(registry) == {"champion": "1", "challenger": "2"}
    tags = registry.client.get_model_version(registry.name, "2").tags
    assert tags["decision"] == "refused"
    assert tags["reasons"] == "composite: gain -0.2000 is below +0.0000"

    told = promote(evaluation(0.1, champion), better)
    assert (told["version"], told["decision"], told["against"]) == ("3", "promoted", "version 1")
    assert aliases(registry) == {"champion": "3", "previous": "1"}

    # The run that made the champion, again: it finds the champion it was measured against, and changes nothing.
    again = present_champion(config, better)
    assert again == champion
    told = promote(evaluation(0.1, again), better)
    assert (told["version"], told["decision"]) == ("3", "promoted")
    assert aliases(registry) == {"champion": "3", "previous": "1"}


def test_a_retry_registers_nothing_twice(
    promote: Promote,
    registry: Registry,
    student: Student,
    evaluation: Evaluate,
) -> None:
    told = [promote(evaluation(-0.5), student("same")) for _ in range(2)]
    assert told[0] == told[1]
    assert len(registry.client.search_model_versions(f"name='{registry.name}'")) == 1


def test_a_champion_that_was_not_measured_is_not_replaced(
    promote: Promote,
    registry: Registry,
    student: Student,
    evaluation: Evaluate,
) -> None:
    promote(evaluation(0.5), student("first"))
    told = promote(evaluation(0.9), student("second"))
    assert told["decision"] == "refused"
    assert "the champion changed after the evaluation" in told["reasons"][0]
    assert aliases(registry)["champion"] == "1"


def test_a_champion_whose_checkpoint_is_gone_is_named(
    promote: Promote,
    config: PipelineConfig,
    student: Student,
    evaluation: Evaluate,
) -> None:
    promote(evaluation(0.5), student("first"))
    champion = present_champion(config, student("second"))
    assert champion is not None
    shutil.rmtree(champion.uri)
    with pytest.raises(ConfigError, match=r"version 1 of test_.*: its checkpoint .* is gone"):
        present_champion(config, student("second"))


def test_without_a_store_there_is_no_champion_and_none_is_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, config: PipelineConfig, student: Student
) -> None:
    monkeypatch.setenv("DISCERN_HOME", str(tmp_path / "empty"))
    assert present_champion(config, student("first")) is None
    assert not list((tmp_path / "empty").iterdir())
