"""One step of decoding over the live rows of a batch, which rows leave and join. Ours.

`TextStepper` runs the layers of a plain Qwen2-VL or Qwen2.5-VL text model itself. A prompt's keys and values are kept
once, however many rows go on from it: the queries of its rows, and of the heads that share a key, are the rows of one
matrix product; a row's own keys and values stand in a buffer beside; one softmax runs over both. A small model's linear
layers over the same input are joined, and take in the weights of the norm before them; adapters, quantised layers and
large models run as the modules they are. `LibraryStepper` takes any other model through its own forward, the prompt
repeated per row.

Rows at different lengths are aligned at their newest token, so each step writes one column for all.

Shape suffixes: N live rows, P prompts, R slots of a prompt, S = P R slots, K key-value heads, G query heads of each,
D head width, L prompt tokens, C columns of own tokens, T of them in use, V vocabulary.
"""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch

import tasks.student.torchvision_operators  # noqa: F401  before transformers

# isort: split
from torch import Tensor
from torch.nn import functional as F
from transformers.cache_utils import Cache, DynamicLayer
from transformers.models.qwen2_5_vl import modeling_qwen2_5_vl as qwen2_5_vl
from transformers.models.qwen2_vl import modeling_qwen2_vl as qwen2_vl

from tasks.student.joined import MOST_JOINED, LayerProducts, Product

_ROOM = 64  # columns that a buffer is made longer than what it holds
_MODELS = (qwen2_5_vl.Qwen2_5_VLForConditionalGeneration, qwen2_vl.Qwen2VLForConditionalGeneration)
_TEXT_MODELS = (qwen2_5_vl.Qwen2_5_VLTextModel, qwen2_vl.Qwen2VLTextModel)
_LAYERS = (qwen2_5_vl.Qwen2_5_VLDecoderLayer, qwen2_vl.Qwen2VLDecoderLayer)
_ATTENTIONS = (qwen2_5_vl.Qwen2_5_VLAttention, qwen2_vl.Qwen2VLAttention)
_SOFTMAX_ATTENTION = {"eager", "sdpa", "flash_attention_2"}
_MOVING_ROPE = {"dynamic", "longrope"}  # their frequencies depend on the length reached


@dataclass(frozen=True)
class Prefilled:
    """Prompts after their forward. cache: a `new_cache`, left-padded (P, K, L, D) per layer; the stepper takes it over.

    logits_PV: of the first token. lengths: without padding. positions_P: of the first token, equal in all three axes.
    """

    cache: Any
    logits_PV: Tensor
    lengths: list[int]
    positions_P: Tensor


class Stepper(Protocol):
    """Live rows in the order in which they joined."""

    def join(self, prefilled: Prefilled, repeats: Sequence[int]) -> None:
        """Add ``repeats[p]`` rows of each prompt behind the live rows."""

    def keep(self, rows: Sequence[int]) -> None:
        """Drop all rows but these, named by their present places in ascending order."""

    def step(self, tokens_N: Tensor) -> Tensor:
        """Logits (N, V) after one more token of each row."""


def stepper_for(model: Any, max_new_tokens: int) -> Stepper:
    """An empty batch of rows of at most max_new_tokens tokens; for one forward's weights, autocast and device."""
    return TextStepper(model, max_new_tokens) if is_plain(model) else LibraryStepper(model)


def new_cache() -> Cache:
    """What a prompt's forward fills for `Prefilled`."""
    return Cache(layer_class_to_replicate=_RoomyLayer)


def without_adapters(model: Any) -> Any:
    """The library's model inside PEFT's; its linear layers hold the adapters."""
    return model.get_base_model() if hasattr(model, "get_base_model") else model


def is_plain(model: Any) -> bool:
    """Whether `TextStepper` computes what the model's forward does: the library's own layers, whole and unhooked.

    A forward that accelerate wraps for mixed precision counts as plain inside `Accelerator.autocast`, which does the
    same; outside it does not.
    """
    bare = without_adapters(model)
    if type(bare) not in _MODELS or type(bare.model.language_model) not in _TEXT_MODELS:
        return False
    text = bare.model.language_model
    mixed = torch.is_autocast_enabled(bare.device.type)
    stepped_over = [model, bare, bare.model, text, *text.layers, *(layer.self_attn for layer in text.layers)]
    return (
        all(type(layer) in _LAYERS and type(layer.self_attn) in _ATTENTIONS for layer in text.layers)
        and not text.has_sliding_layers
        and text.rotary_emb.rope_type not in _MOVING_ROPE
        and text.config._attn_implementation in _SOFTMAX_ATTENTION
        and not any(hasattr(parameter, "ds_id") for parameter in text.parameters())  # ZeRO-3 holds a part of each
        and not any(m._forward_hooks or m._forward_pre_hooks for m in stepped_over)
        and not any("forward" in vars(m) and not (mixed and "_original_forward" in vars(m)) for m in stepped_over)
    )


class TextStepper:
    """The text model's layers over one token per row."""

    def __init__(self, model: Any, max_new_tokens: int) -> None:
        bare = without_adapters(model)
        self._text = bare.model.language_model
        self._max_new_tokens = max_new_tokens
        attention = self._text.layers[0].self_attn
        self._kv_heads, self._group = attention.num_key_value_heads, attention.num_key_value_groups
        self._head_dim, self._scale = attention.head_dim, attention.scaling
        self._autocast = torch.is_autocast_enabled(bare.device.type)
        joined = [*self._text.layers.parameters(), *bare.lm_head.parameters()]
        self._join = sum(parameter.nbytes for parameter in joined) <= MOST_JOINED
        self._layers = [LayerProducts(layer, self._join) for layer in self._text.layers]
        self._logits = Product([bare.lm_head], self._join, self._text.norm)
        self._cos = self._sin = torch.empty(0, self._head_dim, device=bare.device)
        self._clear(bare.device)

    def _clear(self, device: torch.device) -> None:
        self._prompt_kv: list[tuple[Tensor, Tensor]] = []  # (P, K, L, D) of each layer
        self._own_kv: list[tuple[Tensor, Tensor]] = []  # (P, K, R, C, D) of each layer
        self._lengths: list[int] = []  # of the prompts
        self._width = self._used = 0  # R and T
        # Of the live rows: prompt, slot, first own column, next position.
        self._prompts: list[int] = []
        self._slots: list[int] = []
        self._starts: list[int] = []
        self._positions_N = torch.empty(0, dtype=torch.long, device=device)
        self._slots_N: Tensor | None = None  # None: slot n is row n's
        self._prompt_bias: Tensor | None = None  # (P, 1, 1, 1, L); None: no prompt is padded
        self._own_bias: Tensor | None = None  # (P, 1, R, 1, C); None: all rows are of one length

    def join(self, prefilled: Prefilled, repeats: Sequence[int]) -> None:
        """As Stepper.join. Extends the rotary tables to the positions that the rows can reach."""
        repeats_P = torch.tensor(repeats, device=prefilled.positions_P.device)
        self._positions_N = torch.cat([self._positions_N, prefilled.positions_P.repeat_interleave(repeats_P)])
        reach = int(prefilled.positions_P.max()) + self._max_new_tokens
        if reach > len(self._cos):
            self._make_tables(reach)
        self._arrange(prefilled, repeats)

    def keep(self, rows: Sequence[int]) -> None:
        """As Stepper.keep. Buffers stay until a quarter of their slots can go."""
        if len(rows) == len(self._slots):
            return
        if not rows:
            self._clear(self._positions_N.device)
            return
        self._positions_N = self._positions_N[torch.tensor(rows, device=self._positions_N.device)]
        self._prompts, self._slots, self._starts = (
            [held[row] for row in rows] for held in (self._prompts, self._slots, self._starts)
        )
        counts = Counter(self._prompts)
        if 4 * len(counts) * max(counts.values()) <= 3 * len(self._lengths) * self._width:
            self._arrange()
        else:
            self._slots_N = torch.tensor(self._slots, device=self._positions_N.device)

    def step(self, tokens_N: Tensor) -> Tensor:
        """As Stepper.step."""
        if self._used == self._own_kv[0][0].shape[3]:
            self._arrange()
        hidden = self._text.embed_tokens(tokens_N).t()
        if self._join:
            hidden = hidden.contiguous()
        positions_S, slots_N = self._positions_N, self._slots_N
        if slots_N is not None:
            positions_S = positions_S.new_zeros(len(self._lengths) * self._width).index_copy_(0, slots_N, positions_S)
        cos, sin = self._cos[positions_S].t().contiguous(), self._sin[positions_S].t().contiguous()
        for number, layer in enumerate(self._layers):
            hidden = layer.out.added_to(hidden, self._attention(number, layer.qkv(hidden), cos, sin))
            gate, up = layer.gate_up(hidden).chunk(2)
            hidden = layer.down.added_to(hidden, layer.activation(gate).mul_(up))
        self._used += 1
        self._positions_N += 1
        return self._logits(hidden).t().contiguous()

    def _attention(self, number: int, qkv: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        """(K G + 2 K heads times D, N) -> (K G D, N); cos and sin (D, S)."""
        P, R, K, G, D = len(self._lengths), self._width, self._kv_heads, self._group, self._head_dim
        if self._slots_N is not None:
            qkv = qkv.new_zeros(len(qkv), P * R).index_copy_(1, self._slots_N, qkv)
        qk, value = qkv.view(-1, D, P * R).split([K * (G + 1), K])
        qk = qk * cos + qk.roll(D // 2, dims=1) * sin
        query, key = qk.split([K * G, K])
        own_keys, own_values = self._own_kv[number]
        own_keys[..., self._used, :] = key.view(K, D, P, R).permute(2, 0, 3, 1)
        own_values[..., self._used, :] = value.view(K, D, P, R).permute(2, 0, 3, 1)
        query = query.to(own_keys.dtype).view(K, G, D, P, R).permute(3, 0, 4, 1, 2).contiguous()
        # Under autocast the keys are rotated in float32; the products would be rounded again.
        with torch.autocast(qkv.device.type, enabled=False) if self._autocast else contextlib.nullcontext():
            out = self._attend(number, query)
        out = out.view(P, K, R, G, D).permute(1, 3, 4, 0, 2).reshape(K * G * D, P * R)
        return out if self._slots_N is None else out[:, self._slots_N]

    def _attend(self, number: int, query: Tensor) -> Tensor:
        """(P, K, R, G, D) -> (P K R, G, D): one softmax over the prompt's and the own keys of each slot."""
        (prompt_keys, prompt_values), (own_keys, own_values) = self._prompt_kv[number], self._own_kv[number]
        P, K, R, G, D = query.shape
        L, T = prompt_keys.shape[2], self._used + 1
        # Of a prompt, all its rows' queries at once; of a row, those that share a key.
        prompt_scores = _scores(query.view(P * K, R * G, D), prompt_keys.flatten(0, 1), self._scale)
        own_scores = _scores(query.view(P * K * R, G, D), own_keys.flatten(0, 2)[:, :T], self._scale)
        prompt_scores, own_scores = prompt_scores.view(P, K, R, G, L), own_scores.view(P, K, R, G, T)
        if self._prompt_bias is not None:
            prompt_scores += self._prompt_bias
        if self._own_bias is not None:
            own_scores += self._own_bias[..., :T]
        weights = torch.cat([prompt_scores, own_scores], dim=-1).softmax(dim=-1).to(prompt_values.dtype)
        of_prompt = torch.bmm(weights.view(P * K, R * G, -1)[..., :L], prompt_values.flatten(0, 1))
        own_weights = weights.view(P * K * R, G, -1)[..., L:]
        return torch.baddbmm(of_prompt.view(P * K * R, G, D), own_weights, own_values.flatten(0, 2)[:, :T])

    def _make_tables(self, reach: int) -> None:
        """cos, and sin with the sign of the half it turns, (positions, D): text has one position in all axes."""
        positions = torch.arange(reach, device=self._positions_N.device).expand(3, 1, -1)
        cos, sin = self._text.rotary_emb(self._text.embed_tokens.weight[:1], positions)
        sign = torch.ones(self._head_dim, dtype=sin.dtype, device=sin.device)
        sign[: self._head_dim // 2] = -1
        self._cos, self._sin = cos[0], sin[0] * sign

    def _arrange(self, joining: Prefilled | None = None, repeats: Sequence[int] = ()) -> None:
        """Lay the live rows and those that join out anew: without what has gone, and with room for more columns."""
        kept = sorted(set(self._prompts))
        place = {prompt: number for number, prompt in enumerate(kept)}
        first = min(self._starts, default=self._used)
        columns = slice(first, self._used)
        joined = [prompt for prompt, repeat in enumerate(repeats, len(kept)) for _ in range(repeat)]
        lengths = [self._lengths[prompt] for prompt in kept] + (joining.lengths if joining else [])
        prompts = [place[prompt] for prompt in self._prompts] + joined
        used = self._used - first
        starts = [start - first for start in self._starts] + [used] * len(joined)
        width = max(Counter(prompts).values())
        taken: Counter[int] = Counter()
        slots = []
        for prompt in prompts:
            slots.append(prompt * width + taken[prompt])
            taken[prompt] += 1
        device = self._positions_N.device
        kept_P = torch.tensor(kept, dtype=torch.long, device=device)
        old_N = torch.tensor(self._slots, dtype=torch.long, device=device)
        slots_N = torch.tensor(slots, device=device)
        old_places = (old_N // max(1, self._width), slice(None), old_N % max(1, self._width))
        new_N = slots_N[: len(old_N)]
        new_places = (new_N // width, slice(None), new_N % width)

        def of_prompts(held: Tensor | None, new: Tensor | None) -> Tensor:
            parts = []
            if held is not None:
                parts.append(_align(held if len(kept) == len(held) else held[kept_P], max(lengths)))
            if new is not None:
                parts.append(_align(new, max(lengths)))
            return (parts[0] if len(parts) == 1 else torch.cat(parts)).contiguous()

        def of_rows(held: Tensor | None, like: Tensor) -> Tensor:
            room = used + max(_ROOM, used // 2)
            made = like.new_zeros(len(lengths), like.shape[1], width, room, like.shape[3])
            if held is not None:
                made[*new_places, :used] = held[*old_places, columns]
            return made

        for number in range(len(self._text.layers)):
            new = (joining.cache.layers[number].keys, joining.cache.layers[number].values) if joining else (None, None)
            held = self._prompt_kv[number] if kept else (None, None)
            own = self._own_kv[number] if kept else (None, None)
            prompt_kv = of_prompts(held[0], new[0]), of_prompts(held[1], new[1])
            own_kv = of_rows(own[0], prompt_kv[0]), of_rows(own[1], prompt_kv[1])
            if number < len(self._prompt_kv):
                self._prompt_kv[number], self._own_kv[number] = prompt_kv, own_kv
            else:
                self._prompt_kv.append(prompt_kv)
                self._own_kv.append(own_kv)
        self._lengths, self._prompts, self._slots, self._starts = lengths, prompts, slots, starts
        self._width, self._used = width, used
        self._slots_N = None if slots == list(range(len(lengths) * width)) else slots_N
        self._prompt_bias = self._own_bias = None
        if min(lengths) < max(lengths):
            padded = [max(lengths) - length for length in lengths]
            self._prompt_bias = _bias_before(padded, max(lengths), device).view(len(lengths), 1, 1, 1, -1)
        if any(starts):
            of_slot = [0] * (len(lengths) * width)
            for slot, start in zip(slots, starts, strict=True):
                of_slot[slot] = start
            bias = _bias_before(of_slot, self._own_kv[0][0].shape[3], device)
            self._own_bias = bias.view(len(lengths), 1, width, 1, -1)


def _scores(queries: Tensor, keys: Tensor, scale: float) -> Tensor:
    """Scaled products (batch, queries, keys) in float32, as fused attention keeps them whatever the keys' dtype."""
    if keys.is_cuda and keys.dtype != torch.float32:
        return torch.bmm(queries, keys.transpose(1, 2), out_dtype=torch.float32).mul_(scale)
    queries, keys = queries.float(), keys.float()
    return torch.baddbmm(queries.new_empty(1), queries, keys.transpose(1, 2), beta=0, alpha=scale)


def _align(held: Tensor, length: int) -> Tensor:
    """Pad or cut on the left of the tokens' dimension, the last but one."""
    missing = length - held.shape[-2]
    return held if missing == 0 else F.pad(held, (0, 0, missing, 0))


def _bias_before(starts: Sequence[int], length: int, device: torch.device) -> Tensor:
    """(len(starts), length): -inf before each start, 0 from there on."""
    before = torch.arange(length, device=device) < torch.tensor(starts, device=device).unsqueeze(1)
    return torch.zeros(before.shape, device=device).masked_fill_(before, -torch.inf)


class LibraryStepper:
    """The model's own forward over one token per row."""

    def __init__(self, model: Any) -> None:
        self._model = model
        self._cache: Any = None
        self._lengths: list[int] = []  # of the live rows, prompt included
        self._slots: list[int] = []  # of the live rows in the cache
        self._num_slots = 0
        self._mask = self._positions_N = torch.empty(0, 0, dtype=torch.long, device=model.device)
        self._padded = False

    def join(self, prefilled: Prefilled, repeats: Sequence[int]) -> None:
        """As Stepper.join."""
        index = [prompt for prompt, repeat in enumerate(repeats) for _ in range(repeat)]
        index_N = torch.tensor(index, device=prefilled.positions_P.device)
        joining, positions_N = prefilled.cache, prefilled.positions_P[index_N]
        joining.batch_select_indices(index_N)
        if self._slots:
            self._compact()
            self._lengths += [prefilled.lengths[prompt] for prompt in index]
            self._positions_N = torch.cat([self._positions_N, positions_N])
            for layer, new in zip(self._cache.layers, joining.layers, strict=True):
                longest = max(self._lengths)
                layer.keys = torch.cat([_align(layer.keys, longest), _align(new.keys, longest)])
                layer.values = torch.cat([_align(layer.values, longest), _align(new.values, longest)])
        else:
            self._cache, self._positions_N = joining, positions_N
            self._lengths = [prefilled.lengths[prompt] for prompt in index]
        self._slots = list(range(len(self._lengths)))
        self._num_slots = len(self._slots)
        self._make_mask()

    def keep(self, rows: Sequence[int]) -> None:
        """As Stepper.keep. The cache's rows stay until a quarter of them can go."""
        if len(rows) == len(self._slots):
            return
        self._lengths, self._slots = ([held[row] for row in rows] for held in (self._lengths, self._slots))
        if 4 * len(self._slots) <= 3 * self._num_slots and rows:
            self._compact()
            self._make_mask()

    def step(self, tokens_N: Tensor) -> Tensor:
        """As Stepper.step."""
        slots_N = None
        if len(self._slots) < self._num_slots:
            slots_N = torch.tensor(self._slots, device=tokens_N.device)
            tokens_N = tokens_N.new_zeros(self._num_slots).index_copy_(0, slots_N, tokens_N)
        self._mask = torch.cat([self._mask, self._mask.new_ones(self._num_slots, 1)], dim=1)
        logits: Tensor = self._model(
            input_ids=tokens_N[:, None],
            attention_mask=self._mask if self._padded else None,
            position_ids=self._positions_N.view(1, -1, 1).expand(3, -1, -1),
            past_key_values=self._cache,
            use_cache=True,
        ).logits[:, -1]
        self._positions_N = self._positions_N + 1
        self._lengths = [length + 1 for length in self._lengths]
        return logits if slots_N is None else logits[slots_N]

    def _compact(self) -> None:
        if len(self._slots) < self._num_slots:
            slots_N = torch.tensor(self._slots, device=self._positions_N.device)
            self._cache.batch_select_indices(slots_N)
            self._positions_N = self._positions_N[slots_N]
            self._slots = list(range(len(self._slots)))
            self._num_slots = len(self._slots)

    def _make_mask(self) -> None:
        width = self._cache.get_seq_length()
        starts = torch.tensor([width - length for length in self._lengths], device=self._positions_N.device)
        self._mask = (torch.arange(width, device=starts.device) >= starts.unsqueeze(1)).long()
        self._padded = min(self._lengths) < width


class _RoomyLayer(DynamicLayer):
    """A cache layer with room ahead: appending a token writes in place instead of copying all before it."""

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
            buffer = held.new_empty((*held.shape[:-2], end + _ROOM, held.shape[-1]))
            buffer[..., :start, :] = held
        buffer[..., start:end, :] = new
        return buffer[..., :end, :]
