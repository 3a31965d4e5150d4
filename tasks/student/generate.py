"""Sampling from a student: each prompt and picture is computed once for all its rollouts.

Departs from `transformers.generate`, which repeats prompt and picture per rollout: here the prompt's key-value cache is
repeated instead, rows that have ended leave the batch, and the cache grows in place. Greedy, it gives the same tokens.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

import tasks.student.torchvision_operators  # noqa: F401  before transformers

# isort: split
from transformers.cache_utils import Cache, DynamicLayer

from tasks.student.boxes import convert_text
from tasks.student.encode import END_OF_TURN, Encoded, Prompt, collate, encode_prompt

if TYPE_CHECKING:
    from tasks.student.checkpoint import Student

# What stands in a prompt only: media and the frame of the chat.
_NEVER_SAMPLED = (
    "<|im_start|>",
    "<|endoftext|>",
    "<|vision_start|>",
    "<|vision_end|>",
    "<|vision_pad|>",
    "<|image_pad|>",
    "<|video_pad|>",
)


@dataclass(frozen=True)
class Completion:
    """One sampled turn.

    text: without the closing token, boxes 0..1000. token_ids: as sampled (the student's own box convention), the
    closing ``<|im_end|>`` included unless truncated. truncated: cut at max_new_tokens.
    """

    text: str
    token_ids: list[int]
    truncated: bool


@dataclass(frozen=True)
class _Sampling:
    temperature: float
    top_p: float
    max_new_tokens: int
    end: int
    banned: torch.Tensor
    generator: torch.Generator


def generate(
    student: Student,
    prompts: Sequence[Prompt],
    *,
    num_rollouts: int = 1,
    temperature: float = 1.0,
    top_p: float = 1.0,
    max_new_tokens: int,
    batch_size: int,
    seed: int,
    on_progress: Callable[[int, int], None] | None = None,
) -> list[list[Completion]]:
    """``num_rollouts`` completions per prompt, in the order of the prompts.

    temperature 0 is greedy. batch_size: completions at once. seed: the only source of randomness; equal seeds give
    equal completions. on_progress(done, total) counts completions. Tokens of media and chat frame are never sampled.
    The model is in eval mode meanwhile, then as before.
    """
    encoded = [encode_prompt(student, prompt) for prompt in prompts]
    sampling = _Sampling(
        temperature,
        top_p,
        max_new_tokens,
        student.tokenizer.convert_tokens_to_ids(END_OF_TURN),
        torch.tensor(banned_token_ids(student), device=student.device),
        torch.Generator(student.device).manual_seed(seed),
    )
    results: list[list[Completion]] = [[] for _ in prompts]
    done = 0
    training = student.model.training
    student.model.eval()
    try:
        with torch.no_grad():
            for members, repeats in _batches(encoded, num_rollouts, batch_size):
                rows = _generate_batch(student, [encoded[i] for i in members], repeats, sampling)
                for row, token_ids in enumerate(rows):
                    index = members[row // repeats]
                    results[index].append(_completion(student, prompts[index], token_ids, sampling.end))
                done += len(rows)
                if on_progress is not None:
                    on_progress(done, len(prompts) * num_rollouts)
    finally:
        student.model.train(training)
    return results


def banned_token_ids(student: Student) -> list[int]:
    """Tokens that are never sampled: media, the chat's frame, and rows of the vocabulary without a token."""
    tokenizer = student.tokenizer
    known = tokenizer.get_vocab()
    vocabulary = student.model.config.get_text_config().vocab_size
    return [known[token] for token in _NEVER_SAMPLED if token in known] + list(range(len(tokenizer), vocabulary))


def _batches(encoded: Sequence[Encoded], num_rollouts: int, batch_size: int) -> list[tuple[list[int], int]]:
    """(prompt indices, rollouts of each) per batch: neighbours in length together, to pad little."""
    order = sorted(range(len(encoded)), key=lambda i: (encoded[i].num_prompt, encoded[i].media_path))
    rounds = [min(batch_size, num_rollouts - start) for start in range(0, num_rollouts, batch_size)]
    num_prompts = max(1, batch_size // num_rollouts)
    return [
        (order[start : start + num_prompts], repeats)
        for start in range(0, len(order), num_prompts)
        for repeats in rounds
    ]


def _generate_batch(student: Student, encoded: Sequence[Encoded], repeats: int, sampling: _Sampling) -> list[list[int]]:
    """Token ids of ``repeats`` completions of each prompt, prompt by prompt."""
    batch = collate(student, encoded, padding="left").to(student.device)
    positions, deltas = rope_positions(student.model, batch)
    cache = Cache(layer_class_to_replicate=_RoomyLayer)
    output = student.model(**batch, position_ids=positions, past_key_values=cache, use_cache=True, logits_to_keep=1)
    cache.batch_repeat_interleave(repeats)
    logits = output.logits[:, -1].repeat_interleave(repeats, dim=0)
    mask = batch["attention_mask"].repeat_interleave(repeats, dim=0)
    next_position = (batch["attention_mask"].sum(1, keepdim=True) + deltas).repeat_interleave(repeats, dim=0)
    return _decode(student.model, cache, logits, mask, next_position, sampling)


def _decode(
    model: Any, cache: Cache, logits: torch.Tensor, mask: torch.Tensor, next_position: torch.Tensor, sampling: _Sampling
) -> list[list[int]]:
    """Sample until every row has ended; rows that ended leave the batch once they are half of it."""
    sampled: list[list[int]] = [[] for _ in range(len(logits))]
    rows = torch.arange(len(logits), device=logits.device)
    padded = not bool(mask.all())
    for _ in range(sampling.max_new_tokens - 1):
        tokens = _sample(logits, sampling)
        going = _append(sampled, rows, tokens, sampling.end)
        if not going.any():
            return sampled
        if 2 * int(going.sum()) <= len(going):
            rows, tokens, mask, next_position = rows[going], tokens[going], mask[going], next_position[going]
            cache.batch_select_indices(going.nonzero()[:, 0])
        mask = torch.cat([mask, mask.new_ones(len(mask), 1)], dim=1)
        logits = model(
            input_ids=tokens[:, None],
            attention_mask=mask if padded else None,
            position_ids=next_position.expand(3, -1, -1),
            past_key_values=cache,
            use_cache=True,
        ).logits[:, -1]
        next_position = next_position + 1
    _append(sampled, rows, _sample(logits, sampling), sampling.end)
    return sampled


def _append(sampled: list[list[int]], rows: torch.Tensor, tokens: torch.Tensor, end: int) -> torch.Tensor:
    """Add each row's token unless the row has ended; True for the rows that go on."""
    going = []
    for row, token in zip(rows.tolist(), tokens.tolist(), strict=True):
        ended = bool(sampled[row]) and sampled[row][-1] == end
        if not ended:
            sampled[row].append(token)
        going.append(not ended and token != end)
    return torch.tensor(going, device=rows.device)


def _sample(logits: torch.Tensor, sampling: _Sampling) -> torch.Tensor:
    """(rows, vocabulary) -> (rows,), by inverting the cumulative distribution."""
    logits = logits.float().index_fill(1, sampling.banned, float("-inf"))
    if sampling.temperature == 0:
        return logits.argmax(dim=1)
    probabilities = torch.softmax(logits / sampling.temperature, dim=1)
    if sampling.top_p < 1:
        probabilities = _nucleus(probabilities, sampling.top_p)
    cumulative = probabilities.double().cumsum(dim=1)
    draws = torch.rand(len(logits), 1, generator=sampling.generator, device=logits.device, dtype=torch.double)
    tokens = torch.searchsorted(cumulative, draws * cumulative[:, -1:], right=True)
    return tokens[:, 0].clamp(max=logits.shape[1] - 1)


def _nucleus(probabilities: torch.Tensor, top_p: float) -> torch.Tensor:
    """Zero what lies outside the smallest set of tokens whose mass reaches top_p."""
    ordered, indices = probabilities.sort(dim=1, descending=True)
    outside = ordered.cumsum(dim=1) - ordered >= top_p
    return torch.zeros_like(probabilities).scatter(1, indices, ordered.masked_fill(outside, 0.0))


def rope_positions(model: Any, batch: Any) -> tuple[torch.Tensor, torch.Tensor]:
    """Positions (3, batch, length) of a prompt, and (batch, 1) what the next token's position exceeds its index by."""
    bare = model.get_base_model() if hasattr(model, "get_base_model") else model
    positions, deltas = bare.model.get_rope_index(
        batch["input_ids"],
        mm_token_type_ids=batch["mm_token_type_ids"],
        image_grid_thw=batch["image_grid_thw"],
        attention_mask=batch["attention_mask"],
    )
    return positions, deltas.view(-1, 1)


def _completion(student: Student, prompt: Prompt, token_ids: list[int], end: int) -> Completion:
    truncated = token_ids[-1] != end
    text = student.tokenizer.decode(token_ids if truncated else token_ids[:-1], skip_special_tokens=False)
    width, height = student.pictures.resized_size(prompt.media_path)
    return Completion(convert_text(text, student.boxes, "norm1000", width, height), token_ids, truncated)


class _RoomyLayer(DynamicLayer):
    """A cache layer with room ahead: appending a token writes in place instead of copying all before it."""

    room = 64

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *args: Any, **kwargs: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
            self.keys, self.values = key_states, value_states
            return self.keys, self.values
        assert self.keys is not None, "set by the first update"
        assert self.values is not None, "set by the first update"
        self.keys, self.values = self._extended(self.keys, key_states), self._extended(self.values, value_states)
        return self.keys, self.values

    def _extended(self, held: torch.Tensor, new: torch.Tensor) -> torch.Tensor:
        """``held`` with ``new`` behind it; a held tensor that is the front of a longer buffer is not moved."""
        start, end = held.shape[-2], held.shape[-2] + new.shape[-2]
        buffer = held._base
        if buffer is None or buffer.ndim != 4 or buffer.shape[-2] < end or buffer.shape[:2] != held.shape[:2]:
            buffer = held.new_empty((*held.shape[:-2], end + self.room, held.shape[-1]))
            buffer[..., :start, :] = held
        buffer[..., start:end, :] = new
        return buffer[..., :end, :]
