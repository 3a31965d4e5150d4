"""The house's rules, kept by tests: one direction of imports, and flow files that load fast and light."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
FLOWS = sorted(path.stem for path in (ROOT / "flows").glob("*.py") if "\n@pipeline_flow(" in path.read_text())
HEAVY = ("torch", "mlflow", "great_expectations", "transformers", "deepspeed")
NAMELESS = {"utils", "util", "common", "helpers", "helper", "misc", "base", "core"}


def test_imports_point_one_way() -> None:
    lint = subprocess.run(
        [Path(sys.executable).with_name("lint-imports"), "--no-cache"], cwd=ROOT, capture_output=True, text=True
    )
    assert lint.returncode == 0, lint.stdout


@pytest.mark.parametrize("flow", FLOWS)
def test_loading_a_flow_is_fast_and_light(flow: str) -> None:
    script = f"import flows.{flow}, resource, sys\n"
    script += f"print(sum(resource.getrusage(resource.RUSAGE_SELF)[:2]), *set({HEAVY!r}) & sys.modules.keys())"
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=True)
    seconds, *heavy = done.stdout.split()
    assert not heavy, f"loading flows.{flow} imports {heavy}"
    assert float(seconds) < 4, "processor seconds, which a busy machine does not stretch as it does elapsed ones"


def test_there_is_a_flow() -> None:
    assert "full_pipeline" in FLOWS


def test_full_pipeline_reads_like_the_picture() -> None:
    assert len((ROOT / "flows" / "full_pipeline.py").read_text().splitlines()) < 120


def test_no_module_is_named_for_nothing() -> None:
    modules = [p for top in ("flows", "tasks", "pipeline_config", "data_contracts") for p in (ROOT / top).rglob("*.py")]
    assert modules
    assert not [str(p) for p in modules if NAMELESS & {part.removesuffix(".py") for part in p.parts[-3:]}]


def test_every_module_says_what_it_is() -> None:
    modules = [p for top in ("flows", "tasks", "pipeline_config", "data_contracts") for p in (ROOT / top).rglob("*.py")]
    trees = {str(path.relative_to(ROOT)): ast.parse(path.read_text()) for path in modules}
    silent = [name for name, tree in trees.items() if tree.body and not ast.get_docstring(tree)]
    assert not silent
