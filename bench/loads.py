"""The loads, each a function of a client and a size.

An action is what Temporal Cloud's pricing page calls one: a workflow started, an activity
started, a signal or an update sent, a timer started, a schedule created, a Nexus operation started. Nothing else is
counted: not workflow tasks, not polls, not describes. https://docs.temporal.io/cloud/actions

Rule: a load returns only when the server has done all of it, and raises when any of it failed.
"""

import asyncio
import math
import time
import uuid
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from itertools import pairwise

from temporalio.client import (
    Client,
    Schedule,
    ScheduleActionStartWorkflow,
    ScheduleIntervalSpec,
    ScheduleSpec,
    WorkflowHandle,
)
from temporalio.common import SearchAttributeKey
from temporalio.contrib.workflow_streams import WorkflowStreamClient

from bench import aims
from bench.aims import Aims
from bench.workflows import TASK_QUEUE, Counter, Inbox, Sleeper, Steps, Stream

UNSERVED_QUEUE = "bench-nobody-polls"
IN_FLIGHT = 50
# Sleepers and schedules that are not started by then are not started at all, so that a run stays short.
START_BUDGET_S = 60.0
READERS = 200
# So long from the creation of the first schedule that is to fire until all fire at once.
FIRE_AFTER_S = 30.0
FIRINGS_BUDGET_S = 60.0
SCHEDULE_INTERVAL = timedelta(days=30)
LIST_PAGE_SIZE = 1000
# Started, task scheduled, task started, task completed, timer started.
EVENTS_WHEN_ASLEEP = 5
ASLEEP_CHECK_INTERVAL_S = 0.05
FIRINGS_CHECK_INTERVAL_S = 1.0


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a load did: how much of its size, as actions, in wall seconds, and the timed latencies."""

    done: int
    actions: int
    seconds: float
    latencies_s: list[float]


@dataclass(frozen=True, slots=True)
class Load:
    """`timed` says what its latencies are of; `kept`, what the server keeps of it afterwards: then it is
    killed, and its restart timed. `prepare` is what is done before the clock starts, and says for which size."""

    name: str
    title: str
    timed: str
    size: int
    run: Callable[[Client, int], Awaitable[Outcome]]
    worker: bool = True
    kept: str = ""
    prepare: Callable[[Client, int], Awaitable[int]] | None = None
    aims: Aims = aims.MANY_ACTIONS
    servers: tuple[str, ...] = ("durably", "temporal")
    """Those it can be run on."""


def fresh_id() -> str:
    return f"bench-{uuid.uuid4()}"


async def timed(call: Callable[[], Awaitable[object]]) -> float:
    began = time.perf_counter()
    await call()
    return time.perf_counter() - began


async def together(
    calls: int,
    call: Callable[[int], Awaitable[object]],
    give_up: float = math.inf,
    in_flight: int = IN_FLIGHT,
) -> list[float]:
    """The latencies of calls 0..calls-1, so many at once at most, none begun after `give_up`."""
    numbers = iter(range(calls))
    latencies: list[float] = []

    async def caller() -> None:
        for number in numbers:
            if time.perf_counter() >= give_up:
                return
            latencies.append(await timed(lambda number=number: call(number)))  # type: ignore[misc]

    async with asyncio.TaskGroup() as group:
        for _ in range(min(in_flight, calls)):
            group.create_task(caller())
    return latencies


async def run_steps(client: Client, steps: int) -> list[int]:
    return await client.execute_workflow(Steps.run, steps, id=fresh_id(), task_queue=TASK_QUEUE)


async def one_activity(client: Client, workflows: int) -> Outcome:
    return await workflows_of(client, workflows, steps=1)


async def twenty_activities(client: Client, workflows: int) -> Outcome:
    return await workflows_of(client, workflows, steps=20)


async def workflows_of(
    client: Client, workflows: int, steps: int, in_flight: int = IN_FLIGHT
) -> Outcome:
    began = time.perf_counter()
    latencies = await together(workflows, lambda _: run_steps(client, steps), in_flight=in_flight)
    return Outcome(workflows, workflows * (1 + steps), time.perf_counter() - began, latencies)


async def sequential(client: Client, steps: int) -> Outcome:
    """One workflow alone; the latency of a step is from one activity's run to the next one's."""
    began = time.perf_counter()
    ran_ns = await run_steps(client, steps)
    seconds = time.perf_counter() - began
    gaps = [(after - before) / 1e9 for before, after in pairwise(ran_ns)]
    return Outcome(steps, 1 + steps, seconds, gaps)


async def signals(client: Client, count: int) -> Outcome:
    """Until the workflow has received every signal."""
    began = time.perf_counter()
    handle = await client.start_workflow(Inbox.run, count, id=fresh_id(), task_queue=TASK_QUEUE)
    latencies = await together(count, lambda number: handle.signal(Inbox.message, number))
    received = await handle.result()
    assert received == count, f"{received} signals received of {count}"
    return Outcome(count, 1 + count, time.perf_counter() - began, latencies)


async def updates(client: Client, count: int) -> Outcome:
    """Each is accepted and answered by the workflow."""
    began = time.perf_counter()
    handle = await client.start_workflow(Counter.run, count, id=fresh_id(), task_queue=TASK_QUEUE)
    latencies = await together(count, lambda _: handle.execute_update(Counter.add, 1))
    total = await handle.result()
    assert total == count, f"{total} updates counted of {count}"
    return Outcome(count, 1 + count, time.perf_counter() - began, latencies)


async def stream(client: Client, items: int) -> Outcome:
    """READERS read one stream; the next item is appended when each has had the last.

    A latency is from the call that appends an item until one reader has it. A read is an update.
    """
    began = time.perf_counter()
    handle = await client.start_workflow(Stream.run, id=fresh_id(), task_queue=TASK_QUEUE)
    appended: dict[int, float] = {}
    latencies: list[float] = []
    everybody_has = [asyncio.Event() for _ in range(items)]
    readers_left = [READERS] * items

    async def read() -> None:
        number = 0
        source = WorkflowStreamClient.create(client, handle.id)
        async for item in source.subscribe(result_type=int, poll_cooldown=timedelta(0)):
            assert item.data == number, f"item {item.data} instead of {number}"
            latencies.append(time.perf_counter() - appended[number])
            readers_left[number] -= 1
            if not readers_left[number]:
                everybody_has[number].set()
            number += 1
            if number == items:
                return

    async with asyncio.TaskGroup() as group:
        for _ in range(READERS):
            group.create_task(read())
        for number in range(items):
            appended[number] = time.perf_counter()
            await handle.signal(Stream.append, number)
            await everybody_has[number].wait()
    return Outcome(items, 1 + items * (1 + READERS), time.perf_counter() - began, latencies)


async def schedules(client: Client, count: int) -> Outcome:
    """Created, and far from their time; fewer than `count` when START_BUDGET_S is over."""
    began = time.perf_counter()
    latencies = await together(
        count, lambda _: _schedule(client, timedelta(days=15)), began + START_BUDGET_S
    )
    made = len(latencies)
    return Outcome(made, made, time.perf_counter() - began, latencies)


async def _schedule(client: Client, after: timedelta) -> None:
    """A schedule whose next time is so long from now, at a whole second."""
    due = (datetime.now(UTC) + after).timestamp()
    offset = timedelta(seconds=int(due) % int(SCHEDULE_INTERVAL.total_seconds()))
    await client.create_schedule(
        fresh_id(),
        Schedule(
            action=ScheduleActionStartWorkflow(
                Steps.run, 1, id=fresh_id(), task_queue=UNSERVED_QUEUE
            ),
            spec=ScheduleSpec(
                intervals=[ScheduleIntervalSpec(every=SCHEDULE_INTERVAL, offset=offset)]
            ),
        ),
    )


async def prepare_firings(client: Client, count: int) -> int:
    """Schedules that all come due in the same second; how many could be made before it."""
    due = datetime.now(UTC) + timedelta(seconds=FIRE_AFTER_S)
    give_up = time.perf_counter() + FIRE_AFTER_S - 2
    made = await together(count, lambda _: _schedule(client, due - datetime.now(UTC)), give_up)
    return len(made)


async def firings(client: Client, count: int) -> Outcome:
    """From the second in which all schedules are due until the last workflow is started.

    A latency is from that second to a workflow's start.
    """
    found: list[tuple[datetime, datetime]] = []
    give_up = time.perf_counter() + FIRE_AFTER_S + FIRINGS_BUDGET_S
    while len(found) < count and time.perf_counter() < give_up:
        await asyncio.sleep(FIRINGS_CHECK_INTERVAL_S)
        found = await _fired(client)
    latencies = [(started - due).total_seconds() for due, started in found]
    last = max(latencies)
    return Outcome(len(found), len(found), last, latencies)


async def _fired(client: Client) -> list[tuple[datetime, datetime]]:
    """When each workflow of a schedule was due, and when it was started."""
    attribute = SearchAttributeKey.for_datetime("TemporalScheduledStartTime")
    found = []
    listed = client.list_workflows("TemporalScheduledById IS NOT NULL", page_size=LIST_PAGE_SIZE)
    async for each in listed:
        due = each.typed_search_attributes.get(attribute)
        if due is not None:
            found.append((due, each.start_time))
    return found


async def starts(client: Client, count: int) -> Outcome:
    """Nobody polls the queue: what is left is the start itself."""
    began = time.perf_counter()
    latencies = await together(
        count,
        lambda _: client.start_workflow(Steps.run, 1, id=fresh_id(), task_queue=UNSERVED_QUEUE),
    )
    return Outcome(count, count, time.perf_counter() - began, latencies)


async def sleepers(client: Client, count: int) -> Outcome:
    """Until they sleep: a fiftieth of them, and the last hundred, are asked.

    Fewer than `count` of them when the server cannot start them in START_BUDGET_S.
    """
    began = time.perf_counter()
    handles: list[WorkflowHandle[Sleeper, None]] = []

    async def start(_: int) -> None:
        handles.append(
            await client.start_workflow(Sleeper.run, id=fresh_id(), task_queue=TASK_QUEUE)
        )

    latencies = await together(count, start, began + START_BUDGET_S)
    for handle in [*handles[::50], *handles[-100:]]:
        while not await _asleep(handle):  # noqa: ASYNC110  it falls asleep in another process
            await asyncio.sleep(ASLEEP_CHECK_INTERVAL_S)
    asleep = len(handles)
    return Outcome(asleep, 2 * asleep, time.perf_counter() - began, latencies)


async def _asleep(handle: WorkflowHandle[Sleeper, None]) -> bool:
    return (await handle.describe()).history_length >= EVENTS_WHEN_ASLEEP


LOADS = {
    load.name: load
    for load in [
        Load("activity-1", "workflows of 1 activity", "workflow", 400, one_activity),
        Load("activity-20", "workflows of 20 activities", "workflow", 50, twenty_activities),
        Load(
            "sequential",
            "sequential activities of one workflow",
            "step",
            100,
            sequential,
            aims=aims.STEPS_ALONE,
        ),
        Load("signals", "signals to one workflow", "signal", 1000, signals),
        Load("updates", "updates of one workflow", "update", 1000, updates, aims=aims.NONE),
        Load(
            "stream",
            f"items to each of {READERS} readers of one stream",
            "read",
            20,
            stream,
            aims=aims.NONE,
        ),
        Load("starts", "starts only", "start", 1000, starts, worker=False),
        Load("sleepers", "sleeping workflows", "start", 10_000, sleepers, kept="workflow asleep"),
        Load(
            "schedules",
            "schedules",
            "creation",
            10_000,
            schedules,
            worker=False,
            kept="schedule",
            aims=aims.NONE,
        ),
        Load(
            "firings",
            "schedules that fire at once",
            "start after its time",
            1000,
            firings,
            worker=False,
            prepare=prepare_firings,
            aims=aims.NONE,
        ),
    ]
}
