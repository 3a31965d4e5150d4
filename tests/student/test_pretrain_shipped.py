"""The tiny base as it ships: what others rely on, and what it must not have seen."""

import csv
import hashlib
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tasks.student import torchvision_operators as _torchvision_operators  # noqa: F401  before transformers

import torch  # isort: skip
from transformers import AutoModelForImageTextToText, AutoProcessor

from tasks.student.pretrain.architecture import patches_of
from tasks.student.pretrain.settings import Settings
from tasks.student.pretrain.text_stage import encode
from tasks.student.pretrain.tokenizer import SPECIAL_TOKENS, TAGS

ROOT = Path(__file__).parents[2]
TINY = ROOT / "tasks/student/tiny"
PHOTOGRAPHS = ROOT / "tasks/media/photographs"


@pytest.fixture(scope="module")
def processor():
    return AutoProcessor.from_pretrained(TINY)


@pytest.fixture(scope="module")
def model():
    return AutoModelForImageTextToText.from_pretrained(TINY)


def picture(width, height):
    pixels = np.random.default_rng(width).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(pixels)


def prompt(processor, text):
    messages = [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": text}]}]
    return processor.apply_chat_template(messages, add_generation_prompt=True)


def test_size(model):
    assert 2e6 < sum(weight.numel() for weight in model.parameters()) < 6e6
    assert (TINY / "model.safetensors").stat().st_size <= 12_000_000


def test_it_loads_as_float32_with_every_weight_from_the_file(model):
    assert model.dtype == torch.float32
    _, info = AutoModelForImageTextToText.from_pretrained(TINY, output_loading_info=True)
    assert not any(info[key] for key in ("missing_keys", "unexpected_keys", "mismatched_keys"))


def test_no_held_out_photograph_was_seen():
    seen = {row["digest"] for row in json.loads((TINY / "photographs.json").read_text())}
    with (PHOTOGRAPHS / "photographs.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    digests = {split: set() for split in ("train", "test")}
    for row in rows:
        digests[row["split"]].add(hashlib.sha256((PHOTOGRAPHS / row["file"]).read_bytes()).hexdigest())
    assert len(digests["test"]) >= 20
    assert not digests["test"] & seen
    assert digests["train"] & seen


def test_text_survives_the_tokenizer(processor):
    text = "<think>Grain: high (ä, 画).</think><answer>1. B\n2. 3.42\n3. (28,56),(140,168)</answer>"
    ids = processor.tokenizer(text)["input_ids"]
    assert processor.tokenizer.decode(ids, skip_special_tokens=True) == text


def test_digits_stand_alone_and_tags_are_one_token(processor):
    tokens = processor.tokenizer.tokenize("1234 5.67")
    assert [token for token in tokens if any(c.isdigit() for c in token)] == list("1234567")
    for token in (*TAGS, *SPECIAL_TOKENS):
        assert len(processor.tokenizer(token)["input_ids"]) == 1


@pytest.mark.parametrize(("width", "height"), [(56, 56), (112, 112), (140, 112), (112, 168), (168, 168), (336, 336)])
def test_pictures_of_whole_cells_are_not_resampled(processor, width, height):
    given = picture(width, height)
    made = processor.image_processor(images=[given], return_tensors="pt")
    expected, grid = patches_of(torch.from_numpy(np.asarray(given).copy())[None], Settings())
    assert torch.equal(made["image_grid_thw"], grid)
    torch.testing.assert_close(made["pixel_values"], expected, rtol=0, atol=1e-5)


def test_pretraining_writes_what_the_chat_template_writes(processor):
    written, num_prompt = encode([("Grain?", "<think></think><answer>High</answer>")], 16, processor.tokenizer)[0]
    inputs = processor(text=[prompt(processor, "Grain?")], images=[picture(112, 112)])
    assert written[:num_prompt] == inputs["input_ids"][0]


def test_it_answers_in_the_format_it_was_taught(processor, model):
    inputs = processor(text=[prompt(processor, "Brightness overall?")], images=[picture(168, 168)], return_tensors="pt")
    generated = model.generate(**inputs, max_new_tokens=60)[0, inputs["input_ids"].shape[1] :]
    answer = processor.tokenizer.decode(generated, skip_special_tokens=True)
    assert answer.startswith("<think>")
    assert answer.endswith("</answer>")
