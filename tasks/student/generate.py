"""Sampling from a student: each prompt and picture is computed once for all its rollouts.

Departs from `transformers.generate`, which repeats prompt and picture per rollout and waits for the longest row of a
batch: here a row that has ended leaves at once, and the next prompts join when a quarter of the batch is free. The step
per token is `tasks/student/decode.py`. Greedy, it gives the same tokens. Each rollout has its own stream of random
numbers, so what it says does not depend on which others stand in its batch, but for the rounding of sums. Prompts that
join are computed together up to `Student.prefill_tokens`, so that memory is bounded whatever their pictures' sizes.
Thinking that does not end can be cut short by an answer that is begun for it (GLM-4.1V-Thinking, section 5.3).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

import tasks.student.torchvision_operators  # noqa: F401  before transformers

# isort: split
from tasks.student.boxes import convert_text
from tasks.student.decode import Prefilled, Stepper, new_cache, stepper_for, without_adapters
from tasks.student.encode import END_OF_TURN, Encoded, Prompt, collate, encode_prompt

if TYPE_CHECKING:
    from tasks.student.checkpoint import Student

_THINK, _END_THINK, _ANSWER = "<think>", "</think>", "<answer>"
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
    closing ``<|im_end|>`` included unless truncated. truncated: cut at max_new_tokens. logprobs: of each token, in
    nats, under softmax(logits / temperature) over the tokens that are not banned, before top_p (greedy: temperature 1).
    forced: indices of the tokens that were put there, not sampled.
    """

    text: str
    token_ids: list[int]
    truncated: bool
    logprobs: list[float] = field(default_factory=list, repr=False)
    forced: list[int] = field(default_factory=list)


@dataclass
class _Row:
    """A completion in the making. draws: a uniform number per token. pending: tokens to come that are not sampled."""

    prompt: int
    rollout: int
    draws: np.ndarray
    token_ids: list[int] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)
    forced: list[int] = field(default_factory=list)
    pending: deque[int] = field(default_factory=deque)


@dataclass(frozen=True)
class _Sampling:
    temperature: float
    top_p: float
    banned: torch.Tensor


def generate(student: Student, prompts: Sequence[Prompt], **settings: Any) -> list[list[Completion]]:
    """Completions per prompt, in the order of the prompts; settings as `completed` takes them."""
    groups = dict(completed(student, prompts, **settings))
    return [groups[prompt] for prompt in range(len(prompts))]


@torch.no_grad()
def completed(
    student: Student,
    prompts: Sequence[Prompt],
    *,
    num_rollouts: int = 1,
    temperature: float = 1.0,
    top_p: float = 1.0,
    max_new_tokens: int,
    batch_size: int,
    seed: int,
    max_think_tokens: int | None = None,
    numbers: Sequence[int] | None = None,
) -> Iterator[tuple[int, list[Completion]]]:
    """The place of a prompt among ``prompts`` and its ``num_rollouts`` completions, as soon as all of them have ended.

    temperature 0 is greedy. batch_size: completions at once, at most. seed (not negative): the only source of
    randomness; equal seeds give equal completions. max_think_tokens: a completion of that many tokens in which
    ``<think>`` was opened and not closed goes on with ``</think><answer>``, then as sampled. numbers: what tells each
    prompt's random numbers from another's, by default its place; where several processes share prompts, the place among
    all of them, so that completions do not depend on who samples them. Tokens of media and chat frame are never
    sampled. The model is in eval mode until the last, then as before.
    """
    encoded = [encode_prompt(student, prompt) for prompt in prompts]
    numbers = range(len(prompts)) if numbers is None else numbers
    sampling = _Sampling(temperature, top_p, torch.tensor(banned_token_ids(student), device=student.device))
    end = student.tokenizer.convert_tokens_to_ids(END_OF_TURN)
    ended: dict[int, dict[int, Completion]] = {}  # of each prompt with rollouts to come, by rollout
    training = student.model.training
    student.model.eval()
    try:
        stepper = stepper_for(student.model, max_new_tokens)
        waiting = _rounds(encoded, num_rollouts, batch_size)
        live: list[_Row] = []
        logits = torch.empty(0, device=student.device)
        while waiting or live:
            admitted = _admit(waiting, batch_size - len(live), batch_size)
            for joining in _cut(admitted, encoded, student.prefill_tokens):
                first = _join(student, stepper, joining, encoded)
                logits = torch.cat([logits, first]) if live else first
                live += [
                    _Row(prompt, rollout, _draws(seed, numbers[prompt] * num_rollouts + rollout, max_new_tokens))
                    for prompt, rollouts in joining
                    for rollout in rollouts
                ]
            tokens = _sample(logits, live, sampling)
            going, whole = [], []
            for number, row in enumerate(live):
                if row.token_ids[-1] == end or len(row.token_ids) == max_new_tokens:
                    group = ended.setdefault(row.prompt, {})
                    group[row.rollout] = _completion(student, prompts[row.prompt], row, end)
                    if len(group) == num_rollouts:
                        whole.append(row.prompt)
                    continue
                going.append(number)
                if len(row.token_ids) == max_think_tokens:
                    row.pending.extend(_answer_now(student, row.token_ids))
            if len(going) < len(live):
                stepper.keep(going)
                live = [live[number] for number in going]
                tokens = tokens[torch.tensor(going, dtype=torch.long, device=student.device)]
            for prompt in whole:
                group = ended.pop(prompt)
                yield prompt, [group[rollout] for rollout in range(num_rollouts)]
            if live:
                logits = stepper.step(tokens)
    finally:
        student.model.train(training)


def banned_token_ids(student: Student) -> list[int]:
    """Tokens that are never sampled: media, the chat's frame, and rows of the vocabulary without a token."""
    tokenizer = student.tokenizer
    known = tokenizer.get_vocab()
    vocabulary = student.model.config.get_text_config().vocab_size
    return [known[token] for token in _NEVER_SAMPLED if token in known] + list(range(len(tokenizer), vocabulary))


def _rounds(encoded: Sequence[Encoded], num_rollouts: int, batch_size: int) -> deque[tuple[int, range]]:
    """(prompt, its rollouts that start together), neighbours in length together, to pad little."""
    order = sorted(range(len(encoded)), key=lambda i: (encoded[i].num_prompt, encoded[i].media_path))
    starts = range(0, num_rollouts, batch_size)
    return deque((i, range(start, min(start + batch_size, num_rollouts))) for i in order for start in starts)


def _admit(waiting: deque[tuple[int, range]], free: int, batch_size: int) -> list[tuple[int, range]]:
    """Take those who start now: none before a quarter of the batch is free, so that few prefills serve many rows."""
    admitted: list[tuple[int, range]] = []
    if 4 * free >= batch_size:
        while waiting and len(waiting[0][1]) <= free:
            admitted.append(waiting.popleft())
            free -= len(admitted[-1][1])
    return admitted


def _cut(
    admitted: Sequence[tuple[int, range]], encoded: Sequence[Encoded], most_tokens: int
) -> Iterator[list[tuple[int, range]]]:
    """Neighbours whose forward holds at most ``most_tokens``, padding included; a longer prompt goes alone."""
    joining: list[tuple[int, range]] = []
    longest = 0
    for prompt, rollouts in admitted:
        longest = max(longest, encoded[prompt].num_prompt)
        if joining and (len(joining) + 1) * longest > most_tokens:
            yield joining
            joining, longest = [], encoded[prompt].num_prompt
        joining.append((prompt, rollouts))
    if joining:
        yield joining


def _join(
    student: Student, stepper: Stepper, joining: Sequence[tuple[int, range]], encoded: Sequence[Encoded]
) -> torch.Tensor:
    """Compute prompts and add the rows that go on from them; the logits of each row's first token."""
    prefilled = _prefill(student, [encoded[prompt] for prompt, _ in joining])
    repeats = [len(rollouts) for _, rollouts in joining]
    stepper.join(prefilled, repeats)
    return prefilled.logits_PV.repeat_interleave(torch.tensor(repeats, device=student.device), dim=0)


def _prefill(student: Student, encoded: Sequence[Encoded]) -> Prefilled:
    batch = collate(student, encoded, padding="left").to(student.device)
    positions, deltas = rope_positions(student.model, batch)
    cache = new_cache()
    output = student.model(**batch, position_ids=positions, past_key_values=cache, use_cache=True, logits_to_keep=1)
    next_positions = batch["attention_mask"].sum(1) + deltas[:, 0]
    return Prefilled(cache, output.logits[:, -1], [item.num_prompt for item in encoded], next_positions)


def _draws(seed: int, stream: int, num_draws: int) -> np.ndarray:
    return np.random.default_rng([seed, stream]).random(num_draws)


def _answer_now(student: Student, token_ids: list[int]) -> list[int]:
    """Tokens that end the thinking and open the answer; none if these tokens do not stand inside thinking."""
    text = student.tokenizer.decode(token_ids, skip_special_tokens=False)
    if _THINK not in text or _END_THINK in text:
        return []
    return list(student.tokenizer(_END_THINK + _ANSWER, add_special_tokens=False)["input_ids"])


def _sample(logits: torch.Tensor, rows: Sequence[_Row], sampling: _Sampling) -> torch.Tensor:
    """(rows, vocabulary) -> (rows,), by inverting the cumulative distribution; rows keep their token and log-prob."""
    scaled = logits.float().index_fill(1, sampling.banned, -torch.inf)
    if sampling.temperature not in (0, 1):
        scaled /= sampling.temperature
    highest = scaled.amax(dim=1, keepdim=True)
    weights = (scaled - highest).exp_()
    if sampling.temperature == 0:
        tokens = scaled.argmax(dim=1, keepdim=True)
        total = weights.sum(dim=1, keepdim=True, dtype=torch.double)
    else:
        cumulative = weights.cumsum(dim=1, dtype=torch.double)
        total = cumulative[:, -1:]
        if sampling.top_p < 1:
            cumulative = _nucleus(weights / total, sampling.top_p).cumsum(dim=1)
        draws = [row.draws[len(row.token_ids)] for row in rows]
        draws_N1 = torch.tensor(draws, dtype=torch.double, device=logits.device).unsqueeze(1)
        tokens = torch.searchsorted(cumulative, draws_N1 * cumulative[:, -1:], right=True)
        tokens.clamp_(max=logits.shape[1] - 1)
    if any(row.pending for row in rows):
        forced = [row.pending[0] if row.pending else -1 for row in rows]
        forced_N1 = torch.tensor(forced, device=logits.device).unsqueeze(1)
        tokens = torch.where(forced_N1 >= 0, forced_N1, tokens)
    logprobs = (scaled.gather(1, tokens) - highest).double() - total.log()
    # One transfer for both: float64 holds every token id exactly.
    for row, (token, logprob) in zip(rows, torch.cat([tokens.double(), logprobs], dim=1).tolist(), strict=True):
        if row.pending:
            row.pending.popleft()
            row.forced.append(len(row.token_ids))
        row.token_ids.append(int(token))
        row.logprobs.append(logprob)
    return tokens[:, 0]


def _nucleus(probabilities: torch.Tensor, top_p: float) -> torch.Tensor:
    """Zero what lies outside the smallest set of tokens whose mass reaches top_p."""
    ordered, indices = probabilities.sort(dim=1, descending=True)
    outside = ordered.cumsum(dim=1) - ordered >= top_p
    return torch.zeros_like(probabilities).scatter(1, indices, ordered.masked_fill(outside, 0.0))


def rope_positions(model: Any, batch: Any) -> tuple[torch.Tensor, torch.Tensor]:
    """Positions (3, batch, length) of a prompt, and (batch, 1) what the next token's position exceeds its index by."""
    positions, deltas = without_adapters(model).model.get_rope_index(
        batch["input_ids"],
        mm_token_type_ids=batch["mm_token_type_ids"],
        image_grid_thw=batch["image_grid_thw"],
        attention_mask=batch["attention_mask"],
    )
    return positions, deltas.view(-1, 1)


def _completion(student: Student, prompt: Prompt, row: _Row, end: int) -> Completion:
    truncated = row.token_ids[-1] != end
    text = student.tokenizer.decode(row.token_ids if truncated else row.token_ids[:-1], skip_special_tokens=False)
    width, height = student.pictures.resized_size(prompt.media_path)
    text = convert_text(text, student.boxes, "norm1000", width, height)
    return Completion(text, row.token_ids, truncated, row.logprobs, row.forced)
