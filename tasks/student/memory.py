"""Rough GPU memory of a training stage from shape numbers alone, for ``--dry-run``: no weights, no torch.

Ours. Weights, gradients and Adam's states are counted; activations follow Korthikanti et al. (arXiv 2205.05198): 34
bytes per token, hidden unit and layer in half precision, or 2 with recomputation and one layer at its full. Off by tens
of per cent, which is enough to see whether a plan is off by a factor.
"""

from __future__ import annotations

import json
from pathlib import Path

from pipeline_config.schema import ConfigError, FreezeConfig, LoraConfig, ModelShape, PipelineConfig
from tasks.student.location import resolve_model
from tasks.student.zero import zero_stage

GIB = 2**30
_ADAM_BYTES = 8  # two float32 moments
_MASTER_BYTES = 4  # float32 copy that DeepSpeed keeps of half-precision weights
_FULL_ACTIVATION, _KEPT_ACTIVATION = 34, 2  # bytes per token, hidden unit and layer, half precision


def estimate_memory(config: PipelineConfig) -> dict[str, dict[str, float]]:
    """GiB per device for ``sft`` and ``grpo``: weights, gradients, optimiser, activations, total.

    ``grpo`` under ZeRO-3 also has ``gathered``, the whole weights that a step's rollouts need on each device. They are
    gone again before there are activations, so the total counts the larger of the two.
    ``student.precision: auto`` counts as float32, the larger; a plan names what it stands for on its machine.
    Raises ConfigError if a deepspeed file is missing, or ``student.shape`` while the checkpoint is not on this machine.
    """
    shape = model_shape(config)
    sft, grpo = config.sft, config.grpo
    sft_tokens = sft.batch_size * sft.max_tokens
    sft_labels = min(sft_tokens, sft.batch_size * config.compress.max_tokens)
    # Each prompt once and all its completions, as tasks/grpo/forward.py computes them.
    completion_tokens = grpo.num_rollouts * grpo.max_new_tokens
    grpo_tokens = grpo.batch_size * (sft.max_tokens + completion_tokens)
    grpo_labels = grpo.batch_size * completion_tokens
    return {
        "sft": _stage(config, shape, sft.freeze, sft.deepspeed, sft_tokens, sft_labels),
        "grpo": _stage(
            config,
            shape,
            grpo.freeze,
            grpo.deepspeed,
            grpo_tokens,
            grpo_labels,
            reference=grpo.beta > 0,
            samples=True,
        ),
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
            "vision_parameters, hidden, layers and vocabulary"
        )
    sizes = {name: size for file in files for name, size in _tensor_sizes(file).items()}
    tree = json.loads((folder / "config.json").read_text())
    text = {**tree, **tree.get("text_config", {})}
    return ModelShape(
        parameters=sum(sizes.values()),
        vision_parameters=sum(size for name, size in sizes.items() if "visual." in name),
        hidden=text["hidden_size"],
        layers=text["num_hidden_layers"],
        vocabulary=text["vocab_size"],
    )


def _stage(
    config: PipelineConfig,
    shape: ModelShape,
    freeze: FreezeConfig,
    deepspeed: Path | None,
    tokens: int,
    labelled: int,
    reference: bool = False,
    samples: bool = False,
) -> dict[str, float]:
    student = config.student
    zero = zero_stage(deepspeed)
    half = student.precision == "bfloat16"
    shards = student.devices
    # As tasks/student/checkpoint.py loads them: float32 where nothing else keeps a float32 copy for the optimiser.
    weight_bytes = 2 if half and (student.lora or deepspeed) else 4
    trained = _trained(shape, freeze, student.lora)
    # LoRA adds its adapters and a trainable copy of the vision tower.
    added = shape.vision_parameters + _lora_parameters(shape, student.lora) if student.lora else 0
    weights = (shape.parameters + added) * weight_bytes
    if reference and not student.lora:
        weights += shape.parameters * weight_bytes
    gradients = trained * weight_bytes
    optimiser = trained * (_ADAM_BYTES + (_MASTER_BYTES if half and deepspeed else 0))
    figures = {
        "weights": weights / (shards if zero >= 3 else 1),
        "gradients": gradients / (shards if zero >= 2 else 1),
        "optimiser": optimiser / (shards if zero >= 1 else 1),
        "activations": _activations(shape, tokens, labelled, student.gradient_checkpointing, 1 if half else 2),
    }
    total = sum(figures.values())
    if samples and zero >= 3:
        figures["gathered"] = weights
        total += max(0.0, weights - figures["activations"])
    figures["total"] = total
    return {name: round(size / GIB, 2) for name, size in figures.items()}


def _trained(shape: ModelShape, freeze: FreezeConfig, lora: LoraConfig | None) -> int:
    """Parameters with gradients. The merger, a few per cent of the vision tower, is counted with it."""
    vision = 0 if freeze.vision else shape.vision_parameters
    if freeze.language:
        return vision
    return vision + (_lora_parameters(shape, lora) if lora else shape.parameters - shape.vision_parameters)


def _lora_parameters(shape: ModelShape, lora: LoraConfig) -> int:
    """Adapters on four attention and three MLP matrices per layer; the MLP's width follows from the parameters."""
    hidden = shape.hidden
    per_layer = (shape.parameters - shape.vision_parameters - 2 * shape.vocabulary * hidden) / shape.layers
    width = max(hidden, (per_layer - 2.5 * hidden**2) / (3 * hidden))
    return round(lora.r * shape.layers * (6.5 * hidden + 3 * (hidden + width)))


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
