"""Contracts of the datasets, checked with Great Expectations before a table is published.

Importing this module is light; Great Expectations (seconds) is imported inside `check`.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa


class ContractError(ValueError):
    """Data that breaks its contract; the message names dataset, row, field and cure. Never retried."""


@dataclass(frozen=True)
class Findings:
    """What broke the contract.

    rows: one entry per offending row and expectation: ``id`` (value of the id column, several joined by "/"), ``row``
    (its position in the table), ``column``, ``expectation``, ``value``, ``reason``. table: sentences about the table as
    a whole, which no row can be blamed for. num_expectations: how many were checked.
    """

    rows: list[dict[str, Any]] = field(default_factory=list)
    table: list[str] = field(default_factory=list)
    num_expectations: int = 0

    @property
    def ok(self) -> bool:
        return not self.rows and not self.table


def check(kind: str, table: pa.Table) -> Findings:
    """Check a table against the contract of its kind."""
    from data_contracts.records import SCHEMAS

    if table.schema.names != SCHEMAS[kind].names:
        return Findings(table=[f"columns {table.schema.names} are not those of {kind}: {SCHEMAS[kind].names}"])
    return Findings()
