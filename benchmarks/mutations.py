"""Do the tests see a wrong number, a name that is not passed on, an order that is turned round?

    python -m benchmarks.mutations --json mutations.json          # all of them: about twenty minutes on one core
    python -m benchmarks.mutations tasks/grpo tasks/mine          # those of these files and folders

``mutations.toml`` holds one-line changes that make the product wrong, each with the tests that have to fail under it.
Every change is made alone, in a copy of the repository's files, and its tests run there; tests marked slow are left
out. A mutation that its tests let pass has survived: a test is missing. Goal: none survives. docs/testing.md says how
they were chosen. Exit code 1 where one survived.
"""

from __future__ import annotations

import argparse
import ast
import importlib
import json
import multiprocessing
import os
import shutil
import subprocess
import sys
import tempfile
import time
import tomllib
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
TABLE = Path(__file__).with_suffix(".toml")
_PASSED, _FAILED, _NOT_COLLECTED = 0, 1, 2  # pytest's exit codes
_MOST_SECONDS = 300
_MOST_SECONDS_OF_A_TEST = 120
_LIBRARIES = ("torch", "pandas", "pyarrow.parquet", "pyarrow.compute", "scipy.stats", "duckdb", "pydantic")


class TableError(ValueError):
    """The table does not fit the code; the message says which entry and what to change."""


@dataclass(frozen=True)
class Mutation:
    """One line of ``file`` turned into another. what: the mistake, in words. old, new: whole lines without indentation.
    tests: files or tests that fail under it. within: the function or class that holds the line, where the file has the
    line more than once."""

    what: str
    file: str
    old: str
    new: str
    tests: tuple[str, ...]
    within: str | None = None

    def applied(self, source: str) -> str:
        """``source`` with the line changed. TableError: the line is not there exactly once."""
        lines = source.split("\n")
        span = self._span(source) if self.within else range(len(lines))
        found = [i for i in span if lines[i].strip() == self.old]
        if len(found) != 1:
            place = f"{self.file}, {self.within}" if self.within else self.file
            raise TableError(
                f"{TABLE.name}: {self.what!r}: {place} holds the line {self.old!r} {len(found)} times; "
                "write the line as it stands in the file, and name its function in `within` if there are several"
            )
        indentation = lines[found[0]][: -len(lines[found[0]].lstrip())]
        lines[found[0]] = indentation + self.new
        return "\n".join(lines)

    def _span(self, source: str) -> range:
        """Indices of the lines of ``within``."""
        kinds = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)
        spans = [
            range(node.lineno - 1, node.end_lineno or node.lineno)
            for node in ast.walk(ast.parse(source))
            if isinstance(node, kinds) and node.name == self.within
        ]
        if len(spans) != 1:
            raise TableError(f"{TABLE.name}: {self.what!r}: {self.file} has {len(spans)} definitions of {self.within}")
        return spans[0]


def read_table(path: Path = TABLE) -> list[Mutation]:
    """The committed mutations. TableError: an entry that is no mutation."""
    mutations = []
    for entry in tomllib.loads(path.read_text())["mutation"]:
        try:
            mutations.append(Mutation(**{**entry, "tests": tuple(entry["tests"])}))
        except (TypeError, KeyError) as error:
            raise TableError(f"{path.name}: {entry.get('what', entry)!r}: {error}") from error
    return mutations


def copy_repository(folder: Path) -> Path:
    """The repository's files, committed or not, without those that git ignores."""
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        check=True,
        capture_output=True,
        text=True,
    )
    for name in filter(None, listed.stdout.split("\0")):
        if (ROOT / name).is_file():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, folder / name)
    return folder


def run_tests(copy: Path, tests: Sequence[str]) -> tuple[int, str]:
    """(pytest's exit code, its last lines). TimeoutError: they took too long."""
    log = copy / "mutations.log"
    process = multiprocessing.get_context("fork").Process(target=_pytest, args=(copy, tests, log))
    process.start()
    process.join(_MOST_SECONDS)
    if process.exitcode is None:
        process.kill()
        process.join()
        raise TimeoutError
    return process.exitcode, "\n".join(log.read_text().strip().splitlines()[-15:])


def _pytest(copy: Path, tests: Sequence[str], log: Path) -> None:
    """In a process of its own, which has the libraries from this one and the product from the copy."""
    with log.open("w") as stream:
        os.dup2(stream.fileno(), 1)
        os.dup2(stream.fileno(), 2)
    os.chdir(copy)
    os.environ["PYTHONPATH"] = str(copy)
    sys.path = [str(copy), *(entry for entry in sys.path if Path(entry).resolve() != ROOT)]
    # Two versions of a source may have the same size and second: no compiled file may stand for the other.
    sys.dont_write_bytecode = True
    os.environ["PYTHONDONTWRITEBYTECODE"] = "1"
    limits = [f"--timeout={_MOST_SECONDS_OF_A_TEST}"]
    code = pytest.main(["-x", "-q", "-m", "not slow", "-p", "no:cacheprovider", *limits, *tests])
    sys.stdout.flush()
    os._exit(code)


def survives(mutation: Mutation, copy: Path) -> bool:
    """True if its tests pass under it. RuntimeError: they could not be run."""
    path = copy / mutation.file
    source = path.read_text()
    path.write_text(mutation.applied(source))
    try:
        code, tail = run_tests(copy, mutation.tests)
    except TimeoutError:
        return False  # a run that hangs is seen
    finally:
        path.write_text(source)
    if code not in (_PASSED, _FAILED, _NOT_COLLECTED):
        raise RuntimeError(f"{mutation.what}: pytest ended with {code}\n{tail}")
    return code == _PASSED


def main() -> int:
    """Run them, print a line each, and the table's sums."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("places", nargs="*", help="files or folders of the product; without any, all")
    parser.add_argument("--json", type=Path, help="write the results there")
    options = parser.parse_args()
    chosen = [m for m in read_table() if not options.places or m.file.startswith(tuple(options.places))]
    if not chosen:
        parser.error(f"no mutation of {options.places} in {TABLE.name}")
    for mutation in chosen:
        mutation.applied((ROOT / mutation.file).read_text())  # raises before anything is run
    for library in _LIBRARIES:
        importlib.import_module(library)  # once, not for every mutation: seconds
    with tempfile.TemporaryDirectory() as folder:
        copy = copy_repository(Path(folder))
        code, tail = run_tests(copy, sorted({test for mutation in chosen for test in mutation.tests}))
        if code != _PASSED:
            print(f"the tests have to pass without a mutation; they end with {code}:\n{tail}")
            return 2
        results = []
        for mutation in chosen:
            started = time.monotonic()
            survived = survives(mutation, copy)
            results.append({**asdict(mutation), "survived": survived, "seconds": round(time.monotonic() - started, 1)})
            print(f"{'SURVIVED' if survived else 'killed':9}{mutation.file:36}{mutation.what}", flush=True)
    num_survived = sum(bool(result["survived"]) for result in results)
    print(f"{len(results) - num_survived} of {len(results)} killed, {num_survived} survived")
    if options.json:
        options.json.write_text(json.dumps(results, indent=1) + "\n")
    return 1 if num_survived else 0


if __name__ == "__main__":
    sys.exit(main())
