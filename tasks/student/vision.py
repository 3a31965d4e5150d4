"""Features of pictures under a frozen vision tower: computed once, kept in memory while in use. Ours."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from transformers.modeling_outputs import BaseModelOutputWithPooling

from tasks.student.kept import Kept

if TYPE_CHECKING:
    from tasks.student.checkpoint import Student

KEPT_BYTES = 1024 * 2**20


class KeptFeatures:
    """Of one student, as long as its tower, merger included, does not change. By path, most recently used kept."""

    def __init__(self, student: Student, kept_bytes: int = KEPT_BYTES) -> None:
        self._student = student
        self._kept: Kept[Tensor] = Kept(kept_bytes)

    def of(self, paths: Sequence[str]) -> tuple[Tensor, ...]:
        """(vision tokens, width of the language model) of each picture, without gradients."""
        kept = {path: self._kept.get(path) for path in dict.fromkeys(paths)}
        found = {path: features for path, features in kept.items() if features is not None}
        if missing := [path for path in kept if path not in found]:
            for path, computed in zip(missing, self._compute(missing), strict=True):
                found[path] = computed
                self._kept.put(path, computed, computed.nbytes)
        return tuple(found[path] for path in paths)

    def _compute(self, paths: Sequence[str]) -> tuple[Tensor, ...]:
        device = self._student.device
        pictures = [self._student.pictures.of(path) for path in paths]
        with torch.no_grad():
            output = self._student.model.get_image_features(
                torch.cat([picture.pixel_values for picture in pictures]).to(device),
                torch.cat([picture.grid_thw for picture in pictures]).to(device),
                return_dict=True,
            )
        return tuple(features.clone() for features in output.pooler_output)


def as_encoder_outputs(features: Sequence[Tensor]) -> dict[str, BaseModelOutputWithPooling]:
    """What the model takes in place of pixels: one entry per row of the batch."""
    entries: Any = tuple(features)
    return {"image": BaseModelOutputWithPooling(pooler_output=entries)}
