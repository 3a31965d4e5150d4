"""A small tokenizer in Qwen2's form, and the processor around it.

Byte-level BPE: any text can be written. It knows the words of talk about picture quality, among them those of this
project's questions, so that its text stays short; a word's spelling teaches the model nothing about its meaning. Digits
stand one by one. Qwen2.5-VL's special tokens are all there; the four tags of a turn are single tokens but not special,
so that they survive decoding.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from tokenizers import AddedToken, Regex, Tokenizer, decoders, normalizers, pre_tokenizers
from tokenizers.models import BPE
from tokenizers.trainers import BpeTrainer
from transformers import Qwen2_5_VLProcessor, Qwen2Tokenizer
from transformers.models.qwen2.tokenization_qwen2 import PRETOKENIZE_REGEX
from transformers.models.qwen2_vl.image_processing_qwen2_vl import Qwen2VLImageProcessor
from transformers.models.qwen2_vl.video_processing_qwen2_vl import Qwen2VLVideoProcessor

from data_contracts.records import DISTORTIONS, LEVELS, SEVERITIES
from tasks.student.pretrain.architecture import PIXEL_MEAN, PIXEL_STD
from tasks.student.pretrain.settings import Settings

SPECIAL_TOKENS = (
    "<|endoftext|>",
    "<|im_start|>",
    "<|im_end|>",
    "<|object_ref_start|>",
    "<|object_ref_end|>",
    "<|box_start|>",
    "<|box_end|>",
    "<|vision_start|>",
    "<|vision_end|>",
    "<|vision_pad|>",
    "<|image_pad|>",
    "<|video_pad|>",
)
TAGS = ("<think>", "</think>", "<answer>", "</answer>")
_LARGEST_PIXELS = 336 * 336
_SMALLEST_PIXELS = 56 * 56

# Qwen2.5-VL's, without the system turn it adds when there is none.
CHAT_TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n"
    "{% if message['content'] is string %}{{ message['content'] }}"
    "{% else %}{% for part in message['content'] %}"
    "{% if part['type'] == 'image' or 'image' in part or 'image_url' in part %}"
    "<|vision_start|><|image_pad|><|vision_end|>"
    "{% elif part['type'] == 'video' or 'video' in part %}<|vision_start|><|video_pad|><|vision_end|>"
    "{% elif 'text' in part %}{{ part['text'] }}{% endif %}{% endfor %}{% endif %}<|im_end|>\n"
    "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)

# Words and turns of phrase that the pipeline writes: the tokenizer should spell them in few pieces.
_PHRASES = (
    "system user assistant",
    "Please provide the bounding box coordinates of all distortions in the image.",
    "Please provide the bounding box coordinates of the region affected by",
    "What distortion affects this region",
    "No distortion affects this region.",
    "No distortion.",
    "Answer with a single option's letter (A, B, C, ...) from the given choices directly.",
    "Please evaluate the image quality in detail and provide your reasons.",
    "Please describe the image quality briefly.",
    "Please describe the in the image.",
    "Please rate the image quality from 1.00 (bad) to 5.00 (excellent).",
    "What is the quality level of the image: bad, poor, fair, good or excellent?",
    "What is the most significant distortion of the image?",
    "Which distortion affects the image most?",
    "Which of these distortions lowers the quality most?",
    "How severe is the distortion in the image?",
    "Where is the distortion in the image?",
    "The quality of the image is",
    "its key distortion is",
    "it has no distortion.",
    "Overall: the quality is lowered; key distortions: ",
    "Overall: nothing lowers the quality; key distortions: none.",
    "Distortions: ",
    "affects the whole of the image",
    "Not visible",
    "whole picture",
    "The picture is dark and mostly red. The picture is dim and mostly orange. well lit, mostly yellow",
    "The picture is bright and mostly green. mostly cyan mostly blue mostly purple mostly grey",
    "sharpness noise blockiness ringing exposure contrast flatness anisotropy aliasing colorfulness measured region",
    "sharp soft flat dark bright colorful blurred blocky ringing rippled noisy jagged clipped uniform smooth",
    "Edges are blurred along one direction. Fine detail is missing. The tones are clipped. Blocks are visible.",
    "higher lower than above below usual strongest weakest so because therefore the and with for from that this",
    "video frame clip second before after during between moves person object scene action",
)


def phrases() -> list[str]:
    """The pipeline's words, as text to learn spelling from."""
    names = [name for distortion in DISTORTIONS for name in (distortion, distortion.lower())]
    severe = [f"{severity} {distortion.lower()}" for severity in SEVERITIES for distortion in DISTORTIONS]
    return [*_PHRASES, *names, *severe, *(f"Thus, the quality of the image is {level}." for level in LEVELS)]


def train_tokenizer(texts: Iterable[str], settings: Settings) -> Qwen2Tokenizer:
    """Learn at most settings.vocabulary tokens, special ones included, from texts."""
    bpe = Tokenizer(BPE())
    bpe.normalizer = normalizers.NFC()
    bpe.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(PRETOKENIZE_REGEX), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    bpe.decoder = decoders.ByteLevel()
    trainer = BpeTrainer(
        vocab_size=settings.vocabulary - len(SPECIAL_TOKENS) - len(TAGS),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    bpe.train_from_iterator(texts, trainer)
    learnt = json.loads(bpe.to_str())["model"]
    tokenizer = Qwen2Tokenizer(
        vocab=learnt["vocab"],
        merges=[tuple(merge) for merge in learnt["merges"]],  # type: ignore[misc]
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
        extra_special_tokens=list(SPECIAL_TOKENS),
        model_max_length=4096,
    )
    tokenizer.add_tokens([AddedToken(tag, special=False, normalized=False) for tag in TAGS])
    return tokenizer


def special_ids(tokenizer: Qwen2Tokenizer) -> dict[str, int]:
    """Ids of the special tokens by their text."""
    vocabulary = tokenizer.get_vocab()
    return {token: vocabulary[token] for token in SPECIAL_TOKENS}


def make_processor(tokenizer: Qwen2Tokenizer, settings: Settings) -> Qwen2_5_VLProcessor:
    """Qwen2.5-VL's processor; pictures whose sides are multiples of 28, 56 to 336 pixels, are not resampled."""
    pictures: dict[str, Any] = {
        "size": {"shortest_edge": _SMALLEST_PIXELS, "longest_edge": _LARGEST_PIXELS},
        "image_mean": [PIXEL_MEAN] * 3,
        "image_std": [PIXEL_STD] * 3,
        "patch_size": settings.patch,
        "merge_size": settings.merge,
        "temporal_patch_size": 2,
    }
    return Qwen2_5_VLProcessor(
        image_processor=Qwen2VLImageProcessor(**pictures),
        tokenizer=tokenizer,
        video_processor=Qwen2VLVideoProcessor(**pictures),
        chat_template=CHAT_TEMPLATE,
    )


def load_processor(folder: Path) -> Qwen2_5_VLProcessor:
    """The processor saved in a folder."""
    return Qwen2_5_VLProcessor.from_pretrained(folder)
