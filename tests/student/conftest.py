"""A student and pictures; the shipped student is loaded where it is tested."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest


@pytest.fixture(scope="session")
def picture(tmp_path_factory: pytest.TempPathFactory) -> Callable[[int, int], str]:
    """picture(width, height) -> path of a PNG of noise of that size."""
    from PIL import Image

    folder = tmp_path_factory.mktemp("pictures")

    def make(width: int, height: int) -> str:
        path = folder / f"{width}x{height}.png"
        if not path.exists():
            pixels = np.random.default_rng(width * height).integers(0, 256, (height, width, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(path)
        return str(path)

    return make


@pytest.fixture(scope="session")
def student(folders: dict[str, Path]) -> Any:
    """The Qwen2.5-VL student for inference; tests must leave it as it is."""
    from pipeline_config.schema import StudentConfig
    from tasks.student.checkpoint import load_student

    return load_student(str(folders["qwen2_5_vl"]), StudentConfig(precision="float32"))
