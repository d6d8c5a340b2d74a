"""Waiting for the first of several things."""

import asyncio
from collections.abc import Awaitable
from typing import Any


async def first_done(
    *works: Awaitable[Any], seconds: float | None = None
) -> list[asyncio.Future[Any]]:
    """Begin all of them, wait until one is done, at most so long, and cancel those that are not.

    Returns a future for each, in their order: `done()` says which were in time, and `result()` of those
    returns or raises what they did.
    """
    begun: list[asyncio.Future[Any]] = [asyncio.ensure_future(work) for work in works]
    try:
        await asyncio.wait(begun, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for each in begun:
            each.cancel()
    return begun
