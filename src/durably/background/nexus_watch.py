"""Watches operations whose handlers do not call back, until they have ended.

Rule 1: that an operation is watched is in its state: whoever has it in memory begins again after a crash. Asking
        is written down nowhere: only the end is.
Rule 2: an end is recorded once, whoever else may have asked meanwhile.
Rule 3: it is asked soon at first, then later and later, up to a limit; its handler may say how often. What
        fails is tried again; what can never succeed ends the operation.
"""

import asyncio
import logging
from typing import Any

from durably.config import Config
from durably.engine import nexus_operation
from durably.engine.nexus_outcome import Ended, Refused, Unsuccessful, refused
from durably.engine.state import HistoryState, NexusOperation
from durably.errors import NotFound, Refusal
from durably.service import nexus_dispatch
from durably.service.breakers import CircuitBreakers
from durably.service.execution import Execution
from durably.service.nexus_dispatch import AgentTarget, NexusDispatch, StillRunning
from durably.service.nexus_endpoints import NexusEndpoints
from durably.service.transact import Executions
from durably.under_way import UnderWay

logger = logging.getLogger(__name__)

SHORTEST_S = 0.1
GROWTH = 1.5


class NexusWatch:
    """What this node watches."""

    def __init__(
        self,
        executions: Executions,
        endpoints: NexusEndpoints,
        dispatch: NexusDispatch,
        breakers: CircuitBreakers,
    ) -> None:
        self._executions = executions
        self._config: Config = executions.config
        self._endpoints = endpoints
        self._dispatch = dispatch
        self._breakers = breakers
        self.under_way = UnderWay("watches of operations")

    def begin(self, execution: Execution[Any], scheduled_event_id: int) -> None:
        """Have an operation watched, unless it is."""
        key = (execution.execution_id, scheduled_event_id)
        self.under_way.begin_once(key, self._watch_logged, *key)

    async def _watch_logged(self, execution_id: int, scheduled_event_id: int) -> None:
        """One that fails is left to the execution's deadline, which asks for it again."""
        try:
            await self._watch(execution_id, scheduled_event_id)
        except NotFound:
            pass  # The execution is gone, or somebody else has recorded the end.
        except Refusal as refusal:
            logger.warning("watching an operation will be tried again: %s", refusal.message)
        except Exception:
            logger.exception("watching an operation of execution %s failed", execution_id)

    async def _watch(self, execution_id: int, scheduled_event_id: int) -> None:
        wait_s = self._config.agent_poll_interval_s
        while True:
            await asyncio.sleep(wait_s)
            execution = await self._executions.get(execution_id)
            operation = self._operation(execution, scheduled_event_id)
            if operation is None:
                return
            found = await self._look(execution.state, operation)
            if found is None:
                return
            if isinstance(found, Refused) and not found.retryable:
                found = Unsuccessful(found.failure)
            if isinstance(found, Ended):
                await self._end(execution_id, operation, found)
                return
            longest_s = self._config.agent_poll_maximum_interval_s
            wait_s = min(wait_s * GROWTH, longest_s)
            if isinstance(found, StillRunning) and found.after_s:
                wait_s = min(max(found.after_s, SHORTEST_S), longest_s)

    def _operation(
        self, execution: Execution[Any], scheduled_event_id: int
    ) -> NexusOperation | None:
        state: HistoryState = execution.state
        operation = state.nexus_operations.get(scheduled_event_id)
        return operation if state.running and operation and operation.is_watched else None

    async def _look(
        self, state: HistoryState, operation: NexusOperation
    ) -> StillRunning | Ended | Refused | None:
        """None: it is nobody's to watch."""
        scheduled = operation.scheduled
        endpoint = self._endpoints.find(scheduled.endpoint_id, scheduled.endpoint)
        if endpoint is None:
            return refused("NOT_FOUND", "endpoint not registered")
        target = nexus_dispatch.target_of(endpoint.spec)
        if not isinstance(target, AgentTarget):
            return None  # It leads elsewhere now, or the token only looks like one to watch.
        destination = (state.namespace_id, scheduled.endpoint)
        if not self._breakers.allows(destination):
            return StillRunning()
        answers = False
        try:
            timeout_s = self._config.nexus_request_timeout_s
            found = await self._dispatch.look(target, operation.token, timeout_s)
            answers = not (isinstance(found, Refused) and found.retryable)
        finally:
            if answers:
                self._breakers.succeeded(destination)
            else:
                self._breakers.failed(destination)
        return nexus_dispatch.within_limit(found, self._config.payload_bytes_max)

    async def _end(self, execution_id: int, operation: NexusOperation, ended: Ended) -> None:
        await self._executions.transact(
            execution_id,
            lambda t: nexus_operation.complete(
                t, operation.scheduled_event_id, operation.request_id, ended
            ),
        )
