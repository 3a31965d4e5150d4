"""Which package imports which, drawn from the code: the diagram of docs/architecture.md.

    python -m docs.imports             prints the diagram
    python -m docs.imports --write     puts it into docs/architecture.md

Packages stand in the layers that pyproject.toml gives import-linter. An arrow that follows from others is left out: of
A -> B -> C and A -> C, only the first two are drawn. Packages that import each other have all their arrows.
"""

from __future__ import annotations

import re
import sys
import tomllib
from itertools import permutations
from pathlib import Path

import grimp

ROOT = Path(__file__).parents[1]
DOCUMENT = ROOT / "docs" / "architecture.md"
BLOCK = re.compile(r"```mermaid\n.*?```\n", re.DOTALL)
Edges = set[tuple[str, str]]


def diagram() -> str:
    """The Mermaid block: a box around the verbs, one around the nouns."""
    layers = package_layers()
    _, verbs, nouns, *_ = layers
    lines = ["```mermaid", "flowchart TD"]
    for title, layer in (("verbs", verbs), ("nouns", nouns)):
        lines += [f"  subgraph {title}", *(f"    {_short(package)}" for package in layer), "  end"]
    edges = reduced(imports([package for layer in layers for package in layer]))
    lines += [f"  {_short(importer)} --> {_short(imported)}" for importer, imported in sorted(edges)]
    return "\n".join([*lines, "```\n"])


def _short(package: str) -> str:
    return package.removeprefix("tasks.")


def package_layers() -> list[list[str]]:
    """Packages of each layer of the import rule, the highest layer first."""
    tree = tomllib.loads((ROOT / "pyproject.toml").read_text())
    (contract,) = [c for c in tree["tool"]["importlinter"]["contracts"] if c["type"] == "layers"]
    return [re.split(r" [|:] ", layer) for layer in contract["layers"]]


def imports(packages: list[str]) -> Edges:
    """(importer, imported) of different packages; imports for type checkers alone do not count."""
    graph = grimp.build_graph(
        *sorted({package.partition(".")[0] for package in packages}), exclude_type_checking_imports=True, cache_dir=None
    )
    return {
        (a, b)
        for a, b in permutations(packages, 2)
        if graph.direct_import_exists(importer=a, imported=b, as_packages=True)
    }


def reduced(edges: Edges) -> Edges:
    """The edges without those that follow from others."""
    reach = {a: reached(a, edges) for a, _ in edges}

    def mutual(a: str, b: str) -> bool:
        return b in reach.get(a, set()) and a in reach.get(b, set())

    def follows(a: str, b: str) -> bool:
        """A way from a to b leads through a third package that imports neither back."""
        return any(
            not mutual(a, via) and not mutual(via, b) and b in reach.get(via, set()) for via in reach[a] - {a, b}
        )

    return {(a, b) for a, b in edges if mutual(a, b) or not follows(a, b)}


def reached(start: str, edges: Edges) -> set[str]:
    found: set[str] = set()
    waiting = [start]
    while waiting:
        near = {b for a, b in edges if a == waiting[-1]} - found
        waiting.pop()
        found |= near
        waiting += near
    return found


if __name__ == "__main__":
    if "--write" in sys.argv[1:]:
        DOCUMENT.write_text(BLOCK.sub(lambda match: diagram(), DOCUMENT.read_text()))
    else:
        print(diagram(), end="")
