"""The child's side of a stage's child process: its job, its progress lines, its exit code.

A module that runs as a child ends with

    if __name__ == "__main__":
        child_main(run)          # run(job: Job) -> dict of facts that the parent gets back

and is started by `tasks.launcher.child.run_child` as ``python -m tasks.sft.train job.json`` (under torchrun when there
is more than one device). Imports neither Prefect nor torch. Ours, not of a paper.

Exit codes: 0 done; 2 the user has to change something (never retried); 28 the disk is full (never retried); 75 out of
memory (retried); anything else a crash (retried).
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import shutil
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pipeline_config.schema import PipelineConfig

EXIT_USER = 2
EXIT_DISK_FULL = errno.ENOSPC
EXIT_OUT_OF_MEMORY = os.EX_TEMPFAIL
PROGRESS_MARK = "@progress "
ERROR_MARK = "error: "
RESULT_FILE = "result.json"
FAILURE_FILE = "failure.json"
JOB_FILE = "job.json"
LIFELINE_VARIABLE = "DISCERN_LIFELINE"
GRACE_SECONDS = 10.0


class DiskFull(OSError):
    """No room left; the message names the path, the bytes needed and the cure. Never retried."""


def disk_full(path: Path, num_bytes: int = 0) -> DiskFull:
    """The error to raise where `path` could not be written; num_bytes: how many it needs, 0 = unknown."""
    needed = f"about {num_bytes / 2**20:,.0f} MB are needed, " if num_bytes else ""
    return DiskFull(
        f"{path}: no room left to write it: {needed}{free_bytes(path) / 2**20:,.0f} MB are free; free some, or set "
        "DISCERN_HOME to a folder on another disk, then run the same command again"
    )


def free_bytes(path: Path) -> int:
    """Free bytes of the disk that `path` is on, or would be."""
    return shutil.disk_usage(next(p for p in (path, *path.absolute().parents) if p.exists())).free


@dataclass(frozen=True)
class Job:
    """What a child has to do.

    config: the whole pipeline configuration. inputs: name -> absolute path of a published input. out: where the child
    puts its final artifact, made beside and renamed into place. folder: the child's own folder, which survives a retry
    (checkpoints stand here). seed: derived from config.seed. options: whatever else the verb tells its child.
    """

    config: PipelineConfig
    inputs: dict[str, str]
    out: Path
    folder: Path
    seed: int
    options: dict[str, Any] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """As JSON holds it; the inverse of `from_dict`."""
        return {
            "config": self.config.model_dump(mode="json"),
            "inputs": self.inputs,
            "out": str(self.out),
            "folder": str(self.folder),
            "seed": self.seed,
            "options": self.options,
        }

    @classmethod
    def from_dict(cls, tree: Mapping[str, Any]) -> Job:
        return cls(
            config=PipelineConfig.model_validate(tree["config"]),
            inputs=dict(tree["inputs"]),
            out=Path(tree["out"]),
            folder=Path(tree["folder"]),
            seed=int(tree["seed"]),
            options=dict(tree["options"]),
        )


def rank_and_world() -> tuple[int, int]:
    """This process's rank and the number of processes: (0, 1) alone, torchrun's where it started them."""
    return int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))


def is_rank_zero() -> bool:
    """True in a single process and in the first rank under torchrun."""
    return rank_and_world()[0] == 0


def progress(done: float, total: float, **figures: float) -> None:
    """Tell the parent how far the child is: one ``@progress {json}`` line on stdout, from rank 0 only."""
    if is_rank_zero():
        print(PROGRESS_MARK + json.dumps({"done": done, "total": total, **figures}), flush=True)


def write_atomically(path: Path, text: str) -> None:
    """Write a small file so that a reader sees the old text or the new, never a part."""
    beside = path.with_name(f"{path.name}.{os.getpid()}.{threading.get_ident()}.part")
    with beside.open("w") as stream:
        stream.write(text)
        stream.flush()
        os.fsync(stream.fileno())
    beside.replace(path)


def child_main(run: Callable[[Job], dict[str, Any]]) -> None:
    """Read the job named by the first argument, run it, write its facts, exit with the code that says how it went."""
    end_with_parent()
    if len(sys.argv) != 2:
        print(f"{ERROR_MARK}usage: python -m <module> {JOB_FILE}", file=sys.stderr)
        sys.exit(EXIT_USER)
    job_file = Path(sys.argv[1])
    try:
        job = Job.from_dict(json.loads(job_file.read_text()))
        facts = run(job)
        if is_rank_zero():
            write_atomically(job_file.parent / RESULT_FILE, json.dumps(facts))
        _end_together()
    except Exception as error:
        sys.exit(_failed(error, job_file.parent))
    sys.exit(0)


def _end_together() -> None:
    """Where several processes worked, wait for all of them and end without tearing the interpreter down.

    The destructors of torch's process group now and then abort a process whose work is done.
    """
    distributed = sys.modules.get("torch.distributed")
    if distributed is not None and distributed.is_available() and distributed.is_initialized():
        distributed.barrier()
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(0)


def _failed(error: Exception, folder: Path) -> int:
    """Say it on stderr and in a file (torchrun answers 1 whatever its ranks' exit codes are); returns the exit code."""
    code, message = _classified(error, folder)
    print(f"{ERROR_MARK}{message}", file=sys.stderr, flush=True)
    with contextlib.suppress(OSError):
        if not (folder / FAILURE_FILE).exists():  # the first rank to fail knows why
            write_atomically(folder / FAILURE_FILE, json.dumps({"code": code, "message": message}))
    return code


def _classified(error: Exception, folder: Path) -> tuple[int, str]:
    from data_contracts.check import ContractError
    from pipeline_config.schema import ConfigError

    if isinstance(error, OSError) and error.errno == errno.ENOSPC and not isinstance(error, DiskFull):
        error = disk_full(Path(error.filename) if isinstance(error.filename, str) else folder)
    if isinstance(error, ConfigError | ContractError | DiskFull):
        return EXIT_DISK_FULL if isinstance(error, DiskFull) else EXIT_USER, str(error)
    traceback.print_exception(error)
    message = f"{type(error).__name__}: {error}"
    if isinstance(error, MemoryError) or _is_torch_out_of_memory(error):
        return EXIT_OUT_OF_MEMORY, message
    return EXIT_USER if isinstance(error, ValueError) else 1, message


def _is_torch_out_of_memory(error: Exception) -> bool:
    # By name: this module must not import torch, and a CPU allocation that fails is a bare RuntimeError.
    return type(error).__name__ == "OutOfMemoryError" or "can't allocate memory" in str(error)


def end_with_parent() -> None:
    """End this process group when the parent is gone, however it went; the parent sets `LIFELINE_VARIABLE`.

    The parent holds the write end of our stdin; ranks under torchrun inherit it although they stand in sessions of
    their own, which a signal to the group would not reach.
    """
    if os.environ.get(LIFELINE_VARIABLE) != "stdin":
        return

    def watch() -> None:
        while os.read(0, 1):
            pass
        os.killpg(0, signal.SIGTERM)
        time.sleep(GRACE_SECONDS)
        os.killpg(0, signal.SIGKILL)

    threading.Thread(target=watch, name="lifeline", daemon=True).start()
