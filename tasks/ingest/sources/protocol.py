"""What a source is: something that reads the files a user gave, and turns each into the samples made from it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from tasks.media.probe import Limits, Probed


@dataclass(frozen=True)
class Item:
    """One media file with what is known of it.

    source_file, source_row: where its annotation stands; rows count from 1, without a CSV's header. photograph: unit of
    the split, unique over all sources. split: declared, or None. mos: [1, 5] or None. distortions: structs as in
    `data_contracts.records.DISTORTION`; None = not annotated, [] = annotated as having none. content: one sentence on
    what is seen, measured. questions: given ones, as in `QUESTION` without id; None = to be expanded.
    """

    path: Path
    probed: Probed
    source: str
    source_file: Path
    source_row: int | None
    photograph: str
    split: str | None
    mos: float | None
    level: str | None
    distortions: list[dict[str, Any]] | None
    content: str
    questions: list[dict[str, Any]] | None = None


@dataclass(frozen=True)
class Quarantined:
    """A file or row that was left out, and why."""

    file: Path
    row: int | None
    field: str
    reason: str

    def to_row(self) -> dict[str, Any]:
        """As it stands in the quarantine table: id, file, row, field, reason."""
        place = f"{self.file}:{self.row}" if self.row is not None else str(self.file)
        return {"id": place, "file": str(self.file), "row": self.row, "field": self.field, "reason": self.reason}


class Source(Protocol):
    """Two steps, so that the split is decided on the user's files before anything is made from them."""

    name: str

    def findings(self) -> list[str]:
        """What is missing, one sentence each with its cure; empty if the source can be read."""

    def read(self, limits: Limits) -> Iterator[Item | Quarantined]:
        """Every file the user gave, probed. Raises ConfigError where the source as a whole cannot be read."""

    def samples_per_item(self, split: str) -> int:
        """How many samples `expand` makes from an item of this split."""

    def expand(self, item: Item, split: str, folder: Path) -> Iterator[Item]:
        """The samples made from an item: itself, or new files written into folder. Raises DiskFull."""
