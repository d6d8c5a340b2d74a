"""Contested executions: those that several servers write to at once.

Rule 1: an execution is contested for a while after a race for it was lost, and as long as others go on
        writing to it. Then servers take turns (`Rounds`): whose round it is reads what the others have
        written, decides on everything that waits for the execution here, and commits it as one group.
Rule 2: nothing rests on that: a server that knows nothing of it, or goes on without its round, races as ever,
        and the compare-and-set decides.
Rule 3: an execution that is not contested costs one look into a dict.
"""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable

from durably.service.nodes import Nodes, Raced
from durably.under_way import UnderWay

CONTESTED_S = 1.0
"""So long after the last race, or the last write of another server, an execution is contested."""


class _Round:
    """One of this server's, for all that waited for it here."""

    def __init__(self) -> None:
        self.waiting = 0
        """Who waits for it, or is in it."""
        self.begun = asyncio.Event()
        self.ended = asyncio.Event()

    @contextlib.asynccontextmanager
    async def joined(self) -> AsyncIterator[None]:
        self.waiting += 1
        try:
            await self.begun.wait()
            yield
        finally:
            self.waiting -= 1
            if not self.waiting and self.begun.is_set():
                self.ended.set()


class Contention:
    """Which executions are contested, and this server's rounds with them."""

    def __init__(self, nodes: Nodes | None, refresh: Callable[[int], Awaitable[None]]) -> None:
        """`refresh`: from its end on, what was committed before its call is what the next one who decides
        on this execution reads."""
        self.rounds = 0
        """How many this server has had."""
        self.missed = 0
        """How many it went on without, because they did not come in time."""
        self._nodes = nodes
        self._refresh = refresh
        self._until: dict[int, float] = {}
        self._next: dict[int, _Round] = {}
        """Rounds that have not begun: who comes now joins them."""
        self._holding = UnderWay("rounds")

    def count(self) -> int:
        """How many executions are contested."""
        return len(self._until)

    def contested(self, execution_id: int) -> bool:
        return execution_id in self._until

    def lost(self, execution_id: int) -> None:
        """This server has lost a race; the others are told."""
        if self._nodes is None or self._nodes.alone():
            return
        if execution_id not in self._until:
            self._nodes.say(Raced(execution_id))
        self.raced(execution_id)

    def raced(self, execution_id: int) -> None:
        """Servers race for it."""
        loop = asyncio.get_running_loop()
        if execution_id not in self._until:
            loop.call_later(CONTESTED_S, self._look, execution_id)
        self._until[execution_id] = loop.time() + CONTESTED_S

    def overtook(self, execution_id: int) -> None:
        """Another server has written to it meanwhile."""
        if execution_id in self._until:
            self.raced(execution_id)

    def _look(self, execution_id: int) -> None:
        loop = asyncio.get_running_loop()
        until = self._until[execution_id]
        if until <= loop.time():
            del self._until[execution_id]
        else:
            loop.call_at(until, self._look, execution_id)

    @contextlib.asynccontextmanager
    async def round(self, execution_id: int) -> AsyncIterator[None]:
        """In this server's next round with a contested execution, together with all who wait for it."""
        coming = self._next.get(execution_id)
        if coming is None:
            coming = self._next[execution_id] = _Round()
            self._holding.begin(self._hold(execution_id, coming))
        async with coming.joined():
            yield

    async def _hold(self, execution_id: int, coming: _Round) -> None:
        assert self._nodes is not None
        try:
            async with self._nodes.rounds.held(execution_id) as held:
                self.rounds += held
                self.missed += not held
                await self._refresh(execution_id)
                self._begin(execution_id, coming)
                await coming.ended.wait()
        finally:
            # Who waits goes on, whatever has failed.
            self._begin(execution_id, coming)

    async def close(self) -> None:
        """Give up the rounds: who waits for one goes on without."""
        await self._holding.closed()

    def _begin(self, execution_id: int, coming: _Round) -> None:
        if self._next.get(execution_id) is coming:
            del self._next[execution_id]
        coming.begun.set()
        if not coming.waiting:
            coming.ended.set()
