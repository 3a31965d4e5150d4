"""Which precision this machine computes fast: what ``student.precision: auto`` stands for. Ours.

    python -m tasks.student.precision        prints the choice as JSON

bfloat16 halves the bytes and, on a device made for it, more than halves the time. A processor without its instructions
computes it five to eleven times slower than float32. A GPU says which of the two it is. A processor is asked through
oneDNN, which knows its instructions and the environment variables that hide them, and a short timed product confirms:
oneDNN also takes bfloat16 where it has to emulate it.

A run makes the choice once, at its start, and every stage gets it as ``student.precision``: it stands in the cache
keys, in MLflow and in the lineage. It is kept under the home, so one machine never chooses twice. The flow's process
stays without torch: a process of its own chooses.
"""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
import time
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from data_contracts.refs import text_digest
from pipeline_config.schema import PipelineConfig, StudentConfig

if TYPE_CHECKING:
    import torch

Precision = Literal["float32", "bfloat16"]
# What changes the choice on the same machine.
_VARIABLES = ("ONEDNN_MAX_CPU_ISA", "DNNL_MAX_CPU_ISA", "ATEN_CPU_CAPABILITY", "CUDA_VISIBLE_DEVICES")
_ROWS, _INPUTS, _OUTPUTS = 2048, 256, 1024  # of the timed product
_NUM_OPERATIONS = 2.0 * _ROWS * _INPUTS * _OUTPUTS
_REPEATS = 7


@dataclass(frozen=True)
class Choice:
    """precision: what the device computes fast, and why. operations: per second, of a large product in it.

    num_gpus: that a process can use, 0 where the device is a processor.
    """

    precision: Precision
    device: str
    reason: str
    operations: float
    num_gpus: int = 0


def choose() -> Choice:
    """Ask and time the device of this process. Takes well under a second after torch is imported."""
    import torch

    if torch.cuda.is_available():
        return _choose_on_gpu(torch.cuda.get_device_name())
    device = _processor()
    supported = bool(torch.ops.mkldnn._is_mkldnn_bf16_supported()) if torch.backends.mkldnn.is_available() else False
    dtypes = [torch.float32, torch.bfloat16] if supported else [torch.float32]
    seconds = _product_seconds(dtypes, "cpu")
    whole = _NUM_OPERATIONS / seconds[torch.float32]
    if not supported:
        return Choice("float32", device, "it has no instructions for bfloat16", whole)
    ratio = seconds[torch.bfloat16] / seconds[torch.float32]
    if ratio < 1:
        reason = f"a product in bfloat16 takes {ratio:.2f} of the time in float32"
        return Choice("bfloat16", device, reason, _NUM_OPERATIONS / seconds[torch.bfloat16])
    return Choice("float32", device, f"a product in bfloat16 takes {ratio:.1f} times as long as in float32", whole)


def _choose_on_gpu(device: str) -> Choice:
    import torch

    precision: Precision
    if torch.cuda.is_bf16_supported(including_emulation=False):
        precision, dtype, reason = "bfloat16", torch.bfloat16, "the GPU has instructions for bfloat16"
    else:
        precision, dtype, reason = "float32", torch.float32, "the GPU has no instructions for bfloat16"
    operations = _NUM_OPERATIONS / _product_seconds([dtype], "cuda")[dtype]
    return Choice(precision, device, reason, operations, torch.cuda.device_count())


def _product_seconds(dtypes: list[torch.dtype], device: str) -> dict[torch.dtype, float]:
    """The least of `_REPEATS` times of one product per dtype, in turns: the machine may be busy meanwhile."""
    import torch

    generator = torch.Generator().manual_seed(0)
    left, right = torch.randn(_ROWS, _INPUTS, generator=generator), torch.randn(_OUTPUTS, _INPUTS, generator=generator)
    factors = {dtype: (left.to(device, dtype), right.to(device, dtype)) for dtype in dtypes}
    least = dict.fromkeys(dtypes, float("inf"))
    for _ in range(_REPEATS):
        for dtype, (x, w) in factors.items():
            started = time.perf_counter()
            torch.nn.functional.linear(x, w)
            if device == "cuda":
                torch.cuda.synchronize()
            least[dtype] = min(least[dtype], time.perf_counter() - started)
    return least


def _processor() -> str:
    """Its name, as the system tells it."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    named = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return named[0] if named else platform.processor() or platform.machine()


@cache
def choice_here() -> Choice:
    """The choice of this process, made once. Imports torch."""
    return choose()


def precision_of(config: StudentConfig) -> Precision:
    """The precision the config names; for ``auto`` what this process's device computes fast."""
    return choice_here().precision if config.precision == "auto" else config.precision


# ------------------------------------------------------------------------------------------------------ once per home
def choice_for(home: Path) -> Choice:
    """The choice for this machine, kept in ``<home>/cache/precision``; the first time, a process of its own makes it.

    Raises subprocess.CalledProcessError where torch cannot be imported there.
    """
    from tasks.launcher.child import child_environment  # a served student travels without it
    from tasks.launcher.job import write_atomically

    path = home / "cache" / "precision" / f"{_machine_digest()}.json"
    if not path.is_file():
        command = [sys.executable, "-m", "tasks.student.precision"]
        said = subprocess.run(command, env=child_environment(), stdout=subprocess.PIPE, text=True, check=True).stdout
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, said)
    return Choice(**json.loads(path.read_text()))


def settled(config: PipelineConfig, home: Path) -> tuple[PipelineConfig, str]:
    """The config with its precision named, and a sentence that says which and why."""
    if config.student.precision != "auto":
        return config, f"student.precision: {config.student.precision}, as configured"
    choice = choice_for(home)
    student = config.student.model_copy(update={"precision": choice.precision})
    sentence = f"student.precision: {choice.precision}, chosen for {choice.device}: {choice.reason}"
    return config.model_copy(update={"student": student}), sentence


def _machine_digest() -> str:
    """Of what the choice depends on, without torch: processor, GPUs, variables, versions."""
    gpus = sorted(path.name for path in Path("/proc/driver/nvidia/gpus").glob("*"))
    told: dict[str, Any] = {
        "processor": [_processor(), platform.machine(), _flags()],
        "gpus": gpus,
        "variables": {name: os.environ.get(name) for name in _VARIABLES},
        "torch": _torch_version(),
    }
    return text_digest(json.dumps(told, sort_keys=True))


def _flags() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return ""
    return next((line.partition(":")[2].strip() for line in lines if line.startswith(("flags", "Features"))), "")


def _torch_version() -> str:
    import importlib.metadata

    return importlib.metadata.version("torch")


if __name__ == "__main__":
    print(json.dumps(asdict(choose())))
