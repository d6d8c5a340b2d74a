"""Simulations: clients and workers over a bad network, and a server that dies at any commit.

After each run, all that was promised holds: ARCHITECTURE.md, "Invariants". A run that fails names its seed;
`SEEDS=7 pytest tests/simulation` replays it.
"""

import asyncio
import logging
import os
import sqlite3
import tempfile
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

import pytest
from temporalio.api.enums.v1 import event_type_pb2 as event_types
from temporalio.api.history.v1 import message_pb2 as history
from temporalio.api.workflowservice.v1 import request_response_pb2 as ws

from durably.engine.state import WorkflowState
from durably.engine.transition import outstanding
from durably.service import ids as id_source
from durably.service.execution import rebuild
from tests.crash import rules
from tests.simulation.actors import WHERE, Client, Scheduler, Worker, insist
from tests.simulation.programs import program_of
from tests.simulation.world import SimulatedLoop, SimulatedStore, World

SEEDS_AT_ONCE = 20
SEEDS_MAX = 120
CRASHES_MAX = 8
WORKFLOWS = 4
LONGEST_S = 6 * 3600.0


def seeds() -> Iterator[range]:
    """Slices of seeds: those of every run, or `SEEDS` (one, or from-to)."""
    first, _, last = os.environ.get("SEEDS", f"0-{SEEDS_MAX - 1}").partition("-")
    end = int(last or first) + 1
    for start in range(int(first), end, SEEDS_AT_ONCE):
        yield range(start, min(start + SEEDS_AT_ONCE, end))


@dataclass
class Run:
    """A run of one workflow as it is in the store after all is over."""

    state: WorkflowState
    events: list[history.HistoryEvent]


@dataclass
class Outcome:
    crashes: int
    seconds: float
    clients: list[Client]
    scheduler: Scheduler
    runs: dict[str, list[Run]]
    listed: Counter[tuple[str, int]]
    tasks_left: int


# --- One simulation ---------------------------------------------------------------------------


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    """In memory where there is such a place: what is on it outlives the servers, not the machine."""
    place = Path("/dev/shm")
    with tempfile.TemporaryDirectory(dir=place if place.is_dir() else tmp_path) as made:
        yield Path(made)


def simulate(seed: int, folder: Path) -> Outcome:
    randomness, clock = id_source._random, id_source.time
    loop = SimulatedLoop()
    try:
        return loop.run_until_complete(_simulate(seed, folder, loop))
    finally:
        id_source._random, id_source.time = randomness, clock
        loop.close()


async def _simulate(seed: int, folder: Path, loop: SimulatedLoop) -> Outcome:
    world = World(seed, folder, loop, CRASHES_MAX)
    names = [f"w{number}" for number in range(WORKFLOWS)]
    clients = [Client(world, name) for name in names]
    scheduler = Scheduler(world, actions=world.random.randint(1, 4))
    async with beside(world, names), asyncio.timeout(LONGEST_S):
        async with asyncio.TaskGroup() as group:
            for client in (*clients, scheduler):
                group.create_task(client.run())
        world.crashes_left = 0
        await all_is_quiet(world)
        listed = await everything_listed(world)
    runs = await stored(world)
    return Outcome(
        world.crashes, loop.now_s, clients, scheduler, runs, listed, count(world, "tasks")
    )


@asynccontextmanager
async def beside(world: World, names: list[str]) -> AsyncIterator[None]:
    """A server and two workers."""
    workers = [Worker(world, f"worker-{number}", names) for number in range(2)]
    loops = [world.run()]
    for worker in workers:
        loops += [
            worker.workflow_tasks(sticky=False),
            worker.workflow_tasks(sticky=True),
            worker.activities(),
        ]
    tasks = [asyncio.create_task(each) for each in loops]
    try:
        yield
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def count(world: World, table: str, where: str = "1") -> int:
    with sqlite3.connect(world.url.removeprefix("sqlite:///")) as connection:
        found = connection.execute(f"SELECT count(*) FROM {table} WHERE {where}").fetchone()
    connection.close()
    return int(found[0])


async def all_is_quiet(world: World) -> None:
    """Until every run has closed, and no task waits for a worker."""
    while count(world, "executions", "status = 1") or count(world, "tasks"):  # noqa: ASYNC110
        await asyncio.sleep(5)
    await asyncio.sleep(60)  # Reports to parents, and what is left of deliveries.


async def everything_listed(world: World) -> Counter[tuple[str, int]]:
    reply = await insist(
        world, "ListWorkflowExecutions", ws.ListWorkflowExecutionsRequest(**WHERE, page_size=1000)
    )
    return Counter((each.execution.run_id, each.status) for each in reply.executions)


async def stored(world: World) -> dict[str, list[Run]]:
    """Every run, from the file alone: workflow id -> its runs, oldest first."""
    store = SimulatedStore.open(world.url)
    store.world = world  # type: ignore[attr-defined]
    found: dict[str, list[Run]] = {}
    try:
        for execution_id, _ in await store.due(2**62, 10_000):
            loaded = await store.load(execution_id)
            assert loaded is not None
            state = rebuild(loaded).state
            assert isinstance(state, WorkflowState)
            rows = await store.read_events(execution_id, 1, 1 << 30)
            events = list(
                chain.from_iterable(history.History.FromString(r.events).events for r in rows)
            )
            found.setdefault(state.workflow_id, []).append(Run(state, events))
    finally:
        await store.close()
    return {name: sorted(runs, key=lambda run: run.state.start_ns) for name, runs in found.items()}


# --- What must hold ---------------------------------------------------------------------------


def check(seed: int, outcome: Outcome) -> None:
    for client in outcome.clients:
        program = program_of(seed, client.workflow_id)
        assert client.result == program.expected, "nothing is lost, nothing is done twice"
        runs = outcome.runs[client.workflow_id]
        check_signals(client, runs)
        check_updates(client, runs)
    check_schedule(outcome)
    for runs in outcome.runs.values():
        for run in runs:
            rules.check(run.events)
            check_children(run.events)
            assert run.state.closed
            assert outstanding(run.state) == [], "all that was owed is paid"
        check_chain(runs)
    every = [run.state for runs in outcome.runs.values() for run in runs]
    shown = Counter((state.run_id, state.status) for state in every)
    assert outcome.listed == shown, "visibility agrees with the executions"
    assert outcome.tasks_left == 0


def check_schedule(outcome: Outcome) -> None:
    """Each of its actions started one workflow."""
    marks = [
        {run.state.scheduled_by for run in runs}
        for name, runs in outcome.runs.items()
        if name.startswith("s-") and "/" not in name
    ]
    numbers = sorted(mark.action for (mark,) in marks if mark is not None)
    wanted = outcome.scheduler.actions
    assert (outcome.scheduler.taken, numbers) == (wanted, list(range(1, wanted + 1)))


def check_signals(client: Client, runs: list[Run]) -> None:
    """Each is there, in the order in which they were accepted, and once in a run. (One whose answer was
    lost may reach the next run of its chain again: request ids are remembered by the run.)"""
    taken = [rules.signals(run.events) for run in runs]
    for each in taken:
        named = [request_id for request_id in each if request_id]
        assert len(named) == len(set(named))
    first = dict.fromkeys(
        each for each in chain.from_iterable(taken) if each in client.acknowledged
    )
    assert list(first) == client.acknowledged


def check_updates(client: Client, runs: list[Run]) -> None:
    """One that was answered is there, and once in a run. (One whose answer was lost may reach the next
    run of its chain again: update ids are remembered by the run.)"""
    completed = [_completed_updates(run.events) for run in runs]
    assert all(times <= 1 for times in completed)
    if client.updated:
        assert sum(completed) >= 1, "an update that was answered is in history"


def _completed_updates(events: list[history.HistoryEvent]) -> int:
    kinds = Counter(event.event_type for event in events)
    completed = kinds[event_types.EVENT_TYPE_WORKFLOW_EXECUTION_UPDATE_COMPLETED]
    assert kinds[event_types.EVENT_TYPE_WORKFLOW_EXECUTION_UPDATE_ACCEPTED] == completed
    return completed


def check_children(events: list[history.HistoryEvent]) -> None:
    """Each child's start and end is there once."""
    seen: Counter[tuple[int, int]] = Counter()
    for event in events:
        if event.WhichOneof("attributes").startswith("child_workflow_execution"):  # type: ignore[union-attr]
            attributes = getattr(event, event.WhichOneof("attributes") or "")
            is_start = event.event_type == event_types.EVENT_TYPE_CHILD_WORKFLOW_EXECUTION_STARTED
            seen[attributes.initiated_event_id, is_start] += 1
    assert all(times == 1 for times in seen.values())


def check_chain(runs: list[Run]) -> None:
    """One run after the other: each is followed by the next, and the last by none."""
    following = [run.state.successor_run_id for run in runs]
    assert following == [*(run.state.run_id for run in runs[1:]), ""]


@pytest.mark.parametrize("some", list(seeds()), ids=lambda some: f"{some[0]}-{some[-1]}")
def test_what_was_promised_holds_after_crashes(
    some: range, folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.CRITICAL)
    for seed in some:
        try:
            check(seed, simulate(seed, folder))
        except BaseException:
            print(f"replay this with SEEDS={seed}")
            raise


def test_a_seed_replays_its_run(folder: Path) -> None:
    first, again = (simulate(7, folder / str(turn)) for turn in (1, 2))
    assert first.crashes == again.crashes > 0
    assert first.seconds == again.seconds
    for name, runs in first.runs.items():
        for run, other in zip(runs, again.runs[name], strict=True):
            assert [shape(event) for event in run.events] == [shape(each) for each in other.events]


def shape(event: history.HistoryEvent) -> tuple[int, int, int]:
    return event.event_id, event.event_type, event.event_time.ToNanoseconds()
