"""Documents made from the code say what the code says."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from pydantic import Field

from docs.imports import imports, package_layers, reached, reduced
from pipeline_config import reference
from pipeline_config.schema import CONFIG_FOLDER, PipelineConfig, Section
from tasks.launcher.cache import SECTIONS

ROOT = Path(__file__).parent.parent
CONFIGURATION = (ROOT / "docs" / "configuration.md").read_text()


# --------------------------------------------------------------------------------------------------- configuration.md
def test_the_configurations_reference_is_what_the_schema_gives() -> None:
    command = [sys.executable, "-m", "pipeline_config.reference", "--check"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_a_reference_that_differs_is_refused_with_the_command_that_makes_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    old = tmp_path / "configuration.md"
    old.write_text(CONFIGURATION.replace("| `seed` |", "| `sed` |"))
    monkeypatch.setattr(reference, "FILE", old)
    monkeypatch.setattr(sys, "argv", ["reference", "--check"])
    with pytest.raises(SystemExit, match=r"python -m pipeline_config\.reference > docs/configuration\.md"):
        reference.main()


@pytest.mark.parametrize("path", sorted(CONFIG_FOLDER.glob("*.yaml")), ids=lambda p: p.stem)
def test_every_key_of_a_shipped_config_stands_in_its_sections_table(path: Path) -> None:
    tables = _tables()
    for heading, key in _keys(yaml.safe_load(path.read_text()), ""):
        assert any(key in keys for name, keys in tables if name == heading), f"{heading}: {key}"


def test_defaults_are_those_of_a_config_that_says_nothing() -> None:
    given: dict[str, Any] = {
        "name": "n",
        "ingest": {"sources": [{"kind": "degrade", "name": "n"}]},
        "sft": {"optimiser": {"lr": 1.0}},
        "grpo": {"optimiser": {"lr": 1.0}},
    }
    config = PipelineConfig.model_validate(given).model_dump(mode="json")
    config["rewards"]["rubrics"] = {}  # laid over the table of pipeline_config/rubrics.py
    checked = 0
    for name, rows in _tables():
        node: Any = config
        for part in name.partition(",")[0].strip("`").removesuffix("[]").split("."):
            node = node.get(part) if isinstance(node, dict) and part else node
        node = node[0] if isinstance(node, list) and node else node
        kind = name.partition("kind ")[2].strip("`")
        if not isinstance(node, dict) or (kind and node["kind"] != kind):
            continue
        for key, (_, default, *_) in rows.items():
            if default.startswith("`") and not default.startswith("`kind: "):
                assert yaml.safe_load(default.strip("`")) == node[key], f"{name}: {key}"
                checked += 1
    assert checked > 80


@pytest.mark.parametrize(
    ("section", "row"),
    [
        ("`ingest.sources[]`, kind `degrade`", "| `side` | integer | `168` | at least 56, a multiple of 28 |"),
        ("`ingest.sources[]`, kind `table`", "| `mos_range` | list of 2: number | `[1.0, 5.0]` |  |"),
        ("`grpo.freeze`", "| `vision` | true or false | `true` |  |"),
        ("`sft.freeze`", "| `vision` | true or false | `false` |  |"),
        ("`grpo`", "| `max_rollouts` | integer, or null | `null` | at least 1 |"),
        ("`grpo.sampling`", "| `floor` | number | `0.05` | above 0 |"),
        ("`sft`", "| `repeats` | mapping of text to integer | `{}` | at least 1 |"),
        (
            "`ingest`",
            "| `sources` | list: section of kind `vida` or `table`",
        ),
        ("`annotate`", "| `teacher` | section of kind `measured` or `openai` | `kind: measured` |  |"),
    ],
)
def test_types_defaults_and_bounds(section: str, row: str) -> None:
    body = CONFIGURATION.partition(f"# {section}\n")[2].partition("\n#")[0]
    assert row in body


def test_a_key_without_a_description_is_refused() -> None:
    class Silent(Section):
        """Says nothing of its key."""

        key: int = 1

    class Outer(Section):
        """Holds it."""

        told: int = Field(1, description="told")
        silent: Silent = Silent()

    with pytest.raises(AssertionError, match=r"Silent\.key has no description"):
        list(reference._tables(Outer, "", {}))


def _tables() -> list[tuple[str, dict[str, tuple[str, ...]]]]:
    """Heading and rows of every table: key -> (type, default, bounds, meaning)."""
    tables: list[tuple[str, dict[str, tuple[str, ...]]]] = [("", {})]
    for line in CONFIGURATION.splitlines():
        if line.startswith("##"):
            tables.append((line.lstrip("# "), {}))
        elif line.startswith("| `"):
            key, *rest = (cell.strip() for cell in line[1:-1].split(" | "))
            tables[-1][1][key.strip("`")] = tuple(rest)
    return tables


def _keys(node: dict[str, Any], path: str) -> Iterator[tuple[str, str]]:
    """Heading of the section and name of each key of a config."""
    kind = f", kind `{node['kind']}`" if "kind" in node else ""
    for key, value in node.items():
        yield (f"`{path}`{kind}" if path else ""), key
        where = f"{path}.{key}".lstrip(".")
        entries = value if isinstance(value, list) else [value]
        for entry in entries:
            if isinstance(entry, dict) and key not in ("repeats", "prompts", "rubrics", "min_gain", "min_low"):
                yield from _keys(entry, f"{where}[]" if isinstance(value, list) else where)


# ---------------------------------------------------------------------------------------------------- architecture.md
def test_the_diagram_is_what_the_code_gives() -> None:
    command = [sys.executable, "-m", "docs.imports"]
    drawn = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert drawn in (ROOT / "docs" / "architecture.md").read_text(), "run: python -m docs.imports --write"


def test_arrows_that_follow_from_others_are_left_out() -> None:
    chain = {("a", "b"), ("b", "c"), ("c", "d"), ("a", "c"), ("a", "d"), ("b", "d")}
    assert reduced(chain) == {("a", "b"), ("b", "c"), ("c", "d")}
    mutual = {("b", "c"), ("c", "b")}
    assert reduced(mutual | {("a", "b"), ("a", "c")}) == mutual | {("a", "b"), ("a", "c")}
    assert reduced(mutual | {("a", "b"), ("a", "d"), ("c", "d")}) == mutual | {("a", "b"), ("c", "d")}


def test_nothing_is_lost_with_the_arrows_left_out() -> None:
    packages = [package for layer in package_layers() for package in layer]
    drawn, all_edges = reduced(imports(packages)), imports(packages)
    assert drawn < all_edges
    for package in packages:
        assert reached(package, drawn) == reached(package, all_edges)


def test_every_package_stands_in_a_layer() -> None:
    layered = {package for layer in package_layers() for package in layer}
    folders = {f"tasks.{path.parent.name}" for path in (ROOT / "tasks").glob("*/__init__.py")}
    assert layered == folders | {"flows", "pipeline_config", "data_contracts"}


@pytest.mark.parametrize("stage", SECTIONS)
def test_every_stage_and_what_it_publishes_stands_in_the_table(stage: str) -> None:
    (row,) = re.findall(rf"^\| `{stage}` \|.*$", (ROOT / "docs" / "architecture.md").read_text(), re.MULTILINE)
    task = (ROOT / "tasks" / stage / "task.py").read_text()
    published = re.findall(r'publish_(?:table|folder)\("(\w+)"', task)
    assert published
    for kind in published:
        assert f"`{kind}`" in row.split(" | ")[2]
    assert row.endswith("child process |" if "stage.child(" in task else "in the flow's process |")
