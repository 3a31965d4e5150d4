"""Where a student's checkpoint and the base of LoRA adapters stand. No torch.

Beside the weights stands ``discern.json``: the box convention the student was trained in and, for LoRA, its base.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from pipeline_config.schema import ConfigError

BUILTIN = "builtin:"
NOTE_FILE = "discern.json"
ADAPTER_FILE = "adapter_config.json"
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


def local_folder(name: str) -> Path:
    """As `resolve_model`, and for a hub id its folder in the local Hugging Face cache.

    Raises ConfigError as `resolve_model`, and if the cache does not hold it.
    """
    source = resolve_model(name)
    if isinstance(source, Path):
        return source
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(source, local_files_only=True))
    except (OSError, ValueError) as error:
        raise ConfigError(f"{name}: not in the local Hugging Face cache; fetch it with `hf download {name}`") from error


def read_note(source: Path | str) -> dict[str, Any]:
    """What stands in ``discern.json``; empty without it. Raises ConfigError if it is no JSON."""
    path = source / NOTE_FILE if isinstance(source, Path) else None
    if path is None or not path.is_file():
        return {}
    try:
        return dict(json.loads(path.read_text()))
    except ValueError as error:
        raise ConfigError(f"{path}: not JSON ({error}); delete it and set student.boxes") from error


def adapters_in(source: Path | str) -> Path | None:
    """The folder itself if it holds LoRA adapters, else None."""
    return source if isinstance(source, Path) and (source / ADAPTER_FILE).is_file() else None


def packaged_base(adapters: Path) -> Path:
    """The folder in which adapters that travel bring their base: beside theirs."""
    return adapters.with_name(f"{adapters.name}.base")


def base_of(adapters: Path) -> str:
    """The base of LoRA adapters: the folder they bring, else what they were trained on.

    Raises ConfigError if nothing names it.
    """
    if packaged_base(adapters).is_dir():
        return str(packaged_base(adapters))
    config = adapters / ADAPTER_FILE
    base = read_note(adapters).get("base") or json.loads(config.read_text()).get("base_model_name_or_path")
    if not base:
        raise ConfigError(f"{config}: names no base model; set base_model_name_or_path there")
    return str(base)
