"""Load and save a student: any Qwen2-VL / Qwen2.5-VL checkpoint, in full or as LoRA on its base.

    student = load_student("builtin:tiny", config.student)
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tasks.student.torchvision_operators  # noqa: F401, I001  before anything imports torchvision
import torch

from pipeline_config.schema import StudentConfig
from tasks.student.boxes import Convention


@dataclass
class Student:
    """A model, its processor, and the convention in which it reads and writes boxes."""

    model: Any
    processor: Any
    boxes: Convention

    @property
    def device(self) -> torch.device:
        return self.model.device

    @property
    def tokenizer(self) -> Any:
        return self.processor.tokenizer


def resolve_model(name: str) -> Path | str:
    """``builtin:tiny`` -> the shipped folder; a local folder -> its path; anything else -> the hub id as it is.

    Raises ConfigError: unknown builtin, a path that is no folder.
    """
    raise NotImplementedError


def load_student(model: str, config: StudentConfig, *, train: bool = False) -> Student:
    """Load ``model`` (``builtin:tiny``, a local folder, full or LoRA, or a hub id) as the config says.

    train=False: eval mode, no gradients. train=True: train mode; with ``config.lora`` a full checkpoint is wrapped in new
    adapters, a LoRA checkpoint goes on with its own. A local folder or builtin never touches the hub.
    Raises ConfigError: missing folder, no image-text-to-text model, architecture outside the Qwen2-VL family.
    """
    raise NotImplementedError


def save_student(student: Student, folder: Path) -> None:
    """Write weights (full, or adapters only), processor, tokenizer and ``discern.json`` beside, then rename to ``folder``."""
    raise NotImplementedError
