"""When executions want to be woken: the near deadlines, in memory.

Rule 1: a deadline is in the row of its execution; what is remembered here only says when to look.
Rule 2: servers that share a store divide its deadlines. Whoever wrote one comes first, another a little
        later, in case that one has died.
"""

import asyncio
import heapq
from collections.abc import Callable
from typing import Any

from durably.config import Config
from durably.engine import deadlines
from durably.engine.snapshot import AnyState
from durably.engine.transition import Transition, outstanding
from durably.histogram import Histogram
from durably.service.execution import Execution
from durably.service.nodes import Nodes
from durably.store.store import Store

DELIVERY_RETRY_NS = 10 * 1_000_000_000
COMES_SECOND_NS = 100_000_000
"""How much later than its writer another server comes to a deadline that lies ahead."""
TAKEN_OVER_NS = 5_000_000_000
"""How long a deadline that has passed, or a delivery that is owed, is left to its writer."""


class Wakes:
    """The executions that want attention soon, and when."""

    def __init__(
        self,
        store: Store,
        clock: Callable[[], int],
        config: Config,
        retention_ns: Callable[[str], int],
        nodes: Nodes | None,
    ) -> None:
        self.changed = asyncio.Event()
        """Set when one is armed that comes before all others."""
        self.lateness = Histogram()
        """Seconds from a deadline to the moment at which its execution was woken."""
        self._store = store
        self._clock = clock
        self._config = config
        self._retention_ns = retention_ns
        self._nodes = nodes
        self._near: list[tuple[int, int]] = []

    async def due_in_store(self, horizon_ns: int, limit: int) -> list[tuple[int, int]]:
        """(execution id, when to wake it) of those that want attention up to `horizon_ns`."""
        if self._nodes is None or self._nodes.alone():
            return await self._store.due(horizon_ns, limit)
        part, parts = self._nodes.part()
        now_ns = self._clock()
        found = await self._nodes.board.due(horizon_ns, limit, part, parts)
        return [
            (each, at_ns + (TAKEN_OVER_NS if at_ns <= now_ns else COMES_SECOND_NS))
            for each, at_ns in found
        ]

    def next_deadline(self, execution: Execution[AnyState], t: Transition[Any]) -> int:
        """Never later than the moment at which the execution wants attention; 0: never."""
        if outstanding(t.state):
            return t.now_ns
        if t.state.closed:
            removal_ns: int = t.state.close_ns + self._retention_ns(t.state.namespace_id)
            return min(removal_ns, deadlines.next_deadline(t.state) or removal_ns)
        if t.reschedule or not execution.deadline_ns:
            return t.deadline_ns
        if execution.deadline_ns <= t.now_ns:
            return deadlines.next_deadline(t.state)
        return min(execution.deadline_ns, t.deadline_ns or execution.deadline_ns)

    def arm_for(self, execution: Execution[Any]) -> None:
        """Once is enough, until it comes: whoever is woken is armed again."""
        at_ns = self._wake_ns(execution)
        if not self._clock() < execution.armed_ns <= at_ns:
            execution.armed_ns = at_ns
            self.arm(execution.execution_id, at_ns)

    def _wake_ns(self, execution: Execution[Any]) -> int:
        """When to look at an execution again. While it owes something, its row says that it wants
        attention now, for the next server; on this one the delivery is on its way."""
        state, now_ns = execution.state, self._clock()
        if execution.deadline_ns > now_ns or not outstanding(state):
            return execution.deadline_ns
        again_ns = now_ns + DELIVERY_RETRY_NS
        wanted_ns = deadlines.next_deadline(state)
        return min(again_ns, wanted_ns) if wanted_ns else again_ns

    def arm(self, execution_id: int, at_ns: int) -> None:
        """Remember a deadline in memory, if it comes before the next sweep of the store."""
        horizon_ns = self._clock() + int(2e9 * self._config.deadline_sweep_interval_s)
        if at_ns > horizon_ns:
            return
        if not self._near or at_ns < self._near[0][0]:
            self.changed.set()
        heapq.heappush(self._near, (at_ns, execution_id))

    def due(self, now_ns: int) -> list[int]:
        """Take the executions whose near deadline has come; each once."""
        found: dict[int, None] = {}
        while self._near and self._near[0][0] <= now_ns:
            at_ns, execution_id = heapq.heappop(self._near)
            if execution_id not in found:
                self.lateness.observe((now_ns - at_ns) / 1e9)
            found[execution_id] = None
        return list(found)

    def near(self) -> int:
        """How many deadlines are in memory."""
        return len(self._near)

    def next_near(self) -> int:
        return self._near[0][0] if self._near else 0
