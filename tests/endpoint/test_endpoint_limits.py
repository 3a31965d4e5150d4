"""Limits on what is asked at once, how fast, and after how many failures."""

from __future__ import annotations

import asyncio
import time

import pytest

from tasks.endpoint.limits import FIRST_LIMIT, AdaptiveLimit, Breaker, Rate


def test_the_limit_opens_with_answers_and_is_halved_by_an_overload() -> None:
    limit = AdaptiveLimit(64)
    assert limit.limit == FIRST_LIMIT
    for _ in range(100):
        limit.succeeded()
    assert limit.limit == 64
    began = time.monotonic()
    limit.overloaded(began)
    limit.overloaded(began)  # of the same burst
    assert limit.limit == 32
    for _ in range(32):
        limit.succeeded()
    assert 32.5 < limit.limit < 33.1  # one more per round
    for _ in range(20):
        limit.overloaded(time.monotonic())
    assert limit.limit == 1


def test_a_small_limit_is_never_exceeded() -> None:
    assert AdaptiveLimit(3).limit == 3


def test_who_waits_is_admitted_in_order_and_a_cancelled_one_takes_no_place() -> None:
    async def scenario() -> list[int]:
        limit = AdaptiveLimit(1)
        admitted: list[int] = []

        async def one(number: int) -> None:
            await limit.acquire()
            admitted.append(number)
            await asyncio.sleep(0)
            limit.release()

        await limit.acquire()
        waiting = [asyncio.create_task(one(n)) for n in range(4)]
        await asyncio.sleep(0.01)
        assert admitted == []
        waiting[1].cancel()
        limit.release()
        await asyncio.gather(*waiting, return_exceptions=True)
        assert limit.in_flight == 0
        # given and cancelled in the same moment
        await limit.acquire()
        late = asyncio.create_task(one(9))
        await asyncio.sleep(0.01)
        limit.release()
        late.cancel()
        await asyncio.gather(late, return_exceptions=True)
        assert limit.in_flight == 0
        return admitted

    assert asyncio.run(scenario()) == [0, 2, 3]


def test_a_rate_spreads_what_is_taken() -> None:
    async def scenario() -> float:
        rate = Rate(6_000)  # 100 a second
        started = time.monotonic()
        for _ in range(130):
            await rate.take()
        return time.monotonic() - started

    assert asyncio.run(scenario()) >= 0.25  # a second's worth is there at once


def test_a_rate_counts_what_was_used_in_the_end() -> None:
    async def scenario() -> float:
        rate = Rate(60_000)  # 1,000 tokens a second
        await rate.take(1_000)
        rate.correct(1_200)
        started = time.monotonic()
        await rate.take(1)
        return time.monotonic() - started

    assert asyncio.run(scenario()) >= 1.0


def test_no_rate_is_no_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    slept: list[float] = []

    async def sleep(seconds: float) -> None:
        slept.append(seconds)

    monkeypatch.setattr("tasks.endpoint.limits.asyncio.sleep", sleep)

    async def scenario(rate: Rate) -> None:
        for _ in range(100):
            await rate.take(1e9)

    asyncio.run(scenario(Rate(0)))
    assert slept == []
    asyncio.run(scenario(Rate(60)))
    assert len(slept) >= 99


def test_an_open_breaker_lets_one_probe_and_closes_on_success() -> None:
    async def scenario() -> int:
        breaker = Breaker(3, 0.01)
        under_way = most = 0

        async def attempt(fails: bool) -> None:
            nonlocal under_way, most
            async with breaker.attempt(time.monotonic()) as is_probe:
                under_way += 1
                most = max(most, under_way)
                await asyncio.sleep(0.005)
                under_way -= 1
                breaker.failed(is_probe) if fails else breaker.succeeded()

        for _ in range(3):
            await attempt(True)
        assert breaker.is_open
        await asyncio.gather(*(attempt(True) for _ in range(3)))
        assert (most, breaker.probes) == (1, 3)
        await attempt(False)
        assert not breaker.is_open
        await asyncio.gather(*(attempt(False) for _ in range(3)))
        return most

    assert asyncio.run(scenario()) == 3


@pytest.mark.parametrize("failures", [2, 40])
def test_pauses_double_up_to_a_bound(failures: int, monkeypatch: pytest.MonkeyPatch) -> None:
    slept: list[float] = []

    async def sleep(seconds: float) -> None:
        slept.append(seconds)

    monkeypatch.setattr("tasks.endpoint.limits.asyncio.sleep", sleep)

    async def scenario() -> None:
        breaker = Breaker(1, 1.0)
        for _ in range(failures):
            breaker.failed(is_probe=breaker.is_open)
        async with breaker.attempt(time.monotonic()):
            pass

    asyncio.run(scenario())
    assert slept == [2.0 if failures == 2 else 60.0]
