"""Load and save a student: any Qwen2-VL / Qwen2.5-VL checkpoint, in full or as LoRA on its base.

    student = load_student("builtin:tiny", config.student)

Beside the weights stands ``discern.json``: the box convention the student was trained in and, for LoRA, its base.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError

import tasks.student.torchvision_operators  # noqa: F401  before anything imports torchvision
from pipeline_config.home import home
from pipeline_config.schema import ConfigError, LoraConfig, StudentConfig
from tasks.student.boxes import Convention
from tasks.student.location import BUILTIN, NOTE_FILE, adapters_in, base_of, read_note, resolve_model
from tasks.student.pictures import Pictures
from tasks.student.precision import precision_of
from tasks.student.tensor_files import TensorFiles
from tasks.student.vision import KeptFeatures, StepFeatures

__all__ = ["Student", "load_student", "resolve_model", "save_student"]

HISTORY_FILE = "history.json"
# What each family was trained to read and write.
BOXES_OF_FAMILY: dict[str, Convention] = {"qwen2_vl": "norm1000", "qwen2_5_vl": "pixels"}
# LoRA goes on the language model's linear layers; of the vision tower, small beside it, the whole is trained (the
# official MIPI baseline has learning rates for vision and merger of their own).
LORA_TARGETS = r".*language_model\.layers\.\d+\.(self_attn|mlp)\.\w+_proj"
_LORA_WHOLE = ["visual"]


@dataclass
class Student:
    """A model, its processor, and the convention in which it reads and writes boxes.

    prefill_tokens: prompt tokens that sampling computes together, at most. kept_features: of its pictures, where the
    vision tower is frozen; set by `load_student`. step_features: those to use at present, before all others.
    """

    model: Any = field(repr=False)
    processor: Any = field(repr=False)
    boxes: Convention
    prefill_tokens: int
    base: str | None = None  # of LoRA adapters
    pictures: Pictures = field(init=False, repr=False)
    kept_features: KeptFeatures | None = field(init=False, repr=False, default=None)
    step_features: StepFeatures | None = field(init=False, repr=False, default=None)

    def __post_init__(self) -> None:
        self.pictures = Pictures(self.processor.image_processor)

    @property
    def device(self) -> torch.device:
        return self.model.device

    @property
    def features(self) -> KeptFeatures | StepFeatures | None:
        """Where every use takes features of pictures from; None where it computes them (`KeptFeatures.can_be_kept`)."""
        if self.step_features is not None:
            return self.step_features
        return self.kept_features if self.kept_features and self.kept_features.can_be_kept() else None

    @property
    def tokenizer(self) -> Any:
        return self.processor.tokenizer


def load_student(model: str, config: StudentConfig, *, train: bool = False) -> Student:
    """Load ``model`` (``builtin:tiny``, a local folder, full or LoRA, or a hub id) as the config says.

    train=False: eval mode, no gradients. train=True: train mode; with ``config.lora`` a full checkpoint is wrapped in
    new adapters, a LoRA checkpoint goes on with its own. A local folder or builtin never touches the hub.
    Weights have the config's precision. What trains has one dtype: float32 without DeepSpeed, since an update is
    smaller than half precision resolves; under it the config's too, of which its engine keeps a float32 copy.
    Sets torch's threads where ``config.threads`` does.
    Raises ConfigError: missing folder, no image-text-to-text model, architecture outside the Qwen2-VL family.
    """
    if config.threads:
        torch.set_num_threads(config.threads)
    source = resolve_model(model)
    note, adapters = read_note(source), adapters_in(source)
    base = base_of(adapters) if adapters else model
    base_source = resolve_model(base)
    family = _family(base_source)
    if train:
        _join_deepspeed()
    network = _load_base(base_source, config, _dtype(config, train, lora=bool(adapters or config.lora)))
    if adapters:
        network = _load_adapters(network, adapters, train)
    elif train and config.lora:
        network = _with_adapters(network, _new_adapters(config.lora))
    processor = _load_processor(source, config)
    boxes = note.get("boxes", BOXES_OF_FAMILY[family]) if config.boxes == "auto" else config.boxes
    _place(network, train)
    # A folder by its absolute path: the note is read from other working directories.
    named = base if base.startswith(BUILTIN) else str(base_source)
    adapted_base = named if adapters or (train and config.lora) else None
    student = Student(network, processor, boxes, config.prefill_tokens, adapted_base)
    most_bytes = round(config.features_gigabytes * 1e9)
    files = TensorFiles(home() / "cache" / "features", most_bytes) if most_bytes else None
    student.kept_features = KeptFeatures(student, files)
    return student


def save_student(
    student: Student,
    folder: Path,
    state_dict: Mapping[str, torch.Tensor] | None = None,
    history: Mapping[str, Any] | None = None,
) -> None:
    """Write weights (full, or adapters only), processor, tokenizer and ``discern.json`` beside, then rename.

    state_dict: the weights where the model does not hold them whole (ZeRO-3 gathers them). history: the figures of the
    training it comes from, written as ``history.json``: they travel with the student. Replaces what stood there.
    """
    beside = folder.with_name(f".{folder.name}.{os.getpid()}.part")
    shutil.rmtree(beside, ignore_errors=True)
    beside.mkdir(parents=True)
    try:
        student.model.save_pretrained(beside, state_dict=state_dict)
        (beside / "README.md").unlink(missing_ok=True)  # peft's model card names the local base folder
        student.processor.save_pretrained(beside)
        note = {"boxes": student.boxes} | ({"base": student.base} if student.base else {})
        (beside / NOTE_FILE).write_text(json.dumps(note, indent=1) + "\n")
        if history is not None:
            (beside / HISTORY_FILE).write_text(json.dumps(history, indent=1, sort_keys=True) + "\n")
        _replace(beside, folder)
    finally:
        shutil.rmtree(beside, ignore_errors=True)


def _replace(beside: Path, folder: Path) -> None:
    """Put a finished folder where another may stand; a reader sees the old one, none, or the new one whole."""
    old = folder.with_name(f".{folder.name}.{os.getpid()}.old")
    if folder.exists():
        folder.rename(old)
    beside.rename(folder)
    shutil.rmtree(old, ignore_errors=True)


def _family(source: Path | str) -> str:
    """The base's model_type, checked to be one we can train."""
    from transformers import AutoConfig

    if isinstance(source, Path) and not (source / "config.json").is_file():
        raise ConfigError(f"{source}: no config.json, so no checkpoint; name the folder that save_pretrained wrote")
    try:
        family = AutoConfig.from_pretrained(source, local_files_only=isinstance(source, Path)).model_type
    except (OSError, ValueError) as error:
        raise ConfigError(
            f"student.model {source}: its config cannot be had ({_first_line(error)}); "
            "download it to the Hugging Face cache, or name a local folder"
        ) from error
    if family not in BOXES_OF_FAMILY:
        raise ConfigError(
            f"student.model {source}: architecture {family!r} is not supported; a student is an image-text-to-text "
            f"checkpoint of {' or '.join(sorted(BOXES_OF_FAMILY))}, like Qwen/Qwen2.5-VL-3B-Instruct or {BUILTIN}tiny"
        )
    return str(family)


def _dtype(config: StudentConfig, train: bool, lora: bool) -> torch.dtype:
    """Of the base: with LoRA it is frozen, but for what `_with_adapters` copies."""
    if precision_of(config) == "float32" or (train and not lora and not _under_deepspeed()):
        return torch.float32
    return torch.bfloat16


def _under_deepspeed() -> bool:
    from transformers.integrations.deepspeed import deepspeed_config

    return deepspeed_config() is not None


def _join_deepspeed() -> None:
    """Where a stage trains under DeepSpeed, join its world: ZeRO-3 shards the weights over it while they load."""
    if not _under_deepspeed():
        return
    import deepspeed

    if not torch.cuda.is_available():
        # Gloo does what this operator does faster; compiling it takes minutes, and a kill meanwhile leaves a lock that
        # every later start waits for.
        deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
    deepspeed.init_distributed(dist_backend="nccl" if torch.cuda.is_available() else "gloo")


def _load_base(source: Path | str, config: StudentConfig, dtype: torch.dtype) -> Any:
    from transformers import AutoModelForImageTextToText
    from transformers.integrations.deepspeed import is_deepspeed_zero3_enabled
    from transformers.utils import logging

    logging.disable_progress_bar()  # it would fill the log of a stage's child
    try:
        loaded: Any = AutoModelForImageTextToText.from_pretrained(
            source,
            dtype=dtype,
            attn_implementation=config.attention,
            local_files_only=isinstance(source, Path),
            output_loading_info=True,
        )
    except ImportError as error:
        raise ConfigError(f"student.attention {config.attention}: {_first_line(error)}; use sdpa") from error
    except (OSError, ValueError, RuntimeError, SafetensorError) as error:
        raise ConfigError(f"student.model {source}: its weights cannot be loaded ({_first_line(error)})") from error
    network, loading = loaded
    if is_deepspeed_zero3_enabled():
        # Otherwise (transformers 5.23) saving also takes back renamings that loading had no use for: no other program
        # would know the names that come of it.
        network._weight_conversions = [renaming for renaming in network._weight_conversions if renaming.was_used()]
    lacking = sorted(loading["missing_keys"]) + sorted(str(key) for key in loading["mismatched_keys"])
    if lacking and not is_deepspeed_zero3_enabled():
        raise ConfigError(
            f"student.model {source}: {len(lacking)} weights are missing or of another shape, such as {lacking[0]}; "
            "the checkpoint is incomplete or of another architecture than its config.json says"
        )
    return network


def _load_adapters(network: Any, folder: Path, train: bool) -> Any:
    import peft

    try:
        if not train:
            return peft.PeftModel.from_pretrained(network, folder, local_files_only=True)
        adapters = peft.LoraConfig.from_pretrained(str(folder), local_files_only=True)
        adapters.inference_mode = False
        network = _with_adapters(network, adapters)
        peft.set_peft_model_state_dict(network, peft.load_peft_weights(str(folder), device="cpu"))
        return network
    except (OSError, ValueError, RuntimeError, KeyError, SafetensorError) as error:
        raise ConfigError(f"{folder}: its LoRA adapters do not fit their base ({_first_line(error)})") from error


def _new_adapters(lora: LoraConfig) -> Any:
    import peft

    return peft.LoraConfig(
        r=lora.r,
        lora_alpha=lora.alpha,
        lora_dropout=lora.dropout,
        target_modules=LORA_TARGETS,
        modules_to_save=list(_LORA_WHOLE),
        task_type="CAUSAL_LM",
    )


def _with_adapters(network: Any, adapters: Any) -> Any:
    """The network in adapters that train, and so does its copy of the modules trained whole: all of one dtype.

    That is the base's under DeepSpeed, whose ZeRO-3 takes no second one, else float32.
    """
    import peft

    adapted = peft.get_peft_model(network, adapters, autocast_adapter_dtype=False)
    if not _under_deepspeed():
        for parameter in adapted.parameters():
            if parameter.requires_grad:
                parameter.data = parameter.data.float()
    return adapted


def _load_processor(source: Path | str, config: StudentConfig) -> Any:
    from transformers import AutoProcessor

    bounds = {
        name: value
        for name, value in (("min_pixels", config.min_pixels), ("max_pixels", config.max_pixels))
        if value is not None
    }
    try:
        return AutoProcessor.from_pretrained(source, local_files_only=isinstance(source, Path), **bounds)
    except (OSError, ValueError) as error:
        raise ConfigError(f"student.model {source}: no processor can be had ({_first_line(error)})") from error


def _place(network: Any, train: bool) -> None:
    """A trained model is placed by its Trainer; any other goes to this process's accelerator, without gradients."""
    if train:
        network.train()
        return
    network.eval().requires_grad_(False)
    if torch.cuda.is_available():
        if local_rank := os.environ.get("LOCAL_RANK"):  # set by torchrun
            torch.cuda.set_device(int(local_rank))
        network.to("cuda")


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]
