"""The six loads, each a function of a client and a size.

An action is what Temporal Cloud's pricing page calls one: a workflow started, an activity
started, a signal sent, a timer started. Nothing else is counted: not workflow tasks, not polls,
not describes. https://docs.temporal.io/cloud/actions

Rule: a load returns only when the server has done all of it, and raises when any of it failed.
"""

import asyncio
import math
import time
import uuid
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from itertools import pairwise

from temporalio.client import Client, WorkflowHandle

from bench.workflows import TASK_QUEUE, Inbox, Sleeper, Steps

UNSERVED_QUEUE = "bench-nobody-polls"
IN_FLIGHT = 50
# Sleepers that are not started by then are not started at all, so that a run stays short.
SLEEPERS_START_BUDGET_S = 60.0
# Started, task scheduled, task started, task completed, timer started.
EVENTS_WHEN_ASLEEP = 5
ASLEEP_CHECK_INTERVAL_S = 0.05


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a load did: how much of its size, as actions, in wall seconds, and the timed latencies."""

    done: int
    actions: int
    seconds: float
    latencies_s: list[float]


@dataclass(frozen=True, slots=True)
class Load:
    """`timed` says what its latencies are of; `restart`: kill the server afterwards, and time it."""

    name: str
    title: str
    timed: str
    size: int
    run: Callable[[Client, int], Awaitable[Outcome]]
    worker: bool = True
    restart: bool = False


def fresh_id() -> str:
    return f"bench-{uuid.uuid4()}"


async def timed(call: Callable[[], Awaitable[object]]) -> float:
    began = time.perf_counter()
    await call()
    return time.perf_counter() - began


async def together(
    calls: int, call: Callable[[int], Awaitable[object]], give_up: float = math.inf
) -> list[float]:
    """The latencies of calls 0..calls-1, at most IN_FLIGHT at once, none begun after `give_up`."""
    numbers = iter(range(calls))
    latencies: list[float] = []

    async def caller() -> None:
        for number in numbers:
            if time.perf_counter() >= give_up:
                return
            latencies.append(await timed(lambda number=number: call(number)))  # type: ignore[misc]

    async with asyncio.TaskGroup() as group:
        for _ in range(min(IN_FLIGHT, calls)):
            group.create_task(caller())
    return latencies


async def run_steps(client: Client, steps: int) -> list[int]:
    return await client.execute_workflow(Steps.run, steps, id=fresh_id(), task_queue=TASK_QUEUE)


async def one_activity(client: Client, workflows: int) -> Outcome:
    return await _workflows_of(client, workflows, steps=1)


async def twenty_activities(client: Client, workflows: int) -> Outcome:
    return await _workflows_of(client, workflows, steps=20)


async def _workflows_of(client: Client, workflows: int, steps: int) -> Outcome:
    began = time.perf_counter()
    latencies = await together(workflows, lambda _: run_steps(client, steps))
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

    Fewer than `count` of them when the server cannot start them in SLEEPERS_START_BUDGET_S.
    """
    began = time.perf_counter()
    handles: list[WorkflowHandle[Sleeper, None]] = []

    async def start(_: int) -> None:
        handles.append(
            await client.start_workflow(Sleeper.run, id=fresh_id(), task_queue=TASK_QUEUE)
        )

    latencies = await together(count, start, began + SLEEPERS_START_BUDGET_S)
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
        Load("sequential", "sequential activities of one workflow", "step", 100, sequential),
        Load("signals", "signals to one workflow", "signal", 1000, signals),
        Load("starts", "starts only", "start", 1000, starts, worker=False),
        Load("sleepers", "sleeping workflows", "start", 10_000, sleepers, restart=True),
    ]
}
