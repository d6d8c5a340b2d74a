"""What a server does for the others that share its store: says that it is there, and listens.

Rule 1: the loops decide nothing. What fails is done again at the next beat.
Rule 2: what a word asks for is done beside, so that the next word is heard.
"""

import asyncio
import logging
from collections.abc import Coroutine
from typing import Any, assert_never

from durably.engine.state import Kind
from durably.errors import Refusal
from durably.matching import POLLER_REMEMBERED_NS
from durably.service.deployments import Deployments
from durably.service.namespaces import Namespaces
from durably.service.nexus_endpoints import NexusEndpoints
from durably.service.nexus_tasks import NexusTasks
from durably.service.nodes import (
    AnyWord,
    Behind,
    Changed,
    Configured,
    Joined,
    Letter,
    LettersSent,
    NamespacesChanged,
    NexusAnswered,
    NexusWaits,
    Nodes,
    QueryAnswered,
    QueryAsked,
    QueryOver,
    Raced,
    RoutingChanged,
    Settle,
    Settled,
    Waiting,
    Wanted,
    WorkerShutDown,
)
from durably.service.queries import Queries
from durably.service.task_queues import TaskQueues
from durably.service.transact import Executions
from durably.service.version_sets import VersionSets
from durably.service.worker_tasks import WorkerTasks
from durably.under_way import UnderWay

logger = logging.getLogger(__name__)

LOOK_INTERVAL_S = 1.0
ROUTING_KINDS = (Kind.DEPLOYMENT, Kind.VERSION_SETS)


class Neighbours:
    """Keeps this server and the others in touch."""

    def __init__(
        self,
        nodes: Nodes,
        executions: Executions,
        namespaces: Namespaces,
        endpoints: NexusEndpoints,
        deployments: Deployments,
        version_sets: VersionSets,
        task_queues: TaskQueues,
        queries: Queries,
        nexus_tasks: NexusTasks,
        worker_tasks: WorkerTasks,
    ) -> None:
        self._nodes = nodes
        self._executions = executions
        self._namespaces = namespaces
        self._endpoints = endpoints
        self._deployments = deployments
        self._version_sets = version_sets
        self._task_queues = task_queues
        self._queries = queries
        self._nexus_tasks = nexus_tasks
        self._worker_tasks = worker_tasks
        self._routing_stamp: tuple[int, ...] = ()
        self._beat_wanted = asyncio.Event()
        self._beside = UnderWay("in touch with other servers")
        self._learning: set[asyncio.Task[bool]] = set()
        """Those in which it learns what another server has changed."""

    async def beat(self) -> None:
        """Say that this server is there, and learn who else is, until cancelled."""
        interval_s = self._executions.config.node_beat_s
        while True:
            self._beat_wanted.clear()
            await _logged(self._beat_once())
            try:
                async with asyncio.timeout(interval_s):
                    await self._beat_wanted.wait()
            except TimeoutError:
                pass

    async def _beat_once(self) -> None:
        nodes = self._nodes
        await nodes.beat()
        await nodes.release_doubted()
        if nodes.members_changed.is_set():
            self._executions.wakes.changed.set()
        if nodes.others:
            present = self._executions.matching.present()
            await nodes.exchange_pollers(present, self._executions.clock(), POLLER_REMEMBERED_NS)
        self._task_queues.divide_rates()
        if nodes.others:
            await self._refresh_namespaces()
            await self._check_routing()

    async def look(self) -> None:
        """Look for tasks that nobody told of, and after requests that nobody answers, until
        cancelled."""
        while True:
            await _logged(self._task_queues.look())
            if self._nexus_tasks.offers is not None:
                await _logged(self._nexus_tasks.offers.look())
            await asyncio.sleep(LOOK_INTERVAL_S)

    async def listen(self) -> None:
        """Hear what other servers say, until cancelled."""
        try:
            await self._nodes.board.listen(self._heard, self._anew)
        finally:
            self._beside.close()

    def _heard(self, text: str) -> None:
        for word in self._nodes.understood(text):
            self._obey(word)

    def _obey(self, word: AnyWord) -> None:
        match word:
            case Changed(execution_id, version):
                self._executions.heard_of(execution_id, version)
            case Raced(execution_id):
                self._executions.heard_of_race(execution_id)
            case Waiting():
                self._do(self._task_queues.task_waits(word.key))
            case NexusWaits():
                if self._nexus_tasks.offers is not None:
                    self._nexus_tasks.offers.heard(word)
            case Behind():
                self._task_queues.other_is_behind(word.key)
            case Wanted(count=count):
                self._do(self._task_queues.let_go(word.part, count))
            case Configured():
                self._learn(self._task_queues.configured(word.key))
            case NamespacesChanged():
                self._learn(self._refresh_namespaces())
            case RoutingChanged():
                self._learn(self._refresh_routing())
            case Settle():
                self._do(self._settle(word))
            case QueryOver(query_id):
                self._queries.over_elsewhere(query_id)
            case Settled():
                self._nodes.settled(word)
            case LettersSent(node):
                if node == self._nodes.node:
                    self._do(self._take_letters())
            case Joined():
                self._beat_wanted.set()
            case WorkerShutDown():
                self._worker_tasks.shut_down_elsewhere(word)
            case _:
                assert_never(word)

    def _anew(self) -> None:
        """Words may have been missed: nothing is taken for granted."""
        self._executions.distrust()
        self._beat_wanted.set()
        self._do(self._refresh_namespaces())
        self._do(self._refresh_routing())
        self._do(self._take_letters())

    async def _refresh_namespaces(self) -> None:
        await self._namespaces.refresh()
        await self._endpoints.refresh()
        for namespace in self._namespaces.deleted():
            self._executions.matching.forget_namespace(namespace.namespace_id)

    async def _refresh_routing(self) -> None:
        await self._deployments.open()
        await self._version_sets.open()

    async def _check_routing(self) -> None:
        """A server may have died between a change of routing and the word about it."""
        namespaces = [each.namespace_id for each in self._namespaces.existing()]
        stamp = await self._nodes.board.stamp(namespaces, ROUTING_KINDS)
        if stamp != self._routing_stamp:
            await self._refresh_routing()
            self._routing_stamp = stamp

    async def _take_letters(self) -> None:
        for letter in await self._nodes.take_letters():
            self._read(letter)

    def _read(self, letter: Letter) -> None:
        match letter:
            case QueryAsked():
                self._do(self._queries.offer_for_another(letter))
            case QueryAnswered():
                self._queries.answered_elsewhere(letter)
            case NexusAnswered():
                self._nexus_tasks.answered_elsewhere(letter)
            case _:
                assert_never(letter)

    async def _settle(self, word: Settle) -> None:
        """What could not be learned is learned at a beat."""
        if all(await asyncio.gather(*self._learning)):
            self._nodes.say(Settled(word.node, word.number, self._nodes.node))

    def _learn(self, work: Coroutine[Any, Any, None]) -> None:
        task = self._do(work)
        self._learning.add(task)
        task.add_done_callback(self._learning.discard)

    def _do(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[bool]:
        return self._beside.begin(_logged(work))


async def _logged(work: Coroutine[Any, Any, None]) -> bool:
    """Whether it could be done."""
    try:
        await work
    except Refusal as refusal:
        logger.warning("in touch with other servers again later: %s", refusal.message)
    except Exception:
        logger.exception("in touch with other servers again later")
    else:
        return True
    return False
