"""Which DeepSpeed file a stage names, and its ZeRO stage. No torch, no deepspeed."""

from __future__ import annotations

import json
from pathlib import Path

from pipeline_config.schema import CONFIG_FOLDER, ConfigError


def find_deepspeed(path: Path) -> Path:
    """The DeepSpeed JSON: the path as given, from the current folder or from where the package stands.

    Raises ConfigError if it is at neither place or no JSON.
    """
    for candidate in (path.expanduser(), CONFIG_FOLDER.parent / path):
        if candidate.is_file():
            try:
                json.loads(candidate.read_text())
            except ValueError as error:
                raise ConfigError(f"{candidate}: not JSON: {error}") from error
            return candidate.absolute()
    shipped = ", ".join(sorted(p.name for p in (CONFIG_FOLDER / "deepspeed").glob("*.json")))
    raise ConfigError(f"deepspeed {path}: no such file; shipped in {CONFIG_FOLDER / 'deepspeed'}: {shipped}")


def zero_stage(path: Path | None) -> int:
    """0 without DeepSpeed or without ZeRO, else 1, 2 or 3. Raises ConfigError as find_deepspeed."""
    if path is None:
        return 0
    return int(json.loads(find_deepspeed(path).read_text()).get("zero_optimization", {}).get("stage", 0))
