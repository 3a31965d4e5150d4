"""What every test starts from."""

from __future__ import annotations

import signal

from hypothesis import settings


def pytest_configure() -> None:
    """Property tests draw the same examples every time, and SIGINT works.

    A shell hands SIGINT to its background jobs ignored, and they to their children; tests send it and wait.
    """
    settings.register_profile("repeatable", derandomize=True)
    settings.load_profile("repeatable")
    signal.signal(signal.SIGINT, signal.default_int_handler)
