"""What the tests of the rewards share."""

from __future__ import annotations

import pytest

from pipeline_config.schema import RewardsConfig


@pytest.fixture(scope="session")
def rewards() -> RewardsConfig:
    return RewardsConfig()
