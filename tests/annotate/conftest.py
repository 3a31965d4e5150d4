"""The misbehaving endpoint, one per test."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.annotate.endpoint import Endpoint


@pytest.fixture
def endpoint() -> Iterator[Endpoint]:
    endpoint = Endpoint()
    yield endpoint
    endpoint.close()
