"""Circuit breakers: a destination that keeps failing is left alone for a while.

    state       input                          to
    ---------   ----------------------------   ---------
    closed      failures in a row, too many    open
    open        some time                      half open
    half open   the one request that is let    closed if it succeeded, else open
                through

Rule 1: in memory only: a server that starts asks every destination again.
"""

from collections.abc import Callable, Hashable
from dataclasses import dataclass

IsBlocked = Callable[[str, str], bool]
"""(namespace id, destination) -> whether requests to it are held back now. A destination is an endpoint,
or scheme, host and port of a URL."""

OPEN = "The circuit breaker is open."
"""Why something waits, in a description of it."""


@dataclass(slots=True)
class _Breaker:
    failures: int = 0
    open_until_ns: int = 0
    trying: bool = False


class CircuitBreakers:
    """One for each destination that has failed lately."""

    def __init__(self, clock: Callable[[], int], failures_max: int, open_s: float) -> None:
        self._clock = clock
        self._failures_max = failures_max
        self._open_ns = int(open_s * 1e9)
        self._breakers: dict[Hashable, _Breaker] = {}

    def allows(self, destination: Hashable) -> bool:
        """Whether a request may be made now. Who is told so says afterwards what came of it."""
        breaker = self._breakers.get(destination)
        if breaker is None or not breaker.open_until_ns:
            return True
        if breaker.trying or self._clock() < breaker.open_until_ns:
            return False
        breaker.trying = True
        return True

    def is_open(self, destination: Hashable) -> bool:
        """Whether requests wait, all but one perhaps."""
        breaker = self._breakers.get(destination)
        return breaker is not None and breaker.open_until_ns != 0

    def is_blocked(self, namespace_id: str, destination: str) -> bool:
        """The same of a destination that a namespace asks for: an `IsBlocked`."""
        return self.is_open((namespace_id, destination))

    def succeeded(self, destination: Hashable) -> None:
        self._breakers.pop(destination, None)

    def failed(self, destination: Hashable) -> None:
        breaker = self._breakers.setdefault(destination, _Breaker())
        breaker.failures += 1
        breaker.trying = False
        if breaker.failures >= self._failures_max:
            breaker.open_until_ns = self._clock() + self._open_ns
