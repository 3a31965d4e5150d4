"""Tensors in a folder on disk that several processes share, up to a number of bytes. Ours.

A cache: what cannot be read is as good as absent, and a disk that cannot be written to is no reason to stop.
"""

from __future__ import annotations

import contextlib
import logging
import os
import threading
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

logger = logging.getLogger(__name__)

# A process looks at the whole folder each time it has written this share of the limit.
_SHARE_BETWEEN_LOOKS = 1 / 50


class TensorFiles:
    """One file a tensor, ``folder/<group>/<key>.safetensors``; the least recently used go first.

    Each process may write a fiftieth of `most_bytes` before it looks at what the others wrote: so far, and by one file
    each, the limit can be exceeded for a while.
    """

    def __init__(self, folder: Path, most_bytes: int) -> None:
        self._folder, self._most_bytes = folder, most_bytes
        self._unseen_bytes = most_bytes  # the first writing looks
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
        """Write beside and rename, so that a reader finds a whole file or none."""
        if not self._writable:
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
            self._drop_oldest()

    def _path(self, group: str, key: str) -> Path:
        return self._folder / group / f"{key}.safetensors"

    def _drop_oldest(self) -> None:
        """Down to the limit; files that another process removes meanwhile are gone either way."""
        found: list[tuple[float, int, Path]] = []
        for path in self._folder.glob("*/*"):
            with contextlib.suppress(OSError):
                status = path.stat()
                found.append((status.st_mtime, status.st_size, path))
        excess = sum(size for _, size, _ in found) - self._most_bytes
        for _, size, path in sorted(found):
            if excess <= 0:
                return
            with contextlib.suppress(OSError):
                path.unlink(missing_ok=True)
            excess -= size
