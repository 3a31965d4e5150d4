"""Where a run writes: one folder, ``./runs`` unless the environment variable DISCERN_HOME names another."""

from __future__ import annotations

import os
from pathlib import Path

HOME_VARIABLE = "DISCERN_HOME"


def home() -> Path:
    """Absolute path of the home, created if missing."""
    path = Path(os.environ.get(HOME_VARIABLE) or "runs").expanduser().absolute()
    path.mkdir(parents=True, exist_ok=True)
    return path
