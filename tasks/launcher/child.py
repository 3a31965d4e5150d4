"""Runs a stage's heavy part in a child process: memory returns, a crash is an exit code, nothing outlives the pipeline.

    facts = run_child("tasks.sft.train", job.to_dict(), folder, devices=2)

starts ``python -m tasks.sft.train job.json``, through torchrun where there is more than one device, in a process group
of its own. Its output is logged and kept in ``folder/child.log``; its ``@progress`` lines are handed to `on_progress`.
The group ends when this process is told to end (Ctrl-C, SIGTERM) and also when it is killed: the child reads its stdin,
whose other end only this process holds. Ours, not of a paper.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import queue
import signal
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from tasks.launcher.job import (
    EXIT_DISK_FULL,
    EXIT_OUT_OF_MEMORY,
    EXIT_USER,
    FAILURE_FILE,
    GRACE_SECONDS,
    JOB_FILE,
    LIFELINE_VARIABLE,
    PROGRESS_MARK,
    RESULT_FILE,
    write_atomically,
)
from tasks.tracking.log import METRICS_MARK

# Prefect sends what is logged under this name to its server, with the task run's id; without it, it is a plain name.
LOGGER = logging.getLogger("prefect.task_runs.discern")
LOG_FILE = "child.log"
TAIL_LINES = 20
REPOSITORY = Path(__file__).resolve().parents[2]

_running: set[subprocess.Popen[str]] = set()
_told_to_end: set[subprocess.Popen[str]] = set()
_running_lock = threading.Lock()


class ChildFailed(RuntimeError):
    """A child ended with an exit code that is not 0.

    returncode: as `subprocess` tells it (negative = ended by that signal). retryable: False where the user has to
    change something first; the message is then what the child said. tail: the last lines it wrote.
    """

    def __init__(self, message: str, returncode: int, retryable: bool, tail: list[str]) -> None:
        self.returncode, self.retryable, self.tail = returncode, retryable, tail
        super().__init__(message)

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (str(self), self.returncode, self.retryable, self.tail)


def run_child(
    module: str,
    job: Mapping[str, Any],
    folder: Path,
    *,
    devices: int = 1,
    env: Mapping[str, str] | None = None,
    on_progress: Callable[[dict[str, Any]], None] | None = None,
    on_metrics: Callable[[dict[str, Any]], None] | None = None,
    on_line: Callable[[str], None] | None = None,
) -> dict[str, Any]:
    """Run `module` on a job and return the facts it wrote.

    job: as `Job.to_dict` gives it. folder: holds ``job.json``, ``result.json`` and ``child.log`` and survives a retry.
    devices: processes; more than one go through torchrun. env: added to this process's environment. on_progress,
    on_metrics: called with what `job.progress` and `tracking.log.MetricLog` send; on_line: with every other line of
    output (default: logged).
    Raises ChildFailed.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for stale in (RESULT_FILE, FAILURE_FILE):
        (folder / stale).unlink(missing_ok=True)
    write_atomically(folder / JOB_FILE, json.dumps(job))
    command = [*_launcher(devices), module, str(folder / JOB_FILE)]
    tail: deque[str] = deque(maxlen=TAIL_LINES)
    with (folder / LOG_FILE).open("a") as log, _started(command, child_environment(env, devices)) as process:
        for line in _lines(process):
            log.write(line + "\n")
            log.flush()
            if line.startswith(PROGRESS_MARK):
                _hand_over(line.removeprefix(PROGRESS_MARK), on_progress)
            elif line.startswith(METRICS_MARK):
                _hand_over(line.removeprefix(METRICS_MARK), on_metrics)
            elif line.strip():
                tail.append(line)
                (on_line or LOGGER.info)(line)
        returncode = process.wait()
        if process in _told_to_end:
            raise ChildFailed(f"{module} was told to end with its flow", returncode, False, list(tail))
    if returncode != 0:
        raise _failure(module, returncode, list(tail), folder)
    return dict(json.loads((folder / RESULT_FILE).read_text()))


def end_children() -> None:
    """End every child of this process, whatever thread waits for it."""
    with _running_lock:
        running = list(_running)
        _told_to_end.update(running)
    for process in running:
        _end(process)


@contextlib.contextmanager
def children_end_with() -> Iterator[None]:
    """Around a flow's body whose stages run in worker threads (`.submit`): when it is left by an exception, such as
    Prefect's answer to SIGTERM in the main thread, the children end, and with them the threads that wait for them."""
    try:
        yield
    except BaseException:
        end_children()
        raise


def _launcher(devices: int) -> list[str]:
    if devices == 1:
        return [sys.executable, "-u", "-m"]
    return [
        *(sys.executable, "-u", "-m", "torch.distributed.run", "--standalone", "--local-addr", "127.0.0.1"),
        *("--nproc-per-node", str(devices), "--module"),
    ]


def child_environment(env: Mapping[str, str] | None = None, devices: int = 1) -> dict[str, str]:
    """The environment of a Python process of ours: this process's, no telemetry, our packages first, then ``env``."""
    merged = {
        **os.environ,
        "TOKENIZERS_PARALLELISM": "false",
        "DISABLE_TELEMETRY": "1",
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "DO_NOT_TRACK": "1",
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "PYTHONUNBUFFERED": "1",
        # Otherwise `-m` puts the current folder before everything, and a folder `tasks` of the user's wins.
        "PYTHONSAFEPATH": "1",
        **(env or {}),
    }
    merged["PYTHONPATH"] = os.pathsep.join(p for p in (str(REPOSITORY), merged.get("PYTHONPATH")) if p)
    if devices > 1:
        merged.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // devices)))
    return merged


@contextlib.contextmanager
def _started(command: list[str], env: dict[str, str]) -> Iterator[subprocess.Popen[str]]:
    process = subprocess.Popen(
        command,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        encoding="utf-8",
        errors="replace",
        env={**env, LIFELINE_VARIABLE: "stdin"},
        start_new_session=True,
    )
    with _running_lock:
        _running.add(process)
    try:
        yield process
    finally:
        _end(process)
        with _running_lock:
            _running.discard(process)
            _told_to_end.discard(process)


def _lines(process: subprocess.Popen[str]) -> Iterator[str]:
    """Lines of output, until the child has ended; a grandchild that keeps the pipe open does not hold us up."""
    lines: queue.Queue[str | None] = queue.Queue()

    def read() -> None:
        assert process.stdout is not None
        with contextlib.suppress(ValueError, OSError):
            for line in process.stdout:
                lines.put(line.rstrip("\n"))
        lines.put(None)

    threading.Thread(target=read, name="child-output", daemon=True).start()
    while True:
        try:
            line = lines.get(timeout=0.5)
        except queue.Empty:
            if process.poll() is not None:
                return
            continue
        if line is None:
            return
        yield line


def _end(process: subprocess.Popen[str]) -> None:
    """SIGTERM to the whole group, then, after a grace, SIGKILL."""
    try:
        if process.stdin is not None:
            with contextlib.suppress(OSError):
                process.stdin.close()
        _signal_group(process.pid, signal.SIGTERM)
        deadline = time.monotonic() + GRACE_SECONDS
        while time.monotonic() < deadline and (process.poll() is None or _signal_group(process.pid, 0)):
            time.sleep(0.02)
    finally:
        _signal_group(process.pid, signal.SIGKILL)
        process.wait()


def _signal_group(group: int, number: int) -> bool:
    """True if the group still had a member."""
    try:
        os.killpg(group, number)
    except (ProcessLookupError, PermissionError):
        return False
    return True


def _hand_over(sent: str, receive: Callable[[dict[str, Any]], None] | None) -> None:
    try:
        figures = json.loads(sent)
    except json.JSONDecodeError:
        LOGGER.info(sent)  # torn by another rank's output: worth a look, not a failure
        return
    if receive is not None:
        receive(figures)


def _failure(module: str, returncode: int, tail: list[str], folder: Path) -> ChildFailed:
    """What a child's end means. Its own word counts more than the exit code, which torchrun does not pass on."""
    said: dict[str, Any] = {"code": returncode, "message": ""}
    if (folder / FAILURE_FILE).exists() and returncode > 0:
        said = json.loads((folder / FAILURE_FILE).read_text())
    code = int(said["code"])
    if code in (EXIT_USER, EXIT_DISK_FULL) and said["message"]:
        return ChildFailed(str(said["message"]), code, False, tail)
    if code < 0:
        how = f"was ended by {signal.Signals(-code).name}"
    else:
        how = "ran out of memory" if code == EXIT_OUT_OF_MEMORY else f"ended with exit code {code}"
    log = folder / LOG_FILE
    message = f"{module} {how}; its whole output is in {log}; the last lines:\n" + "\n".join(tail)
    return ChildFailed(message, code, code != EXIT_USER, tail)
