"""docs/rewards.md is current, and its examples are true."""

from __future__ import annotations

import pytest

from pipeline_config.rubrics import DEFAULT_RUBRICS, DEPARTURES
from pipeline_config.schema import RewardsConfig
from tasks.rewards.document import PAGE, page
from tasks.rewards.reward import REWARDS
from tasks.rewards.score import score


def test_the_page_is_what_the_command_writes() -> None:
    assert PAGE.read_text() == page(), "run: python -m tasks.rewards.document"


@pytest.mark.parametrize("name", [name for name, reward in REWARDS.items() if reward.example])
def test_examples_are_true(name: str) -> None:
    assert REWARDS[name].example is not None
    sample, completion, value = REWARDS[name].example
    config = RewardsConfig(rubrics={sample["problem_type"]: {name: 1.0}})
    assert score(sample, completion, config).parts[name] == pytest.approx(value, abs=1e-4)


def test_every_rubric_says_where_its_sum_departs() -> None:
    assert set(DEPARTURES) == set(DEFAULT_RUBRICS)


def test_every_reward_is_documented() -> None:
    for name, reward in REWARDS.items():
        assert reward.function.__doc__, name
        assert reward.formula, name
        assert reward.source, name
        assert reward.departs, name
        assert f"### `{name}`" in PAGE.read_text(), name
        assert reward.example or reward.judges == "group", name
