"""Students with random weights, one of each family, and pictures; the shipped student is loaded where it is tested."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

SPECIAL = [
    "<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|vision_start|>", "<|vision_end|>", "<|vision_pad|>",
    "<|image_pad|>", "<|video_pad|>", "<|object_ref_start|>", "<|object_ref_end|>", "<|box_start|>", "<|box_end|>",
]  # fmt: skip
CHAT_TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{% if message['content'] is string %}"
    "{{ message['content'] }}{% else %}{% for part in message['content'] %}{% if part['type'] == 'image' %}"
    "<|vision_start|><|image_pad|><|vision_end|>{% else %}{{ part['text'] }}{% endif %}{% endfor %}{% endif %}"
    "<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
VOCABULARY = 272  # bytes, special tokens, and a few rows without a token, as large checkpoints have


@pytest.fixture(scope="session")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Checkpoint folders by family: two layers of vision and of text, 32 wide, byte-level tokenizer."""
    return {family: checkpoint(tmp_path_factory.mktemp(family), family) for family in ("qwen2_5_vl", "qwen2_vl")}


@pytest.fixture(scope="session")
def picture(tmp_path_factory: pytest.TempPathFactory) -> Callable[[int, int], str]:
    """picture(width, height) -> path of a PNG of noise of that size."""
    from PIL import Image

    folder = tmp_path_factory.mktemp("pictures")

    def make(width: int, height: int) -> str:
        path = folder / f"{width}x{height}.png"
        if not path.exists():
            pixels = np.random.default_rng(width * height).integers(0, 256, (height, width, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(path)
        return str(path)

    return make


@pytest.fixture(scope="session")
def student(folders: dict[str, Path]) -> Any:
    """The Qwen2.5-VL student for inference; tests must leave it as it is."""
    from pipeline_config.schema import StudentConfig
    from tasks.student.checkpoint import load_student

    return load_student(str(folders["qwen2_5_vl"]), StudentConfig())


def checkpoint(folder: Path, family: str) -> Path:
    """Save a student of the family with random weights."""
    import tasks.student.torchvision_operators  # noqa: F401

    # isort: split
    import torch
    import transformers as tf

    ids = _save_processor(folder, family)
    text = {
        "vocab_size": VOCABULARY, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2,
        "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 1024,
        "rope_parameters": {"rope_type": "default", "rope_theta": 1000.0, "mrope_section": [1, 1, 2]},
        "bos_token_id": ids["<|endoftext|>"], "eos_token_id": ids["<|im_end|>"], "pad_token_id": ids["<|endoftext|>"],
    }  # fmt: skip
    media = {
        "image_token_id": ids["<|image_pad|>"], "video_token_id": ids["<|video_pad|>"],
        "vision_start_token_id": ids["<|vision_start|>"], "vision_end_token_id": ids["<|vision_end|>"],
    }  # fmt: skip
    torch.manual_seed(0)
    if family == "qwen2_5_vl":
        vision = {
            "depth": 2, "hidden_size": 32, "intermediate_size": 64, "num_heads": 2, "out_hidden_size": 32,
            "window_size": 56, "fullatt_block_indexes": [1],
        }  # fmt: skip
        config = tf.Qwen2_5_VLConfig(text_config=text, vision_config=vision, tie_word_embeddings=True, **media)
        model: Any = tf.Qwen2_5_VLForConditionalGeneration(config)
    else:
        vision = {"depth": 2, "embed_dim": 32, "hidden_size": 32, "num_heads": 2, "mlp_ratio": 2}
        config = tf.Qwen2VLConfig(text_config=text, vision_config=vision, tie_word_embeddings=True, **media)
        model = tf.Qwen2VLForConditionalGeneration(config)
    with torch.no_grad():  # larger than the default: greedy answers then depend on prompt and picture
        for parameter in model.parameters():
            if parameter.ndim > 1:
                torch.nn.init.normal_(parameter, std=0.15)
    model.save_pretrained(folder)
    return folder


def _save_processor(folder: Path, family: str) -> dict[str, int]:
    import transformers as tf
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

    alphabet = {letter: i for i, letter in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}
    tokenizer = Tokenizer(models.BPE(vocab=alphabet, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in SPECIAL])
    fast = tf.Qwen2TokenizerFast(tokenizer_object=tokenizer, eos_token="<|im_end|>", pad_token="<|endoftext|>")
    pictures: Any = tf.Qwen2VLImageProcessor(min_pixels=56 * 56, max_pixels=224 * 224)
    kind: Any = tf.Qwen2_5_VLProcessor if family == "qwen2_5_vl" else tf.Qwen2VLProcessor
    kind(pictures, fast, tf.Qwen2VLVideoProcessor(), chat_template=CHAT_TEMPLATE).save_pretrained(folder)
    return {token: fast.convert_tokens_to_ids(token) for token in SPECIAL}
