"""What a model call cost, by the public prices in `genai-prices`.

Rule 1: without that package, or for a model that it does not know, there is no cost: None, never 0.
"""

import functools
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

from durably.agents.calls import ModelCall


def cost_usd(call: ModelCall, at_ns: int) -> Decimal | None:
    """In US dollars, at the prices of that moment."""
    prices = _prices()
    if prices is None or call.tokens is None or not call.model:
        return None
    usage = prices.Usage(
        input_tokens=call.tokens.input,
        output_tokens=call.tokens.output,
        cache_read_tokens=call.tokens.cache_read,
        cache_write_tokens=call.tokens.cache_write,
    )
    at = datetime.fromtimestamp(at_ns / 1e9, UTC)
    for provider in dict.fromkeys((call.provider or None, None)):
        try:
            found: Decimal = prices.calc_price(
                usage, call.model, provider_id=provider, genai_request_timestamp=at
            ).total_price
        except LookupError:
            continue
        return found
    return None


@functools.cache
def _prices() -> Any:
    """The library, which takes a second to import; None without it."""
    try:
        import genai_prices
    except ImportError:
        return None
    return genai_prices
