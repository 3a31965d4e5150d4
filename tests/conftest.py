"""What every test starts from."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import settings

from pipeline_config.home import HOME_VARIABLE


@pytest.fixture(scope="session", autouse=True)
def _home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A home of the tests' own: students keep features there."""
    before = os.environ.get(HOME_VARIABLE)
    folder = tmp_path_factory.mktemp("home")
    os.environ[HOME_VARIABLE] = str(folder)
    yield folder
    if before is None:
        del os.environ[HOME_VARIABLE]
    else:
        os.environ[HOME_VARIABLE] = before


def pytest_configure() -> None:
    """Property tests draw the same examples every time, and SIGINT works.

    A shell hands SIGINT to its background jobs ignored, and they to their children; tests send it and wait.
    """
    settings.register_profile("repeatable", derandomize=True)
    settings.load_profile("repeatable")
    signal.signal(signal.SIGINT, signal.default_int_handler)
