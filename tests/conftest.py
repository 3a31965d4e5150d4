"""What every test starts from."""

from __future__ import annotations

import signal


def pytest_configure() -> None:
    """A shell hands SIGINT to its background jobs ignored, and they to their children; tests send it and wait."""
    signal.signal(signal.SIGINT, signal.default_int_handler)
