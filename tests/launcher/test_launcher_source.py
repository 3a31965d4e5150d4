"""A stage's source digest follows its imports, one module at a time, wherever they stand."""

from __future__ import annotations

import ast
import os
from pathlib import Path

import pytest

from pipeline_config.schema import PipelineConfig
from tasks.launcher.cache import SECTIONS
from tasks.launcher.source import ROOT, closure, library_versions, source_digest

FILES = {
    "tasks/__init__.py": "",
    "tasks/mine/__init__.py": "",
    "tasks/mine/task.py": "from prefect import task\nfrom tasks.launcher.stage import open_stage\n",
    "tasks/mine/rollout.py": "def run():\n    from tasks.rewards.score import score\n    return score\n",
    "tasks/mine/prompt.txt": "Answer.",
    "tasks/compress/__init__.py": "",
    "tasks/compress/merge.py": (
        "from typing import TYPE_CHECKING\nimport duckdb\nfrom data_contracts import records\n"
        "if TYPE_CHECKING:\n    from tasks.rewards.choice import choice\nelse:\n    import numpy\n"
    ),
    "tasks/rewards/__init__.py": "",
    "tasks/rewards/score.py": "import tasks.rewards.choice\n",
    "tasks/rewards/choice.py": "from . import words\n",
    "tasks/rewards/words.py": "LETTERS = 'ABC'\n",
    "tasks/rewards/unused.py": "",
    "tasks/launcher/__init__.py": "",
    "tasks/launcher/stage.py": "import tasks.tracking.runs\n",
    "tasks/tracking/runs.py": "",
    "data_contracts/__init__.py": "",
    "data_contracts/records.py": "",
}


@pytest.fixture
def root(tmp_path: Path) -> Path:
    for name, text in FILES.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return tmp_path


def edit(root: Path, name: str) -> None:
    path = root / name
    path.write_text(path.read_text() + "\n# edited\n")


def digests(root: Path) -> dict[str, str]:
    return {stage: source_digest(stage, root) for stage in ("mine", "compress")}


@pytest.mark.parametrize(
    ("edited", "changes"),
    [
        ("tasks/rewards/words.py", ["mine"]),  # reached by a relative import, three steps from a function's import
        ("tasks/rewards/__init__.py", ["mine"]),
        ("tasks/mine/prompt.txt", ["mine"]),
        ("tasks/compress/merge.py", ["compress"]),
        ("data_contracts/records.py", ["compress"]),
        ("tasks/__init__.py", ["mine", "compress"]),
        ("tasks/rewards/unused.py", []),
        ("tasks/launcher/stage.py", []),
        ("tasks/tracking/runs.py", []),
    ],
)
def test_an_edit_reaches_the_stages_that_import_it_and_no_other(root: Path, edited: str, changes: list[str]) -> None:
    before = digests(root)
    edit(root, edited)
    after = digests(root)
    assert [stage for stage in before if before[stage] != after[stage]] == changes
    assert digests(root) == after


def test_an_edit_that_keeps_size_and_second_is_seen(root: Path) -> None:
    before = source_digest("mine", root)
    path = root / "tasks/rewards/words.py"
    status = path.stat()
    path.write_text("LETTERS = 'ABD'\n")
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns + 1))
    assert source_digest("mine", root) != before


def test_a_new_file_of_the_stage_counts_and_compiled_files_do_not(root: Path) -> None:
    before = source_digest("mine", root)
    compiled = root / "tasks/mine/__pycache__/rollout.pyc"
    compiled.parent.mkdir()
    compiled.write_bytes(b"compiled")
    assert source_digest("mine", root) == before
    (root / "tasks/mine/select.py").write_text("")
    assert source_digest("mine", root) != before


def test_versions_of_the_libraries_count_but_not_of_those_that_only_run_the_work(root: Path) -> None:
    _, imported = closure("tasks.compress", root)
    assert imported == {"duckdb", "numpy", "typing"}
    versions = library_versions(imported | {"prefect", "mlflow"})
    assert [line.split()[0] for line in versions] == ["python", "duckdb", "numpy"]


def test_in_this_house_a_reward_reaches_what_scores_and_not_what_merges_or_tunes() -> None:
    def reached(stage: str) -> set[str]:
        return {path.relative_to(ROOT).as_posix() for path in closure(f"tasks.{stage}")[0]}

    score = "tasks/rewards/score.py"
    assert {stage for stage in ("annotate", "compress", "sft", "mine", "grpo") if score in reached(stage)} == {
        "annotate",
        "mine",
        "grpo",
    }
    for stage in SECTIONS:
        assert not any(
            path.startswith(("tasks/launcher", "tasks/tracking", "pipeline_config")) for path in reached(stage)
        )


def test_the_table_of_sections_names_all_that_the_code_of_each_stage_reads() -> None:
    sections = set(PipelineConfig.model_fields) - {"name", "seed"}
    assert set(SECTIONS) == sections - {"student", "rewards", "tracking"}
    for stage, declared in SECTIONS.items():
        read = set()
        for path in sorted((ROOT / "tasks" / stage).rglob("*.py")):
            for node in ast.walk(ast.parse(path.read_text())):
                if (
                    isinstance(node, ast.Attribute)
                    and node.attr in sections
                    and ast.unparse(node.value).endswith("config")
                ):
                    read.add(node.attr)
        assert read <= set(declared), f"{stage} reads {read - set(declared)}: declare it in tasks/launcher/cache.py"
