"""The house's rules, kept by tests: one direction of imports, and flow files that load fast and light."""

from __future__ import annotations

import subprocess
import sys
import time
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
    def load() -> tuple[float, set[str]]:
        script = f"import flows.{flow}, sys; print(*{HEAVY!r} & sys.modules.keys())".replace(
            repr(HEAVY), f"set({HEAVY!r})"
        )
        start = time.monotonic()
        done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=True)
        return time.monotonic() - start, set(done.stdout.split())

    attempts = [load() for _ in range(2)]
    assert not attempts[0][1], f"loading flows.{flow} imports {sorted(attempts[0][1])}"
    assert min(seconds for seconds, _ in attempts) < 4


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
    silent = [
        str(p.relative_to(ROOT)) for p in modules if (text := p.read_text().strip()) and not text.startswith('"""')
    ]
    assert not silent
