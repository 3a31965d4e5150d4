"""The photographs that ship with the project: `photographs/`, listed with author and licence in `photographs.csv`."""

from __future__ import annotations

import csv
from dataclasses import dataclass
from pathlib import Path

FOLDER = Path(__file__).parent / "photographs"
CATALOGUE = FOLDER / "photographs.csv"


@dataclass(frozen=True)
class Photograph:
    """One shipped photograph. file: relative to FOLDER. split: ``test`` photographs are held out everywhere."""

    file: str
    split: str
    title: str
    author: str
    licence: str
    origin: str

    @property
    def path(self) -> Path:
        return FOLDER / self.file


def shipped_photographs() -> list[Photograph]:
    """All shipped photographs, in the catalogue's order."""
    with CATALOGUE.open(newline="", encoding="utf-8") as stream:
        return [Photograph(**row) for row in csv.DictReader(stream)]
