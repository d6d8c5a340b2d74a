"""Works on batch operations: one page of executions after the other.

Rule 1: what is done to an execution is the RPC that does it to one, under a request id made of the
        batch's run and the execution's: a page that is done again after a crash applies once.
Rule 2: only executions that were there when the batch began are acted on, once each: a run that the
        batch itself has started (by a reset) or closed is passed over where a query finds it again.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from google.protobuf.message import Message

from durably.engine.batch import machine
from durably.engine.batch.state import BatchState
from durably.errors import (
    DeadlineExceeded,
    Internal,
    NotFound,
    Refusal,
    ResourceExhausted,
    Unavailable,
)
from durably.service.batch_requests import Target, request_of
from durably.service.batches import Batches
from durably.service.transact import Execution, Executions

logger = logging.getLogger(__name__)

CONCURRENT_MAX = 50
ATTEMPTS_MAX = 6
FIRST_RETRY_S = 0.1
TRIED_AGAIN = (Unavailable, ResourceExhausted, Internal, DeadlineExceeded)

Answer = Callable[[str, Message], Awaitable[Message]]
"""(RPC, request) -> response; raises a Refusal."""


@dataclass(slots=True)
class _Pace:
    """Lets one through every so often."""

    per_second: float
    next_at: float = 0.0

    async def turn(self) -> None:
        now = asyncio.get_running_loop().time()
        self.next_at = max(self.next_at, now)
        wait_s = self.next_at - now
        self.next_at += 1 / self.per_second
        if wait_s > 0:
            await asyncio.sleep(wait_s)


class BatchWork:
    """The batch operations that this node works on."""

    def __init__(self, executions: Executions, batches: Batches, answer: Answer) -> None:
        self._executions = executions
        self._batches = batches
        self._answer = answer
        self._under_way: set[int] = set()

    async def work(self, batch: Execution[BatchState]) -> None:
        """Work on a batch until it closes. One that is worked on already is left alone."""
        if batch.execution_id in self._under_way:
            return
        self._under_way.add(batch.execution_id)
        try:
            pace = _Pace(self._per_second(batch.state))
            while batch.state.running:
                await self._page(batch, pace)
                batch = await self._executions.get(batch.execution_id)
        finally:
            self._under_way.discard(batch.execution_id)

    def _per_second(self, state: BatchState) -> float:
        limit = self._executions.config.batch_executions_per_s_max
        asked = state.request.max_operations_per_second
        return min(asked, limit) if asked > 0 else limit

    async def _page(self, batch: Execution[BatchState], pace: _Pace) -> None:
        state = batch.state
        after = state.cursor
        targets, cursor = await self._batches.targets(state, after)
        slots = asyncio.Semaphore(CONCURRENT_MAX)

        async def one(target: Target) -> bool:
            async with slots:
                await pace.turn()
                return await self._act(state, target)

        done = await asyncio.gather(*(one(target) for target in targets))
        await self._executions.transact(
            batch.execution_id,
            lambda t: machine.advance(t, after, cursor, sum(done), len(done) - sum(done)),
        )

    async def _act(self, state: BatchState, target: Target) -> bool:
        """Whether it could be done. An execution that is gone or closed needs nothing done."""
        for attempt in range(ATTEMPTS_MAX):
            try:
                rpc, request = await request_of(self._executions, state, target)
                await self._answer(rpc, request)
            except NotFound:
                return True
            except TRIED_AGAIN:
                await asyncio.sleep(FIRST_RETRY_S * 2**attempt)
            except Refusal as refusal:
                logger.info("batch %s, %s: %s", state.workflow_id, target, refusal.message)
                return False
            else:
                return True
        return False
