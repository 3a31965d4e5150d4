"""Media and annotations in, samples out: read, drop equal bytes, split by photograph, expand, ask.

    done = ingest(config.ingest, seed=7, folder=Path("media"))

Knows no Prefect, tracking or lineage. What is asked stands in `questions.py`, what a source is in `sources/`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from data_contracts.check import ContractError
from data_contracts.records import SAMPLES
from pipeline_config.schema import ConfigError, IngestConfig
from tasks.ingest.questions import expand
from tasks.ingest.sources import open_sources
from tasks.ingest.sources.protocol import Item, Quarantined, Source
from tasks.ingest.split import Placed, split_photographs
from tasks.media.probe import Limits

_ROWS_PER_BATCH = 512


@dataclass(frozen=True)
class Ingested:
    """table: rows of SAMPLES. quarantine: what was left out: id, file, row, field, reason. facts: counts for people."""

    table: pa.Table
    quarantine: list[dict[str, Any]]
    facts: dict[str, int]


def ingest(
    config: IngestConfig, seed: int, folder: Path, on_progress: Callable[[int, int], None] | None = None
) -> Ingested:
    """Read every source of a config and make its samples; new media files are written into folder.

    on_progress: called with files done and files in all. Raises ConfigError: an input is missing, empty, or lacks a
    column; ContractError: every file or row had to be left out; DiskFull.
    """
    sources = open_sources(config, seed)
    missing = [f"{source.name}: {finding}" for source in sources for finding in source.findings()]
    if missing:
        raise ConfigError("\n".join(missing))
    read, quarantine, num_equal = _read(sources, config)
    placed = [Placed(item.photograph, item.probed.perceptual_hash, item.split) for _, item in read]
    split = split_photographs(placed, config.test_share, config.near_duplicate_bits, seed)
    folder.mkdir(parents=True, exist_ok=True)
    batches: list[pa.RecordBatch] = []
    rows: list[dict[str, Any]] = []
    seen: set[str] = set()
    for number, ((source, item), side) in enumerate(zip(read, split.sides, strict=True), start=1):
        for sample in source.expand(item, side, folder):
            if sample.probed.digest in seen:
                num_equal += 1
                continue
            seen.add(sample.probed.digest)
            rows.append(_row(sample, side, config, seed))
        if len(rows) >= _ROWS_PER_BATCH or number == len(read):
            batches += pa.Table.from_pylist(rows, schema=SAMPLES).to_batches()
            rows = []
        if on_progress:
            on_progress(number, len(read))
    table = pa.Table.from_batches(batches, schema=SAMPLES)
    facts = {
        "num_files": len(read),
        "num_samples": table.num_rows,
        "num_questions": _num_questions(table),
        "num_photographs": split.num_photographs,
        "num_test_photographs": len({p.photograph for p, s in zip(placed, split.sides, strict=True) if s == "test"}),
        "num_equal_bytes_dropped": num_equal,
        "num_near_duplicates_joined": split.num_joined,
        "num_split_conflicts": split.num_conflicts,
        "num_quarantined": len(quarantine),
    }
    return Ingested(table, [q.to_row() for q in quarantine], facts)


def _read(sources: list[Source], config: IngestConfig) -> tuple[list[tuple[Source, Item]], list[Quarantined], int]:
    """All items, the first of those with equal bytes; what was left out; how many were equal."""
    items: list[tuple[Source, Item]] = []
    quarantine: list[Quarantined] = []
    seen: set[str] = set()
    num_equal = 0
    for source, found in _found(sources, Limits(config.max_file_megabytes, config.max_megapixels)):
        if isinstance(found, Quarantined):
            quarantine.append(found)
        elif found.probed.digest in seen:
            num_equal += 1
        else:
            seen.add(found.probed.digest)
            items.append((source, found))
    if not items:
        first = (
            quarantine[0].to_row() if quarantine else {"id": "no file", "field": "file", "reason": "nothing to read"}
        )
        raise ContractError(
            f"ingest: all {len(quarantine)} files or rows were left out; "
            f"the first: {first['id']}: {first['field']}: {first['reason']}"
        )
    return items, quarantine, num_equal


def _found(sources: list[Source], limits: Limits) -> Iterator[tuple[Source, Item | Quarantined]]:
    for source in sources:
        for found in source.read(limits):
            yield source, found


def _row(item: Item, split: str, config: IngestConfig, seed: int) -> dict[str, Any]:
    """A row of SAMPLES."""
    return {
        "sample_id": item.probed.digest,
        "media_type": "image",
        "media_path": str(item.path),
        "width": item.probed.width,
        "height": item.probed.height,
        "perceptual_hash": item.probed.perceptual_hash,
        "source": item.source,
        "source_file": str(item.source_file),
        "source_row": item.source_row,
        "source_photograph": item.photograph,
        "split": split,
        "mos": item.mos,
        "level": item.level,
        "distortions": item.distortions,
        "questions": expand(item, config.questions, seed),
    }


def _num_questions(table: pa.Table) -> int:
    return int(pc.sum(pc.list_value_length(table.column("questions"))).as_py() or 0)
