"""What checks a commit, by pre-commit and on GitHub, is what the Makefile's commands do."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import yaml

ROOT = Path(__file__).parent.parent
MAKEFILE = (ROOT / "Makefile").read_text()
WORKFLOW = ROOT / ".github" / "workflows" / "ci.yml"


def test_pre_commit_runs_the_linters_of_make_lint() -> None:
    (repository,) = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())["repos"]
    assert repository["repo"] == "local", "a remote repository would be downloaded"
    recipe = MAKEFILE.partition("\nlint:")[2].partition("\n\n")[0]
    linters = re.findall(r"^\t\$\(BIN\)/(.+)$", recipe, re.MULTILINE)
    assert linters
    # `make lint` only looks; on a commit the formatter formats.
    assert [hook["entry"] for hook in repository["hooks"]] == [
        f".venv/bin/{linter.replace('format --check', 'format')}" for linter in linters
    ]


def test_pre_commit_accepts_its_configuration() -> None:
    _accepts("pre_commit", "validate-config", ".pre-commit-config.yaml")


def test_github_accepts_the_workflow() -> None:
    _accepts("check_jsonschema", "--builtin-schema", "vendor.github-workflows", str(WORKFLOW))


def test_the_workflow_runs_the_two_commands() -> None:
    (job,) = yaml.safe_load(WORKFLOW.read_text())["jobs"].values()
    assert [step["run"] for step in job["steps"] if "run" in step] == ["make lint test", "make test-slow"]
    for target in ("lint", "test", "test-slow"):
        assert f"\n{target}:" in MAKEFILE


def test_the_workflow_runs_on_the_python_of_the_constraints() -> None:
    (job,) = yaml.safe_load(WORKFLOW.read_text())["jobs"].values()
    (version,) = [step["with"]["python-version"] for step in job["steps"] if "setup-python" in step.get("uses", "")]
    assert f"(Python {version})" in (ROOT / "constraints.txt").read_text().splitlines()[0]


def _accepts(module: str, *arguments: str) -> None:
    command = [sys.executable, "-m", module, *arguments]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
