"""What may be spent: set aside before, counted after."""

from __future__ import annotations

import asyncio

import pytest

from pipeline_config.schema import ConfigError, OpenAIJudge
from tasks.endpoint.budget import Budget, cost_of, price_of
from tasks.endpoint.request import BudgetSpent


def endpoint(**fields: object) -> OpenAIJudge:
    return OpenAIJudge.model_validate({"kind": "openai", "base_url": "http://x/v1", "model": "judge-1", **fields})


def test_the_price_is_that_of_the_model() -> None:
    prices = [{"model": "other", "prompt": 9.0}, {"model": "judge-1", "prompt": 2.0, "completion": 10.0}]
    assert cost_of(price_of(endpoint(prices=prices)), 1_000, 50) == pytest.approx(0.0025)
    assert cost_of(price_of(endpoint()), 1_000, 50) == 0
    with pytest.raises(ConfigError, match=r"prices: judge-1 is not among the models with a price \(other\)"):
        price_of(endpoint(prices=prices[:1]))


def test_requests_under_way_never_add_up_to_more_than_the_budget() -> None:
    async def scenario() -> tuple[Budget, float, int]:
        budget = Budget(10.0)
        under_way = most = 0.0
        refused = 0

        async def ask() -> None:
            nonlocal under_way, most, refused
            try:
                async with budget.reserve(3.0):
                    under_way += 3.0
                    most = max(most, budget.spent + under_way)
                    await asyncio.sleep(0.001)
                    under_way -= 3.0
                    budget.spend(1.0)
            except BudgetSpent:
                refused += 1

        await asyncio.gather(*(ask() for _ in range(20)))
        return budget, most, refused

    budget, most, refused = asyncio.run(scenario())
    assert most <= 10.0
    assert budget.spent == 8.0  # the ninth could have cost 3: 11
    assert refused == 12


def test_without_a_limit_nothing_is_refused() -> None:
    async def scenario() -> float:
        budget = Budget(None)
        async with budget.reserve(1e9):
            budget.spend(5.0)
        return budget.spent

    assert asyncio.run(scenario()) == 5.0


def test_a_failed_request_gives_back_what_was_set_aside() -> None:
    async def scenario() -> None:
        budget = Budget(3.0)
        for _ in range(5):
            with pytest.raises(KeyError):
                async with budget.reserve(3.0):
                    raise KeyError
        async with budget.reserve(3.0):
            pass

    asyncio.run(scenario())
