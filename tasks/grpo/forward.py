"""Log-probs of sampled completions under the present weights: the training forward.

Each prompt's picture goes through the vision tower once, however many of its completions stand in the batch; logits
are computed for the completions' tokens only. `shared_prompt_logprobs` sends the prompt's tokens through the language
model once, too: its completions attend to its keys and values, through which their gradients flow. It needs the cache,
so under gradient checkpointing `completion_logprobs` repeats the prompt instead; both give the same.

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
from transformers.cache_utils import DynamicCache

from tasks.grpo.objective import token_logprobs
from tasks.student.generate import rope_positions
from tasks.student.vision import as_encoder_outputs


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
    prompts: Mapping[str, Any],
    completions: Completions,
    *,
    network: Any,
    train_vision: bool,
    temperature: float,
    banned_ids: Tensor,
) -> tuple[Tensor, Tensor]:
    """Log-probs (with gradient) and entropies (without) of the completions' tokens, both (B, C).

    prompts: a left-padded batch as `encode_prompts` makes it, with pixels or with kept features. network: the student's
    own model, which `model` may wrap for several devices. train_vision: whether anything of the vision tower has
    gradients, where it is computed from pixels. banned_ids: tokens that sampling never draws; the policy is the
    distribution over the others.
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
        mm_encoder_outputs=_picture_features(prompts, prompt_B, network, train_vision),
        logits_to_keep=num_tokens + 1,
        use_cache=False,
    )
    # The logits at a position foretell the next token: the last prompt position speaks for the first completion token.
    return token_logprobs(outputs.logits[:, :-1], completions.token_ids_BC, temperature, banned_ids)


def shared_prompt_logprobs(
    model: Any,
    prompts: Mapping[str, Any],
    completions: Completions,
    *,
    network: Any,
    train_vision: bool,
    temperature: float,
    banned_ids: Tensor,
) -> tuple[Tensor, Tensor]:
    """As `completion_logprobs`, each distinct prompt of the batch computed once."""
    distinct_P, place_B = torch.unique(completions.prompt_B, return_inverse=True)
    attended_PL = prompts["attention_mask"][distinct_P]
    start = int(attended_PL.any(0).long().argmax())
    attended_PL = attended_PL[:, start:]
    batch = {
        "input_ids": prompts["input_ids"][distinct_P, start:],
        "attention_mask": attended_PL,
        "mm_token_type_ids": prompts["mm_token_type_ids"][distinct_P, start:],
        "image_grid_thw": prompts["image_grid_thw"][distinct_P],
    }
    positions_3PL, deltas_P1 = rope_positions(network, batch)
    cache = DynamicCache()
    prefilled = model(
        **batch,
        position_ids=positions_3PL,
        mm_encoder_outputs=_picture_features(prompts, distinct_P, network, train_vision),
        past_key_values=cache,
        use_cache=True,
        logits_to_keep=1,
    )
    logits_BCV = prefilled.logits[place_B, -1:]
    token_ids_BC = completions.token_ids_BC
    if token_ids_BC.shape[1] > 1:  # the last token is foretold, it foretells nothing
        cache.batch_select_indices(place_B)
        mask_BC = completions.mask_BC[:, :-1].to(attended_PL.dtype)
        first_B1 = (attended_PL.sum(1, keepdim=True) + deltas_P1)[place_B]
        positions_BC = first_B1 + torch.arange(mask_BC.shape[1], device=first_B1.device)
        completed = model(
            input_ids=token_ids_BC[:, :-1],
            attention_mask=torch.cat([attended_PL[place_B], mask_BC], dim=1),
            position_ids=positions_BC.expand(3, -1, -1),
            past_key_values=cache,
            use_cache=True,
        )
        logits_BCV = torch.cat([logits_BCV, completed.logits], dim=1)
    return token_logprobs(logits_BCV, token_ids_BC, temperature, banned_ids)


def _picture_features(prompts: Mapping[str, Any], prompt_B: Tensor, network: Any, train_vision: bool) -> dict[str, Any]:
    """Features of the batch's distinct pictures, each computed once, then one entry per completion."""
    if (kept := prompts.get("mm_encoder_outputs")) is not None:
        return {"image": kept["image"].rows(prompt_B.tolist())}
    grid_P3 = prompts["image_grid_thw"]
    patches = prompts["pixel_values"].split(grid_P3.prod(-1).tolist())
    distinct, place_B = torch.unique(prompt_B, return_inverse=True)
    with contextlib.nullcontext() if train_vision else torch.no_grad():
        features = network.get_image_features(
            torch.cat([patches[p] for p in distinct.tolist()]), grid_P3[distinct], return_dict=True
        ).pooler_output
    return as_encoder_outputs([features[i] for i in place_B.tolist()])
