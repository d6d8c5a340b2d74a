"""Task queues: pairs waiting pollers with tasks; knows nothing of histories.

Rule 1: synchronous data structure first. Only `poll` waits.
Rule 2: pollers are served in the order they came, tasks in the order of their backlog.
Rule 3: a poller is `reserved` for a task that is about to be committed; after the commit it is
        served with `deliver`, or given back with `release`.
Rule 4: a backlog is a hint. Whether a task may still start is decided by its execution, not here.
Rule 5: with worker versioning a queue has parts, one for the workers of each version. They have their
        own pollers and backlogs; configuration and rates are of the whole queue.
Rule 6: tasks are given out no faster than the rates of their queue allow. Queries, and what was
        given back, are not counted. Where several nodes have workers for a queue, each has its share of
        the rates.

Items are opaque to this file, except rows of the store's `tasks` table: direct queries, and what a
transition started for a reserved poller.
"""

import asyncio
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from durably.backlog import DEFAULT_ORDER, Backlog
from durably.rates import NEVER_NS, KeyLimiter, Limiter, Meter
from durably.store.store import QueueKey, TaskOrder, TaskRow

SHUTDOWN_REMEMBERED_NS = 30 * 1_000_000_000
"""How long polls of a worker that has shut down are answered at once: they may be on their way."""

POLLER_REMEMBERED_NS = 300 * 1_000_000_000
"""How long a poller is listed after its last poll (DescribeTaskQueue: about five minutes)."""

LIMITED_REMEMBERED_NS = 30 * 1_000_000_000
"""How long a queue is called limited after a rate held something back."""

SERVE_AGAIN_NS = 1_000_000
"""The least time between two looks at what a rate holds back."""

# Hints on the number of pollers, as Temporal's server gives them.
IDLE_NS = 1_000_000_000
"""A poller that waited so long for a task is one too many."""
BEHIND_NS = 200_000_000
"""A queue whose oldest task waits longer than this needs another poller."""
BEHIND_RATIO = 1.2
"""Or one to which so many times more tasks are added than are given out."""
HINTS_PER_S = 10.0
"""So many hints are given for each poller."""


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


@dataclass(frozen=True, slots=True)
class QueueLimits:
    """What a queue's configuration asks for; None: it says nothing of it."""

    per_s: float | None = None
    """Tasks a second that are given out, in place of what workers ask for; 0: none."""
    key_per_s: float | None = None
    """Tasks a second of one fairness key, for each unit of its weight."""
    weights: Mapping[str, float] = field(default_factory=dict)
    """Weights of fairness keys, in place of what tasks say."""


@dataclass(frozen=True, slots=True)
class Stats:
    """What DescribeTaskQueue says of a queue, or of one of its levels."""

    backlog: int
    oldest_age_ns: int
    added_per_s: float
    given_per_s: float
    limited: bool


class _Traffic:
    """Tasks of one level that came and went."""

    __slots__ = ("added", "given")

    def __init__(self, now_ns: int) -> None:
        self.added = Meter(now_ns)
        self.given = Meter(now_ns)


@dataclass(slots=True)
class Queue:
    waiting: OrderedDict[Poll, None] = field(default_factory=OrderedDict)
    """The polls that wait, first come first served; a poll leaves it from any place."""
    backlog: Backlog = field(default_factory=Backlog)
    pollers: OrderedDict[str, PollerSeen] = field(default_factory=OrderedDict)
    polled_ns: int = 0
    """When a worker last waited, one that has left since among them; 0: never."""
    loaded: bool = False
    """Whether what the store has of it - configuration, older tasks - has been read."""
    limits: QueueLimits = field(default_factory=QueueLimits)
    worker_per_s: float | None = None
    """What the worker that polled last asks for."""
    nodes: int = 1
    """Among so many nodes the rates are divided."""
    rate: Limiter = field(default_factory=Limiter)
    key_rate: KeyLimiter = field(default_factory=KeyLimiter)
    traffic: dict[int, _Traffic] = field(default_factory=dict)
    """Level -> what came and went."""
    limited_ns: int = 0
    """When a rate last held something back."""
    hints: Limiter = field(default_factory=lambda: Limiter(HINTS_PER_S))
    timer: asyncio.TimerHandle | None = None
    """Goes off when a rate lets the next task go."""

    def idle(self) -> int:
        """How many polls wait, because nothing is there to be given."""
        return 0 if self.backlog else sum(not poll.result.done() for poll in self.waiting)

    def weight(self, order: TaskOrder) -> float:
        return self.limits.weights.get(order.fairness_key, order.weight)

    def level(self, order: TaskOrder, now_ns: int) -> _Traffic:
        found = self.traffic.get(order.level)
        if found is None:
            found = self.traffic[order.level] = _Traffic(now_ns)
        return found

    @property
    def unlimited(self) -> bool:
        """Nearly all queues are: they have no rate."""
        return self.rate.per_s is None and self.key_rate.per_s is None

    def ready_ns(self, order: TaskOrder) -> int:
        """From when the rates let a task of this order go."""
        if self.unlimited:
            return 0
        return max(self.rate.ready_ns(), self.key_rate.ready_ns(order.fairness_key))

    def given(self, order: TaskOrder, now_ns: int) -> None:
        """A task goes to a worker."""
        self.level(order, now_ns).given.count(now_ns)
        if self.unlimited:
            return
        self.rate.take(now_ns)
        self.key_rate.take(order.fairness_key, now_ns, self.weight(order))

    def apply_rates(self, now_ns: int) -> None:
        """The configuration's rate goes before what workers ask for."""
        asked = self.limits.per_s
        self.rate.set(self._share(self.worker_per_s if asked is None else asked), now_ns)
        self.key_rate.set(self._share(self.limits.key_per_s), now_ns)
        self.backlog.reconsider()

    def _share(self, per_s: float | None) -> float | None:
        return per_s if per_s is None else per_s / self.nodes

    def next(self, now_ns: int) -> Any:
        """The item to give out now, taken from the backlog; None if there is none, or a rate
        forbids it."""
        item = self.backlog.take_first()
        if item is not None or not self.backlog:
            return item
        if self.rate.ready_ns() <= now_ns:
            item = self.backlog.take(now_ns, self.key_rate.ready_ns)
        if item is None:
            self.limited_ns = now_ns
        elif isinstance(item, TaskRow):
            self.given(item.order, now_ns)
        return item

    def next_poll(self) -> Poll | None:
        """The poll that has waited longest, taken out."""
        while self.waiting:
            poll, _ = self.waiting.popitem(last=False)
            if not poll.result.done():
                return poll
        return None


Place = Callable[[QueueKey, Any], QueueKey]
"""(queue, item) -> the part of the queue that the item is for."""


def whole(key: QueueKey, item: Any) -> QueueKey:
    """The place of everything in a queue without parts."""
    return key


def _task_id(task: TaskRow) -> int:
    return task.task_id


def _at_once(fairness_key: str) -> int:
    """From when a key's tasks may be given out, where no rate is asked."""
    return 0


class Matching:
    """All task queues of this node."""

    def __init__(self, clock: Callable[[], int]) -> None:
        self._clock = clock
        self._queues: dict[QueueKey, Queue] = {}
        self._polls_of: dict[str, set[Poll]] = {}
        self._shut_down: OrderedDict[str, int] = OrderedDict()
        self._parts: dict[QueueKey, list[QueueKey]] = {}
        """Queue -> its parts for versions; those that have none are not in it."""

    def queue(self, key: QueueKey) -> Queue:
        found = self._queues.get(key)
        if found is None:
            found = self._queues[key] = Queue() if not key.version else self._part(key)
        return found

    def _part(self, key: QueueKey) -> Queue:
        """For the workers of one version; it has the rates of the whole."""
        whole_key = key.whole
        self._parts.setdefault(whole_key, []).append(key)
        whole = self.queue(whole_key)
        return Queue(
            limits=whole.limits,
            worker_per_s=whole.worker_per_s,
            nodes=whole.nodes,
            rate=whole.rate,
            key_rate=whole.key_rate,
        )

    def _family(self, key: QueueKey) -> list[Queue]:
        """A queue and its parts."""
        whole = self.queue(key)
        parts = self._parts.get(key)
        return [whole, *(self._queues[part] for part in parts)] if parts else [whole]

    # --- Tasks come ---------------------------------------------------------------------------

    def reserve(self, key: QueueKey, order: TaskOrder = DEFAULT_ORDER) -> Poll | None:
        """A poller that waits on this queue, taken out of it for a task of this order; None if
        others wait before the task, or a rate forbids it now."""
        queue = self._queues.get(key)
        if queue is None or queue.backlog or not queue.waiting:
            return None
        now_ns = self._clock()
        if queue.ready_ns(order) > now_ns:
            queue.limited_ns = now_ns
            return None
        poll = queue.next_poll()
        if poll is not None:
            poll.reserved = True
            queue.level(order, now_ns).added.count(now_ns)
            queue.given(order, now_ns)
        return poll

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
        if poll.overdue:
            poll.result.set_result(None)
            return
        queue = self.queue(poll.key)
        queue.waiting[poll] = None
        queue.waiting.move_to_end(poll, last=False)
        self._serve(queue)

    def add(self, key: QueueKey, item: Any, *, first: bool = False) -> None:
        """Hand an item to a waiting poller, or put it into the backlog (`first`: at its head)."""
        queue = self.queue(key)
        if first:
            queue.backlog.add_first(item)
        elif isinstance(item, TaskRow):
            now_ns = self._clock()
            queue.level(item.order, now_ns).added.count(now_ns)
            queue.backlog.add(item, queue.weight(item.order))
        else:
            queue.backlog.add(item)
        self._serve(queue)

    def hand(self, key: QueueKey, item: Any) -> bool:
        """Give an item to a poller that waits in this moment; False if none does: it is not kept."""
        queue = self._queues.get(key)
        poll = queue.next_poll() if queue is not None and not queue.backlog else None
        if poll is None:
            return False
        poll.result.set_result(item)
        return True

    def withdraw(self, key: QueueKey, item: Any) -> bool:
        """Take an item out of the backlog again (a query whose caller gave up)."""
        return any(queue.backlog.remove(item) for queue in self._family(key.whole))

    def give_up(self, part: QueueKey, count: int, created_before_ns: int) -> list[TaskRow]:
        """Up to so many tasks of this part of a queue, in their order, as long as the oldest one was
        created before then: they leave this node."""
        found: list[TaskRow] = []
        backlog = self._queues[part].backlog if part in self._queues else Backlog()
        while len(found) < count and 0 < backlog.oldest_ns() <= created_before_ns:
            item = backlog.take_first()
            if item is None:
                item = backlog.take(self._clock(), _at_once)
            if not isinstance(item, TaskRow):
                if item is not None:
                    backlog.add_first(item)  # A query is answered by whoever has it.
                break
            found.append(item)
        return found

    def load(
        self, key: QueueKey, rows: Iterable[TaskRow], limits: QueueLimits, place: Place
    ) -> None:
        """What the store has of a queue: its configuration, and tasks that are older than all that
        have been added here."""
        self.queue(key).loaded = True
        self._limit(key, limits)
        self._fill(key, rows, place)

    def configure(self, key: QueueKey, limits: QueueLimits) -> None:
        """New limits; weights hold for tasks that are added from now on."""
        self._limit(key, limits)
        for queue in self._family(key):
            self._serve(queue)

    def _limit(self, key: QueueKey, limits: QueueLimits) -> None:
        now_ns = self._clock()
        for queue in self._family(key):
            queue.limits = limits
            queue.apply_rates(now_ns)

    def divide(self, key: QueueKey, nodes: int) -> None:
        """Workers wait for this queue at so many nodes, this one among them: each has its share of the
        rates."""
        if self.queue(key).nodes == nodes:
            return
        now_ns = self._clock()
        family = self._family(key)
        for queue in family:
            queue.nodes = nodes
            queue.apply_rates(now_ns)
        for queue in family:
            self._serve(queue)

    def take_over(self, key: QueueKey, rows: Iterable[TaskRow], place: Place) -> None:
        """Tasks that other nodes had: they have their turns by age, among those that are here."""
        self._fill(key, rows, place)

    def reroute(self, key: QueueKey, place: Place) -> None:
        """The traffic of a queue is divided anew: what waits goes to the part it is for now."""
        parts = self._parts.get(key, [])
        waiting = [
            (part, item)
            for part in (key, *parts)
            if part in self._queues
            for item in self._queues[part].backlog.items()
        ]
        if any(place(key, item) != part for part, item in waiting):
            self._fill(key, (), place)

    def _fill(self, key: QueueKey, more: Iterable[TaskRow], place: Place) -> None:
        """Put all that waits, and more, into the parts that it is for; the oldest tasks first."""
        items: list[Any] = []
        for queue in self._family(key):
            items += queue.backlog.items()
            queue.backlog = Backlog()
        here = (each for each in items if isinstance(each, TaskRow))
        tasks = {each.task_id: each for each in (*more, *here)}
        others = (each for each in items if not isinstance(each, TaskRow))
        for item in (*sorted(tasks.values(), key=_task_id), *others):
            queue = self.queue(place(key, item))
            order = item.order if isinstance(item, TaskRow) else DEFAULT_ORDER
            queue.backlog.add(item, queue.weight(order))
        for queue in self._family(key):
            self._serve(queue)

    def _serve(self, queue: Queue) -> None:
        """Give waiting pollers what may be given out now; come again when more may be."""
        while queue.backlog and (poll := queue.next_poll()) is not None:
            item = queue.next(self._clock())
            if item is None:
                queue.waiting[poll] = None
                queue.waiting.move_to_end(poll, last=False)
                self._serve_later(queue)
                return
            poll.result.set_result(item)

    def _serve_later(self, queue: Queue) -> None:
        if queue.timer is not None:
            queue.timer.cancel()
            queue.timer = None
        at_ns = max(queue.rate.ready_ns(), queue.backlog.ready_ns())
        if at_ns < NEVER_NS:
            wait_s = max(at_ns - self._clock(), SERVE_AGAIN_NS) / 1e9
            queue.timer = asyncio.get_running_loop().call_later(wait_s, self._serve, queue)

    # --- Pollers come and go ------------------------------------------------------------------

    async def poll(
        self,
        key: QueueKey,
        identity: str,
        attributes: Any,
        timeout_s: float,
        worker: str = "",
        per_s: float | None = None,
    ) -> Any:
        """The next item of the queue, or None when `timeout_s` passes without one.

        `per_s`: tasks a second that the worker asks for, of the whole queue. Cancelling the call takes
        the poller out of the queue; an item it was just given goes back.
        """
        if self._has_shut_down(worker):
            return None
        queue = self.queue(key)
        self._remember(queue, identity, attributes)
        if per_s != queue.worker_per_s:
            self._worker_asks(key, per_s)
        item = queue.next(self._clock())
        if item is not None:
            return item
        loop = asyncio.get_running_loop()
        poll = Poll(key, identity, attributes, self._clock(), loop.create_future(), worker)
        queue.waiting[poll] = None
        if worker:
            self._polls_of.setdefault(worker, set()).add(poll)
        if queue.backlog:
            self._serve_later(queue)
        timer = loop.call_later(timeout_s, _expire, poll)
        try:
            return await poll.result
        except asyncio.CancelledError:
            self._give_back(poll)
            raise
        finally:
            timer.cancel()
            self._forget(queue, poll)

    def _worker_asks(self, key: QueueKey, per_s: float | None) -> None:
        """What the last poll asks for counts, for the whole queue."""
        family = self._family(key.whole)
        for queue in family:
            queue.worker_per_s = per_s
            queue.apply_rates(self._clock())
        for queue in family:
            self._serve(queue)

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
        if key in self._queues:
            for queue in self._family(key):
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
        queue.polled_ns = 0

    def forget_namespace(self, namespace_id: str) -> None:
        """All its queues go; who polls them is answered with nothing."""
        for key in [key for key in self._queues if key.namespace_id == namespace_id]:
            self.forget_pollers(key)
            del self._queues[key]
            self._parts.pop(key, None)

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

    def polled_lately(self, key: QueueKey, within_ns: int) -> bool:
        """As `polled_within`; a worker that has left as it should counts too: it may come back."""
        queue = self._queues.get(key)
        if queue is None:
            return False
        return bool(queue.waiting) or queue.polled_ns >= self._clock() - within_ns

    def present(self) -> Iterator[tuple[QueueKey, PollerSeen, int]]:
        """Who has polled lately, on every queue, and when last; who waits is here now."""
        now_ns = self._clock()
        for key, queue in self._queues.items():
            waiting = {poll.identity for poll in queue.waiting}
            for seen in queue.pollers.values():
                yield key, seen, now_ns if seen.identity in waiting else seen.at_ns

    def idle(self, key: QueueKey) -> int:
        """How many polls wait on this queue, or a part of it, because nothing is there to be given."""
        if key not in self._queues:
            return 0
        return sum(queue.idle() for queue in self._family(key))

    def idle_parts(self, key: QueueKey) -> list[tuple[QueueKey, int]]:
        """The parts of this queue on which polls wait because nothing is there to be given; how many."""
        parts = (key, *self._parts.get(key, ()))
        return [(part, count) for part in parts if (count := self.idle_in(part))]

    def idle_in(self, part: QueueKey) -> int:
        """How many polls wait on this part of a queue, because nothing is there to be given."""
        queue = self._queues.get(part)
        return queue.idle() if queue is not None else 0

    def queues(self) -> list[QueueKey]:
        """All queues, without their parts."""
        return [key for key in self._queues if not key.version]

    def idle_queues(self) -> list[QueueKey]:
        """The queues on which polls wait because nothing is there."""
        return [key for key in self._queues if not key.version and self.idle(key)]

    def pollers(self, key: QueueKey, *, of_all: bool = False) -> list[PollerSeen]:
        """The workers that polled this queue lately; `of_all`: of whatever version."""
        if key not in self._queues:
            return []
        since = self._clock() - POLLER_REMEMBERED_NS
        queues = self._family(key) if of_all else [self._queues[key]]
        return [seen for queue in queues for seen in queue.pollers.values() if seen.at_ns >= since]

    def waiting(self) -> list[tuple[QueueKey, int, Any]]:
        """Of each queue: how many polls wait, and what one of its workers asked for."""
        found = []
        for key, queue in self._queues.items():
            seen = next(reversed(queue.pollers.values()), None)
            if seen is not None:
                found.append((key, len(queue.waiting), seen.attributes))
        return found

    def task_ids(self, key: QueueKey) -> set[int]:
        """Of all tasks that wait here, in all parts of a queue."""
        items = (item for queue in self._family(key) for item in queue.backlog.items())
        return {item.task_id for item in items if isinstance(item, TaskRow)}

    # --- What is said of a queue --------------------------------------------------------------

    def stats(self, key: QueueKey, level: int | None = None, *, of_all: bool = False) -> Stats:
        """Of a queue, or of one of its levels; `of_all`: with its parts for versions."""
        queues = self._family(key) if of_all else [self.queue(key)]
        now_ns = self._clock()
        oldest = [ns for queue in queues if (ns := queue.backlog.oldest_ns(level))]
        traffic = [
            each for queue in queues for of, each in queue.traffic.items() if level in (None, of)
        ]
        limited_ns = max(queue.limited_ns for queue in queues)
        return Stats(
            backlog=sum(queue.backlog.count(level) for queue in queues),
            oldest_age_ns=max(0, now_ns - min(oldest)) if oldest else 0,
            added_per_s=sum(each.added.per_s(now_ns) for each in traffic),
            given_per_s=sum(each.given.per_s(now_ns) for each in traffic),
            limited=bool(limited_ns) and now_ns - limited_ns < LIMITED_REMEMBERED_NS,
        )

    def levels(self, key: QueueKey, *, of_all: bool = False) -> list[int]:
        """The levels that tasks of this queue have had."""
        queues = self._family(key) if of_all else [self.queue(key)]
        found = (each for queue in queues for each in (*queue.traffic, *queue.backlog.levels()))
        return sorted(set(found))

    def poller_hint(self, key: QueueKey, waited_ns: int, *, from_backlog: bool) -> int:
        """How many polls more (or fewer) a worker should have, after one that waited so long."""
        if waited_ns >= IDLE_NS and not from_backlog:
            return -1
        queue = self.queue(key)
        now_ns = self._clock()
        if queue.hints.ready_ns() > now_ns:
            return 0
        queue.hints.take(now_ns, max(len(queue.pollers), 1))
        stats = self.stats(key)
        if stats.limited:
            return 0
        if stats.backlog and stats.oldest_age_ns > BEHIND_NS:
            return 1
        return int(stats.added_per_s > BEHIND_RATIO * stats.given_per_s)

    # --- Inside -------------------------------------------------------------------------------

    def _remember(self, queue: Queue, identity: str, attributes: Any) -> None:
        now_ns = queue.polled_ns = self._clock()
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
        queue.polled_ns = self._clock()
        seen = queue.pollers.get(poll.identity)
        if seen is not None:
            seen.at_ns = queue.polled_ns
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
