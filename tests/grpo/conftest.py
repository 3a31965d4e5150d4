"""A Qwen2.5-VL student with random weights, small enough that a GRPO step takes a fraction of a second."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from data_contracts.records import DIALOGUES, DIFFICULTY
from pipeline_config.schema import PipelineConfig
from tasks.launcher.job import Job

CHAT_TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{% if message['content'] is string %}"
    "{{ message['content'] }}{% else %}{% for part in message['content'] %}{% if part['type'] == 'image' %}"
    "<|vision_start|><|image_pad|><|vision_end|>{% else %}{{ part['text'] }}{% endif %}{% endfor %}{% endif %}"
    "<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
SPECIAL = [
    "<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|vision_start|>", "<|vision_end|>", "<|vision_pad|>",
    "<|image_pad|>", "<|video_pad|>", "<|object_ref_start|>", "<|object_ref_end|>", "<|box_start|>", "<|box_end|>",
    "<think></think><answer>", "</answer>",
]  # fmt: skip
SIDE = 56  # pixels: 2 x 2 vision tokens


@pytest.fixture(scope="session")
def student_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint folder: byte-level tokenizer, the answer's frame as two tokens, two layers of vision and of text."""
    import tasks.student.torchvision_operators  # noqa: F401

    # isort: split
    import torch
    from transformers import Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration

    folder = tmp_path_factory.mktemp("student")
    ids = _save_processor(folder)
    torch.manual_seed(0)
    config = Qwen2_5_VLConfig(
        text_config={
            "vocab_size": 272,
            "hidden_size": 32,
            "intermediate_size": 64,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "num_key_value_heads": 1,
            "max_position_embeddings": 512,
            "tie_word_embeddings": True,
            "rope_parameters": {"rope_type": "default", "rope_theta": 1000.0, "mrope_section": [2, 3, 3]},
            "bos_token_id": ids["<|endoftext|>"],
            "eos_token_id": ids["<|im_end|>"],
            "pad_token_id": ids["<|endoftext|>"],
        },
        vision_config={
            "depth": 2,
            "hidden_size": 32,
            "intermediate_size": 64,
            "num_heads": 2,
            "out_hidden_size": 32,
            "window_size": 56,
            "fullatt_block_indexes": [1],
        },
        image_token_id=ids["<|image_pad|>"],
        video_token_id=ids["<|video_pad|>"],
        vision_start_token_id=ids["<|vision_start|>"],
        vision_end_token_id=ids["<|vision_end|>"],
        tie_word_embeddings=True,
    )
    Qwen2_5_VLForConditionalGeneration(config).save_pretrained(folder)
    return folder


def _save_processor(folder: Path) -> dict[str, int]:
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
    from transformers import Qwen2_5_VLProcessor, Qwen2TokenizerFast, Qwen2VLImageProcessor, Qwen2VLVideoProcessor

    alphabet = {letter: i for i, letter in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}
    tokenizer = Tokenizer(models.BPE(vocab=alphabet, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in SPECIAL])
    fast = Qwen2TokenizerFast(tokenizer_object=tokenizer, eos_token="<|im_end|>", pad_token="<|endoftext|>")
    pictures: Any = Qwen2VLImageProcessor(min_pixels=28 * 28, max_pixels=112 * 112)
    processor = Qwen2_5_VLProcessor(pictures, fast, Qwen2VLVideoProcessor(), chat_template=CHAT_TEMPLATE)
    processor.save_pretrained(folder)
    return {token: fast.convert_tokens_to_ids(token) for token in SPECIAL}


def dialogue(index: int, media_path: Path, num_pairs: int = 1) -> dict[str, Any]:
    """A row of DIALOGUES: choice questions whose answer is always B."""
    pairs = [
        {
            "question_id": f"q{index}-{i}",
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


def letters(item: Any) -> float:
    """A reward that random weights already earn a little of: the share of letters in the completion."""
    text = item.turn.text
    return sum(c.isascii() and c.isalpha() for c in text) / max(1, len(text))


def rare(item: Any) -> float:
    """A reward that random weights seldom earn: 1 for a completion of more letters than three in four."""
    return float(letters(item) > 0.75)


@pytest.fixture
def letters_reward() -> Iterator[None]:
    """While a test runs, ``letters`` and ``rare`` are in the table of rewards, under their names."""
    from tasks.rewards.reward import REWARDS, reward

    reward("letters", judges="form", source="test", formula="letters / characters")(letters)
    reward("rare", judges="form", source="test", formula="letters > 3/4 of characters")(rare)
    yield
    del REWARDS["letters"], REWARDS["rare"]


@pytest.fixture
def make_job(make_job_in: Callable[..., Job], tmp_path: Path) -> Callable[..., Job]:
    """make_job(name, ...): a GRPO job in a folder of its own under ``tmp_path``, otherwise as `make_job_in`."""
    return functools.partial(make_job_in, tmp_path)


@pytest.fixture(scope="session")
def make_job_in(student_folder: Path, tables: dict[str, Path]) -> Callable[..., Job]:
    """A GRPO job in ``parent/name``; config_student and the rest: keys of those sections."""

    def make(
        parent: Path,
        name: str = "job",
        rubric: str = "letters",
        config_student: dict[str, Any] | None = None,
        **grpo: Any,
    ) -> Job:
        lr = grpo.pop("lr", 3e-2)
        defaults = {
            "steps": 3,
            "prompts_per_step": 2,
            "num_rollouts": 4,
            "max_new_tokens": 8,
            "batch_size": 3,
            "probe_prompts": 0,
            "save_steps": 100,
            "optimiser": {"lr": lr, "scheduler": "constant"},
        }
        config = PipelineConfig.model_validate(
            {
                "name": "test",
                "ingest": {"sources": [{"kind": "degrade", "name": "unused"}]},
                "sft": {"optimiser": {"lr": 1e-3}},
                "rewards": {"rubrics": {"choice": {rubric: 1.0}}},
                "student": config_student or {},
                "grpo": {**defaults, **grpo},
            }
        )
        folder = parent / name
        folder.mkdir(exist_ok=True)
        inputs = {key: str(path) for key, path in {**tables, "student": student_folder}.items()}
        return Job(config, inputs, folder / "out", folder, 7, {"stage_run": "run/grpo"})

    return make
