"""What a server keeps in memory of the store, and others that share the store may change.

Rule 1: what was read of the store is not older than what this server has written meanwhile: else it is read
        again.
"""

from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable
from typing import TypeVar

R = TypeVar("R")


async def _at_once() -> None:
    """There are no other servers."""


class Shared(ABC):
    """The base of those who keep such a thing: namespaces, Nexus endpoints."""

    def __init__(self) -> None:
        self.generation = 0
        """Another number whenever another server has changed something."""
        self.may_have_changed: Callable[[], bool] = lambda: False
        """Whether another server may have changed something since the last look."""
        self.changed: Callable[[], None] = lambda: None
        """Called when something was made, changed or removed here."""
        self.settled: Callable[[], Awaitable[None]] = _at_once
        """Until other servers know what was changed."""
        self._writes = 0
        """How many this server has made."""

    @abstractmethod
    async def refresh(self) -> None:
        """Read what the store has."""

    async def refreshed(self) -> int:
        """The generation, after a look at what is so now."""
        if self.may_have_changed():
            await self.refresh()
        return self.generation

    async def _newest(self, read: Callable[[], Awaitable[R]]) -> R:
        while True:
            writes = self._writes
            found = await read()
            if self._writes == writes:
                return found

    def _wrote(self) -> None:
        """What is in the store is in memory, too."""
        self._writes += 1
        self.changed()
