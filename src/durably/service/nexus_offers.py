"""Requests to Nexus handlers whose workers wait at other servers.

Rule 1: a request for which no worker waits here lies in the store, until a server at which one waits has
        taken it. Its asker keeps it, and puts it there again if it was lost or its taker has died.
Rule 2: words say where to look sooner; while nobody has taken a request, its asker repeats them.
Rule 3: what a server has taken it gives to a worker in the same moment, or lets go of.
"""

import asyncio
import contextlib
from collections.abc import Coroutine
from dataclasses import dataclass
from typing import Any

from temporalio.api.failure.v1 import message_pb2 as failure
from temporalio.api.nexus.v1 import message_pb2 as nexus

from durably.engine.versioning.version import FRESH
from durably.errors import Refusal
from durably.matching import Matching
from durably.service.nodes import NexusWaits, Nodes
from durably.service.transact import Executions
from durably.store.store import NexusRequestRow, QueueKey, TaskKind
from durably.under_way import UnderWay

Answer = nexus.Response | failure.Failure
"""What a worker says: a response, or a handler error."""


@dataclass(slots=True, eq=False)
class NexusTask:
    """One request that waits for a worker, or for the answer of one."""

    task_id: str
    request: nexus.Request
    asked_s: float
    deadline_s: float
    """By the loop's clock, as `asked_s`: when the worker is to have answered."""
    answer: asyncio.Future[Answer]
    route = FRESH
    """It belongs to no workflow here: it goes to the current version of its queue, or the ramping one."""

    @property
    def workflow_id(self) -> str:
        """What decides whether a ramp takes it."""
        return self.task_id


@dataclass(slots=True, eq=False)
class _Offer:
    """A request of this server's that other servers may take."""

    key: QueueKey
    part: QueueKey
    task: NexusTask
    writing: bool = False


class NexusOffers:
    """The requests that this server has for others, and takes from them."""

    def __init__(self, nodes: Nodes, executions: Executions) -> None:
        self._nodes = nodes
        self._executions = executions
        self._matching: Matching = executions.matching
        self._offers: dict[str, _Offer] = {}
        self._heard: set[QueueKey] = set()
        """Parts of queues for which requests may lie in the store."""
        self._taking: set[QueueKey] = set()
        self._over: list[str] = []
        self._beside = UnderWay("requests of other servers")

    # --- Who asks -----------------------------------------------------------------------------

    async def offer(self, key: QueueKey, task: NexusTask) -> None:
        """To whichever server has a worker for it. If the store does not answer, that is tried again."""
        offer = _Offer(key, self._executions.dispatch.place(key, task), task)
        self._offers[task.task_id] = offer
        with contextlib.suppress(Refusal):
            await self._put(offer)

    async def _put(self, offer: _Offer) -> None:
        task, now_s = offer.task, asyncio.get_running_loop().time()
        request = task.request.SerializeToString()
        row = NexusRequestRow(task.task_id, request, now_s - task.asked_s, task.deadline_s - now_s)
        offer.writing = True
        try:
            await self._nodes.workers.put_request(self._nodes.node, offer.part, row)
        finally:
            offer.writing = False
        self._tell(offer.part)

    def _tell(self, part: QueueKey) -> None:
        self._nodes.say(NexusWaits(part.namespace_id, part.name, part.version))
        self.waits(part)

    def withdraw(self, task_id: str) -> None:
        """It has its answer, or nobody waits for one any more."""
        if self._offers.pop(task_id, None) is not None:
            if not self._over:
                self._do(self._forget())
            self._over.append(task_id)

    async def _forget(self) -> None:
        over, self._over = self._over, []
        await self._nodes.workers.forget_requests(over)

    async def look(self) -> None:
        """See what has become of this server's requests: to be called every second or so."""
        if not self._offers:
            return
        holders = await self._nodes.workers.requests_of(self._nodes.node)
        live = {self._nodes.node, *self._nodes.others}
        for task_id, offer in list(self._offers.items()):
            if offer.writing or offer.task.answer.done() or task_id not in self._offers:
                continue
            holder = holders.get(task_id, -1)
            part = self._executions.dispatch.place(offer.key, offer.task)
            if holder == 0 and part == offer.part:
                self._tell(part)
            elif holder not in live:
                offer.part = part
                await self._put(offer)

    # --- Who takes ----------------------------------------------------------------------------

    def heard(self, word: NexusWaits) -> None:
        self.waits(QueueKey(word.namespace_id, TaskKind.NEXUS, word.queue, word.version))

    def waits(self, part: QueueKey) -> None:
        """A request may lie in the store."""
        self._heard.add(part)
        self.poll_comes(part)

    def poll_comes(self, part: QueueKey) -> None:
        """A worker waits: it gets a request, if one may lie in the store."""
        if part in self._heard and part not in self._taking and self._matching.idle_in(part):
            self._taking.add(part)
            self._do(self._take(part))

    async def _take(self, part: QueueKey) -> None:
        try:
            while part in self._heard and (wanted := self._matching.idle_in(part)):
                self._heard.discard(part)
                rows = await self._nodes.workers.take_requests(part, self._nodes.node, wanted)
                if len(rows) == wanted:
                    self._heard.add(part)
                for row in rows:
                    await self._give(part, row)
        finally:
            self._taking.discard(part)

    async def _give(self, part: QueueKey, row: NexusRequestRow) -> None:
        mine = self._offers.get(row.request_id)
        if not self._matching.hand(part, mine.task if mine is not None else _task(row)):
            await self._nodes.workers.release_request(row.request_id, self._nodes.node)
            self._nodes.say(NexusWaits(part.namespace_id, part.name, part.version))

    def _do(self, work: Coroutine[Any, Any, None]) -> None:
        self._beside.begin(_unless_refused(work))


async def _unless_refused(work: Coroutine[Any, Any, None]) -> None:
    """A store that does not answer: whoever asks looks again, and what is left behind is cleaned up."""
    with contextlib.suppress(Refusal):
        await work


def _task(row: NexusRequestRow) -> NexusTask:
    """A request of another server; its answer is waited for there."""
    loop = asyncio.get_running_loop()
    now_s = loop.time()
    request = nexus.Request.FromString(row.request)
    asked_s, deadline_s = now_s - row.age_s, now_s + row.left_s
    return NexusTask(row.request_id, request, asked_s, deadline_s, loop.create_future())
