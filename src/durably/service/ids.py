"""Ids of executions and runs: they grow with time, so that rows made together lie together.

Rule 1: random bits come from the system, by the page.
"""

import os
import time

from durably.store.shards import Shards


class _Randomness:
    """Random bits from the system, fetched by the page: a system call for each id is dear."""

    PAGE_BYTES = 4096

    def __init__(self) -> None:
        self._page = b""
        self._used = 0

    def bits(self, count: int) -> int:
        size = (count + 7) // 8
        if self._used + size > len(self._page):
            self._page, self._used = os.urandom(self.PAGE_BYTES), 0
        found = int.from_bytes(self._page[self._used : self._used + size], "big")
        self._used += size
        return found & (1 << count) - 1


_random = _Randomness()


class IdSource:
    """63-bit ids that grow with time, so that new rows land at the end of every index; they say the
    shard of what they name."""

    def __init__(self, shards: Shards) -> None:
        self._shards = shards
        self._last = 0

    def next(self, now_ns: int, shard: int) -> int:
        fresh = (now_ns // 1_000_000) << 21 | _random.bits(20)
        self._last = self._shards.id_from(max(fresh, self._last + 1), shard)
        return self._last


def new_id() -> str:
    """A UUID of version 7: it begins with the time, so that ids made together lie together."""
    value = (time.time_ns() // 1_000_000) << 80 | _random.bits(76)
    value = value & ~(0xF << 76) | 7 << 76
    value = value & ~(0x3 << 62) | 2 << 62
    shown = f"{value:032x}"
    return f"{shown[:8]}-{shown[8:12]}-{shown[12:16]}-{shown[16:20]}-{shown[20:]}"
