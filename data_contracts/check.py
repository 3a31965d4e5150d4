"""Contracts of the datasets, checked with Great Expectations before a table is published.

``expectations/<kind>.json`` is the suite of a dataset; ``expectations/<kind>.<column>.json`` that of the entries of one
of its list columns, one row per entry. Each expectation's ``meta.reason`` is the sentence a person reads. Where Great
Expectations has no expectation (lengths of lists, pieces of a text), a scalar column is derived first, see `DERIVED`.

Importing this module is light; Great Expectations (seconds) is imported inside `check`. Ours, not of a paper.
"""

from __future__ import annotations

import functools
import json
import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeAlias

import pyarrow as pa
import pyarrow.compute as pc

from data_contracts.records import ID_COLUMNS, SCHEMAS, SUB_TASKS

EXPECTATIONS = Path(__file__).parent / "expectations"
ROW = "row"  # position of a row in the checked table; entries of a list carry that of the row they stand in
ENTRY = "entry"  # position of a row, or of an entry of a list, in what a suite looks at
TAGS = ("<think>", "</think>", "<answer>", "</answer>")
SEARCH_THREADS = 2


class ContractError(ValueError):
    """Data that breaks its contract; the message names dataset, row, field and cure. Never retried."""


@dataclass(frozen=True)
class Findings:
    """What broke the contract.

    rows: one entry per offending row and expectation: ``id`` (of its id columns, joined by "/"), ``row`` (its position
    in the table), ``column``, ``expectation``, ``value``, ``reason``. table: sentences about the table as a whole,
    which no row can be blamed for. num_expectations: how many were checked.
    """

    rows: list[dict[str, Any]] = field(default_factory=list)
    table: list[str] = field(default_factory=list)
    num_expectations: int = 0

    @property
    def ok(self) -> bool:
        return not self.rows and not self.table

    @property
    def offending(self) -> set[int]:
        """Positions of the offending rows."""
        return {finding["row"] for finding in self.rows}


def check(kind: str, table: pa.Table) -> Findings:
    """Check a table against the contract of its kind, and the entries of its list columns against theirs.

    kind: a key of `data_contracts.records.SCHEMAS`. Raises KeyError for another.
    """
    schema = SCHEMAS[kind]
    if not table.schema.equals(schema):
        return Findings(table=[_schema_difference(kind, table.schema, schema)])
    rows: list[dict[str, Any]] = []
    sentences: list[str] = []
    num_expectations = 0
    for suite, batch in _suites(kind, table):
        found, said = _validate(suite, batch)
        rows += found
        sentences += [f"{suite['name']}: {sentence}" for sentence in said]
        num_expectations += len(suite["expectations"])
    ids = _ids(kind, table, {finding["row"] for finding in rows})
    rows = [{"id": ids[finding["row"]], **finding} for finding in sorted(rows, key=lambda f: int(f["row"]))]
    return Findings(rows, sentences, num_expectations)


# ------------------------------------------------------------------------------------------------ columns to look at
Column: TypeAlias = Any  # pa.Array or pa.ChunkedArray; pyarrow ships no types


def _length(column: str) -> Callable[[pa.Table], Column]:
    return lambda table: pc.fill_null(pc.list_value_length(table[column]), 0)


def _where(column: str, condition: Callable[[pa.Table], Column]) -> Callable[[pa.Table], Column]:
    """The column where the condition holds, null elsewhere."""
    return lambda table: pc.if_else(condition(table), table[column], pa.scalar(None, table.schema.field(column).type))


def _equals(column: str, word: str) -> Callable[[pa.Table], Column]:
    return lambda table: pc.fill_null(pc.equal(table[column], word), False)


def _is_merged(table: pa.Table) -> Column:
    return pc.fill_null(pc.greater(table["num_pairs"], 1), False)


def _is_held_out(table: pa.Table) -> Column:
    return pc.fill_null(pc.equal(table["split"], "test"), False)


def _coordinate(index: int) -> Callable[[pa.Table], Column]:
    def column(table: pa.Table) -> Column:
        four = pc.list_slice(table["box"], 0, 4, return_fixed_size_list=True)
        return pc.list_element(four, index)

    return column


def _choice_position(table: pa.Table) -> Column:
    """0 for "A", 1 for "B", ..; null unless the answer of a choice is one capital letter."""
    letters = pa.array([chr(ord("A") + i) for i in range(26)])
    position = pc.index_in(table["answer"], value_set=letters)
    return pc.if_else(_equals("problem_type", "choice")(table), position, pa.scalar(None, pa.int32()))


def _num_tags(table: pa.Table) -> Column:
    """How many of the four tags stand exactly once."""
    total: Column = pa.chunked_array([pa.nulls(table.num_rows, pa.int64()).fill_null(0)])
    with ThreadPoolExecutor(SEARCH_THREADS) as threads:
        for count in threads.map(lambda tag: pc.count_substring(table["response"], tag), TAGS):
            total = pc.add(total, pc.cast(pc.fill_null(pc.equal(count, 1), False), pa.int64()))
    return total


def _category_of_sub_task(table: pa.Table) -> Column:
    position = pc.index_in(table["sub_task"], value_set=pa.array(list(SUB_TASKS)))
    return pc.take(pa.array(list(SUB_TASKS.values())), position)


_QUESTION: dict[str, Callable[[pa.Table], Column]] = {
    "num_options": _length("options"),
    "choice_answer": _where("answer", _equals("problem_type", "choice")),
    "choice_position": _choice_position,
    "mos_answer": _where("answer", _equals("problem_type", "mos")),
}
DERIVED: dict[str, dict[str, Callable[[pa.Table], Column]]] = {
    "samples.distortions": {
        "num_coordinates": _length("box"),
        **{name: _coordinate(index) for index, name in enumerate(("x1", "y1", "x2", "y2"))},
    },
    "samples.questions": {**_QUESTION, "category_of_sub_task": _category_of_sub_task},
    "annotations": {
        **_QUESTION,
        "category_of_sub_task": _category_of_sub_task,
        "unrewarded_reasoning": _where("reasoning", lambda table: pc.is_null(table["reward"])),
        "held_out_reasoning": _where("reasoning", _is_held_out),
    },
    "dialogues": {
        "num_tags": _num_tags,
        "num_merged": _length("merged_from"),
        "num_pair_rows": _length("pairs"),
        "merged_prompt": _where("prompt", _is_merged),
        "merged_response": _where("response", _is_merged),
    },
    "dialogues.pairs": _QUESTION,
    "difficulty": {"num_rewards": _length("rewards"), "num_completions": _length("completions")},
}


def _suites(kind: str, table: pa.Table) -> Iterator[tuple[dict[str, Any], pa.Table]]:
    """Each suite of the kind and the batch it looks at: the table's rows, or the entries of one of its lists."""
    positions = pa.array(range(table.num_rows), pa.int64())
    for path in sorted(EXPECTATIONS.glob(f"{kind}*.json")):
        name, _, column = path.stem.partition(".")
        if name != kind:
            continue
        batch = _entries(table, column) if column else table.append_column(ROW, positions)
        for derived, compute in DERIVED.get(path.stem, {}).items():
            batch = batch.append_column(derived, compute(batch))
        yield json.loads(path.read_text()), batch


def _entries(table: pa.Table, column: str) -> pa.Table:
    """The entries of a list column, one row each: fields of a struct as columns, a scalar as ``value``; and ``row``."""
    lists = table[column].combine_chunks()
    flat, rows = pc.list_flatten(lists), pc.cast(pc.list_parent_indices(lists), pa.int64())
    if not pa.types.is_struct(flat.type):
        return pa.table({"value": flat, ROW: rows})
    return pa.Table.from_struct_array(flat).append_column(ROW, rows)


def _ids(kind: str, table: pa.Table, positions: set[int]) -> dict[int, str]:
    """Id of each of these rows, several id columns joined by "/"."""
    rows = table.select(ID_COLUMNS[kind]).take(pa.array(sorted(positions), pa.int64())).to_pylist()
    return {
        position: "/".join(str(value) for value in row.values())
        for position, row in zip(sorted(positions), rows, strict=True)
    }


def _schema_difference(kind: str, has: pa.Schema, wants: pa.Schema) -> str:
    missing = [name for name in wants.names if name not in has.names]
    extra = [name for name in has.names if name not in wants.names]
    other = [
        f"{name} is {has.field(name).type}, not {wants.field(name).type}"
        for name in wants.names
        if name in has.names and has.field(name).type != wants.field(name).type
    ]
    parts = [f"missing {missing}"] * bool(missing) + [f"unknown {extra}"] * bool(extra) + other
    return f"{kind}: columns are not those of data_contracts/records.py: {'; '.join(parts) or 'another order'}"


# ----------------------------------------------------------------------------------------------- Great Expectations
@functools.cache
def _batch_definition(suite: str) -> Any:
    """One ephemeral context for the process, one data frame asset per suite in it."""
    return _data_source().add_dataframe_asset(suite).add_batch_definition_whole_dataframe("all")


@functools.cache
def _data_source() -> Any:
    os.environ.setdefault("GX_ANALYTICS_ENABLED", "false")
    import great_expectations as gx
    from great_expectations.data_context.types.base import DataContextConfig, InMemoryStoreBackendDefaults

    # Otherwise each context leaves a folder for documentation in /tmp.
    stores = InMemoryStoreBackendDefaults(init_temp_docs_sites=False)
    config = DataContextConfig(store_backend_defaults=stores, analytics_enabled=False)
    context = gx.get_context(mode="ephemeral", project_config=config)
    context.variables.progress_bars = {"globally": False, "metric_calculations": False}  # type: ignore[assignment]
    return context.data_sources.add_pandas("tables")


def _validate(suite: dict[str, Any], batch: pa.Table) -> tuple[list[dict[str, Any]], list[str]]:
    """Findings on rows and sentences on the table, of one suite on one batch."""
    definition = _batch_definition(suite["name"])
    from great_expectations import ExpectationSuite

    expectations, columns = _light(suite["expectations"], batch)
    validated = definition.get_batch({"dataframe": columns.to_pandas()}).validate(
        ExpectationSuite(name=suite["name"], expectations=expectations),
        result_format={"result_format": "COMPLETE", "unexpected_index_column_names": [ENTRY]},
    )
    rows: list[dict[str, Any]] = []
    sentences: list[str] = []
    for result in validated.results:
        if result.success:
            continue
        expectation = result.expectation_config.meta["stands_for"]
        if result.exception_info and result.exception_info.get("raised_exception") is not False:
            # An expectation that could not be evaluated is our error, never a finding.
            raise RuntimeError(
                f"{suite['name']}: {expectation['type']} {expectation['kwargs']}: {result.exception_info}"
            )
        offending = result.result.get("unexpected_index_list")
        if offending is None:
            sentences.append(expectation["meta"]["reason"])
        else:
            rows += [_finding(suite["name"], expectation, batch, entry[ENTRY]) for entry in offending]
    return rows, sentences


def _light(expectations: list[dict[str, Any]], batch: pa.Table) -> tuple[list[dict[str, Any]], pa.Table]:
    """The expectations and the columns they look at, with as few texts as can be.

    Half a million texts as Python objects take Great Expectations seconds and a gigabyte. So Arrow looks for patterns
    and words, and what is checked is whether it found them; where only sameness and absence count, codes stand for
    texts.
    """
    compared = {name for e in expectations if e["type"] == _PAIR_EQUAL for name in _columns(e["kwargs"])}
    columns = {ENTRY: pa.array(range(batch.num_rows), pa.int64())}
    searched: dict[str, Callable[[], Column]] = {}
    light = []
    for place, expectation in enumerate(expectations):
        kind, kwargs = expectation["type"], expectation["kwargs"]
        if kind in _BY_ARROW and pa.types.is_string(batch[kwargs["column"]].type):
            name = f"found {place}"
            searched[name] = functools.partial(_BY_ARROW[kind], batch[kwargs["column"]], kwargs)
            kind, kwargs = "expect_column_values_to_be_in_set", {"column": name, "value_set": [1]}
        else:
            for name in _columns(kwargs):
                coded = pa.types.is_string(batch[name].type) and name not in compared
                columns[name] = pc.dictionary_encode(batch[name]).combine_chunks().indices if coded else batch[name]
        light.append({"type": kind, "kwargs": kwargs, "meta": {"stands_for": expectation}})
    with ThreadPoolExecutor(SEARCH_THREADS) as threads:
        for name, found in zip(searched, threads.map(lambda search: search(), searched.values()), strict=True):
            columns[name] = pc.cast(found, pa.int8())  # as numbers: flags with gaps would be Python objects
    return light, pa.table(columns)


def _among(column: Column, kwargs: dict[str, Any]) -> Column:
    found = pc.is_in(column, value_set=pa.array(kwargs["value_set"], pa.string()))
    return pc.if_else(pc.is_valid(column), found, pa.scalar(None, pa.bool_()))


_PAIR_EQUAL = "expect_column_pair_values_to_be_equal"
_BY_ARROW: dict[str, Callable[[Column, dict[str, Any]], Column]] = {
    "expect_column_values_to_match_regex": lambda c, kwargs: pc.match_substring_regex(c, kwargs["regex"]),
    "expect_column_values_to_not_match_regex": lambda c, kwargs: pc.invert(
        pc.match_substring_regex(c, kwargs["regex"])
    ),
    "expect_column_values_to_be_in_set": _among,
}


def _columns(kwargs: dict[str, Any]) -> list[str]:
    named = [kwargs[key] for key in ("column", "column_A", "column_B") if key in kwargs]
    return named + list(kwargs.get("column_list", ()))


def _finding(suite: str, expectation: dict[str, Any], batch: pa.Table, entry: int) -> dict[str, Any]:
    columns = _columns(expectation["kwargs"])
    nested = suite.partition(".")[2]
    values = [batch[column][entry].as_py() for column in columns]
    shown = repr(values[0] if len(values) == 1 else values)
    return {
        "row": batch[ROW][entry].as_py(),
        "column": ".".join(part for part in (nested, ", ".join(columns)) if part),
        "expectation": expectation["type"],
        "value": shown if len(shown) <= 200 else shown[:197] + "...",
        "reason": expectation["meta"]["reason"],
    }
