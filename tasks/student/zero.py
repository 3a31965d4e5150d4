"""Which DeepSpeed file a stage names, its ZeRO stage, whole weights where that shards them, and a say in its updates.

Imports neither torch nor deepspeed before a model is sharded: plans are made without them.
"""

from __future__ import annotations

import contextlib
import json
import math
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

from pipeline_config.schema import CONFIG_FOLDER, ConfigError


def find_deepspeed(path: Path) -> Path:
    """The DeepSpeed JSON: the path as given, from the current folder or from where the package stands.

    Raises ConfigError if it is at neither place or no JSON.
    """
    for candidate in (path.expanduser(), CONFIG_FOLDER.parent / path):
        if candidate.is_file():
            try:
                json.loads(candidate.read_text())
            except ValueError as error:
                raise ConfigError(f"{candidate}: not JSON: {error}") from error
            return candidate.absolute()
    shipped = ", ".join(sorted(p.name for p in (CONFIG_FOLDER / "deepspeed").glob("*.json")))
    raise ConfigError(f"deepspeed {path}: no such file; shipped in {CONFIG_FOLDER / 'deepspeed'}: {shipped}")


def zero_stage(path: Path | None) -> int:
    """0 without DeepSpeed or without ZeRO, else 1, 2 or 3. Raises ConfigError as find_deepspeed."""
    if path is None:
        return 0
    return int(json.loads(find_deepspeed(path).read_text()).get("zero_optimization", {}).get("stage", 0))


def sharded_parameters(model: Any) -> list[Any]:
    """The parameters of which ZeRO-3 leaves each rank a part."""
    return [parameter for parameter in model.parameters() if hasattr(parameter, "ds_id")]


@contextlib.contextmanager
def whole_weights(model: Any, engine: Any = None) -> Iterator[None]:
    """Inside, every rank holds ``model``'s weights whole and may call it as often as it likes, without gradients.

    For sampling under ZeRO-3, whose hooks gather and release weights at every call: ranks that sample different numbers
    of tokens would wait for each other for ever. Instead the weights are gathered once, by all ranks together, which
    costs one all-gather of the model and, meanwhile, room for the whole of it on each device, beside its shard. What is
    written to the weights inside is lost. Does nothing where the weights are whole already.

    engine: DeepSpeed's, where one holds the model. The idea is `unwrap_model_for_generation` of TRL, which registers
    the hooks anew each time and so throws away the order of prefetching that DeepSpeed has learnt.
    """
    sharded = sharded_parameters(model)
    if not sharded:
        yield
        return
    import deepspeed

    handles: list[Any] = []
    if engine is not None:
        engine.optimizer.empty_partition_cache()  # waits for what is being prefetched, which cannot be gathered
        offload = engine.optimizer.parameter_offload
        handles = [offload.fwd_pre_hook, *offload.forward_hooks, *offload.backward_hooks]
    with deepspeed.zero.GatheredParameters(sharded), _without_hooks(handles):
        yield


def guard_updates(engine: Any, admits: Callable[[float], bool]) -> None:
    """Have DeepSpeed's engine ask before each update: where ``admits(norm)`` is False it makes none.

    norm: of the gradient over all ranks, before clipping, infinite where it is no number; the same on every rank, so
    all agree. The engine (0.19) measures it inside the step that makes the update. What is not admitted goes the way
    of its own overflows: the gradient is dropped, weights and the optimizer's state stay, ``engine.optimizer.overflow``
    is True. (That ZeRO-3 looks at norms for this and at gradients for fp16 alone is why the stages differ here.)
    Raises ConfigError if the engine's optimizer is none of ZeRO's.
    """
    from deepspeed.runtime.utils import combine_grad_norm_groups
    from deepspeed.runtime.zero.stage3 import DeepSpeedZeroOptimizer_Stage3
    from deepspeed.runtime.zero.stage_1_and_2 import DeepSpeedZeroOptimizer

    optimizer = engine.optimizer
    if isinstance(optimizer, DeepSpeedZeroOptimizer_Stage3):
        measure = optimizer._get_norm_groups

        def norm_groups() -> list[Any]:
            norms = measure()
            return norms if admits(float(combine_grad_norm_groups(norms))) else [math.inf]

        optimizer._get_norm_groups = norm_groups
    elif isinstance(optimizer, DeepSpeedZeroOptimizer):

        def check_overflow(partition_gradients: bool = True) -> None:
            optimizer.overflow = not admits(float(optimizer.scaled_global_norm()))

        optimizer.check_overflow, optimizer.check_grad_overflow = check_overflow, True
    else:
        raise ConfigError(
            f"deepspeed: its {type(optimizer).__name__} cannot skip an update; let the file name "
            "zero_optimization.stage 1, 2 or 3, without data_types"
        )


@contextlib.contextmanager
def _without_hooks(handles: Iterable[Any]) -> Iterator[None]:
    """Inside, the hooks behind torch's removable handles do not run; afterwards they do, in the order they had."""
    held = [(handle.hooks_dict_ref(), handle.id) for handle in handles]
    before = {id(hooks): (hooks, dict(hooks)) for hooks, _ in held}
    for hooks, number in held:
        del hooks[number]
    try:
        yield
    finally:
        for hooks, complete in before.values():
            hooks.clear()
            hooks.update(complete)
