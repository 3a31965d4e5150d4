"""Children as real processes: started as the launcher starts them, killed with SIGKILL at a given moment."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import psutil

from tasks.launcher.job import Job

ROOT = Path(__file__).parents[1]
TWO = ["-m", "torch.distributed.run", "--standalone", "--local-addr", "127.0.0.1", "--nproc-per-node", "2"]

# Before the import of a child that samples: a part per prompt, time to kill it, and a log of the prompts it is given.
IN_SMALL_PARTS = """
import time
from pathlib import Path
import tasks.launcher.parts as parts
import tasks.student.generate as sampling
parts.KEYS_PER_PART = 1
add, completed = parts.Parts.add, sampling.completed
def add_slowly(self, rows):
    add(self, rows)
    time.sleep(0.2)
def completed_of(student, prompts, **settings):
    print("asked:", *(Path(prompt.media_path).stem for prompt in prompts), flush=True)
    return completed(student, prompts, **settings)
parts.Parts.add, sampling.completed = add_slowly, completed_of
"""


def asked(job: Job) -> list[str]:
    """Names of the pictures that a child `IN_SMALL_PARTS` was asked about, over all its starts and processes."""
    lines = (job.folder / "child.log").read_text().splitlines()
    return [name for line in lines if line.startswith("asked:") for name in line.split()[1:]]


def start(job: Job, child: str, launcher: Sequence[str] = ()) -> subprocess.Popen[bytes]:
    """Run ``child``, the text of a module that calls `child_main`, on a job; its output goes to ``child.log``."""
    (job.folder / "child.py").write_text(child)
    (job.folder / "job.json").write_text(json.dumps(job.to_dict()))
    with (job.folder / "child.log").open("a") as log:
        return subprocess.Popen(
            [sys.executable, *launcher, str(job.folder / "child.py"), str(job.folder / "job.json")],
            env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"},
            stdout=log,
            stderr=subprocess.STDOUT,
        )


def finish(process: subprocess.Popen[bytes], job: Job, seconds: float = 240) -> None:
    """Wait so long for a good end."""
    try:
        ended = process.wait(timeout=seconds)
    except subprocess.TimeoutExpired:
        kill(process)
        raise
    assert ended == 0, (job.folder / "child.log").read_text()


def kill(process: subprocess.Popen[bytes]) -> None:
    """SIGKILL to the process and its ranks, which stand in sessions of their own."""
    family = psutil.Process(process.pid).children(recursive=True)
    process.kill()
    for member in family:
        member.kill()
    assert process.wait() == -signal.SIGKILL
    psutil.wait_procs(family, timeout=30)


def kill_when(process: subprocess.Popen[bytes], reached: Callable[[], bool], job: Job) -> None:
    """Kill at the moment that ``reached`` tells."""
    while not reached():
        assert process.poll() is None, (job.folder / "child.log").read_text()
        time.sleep(0.01)
    kill(process)
