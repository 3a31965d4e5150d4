"""What the tests of the rewards share."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from pipeline_config.schema import RewardsConfig
from tests.rewards.endpoint import Endpoint


@pytest.fixture(scope="session")
def rewards() -> RewardsConfig:
    return RewardsConfig()


@pytest.fixture
def endpoint() -> Iterator[Endpoint]:
    served = Endpoint()
    yield served
    served.server.shutdown()
    served.server.server_close()
