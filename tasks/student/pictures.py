"""Pictures as the student's vision tower takes them: through the model's own image processor, kept while in use.

Several dialogues of a dataset show the same picture; what the processor made of it is kept (`Kept`) until the file
changes.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from tasks.student.kept import Kept

KEPT_BYTES, RECENT_BYTES = 384 * 2**20, 128 * 2**20


@dataclass(frozen=True)
class Picture:
    """pixel_values: (patches, values of a patch). grid_thw: (1, 3), in patches. width, height: pixels as resized."""

    pixel_values: torch.Tensor
    grid_thw: torch.Tensor
    width: int
    height: int


class Pictures:
    """Pictures by path."""

    def __init__(self, image_processor: Any, kept_bytes: int = KEPT_BYTES, recent_bytes: int = RECENT_BYTES) -> None:
        self._processor = image_processor
        self._kept: Kept[Picture] = Kept(kept_bytes, recent_bytes)
        self._size_as_stamped = functools.lru_cache(maxsize=2**18)(self._resized_size)

    def of(self, path: str) -> Picture:
        """The processed picture. Raises ValueError naming a file that cannot be decoded."""
        key = f"{path} {stamp(path)}"
        picture = self._kept.get(key)
        if picture is None:
            picture = self.process(path)
            self._kept.put(key, picture, picture.pixel_values.nbytes)
        return picture

    def resized_size(self, path: str) -> tuple[int, int]:
        """(width, height) in pixels after the processor's resize, from the file's header alone."""
        return self._size_as_stamped(path, stamp(path))

    def grid_thw(self, path: str) -> torch.Tensor:
        """(1, 3): frames, rows and columns of patches, from the file's header alone."""
        width, height = self.resized_size(path)
        return torch.tensor([[1, height // self._processor.patch_size, width // self._processor.patch_size]])

    def num_tokens(self, path: str) -> int:
        """Vision tokens the picture takes in a prompt, from its header alone."""
        width, height = self.resized_size(path)
        side = self._processor.patch_size * self._processor.merge_size
        return (width // side) * (height // side)

    def _resized_size(self, path: str, _stamp: tuple[int, ...]) -> tuple[int, int]:
        from transformers.models.qwen2_vl.image_processing_qwen2_vl import smart_resize

        with _open(path) as image:
            width, height = image.size
        processor = self._processor
        resized_height, resized_width = smart_resize(
            height,
            width,
            factor=processor.patch_size * processor.merge_size,
            min_pixels=processor.size["shortest_edge"],
            max_pixels=processor.size["longest_edge"],
        )
        return resized_width, resized_height

    def process(self, path: str) -> Picture:
        """As `of`, but not kept."""
        with _open(path) as image:
            try:
                rgb = image.convert("RGB")
            except (OSError, SyntaxError) as error:
                raise ValueError(f"{path}: the picture cannot be decoded ({error}); ingest it again") from error
        processed = self._processor(images=[rgb], return_tensors="pt")
        grid_thw = processed["image_grid_thw"]
        rows, columns = grid_thw[0, 1:].tolist()
        patch = self._processor.patch_size
        return Picture(processed["pixel_values"], grid_thw, columns * patch, rows * patch)


def stamp(path: str) -> tuple[int, ...]:
    """What tells a file from another that took its place; () where there is none."""
    try:
        status = Path(path).stat()
    except OSError:
        return ()
    return status.st_mtime_ns, status.st_size, status.st_ino


def _open(path: str) -> Any:
    from PIL import Image, UnidentifiedImageError

    try:
        return Image.open(path)
    except (OSError, UnidentifiedImageError) as error:
        raise ValueError(f"{path}: no picture can be read there ({error}); ingest it again") from error
