"""Rough GPU memory of the stages that run a student, from shape numbers alone, for ``--dry-run``: no weights, no torch.

Ours. Weights, gradients and Adam's states are counted; activations follow Korthikanti et al. (arXiv 2205.05198): 34
bytes per token, hidden unit and layer in half precision, or 2 with recomputation and one layer at its full. Sampling
holds one layer's activations of the prompts that are computed together, their pixels, and the keys and values of all
that are live, each prompt at its longest: all vision tokens that ``student.max_pixels`` allows, and a dialogue's text.
Off by tens of per cent, which is enough to see whether a plan is off by a factor.
"""

from __future__ import annotations

import json
import math
from pathlib import Path

from pipeline_config.schema import ConfigError, FreezeConfig, LoraConfig, ModelShape, PipelineConfig
from tasks.student.location import resolve_model
from tasks.student.zero import zero_stage

GIB = 2**30
_ADAM_BYTES = 8  # two float32 moments
_MASTER_BYTES = 4  # float32 copy that DeepSpeed keeps of half-precision weights
_FULL_ACTIVATION, _KEPT_ACTIVATION = 34, 2  # bytes per token, hidden unit and layer, half precision
_TOKEN_SIDE = 28  # pixels of a vision token of Qwen2-VL and Qwen2.5-VL
_TOKEN_PATCHES = 4
_PIXEL_BYTES = 4 * 2 * 3 * _TOKEN_SIDE**2  # of a vision token: float32, each frame twice, three colours
_OWN_ROOM = 64  # columns that `tasks.student.decode` makes a buffer longer than what it holds


def estimate_memory(config: PipelineConfig) -> dict[str, dict[str, float]]:
    """GiB per device for ``sft``, ``mine``, ``grpo`` and ``evaluate``, with their total.

    weights, and of training gradients, optimiser, activations; of sampling prefill (what computing prompts together
    takes, bounded by ``student.prefill_tokens``) and cache (keys and values of all live prompts and completions).
    ``grpo`` under ZeRO-3 also has ``gathered``, the whole weights that a step's rollouts need on each device. What its
    rollouts take is gone again before there are activations, so its total counts the larger of the two.
    ``student.precision: auto`` counts as float32, the larger; a plan names what it stands for on its machine.
    Raises ConfigError if a deepspeed file is missing, or ``student.shape`` while the checkpoint is not on this machine.
    """
    shape = model_shape(config)
    sft, mine, grpo, evaluate = config.sft, config.mine, config.grpo, config.evaluate
    prompts_drawn = math.ceil(grpo.prompts_per_step * grpo.sampling.max_expansion / config.student.devices)
    grpo_rows = min(mine.batch_size, prompts_drawn * grpo.num_rollouts)
    apart = zero_stage(grpo.deepspeed) >= 3  # its steps go through the model's own forward, the prompt repeated per row
    sft_tokens = sft.batch_size * sft.max_tokens
    sft_labels = min(sft_tokens, sft.batch_size * config.compress.max_tokens)
    # Each prompt once and all its completions, as tasks/grpo/forward.py computes them.
    completion_tokens = grpo.num_rollouts * grpo.max_new_tokens
    grpo_tokens = grpo.batch_size * (sft.max_tokens + completion_tokens)
    grpo_labels = grpo.batch_size * completion_tokens
    return {
        "sft": _stage(config, shape, sft.freeze, sft.deepspeed, sft_tokens, sft_labels),
        "mine": _inference(config, shape, mine.batch_size, mine.num_rollouts, mine.max_new_tokens),
        "grpo": _stage(
            config,
            shape,
            grpo.freeze,
            grpo.deepspeed,
            grpo_tokens,
            grpo_labels,
            reference=grpo.beta > 0,
            sampling=_sampling(config, shape, grpo_rows, grpo.num_rollouts, grpo.max_new_tokens, apart),
        ),
        "evaluate": _inference(config, shape, evaluate.batch_size, 1, evaluate.max_new_tokens),
    }


def model_shape(config: PipelineConfig) -> ModelShape:
    """``student.shape``, or the numbers in the headers of a checkpoint that stands here. Raises ConfigError."""
    if config.student.shape is not None:
        return config.student.shape
    folder = resolve_model(config.student.model)
    files = sorted(folder.glob("*.safetensors")) if isinstance(folder, Path) else []
    if not isinstance(folder, Path) or not files:
        raise ConfigError(
            f"student.shape: missing, and {config.student.model} is not on this machine; give its parameters, "
            "vision_parameters, hidden, layers, vocabulary, kv_width and vision_width"
        )
    sizes = {name: size for file in files for name, size in _tensor_sizes(file).items()}
    tree = json.loads((folder / "config.json").read_text())
    text, vision = {**tree, **tree.get("text_config", {})}, tree["vision_config"]
    return ModelShape(
        parameters=sum(sizes.values()),
        vision_parameters=sum(size for name, size in sizes.items() if "visual." in name),
        hidden=text["hidden_size"],
        layers=text["num_hidden_layers"],
        vocabulary=text["vocab_size"],
        kv_width=text["num_key_value_heads"] * text["hidden_size"] // text["num_attention_heads"],
        vision_width=vision.get("embed_dim") or vision["hidden_size"],  # where both stand, the second is the language's
    )


def features_gigabytes(config: PipelineConfig, shape: ModelShape, num_tokens: float) -> float:
    """GB that `tasks.student.vision` keeps of pictures with so many vision tokens together."""
    return num_tokens * _TOKEN_PATCHES * shape.vision_width * _float_bytes(config) / 1e9


def _stage(
    config: PipelineConfig,
    shape: ModelShape,
    freeze: FreezeConfig,
    deepspeed: Path | None,
    tokens: int,
    labelled: int,
    reference: bool = False,
    sampling: dict[str, float] | None = None,
) -> dict[str, float]:
    student = config.student
    zero = zero_stage(deepspeed)
    half = student.precision == "bfloat16"
    shards = student.devices
    # As tasks/student/checkpoint.py loads them: what trains is float32 unless DeepSpeed keeps a float32 copy of it.
    trained_bytes = 2 if half and deepspeed else 4
    base_bytes = (2 if half else 4) if student.lora else trained_bytes
    trained = _trained(shape, freeze, student.lora)
    # LoRA adds its adapters and a copy of the vision tower, of the type of what trains.
    added = shape.vision_parameters + _lora_parameters(shape, student.lora) if student.lora else 0
    weights = shape.parameters * base_bytes + added * trained_bytes
    if reference:  # a snapshot of what trains
        weights += trained * trained_bytes
    gradients = trained * trained_bytes
    optimiser = trained * (_ADAM_BYTES + (_MASTER_BYTES if half and deepspeed else 0))
    figures = {
        "weights": weights / (shards if zero >= 3 else 1),
        "gradients": gradients / (shards if zero >= 2 else 1),
        "optimiser": optimiser / (shards if zero >= 1 else 1),
        "activations": _activations(shape, tokens, labelled, student.gradient_checkpointing, 1 if half else 2),
    }
    total = sum(figures.values())
    if sampling:
        figures |= sampling | ({"gathered": weights} if zero >= 3 else {})
        total += max(0.0, sum(figures.values()) - total - figures["activations"])
    return _in_gib(figures, total)


def _inference(config: PipelineConfig, shape: ModelShape, rows: int, num_rollouts: int, new: int) -> dict[str, float]:
    """Of a stage that only samples, with the larger student: that of LoRA holds adapters and a second vision tower."""
    lora = config.student.lora
    added = shape.vision_parameters + _lora_parameters(shape, lora) if lora else 0
    weights = {"weights": float((shape.parameters + added) * _float_bytes(config))}
    figures = weights | _sampling(config, shape, rows, num_rollouts, new)
    return _in_gib(figures, sum(figures.values()))


def _sampling(
    config: PipelineConfig, shape: ModelShape, rows: int, num_rollouts: int, new: int, apart: bool = False
) -> dict[str, float]:
    """Bytes of prefill and cache. rows: completions at once; new: their tokens; apart: each row holds its prompt."""
    student = config.student
    longest = _vision_tokens(config) + config.compress.max_tokens
    prompts = math.ceil(rows / num_rollouts)
    together = max(1, min(prompts, student.prefill_tokens // longest))
    kv_bytes = 2 * shape.layers * shape.kv_width * _float_bytes(config)
    # The widest point of a layer: gate, up and their product beside the residual, its norm and the sum of both.
    per_token = 3 * (shape.hidden + _mlp_width(shape)) * _float_bytes(config) + kv_bytes
    return {
        "prefill": float(together * (longest * per_token + _vision_tokens(config) * _PIXEL_BYTES)),
        "cache": float(kv_bytes * ((rows if apart else prompts) * longest + rows * (new + _OWN_ROOM))),
    }


def _vision_tokens(config: PipelineConfig) -> int:
    """Of the largest picture; where the checkpoint sets its size, all that SFT takes beside a dialogue's text."""
    if config.student.max_pixels is None:
        return max(0, config.sft.max_tokens - config.compress.max_tokens)
    return config.student.max_pixels // _TOKEN_SIDE**2


def _float_bytes(config: PipelineConfig) -> int:
    return 2 if config.student.precision == "bfloat16" else 4


def _in_gib(figures: dict[str, float], total: float) -> dict[str, float]:
    return {name: round(size / GIB, 2) for name, size in {**figures, "total": total}.items()}


def _trained(shape: ModelShape, freeze: FreezeConfig, lora: LoraConfig | None) -> int:
    """Parameters with gradients. The merger, a few per cent of the vision tower, is counted with it."""
    vision = 0 if freeze.vision else shape.vision_parameters
    if freeze.language:
        return vision
    return vision + (_lora_parameters(shape, lora) if lora else shape.parameters - shape.vision_parameters)


def _lora_parameters(shape: ModelShape, lora: LoraConfig) -> int:
    """Adapters on four attention and three MLP matrices per layer."""
    hidden, kv_width = shape.hidden, shape.kv_width
    return round(lora.r * shape.layers * (6 * hidden + 2 * kv_width + 3 * (hidden + _mlp_width(shape))))


def _mlp_width(shape: ModelShape) -> float:
    """From what the attention matrices leave of a layer's parameters."""
    hidden = shape.hidden
    per_layer = (shape.parameters - shape.vision_parameters - 2 * shape.vocabulary * hidden) / shape.layers
    return max(hidden, (per_layer - 2 * hidden * (hidden + shape.kv_width)) / (3 * hidden))


def _activations(shape: ModelShape, tokens: int, labelled: int, recomputed: bool, width: int) -> float:
    """Bytes; width: 1 in half precision, 2 in float32. Logits are float32, with their gradient."""
    per_layer = tokens * shape.hidden * width
    layers = (
        shape.layers * _KEPT_ACTIVATION * per_layer + _FULL_ACTIVATION * per_layer
        if recomputed
        else shape.layers * _FULL_ACTIVATION * per_layer
    )
    return layers + 2 * 4 * labelled * shape.vocabulary


def _tensor_sizes(file: Path) -> dict[str, int]:
    """Elements per tensor, from a safetensors file's header."""
    with file.open("rb") as stream:
        header = json.loads(stream.read(int.from_bytes(stream.read(8), "little")))
    sizes = {}
    for name, entry in header.items():
        if name != "__metadata__":
            size = 1
            for side in entry["shape"]:
                size *= side
            sizes[name] = size
    return sizes
