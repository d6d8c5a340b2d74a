"""Works on batch operations: one page of executions after the other.

Rule 1: what is done to an execution is the RPC that does it to one, under a request id made of the
        batch's run and the execution's: a page that is done again after a crash applies once.
Rule 2: a page is about a second's work, so that a stop is heard soon and the counts are fresh.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from google.protobuf.message import Message

from durably.engine.batch import machine
from durably.engine.batch.state import BatchState
from durably.engine.state import BatchTarget
from durably.errors import (
    DeadlineExceeded,
    Internal,
    NotFound,
    Refusal,
    ResourceExhausted,
    Unavailable,
)
from durably.service.batch_requests import request_of
from durably.service.batches import Batches
from durably.service.execution import Execution
from durably.service.transact import Executions
from durably.under_way import UnderWay

logger = logging.getLogger(__name__)

PAGE_MAX = 200
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
    """The batch operations that this node works on, each in a task of its own: they may take hours."""

    def __init__(self, executions: Executions, batches: Batches, answer: Answer) -> None:
        self._executions = executions
        self._batches = batches
        self._answer = answer
        self.under_way = UnderWay("batch operations")

    def begin(self, batch: Execution[BatchState]) -> None:
        """Work on a batch until it closes. One that is worked on already is left alone."""
        self.under_way.begin_once(batch.execution_id, self._work_logged, batch.execution_id)

    async def _work_logged(self, execution_id: int) -> None:
        """Work that ends early is left to the batch's deadline, which asks for it again."""
        try:
            await self._work(execution_id)
        except NotFound:
            pass  # The batch is gone.
        except Refusal as refusal:
            logger.warning(
                "a batch will be gone on with: %s",
                refusal.message,
                extra={"fields": self._executions.ids(execution_id)},
            )
        except Exception:
            logger.exception(
                "work on a batch failed", extra={"fields": self._executions.ids(execution_id)}
            )

    async def _work(self, execution_id: int) -> None:
        batch = await self._executions.get(execution_id)
        pace = _Pace(self._per_second(batch.state))
        while batch.state.running:
            if batch.state.page:
                await self._do_page(batch, pace)
            else:
                await self._take_page(batch, pace)
            batch = await self._executions.get(execution_id)

    def _per_second(self, state: BatchState) -> float:
        limit = self._executions.config.batch_executions_per_s_max
        asked = state.request.max_operations_per_second
        return min(asked, limit) if asked > 0 else limit

    async def _take_page(self, batch: Execution[BatchState], pace: _Pace) -> None:
        after = batch.state.cursor
        size = max(1, min(PAGE_MAX, int(pace.per_second)))
        try:
            page, cursor = await self._batches.page(batch.state, after, size)
        except TRIED_AGAIN:
            raise
        except Refusal as refusal:
            reason = refusal.message
            logger.warning("batch %s has failed: %s", batch.state.workflow_id, reason)
            await self._executions.transact(batch.execution_id, lambda t: machine.fail(t, reason))
            return
        await self._executions.transact(
            batch.execution_id, lambda t: machine.take(t, after, page, cursor)
        )

    async def _do_page(self, batch: Execution[BatchState], pace: _Pace) -> None:
        page = batch.state.page
        slots = asyncio.Semaphore(CONCURRENT_MAX)

        async def one(target: BatchTarget) -> bool | None:
            """Whether it could be done; None: the batch was stopped before."""
            async with slots:
                await pace.turn()
                state = (await self._executions.get(batch.execution_id)).state
                return await self._act(state, target) if state.running else None

        ends = await asyncio.gather(*(one(target) for target in page))
        completed, failed = ends.count(True), ends.count(False)
        await self._executions.transact(
            batch.execution_id, lambda t: machine.done(t, page, completed, failed)
        )

    async def _act(self, state: BatchState, target: BatchTarget) -> bool:
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
