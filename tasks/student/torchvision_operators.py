"""Make `import torchvision` work beside a CPU build of torch; imported first by every entry point.

torchvision's wheels are built against CUDA torch. Beside a CPU build its compiled library does not load, and then its
Python side fails with "operator torchvision::nms does not exist". The processors of transformers need only its resizing
code, never these operators, so their schemas are declared, and only where the library really cannot load.
"""

from __future__ import annotations

import importlib.util
from pathlib import Path

import torch

_OPERATORS = ("nms", "qnms")
_SCHEMA = "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor"


def _library_loads() -> bool:
    """Whether torchvision's own compiled operators load into this torch (loading twice is harmless)."""
    spec = importlib.util.find_spec("torchvision")
    folders = (spec.submodule_search_locations or []) if spec else []
    libraries = [path for folder in folders for path in Path(folder).glob("_C.*")]
    try:
        for path in libraries:
            torch.ops.load_library(str(path))
    except OSError:
        return False
    return hasattr(torch.ops.torchvision, "nms")


def declare_missing_operators() -> torch.library.Library | None:
    """Declare the operators that torchvision's Python side looks up; None where they exist already."""
    if hasattr(torch.ops.torchvision, "nms") or _library_loads():
        return None
    library = torch.library.Library("torchvision", "DEF")
    for name in _OPERATORS:
        library.define(name + _SCHEMA)
    return library


# A declaration lasts only as long as its Library object.
LIBRARY = declare_missing_operators()
