"""Which checkpoint a killed GRPO run goes on from: the newest one that was written to its end.

The Trainer writes a checkpoint file by file. The sampler's state is written last and atomically, so a checkpoint that
has it is complete; one that has not is what a kill left behind.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from tasks.launcher.job import write_atomically

SAMPLER_FILE = "sampler.json"


def mark_complete(checkpoint: Path, sampler_state: dict[str, Any]) -> None:
    """Write the sampler's state, the last file of a checkpoint."""
    write_atomically(checkpoint / SAMPLER_FILE, json.dumps(sampler_state))


def sampler_state(checkpoint: Path) -> dict[str, Any]:
    """The sampler's state at a complete checkpoint."""
    state: dict[str, Any] = json.loads((checkpoint / SAMPLER_FILE).read_text())
    return state


def updates_done(checkpoint: Path) -> int:
    """Optimizer updates before a checkpoint, from its name."""
    return int(checkpoint.name.rpartition("-")[2])


def last_complete(folder: Path) -> Path | None:
    """The newest complete checkpoint in ``folder``, or None. An incomplete one is written over when its step comes."""
    complete = [path for path in folder.glob("checkpoint-*") if (path / SAMPLER_FILE).is_file()]
    return max(complete, key=updates_done, default=None)
