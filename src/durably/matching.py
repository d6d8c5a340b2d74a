"""Task queues: pairs waiting pollers with tasks; knows nothing of histories.

Rule 1: synchronous data structure first. Only `poll` waits.
Rule 2: pollers are served in the order they came, tasks in the order they were added.
Rule 3: a poller is `reserved` for a task that is about to be committed; after the commit it is
        served with `deliver`, or given back with `release`.
Rule 4: a backlog is a hint. Whether a task may still start is decided by its execution, not here.

Items are opaque to this file: rows of the store's `tasks` table, direct queries, and what a
transition started for a reserved poller.
"""

import asyncio
from collections import OrderedDict, deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from durably.store.store import QueueKey


@dataclass(slots=True, eq=False)
class Poll:
    """One worker's long poll. `attributes` is what the service wants to remember of the request."""

    key: QueueKey
    identity: str
    attributes: Any
    started_ns: int
    result: asyncio.Future[Any]
    worker: str = ""
    """The key of the worker's instance, if it gave one; it names the worker when that shuts down."""
    reserved: bool = False
    """Taken for a task whose commit is on its way: whatever ends polls waits for that."""
    overdue: bool = False
    """It was to end while it was reserved."""


@dataclass(slots=True)
class PollerSeen:
    """When a worker last polled a queue; what DescribeTaskQueue lists."""

    identity: str
    attributes: Any
    at_ns: int


@dataclass(slots=True)
class Queue:
    waiting: OrderedDict[Poll, None] = field(default_factory=OrderedDict)
    """The polls that wait, first come first served; a poll leaves it from any place."""
    backlog: deque[Any] = field(default_factory=deque)
    pollers: OrderedDict[str, PollerSeen] = field(default_factory=OrderedDict)
    loaded: bool = False
    """Whether the rows that a former server left in the store have been added to the backlog."""


SHUTDOWN_REMEMBERED_NS = 30 * 1_000_000_000
"""How long polls of a worker that has shut down are answered at once: they may be on their way."""

POLLER_REMEMBERED_NS = 300 * 1_000_000_000
"""How long a poller is listed after its last poll (DescribeTaskQueue: about five minutes)."""


class Matching:
    """All task queues of this node."""

    def __init__(self, clock: Callable[[], int]) -> None:
        self._clock = clock
        self._queues: dict[QueueKey, Queue] = {}
        self._polls_of: dict[str, set[Poll]] = {}
        self._shut_down: OrderedDict[str, int] = OrderedDict()

    def queue(self, key: QueueKey) -> Queue:
        found = self._queues.get(key)
        if found is None:
            found = self._queues[key] = Queue()
        return found

    def reserve(self, key: QueueKey) -> Poll | None:
        """A poller that waits on this queue, taken out of it; None if a backlog is before it."""
        queue = self._queues.get(key)
        if queue is None or queue.backlog:
            return None
        while queue.waiting:
            poll, _ = queue.waiting.popitem(last=False)
            if not poll.result.done():
                poll.reserved = True
                return poll
        return None

    def deliver(self, poll: Poll, item: Any) -> bool:
        """Serve a reserved poller; False if it has gone away meanwhile."""
        if poll.result.done():
            return False
        poll.result.set_result(item)
        return True

    def release(self, poll: Poll) -> None:
        """Give a reserved poller back: first in line, or served from the backlog at once."""
        poll.reserved = False
        if poll.result.done():
            return
        queue = self.queue(poll.key)
        if poll.overdue:
            poll.result.set_result(None)
        elif queue.backlog:
            poll.result.set_result(queue.backlog.popleft())
        else:
            queue.waiting[poll] = None
            queue.waiting.move_to_end(poll, last=False)

    def add(self, key: QueueKey, item: Any, *, first: bool = False) -> None:
        """Hand an item to a waiting poller, or put it into the backlog (`first`: at its head)."""
        poll = self.reserve(key)
        if poll is not None:
            poll.result.set_result(item)
            return
        backlog = self.queue(key).backlog
        if first:
            backlog.appendleft(item)
        else:
            backlog.append(item)

    def withdraw(self, key: QueueKey, item: Any) -> bool:
        """Take an item out of the backlog again (a query whose caller gave up)."""
        queue = self._queues.get(key)
        if queue is None or item not in queue.backlog:
            return False
        queue.backlog.remove(item)
        return True

    async def poll(
        self,
        key: QueueKey,
        identity: str,
        attributes: Any,
        timeout_s: float,
        worker: str = "",
    ) -> Any:
        """The next item of the queue, or None when `timeout_s` passes without one.

        Cancelling the call takes the poller out of the queue; an item it was just given goes back.
        """
        if self._has_shut_down(worker):
            return None
        queue = self.queue(key)
        self._remember(queue, identity, attributes)
        if queue.backlog:
            return queue.backlog.popleft()
        loop = asyncio.get_running_loop()
        poll = Poll(key, identity, attributes, self._clock(), loop.create_future(), worker)
        queue.waiting[poll] = None
        if worker:
            self._polls_of.setdefault(worker, set()).add(poll)
        timer = loop.call_later(timeout_s, _expire, poll)
        try:
            return await poll.result
        except asyncio.CancelledError:
            self._give_back(poll)
            raise
        finally:
            timer.cancel()
            self._forget(queue, poll)

    def shut_down(self, worker: str) -> int:
        """A worker ends: its waiting polls are answered with nothing, and so are those that come
        late; how many waited. One that is being served in this moment gets its task."""
        polls = self._polls_of.get(worker, set())
        for poll in polls:
            _expire(poll)
        now_ns = self._clock()
        self._shut_down[worker] = now_ns
        self._shut_down.move_to_end(worker)
        while next(iter(self._shut_down.values())) < now_ns - SHUTDOWN_REMEMBERED_NS:
            self._shut_down.popitem(last=False)
        return len(polls)

    def _has_shut_down(self, worker: str) -> bool:
        at_ns = self._shut_down.get(worker) if worker else None
        return at_ns is not None and at_ns >= self._clock() - SHUTDOWN_REMEMBERED_NS

    def forget_poller(self, key: QueueKey, identity: str) -> None:
        """A worker that has left a queue is not listed any more."""
        queue = self._queues.get(key)
        if queue is not None:
            queue.pollers.pop(identity, None)

    def forget_pollers(self, key: QueueKey) -> None:
        """The worker behind this queue is gone: answer its polls, and expect no others."""
        queue = self._queues.get(key)
        if queue is None:
            return
        for poll in list(queue.waiting):
            _expire(poll)
        queue.waiting.clear()
        queue.pollers.clear()

    def forget_namespace(self, namespace_id: str) -> None:
        """All its queues go; who polls them is answered with nothing."""
        for key in [key for key in self._queues if key.namespace_id == namespace_id]:
            self.forget_pollers(key)
            del self._queues[key]

    def end_all_polls(self) -> None:
        """Answer every waiting poll with nothing: the server drains."""
        for queue in self._queues.values():
            for poll in list(queue.waiting):
                _expire(poll)

    def polled_within(self, key: QueueKey, within_ns: int) -> bool:
        """Whether a worker waits on this queue, or did so not longer than `within_ns` ago."""
        queue = self._queues.get(key)
        if queue is None:
            return False
        if queue.waiting:
            return True
        since = self._clock() - within_ns
        return any(seen.at_ns >= since for seen in queue.pollers.values())

    def pollers(self, key: QueueKey) -> list[PollerSeen]:
        """The workers that polled this queue lately."""
        queue = self._queues.get(key)
        if queue is None:
            return []
        since = self._clock() - POLLER_REMEMBERED_NS
        return [seen for seen in queue.pollers.values() if seen.at_ns >= since]

    def _remember(self, queue: Queue, identity: str, attributes: Any) -> None:
        now_ns = self._clock()
        queue.pollers[identity] = PollerSeen(identity, attributes, now_ns)
        queue.pollers.move_to_end(identity)
        while queue.pollers:
            oldest = next(iter(queue.pollers.values()))
            if oldest.at_ns >= now_ns - POLLER_REMEMBERED_NS:
                break
            queue.pollers.popitem(last=False)

    def _give_back(self, poll: Poll) -> None:
        if poll.result.done() and not poll.result.cancelled():
            item = poll.result.result()
            if item is not None:
                self.add(poll.key, item, first=True)
        else:
            poll.result.cancel()

    def _forget(self, queue: Queue, poll: Poll) -> None:
        seen = queue.pollers.get(poll.identity)
        if seen is not None:
            seen.at_ns = self._clock()
        queue.waiting.pop(poll, None)
        polls = self._polls_of.get(poll.worker)
        if polls is not None:
            polls.discard(poll)
            if not polls:
                del self._polls_of[poll.worker]


def _expire(poll: Poll) -> None:
    if poll.reserved:
        poll.overdue = True
    elif not poll.result.done():
        poll.result.set_result(None)
