"""Says once that a stage will take much longer than planned, and what is likely to be the cause.

A stage that runs a student is expected to take so many seconds (`tasks.student.duration`). What its first minute has
done shows how long it will take in truth. Ours, not of a paper.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable

from pipeline_config.schema import StudentConfig
from tasks.student.duration import in_words
from tasks.student.precision import Choice

FIRST_SECONDS = 60.0
FACTOR = 3.0  # longer than expected
_BUSY = 1.5  # running processes per processor


class Pace:
    """Of one stage. expected: seconds. cause: called when it is needed. say: what takes the sentence."""

    def __init__(self, stage: str, expected: float, cause: Callable[[], str], say: Callable[[str], None]) -> None:
        self._stage, self._expected, self._cause, self._say = stage, expected, cause, say
        self._start: tuple[float, float] | None = None  # when the first report came, and what was done by then
        self._watching = True

    def update(self, done: float, total: float) -> None:
        """done of total, as the stage reports its progress. Loading and a resumed stage's earlier work do not count."""
        now = time.monotonic()
        if self._start is None:
            self._start = now, done
        seconds, newly_done = now - self._start[0], done - self._start[1]
        if not self._watching or seconds < FIRST_SECONDS or newly_done <= 0:
            return
        self._watching = False
        projected = seconds * (total - self._start[1]) / newly_done
        # A resumed stage has a part left, and may take as large a part of what was expected.
        expected = self._expected * (total - self._start[1]) / total
        if projected > FACTOR * expected:
            self._say(
                f"{self._stage}: will take about {in_words(projected)}; {in_words(expected)} were expected of this "
                f"machine. Likely cause: {self._cause()}"
            )


def likely_cause(student: StudentConfig, choice: Choice) -> str:
    """Why a stage is slow, by what can be seen from outside it; the first that applies."""
    import psutil

    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    load = os.getloadavg()[0]
    if student.precision == "bfloat16" and choice.precision == "float32":
        return f"student.precision is bfloat16, which is slow on {choice.device} ({choice.reason}); set it to auto"
    if load > _BUSY * cores:
        return f"other processes keep the processors busy (load {load:.1f} on {cores} processor(s)); stop them"
    if 0 < student.threads < cores:
        return f"student.threads is {student.threads} on {cores} processors; set it to 0"
    if psutil.swap_memory().percent > 50 and psutil.virtual_memory().percent > 90:
        return "memory is full and the machine swaps; lower the batch sizes"
    return "this machine is slower at this work than at the product by which its speed was measured"
