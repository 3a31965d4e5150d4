"""Rough seconds of the stages that run a student, from counts of tokens and this device's speed. No torch. Ours.

For ``--dry-run``, and for the warning of a stage that takes much longer (`tasks.launcher.pace`). Operations are two per
weight and token in a forward and four in its backward, attention not counted; a stage reaches a share of the speed that
one large product has. Good to a factor of two, on a machine that does nothing else.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from pipeline_config.schema import FreezeConfig, ModelShape, PipelineConfig

# Shares of a large product's speed, and seconds per layer and step of what is not a product; measured with the tiny
# student on two processors.
_TRAINING_SHARE, _PREFILL_SHARE, _DECODE_SHARE = 0.2, 0.3, 0.1
_LAYER_SECONDS = 0.001
_VISION_TOKEN_SIDE = 28  # pixels
_PATCHES = 4  # of a vision token
_SAMPLED = 64  # pictures whose size is looked at
_COUNTS, _AVERAGES = ("num_train", "num_test", "num_pictures", "seen"), ("vision", "prompt", "response")


@dataclass(frozen=True)
class Sizes:
    """num_train, num_test: dialogues. num_pictures: distinct ones of the training split. seen: dialogues of an SFT
    epoch, repeats counted. vision, prompt, response: tokens of an average dialogue."""

    num_train: float
    num_test: float
    num_pictures: float
    seen: float
    vision: float
    prompt: float
    response: float


def vision_tokens(width: int, height: int, config: PipelineConfig) -> float:
    """Of a picture of so many pixels, as the processor resizes it, to a token or two."""
    student = config.student
    pixels = min(max(width * height, student.min_pixels or 0), student.max_pixels or math.inf)
    return pixels / _VISION_TOKEN_SIDE**2


def sizes_of(dialogues: Path, config: PipelineConfig) -> Sizes:
    """Of a published DIALOGUES table: text estimated from characters, pictures from the headers of some of them."""
    import pyarrow.parquet as pq
    from PIL import Image

    columns = ["split", "sub_task", "prompt", "response", "media_path"]
    frame = pq.read_table(dialogues, columns=columns).to_pandas()
    train = frame[frame["split"] == "train"]
    pictures = sorted(set(train["media_path"]))
    some = pictures[:: max(1, len(pictures) // _SAMPLED)]
    vision = []
    for path in some:
        with contextlib.suppress(OSError), Image.open(path) as picture:  # the stage itself will name it
            vision.append(vision_tokens(*picture.size, config))
    characters = config.compress.characters_per_token
    return Sizes(
        num_train=len(train),
        num_test=len(frame) - len(train),
        num_pictures=len(pictures),
        seen=float(train["sub_task"].map(lambda name: config.sft.repeats.get(name, 1)).sum()),
        vision=float(np.mean(vision)) if vision else 0.0,
        prompt=float(train["prompt"].str.len().mean()) / characters if len(train) else 0.0,
        response=float(train["response"].str.len().mean()) / characters if len(train) else 0.0,
    )


def combined(parts: Sequence[Sizes]) -> Sizes:
    """Of several sources together: counts add up, tokens are averaged over dialogues."""
    weights = [part.num_train + part.num_test for part in parts]
    return Sizes(
        **{name: sum(getattr(part, name) for part in parts) for name in _COUNTS},
        **{name: float(np.average([getattr(part, name) for part in parts], weights=weights)) for name in _AVERAGES},
    )


def expected_seconds(config: PipelineConfig, shape: ModelShape, sizes: Sizes, operations: float) -> Mapping[str, float]:
    """Seconds of ``sft``, ``mine``, ``grpo`` and ``evaluate``.

    operations: per second, of a large product in the precision that this device computes fast, which need not be the
    configured one.
    """
    return _Estimate(config, shape, sizes, operations * config.student.devices).stages()


@dataclass(frozen=True)
class _Estimate:
    config: PipelineConfig
    shape: ModelShape
    sizes: Sizes
    operations: float

    def stages(self) -> dict[str, float]:
        config, sizes = self.config, self.sizes
        sft, mine, grpo, evaluate = config.sft, config.mine, config.grpo, config.evaluate
        answer = min(sizes.response, evaluate.max_new_tokens)
        num_mined, num_asked = min(mine.prompts, sizes.num_train), min(evaluate.prompts, sizes.num_test)
        rollout = min(sizes.response, grpo.max_new_tokens)
        completions = grpo.prompts_per_step * grpo.num_rollouts
        step = self._sampling(grpo.prompts_per_step, grpo.num_rollouts, rollout, mine.batch_size) + self._training(
            grpo.prompts_per_step, self._prompt + grpo.num_rollouts * rollout, grpo.freeze
        )
        probes = 2 * self._sampling(grpo.probe_prompts, grpo.probe_rollouts, rollout, mine.batch_size)
        steps = min(grpo.steps, (grpo.max_rollouts or math.inf) / completions)
        return {
            "sft": sft.epochs * self._training(sizes.seen, self._prompt + sizes.response, sft.freeze)
            + self._vision(sizes.num_pictures),
            "mine": self._sampling(
                num_mined, mine.num_rollouts, min(sizes.response, mine.max_new_tokens), mine.batch_size
            ),
            "grpo": steps * step + probes,
            # The base, which has not learnt to end its answers, and three students that have.
            "evaluate": self._sampling(num_asked, 1, evaluate.max_new_tokens, evaluate.batch_size)
            + 3 * self._sampling(num_asked, 1, answer, evaluate.batch_size),
        }

    @property
    def _prompt(self) -> float:
        return self.sizes.prompt + self.sizes.vision

    @property
    def _language(self) -> int:
        """Weights of the language model that take part in products: the head, not the table of the inputs."""
        shape = self.shape
        return shape.parameters - shape.vision_parameters - shape.vocabulary * shape.hidden

    def _vision(self, num_pictures: float) -> float:
        """One look of the tower at each."""
        work = 2 * self.shape.vision_parameters * num_pictures * self.sizes.vision * _PATCHES
        return work / self.operations / _PREFILL_SHARE

    def _training(self, num_rows: float, num_tokens: float, freeze: FreezeConfig) -> float:
        """A forward and a backward of rows of so many tokens, vision included."""
        student = self.config.student
        passes = 2 + (2 if student.lora or freeze.language else 4) + (2 if student.gradient_checkpointing else 0)
        language = passes * self._language * num_rows * num_tokens
        vision = 0.0 if freeze.vision else 6.0 * self.shape.vision_parameters * num_rows * self.sizes.vision * _PATCHES
        return (language + vision) / self.operations / _TRAINING_SHARE

    def _sampling(self, num_prompts: float, num_rollouts: int, num_tokens: float, batch_size: int) -> float:
        """Prompts seen once, then one token of every row at once."""
        prefill = 2 * self._language * num_prompts * self._prompt / self.operations / _PREFILL_SHARE
        num_rows = num_prompts * num_rollouts
        work = 2 * self._language * num_rows * num_tokens / self.operations / _DECODE_SHARE
        num_steps = math.ceil(num_rows / self.config.student.devices / batch_size) * num_tokens
        return self._vision(num_prompts) + prefill + work + num_steps * self.shape.layers * _LAYER_SECONDS


def in_words(seconds: float) -> str:
    """``45 s``, ``12 min``, ``3.4 h``."""
    if seconds < 90:
        return f"{seconds:,.0f} s"
    return f"{seconds / 60:,.0f} min" if seconds < 90 * 60 else f"{seconds / 3600:,.1f} h"
