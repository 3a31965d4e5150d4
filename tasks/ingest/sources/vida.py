"""Source ``vida``: ViDA-UGC's layout, a folder of images and metadata with boxes, severities and significance.

Metadata: a JSON list, or JSONL, of ``{"image", "mos", "level", "width", "height", "distortions": [{"id", "distortion",
"coordinates", "severity", "position", "significance_score", ..}]}``; boxes 0..1000, "Slight" is read as "Minor", a
position that is none of ours is computed from the box. Conversation files, if given, take the place of the expansion
for the images they speak of (`conversations.py`). ViDA-UGC's region quality scores are not used.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from data_contracts.records import BOX_SCALE, LEVELS, level_of
from pipeline_config.schema import ConfigError, VidaSource
from tasks.ingest.sources.conversations import read_conversations
from tasks.ingest.sources.files import Named, missing_inputs, probe_rows
from tasks.ingest.sources.protocol import Item, Quarantined
from tasks.media.positions import POSITIONS, position_of
from tasks.media.probe import UNPROBED, Limits
from tasks.rewards.answers.quality import SEVERITY_WORDS, canonical_distortion


class RowError(ValueError):
    """A metadata record that cannot be used: which field, and why."""

    def __init__(self, field: str, reason: str) -> None:
        super().__init__(reason)
        self.field = field


class VidaFolder:
    """Reader of a `VidaSource`. Images are left where they are."""

    def __init__(self, config: VidaSource) -> None:
        self.name = config.name
        self._config = config

    def findings(self) -> list[str]:
        findings = missing_inputs(self._config.images, self._config.metadata, ("images", "metadata"))
        return findings + [
            f"{path}: no such file; correct ingest.sources.conversations or add it"
            for path in self._config.conversations
            if not path.is_file()
        ]

    def read(self, limits: Limits) -> Iterator[Item | Quarantined]:
        records = list(read_records(self._config.metadata))
        if not records:
            raise ConfigError(f"{self._config.metadata}: holds no record; give one per image")
        questions, refused = read_conversations(self._config.conversations)
        yield from refused
        known = {str(record.get("image")) for _, record in records if isinstance(record, dict)}
        for image, (file, row) in ((i, place) for i, (place, _) in questions.items() if i not in known):
            reason = f"image {image!r} has no record in {self._config.metadata.name}; add one or remove the row"
            yield Quarantined(file, row, "image", reason)
        rows = (self._row(number, record, questions) for number, record in records)
        yield from probe_rows(rows, limits)

    def samples_per_item(self, split: str) -> int:
        return 1

    def expand(self, item: Item, split: str, folder: Path) -> Iterator[Item]:
        yield item

    def _row(self, number: int, record: Any, questions: dict[str, Any]) -> Named | Quarantined:
        metadata = self._config.metadata.absolute()
        try:
            image = _image(record)
            mos = _number(record, "mos", 1.0, 5.0) if record.get("mos") is not None else None
            item = Item(
                path=(self._config.images / image).absolute(),
                probed=UNPROBED,
                source=self.name,
                source_file=metadata,
                source_row=number,
                photograph=f"{self.name}/{image}",
                split=self._config.split,
                mos=None if mos is None else round(mos, 2),
                level=_level(record, mos),
                distortions=_distortions(record),
                content="",
                questions=questions[image][1] if image in questions else None,
            )
        except RowError as error:
            return Quarantined(metadata, number, error.field, str(error))
        return Named(item, "image")


def read_records(path: Path) -> Iterator[tuple[int, Any]]:
    """(row, record) of a JSON list or a JSONL file; rows count from 1. A line that does not parse gives a string.

    Raises ConfigError: unreadable, or a JSON file that is no list.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: cannot be read as UTF-8 text: {error}") from error
    if text.lstrip().startswith("["):
        try:
            yield from enumerate(json.loads(text), start=1)
        except json.JSONDecodeError as error:
            raise ConfigError(f"{path}: no valid JSON at line {error.lineno}: {error.msg}; correct it") from error
        return
    for number, line in enumerate(text.splitlines(), start=1):
        if line.strip():
            try:
                yield number, json.loads(line)
            except json.JSONDecodeError as error:
                yield number, f"no valid JSON: {error.msg}"


def _image(record: Any) -> str:
    if not isinstance(record, dict):
        reason = record if isinstance(record, str) else f"is a {type(record).__name__}, not an object"
        raise RowError("record", f"{reason}; correct or remove it")
    image = record.get("image")
    if not isinstance(image, str) or not image.strip():
        raise RowError("image", f"{image!r} names no file; give the image's name")
    return image


def _number(record: dict[str, Any], field: str, low: float, high: float) -> float:
    value = record.get(field)
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise RowError(field, f"{value!r} is no number; give one in {low:g} .. {high:g}")
    if not low <= value <= high:
        raise RowError(field, f"{value:g} lies outside {low:g} .. {high:g}; correct it")
    return float(value)


def _level(record: dict[str, Any], mos: float | None) -> str | None:
    level = record.get("level")
    if level is None:
        return None if mos is None else level_of(mos)
    word = str(level).strip().lower()
    if word not in LEVELS:
        raise RowError("level", f"{level!r} is none of {', '.join(LEVELS)}; correct it")
    return word


def _distortions(record: dict[str, Any]) -> list[dict[str, Any]] | None:
    given = record.get("distortions")
    if given is None:
        return None
    if not isinstance(given, list):
        raise RowError("distortions", f"is a {type(given).__name__}, not a list; correct it")
    return [_distortion(number, entry) for number, entry in enumerate(given)]


def _distortion(number: int, entry: Any) -> dict[str, Any]:
    place = f"distortions[{number}]"
    if not isinstance(entry, dict):
        raise RowError(place, f"is a {type(entry).__name__}, not an object; correct it")
    name = canonical_distortion(str(entry.get("distortion", "")))
    if name is None:
        raise RowError(f"{place}.distortion", f"{entry.get('distortion')!r} is none of ViDA-UGC's ten; correct it")
    severity = SEVERITY_WORDS.get(str(entry.get("severity", "")).strip().lower())
    if severity is None:
        raise RowError(f"{place}.severity", f"{entry.get('severity')!r} is not Minor, Moderate or Severe; correct it")
    try:
        significance = _number(entry, "significance_score", 0.0, math.inf)
    except RowError as error:
        raise RowError(f"{place}.significance_score", str(error)) from error
    box = _box(f"{place}.coordinates", entry.get("coordinates"))
    position = str(entry.get("position", "")).strip().lower()
    return {
        "id": number,
        "distortion": name,
        "severity": severity,
        "box": box,
        "position": position if position in POSITIONS else position_of(box),
        "significance": significance,
    }


def _box(place: str, given: Any) -> list[int]:
    numbers = given if isinstance(given, Sequence) and not isinstance(given, str) else []
    if len(numbers) != 4 or not all(isinstance(n, int | float) and not isinstance(n, bool) for n in numbers):
        raise RowError(place, f"{given!r} is no box; give [x1, y1, x2, y2] in 0 .. {BOX_SCALE}")
    x1, y1, x2, y2 = (round(n) if math.isfinite(n) else -1 for n in numbers)
    if not (0 <= x1 < x2 <= BOX_SCALE and 0 <= y1 < y2 <= BOX_SCALE):
        raise RowError(place, f"{given!r} is empty or leaves 0 .. {BOX_SCALE}; give [x1, y1, x2, y2]")
    return [x1, y1, x2, y2]
