"""What requests cost, and the most they may cost. Ours.

Before a request is sent the most it can cost is set aside, so that requests under way never add up to more than the
budget; what it did cost replaces that afterwards.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator

from pipeline_config.schema import ConfigError, EndpointConfig, Price
from tasks.endpoint.request import BudgetSpent

CHARACTERS_PER_TOKEN = 4.0
PIXELS_PER_TOKEN = 28 * 28  # Qwen2.5-VL; other endpoints count pictures otherwise
TOKENS_OF_FRAME = 16  # roles and separators of a dialogue


def price_of(config: EndpointConfig) -> Price:
    """The price of the model, free if no table names any model.

    Raises ConfigError: there is a table, but not for this model.
    """
    prices = {price.model: price for price in config.prices}
    if prices and config.model not in prices:
        raise ConfigError(f"prices: {config.model} is not among the models with a price ({', '.join(prices)}); add it")
    return prices.get(config.model, Price(model=config.model))


def cost_of(price: Price, prompt_tokens: float, completion_tokens: float) -> float:
    return (prompt_tokens * price.prompt + completion_tokens * price.completion) / 1e6


def estimate_tokens(text: str, num_pixels: float = 0.0) -> float:
    """Tokens of a prompt before anyone has counted them."""
    return TOKENS_OF_FRAME + len(text) / CHARACTERS_PER_TOKEN + num_pixels / PIXELS_PER_TOKEN


class Budget:
    """spent: by answered requests, those found in a journal included. limit: None = no limit."""

    def __init__(self, limit: float | None) -> None:
        self.limit = limit
        self.spent = 0.0
        self._set_aside = 0.0
        self._settled = asyncio.Event()

    @contextlib.asynccontextmanager
    async def reserve(self, most: float) -> AsyncIterator[None]:
        """Set `most` aside while a request is under way; waits for others to settle if only they stand in the way.

        Raises BudgetSpent.
        """
        while self.limit is not None and self.spent + self._set_aside + most > self.limit:
            if self.spent + most > self.limit:
                raise BudgetSpent(f"the budget of {self.limit:g} leaves {max(0.0, self.limit - self.spent):.4g}")
            self._settled.clear()
            await self._settled.wait()
        self._set_aside += most
        try:
            yield
        finally:
            self._set_aside -= most
            self._settled.set()

    def spend(self, cost: float) -> None:
        self.spent += cost
