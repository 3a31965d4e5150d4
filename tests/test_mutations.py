"""The table of mutations fits the code, and the program that runs it tells killed from survived."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from benchmarks.mutations import ROOT, Mutation, TableError, read_table, survives

SOURCE = "def double(x):\n    y = 2 * x\n    return y\n\n\ndef other(x):\n    return y\n"
MUTATION = Mutation("it triples", "product.py", "y = 2 * x", "y = 3 * x", ("test_product.py",))


@pytest.mark.parametrize("mutation", read_table(), ids=lambda mutation: mutation.what)
def test_every_mutation_changes_one_line_that_is_there(mutation: Mutation) -> None:
    source = (ROOT / mutation.file).read_text()
    before, after = (text.split("\n") for text in (source, mutation.applied(source)))
    assert sum(a != b for a, b in zip(before, after, strict=True)) == 1
    for test in mutation.tests:
        path, _, name = test.partition("::")
        assert (ROOT / path).exists(), f"{mutation.what}: {path}"
        assert not name or f"def {name}(" in (ROOT / path).read_text(), f"{mutation.what}: {test}"


def test_words_of_the_table_are_distinct() -> None:
    words = [(mutation.file, mutation.what) for mutation in read_table()]
    assert len(set(words)) == len(words)


def test_a_line_keeps_its_indentation() -> None:
    assert MUTATION.applied(SOURCE) == SOURCE.replace("    y = 2 * x", "    y = 3 * x")


def test_a_line_that_is_not_there_once_is_refused_unless_its_function_is_named() -> None:
    with pytest.raises(TableError, match=r"it triples.*product\.py holds the line 'return x' 0 times"):
        replace(MUTATION, old="return x").applied(SOURCE)
    twice = replace(MUTATION, old="return y", new="return 0")
    with pytest.raises(TableError, match=r"2 times.*name its function in `within`"):
        twice.applied(SOURCE)
    assert replace(twice, within="other").applied(SOURCE).endswith("def other(x):\n    return 0\n")
    with pytest.raises(TableError, match="has 0 definitions of nobody"):
        replace(twice, within="nobody").applied(SOURCE)


def test_what_no_test_sees_survives_and_the_file_is_put_back(tmp_path: Path) -> None:
    (tmp_path / "product.py").write_text(SOURCE)
    test = "import product\n\n\ndef test_double():\n    assert product.double({}) == {}\n"
    (tmp_path / "test_product.py").write_text(test.format(0, 0))
    assert survives(MUTATION, tmp_path), "twice nothing is three times nothing"
    (tmp_path / "test_product.py").write_text(test.format(1, 2))
    assert not survives(MUTATION, tmp_path)
    assert (tmp_path / "product.py").read_text() == SOURCE
