"""The tiny random student and the tables of GRPO's tests."""

from __future__ import annotations

import importlib.util
from pathlib import Path

_path = Path(__file__).parents[1] / "grpo" / "conftest.py"
_spec = importlib.util.spec_from_file_location("grpo_conftest", _path)
assert _spec is not None
assert _spec.loader is not None
_grpo = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(_grpo)

student_folder, tables = _grpo.student_folder, _grpo.tables
