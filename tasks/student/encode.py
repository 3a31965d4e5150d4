"""Prompts and dialogues as tensors, through the model's own processor and chat template.

Rows hold boxes 0..1000; what the student sees is converted to its own convention with the size its processor gives the
picture. Media are never cut: a dialogue that is too long is refused whole.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from transformers import BatchFeature

    from tasks.student.checkpoint import Student

END_OF_TURN = "<|im_end|>"


class TooLong(ValueError):
    """A dialogue longer than the token limit, named by its id; cure: raise max_tokens or merge fewer pairs."""


@dataclass(frozen=True)
class Prompt:
    """A user turn (boxes 0..1000) about one media file."""

    text: str
    media_path: str


def encode_prompts(student: Student, prompts: Sequence[Prompt]) -> BatchFeature:
    """Left-padded batch on the student's device, generation prompt added.

    Keys: input_ids, attention_mask, mm_token_type_ids (batch, length); pixel_values (patches, patch values),
    image_grid_thw (batch, 3): exactly what the model's forward takes.
    """
    raise NotImplementedError


def encode_dialogues(student: Student, rows: Sequence[Mapping[str, Any]], max_tokens: int) -> BatchFeature:
    """Right-padded batch with labels from rows of ``dialogues`` (prompt, response, media_path, dialogue_id).

    labels are -100 but on the response's tokens and the ``<|im_end|>`` that closes it. Keys otherwise as encode_prompts.
    Raises TooLong naming the dialogue that, vision tokens included, exceeds max_tokens.
    """
    raise NotImplementedError
