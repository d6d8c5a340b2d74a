"""Task queues as a data structure: nothing lost, nothing given twice, everybody in turn."""

import asyncio
from collections.abc import Coroutine
from dataclasses import replace
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from durably.matching import (
    POLLER_REMEMBERED_NS,
    SHUTDOWN_REMEMBERED_NS,
    Matching,
    QueueLimits,
    whole,
)
from durably.store.store import QueueKey, TaskKind, TaskOrder, TaskRow

QUEUE = QueueKey("namespace", TaskKind.WORKFLOW, "queue")
STICKY = QueueKey("namespace", TaskKind.WORKFLOW, "sticky")
LONG_S = 60.0


class Clock:
    def __init__(self) -> None:
        self.now_ns = 1

    def __call__(self) -> int:
        return self.now_ns


def row(task_id: int, fairness_key: str = "") -> TaskRow:
    """A task that was created at the time of its id."""
    return TaskRow(task_id, QUEUE, 1, 1, 1, task_id, order=TaskOrder(3, fairness_key))


async def settle() -> None:
    """Let every task that can go on do so."""
    for _ in range(5):
        await asyncio.sleep(0)


def polling(matching: Matching, key: QueueKey = QUEUE, who: str = "w") -> "asyncio.Task[Any]":
    waiting: Coroutine[Any, Any, Any] = matching.poll(key, who, None, LONG_S, worker=who)
    return asyncio.create_task(waiting)


async def test_tasks_are_given_in_their_order() -> None:
    matching = Matching(Clock())
    for item in (1, 2, 3):
        matching.add(QUEUE, item)
    matching.add(QUEUE, 0, first=True)
    assert [await matching.poll(QUEUE, "w", None, LONG_S) for _ in range(4)] == [0, 1, 2, 3]


async def test_pollers_are_served_in_their_order() -> None:
    matching = Matching(Clock())
    polls = [polling(matching) for _ in range(3)]
    await settle()
    for item in (1, 2, 3):
        matching.add(QUEUE, item)
    assert await asyncio.gather(*polls) == [1, 2, 3]


async def test_a_poll_that_nobody_serves_ends_with_nothing() -> None:
    matching = Matching(Clock())
    assert await matching.poll(QUEUE, "w", None, 0) is None
    matching.add(QUEUE, "kept")
    assert await matching.poll(QUEUE, "w", None, 0) == "kept"


async def test_a_cancelled_poll_takes_no_task_away() -> None:
    matching = Matching(Clock())
    waiting, given_up = polling(matching), polling(matching)
    await settle()
    given_up.cancel()
    matching.add(QUEUE, "a")
    waiting.cancel()  # it was served in the same moment
    await asyncio.gather(waiting, given_up, return_exceptions=True)
    assert await matching.poll(QUEUE, "w", None, 0) == "a"


async def test_a_released_poller_is_first_in_line_again() -> None:
    matching = Matching(Clock())
    first, second = polling(matching), polling(matching)
    await settle()
    reserved = matching.reserve(QUEUE)
    assert reserved is not None
    matching.release(reserved)
    matching.add(QUEUE, "a")
    matching.add(QUEUE, "b")
    assert (await first, await second) == ("a", "b")


async def test_a_released_poller_is_served_from_the_backlog() -> None:
    matching = Matching(Clock())
    only = polling(matching)
    await settle()
    reserved = matching.reserve(QUEUE)
    assert reserved is not None
    matching.add(QUEUE, "meanwhile")
    matching.release(reserved)
    assert await only == "meanwhile"


async def test_nobody_overtakes_a_backlog_or_is_served_twice() -> None:
    matching = Matching(Clock())
    matching.add(QUEUE, "a")
    assert matching.reserve(QUEUE) is None
    assert await matching.poll(QUEUE, "w", None, 0) == "a"
    waiting = polling(matching)
    await settle()
    reserved = matching.reserve(QUEUE)
    assert reserved is not None
    assert matching.reserve(QUEUE) is None
    assert matching.deliver(reserved, "b")
    assert not matching.deliver(reserved, "c")
    assert await waiting == "b"


async def test_a_withdrawn_item_is_given_to_nobody() -> None:
    matching = Matching(Clock())
    matching.add(QUEUE, "query")
    assert matching.withdraw(QUEUE, "query")
    assert not matching.withdraw(QUEUE, "query")
    assert await matching.poll(QUEUE, "w", None, 0) is None


async def test_the_polls_of_a_worker_that_shuts_down_are_ended() -> None:
    clock = Clock()
    matching = Matching(clock)
    leaving, staying = polling(matching, who="leaves"), polling(matching, who="stays")
    await settle()
    assert matching.shut_down("leaves") == 1
    assert await leaving is None
    assert await polling(matching, who="leaves") is None
    matching.add(QUEUE, "a")
    assert await staying == "a"
    clock.now_ns += SHUTDOWN_REMEMBERED_NS + 1
    back = polling(matching, who="leaves")
    await settle()
    matching.add(QUEUE, "b")
    assert await back == "b"


async def test_a_poll_that_is_being_served_ends_with_its_task() -> None:
    matching = Matching(Clock())
    served, let_go = polling(matching, who="leaves"), polling(matching, who="leaves")
    await settle()
    first, second = matching.reserve(QUEUE), matching.reserve(QUEUE)
    assert first is not None
    assert second is not None
    matching.shut_down("leaves")
    assert matching.deliver(first, "a")
    matching.release(second)
    assert (await served, await let_go) == ("a", None)


async def test_a_sticky_queue_is_a_queue_of_its_own() -> None:
    matching = Matching(Clock())
    normal, sticky = polling(matching), polling(matching, STICKY)
    await settle()
    matching.add(STICKY, "mine")
    matching.add(QUEUE, "anyone's")
    assert (await normal, await sticky) == ("anyone's", "mine")
    left = polling(matching, STICKY)
    await settle()
    matching.forget_pollers(STICKY)
    assert await left is None
    assert matching.reserve(STICKY) is None


async def test_pollers_are_remembered_for_a_while() -> None:
    clock = Clock()
    matching = Matching(clock)
    await matching.poll(QUEUE, "early", None, 0)
    clock.now_ns += POLLER_REMEMBERED_NS
    await matching.poll(QUEUE, "late", None, 0)
    assert [seen.identity for seen in matching.pollers(QUEUE)] == ["early", "late"]
    assert matching.polled_within(QUEUE, 0)
    clock.now_ns += 1
    assert [seen.identity for seen in matching.pollers(QUEUE)] == ["late"]
    assert not matching.polled_within(QUEUE, 0)
    assert not matching.polled_within(STICKY, clock.now_ns)


STEPS = st.lists(
    st.tuples(
        st.sampled_from(("add", "poll", "cancel", "reserve", "deliver", "release", "end", "turn")),
        st.integers(0, 7),
    ),
    max_size=40,
)


class Trace:
    """What went in, what came out, while polls come, go, and are reserved."""

    def __init__(self) -> None:
        self.clock = Clock()
        self.matching = Matching(self.clock)
        self.polls: list[asyncio.Task[Any]] = []
        self.reserved: list[Any] = []
        self.added = 0

    def take(self) -> int:
        self.added += 1
        return self.added

    async def step(self, kind: str, which: int) -> None:
        match kind:
            case "add":
                self.matching.add(QUEUE, self.take())
            case "poll":
                self.polls.append(polling(self.matching, who=f"w{which % 2}"))
            case "cancel" if self.polls:
                self.polls[which % len(self.polls)].cancel()
            case "reserve":
                poll = self.matching.reserve(QUEUE)
                self.reserved += [poll] if poll else []
            case "deliver" if self.reserved:
                item = self.take()
                if not self.matching.deliver(self.reserved.pop(0), item):
                    self.matching.add(QUEUE, item, first=True)
            case "release" if self.reserved:
                self.matching.release(self.reserved.pop())
            case "end":
                self.matching.shut_down(f"w{which % 2}")
                self.clock.now_ns += which * SHUTDOWN_REMEMBERED_NS
            case "turn":
                await settle()

    async def given(self) -> list[int]:
        """Everything that came out, after everything that still waits has been taken."""
        for poll in self.reserved:
            self.matching.release(poll)
        await settle()
        self.matching.end_all_polls()
        ended = await asyncio.gather(*self.polls, return_exceptions=True)
        out = [item for item in ended if isinstance(item, int)]
        while (item := await self.matching.poll(QUEUE, "last", None, 0)) is not None:
            out.append(item)
        return out


@settings(max_examples=300, deadline=None, database=None)
@given(steps=STEPS)
async def test_every_task_is_given_once(steps: list[tuple[str, int]]) -> None:
    trace = Trace()
    for kind, which in steps:
        await trace.step(kind, which)
    assert sorted(await trace.given()) == list(range(1, trace.added + 1))


async def test_what_is_taken_over_has_its_turn_by_age() -> None:
    matching = Matching(Clock())
    for task in (row(5, "a"), row(6, "c")):
        matching.add(QUEUE, task)
    older = [row(1, "a"), row(2, "a"), row(3, "b"), row(5, "a")]
    matching.take_over(QUEUE, older, whole)
    given = [(await matching.poll(QUEUE, "w", None, LONG_S)).task_id for _ in range(5)]
    assert given == [1, 3, 6, 2, 5]
    assert matching.stats(QUEUE).backlog == 0


async def test_nodes_divide_the_rates_of_a_queue() -> None:
    clock = Clock()
    clock.now_ns = 100_000_000_000
    matching = Matching(clock)
    part = QueueKey("namespace", TaskKind.WORKFLOW, "queue", "version")
    matching.queue(part)
    matching.configure(QUEUE, QueueLimits(per_s=4, key_per_s=2))
    matching.divide(QUEUE, 2)
    for key in (QUEUE, part):
        queue = matching.queue(key)
        assert (queue.rate.per_s, queue.key_rate.per_s, queue.limits.per_s) == (2, 1, 4)
    matching.divide(QUEUE, 1)
    assert matching.queue(part).rate.per_s == 4
    matching.configure(QUEUE, QueueLimits())
    matching.divide(QUEUE, 3)
    assert matching.queue(QUEUE).rate.per_s is None
    assert matching.queues() == [QUEUE]


async def test_a_task_is_kept_once_however_often_it_is_added() -> None:
    """Servers that share a store may take a task from each other and back."""
    matching = Matching(Clock())
    task = row(1)
    for _ in range(2):
        matching.add(QUEUE, task)
    matching.add(QUEUE, task, first=True)
    assert matching.stats(QUEUE).backlog == 1
    assert await matching.poll(QUEUE, "w", None, LONG_S) is task
    assert await matching.poll(QUEUE, "w", None, 0) is None


async def test_what_waits_for_long_is_given_up_in_its_order() -> None:
    matching = Matching(Clock())
    part = replace(QUEUE, version="version")
    tasks = [row(task_id) for task_id in (1, 2, 3)]
    for task in tasks:
        matching.add(QUEUE, task)
    matching.add(part, row(1))
    assert matching.give_up(QUEUE, 5, 0) == []
    assert matching.give_up(QUEUE, 1, 2) == tasks[:1]
    assert matching.give_up(QUEUE, 5, 2) == tasks[1:2]
    assert matching.give_up(replace(QUEUE, version="unknown"), 5, 2) == []
    assert matching.stats(QUEUE).backlog == matching.stats(part).backlog == 1
    assert await matching.poll(QUEUE, "w", None, LONG_S) is tasks[2]


async def test_what_was_given_back_is_given_up_first() -> None:
    matching = Matching(Clock())
    tasks = [row(task_id) for task_id in (1, 2)]
    matching.add(QUEUE, tasks[0])
    matching.add(QUEUE, tasks[1], first=True)
    assert matching.give_up(QUEUE, 1, 2) == [tasks[1]]


async def test_a_query_is_not_given_up() -> None:
    matching = Matching(Clock())
    query, task = object(), row(1)
    matching.add(QUEUE, query)
    matching.add(QUEUE, task)
    assert matching.give_up(QUEUE, 5, 10) == []
    assert await matching.poll(QUEUE, "w", None, LONG_S) is query
    assert await matching.poll(QUEUE, "w", None, LONG_S) is task


async def test_what_a_rate_holds_back_is_not_given_up() -> None:
    """Its key may have no more tasks, wherever they are."""
    clock = Clock()
    clock.now_ns = 1_000_000_000
    matching = Matching(clock)
    matching.configure(QUEUE, QueueLimits(key_per_s=0))
    task = row(1, "a")
    matching.add(QUEUE, task)
    assert await matching.poll(QUEUE, "w", None, 0) is None
    assert matching.give_up(QUEUE, 5, 10) == []
    assert matching.stats(QUEUE).backlog == 1
    matching.configure(QUEUE, QueueLimits())
    assert await matching.poll(QUEUE, "w", None, LONG_S) is task


async def test_polls_that_wait_are_counted_by_part() -> None:
    matching = Matching(Clock())
    part, empty = (replace(QUEUE, version=version) for version in ("one", "two"))
    matching.queue(empty)
    polls = [polling(matching, key) for key in (QUEUE, part, part)]
    await settle()
    assert matching.idle_parts(QUEUE) == [(QUEUE, 1), (part, 2)]
    assert matching.idle_parts(STICKY) == []
    matching.end_all_polls()
    await asyncio.gather(*polls)
