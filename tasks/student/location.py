"""Where a student's checkpoint stands, from the name the config gives it. No torch."""

from __future__ import annotations

import re
from pathlib import Path

from pipeline_config.schema import ConfigError

BUILTIN = "builtin:"
_HUB_ID = re.compile(r"[\w.-]+(/[\w.-]+)?")


def resolve_model(name: str) -> Path | str:
    """``builtin:tiny`` -> the shipped folder; a local folder -> its path; anything else -> the hub id as it is.

    Raises ConfigError: unknown builtin, a path that is no folder.
    """
    if name.startswith(BUILTIN):
        folder = Path(__file__).parent / name.removeprefix(BUILTIN)
        if not (folder / "config.json").is_file():
            raise ConfigError(f"student.model {name}: no such builtin; there is {BUILTIN}tiny")
        return folder
    folder = Path(name).expanduser()
    if folder.is_dir():
        return folder.absolute()
    if folder.exists() or name.startswith((".", "/", "~")) or not _HUB_ID.fullmatch(name):
        raise ConfigError(
            f"student.model {name}: no folder is there; name a checkpoint folder, a hub id or {BUILTIN}tiny"
        )
    return name
