"""What crosses a Prefect boundary: small frozen records that point at data, never the data.

A ref names a published file or folder. Two refs with the same digest hold the same content, whatever run wrote them.
"""

from __future__ import annotations

import hashlib
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

ID_DIGITS = 32  # MLflow takes at most 36 characters for a dataset digest


def text_digest(text: str) -> str:
    """Content id of a string: sha256 cut to 32 hex digits."""
    return hashlib.sha256(text.encode()).hexdigest()[:ID_DIGITS]


def file_digest(path: Path) -> str:
    """Content id of a file's bytes, read in chunks."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()[:ID_DIGITS]


def folder_digest(path: Path) -> str:
    """Content id of a folder: the digest of its files' relative names and digests, in name order."""
    files = sorted(p for p in path.rglob("*") if p.is_file())
    return text_digest("\n".join(f"{p.relative_to(path).as_posix()} {file_digest(p)}" for p in files))


def digest_of(path: Path) -> str:
    """Content id of a published file or folder."""
    return folder_digest(path) if path.is_dir() else file_digest(path)


@dataclass(frozen=True)
class Ref:
    """A published dataset, student, evaluation or alias.

    kind: the contract's name (``samples``, ``annotations``, ``dialogues``, ``student``, ``difficulty``, ``rollouts``,
    ``evaluation``, ``scores``, ``alias``). uri: absolute path under the home. digest: content id of what stands there.
    rows: rows of a table, 0 for a student.
    """

    kind: str
    uri: str
    digest: str
    rows: int

    @property
    def path(self) -> Path:
        return Path(self.uri)

    def holds(self) -> bool:
        """True if the file still exists and still has this digest."""
        return self.path.exists() and digest_of(self.path) == self.digest

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True)
class Run:
    """One execution of a pipeline: where it writes and which MLflow run gathers it. Never part of a cache key."""

    run_id: str
    home: str
    mlflow_run_id: str

    @property
    def folder(self) -> Path:
        return Path(self.home) / "runs" / self.run_id
