"""How much may be asked at once, how fast, and when to stop hammering. Each for one event loop. Ours.

`AdaptiveLimit`: additive increase, multiplicative decrease, as TCP does it, up to what the config allows.
`Rate`: so many units a minute. `Breaker`: after many failures in a row one request probes and the others wait.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections import deque
from collections.abc import AsyncIterator

from tasks.endpoint.request import EndpointUnavailable

FIRST_LIMIT = 16  # requests at once before the endpoint has shown that it bears more
BURST_SECONDS = 1.0  # of a rate, that may be used at once after a pause
LONGEST_PAUSE = 60.0  # seconds


class AdaptiveLimit:
    """At most `most` under way: one more per answer until the first overload, which halves it; one more per round of
    answers after that. Overloads among requests that began before the last cut count once."""

    def __init__(self, most: int) -> None:
        self.most = most
        self.limit = float(min(FIRST_LIMIT, most))
        self.in_flight = 0
        self._ever_cut = False
        self._cut_at = float("-inf")
        self._waiting: deque[asyncio.Future[None]] = deque()

    async def acquire(self) -> None:
        if not self._waiting and self.in_flight < int(self.limit):
            self.in_flight += 1
            return
        turn = asyncio.get_running_loop().create_future()
        self._waiting.append(turn)
        try:
            await turn
        except asyncio.CancelledError:
            if turn.done() and not turn.cancelled():
                self.release()  # the place was given in the same moment
            raise

    def release(self) -> None:
        self.in_flight -= 1
        self._admit()

    def succeeded(self) -> None:
        self.limit = min(float(self.most), self.limit + (1 / self.limit if self._ever_cut else 1.0))
        self._admit()

    def overloaded(self, began: float) -> None:
        """began: when the request that met the overload was sent, on the monotonic clock."""
        if began >= self._cut_at:
            self._ever_cut = True
            self.limit = max(1.0, self.limit / 2)
            self._cut_at = time.monotonic()

    def _admit(self) -> None:
        while self._waiting and self.in_flight < int(self.limit):
            turn = self._waiting.popleft()
            if not turn.done():
                self.in_flight += 1
                turn.set_result(None)


class Rate:
    """So many units a minute, evenly spread; 0 = no limit."""

    def __init__(self, per_minute: float) -> None:
        self._seconds_per_unit = 60 / per_minute if per_minute > 0 else 0.0
        self._next = float("-inf")

    async def take(self, units: float = 1.0) -> None:
        """Wait until these units may be used."""
        if not self._seconds_per_unit:
            return
        now = time.monotonic()
        turn = max(self._next, now - BURST_SECONDS)
        self._next = turn + units * self._seconds_per_unit
        if turn > now:
            await asyncio.sleep(turn - now)

    def correct(self, units: float) -> None:
        """More units were used than were taken, or fewer (negative)."""
        self._next += units * self._seconds_per_unit


class Breaker:
    """Open after `threshold` failures in a row: then one attempt at a time, a probe, after a pause that doubles.

    last_success: on the monotonic clock. probes: failed since it opened. seconds_open: since the first of them.
    """

    def __init__(self, threshold: int, first_pause: float) -> None:
        self.last_success = float("-inf")
        self.probes = 0
        self._threshold = threshold
        self._first_pause = first_pause
        self._failures = 0
        self._first_probe = float("inf")
        self._gave_up: tuple[float, str] = (float("-inf"), "")
        self._turn = asyncio.Lock()

    @property
    def is_open(self) -> bool:
        return self._failures >= self._threshold

    @property
    def seconds_open(self) -> float:
        return max(0.0, time.monotonic() - self._first_probe)

    @contextlib.asynccontextmanager
    async def attempt(self, asked: float) -> AsyncIterator[bool]:
        """Around an attempt; waits while the breaker is open and it is not this one's turn. Tells if it is a probe.

        asked: when the request was made, on the monotonic clock. Raises EndpointUnavailable if another has given up
        since.
        """
        async with self._turn if self.is_open else contextlib.nullcontext():
            when, why = self._gave_up
            if when > asked:
                raise EndpointUnavailable(why)
            if self.is_open:
                await asyncio.sleep(min(LONGEST_PAUSE, self._first_pause * 2 ** min(self.probes, 16)))
                self._first_probe = min(self._first_probe, time.monotonic())
                yield True
                return
        yield False

    def succeeded(self) -> None:
        self._failures = self.probes = 0
        self._first_probe = float("inf")
        self.last_success = time.monotonic()

    def failed(self, is_probe: bool) -> None:
        self._failures += 1
        self.probes += is_probe

    def give_up(self, why: str) -> None:
        """Nobody is answered: those that have been asking so far need not try either."""
        self._gave_up = (time.monotonic(), why)
