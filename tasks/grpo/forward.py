"""Log-probs of sampled completions under the present weights: the training forward.

Each prompt's picture goes through the vision tower once, however many of its completions stand in the batch; logits
are computed for the completions' tokens only.

Shape suffixes: P prompts, B completions, L prompt tokens, C completion tokens, V vocabulary.
"""

from __future__ import annotations

import tasks.student.torchvision_operators  # noqa: F401  before anything imports torchvision

# isort: split
import contextlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers.modeling_outputs import BaseModelOutputWithPooling

from tasks.grpo.objective import token_logprobs


@dataclass(frozen=True)
class Completions:
    """Sampled completions, right-padded. prompt_B: row of each one's prompt. mask_BC: 1 on its own tokens."""

    prompt_B: Tensor
    token_ids_BC: Tensor
    mask_BC: Tensor

    def __len__(self) -> int:
        return len(self.prompt_B)

    def rows(self, rows: slice) -> Completions:
        """A part of them, its padding cut to its longest."""
        mask_BC = self.mask_BC[rows]
        longest = max(1, int(mask_BC.sum(-1).max()))
        return Completions(self.prompt_B[rows], self.token_ids_BC[rows, :longest], mask_BC[:, :longest])


def pad_completions(token_ids: list[list[list[int]]], padding: int, device: torch.device) -> Completions:
    """Completions from token ids per prompt and rollout, in that order."""
    flat = [torch.tensor(ids or [padding], dtype=torch.long) for group in token_ids for ids in group]
    lengths = torch.tensor([len(ids) for group in token_ids for ids in group])
    padded_BC = torch.nn.utils.rnn.pad_sequence(flat, batch_first=True, padding_value=padding)
    mask_BC = (torch.arange(padded_BC.shape[1]) < lengths.unsqueeze(1)).long()
    prompt_B = torch.tensor([p for p, group in enumerate(token_ids) for _ in group])
    return Completions(prompt_B.to(device), padded_BC.to(device), mask_BC.to(device))


def completion_logprobs(
    model: Any,
    prompts: Mapping[str, Tensor],
    completions: Completions,
    *,
    encode_pictures: Any,
    train_vision: bool,
    temperature: float,
    banned_ids: Tensor,
) -> tuple[Tensor, Tensor]:
    """Log-probs (with gradient) and entropies (without) of the completions' tokens, both (B, C).

    prompts: a left-padded batch as `encode_prompts` makes it. encode_pictures: the model's ``get_image_features``.
    banned_ids: tokens that sampling never draws; the policy is the distribution over the others.
    """
    prompt_B, num_tokens = completions.prompt_B, completions.token_ids_BC.shape[1]
    attended_BL = prompts["attention_mask"][prompt_B]
    start = int(attended_BL.any(0).long().argmax())
    attended_BL = attended_BL[:, start:]
    types_BL = prompts["mm_token_type_ids"][prompt_B, start:]
    outputs = model(
        input_ids=torch.cat([prompts["input_ids"][prompt_B, start:], completions.token_ids_BC], dim=1),
        attention_mask=torch.cat([attended_BL, completions.mask_BC.to(attended_BL.dtype)], dim=1),
        mm_token_type_ids=torch.cat([types_BL, types_BL.new_zeros(len(prompt_B), num_tokens)], dim=1),
        image_grid_thw=prompts["image_grid_thw"][prompt_B],
        mm_encoder_outputs={"image": _picture_features(prompts, prompt_B, encode_pictures, train_vision)},
        logits_to_keep=num_tokens + 1,
        use_cache=False,
    )
    # The logits at a position foretell the next token: the last prompt position speaks for the first completion token.
    return token_logprobs(outputs.logits[:, :-1], completions.token_ids_BC, temperature, banned_ids)


def _picture_features(
    prompts: Mapping[str, Tensor], prompt_B: Tensor, encode_pictures: Any, train_vision: bool
) -> BaseModelOutputWithPooling:
    """Features of the batch's distinct pictures, each computed once, then one entry per completion."""
    grid_P3 = prompts["image_grid_thw"]
    patches = prompts["pixel_values"].split(grid_P3.prod(-1).tolist())
    distinct, place_B = torch.unique(prompt_B, return_inverse=True)
    with contextlib.nullcontext() if train_vision else torch.no_grad():
        features = encode_pictures(
            torch.cat([patches[p] for p in distinct.tolist()]), grid_P3[distinct], return_dict=True
        ).pooler_output
    repeated: Any = tuple(features[i] for i in place_B.tolist())
    return BaseModelOutputWithPooling(pooler_output=repeated)
