"""What every test starts from: a home, students with random weights, dialogues."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import settings

from data_contracts.records import DIALOGUES, DIFFICULTY
from pipeline_config.home import HOME_VARIABLE
from pipeline_config.schema import CONFIG_FOLDER

CHAT_TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{% if message['content'] is string %}"
    "{{ message['content'] }}{% else %}{% for part in message['content'] %}{% if part['type'] == 'image' %}"
    "<|vision_start|><|image_pad|><|vision_end|>{% else %}{{ part['text'] }}{% endif %}{% endfor %}{% endif %}"
    "<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
SPECIAL = (
    "<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|vision_start|>", "<|vision_end|>", "<|vision_pad|>",
    "<|image_pad|>", "<|video_pad|>", "<|object_ref_start|>", "<|object_ref_end|>", "<|box_start|>", "<|box_end|>",
)  # fmt: skip
ANSWER_FRAME = ("<think></think><answer>", "</answer>")
VOCABULARY = 272  # bytes, special tokens, and a few rows without a token, as large checkpoints have
SIDE = 56  # pixels: 2 x 2 vision tokens


@pytest.fixture(scope="session", autouse=True)
def _home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A home of the tests' own: students keep features there."""
    before = os.environ.get(HOME_VARIABLE)
    folder = tmp_path_factory.mktemp("home")
    os.environ[HOME_VARIABLE] = str(folder)
    yield folder
    if before is None:
        del os.environ[HOME_VARIABLE]
    else:
        os.environ[HOME_VARIABLE] = before


def pytest_configure() -> None:
    """Property tests draw the same examples every time, and SIGINT works.

    A shell hands SIGINT to its background jobs ignored, and they to their children; tests send it and wait.
    """
    settings.register_profile("repeatable", derandomize=True)
    settings.load_profile("repeatable")
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture
def pictures_seen(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The number of pictures of each call of any Qwen2.5-VL student's vision tower, from here on."""
    import tasks.student.torchvision_operators  # noqa: F401  before transformers

    # isort: split
    from transformers.models.qwen2_5_vl.modeling_qwen2_5_vl import Qwen2_5_VisionTransformerPretrainedModel as Tower

    seen: list[int] = []
    forward = Tower.forward

    def counting(self: Any, hidden_states: Any, grid_thw: Any, **settings: Any) -> Any:
        seen.append(len(grid_thw))
        return forward(self, hidden_states, grid_thw=grid_thw, **settings)

    monkeypatch.setattr(Tower, "forward", counting)
    return seen


@pytest.fixture
def zero_file(tmp_path: Path) -> Callable[[int], str]:
    """zero_file(stage) -> the shipped DeepSpeed file, except that ZeRO-3 shards small weights too.

    It keeps what has fewer than 100,000 elements whole, which a test's student has throughout.
    """

    def write(stage: int) -> str:
        tree = json.loads((CONFIG_FOLDER / "deepspeed" / f"zero{stage}.json").read_text())
        if stage == 3:
            tree["zero_optimization"]["stage3_param_persistence_threshold"] = 0
        path = tmp_path / f"zero{stage}.json"
        path.write_text(json.dumps(tree))
        return str(path)

    return write


@pytest.fixture(scope="session")
def student_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Qwen2.5-VL checkpoint that a GRPO step takes a fraction of a second with; the answer's frame is two tokens."""
    text = {
        "num_attention_heads": 2, "num_key_value_heads": 1, "max_position_embeddings": 512,
        "tie_word_embeddings": True,
        "rope_parameters": {"rope_type": "default", "rope_theta": 1000.0, "mrope_section": [2, 3, 3]},
    }  # fmt: skip
    folder = tmp_path_factory.mktemp("student")
    _save_student(folder, "qwen2_5_vl", text, (*SPECIAL, *ANSWER_FRAME), (28 * 28, 112 * 112))
    return folder


@pytest.fixture(scope="session")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Checkpoints by family, of larger weights: greedy answers then depend on prompt and picture."""
    text = {
        "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 1024,
        "rope_parameters": {"rope_type": "default", "rope_theta": 1000.0, "mrope_section": [1, 1, 2]},
    }  # fmt: skip
    made = {family: tmp_path_factory.mktemp(family) for family in ("qwen2_5_vl", "qwen2_vl")}
    for family, folder in made.items():
        _save_student(folder, family, text, SPECIAL, (56 * 56, 224 * 224), std=0.15)
    return made


def _save_student(
    folder: Path,
    family: str,
    text: dict[str, Any],
    special: tuple[str, ...],
    pixels: tuple[int, int],
    std: float | None = None,
) -> None:
    """A student with random weights: two layers of vision and of text, 32 wide, byte-level tokenizer."""
    import tasks.student.torchvision_operators  # noqa: F401

    # isort: split
    import torch
    import transformers as tf

    ids = _save_processor(folder, family, special, pixels)
    text = {
        "vocab_size": VOCABULARY, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2,
        "bos_token_id": ids["<|endoftext|>"], "eos_token_id": ids["<|im_end|>"], "pad_token_id": ids["<|endoftext|>"],
        **text,
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
    if std is not None:
        with torch.no_grad():
            for parameter in model.parameters():
                if parameter.ndim > 1:
                    torch.nn.init.normal_(parameter, std=std)
    model.save_pretrained(folder)


def _save_processor(folder: Path, family: str, special: tuple[str, ...], pixels: tuple[int, int]) -> dict[str, int]:
    import transformers as tf
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

    alphabet = {letter: i for i, letter in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}
    tokenizer = Tokenizer(models.BPE(vocab=alphabet, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in special])
    fast = tf.Qwen2TokenizerFast(tokenizer_object=tokenizer, eos_token="<|im_end|>", pad_token="<|endoftext|>")
    pictures: Any = tf.Qwen2VLImageProcessor(min_pixels=pixels[0], max_pixels=pixels[1])
    kind: Any = tf.Qwen2_5_VLProcessor if family == "qwen2_5_vl" else tf.Qwen2VLProcessor
    kind(pictures, fast, tf.Qwen2VLVideoProcessor(), chat_template=CHAT_TEMPLATE).save_pretrained(folder)
    return {token: fast.convert_tokens_to_ids(token) for token in special}


def dialogue(index: int, media_path: Path, num_pairs: int = 1) -> dict[str, Any]:
    """A row of DIALOGUES: choice questions whose answer is always B."""
    pairs = [
        {
            "question_id": f"q{index}-{i}",
            "sub_task": "mcq",
            "kind": "type",
            "problem_type": "choice",
            "question": "Which?\nA. Noise\nB. Low clarity",
            "options": ["Noise", "Low clarity"],
            "answer": "B",
        }
        for i in range(num_pairs)
    ]
    return {
        "dialogue_id": f"d{index:02d}",
        "sample_id": f"s{index}",
        "media_path": str(media_path),
        "source_photograph": f"p{index % 3}",
        "split": "train",
        "sub_task": "mcq",
        "prompt": "Q" * (1 + index % 5),
        "response": "<think></think><answer>B</answer>",
        "merged_from": [pair["question_id"] for pair in pairs],
        "pairs": pairs,
        "num_pairs": num_pairs,
        "num_tokens": 10,
    }


@pytest.fixture(scope="session")
def tables(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Paths of ``dialogues`` (twelve about pictures of their own) and ``difficulty`` (all hard)."""
    from PIL import Image

    folder = tmp_path_factory.mktemp("tables")
    rows = []
    for i in range(12):
        pixels = np.random.default_rng(i).integers(0, 256, (SIDE, SIDE if i % 2 else 2 * SIDE, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{i}.png")
        rows.append(dialogue(i, folder / f"{i}.png"))
    mined = [
        {
            "dialogue_id": row["dialogue_id"], "sub_task": "mcq", "num_rollouts": 4, "rewards": [0.0, 1.0, 0.0, 0.0],
            "pass_rate": 0.25, "num_all_right": 1, "pool": "hard", "why": "1 of 4 are right", "completions": [],
        }
        for row in rows
    ]  # fmt: skip
    pq.write_table(pa.Table.from_pylist(rows, schema=DIALOGUES), folder / "dialogues.parquet")
    pq.write_table(pa.Table.from_pylist(mined, schema=DIFFICULTY), folder / "difficulty.parquet")
    return {name: folder / f"{name}.parquet" for name in ("dialogues", "difficulty")}
