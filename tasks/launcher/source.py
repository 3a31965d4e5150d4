"""Which source shapes a stage's output, found without running it.

The stage's own folder, and every module of ours that it reaches through import statements, those inside functions
included, one module at a time: a change of one reward reaches the stages that import it and no others. Left out:
`tasks.launcher`, `tasks.lineage`, `tasks.tracking`, `data_contracts.check` (they carry and refuse rows, they do not
shape them), `pipeline_config` (what it says is in the key by value) and what stands under ``if TYPE_CHECKING``. Ours,
not of a paper.
"""

from __future__ import annotations

import ast
import functools
import importlib.metadata
import platform
import sys
from collections.abc import Iterator
from pathlib import Path

from data_contracts.refs import file_digest, text_digest

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = ("tasks", "data_contracts")
CARRIERS = ("tasks.launcher", "tasks.lineage", "tasks.tracking", "data_contracts.check")
# They run, record or show the work; their version changes no row.
SHAPELESS = frozenset({"prefect", "mlflow", "rich", "great_expectations"})


def source_digest(stage: str, root: Path = ROOT) -> str:
    """Digest of the source that shapes a stage's output, and of the versions of the libraries it imports."""
    files, imported = closure(f"tasks.{stage}", root)
    lines = [f"{path.relative_to(root).as_posix()} {_digest(path, _stamp(path))}" for path in files]
    return text_digest("\n".join(lines + library_versions(imported)))


def closure(package: str, root: Path = ROOT) -> tuple[list[Path], set[str]]:
    """Files of a package and of all modules of ours it reaches; names of the other packages they import.

    package: dotted, such as ``tasks.sft``. Every file of its folder counts, templates and prompts too.
    """
    folder = root.joinpath(*package.split("."))
    own = {path for path in folder.rglob("*") if path.is_file() and "__pycache__" not in path.parts}
    reached, others = own | _files_of(package, root), set()
    waiting = [path for path in reached if path.suffix == ".py"]
    while waiting:
        path = waiting.pop()
        for name in _imports(path, _module_name(path, root), _stamp(path)):
            top = name.partition(".")[0]
            if top not in PACKAGES:
                others.add(top)
                continue
            found = {file for file in _files_of(name, root) if not _is_carrier(_module_name(file, root))}
            waiting += found - reached
            reached |= found
    return sorted(reached), others - {"pipeline_config"}


def library_versions(imported: set[str]) -> list[str]:
    """``name version`` of every installed distribution behind these top-level imports, and of Python."""
    libraries = sorted(imported - SHAPELESS - sys.stdlib_module_names)
    distributions = {d for name in libraries for d in _distributions().get(name, [])}
    return [f"python {'.'.join(platform.python_version_tuple()[:2])}"] + [
        f"{name} {importlib.metadata.version(name)}" for name in sorted(distributions)
    ]


@functools.cache
def _distributions() -> dict[str, list[str]]:
    return {name: sorted(set(found)) for name, found in importlib.metadata.packages_distributions().items()}


def _stamp(path: Path) -> tuple[int, int]:
    """Key of the two caches below: a worker that lives on must see an edit."""
    status = path.stat()
    return status.st_size, status.st_mtime_ns


@functools.lru_cache(maxsize=4096)
def _digest(path: Path, stamp: tuple[int, int]) -> str:
    return file_digest(path)


@functools.lru_cache(maxsize=4096)
def _imports(path: Path, module: str, stamp: tuple[int, int]) -> frozenset[str]:
    """Dotted names a module imports: of ``from a.b import c`` both ``a.b`` and ``a.b.c``, which may be a module."""
    is_package = path.name == "__init__.py"
    names: set[str] = set()
    for node in _statements(ast.parse(path.read_bytes(), str(path))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            above = module.split(".")[: len(module.split(".")) - node.level + is_package] if node.level else []
            source = ".".join([*above, *([node.module] if node.module else [])])
            names |= {source} | {f"{source}.{alias.name}" for alias in node.names}
    return frozenset(names)


def _statements(node: ast.AST) -> Iterator[ast.AST]:
    """All nodes below, without the bodies of ``if TYPE_CHECKING``."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.If) and ast.unparse(child.test).endswith("TYPE_CHECKING"):
            for other in child.orelse:
                yield other
                yield from _statements(other)
            continue
        yield child
        yield from _statements(child)


def _files_of(name: str, root: Path) -> set[Path]:
    """The module's file and the ``__init__.py`` of every package above it; importing it runs them all."""
    parts = name.split(".")
    candidates = [root.joinpath(*parts[:depth], "__init__.py") for depth in range(1, len(parts) + 1)]
    candidates.append(root.joinpath(*parts).with_suffix(".py"))
    return {path for path in candidates if path.is_file()}


def _module_name(path: Path, root: Path) -> str:
    parts = path.relative_to(root).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def _is_carrier(module: str) -> bool:
    return any(module == carrier or module.startswith(carrier + ".") for carrier in CARRIERS)
