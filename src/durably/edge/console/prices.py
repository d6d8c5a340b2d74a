"""What calls of models cost, by the price list of `genai-prices`, where that is installed."""

from decimal import Decimal
from functools import cache, lru_cache
from typing import Any

from durably.edge.console.agent_frameworks import Usage


@cache
def _list() -> Any:
    """The price list; None: it is not installed."""
    try:
        import genai_prices
    except ImportError:
        return None
    return genai_prices


def is_there() -> bool:
    """Reads the list when it is first asked, which takes a second: ask in a thread."""
    if _list() is None:
        return False
    cost(Usage(1, 1), "gpt-4.1-mini", "")
    return True


@lru_cache(maxsize=100_000)
def cost(usage: Usage, model: str, provider: str) -> Decimal | None:
    """In US dollars; None for a model that the list does not have."""
    prices = _list()
    if prices is None or not model:
        return None
    tokens = prices.Usage(
        input_tokens=usage.taken, output_tokens=usage.given, cache_read_tokens=usage.cached
    )
    try:
        found: Decimal = prices.calc_price(tokens, model, provider_id=provider or None).total_price
    except (LookupError, ValueError):
        return cost(usage, model, "") if provider else None
    return found


def money_text(dollars: Decimal | None) -> str:
    """Two digits that matter: `$0.0012`, `$3.40`."""
    if dollars is None:
        return ""
    if dollars >= 1:
        return f"${dollars:,.2f}"
    return f"${dollars:.2g}" if dollars >= Decimal("0.0001") else f"${dollars:.6f}".rstrip("0")
