"""How fast things may happen, and how fast they did.

Rule 1: no clock of its own: each call is told the time, in nanoseconds since the epoch.
Rule 2: constant time and space, however many things happen.
"""

from collections import OrderedDict

SECOND_NS = 1_000_000_000
BURST_NS = SECOND_NS
"""What was not used in so long may be used at once."""
NEVER_NS = 2**63
"""When something is ready that may not happen at all."""
KEYS_REMEMBERED_MAX = 10_000


class Limiter:
    """At most so many a second, with a burst of one second's worth. No rate: no limit; 0: nothing."""

    __slots__ = ("_interval_ns", "_ready_ns", "per_s")

    def __init__(self, per_s: float | None = None) -> None:
        self.per_s: float | None = None
        self._interval_ns = 0.0
        self._ready_ns = 0.0
        self.set(per_s, 0)

    def set(self, per_s: float | None, now_ns: int) -> None:
        """Change the rate; what waits for the old one need not wait longer than the new one asks."""
        if per_s == self.per_s:
            return
        self.per_s = per_s
        self._interval_ns = SECOND_NS / per_s if per_s else 0.0
        self._ready_ns = min(self._ready_ns, now_ns + self._interval_ns)

    def ready_ns(self) -> int:
        """The moment from which the next may happen."""
        if self.per_s is None:
            return 0
        return int(self._ready_ns) if self.per_s > 0 else NEVER_NS

    def take(self, now_ns: int, share: float = 1.0) -> None:
        """One has happened; a `share` above 1 lets that many times more happen."""
        if self.per_s:
            self._ready_ns = max(self._ready_ns, now_ns - BURST_NS) + self._interval_ns / share


class KeyLimiter:
    """The same rate for each of many keys; those that are used least recently are forgotten."""

    def __init__(self) -> None:
        self.per_s: float | None = None
        self._keys: OrderedDict[str, Limiter] = OrderedDict()

    def set(self, per_s: float | None, now_ns: int) -> None:
        if per_s is None:
            self._keys.clear()
        self.per_s = per_s
        for limiter in self._keys.values():
            limiter.set(per_s, now_ns)

    def ready_ns(self, key: str) -> int:
        if self.per_s is None:
            return 0
        limiter = self._keys.get(key)
        if limiter is None:
            return 0 if self.per_s > 0 else NEVER_NS
        return limiter.ready_ns()

    def take(self, key: str, now_ns: int, share: float) -> None:
        if self.per_s is None:
            return
        limiter = self._keys.get(key)
        if limiter is None:
            limiter = self._keys[key] = Limiter(self.per_s)
            if len(self._keys) > KEYS_REMEMBERED_MAX:
                self._keys.popitem(last=False)
        else:
            self._keys.move_to_end(key)
        limiter.take(now_ns, share)


class Meter:
    """How often something happened lately: the average over about the last 30 seconds."""

    BUCKET_NS = 5 * SECOND_NS
    BUCKETS = 6

    __slots__ = ("_buckets", "_since_ns")

    def __init__(self, now_ns: int) -> None:
        self._since_ns = now_ns
        self._buckets: dict[int, int] = {}

    def count(self, now_ns: int) -> None:
        bucket = now_ns // self.BUCKET_NS
        if bucket not in self._buckets:
            self._forget(bucket)
            self._buckets[bucket] = 0
        self._buckets[bucket] += 1

    def per_s(self, now_ns: int) -> float:
        last = now_ns // self.BUCKET_NS
        self._forget(last)
        if not self._buckets:
            return 0.0
        began_ns = max(self._since_ns, (last - self.BUCKETS + 1) * self.BUCKET_NS)
        return sum(self._buckets.values()) * SECOND_NS / max(now_ns - began_ns, SECOND_NS)

    def _forget(self, last: int) -> None:
        for bucket in [each for each in self._buckets if each <= last - self.BUCKETS]:
            del self._buckets[bucket]
