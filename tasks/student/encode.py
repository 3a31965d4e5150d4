"""Prompts and dialogues as tensors, through the model's own processor and chat template.

Rows hold boxes 0..1000; what the student sees is converted to its own convention with the size its processor gives the
picture. Media are never cut: a dialogue that is too long is refused whole.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import torch

from tasks.student.boxes import convert_text

if TYPE_CHECKING:
    from transformers import BatchFeature

    from tasks.student.checkpoint import Student

END_OF_TURN = "<|im_end|>"
NO_LABEL = -100


class TooLong(ValueError):
    """A dialogue longer than the token limit, named by its id; cure: raise max_tokens or merge fewer pairs."""


@dataclass(frozen=True)
class Prompt:
    """A user turn (boxes 0..1000) about one media file."""

    text: str
    media_path: str


@dataclass(frozen=True)
class Encoded:
    """One sequence, its media still a path. The first ``num_prompt`` tokens are the prompt, vision tokens included."""

    token_ids: Sequence[int]
    num_prompt: int
    media_path: str


def encode_prompts(student: Student, prompts: Sequence[Prompt]) -> BatchFeature:
    """Left-padded batch on the student's device, generation prompt added.

    Keys: input_ids, attention_mask, mm_token_type_ids (batch, length); image_grid_thw (batch, 3); pixel_values
    (patches, patch values), or mm_encoder_outputs where `Student.features` are kept: what the model's forward takes.
    """
    return collate(student, [encode_prompt(student, prompt) for prompt in prompts], padding="left").to(student.device)


def encode_dialogues(student: Student, rows: Sequence[Mapping[str, Any]], max_tokens: int) -> BatchFeature:
    """Right-padded batch with labels from rows of ``dialogues`` (prompt, response, media_path, dialogue_id).

    labels are -100 but on the response's tokens and the ``<|im_end|>`` that closes it. Other keys as encode_prompts.
    Raises TooLong naming the dialogue that, vision tokens included, exceeds max_tokens.
    """
    encoded = [encode_dialogue(student, row, max_tokens) for row in rows]
    return with_labels(collate(student, encoded, padding="right"), encoded).to(student.device)


def encode_prompt(student: Student, prompt: Prompt) -> Encoded:
    """One prompt: chat template, boxes in the student's convention, an image token per vision token.

    Raises ValueError if the file is no picture or the text itself holds an image token.
    """
    processor = student.processor
    width, height = student.pictures.resized_size(prompt.media_path)
    content = [
        {"type": "image"},
        {"type": "text", "text": convert_text(prompt.text, "norm1000", student.boxes, width, height)},
    ]
    text = processor.apply_chat_template(
        [{"role": "user", "content": content}], tokenize=False, add_generation_prompt=True
    )
    if text.count(processor.image_token) != 1:
        raise ValueError(f"{prompt.media_path}: the prompt's text holds {processor.image_token}: {prompt.text[:80]!r}")
    text = text.replace(processor.image_token, processor.image_token * student.pictures.num_tokens(prompt.media_path))
    token_ids = student.tokenizer(text, add_special_tokens=False)["input_ids"]
    return Encoded(token_ids, len(token_ids), prompt.media_path)


def encode_dialogue(student: Student, row: Mapping[str, Any], max_tokens: int) -> Encoded:
    """One row of ``dialogues``; its response and closing token are tokenised apart from the prompt, as when sampled.

    Raises TooLong as encode_dialogues.
    """
    prompt = encode_prompt(student, Prompt(row["prompt"], row["media_path"]))
    response = convert_text(
        row["response"], "norm1000", student.boxes, *student.pictures.resized_size(row["media_path"])
    )
    response_ids = student.tokenizer(response + END_OF_TURN, add_special_tokens=False)["input_ids"]
    length = prompt.num_prompt + len(response_ids)
    if length > max_tokens:
        raise TooLong(
            f"dialogue {row['dialogue_id']}: {length} tokens (vision included) exceed max_tokens {max_tokens}; "
            "raise sft.max_tokens or lower compress.max_pairs"
        )
    return Encoded([*prompt.token_ids, *response_ids], prompt.num_prompt, prompt.media_path)


def collate(student: Student, encoded: Sequence[Encoded], padding: Literal["left", "right"]) -> BatchFeature:
    """Pad sequences to the longest and add their pictures, on the CPU; keys as encode_prompts."""
    from transformers import BatchFeature

    length = max(len(item.token_ids) for item in encoded)
    input_ids = torch.full((len(encoded), length), student.tokenizer.pad_token_id, dtype=torch.long)
    attention_mask = torch.zeros_like(input_ids)
    for row, item in enumerate(encoded):
        start = length - len(item.token_ids) if padding == "left" else 0
        input_ids[row, start : start + len(item.token_ids)] = torch.tensor(item.token_ids)
        attention_mask[row, start : start + len(item.token_ids)] = 1
    paths = [item.media_path for item in encoded]
    features = student.features
    return BatchFeature(
        {
            "input_ids": input_ids,
            "attention_mask": attention_mask,
            "mm_token_type_ids": (input_ids == student.processor.image_token_id).long(),
            "image_grid_thw": torch.cat([student.pictures.grid_thw(path) for path in paths]),
            **(
                {"pixel_values": torch.cat([student.pictures.of(path).pixel_values for path in paths])}
                if features is None
                else {"mm_encoder_outputs": features.outputs(paths)}
            ),
        }
    )


def with_labels(batch: BatchFeature, encoded: Sequence[Encoded]) -> BatchFeature:
    """Add ``labels`` to a right-padded batch: the tokens after each prompt, -100 elsewhere."""
    labels = torch.full_like(batch["input_ids"], NO_LABEL)
    for row, item in enumerate(encoded):
        answer = slice(item.num_prompt, len(item.token_ids))
        labels[row, answer] = batch["input_ids"][row, answer]
    batch["labels"] = labels
    return batch
