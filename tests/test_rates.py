"""Rates: what may happen, and what did."""

import pytest

from durably.rates import NEVER_NS, SECOND_NS, KeyLimiter, Limiter, Meter

START_NS = 1_000 * SECOND_NS


def happened(limiter: Limiter, from_ns: int, until_ns: int, step_ns: int = SECOND_NS // 100) -> int:
    """How often something happens that is tried again and again."""
    count, now_ns = 0, from_ns
    while now_ns < until_ns:
        if limiter.ready_ns() <= now_ns:
            limiter.take(now_ns)
            count += 1
        else:
            now_ns += step_ns
    return count


@pytest.mark.parametrize("per_s", [1.0, 5.0, 40.0])
def test_a_rate_is_kept_after_its_burst(per_s: float) -> None:
    limiter = Limiter(per_s)
    burst = happened(limiter, START_NS, START_NS + 1)
    assert per_s <= burst <= per_s + 1
    assert happened(limiter, START_NS, START_NS + 10 * SECOND_NS) == pytest.approx(
        10 * per_s, rel=0.1, abs=1
    )


def test_no_rate_limits_nothing_and_zero_allows_nothing() -> None:
    limiter = Limiter()
    limiter.take(START_NS)
    assert limiter.ready_ns() == 0
    limiter.set(0.0, START_NS)
    assert limiter.ready_ns() == NEVER_NS
    limiter.set(0.001, START_NS)
    limiter.take(START_NS)
    limiter.take(START_NS)
    limiter.set(10.0, START_NS)
    assert limiter.ready_ns() <= START_NS + SECOND_NS // 10


def test_keys_have_rates_of_their_own_by_weight() -> None:
    limiter = KeyLimiter()
    limiter.set(1.0, START_NS)
    for _ in range(2):
        limiter.take("a", START_NS, 1.0)
        limiter.take("b", START_NS, 10.0)
    assert limiter.ready_ns("a") > START_NS
    assert limiter.ready_ns("b") <= START_NS
    limiter.set(None, START_NS)
    assert limiter.ready_ns("a") == 0


def test_a_meter_forgets_what_is_long_ago() -> None:
    meter = Meter(START_NS)
    for step in range(100):
        meter.count(START_NS + step * SECOND_NS // 10)
    assert meter.per_s(START_NS + 10 * SECOND_NS) == pytest.approx(10, rel=0.1)
    assert meter.per_s(START_NS + 60 * SECOND_NS) == 0
