"""Source ``table``: images and a CSV or Parquet with an opinion score for each (KADID, KonIQ, TID style)."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd

from data_contracts.records import level_of
from pipeline_config.schema import ConfigError, TableSource
from tasks.ingest.sources.files import Named, missing_inputs, probe_rows
from tasks.ingest.sources.protocol import Item, Quarantined
from tasks.media.probe import UNPROBED, Limits

_ROUNDING = 1e-6  # of the range: scores written with few digits may lie a hair outside


class ScoreTable:
    """Reader of a `TableSource`. Images are left where they are."""

    def __init__(self, config: TableSource) -> None:
        self.name = config.name
        self._config = config

    def findings(self) -> list[str]:
        config = self._config
        findings = missing_inputs(config.images, config.scores, ("images", "scores"))
        if config.mos_range[0] == config.mos_range[1]:
            findings.append(f"ingest.sources.mos_range: {config.mos_range} is no range; give the scale's two ends")
        return findings

    def read(self, limits: Limits) -> Iterator[Item | Quarantined]:
        table = self._table()
        wanted = [self._config.file_column, self._config.mos_column]
        wanted += [self._config.reference_column] if self._config.reference_column else []
        for column in wanted:
            if column not in table.columns:
                raise ConfigError(
                    f"{self._config.scores}: no column {column!r}, there are {list(table.columns)}; "
                    "set file_column, mos_column, reference_column of this source"
                )
        if table.empty:
            raise ConfigError(f"{self._config.scores}: holds no row; give one row per image")
        rows = (self._row(number, row) for number, row in enumerate(table[wanted].to_dict("records"), start=1))
        yield from probe_rows(rows, limits)

    def samples_per_item(self, split: str) -> int:
        return 1

    def expand(self, item: Item, split: str, folder: Path) -> Iterator[Item]:
        yield item

    def _table(self) -> pd.DataFrame:
        path = self._config.scores
        try:
            if path.suffix.lower() == ".parquet":
                return pd.read_parquet(path)
            with path.open(encoding="utf-8") as stream:
                header = stream.readline()
            separator = max(",;\t", key=header.count)
            return pd.read_csv(path, sep=separator, dtype={self._config.file_column: str})
        except (OSError, ValueError) as error:
            reason = str(error).splitlines()[0] if str(error) else type(error).__name__
            raise ConfigError(f"{path}: cannot be read as CSV or Parquet ({reason}); give one row per image") from error

    def _row(self, number: int, row: dict[Any, Any]) -> Named | Quarantined:
        config = self._config
        scores = config.scores.absolute()
        name, given = row[config.file_column], row[config.mos_column]
        if not isinstance(name, str) or not name.strip():
            return Quarantined(scores, number, config.file_column, "names no file; give the image's name")
        mos = _score(given)
        if mos is None:
            return Quarantined(scores, number, config.mos_column, f"{given!r} is no number; give the opinion score")
        low, high = config.mos_range
        share = (mos - low) / (high - low)
        if not -_ROUNDING <= share <= 1 + _ROUNDING:
            reason = f"{mos:g} lies outside mos_range {low:g} .. {high:g}; correct the row or the source's mos_range"
            return Quarantined(scores, number, config.mos_column, reason)
        mapped = round(1.0 + 4.0 * min(1.0, max(0.0, share)), 2)
        reference = row[config.reference_column] if config.reference_column else name
        if not isinstance(reference, str) or not reference.strip():
            return Quarantined(scores, number, str(config.reference_column), "names no pristine original")
        item = Item(
            path=(config.images / name.strip()).absolute(),
            probed=UNPROBED,
            source=self.name,
            source_file=scores,
            source_row=number,
            photograph=f"{self.name}/{reference.strip()}",
            split=config.split,
            mos=mapped,
            level=level_of(mapped),
            distortions=None,
            content="",
        )
        return Named(item, config.file_column)


def _score(given: Any) -> float | None:
    try:
        value = float(given)
    except (TypeError, ValueError):
        return None
    return value if math.isfinite(value) else None
