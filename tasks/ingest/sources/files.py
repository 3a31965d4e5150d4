"""Probing the pictures that rows of an annotation file name, several at a time (decoding leaves Python's lock)."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path

from tasks.ingest.content import describe_content
from tasks.ingest.sources.protocol import Item, Quarantined
from tasks.media.probe import Limits, MediaError, open_picture

_ROWS_AT_ONCE = 256


@dataclass(frozen=True)
class Named:
    """An item whose picture has not been opened: its `probed` and `content` are still empty."""

    item: Item
    field: str  # of the row that names the picture


def probe_rows(rows: Iterable[Named | Quarantined], limits: Limits) -> Iterator[Item | Quarantined]:
    """Open the picture of every row, in order; a picture that cannot be used becomes a quarantine row."""

    def opened(row: Named | Quarantined) -> Item | Quarantined:
        if isinstance(row, Quarantined):
            return row
        try:
            probed, pixels = open_picture(row.item.path, limits)
        except MediaError as error:
            return Quarantined(row.item.source_file, row.item.source_row, row.field, str(error))
        return replace(row.item, probed=probed, content=describe_content(pixels))

    remaining = iter(rows)
    with ThreadPoolExecutor() as pool:
        while chunk := list(islice(remaining, _ROWS_AT_ONCE)):
            yield from pool.map(opened, chunk)


def missing_inputs(images: Path, annotations: Path, keys: tuple[str, str]) -> list[str]:
    """Findings on a folder of images and the file that annotates it; keys: their names in the config."""
    findings = []
    if not images.is_dir():
        findings.append(f"{images}: no such folder; correct ingest.sources.{keys[0]} or create it")
    elif not any(images.iterdir()):
        findings.append(f"{images}: is empty; put the images into it or correct ingest.sources.{keys[0]}")
    if not annotations.is_file():
        findings.append(f"{annotations}: no such file; correct ingest.sources.{keys[1]} or add it")
    return findings
