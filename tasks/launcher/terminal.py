"""How far a stage is: a bar with the time left in a terminal, a log line now and then anywhere else.

Ours, not of a paper.
"""

from __future__ import annotations

import logging
import threading
import time
from typing import Any

SECONDS_BETWEEN_LINES = 15.0
_bar_in_use = threading.Lock()  # one bar at a time; a second stage writes lines


class Progress:
    """Progress of one stage. A context manager; a terminal is left tidy however the stage ends."""

    def __init__(self, stage: str, logger: logging.Logger) -> None:
        self.stage, self._logger = stage, logger
        self._bar: Any = None
        self._task: Any = None
        self._started = self._said = time.monotonic()
        self._first = 0.0

    def __enter__(self) -> Progress:
        return self

    def __exit__(self, *exception: object) -> None:
        if self._bar is not None:
            self._bar.stop()
            self._bar = None
            _bar_in_use.release()

    def update(self, done: float, total: float, **figures: float) -> None:
        """done of total, in whatever the stage counts; figures: shown beside, such as ``loss=0.7``."""
        words = " ".join(f"{name} {value:.4g}" for name, value in figures.items() if isinstance(value, int | float))
        if self._has_bar():
            if self._task is None:
                self._task = self._bar.add_task(self.stage, total=total, words="")
            self._bar.update(self._task, completed=done, total=total, words=words)
            return
        now = time.monotonic()
        if done >= total or now - self._said >= SECONDS_BETWEEN_LINES:
            self._said = now
            left = _seconds_left(done - self._first, total - done, now - self._started)
            self._logger.info("%s: %g of %g%s %s", self.stage, done, total, left, words)
        elif self._first == 0.0 and now - self._started < 1:
            self._first = done  # a resumed stage does not count what an earlier attempt did

    def _has_bar(self) -> bool:
        if self._bar is None:
            console = _console()
            if not console.is_terminal or not _bar_in_use.acquire(blocking=False):
                return False
            self._bar = _bar(console)
            self._bar.start()
        return True


def _console() -> Any:
    """The console that Prefect's log handler writes to, so that a line of log does not tear the bar; else stderr.

    By attribute: nothing here imports Prefect, and without it there is no such handler.
    """
    from rich.console import Console

    consoles = [handler.console for handler in logging.getLogger().handlers if hasattr(handler, "console")]
    return consoles[0] if consoles and isinstance(consoles[0], Console) else Console(stderr=True)


def _bar(console: Any) -> Any:
    from rich import progress

    return progress.Progress(
        progress.TextColumn("{task.description:>9}"),
        progress.BarColumn(),
        progress.MofNCompleteColumn(),
        progress.TimeElapsedColumn(),
        progress.TextColumn("left"),
        progress.TimeRemainingColumn(),
        progress.TextColumn("{task.fields[words]}"),
        console=console,
        transient=True,
    )


def _seconds_left(done: float, left: float, seconds: float) -> str:
    if done <= 0 or left <= 0:
        return ""
    return f", {seconds / done * left:,.0f} s left;"
