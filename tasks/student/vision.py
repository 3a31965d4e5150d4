"""Features of pictures: under a frozen vision tower computed once, kept in memory and on disk; else once a step. Ours.

Kept is what the tower's blocks make of a picture, before the merger: the merger is small and often trains where the
blocks do not. It is applied when features are used, with gradients where it trains, to each distinct picture once.

The model's own forward asks for the features (`KeptOutput`), so they are computed, and merged, under the very mixed
precision, parallel wrapper and gradient mode that the forward itself runs in: they are what it would have computed from
pixels. Pictures seen for the first time together are computed together; no patch attends to another picture's, so what
is kept does not depend on what stood beside it, but for the rounding of products where the device's depends on their
size.

On disk, ``<home>/cache/features/<how>/<picture>.safetensors``: ``picture`` is the digest of the file's bytes, ``how``
of all else that shapes them: the blocks' weights (not the merger's) and configuration, the picture processor's
settings, mixed precision, the kind of device, the libraries' versions. Students whose towers are alike share the files.

A tower that trains is another after each update: `StepFeatures` serve the rollouts and the training forward of one.
"""

from __future__ import annotations

import functools
import hashlib
import importlib.metadata
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any
from weakref import WeakValueDictionary

import torch
from torch import Tensor, nn
from transformers.modeling_outputs import BaseModelOutputWithPooling
from transformers.vision_utils import get_vision_window_index

from data_contracts.refs import ID_DIGITS
from tasks.student.kept import Kept
from tasks.student.pictures import Picture, stamp
from tasks.student.tensor_files import TensorFiles

if TYPE_CHECKING:
    from tasks.student.checkpoint import Student

KEPT_BYTES, RECENT_BYTES = 768 * 2**20, 256 * 2**20  # in memory, as `Kept` has them
_MOST_PATCHES = 8192  # of several pictures computed together
# What turns a file into features, beside what is this project's own.
_LIBRARIES = ("torch", "torchvision", "transformers", "pillow")
_LIVING: WeakValueDictionary[int, KeptFeatures] = WeakValueDictionary()


class KeptFeatures:
    """Of one student. files: None keeps in memory only, on the CPU. Of more than fits, as much as fits is kept."""

    def __init__(
        self,
        student: Student,
        files: TensorFiles | None = None,
        kept_bytes: int = KEPT_BYTES,
        recent_bytes: int = RECENT_BYTES,
    ) -> None:
        self._student, self._files = student, files
        self._kept: Kept[Tensor] = Kept(kept_bytes, recent_bytes)
        self._weights: list[tuple[int, int]] = []
        self._tower_digest = ""
        self._prepared: set[str] = set()
        _LIVING[id(self)] = self

    def __reduce__(self) -> Any:
        # A loader's worker sends batches to the process it was forked from, where these features live.
        return _living, (id(self),)

    def can_be_kept(self) -> bool:
        """False while a parameter of the tower's blocks trains.

        Also under ZeRO-3, which shards frozen weights too: a tower that runs on one rank and not on another, whose
        pictures are kept, would wait forever for the other's shards.
        """
        return not any(p.requires_grad or hasattr(p, "ds_id") for _, p in _blocks(_tower(self._student.model)))

    def outputs(self, paths: Sequence[str]) -> dict[str, Any]:
        """The model's ``mm_encoder_outputs`` for a batch whose rows show these pictures, in order."""
        prepared: dict[str, Picture] = {}
        if torch.utils.data.get_worker_info() is not None:
            # A worker does not know what is kept, but it has time: it prepares each picture that it meets once.
            prepared = {path: self._student.pictures.process(path) for path in {*paths} - self._prepared}
            self._prepared.update(prepared)
        return {"image": KeptOutput(self, paths, prepared)}

    def of(self, paths: Sequence[str], prepared: Mapping[str, Picture] | None = None) -> tuple[Tensor, ...]:
        """(vision tokens, width of the language model) of each picture, on the student's device.

        With gradients for the merger where it trains and gradients are on; never for the blocks. prepared: pictures
        that need not be read again. Raises ValueError naming a file that is no picture.
        """
        tower = _tower(self._student.model)
        before = self._before_merger(tower, list(dict.fromkeys(paths)), prepared or {})
        joined = torch.cat([features.to(self._student.device, non_blocking=True) for features in before.values()])
        sizes = [len(features) // tower.spatial_merge_size**2 for features in before.values()]
        merged = dict(zip(before, tower.merger(joined).split(sizes), strict=True))
        return tuple(merged[path] for path in paths)

    def _before_merger(self, tower: Any, paths: Sequence[str], prepared: Mapping[str, Picture]) -> dict[str, Tensor]:
        """(patches, width of the tower) of each path: the patches of a vision token together, in raster order."""
        how = self._how(tower)
        digests = {path: _content_digest(path) for path in paths}
        found = {path: self._find(how, digest) for path, digest in digests.items()}
        unseen: dict[str, str] = {digests[path]: path for path, features in found.items() if features is None}
        pictures = (prepared.get(path) or self._student.pictures.process(path) for path in unseen.values())
        computed = dict(zip(unseen, self._compute(tower, pictures), strict=True))
        for digest, features in computed.items():
            if self._files:
                self._files.put(how, digest, features)
            self._kept.put(f"{how}/{digest}", features, features.nbytes)
        return {path: computed[digests[path]] if held is None else held for path, held in found.items()}

    def _find(self, how: str, digest: str) -> Tensor | None:
        """In memory or on disk."""
        features = self._kept.get(f"{how}/{digest}")
        if features is None and self._files:
            features = self._files.get(how, digest)
            if features is not None:
                self._kept.put(f"{how}/{digest}", features, features.nbytes)
        return features

    def _compute(self, tower: Any, pictures: Iterable[Picture]) -> list[Tensor]:
        device = self._student.device
        features: list[Tensor] = []
        for batch in _batches(pictures):
            grid_P3 = torch.cat([picture.grid_thw for picture in batch]).to(device)
            pixels = torch.cat([picture.pixel_values for picture in batch]).to(device)
            with torch.no_grad():
                output = self._student.model.get_image_features(pixels, grid_P3, return_dict=True)
            in_order = _in_raster_order(tower, output.last_hidden_state, grid_P3).cpu()
            # Copies: a view would hold the whole batch in memory.
            features += [one.clone() for one in in_order.split([len(picture.pixel_values) for picture in batch])]
        return features

    def _how(self, tower: Any) -> str:
        """Digest of all that shapes the features of a picture; taken again if the tower's weights have changed."""
        weights = [(p.data_ptr(), p._version) for _, p in _blocks(tower)]
        if weights != self._weights:
            self._weights = weights
            self._tower_digest = _tower_digest(tower, self._student.processor.image_processor)
        device = self._student.device.type
        autocast = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else None
        return hashlib.sha256(f"{self._tower_digest} {device} {autocast}".encode()).hexdigest()[:ID_DIGITS]


class StepFeatures:
    """Features of these pictures, computed now, the distinct ones together, with the graph of a tower that trains.

    For one backward: under `torch.no_grad` (sampling) they are read any number of times.
    """

    def __init__(self, student: Student, paths: Iterable[str]) -> None:
        distinct = list(dict.fromkeys(paths))
        pictures = [student.pictures.of(path) for path in distinct]
        pixels = torch.cat([picture.pixel_values for picture in pictures]).to(student.device)
        grid_P3 = torch.cat([picture.grid_thw for picture in pictures]).to(student.device)
        output = student.model.get_image_features(pixels, grid_P3, return_dict=True)
        self._merged = dict(zip(distinct, output.pooler_output, strict=True))

    def outputs(self, paths: Sequence[str]) -> dict[str, Any]:
        """As `KeptFeatures.outputs`."""
        return {"image": KeptOutput(self, paths, {})}

    def of(self, paths: Sequence[str], prepared: Mapping[str, Picture] | None = None) -> tuple[Tensor, ...]:
        """(vision tokens, width of the language model) of each picture. Raises KeyError for one that is not its."""
        return tuple(self._merged[path] for path in paths)


def _batches(pictures: Iterable[Picture]) -> Iterator[list[Picture]]:
    """Neighbours, as many as have `_MOST_PATCHES`; a larger picture alone."""
    batch: list[Picture] = []
    for picture in pictures:
        if batch and sum(len(other.pixel_values) for other in [*batch, picture]) > _MOST_PATCHES:
            yield batch
            batch = []
        batch.append(picture)
    if batch:
        yield batch


def _living(number: int) -> KeptFeatures:
    return _LIVING[number]


class KeptOutput:
    """In the place of the tower's output: one entry per row of a batch, had when the model's forward reads it."""

    def __init__(
        self, features: KeptFeatures | StepFeatures, paths: Sequence[str], prepared: Mapping[str, Picture]
    ) -> None:
        self._features, self._paths, self._prepared = features, tuple(paths), prepared

    @property
    def pooler_output(self) -> tuple[Tensor, ...]:
        return self._features.of(self._paths, self._prepared)

    def rows(self, rows: Sequence[int]) -> KeptOutput:
        """Of a batch made of these rows, repeated ones too."""
        return KeptOutput(self._features, [self._paths[row] for row in rows], self._prepared)


def as_encoder_outputs(features: Sequence[Tensor]) -> dict[str, BaseModelOutputWithPooling]:
    """What the model takes in place of pixels: one entry per row of the batch."""
    entries: Any = tuple(features)
    return {"image": BaseModelOutputWithPooling(pooler_output=entries)}


def _tower(network: Any) -> Any:
    """The vision tower, merger included; of LoRA's two copies the one in use."""
    bare = network.get_base_model() if hasattr(network, "get_base_model") else network
    visual = bare.model.visual
    return visual.modules_to_save[visual.active_adapters[0]] if hasattr(visual, "modules_to_save") else visual


def _blocks(tower: nn.Module) -> list[tuple[str, nn.Parameter]]:
    """The tower's parameters but the merger's, with their names."""
    return [(name, p) for name, p in tower.named_parameters() if name.partition(".")[0] != "merger"]


def _tower_digest(tower: Any, image_processor: Any) -> str:
    """Of the blocks' weights and of what the tower, its processor and the libraries are set to and are."""
    how = {
        "tower": _settings(tower.config),
        "attention": tower.config._attn_implementation,
        "processor": _settings(image_processor),
        "libraries": {name: importlib.metadata.version(name) for name in _LIBRARIES},
    }
    digest = hashlib.sha256(json.dumps(how, sort_keys=True, default=str).encode())
    for name, parameter in _blocks(tower):
        digest.update(f"{name} {parameter.dtype} {tuple(parameter.shape)}".encode())
        digest.update(parameter.detach().cpu().contiguous().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def _settings(part: Any) -> dict[str, Any]:
    """A configuration without what only names the checkpoint, its parent or its writer."""
    unshaping = {"dtype", "processor_class", "transformers_version"}
    return {key: value for key, value in part.to_dict().items() if key not in unshaping and not key.startswith("_")}


def _in_raster_order(tower: Any, features: Tensor, grid_P3: Tensor) -> Tensor:
    """Qwen2.5-VL's blocks see the vision tokens window by window; Qwen2-VL has no windows."""
    if not hasattr(tower, "window_size"):
        return features
    window_index, _ = get_vision_window_index(
        grid_P3,
        spatial_merge_size=tower.spatial_merge_size,
        window_size=tower.window_size,
        patch_size=tower.patch_size,
    )
    units = features.view(-1, tower.spatial_merge_size**2, features.shape[-1])
    return units[torch.argsort(window_index)].view_as(features)


def _content_digest(path: str) -> str:
    return _digest_as_stamped(path, stamp(path))


@functools.lru_cache(maxsize=2**18)
def _digest_as_stamped(path: str, _stamp: tuple[int, ...]) -> str:
    try:
        with Path(path).open("rb") as stream:
            return hashlib.file_digest(stream, "sha256").hexdigest()[:ID_DIGITS]
    except OSError as error:
        raise ValueError(f"{path}: no picture can be read there ({error}); ingest it again") from error
