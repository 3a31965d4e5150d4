"""A Qwen2.5-VL of a few million parameters, and how its first weights are chosen.

Departures from Qwen2.5-VL-7B, all in the configuration: full attention in every vision block (pictures are small), a
rotary base and sections that suit grids of 4 to 12 cells, tied embeddings. Departures in the initialisation, ours:

* The patch embedding is a cosine transform of brightness and of two colour differences, each filter scaled with its
  frequency so that natural pictures drive all of them alike. Its two temporal halves are equal.
* The pictures are normalised to [1, 3] instead of around zero: the mean of a patch then outweighs its detail, and the
  normalisation at the head of every block keeps absolute contrast instead of dividing it away.
* The first block's gated units come in pairs of opposite sign over the brightness filters. silu(x)x + silu(-x)(-x) is
  x squared: energies per frequency are there from the first step.
* The language model's heads begin as what answering needs them to be. In all layers keys are aligned with queries and
  outputs with values: a token looks for its like and takes it over (after the mimetic initialisation of Trockman and
  Kolter, 2023). In the first two layers half of the heads look one, two or three tokens back instead. With it, finding
  the letter of an option is learned within 100 steps; without, it was not in 1,000.
"""

from __future__ import annotations

import itertools

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration

from tasks.student.pretrain.settings import Settings

# processor: (value / 255 - mean) / std
PIXEL_MEAN = -0.5
PIXEL_STD = 0.5
_COLOURS = torch.tensor([[1.0, 1.0, 1.0], [1.0, 0.0, -1.0], [1.0, -2.0, 1.0]])
_OPPONENT_FREQUENCIES = 4  # per axis
_BRIGHTNESS_FREQUENCIES = 8  # on at least one axis

_QUERY_ALIGNMENT = 0.8  # correlation of the weights of queries and keys
_OUTPUT_ALIGNMENT = 0.4  # of the output projection to the transposed values
_STEPS_BACK = ((1, 2), (1, 3))  # of the first layers' heads in their first key group, in turn
_LOOK_BACK = 5.0  # length of the positional part of queries and keys, per frequency
_LOOK_BACK_FREQUENCIES = 10
_LOOK_BACK_CONTENT = 0.3  # scale of what is left of the other weights


def configuration(settings: Settings, token_ids: dict[str, int]) -> Qwen2_5_VLConfig:
    """The model's configuration. token_ids: ids of the special tokens by text."""
    text = {
        "vocab_size": settings.vocabulary,
        "hidden_size": settings.text_width,
        "intermediate_size": settings.text_mlp,
        "num_hidden_layers": settings.text_depth,
        "num_attention_heads": settings.text_heads,
        "num_key_value_heads": settings.text_kv_heads,
        "max_position_embeddings": 4096,
        "rms_norm_eps": 1e-6,
        "tie_word_embeddings": True,
        # Columns get the middle and low frequencies, rows the high ones: 4 to 12 cells a side must be told apart,
        # and the low ones let text attend to the picture from any distance.
        "rope_parameters": {"rope_type": "default", "rope_theta": 1000.0, "mrope_section": _sections(settings)},
        "bos_token_id": token_ids["<|endoftext|>"],
        "eos_token_id": token_ids["<|im_end|>"],
        "pad_token_id": token_ids["<|endoftext|>"],
    }
    vision = {
        "depth": settings.vision_depth,
        "hidden_size": settings.vision_width,
        "intermediate_size": settings.vision_mlp,
        "num_heads": settings.vision_heads,
        "out_hidden_size": settings.text_width,
        "patch_size": settings.patch,
        "spatial_merge_size": settings.merge,
        "temporal_patch_size": 2,
        "tokens_per_second": 2,
        "window_size": 112,
        "fullatt_block_indexes": list(range(settings.vision_depth)),
    }
    return Qwen2_5_VLConfig(
        text_config=text,
        vision_config=vision,
        image_token_id=token_ids["<|image_pad|>"],
        video_token_id=token_ids["<|video_pad|>"],
        vision_start_token_id=token_ids["<|vision_start|>"],
        vision_end_token_id=token_ids["<|vision_end|>"],
        tie_word_embeddings=True,
    )


def _sections(settings: Settings) -> list[int]:
    half = settings.text_width // settings.text_heads // 2
    rows = half // 6
    return [1, rows, half - rows - 1]


def new_model(settings: Settings, token_ids: dict[str, int]) -> Qwen2_5_VLForConditionalGeneration:
    """A model with the first weights described above, float32, deterministic in settings.seed."""
    torch.manual_seed(settings.seed)
    model = Qwen2_5_VLForConditionalGeneration(configuration(settings, token_ids))
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if weight.ndim == 2:
                deviation = weight.shape[1] ** -0.5
                if name.endswith(("o_proj.weight", "attn.proj.weight", "down_proj.weight")):
                    deviation *= 0.3
                torch.nn.init.normal_(weight, std=deviation)
        torch.nn.init.normal_(model.model.language_model.embed_tokens.weight, std=0.1)
        first_filters = torch.from_numpy(cosine_filters(settings))
        model.model.visual.patch_embed.proj.weight.copy_(first_filters[:, :, None].expand(-1, -1, 2, -1, -1) / 2)
        _pair_energies(model, settings)
        _align_heads(model)
    return model


def cosine_filters(settings: Settings) -> NDArray[np.float32]:
    """Filters, vision_width x 3 x patch x patch: brightness first, by rising frequency, then two colour differences."""
    patch = settings.patch
    places = (np.arange(patch) + 0.5) / patch
    waves = np.cos(np.pi * np.arange(patch)[:, None] * places[None, :])
    waves /= np.linalg.norm(waves, axis=1, keepdims=True)
    grid = sorted(np.ndindex(patch, patch), key=lambda index: (index[0] ** 2 + index[1] ** 2, index))
    brightness = [index for index in grid if min(index) < _BRIGHTNESS_FREQUENCIES]
    opponents = [index for index in grid if max(index) < _OPPONENT_FREQUENCIES]
    num_brightness = settings.vision_width - 2 * len(opponents)
    chosen = [(0, index) for index in brightness[:num_brightness]]
    chosen += [(colour, index) for colour in (1, 2) for index in opponents]
    colours = (_COLOURS / _COLOURS.norm(dim=1, keepdim=True)).numpy()
    filters = []
    for colour, (row, column) in chosen:
        frequency = np.hypot(row, column)
        scale = 0.25 if frequency == 0 else 0.35 * frequency**0.8
        plane = scale * np.outer(waves[row], waves[column])
        filters.append(colours[colour][:, None, None] * plane[None])
    return np.stack(filters).astype(np.float32)


def _pair_energies(model: Qwen2_5_VLForConditionalGeneration, settings: Settings) -> None:
    """Make the first block's gated units squares of the brightness filters, as many as fit."""
    mlp = model.model.visual.blocks[0].mlp
    num_pairs = min(settings.vision_mlp // 2, settings.vision_width - 2 * _OPPONENT_FREQUENCIES**2)
    for sign, start in ((2.0, 0), (-2.0, num_pairs)):
        for projection in (mlp.gate_proj, mlp.up_proj):
            rows = projection.weight[start : start + num_pairs]
            rows.zero_()
            rows[:, :num_pairs] = sign * torch.eye(num_pairs)
            projection.bias[start : start + num_pairs].zero_()
    mlp.down_proj.weight[:, num_pairs : 2 * num_pairs] = mlp.down_proj.weight[:, :num_pairs]


def _align_heads(model: Qwen2_5_VLForConditionalGeneration) -> None:
    """Make heads match content, and some of the first layers' heads look a fixed number of tokens back."""
    language = model.model.language_model
    frequencies = language.rotary_emb.inv_freq
    for index, layer in enumerate(language.layers):
        attention = layer.self_attn
        groups, per_group = attention.config.num_key_value_heads, attention.num_key_value_groups
        key = attention.k_proj.weight.view(groups, 1, attention.head_dim, -1)
        query = attention.q_proj.weight.view(groups, per_group, attention.head_dim, -1)
        query.mul_((1 - _QUERY_ALIGNMENT**2) ** 0.5).add_(_QUERY_ALIGNMENT * key)
        value = attention.v_proj.weight.view(groups, 1, attention.head_dim, -1)
        attention.o_proj.weight.add_(_OUTPUT_ALIGNMENT * value.expand_as(query).flatten(0, 2).T)
        if index >= len(_STEPS_BACK):
            continue
        key[0].mul_(_LOOK_BACK_CONTENT)
        query[0].mul_(_LOOK_BACK_CONTENT)
        key_bias = attention.k_proj.bias.view(groups, 2, -1)[0, :, :_LOOK_BACK_FREQUENCIES]
        query_bias = attention.q_proj.bias.view(groups, per_group, 2, -1)[0, :, :, :_LOOK_BACK_FREQUENCIES]
        key_bias[0] = _LOOK_BACK
        for head, steps in zip(range(per_group), itertools.cycle(_STEPS_BACK[index]), strict=False):
            angle = frequencies[:_LOOK_BACK_FREQUENCIES] * steps
            query_bias[head, 0], query_bias[head, 1] = _LOOK_BACK * angle.cos(), -_LOOK_BACK * angle.sin()


def patches_of(pixels: torch.Tensor, settings: Settings) -> tuple[torch.Tensor, torch.Tensor]:
    """What the processor makes of equal-sized pictures, without the processor's overhead per picture.

    pixels: uint8, pictures x side x side x 3. Returns patches x values (float32) and the grid, pictures x 3.
    """
    num, height, width, _ = pixels.shape
    patch, merge = settings.patch, settings.merge
    values = (pixels.permute(0, 3, 1, 2).float() / 255 - PIXEL_MEAN) / PIXEL_STD
    rows, columns = height // patch, width // patch
    blocks = values.reshape(num, 3, rows // merge, merge, patch, columns // merge, merge, patch)
    blocks = blocks.permute(0, 2, 5, 3, 6, 1, 4, 7)
    blocks = blocks.unsqueeze(6).expand(-1, -1, -1, -1, -1, -1, 2, -1, -1)
    grid = torch.tensor([[1, rows, columns]]).expand(num, -1)
    return blocks.reshape(num * rows * columns, -1), grid
