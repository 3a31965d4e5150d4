"""Stage one: the vision tower and its merger learn to regress what was measured in every cell.

One linear layer on the normalised merged tokens reads all statistics off, as the language model's first layer will
read them; it is thrown away. Each crop is met in any of its eight mirrored and turned forms.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn
from torch.nn import functional
from transformers import Qwen2_5_VLForConditionalGeneration
from transformers.models.qwen2_5_vl.modeling_qwen2_5_vl import rotate_half
from transformers.vision_utils import get_vision_position_ids

from tasks.student.pretrain.architecture import patches_of
from tasks.student.pretrain.cell_statistics import mirrored_order
from tasks.student.pretrain.optimisation import Training
from tasks.student.pretrain.pool import Pool, Shard
from tasks.student.pretrain.settings import Settings

logger = logging.getLogger(__name__)
Batch = tuple[torch.Tensor, torch.Tensor]


class DenseHeads(nn.Module):
    """Reads standardised statistics off the merged vision tokens."""

    def __init__(self, width: int, mean: NDArray[np.float32], deviation: NDArray[np.float32]) -> None:
        super().__init__()
        self.mean: torch.Tensor
        self.deviation: torch.Tensor
        self.heads = nn.Linear(width, len(mean))
        self.register_buffer("mean", torch.from_numpy(mean))
        self.register_buffer("deviation", torch.from_numpy(deviation))

    def forward(self, merged: torch.Tensor) -> torch.Tensor:
        """Tokens x width -> tokens x statistics, in standard deviations."""
        return self.heads(functional.rms_norm(merged, merged.shape[-1:]))

    def loss(self, merged: torch.Tensor, statistics: torch.Tensor) -> torch.Tensor:
        """Huber loss per statistic; statistics: tokens x statistics, as measured. Returns one value per statistic."""
        wanted = ((statistics - self.mean) / self.deviation).clamp(-4, 4)
        return functional.smooth_l1_loss(self(merged).float(), wanted, reduction="none").mean(dim=0)


def merged_tokens(model: Qwen2_5_VLForConditionalGeneration, pixels: torch.Tensor, settings: Settings) -> torch.Tensor:
    """Merged vision tokens of equal-sized pictures, (pictures x tokens) x width; the tower's own weights and result.

    Pictures stay one batch dimension and the equal temporal halves of the patch embedding are added up first: twice
    the speed of the tower's own forward on a CPU. pixels: uint8, pictures x side x side x 3.
    """
    visual = model.model.visual
    patches, grid = patches_of(pixels, settings)
    num, width, heads = len(pixels), settings.vision_width, settings.vision_heads
    frame = patches.view(len(patches), 3, 2, -1)[:, :, 0].flatten(1)
    position_ids = get_vision_position_ids(grid[:1], settings.merge)
    reduced = torch.get_autocast_dtype("cpu") if torch.is_autocast_enabled("cpu") else frame.dtype
    cos, sin = (part.to(reduced) for part in visual.rotary_pos_emb(frame, position_ids))
    x_BND = functional.linear(frame, visual.patch_embed.proj.weight.sum(dim=2).flatten(1)).view(num, -1, width)
    for block in visual.blocks:
        qkv = block.attn.qkv(block.norm1(x_BND)).view(num, -1, 3, heads, width // heads)
        query, key, value = qkv.permute(2, 0, 3, 1, 4)
        query, key = (part * cos + rotate_half(part) * sin for part in (query, key))
        weights = torch.softmax(query @ key.transpose(-1, -2) * block.attn.scaling, dim=-1)
        x_BND = x_BND + block.attn.proj((weights @ value).transpose(1, 2).flatten(2))
        x_BND = x_BND + block.mlp(block.norm2(x_BND))
    return visual.merger(x_BND.flatten(0, 1))


def dense_batches(pool: Pool, settings: Settings, skip: int = 0) -> Iterator[Batch]:
    """Batches for ever: pixels (pictures x side x side x 3) and statistics (tokens x statistics).

    skip: number of batches that a resumed training has met already.
    """
    names = pool.names()
    rng = np.random.default_rng([settings.seed, 2])
    for shard in pool.epochs(settings.seed):
        order, begin = rng.permutation(len(shard.pixels)), 0
        side = shard.pixels.shape[1]
        quarters = side == max(settings.sides) and rng.random() < settings.quarter_share
        seen = side * 2 // 3 if quarters else side
        size = min(len(order), max(1, settings.vision_patches * settings.patch**2 // seen**2))
        for begin in range(0, len(order) - size + 1, size):
            form, offset = int(rng.integers(8)), rng.integers(2, size=2) * (side - seen)
            if skip > 0:
                skip -= 1
                continue
            yield _turned(shard, np.sort(order[begin : begin + size]), form, names, offset, seen // settings.cell)


def _turned(
    shard: Shard, chosen: NDArray[np.int64], form: int, names: list[str], offset: NDArray[np.int64], num_cells: int
) -> Batch:
    """Crops of a shard, cut to `num_cells` a side from `offset` pixels on, in one of the square's eight forms."""
    cell = shard.pixels.shape[1] // shard.statistics.shape[1]
    (top, left), extent = offset, num_cells * cell
    pixels = shard.pixels[chosen][:, top : top + extent, left : left + extent]
    top, left = top // cell, left // cell
    statistics = shard.statistics[chosen][:, top : top + num_cells, left : left + num_cells]
    transpose, mirrors = form >= 4, [axis for axis, bit in ((1, 1), (2, 2)) if form & bit]
    if transpose:
        pixels, statistics = pixels.swapaxes(1, 2), statistics.swapaxes(1, 2)
    pixels, statistics = np.flip(pixels, tuple(mirrors)), np.flip(statistics, tuple(mirrors))
    order = mirrored_order(names, transpose, len(mirrors))
    values = torch.from_numpy(statistics[..., order].astype(np.float32))
    return torch.from_numpy(np.ascontiguousarray(pixels)), values.reshape(-1, len(names))


def train_vision(model: Qwen2_5_VLForConditionalGeneration, pool: Pool, settings: Settings, checkpoint: Path) -> None:
    """Train the vision tower in place; resumes from `checkpoint`."""
    heads = DenseHeads(settings.text_width, *pool.scale())
    training = Training(
        {"visual": model.model.visual, "heads": heads}, settings, settings.vision_rate, settings.vision_steps
    )
    training.resume(checkpoint)
    batches = dense_batches(pool, settings, skip=training.step)
    started, num_crops = time.monotonic(), 0
    running: torch.Tensor | None = None
    while training.step < settings.vision_steps:
        pixels, statistics = next(batches)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            losses = heads.loss(merged_tokens(model, pixels, settings), statistics)
        training.update(losses.mean())
        running = losses.detach() if running is None else 0.98 * running + 0.02 * losses.detach()
        num_crops += len(pixels)
        if training.step % 50 == 0 or training.step == settings.vision_steps:
            rate = num_crops / (time.monotonic() - started)
            logger.info("vision %d: loss %.4f, %.0f crops/s", training.step, float(running.mean()), rate)
        if training.step % settings.checkpoint_every == 0 or training.step == settings.vision_steps:
            training.save(checkpoint)
            order = torch.argsort(running)
            names = pool.names()
            logger.info("hardest: %s", ", ".join(f"{names[i]} {running[i]:.3f}" for i in order[-12:].tolist()))
