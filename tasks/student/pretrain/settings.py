"""Every number of the pre-training in one place."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Settings:
    """Sizes in pixels or channels, lengths in steps, rates per step. All choices are ours, made for two CPU cores."""

    seed: int = 20251

    # Architecture (Qwen2.5-VL's; see architecture.py)
    vocabulary: int = 1536
    vision_width: int = 192
    vision_depth: int = 3
    vision_heads: int = 4
    vision_mlp: int = 448
    text_width: int = 192
    text_depth: int = 4
    text_heads: int = 4
    text_kv_heads: int = 2
    text_mlp: int = 384
    patch: int = 14
    merge: int = 2

    # Pool of degraded crops
    num_crops: int = 40_000
    shard_size: int = 500
    sides: tuple[int, ...] = (168, 140, 112)
    side_shares: tuple[float, ...] = (0.76, 0.12, 0.12)
    count_shares: tuple[float, ...] = (0.10, 0.52, 0.24, 0.14)  # of crops with 0, 1, 2, 3 changes
    box_share: float = 0.4  # of changes confined to a box
    workers: int = 2

    # Vision stage: dense regression
    vision_steps: int = 1_550
    vision_patches: int = 6_144  # per batch
    vision_rate: float = 2.5e-3
    quarter_share: float = 0.6  # of batches of the largest side cut down to two thirds of it

    # Text stage: exercises without pictures; then questions on frozen vision features, exercises beside them
    reading_steps: int = 500
    reading_marks: tuple[int, int] = (150, 250)  # until here words and letters; whole turns; then harder ones
    reading_rows: int = 48  # dialogues per batch
    rehearsal_rows: int = 32  # exercises beside a batch of questions
    text_steps: int = 1_300
    text_tokens: int = 4_000  # per batch, padding included
    text_rate: float = 2.5e-3
    handover_scale: float = 0.15  # of the merger's output, beside token embeddings of 0.1

    weight_decay: float = 0.05
    warmup: int = 50
    checkpoint_every: int = 100

    @property
    def cell(self) -> int:
        """Side in pixels of what one vision token sees."""
        return self.patch * self.merge
