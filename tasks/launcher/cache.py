"""When a stage's earlier output may stand for a new run of it.

The key is a digest of the stage, the sections of the configuration its code reads, the files those name (photographs,
annotation files, checkpoints, DeepSpeed files), the digests of its inputs, the seed, and the source and library
versions that shape its output (`tasks.launcher.source`). The run itself is no part of it.

A hit counts only if everything the stage published still stands with its digest. Prefect knows only keys, so each key
carries a generation, kept in ``<home>/cache/<key>.json`` beside the refs; if one of them does not hold, the generation
changes and Prefect misses. Ours, not of a paper.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import uuid
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from pydantic import BaseModel

import data_contracts
import tasks.media
from data_contracts.refs import Ref, digest_of, text_digest
from pipeline_config.schema import ConfigError, PipelineConfig
from tasks.launcher.job import write_atomically
from tasks.launcher.source import source_digest
from tasks.student.location import resolve_model
from tasks.student.zero import find_deepspeed

# Sections of the configuration that the code of each stage reads. A test compares them with the code.
SECTIONS: dict[str, tuple[str, ...]] = {
    "ingest": ("ingest",),
    "annotate": ("annotate", "rewards"),
    "compress": ("compress",),
    "sft": ("sft", "student"),
    "mine": ("mine", "student", "rewards"),
    "grpo": ("grpo", "mine", "student", "rewards"),
    "evaluate": ("evaluate", "student", "rewards"),
    "promote": ("promote", "student", "tracking"),
}
# The contract a data stage must meet; a stricter one has the stage run again. Training is not repeated for it.
CONTRACTS = {
    "ingest": "samples",
    "annotate": "annotations",
    "compress": "dialogues",
    "mine": "difficulty",
    "evaluate": "evaluation",
}
PHOTOGRAPHS = Path(tasks.media.__file__).parent / "photographs"
CONTENT_LIMIT = 256 * 2**20  # bytes; larger files and folders are known by names, sizes and times


def cache_key(stage: str, run: Any, parameters: Mapping[str, Any]) -> str:
    """Prefect's cache key of a stage about to run: digest and generation; makes sure that a hit would hold.

    parameters: of the stage's task; its `PipelineConfig` is named ``config``, its inputs are refs or None.
    """
    inputs = {name: value for name, value in parameters.items() if isinstance(value, Ref)}
    entry = CacheEntry(Path(run.home), stage_digest(stage, parameters["config"], inputs))
    return f"{stage}-{entry.digest}-{entry.current_generation()}"


def stage_digest(stage: str, config: PipelineConfig, inputs: Mapping[str, Ref]) -> str:
    """Digest of all that shapes a stage's output."""
    sections = {name: getattr(config, name) for name in SECTIONS[stage]}
    material = {
        "stage": stage,
        "seed": config.seed,
        "sections": {name: section.model_dump(mode="json") for name, section in sections.items()},
        "files": {name: content_digest(path) for name, path in sorted(_named_files(sections).items())},
        "inputs": {name: ref.digest for name, ref in inputs.items()},
        "contract": _contract_digest(stage),
        "source": source_digest(stage),
    }
    return text_digest(json.dumps(material, sort_keys=True))


def content_digest(path: Path) -> str:
    """Digest of what stands at a path outside the home: of the bytes up to `CONTENT_LIMIT`, else of names, sizes and
    times of change; ``missing`` if nothing does (the stage will say so)."""
    if not path.exists():
        return "missing"
    return digest_of(path) if _num_bytes(path) <= CONTENT_LIMIT else stat_digest(path)


def stat_digest(path: Path) -> str:
    """Digest of names, sizes and times of change: cheap, and different after any ordinary change."""
    return text_digest("\n".join(f"{p.relative_to(path.parent).as_posix()} {_stat(p)}" for p in _files(path)))


@dataclass
class Published:
    """A ref and what is looked at to see whether it still holds."""

    ref: dict[str, Any]
    stat: str
    media_stat: str = ""  # of the media files under the stage's folder that a table's rows point to

    @classmethod
    def of(cls, ref: Ref) -> Published:
        return cls(ref.to_dict(), stat_digest(ref.path), _media_stat(ref))

    def holds(self) -> bool:
        """True if it stands there with its digest. Up to `CONTENT_LIMIT` the bytes are read again; of more, only if a
        size or a time of change is another."""
        ref = Ref(**self.ref)
        if not ref.path.exists():
            return False
        unchanged = _num_bytes(ref.path) > CONTENT_LIMIT and stat_digest(ref.path) == self.stat
        return (unchanged or ref.holds()) and _media_stat(ref) == self.media_stat


@dataclass
class CacheEntry:
    """What is known of one digest in one home: its generation and what was published under it."""

    home: Path
    digest: str
    generation: str = field(default="", init=False)
    published: list[Published] = field(default_factory=list, init=False)

    @property
    def path(self) -> Path:
        return self.home / "cache" / f"{self.digest}.json"

    def current_generation(self) -> str:
        """The generation Prefect may look for: a new one if what was published under the last no longer holds."""
        with self._locked():
            self._read()
            if not self.generation or not all(published.holds() for published in self.published):
                self.generation, self.published = uuid.uuid4().hex[:8], []
                self._write()
            return self.generation

    def add(self, refs: list[Ref]) -> None:
        """The stage has published these. Runs at the same time on one home add up: a hit needs all of them."""
        with self._locked():
            self._read()
            self.generation = self.generation or uuid.uuid4().hex[:8]
            self.published += [Published.of(ref) for ref in refs]
            self._write()

    def _read(self) -> None:
        if self.path.exists():
            tree = json.loads(self.path.read_text())
            self.generation = tree["generation"]
            self.published = [Published(**published) for published in tree["published"]]

    def _write(self) -> None:
        tree = {"generation": self.generation, "published": [asdict(published) for published in self.published]}
        write_atomically(self.path, json.dumps(tree, indent=1))

    @contextlib.contextmanager
    def _locked(self) -> Iterator[None]:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with (self.path.parent / "lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield


def _named_files(sections: Mapping[str, BaseModel]) -> dict[str, Path]:
    """Files and folders named in the sections, by their dotted key, and those that ship with the project."""
    return {key: path for name, section in sections.items() for key, path in _paths(section, name)}


def _paths(value: Any, key: str) -> Iterator[tuple[str, Path]]:
    if isinstance(value, BaseModel):
        for name in type(value).model_fields:
            yield from _paths(getattr(value, name), f"{key}.{name}")
    elif isinstance(value, tuple | list):
        for index, entry in enumerate(value):
            yield from _paths(entry, f"{key}.{index}")
    elif (path := _located(value, key)) is not None:
        yield key, path


def _located(value: Any, key: str) -> Path | None:
    """Where the code that reads it finds the file or folder a value names; None if it names none, such as a hub id."""
    try:
        if key == "student.model":
            source = resolve_model(value)
            return source if isinstance(source, Path) else None
        if isinstance(value, Path) and key.endswith(".deepspeed"):
            return find_deepspeed(value)
    except ConfigError:
        return Path(value)  # the stage will say what is wrong with it
    if value == "builtin":
        return PHOTOGRAPHS
    return value if isinstance(value, Path) else None


def _contract_digest(stage: str) -> str:
    folder = Path(data_contracts.__file__).parent / "expectations"
    kind = CONTRACTS.get(stage)
    suites = sorted(p for p in folder.glob("*.json") if p.stem.partition(".")[0] == kind)
    return text_digest("".join(path.read_text() for path in suites))


def _media_stat(ref: Ref) -> str:
    """Of the media files a table points to, where they stand in the folder of the stage that published it."""
    if ref.path.suffix != ".parquet":
        return ""
    import pyarrow.parquet as pq

    if "media_path" not in pq.read_schema(ref.path).names:
        return ""
    media = {Path(text) for text in pq.read_table(ref.path, columns=["media_path"])["media_path"].to_pylist() if text}
    own = sorted(path for path in media if path.is_relative_to(ref.path.parent))
    return text_digest("\n".join(f"{path} {_stat(path)}" for path in own)) if own else ""


def _files(path: Path) -> list[Path]:
    return sorted(p for p in path.rglob("*") if p.is_file()) if path.is_dir() else [path]


def _num_bytes(path: Path) -> int:
    return sum(p.stat().st_size for p in _files(path))


def _stat(path: Path) -> str:
    if not path.exists():
        return "missing"
    status = path.stat()
    return f"{status.st_size} {status.st_mtime_ns}"
