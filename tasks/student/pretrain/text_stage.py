"""Stage two: the language model learns to put the vision tower's measurements into words, numbers, letters and boxes.

First exercises without pictures, then questions with the tower frozen and exercises beside them. Loss only on the
assistant's tokens. All pictures of a batch have one size, so all prompts begin alike and the positions are one row.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional
from transformers import Qwen2_5_VLForConditionalGeneration, Qwen2Tokenizer

from tasks.student.pretrain.optimisation import Training
from tasks.student.pretrain.pool import Pool, Shard
from tasks.student.pretrain.questions import Measured, Yardstick, calibrate, dialogue
from tasks.student.pretrain.reading import matching_turn, merged_turn, repeated_turn, words_of
from tasks.student.pretrain.settings import Settings
from tasks.student.pretrain.vision_stage import merged_tokens

logger = logging.getLogger(__name__)
_MOST_QUESTIONS = 5
_LONGEST = 420  # tokens of text


@dataclass(frozen=True)
class TextBatch:
    """pixels: pictures x side x side x 3; ids: pictures x length, padded on the right.

    trained: where `ids` belongs to the assistant's turn.
    """

    pixels: torch.Tensor
    ids: torch.Tensor
    trained: torch.Tensor


def hand_over(model: Qwen2_5_VLForConditionalGeneration, settings: Settings) -> None:
    """Scale the merger's output towards the token embeddings'; what is read through a normalisation stays the same."""
    last = model.model.visual.merger.mlp[-1]
    with torch.no_grad():
        last.weight.mul_(settings.handover_scale)
        last.bias.mul_(settings.handover_scale)


def measured_crops(shard: Shard, names: list[str], yardstick: Yardstick) -> list[Measured]:
    """The crops of a shard as questions.py reads them."""
    side = shard.pixels.shape[1]
    statistics = np.asarray(shard.statistics, dtype=np.float32)
    return [
        Measured(values, names, [(box[0], box[1], box[2], box[3]) for box in boxes], side, yardstick)
        for values, boxes in zip(statistics, shard.boxes, strict=True)
    ]


def make_yardstick(pool: Pool, settings: Settings) -> Yardstick:
    """Calibrate the measures on the first shards of the pool."""
    crops = [
        crop
        for index in range(min(4, pool.num_shards))
        for crop in measured_crops(pool.shard(index), pool.names(), Yardstick({}, {}))
    ]
    return calibrate(crops, settings.cell, np.random.default_rng([settings.seed, 3]))


def text_batches(
    pool: Pool, yardstick: Yardstick, tokenizer: Qwen2Tokenizer, settings: Settings, seed: int
) -> Iterator[TextBatch]:
    """Batches for ever, of dialogues of like length; a crop's questions are drawn afresh each time it is met."""
    rng = np.random.default_rng([settings.seed, seed])
    for shard in pool.epochs(settings.seed + seed):
        crops = measured_crops(shard, pool.names(), yardstick)
        turns = [dialogue(crop, int(rng.integers(1, _MOST_QUESTIONS + 1)), rng) for crop in crops]
        num_tokens = shard.statistics.shape[1] * shard.statistics.shape[2]
        lines = encode(turns, num_tokens, tokenizer)
        groups = _groups([len(ids) for ids, _ in lines], settings.text_tokens)
        for index in rng.permutation(len(groups)):
            chosen = np.sort(groups[index])
            ids, trained = _padded([lines[row] for row in chosen], tokenizer.pad_token_id)
            yield TextBatch(torch.from_numpy(shard.pixels[chosen]), ids, trained)


def _groups(lengths: list[int], budget: int) -> list[NDArray[np.int64]]:
    """Rows of like length; rows times the longest of them stays within the budget."""
    groups, order = [], np.argsort(lengths)
    while len(order):
        size = max(1, next((n for n in range(1, len(order)) if (n + 1) * lengths[order[n]] > budget), len(order)))
        groups.append(order[:size])
        order = order[size:]
    return groups


def _padded(lines: list[tuple[list[int], int]], padding: int) -> tuple[torch.Tensor, torch.Tensor]:
    length = max(len(ids) for ids, _ in lines)
    rows = torch.full((len(lines), length), padding)
    trained = torch.zeros(len(lines), length, dtype=torch.bool)
    for row, (ids, num_prompt) in enumerate(lines):
        rows[row, : len(ids)] = torch.tensor(ids)
        trained[row, num_prompt : len(ids)] = True
    return rows, trained


def encode(turns: list[tuple[str, str]], num_tokens: int, tokenizer: Qwen2Tokenizer) -> list[tuple[list[int], int]]:
    """Dialogues about one picture or none each, as the chat template writes them: ids, and how many of them are prompt.

    num_tokens: vision tokens per picture. What exceeds 420 tokens of text is cut.
    """
    picture = f"<|vision_start|>{'<|image_pad|>' * num_tokens}<|vision_end|>" if num_tokens else ""
    opening = f"<|im_start|>user\n{picture}"
    asked = tokenizer([f"{opening}{prompt}<|im_end|>\n<|im_start|>assistant\n" for prompt, _ in turns])["input_ids"]
    answered = tokenizer([f"{answer}<|im_end|>" for _, answer in turns])["input_ids"]
    longest = _LONGEST + num_tokens
    return [((a + b)[:longest], min(len(a), longest)) for a, b in zip(asked, answered, strict=True)]


def positions(ids: torch.Tensor, image_token: int, side: int, settings: Settings) -> torch.Tensor:
    """Rotary positions of a row that holds one square picture, 3 x 1 x length (time, row, column)."""
    cells = side // settings.cell
    start = int((ids[0] == image_token).nonzero()[0, 0])
    num_after = ids.shape[1] - start - cells * cells
    index = torch.arange(cells)
    rows, columns = index.repeat_interleave(cells), index.repeat(cells)
    picture = torch.stack([torch.zeros_like(rows), rows, columns]) + start
    before = torch.arange(start).expand(3, -1)
    after = (torch.arange(num_after) + start + cells).expand(3, -1)
    return torch.cat([before, picture, after], dim=1)[:, None]


def answer_loss(
    model: Qwen2_5_VLForConditionalGeneration, merged: torch.Tensor, batch: TextBatch, settings: Settings
) -> torch.Tensor:
    """Cross entropy of the trained tokens. merged: tokens x width of the batch's pictures."""
    image_token = model.config.image_token_id
    embedded = model.get_input_embeddings()(batch.ids)
    embedded = embedded.masked_scatter((batch.ids == image_token)[..., None], merged.to(embedded.dtype))
    position_ids = positions(batch.ids, image_token, batch.pixels.shape[1], settings)
    return _row_loss(model, embedded, position_ids, batch.ids, batch.trained)


def _row_loss(
    model: Qwen2_5_VLForConditionalGeneration,
    embedded: torch.Tensor,
    position_ids: torch.Tensor,
    ids: torch.Tensor,
    trained: torch.Tensor,
) -> torch.Tensor:
    """Mean over the rows' means: a letter counts as much as a box of many digits."""
    hidden = model.model.language_model(
        inputs_embeds=embedded,
        position_ids=position_ids.expand(-1, len(ids), -1),
        attention_mask=None,
        use_cache=False,
    ).last_hidden_state
    wanted = trained[:, 1:]
    logits = model.lm_head(hidden[:, :-1][wanted])
    losses = functional.cross_entropy(logits.float(), ids[:, 1:][wanted], reduction="none")
    weights = (1 / wanted.sum(dim=1, keepdim=True).clamp(min=1)).expand_as(wanted)[wanted]
    return (losses * weights).sum() / len(ids)


def _letters_loss(
    model: Qwen2_5_VLForConditionalGeneration, tokenizer: Qwen2Tokenizer, turns: list[tuple[str, str]]
) -> torch.Tensor:
    """Cross entropy of the letters in the assistant's turns of exercises."""
    ids, trained = _padded(encode(turns, 0, tokenizer), tokenizer.pad_token_id)
    letters = tokenizer.convert_tokens_to_ids([f"{space}{letter}" for space in ("", "Ġ") for letter in "ABCD"])
    trained &= torch.isin(ids, torch.tensor(letters))
    position_ids = torch.arange(ids.shape[1]).expand(3, 1, -1)
    return _row_loss(model, model.get_input_embeddings()(ids), position_ids, ids, trained)


def train_reading(
    model: Qwen2_5_VLForConditionalGeneration, tokenizer: Qwen2Tokenizer, settings: Settings, checkpoint: Path
) -> None:
    """Exercises without pictures, language model only, in place; resumes from `checkpoint`.

    First words and letters, then whole turns about one list; nothing but the letters is trained.
    """
    training = Training({"language": model.model.language_model}, settings, settings.text_rate, settings.reading_steps)
    training.resume(checkpoint)
    rng = np.random.default_rng([settings.seed, 20, training.step])
    words = words_of(tokenizer)
    matching_end, hard_from = settings.reading_marks
    running = 0.0
    while training.step < settings.reading_steps:
        if training.step < matching_end:
            turns = [matching_turn(words, rng) for _ in range(settings.reading_rows)]
        else:
            hard = training.step >= hard_from
            turns = [repeated_turn(words, rng, hard) for _ in range(settings.reading_rows)]
        with torch.autocast("cpu", dtype=torch.bfloat16):
            loss = _letters_loss(model, tokenizer, turns)
        training.update(loss)
        running = 0.95 * running + 0.05 * loss.item() if running else loss.item()
        if training.step % 50 == 0:
            logger.info("reading %d: loss %.4f", training.step, running)
        if training.step % settings.checkpoint_every == 0 or training.step == settings.reading_steps:
            training.save(checkpoint)


def train_text(
    model: Qwen2_5_VLForConditionalGeneration,
    tokenizer: Qwen2Tokenizer,
    pool: Pool,
    settings: Settings,
    checkpoint: Path,
) -> None:
    """Train the language model in place, the tower frozen, resuming from `checkpoint`.

    The exercises go on beside the questions, or they are forgotten.
    """
    training = Training({"language": model.model.language_model}, settings, settings.text_rate, settings.text_steps)
    training.resume(checkpoint)
    batches = text_batches(pool, make_yardstick(pool, settings), tokenizer, settings, seed=10 + training.step)
    words, rng = words_of(tokenizer), np.random.default_rng([settings.seed, 30, training.step])
    started, num_crops, running, letters = time.monotonic(), 0, 0.0, 0.0
    while training.step < settings.text_steps:
        batch = next(batches)
        exercises = [repeated_turn(words, rng, hard=True) for _ in range(settings.rehearsal_rows // 4)]
        exercises += [merged_turn(words, rng) for _ in range(settings.rehearsal_rows - len(exercises))]
        with torch.autocast("cpu", dtype=torch.bfloat16):
            with torch.no_grad():
                merged = merged_tokens(model, batch.pixels, settings)
            loss = answer_loss(model, merged, batch, settings)
            rehearsal = _letters_loss(model, tokenizer, exercises)
        training.update(loss + rehearsal)
        num_crops += len(batch.ids)
        running = loss.item() if not running else 0.98 * running + 0.02 * loss.item()
        letters = rehearsal.item() if not letters else 0.98 * letters + 0.02 * rehearsal.item()
        if training.step % 50 == 0 or training.step == settings.text_steps:
            speed = num_crops / (time.monotonic() - started)
            values = (training.step, running, letters, speed)
            logger.info("text %d: loss %.4f, exercises %.4f, %.0f crops/s", *values)
        if training.step % settings.checkpoint_every == 0 or training.step == settings.text_steps:
            training.save(checkpoint)
