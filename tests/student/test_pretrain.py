"""Pre-training, run small but whole: photographs to a folder that transformers loads."""

import csv
import json
import sys
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from tasks.student import torchvision_operators as _torchvision_operators  # noqa: F401  before transformers

import torch  # isort: skip
from transformers import AutoModelForImageTextToText, AutoProcessor

from tasks.student.pretrain import __main__ as command
from tasks.student.pretrain.architecture import cosine_filters, new_model, patches_of
from tasks.student.pretrain.photographs import collect
from tasks.student.pretrain.pool import change_crop, draw_crop
from tasks.student.pretrain.settings import Settings
from tasks.student.pretrain.text_stage import positions
from tasks.student.pretrain.tokenizer import SPECIAL_TOKENS
from tasks.student.pretrain.vision_stage import merged_tokens

IDS = {token: index for index, token in enumerate(SPECIAL_TOKENS)}
SMALL = Settings(
    vision_width=48, vision_depth=2, vision_mlp=64, text_width=48, text_depth=2, text_mlp=64, vocabulary=600
)


@pytest.fixture(scope="module")
def model():
    return new_model(SMALL, IDS).eval()


def photograph(seed, side=240):
    rng = np.random.default_rng(seed)
    small = Image.fromarray(rng.integers(0, 256, (20, 20, 3), dtype=np.uint8))
    return small.resize((side, side), Image.Resampling.BICUBIC)


@pytest.fixture(scope="module")
def photographs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("photographs")
    rows = [("a.png", "train"), ("b.png", "train"), ("c.png", "test")]
    for seed, (name, _) in enumerate(rows):
        photograph(seed).save(folder / name)
    photograph(2, side=200).save(folder / "c_again.png")
    with (folder / "photographs.csv").open("w", newline="") as file:
        csv.writer(file).writerows([("file", "split"), *rows])
    return folder


def test_what_looks_like_a_held_out_photograph_is_not_seen(photographs):
    kept = collect([photographs], [photographs / "c.png"])
    assert [seen.name for seen, _ in kept] == ["a.png", "b.png"]


def test_no_photograph_is_an_error(tmp_path):
    with pytest.raises(ValueError, match="no photograph"):
        collect([tmp_path], [])


def test_cosine_filters_do_not_overlap_and_start_with_the_mean():
    filters = cosine_filters(Settings()).reshape(192, -1)
    overlaps = filters @ filters.T
    np.fill_diagonal(overlaps, 0)
    assert np.abs(overlaps).max() < 1e-4
    assert np.ptp(filters[0]) < 1e-6


def test_first_block_squares_the_brightness_filters(model):
    mlp = model.model.visual.blocks[0].mlp
    x = torch.zeros(1, SMALL.vision_width)
    x[0, 3] = 0.7
    units = mlp.act_fn(mlp.gate_proj(x)) * mlp.up_proj(x)
    num_pairs = SMALL.vision_width - 32
    assert (units[0, 3] + units[0, num_pairs + 3]).item() == pytest.approx((2 * 0.7) ** 2, rel=1e-5)


@pytest.mark.parametrize("side", [112, 168])
def test_the_fast_forward_is_the_towers_own(model, side):
    pixels = torch.randint(0, 256, (2, side, side, 3), dtype=torch.uint8)
    patches, grid = patches_of(pixels, SMALL)
    with torch.no_grad():
        own = model.model.visual(patches, grid_thw=grid).pooler_output
        torch.testing.assert_close(merged_tokens(model, pixels, SMALL), own, rtol=1e-4, atol=1e-4)


def test_heads_begin_by_looking_back_and_for_their_like():
    language = new_model(Settings(vocabulary=600), IDS)
    language.set_attn_implementation("eager")
    language = language.model.language_model
    ids = torch.randperm(600, generator=torch.Generator().manual_seed(0))[None, :40]
    ids[0, 35] = ids[0, 12]
    output = language(
        inputs_embeds=language.embed_tokens(ids),
        position_ids=torch.arange(40).expand(3, 1, -1),
        output_attentions=True,
    )
    first, second = (attention[0, :, 35].detach() for attention in output.attentions[:2])
    assert [int(first[head].argmax()) for head in (0, 1)] == [34, 33]
    assert [int(second[head].argmax()) for head in (0, 1)] == [34, 32]
    like = first[2:].clone()
    like[:, 35] = 0  # a token is most like itself
    assert [int(row.argmax()) for row in like] == [12, 12]


def test_positions_are_the_models_own(model):
    image = IDS["<|image_pad|>"]
    ids = torch.tensor([[1, 2, 3] + [image] * 16 + [5, 6, 7, 8]] * 2)
    own, _ = model.model.get_rope_index(ids, (ids == image).int(), image_grid_thw=torch.tensor([[1, 8, 8]] * 2))
    assert torch.equal(positions(ids, image, 112, SMALL).expand(-1, 2, -1), own)


def test_crops_change_only_inside_their_boxes(photographs):
    pictures = [pixels for _, pixels in collect([photographs], [])]
    rng = np.random.default_rng(5)
    settings = replace(SMALL, count_shares=(0, 1, 0, 0), box_share=1.0)
    for _ in range(10):
        clean = draw_crop(pictures, 168, rng)
        changed, [(left, top, right, bottom)] = change_crop(clean, settings, rng)
        outside = changed.astype(int) - clean
        outside[top:bottom, left:right] = 0
        assert not outside.any()


@pytest.mark.slow
def test_the_command_writes_a_folder_that_transformers_loads(photographs, tmp_path, monkeypatch):
    changes = {
        "num_crops": 16, "shard_size": 8, "workers": 1, "vocabulary": 700, "warmup": 1, "checkpoint_every": 2,
        "vision_width": 48, "vision_depth": 2, "vision_mlp": 64, "text_width": 48, "text_depth": 2, "text_mlp": 64,
        "vision_steps": 3, "vision_patches": 300, "reading_steps": 4, "reading_rows": 4, "reading_marks": (1, 2),
        "rehearsal_rows": 4, "text_steps": 3, "text_tokens": 700,
    }  # fmt: skip
    folders = ["--photos", str(photographs), "--work", str(tmp_path / "work"), "--out", str(tmp_path / "tiny")]
    settings = [part for name, value in changes.items() for part in ("--set", f"{name}={value}")]
    monkeypatch.setattr(sys, "argv", ["pretrain", *folders, "--threads", "1", *settings])
    command.main()
    written = {file.name: file.read_bytes() for file in (tmp_path / "tiny").iterdir()}
    assert [row["name"] for row in json.loads(written["photographs.json"])] == ["a.png", "b.png"]
    processor = AutoProcessor.from_pretrained(tmp_path / "tiny")
    model = AutoModelForImageTextToText.from_pretrained(tmp_path / "tiny", dtype=torch.float32)
    messages = [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "Grain overall?"}]}]
    prompt = processor.apply_chat_template(messages, add_generation_prompt=True)
    inputs = processor(text=[prompt], images=[photograph(9, side=112)], return_tensors="pt")
    generated = model.generate(**inputs, max_new_tokens=4, min_new_tokens=4)
    assert generated.shape[1] == inputs["input_ids"].shape[1] + 4
    command.main()  # everything is there: nothing is trained again, and the same weights come out
    assert (tmp_path / "tiny" / "model.safetensors").read_bytes() == written["model.safetensors"]
