"""Tensors in a folder on disk that several processes share, up to a number of bytes. Ours.

A cache: what cannot be read is as good as absent, and a disk that cannot be written to is no reason to stop. Of more
tensors than fit a fixed share stays, for the reason that `tasks/student/kept.py` gives.
"""

from __future__ import annotations

import contextlib
import logging
import os
import threading
import time
from dataclasses import dataclass
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

logger = logging.getLogger(__name__)

# A process looks at the whole folder each time it has written this share of the limit.
_SHARE_BETWEEN_LOOKS = 1 / 50
_IDLE_SECONDS = 7 * 86400.0  # longer than an epoch
_ABANDONED_SECONDS = 3600.0  # after which a file that is half written was left behind by a process that was killed


@dataclass(frozen=True)
class _File:
    """used: when it was, in seconds."""

    group: str
    key: str
    size: int
    used: float
    path: Path


class TensorFiles:
    """One file a tensor, ``folder/<group>/<key>.safetensors``; keys are digests.

    What does not fit goes: files that were not used for a week first, then those of the groups that were used less
    lately, then those of the highest keys. So of the group in use the same random share stays in whatever order, and by
    whatever process, its tensors are used.
    Each process may write a fiftieth of `most_bytes` before it looks at what the others wrote: so far, and by one file
    each, the limit can be exceeded for a while.
    """

    def __init__(self, folder: Path, most_bytes: int) -> None:
        self._folder, self._most_bytes = folder, most_bytes
        self._unseen_bytes = most_bytes  # the first writing looks
        self._highest: dict[str, str] = {}  # key that still fits, of each group of which some did not
        self._writable = True

    def get(self, group: str, key: str) -> Tensor | None:
        """The tensor, on the CPU; None if there is no file or it does not hold what its name says."""
        path = self._path(group, key)
        try:
            tensor: Tensor | None = load(path.read_bytes()).get(f"{group}/{key}")
        except (OSError, SafetensorError, ValueError):
            return None
        if tensor is not None:
            with contextlib.suppress(OSError):
                os.utime(path)  # its last use, whatever the disk is mounted with
        return tensor

    def put(self, group: str, key: str, tensor: Tensor) -> None:
        """Write beside and rename, so that a reader finds a whole file or none; not what would have to go again."""
        if not self._writable or key > self._highest.get(group, key):
            return
        path = self._path(group, key)
        beside = path.with_name(f".{key}.{os.getpid()}.{threading.get_ident()}.part")
        content = save({f"{group}/{key}": tensor.contiguous()})
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            beside.write_bytes(content)
            beside.replace(path)
        except OSError as error:
            self._writable = False
            logger.warning("%s: cannot be written to (%s); nothing more is kept there", self._folder, error)
            with contextlib.suppress(OSError):
                beside.unlink(missing_ok=True)
            return
        self._unseen_bytes += len(content)
        if self._unseen_bytes >= self._most_bytes * _SHARE_BETWEEN_LOOKS:
            self._unseen_bytes = 0
            self._drop_excess()

    def _path(self, group: str, key: str) -> Path:
        return self._folder / group / f"{key}.safetensors"

    def _drop_excess(self) -> None:
        """Down to the limit; files that another process removes meanwhile are gone either way."""
        now, files = time.time(), self._files()
        last_used: dict[str, float] = {}
        for file in files:
            last_used[file.group] = max(last_used.get(file.group, 0.0), file.used)
        files.sort(key=lambda file: file.key, reverse=True)
        files.sort(key=lambda file: (now - file.used < _IDLE_SECONDS, last_used[file.group]))
        excess = sum(file.size for file in files) - self._most_bytes
        num_dropped = 0
        while num_dropped < len(files) and excess > 0:
            file = files[num_dropped]
            with contextlib.suppress(OSError):
                file.path.unlink(missing_ok=True)
            excess -= file.size
            num_dropped += 1
        for group in {file.group for file in files[:num_dropped] if now - file.used < _IDLE_SECONDS}:
            self._highest[group] = max((file.key for file in files[num_dropped:] if file.group == group), default="")

    def _files(self) -> list[_File]:
        """All that are whole; what was left behind half written is removed."""
        found = []
        for path in self._folder.glob("*/*"):
            with contextlib.suppress(OSError):
                status = path.stat()
                if path.suffix == ".safetensors":
                    found.append(_File(path.parent.name, path.stem, status.st_size, status.st_mtime, path))
                elif time.time() - status.st_mtime > _ABANDONED_SECONDS:
                    path.unlink(missing_ok=True)
        return found
