"""The time of a server whose time can be skipped; all others take the system's.

A clock is a function that gives nanoseconds since the epoch, passed in once where a server is built.
"""

import time


class SkippingClock:
    """The system's time, and what has been skipped beside."""

    def __init__(self) -> None:
        self._skipped_ns = 0

    def __call__(self) -> int:
        return time.time_ns() + self._skipped_ns

    def skip_to(self, at_ns: int) -> None:
        """Go on from this moment; one that has passed changes nothing."""
        self._skipped_ns += max(0, at_ns - self())
