"""Log-probs of sampled completions under the present weights: the training forward.

Each prompt's picture goes through the vision tower once, however many of its completions stand in the batch; logits
are computed for the completions' tokens only. Three forwards give the same log-probs and gradients, and
`training_forward` says which is taken where:

    completion_logprobs     a row per completion, its prompt repeated
    shared_prompt_logprobs  prompts first, a row each; completions attend to their keys and values in a cache
    packed_logprobs         a row per prompt with its completions one after another, under a mask that parts them

The two that compute a prompt once are ours.

Shape suffixes: P distinct prompts, B completions, G completions of a prompt in the batch at most, L prompt tokens, C
completion tokens, K completion tokens of a row, T tokens of a row, V vocabulary.
"""

from __future__ import annotations

import tasks.student.torchvision_operators  # noqa: F401  before anything imports torchvision

# isort: split
import contextlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers.cache_utils import DynamicCache

from pipeline_config.schema import PipelineConfig
from tasks.grpo.objective import token_logprobs
from tasks.student.generate import Completion, rope_positions
from tasks.student.vision import as_encoder_outputs
from tasks.student.zero import zero_stage

LogprobsForward = Callable[..., tuple[Tensor, Tensor]]
# Owners of tokens in `packed_logprobs`, beside the completions' numbers.
_PROMPT, _PADDING = -1, -2


@dataclass(frozen=True)
class Completions:
    """Sampled completions, right-padded.

    prompt_B: row of each one's prompt. mask_BC: 1 on its own tokens. in_loss_BC: 1 on those of them that are trained
    on. sampled_logprobs_BC: of the policy that sampled them.
    """

    prompt_B: Tensor
    token_ids_BC: Tensor
    mask_BC: Tensor
    in_loss_BC: Tensor
    sampled_logprobs_BC: Tensor

    def __len__(self) -> int:
        return len(self.prompt_B)

    def rows(self, rows: slice | Tensor) -> Completions:
        """A part of them, its padding cut to its longest."""
        longest = max(1, int(self.mask_BC[rows].sum(-1).max()))
        return Completions(
            self.prompt_B[rows],
            *(
                tensor_BC[rows, :longest]
                for tensor_BC in (self.token_ids_BC, self.mask_BC, self.in_loss_BC, self.sampled_logprobs_BC)
            ),
        )


def pad_completions(
    groups: Sequence[Sequence[Completion]], padding: int, device: torch.device, *, mask_truncated: bool = False
) -> Completions:
    """The completions of each prompt, in that order. Tokens that were not sampled are not in the loss.

    mask_truncated: nor is any token of a truncated completion (DAPO).
    """
    flat = [completion for group in groups for completion in group]
    lengths = torch.tensor([len(completion.token_ids) for completion in flat])
    mask_BC = (torch.arange(int(lengths.max())) < lengths.unsqueeze(1)).long()
    in_loss_BC = mask_BC.clone()
    for row, completion in enumerate(flat):
        in_loss_BC[row, completion.forced] = 0
        if mask_truncated and completion.truncated:
            in_loss_BC[row] = 0

    def padded(values: list[list[Any]], dtype: torch.dtype, value: int) -> Tensor:
        rows = [torch.tensor(row, dtype=dtype) for row in values]
        return torch.nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=value).to(device)

    return Completions(
        torch.tensor([p for p, group in enumerate(groups) for _ in group], device=device),
        padded([completion.token_ids for completion in flat], torch.long, padding),
        mask_BC.to(device),
        in_loss_BC.to(device),
        padded([completion.logprobs for completion in flat], torch.float32, 0),
    )


def training_forward(config: PipelineConfig) -> LogprobsForward:
    """The cheapest forward that ``config.grpo`` and ``config.student`` allow."""
    student = config.student
    one_call = student.gradient_checkpointing or zero_stage(config.grpo.deepspeed) == 3
    if not one_call:
        # No attention from one completion to another is computed, and the mask stays small.
        return shared_prompt_logprobs
    # Gradient checkpointing switches the cache off. ZeRO-3 gathers weights in every call, so all ranks must make the
    # same number, while the cache's second call is left out where every completion is one token long.
    if student.attention == "flash_attention_2":
        return completion_logprobs  # its kernels know causal masks and padding, no mask of ours
    return packed_logprobs


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
    """As `completion_logprobs`, each distinct prompt of the batch computed once, its gradients through a cache."""
    shared = _distinct_prompts(prompts, completions, network)
    place_B, attended_PL = shared.place_B, shared.batch["attention_mask"]
    cache = DynamicCache()
    prefilled = model(
        **shared.batch,
        position_ids=shared.positions_3PL,
        mm_encoder_outputs=_picture_features(prompts, shared.distinct_P, network, train_vision),
        past_key_values=cache,
        use_cache=True,
        logits_to_keep=1,
    )
    token_ids_BC = completions.token_ids_BC
    # index_select: the backward of indexing adds in the order in which threads come by.
    first_B1V = prefilled.logits[:, -1:].index_select(0, place_B)
    parts = [token_logprobs(first_B1V, token_ids_BC[:, :1], temperature, banned_ids)]
    if token_ids_BC.shape[1] > 1:  # the last token is foretold, it foretells nothing
        layers: list[Any] = cache.layers
        for layer in layers:
            layer.keys, layer.values = layer.keys.index_select(0, place_B), layer.values.index_select(0, place_B)
        mask_BC = completions.mask_BC[:, :-1].to(attended_PL.dtype)
        completed = model(
            input_ids=token_ids_BC[:, :-1],
            attention_mask=torch.cat([attended_PL[place_B], mask_BC], dim=1),
            position_ids=shared.positions_BC[:, :-1].expand(3, -1, -1),
            past_key_values=cache,
            use_cache=True,
        )
        parts.append(token_logprobs(completed.logits, token_ids_BC[:, 1:], temperature, banned_ids))
    logprobs, entropies = zip(*parts, strict=True)
    return torch.cat(logprobs, dim=1), torch.cat(entropies, dim=1)


def packed_logprobs(
    model: Any,
    prompts: Mapping[str, Any],
    completions: Completions,
    *,
    network: Any,
    train_vision: bool,
    temperature: float,
    banned_ids: Tensor,
) -> tuple[Tensor, Tensor]:
    """As `completion_logprobs`, in one call without a cache: each distinct prompt once, its completions behind it.

    Attention costs a row's length squared, and its mask a byte (sdpa) or a float (eager) for each pair of a row's
    tokens: it pays where the prompt is long beside the completions. Not for flash_attention_2, which takes no such
    mask.
    """
    shared = _distinct_prompts(prompts, completions, network)
    place_B, num_prompt = shared.place_B, shared.batch["input_ids"].shape[1]
    num_rows, num_tokens = len(shared.distinct_P), completions.token_ids_BC.shape[1]
    # The last token is foretold, it foretells nothing.
    fed_BC = completions.mask_BC[:, 1:].bool()
    earlier_BB = (place_B.unsqueeze(1) == place_B).tril(-1).long()
    start_B1 = (earlier_BB @ fed_BC.sum(1, keepdim=True)) + num_prompt
    slot_BC = start_B1 + torch.arange(num_tokens - 1, device=place_B.device)
    row = place_B.unsqueeze(1).expand_as(fed_BC)[fed_BC]
    length = max(num_prompt, int((start_B1 + fed_BC.sum(1, keepdim=True)).max()))
    attended_PL = shared.batch["attention_mask"].bool()

    def packed(prompt: Tensor, completion_BC: Tensor, padding: int) -> Tensor:
        """(..., P, T) from (..., P, L) and the same of the completions' tokens."""
        whole = torch.nn.functional.pad(prompt, (0, length - num_prompt), value=padding)
        whole[..., row, slot_BC[fed_BC]] = completion_BC[fed_BC].to(whole.dtype)
        return whole

    number_BC = torch.arange(len(completions), device=place_B.device).unsqueeze(1).expand_as(fed_BC)
    owner_PT = packed(torch.where(attended_PL, _PROMPT, _PADDING), number_BC, _PADDING)
    visible_PTT = (owner_PT.unsqueeze(2) == owner_PT.unsqueeze(1)) | (owner_PT == _PROMPT).unsqueeze(1)
    rank_B = earlier_BB.sum(1)
    most = int(rank_B.max()) + 1
    last = num_prompt - 1  # it foretells each completion's first token
    foretelling_BC = torch.nn.functional.pad(slot_BC.where(fed_BC, last), (1, 0), value=last)
    kept_PGC = foretelling_BC.new_full((num_rows, most, num_tokens), last)
    kept_PGC[place_B, rank_B] = foretelling_BC
    logits_PKV = model(
        input_ids=packed(shared.batch["input_ids"], completions.token_ids_BC[:, :-1], 0),
        attention_mask=_attention_mask(network, visible_PTT.tril()),
        position_ids=packed(shared.positions_3PL, shared.positions_BC[:, :-1], 0),
        mm_encoder_outputs=_picture_features(prompts, shared.distinct_P, network, train_vision),
        logits_to_keep=kept_PGC.flatten(1),
        use_cache=False,
    ).logits
    logits_RCV = logits_PKV.unflatten(1, (most, num_tokens)).flatten(0, 1)
    return token_logprobs(logits_RCV, completions.token_ids_BC, temperature, banned_ids, rows_B=place_B * most + rank_B)


@dataclass(frozen=True)
class _DistinctPrompts:
    """A batch's prompts, each once, common padding cut. place_B: each completion's row; positions: M-RoPE's."""

    distinct_P: Tensor
    place_B: Tensor
    batch: dict[str, Tensor]
    positions_3PL: Tensor
    positions_BC: Tensor


def _distinct_prompts(prompts: Mapping[str, Any], completions: Completions, network: Any) -> _DistinctPrompts:
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
    first_B1 = (attended_PL.sum(1, keepdim=True) + deltas_P1)[place_B]
    positions_BC = first_B1 + torch.arange(completions.token_ids_BC.shape[1], device=first_B1.device)
    return _DistinctPrompts(distinct_P, place_B, batch, positions_3PL, positions_BC)


def _attention_mask(network: Any, visible_PTT: Tensor) -> Tensor:
    """(P, 1, T, T) as the model's attention takes it: sdpa a boolean one, eager one to add."""
    visible = visible_PTT.unsqueeze(1)
    if network.config.get_text_config()._attn_implementation != "eager":
        return visible
    hidden = torch.zeros_like(visible, dtype=network.dtype)
    return hidden.masked_fill_(~visible, torch.finfo(hidden.dtype).min)


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
