"""One workflow that everybody writes to through all servers at once: they take turns at it, each write is
there once, and all agree on the order; also when one dies or falls asleep in its turn."""

import asyncio
import contextlib
import itertools
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import aiohttp
import asyncpg
import psutil
import pytest
from temporalio import workflow
from temporalio.api.common.v1 import message_pb2 as common
from temporalio.api.workflowservice.v1 import request_response_pb2 as ws
from temporalio.client import Client, WorkflowUpdateRPCTimeoutOrCancelledError
from temporalio.converter import default as default_converter
from temporalio.service import RPCError
from temporalio.worker import UnsandboxedWorkflowRunner, Worker

from tests.conftest import eventually
from tests.crash import rules
from tests.crash.test_kill import OUTAGE
from tests.postgres import PostgresServer
from tests.processes import ServerProcess
from tests.stores import dump

NODES = 3
SETTINGS = ("node_beat_s=0.3", "node_lost_after_s=1.5", "deadline_sweep_interval_s=1")
QUEUE = WORKFLOW = "box"
AT_ONCE = 24
"""So many writes are under way at a time, a third of them through each server."""
WRITES_MIN = 60
TURNS_MIN = 6
HOLDER = """SELECT client_port FROM pg_locks JOIN pg_stat_activity USING (pid)
    WHERE locktype = 'advisory' AND granted AND datname = current_database()"""
"""Whose turn it is: the port of his connection."""

pytestmark = pytest.mark.timeout(300)


@workflow.defn
class Box:
    """What was put into it, in order."""

    def __init__(self) -> None:
        self.found: list[str] = []
        self.closed = False

    @workflow.run
    async def run(self) -> list[str]:
        await workflow.wait_condition(lambda: self.closed)
        await workflow.wait_condition(workflow.all_handlers_finished)
        return self.found

    @workflow.signal
    def put(self, what: str) -> None:
        self.found.append(what)

    @workflow.signal
    def close(self) -> None:
        self.closed = True

    @workflow.update
    def put_and_count(self, what: str) -> int:
        self.found.append(what)
        return len(self.found)


class Cluster:
    """Three servers on one database."""

    def __init__(self, postgres: PostgresServer, folder: Path) -> None:
        self.store = postgres.database()
        options = [part for setting in SETTINGS for part in ("--set", setting)]
        self.servers = [ServerProcess(self.store, *options, folder=folder) for _ in range(NODES)]

    def start(self) -> None:
        for each in self.servers:
            each.start()

    def kill(self) -> None:
        for each in self.servers:
            each.kill()

    async def clients(self) -> list[Client]:
        return [await Client.connect(each.address) for each in self.servers]

    async def metric(self, name: str) -> float:
        """The sum over the servers."""
        total = 0.0
        async with aiohttp.ClientSession() as http:
            for each in self.servers:
                async with http.get(f"http://{each.address}/metrics") as page:
                    lines = (await page.text()).splitlines()
                (found,) = (line for line in lines if line.startswith(f"{name} "))
                total += float(found.split()[1])
        return total

    async def stop_first_in_a_turn(self) -> None:
        """Stop it again and again, until it stands still in the middle of a turn."""
        first = self.servers[0]
        assert first.process is not None
        process = psutil.Process(first.process.pid)
        database = await asyncpg.connect(self.store)

        async def stands_in_a_turn() -> bool:
            first.stop()
            holder = await database.fetchval(HOLDER)
            # Each connection has a port of its own here.
            if holder in {each.laddr.port for each in process.net_connections("tcp")}:
                return True
            first.go_on()
            return False

        try:
            await eventually(stands_in_a_turn, 60)
        finally:
            await database.close()


@pytest.fixture
def cluster(postgres: PostgresServer, tmp_path: Path) -> Iterator[Cluster]:
    found = Cluster(postgres, tmp_path)
    try:
        found.start()
        yield found
    finally:
        found.kill()


def box_worker(client: Client) -> Worker:
    return Worker(
        client,
        task_queue=QUEUE,
        workflows=[Box],
        workflow_runner=UnsandboxedWorkflowRunner(),
    )


async def signal(client: Client, name: str, what: str) -> None:
    request = ws.SignalWorkflowExecutionRequest(
        namespace="default",
        workflow_execution=common.WorkflowExecution(workflow_id=WORKFLOW),
        signal_name=name,
        request_id=what,
    )
    if name == "put":
        request.input.payloads.extend(await default_converter().encode([what]))
    await client.workflow_service.signal_workflow_execution(request)


async def put(client: Client, what: str) -> None:
    """By a signal or an update, as its name says."""
    if what.startswith("signal"):
        await signal(client, "put", what)
    else:
        box = client.get_workflow_handle_for(Box.run, WORKFLOW)
        assert await box.execute_update(Box.put_and_count, what, id=what) > 0


class Storm:
    """Writes through all servers at once, until it is told to end."""

    def __init__(self, clients: list[Client]) -> None:
        self._clients = clients
        self._ended = False
        self._numbers = itertools.count()
        self.done: list[str] = []
        """What is acknowledged."""

    async def more(self) -> None:
        """Until it has done so much more."""
        wanted = len(self.done) + WRITES_MIN

        async def enough() -> bool:
            return len(self.done) >= wanted

        await eventually(enough, 120)

    @contextlib.asynccontextmanager
    async def blowing(self) -> AsyncIterator[None]:
        async with asyncio.TaskGroup() as group:
            for turn in range(AT_ONCE):
                group.create_task(self._write(turn % len(self._clients)))
            try:
                yield
            finally:
                self._ended = True

    async def _write(self, turn: int) -> None:
        """What one server does not acknowledge is put again, through the next."""
        while not self._ended:
            number = next(self._numbers)
            what = f"signal-{number}" if number % 4 else f"update-{number}"
            for client in itertools.islice(itertools.cycle(self._clients), turn, None):
                try:
                    async with asyncio.timeout(5):
                        await put(client, what)
                    break
                except (TimeoutError, WorkflowUpdateRPCTimeoutOrCancelledError):
                    continue
                except RPCError as error:
                    if error.status not in OUTAGE:
                        raise
            self.done.append(what)


async def check(cluster: Cluster, clients: list[Client], done: list[str]) -> None:
    """Each write is there once; its workflow saw them in the order of history, which all servers show."""
    await signal(clients[0], "close", "close")
    histories = []
    for client in clients:
        box = client.get_workflow_handle_for(Box.run, WORKFLOW)
        found = await box.result()
        events = list((await box.fetch_history()).events)
        assert Counter(found) == Counter(done), "each write is there once"
        rules.check(events)
        in_history = [each for each in rules.signals(events) if each != "close"]
        assert [each for each in found if each.startswith("signal")] == in_history
        histories.append([event.SerializeToString() for event in events])
    assert all(each == histories[0] for each in histories), "servers agree"
    rules.check_tables(dump(cluster.store))


async def test_each_write_is_there_once_and_all_agree_on_the_order(cluster: Cluster) -> None:
    async def turns_are_taken() -> bool:
        return await cluster.metric("durably_contested_rounds_total") >= TURNS_MIN

    async def left_alone() -> bool:
        return await cluster.metric("durably_contested_executions") == 0

    clients = await cluster.clients()
    storm = Storm(clients)
    async with box_worker(clients[0]), box_worker(clients[1]):
        await clients[2].start_workflow(Box.run, id=WORKFLOW, task_queue=QUEUE)
        async with storm.blowing():
            await storm.more()
            await eventually(turns_are_taken, 60)
        await check(cluster, clients, storm.done)
    await eventually(left_alone, 60)


async def test_a_server_that_falls_out_in_its_turn_holds_up_nobody(cluster: Cluster) -> None:
    """It falls asleep, and others go on; it goes on, too, and is killed the next time."""
    first, clients = cluster.servers[0], await cluster.clients()
    storm = Storm(clients)
    async with box_worker(clients[1]), box_worker(clients[2]):
        await clients[1].start_workflow(Box.run, id=WORKFLOW, task_queue=QUEUE)
        async with storm.blowing():
            await cluster.stop_first_in_a_turn()
            await storm.more()
            first.go_on()
            await storm.more()
            await cluster.stop_first_in_a_turn()
            first.kill()
            await storm.more()
        await check(cluster, clients[1:], storm.done)
