"""A task that nobody got, because the database could not be written to or a reply of it was lost, is not
forgotten: the next worker that asks for it has it."""

import asyncio
import contextlib
import uuid
from collections.abc import AsyncIterator

import asyncpg
import pytest
import pytest_asyncio
from temporalio.api.taskqueue.v1 import message_pb2 as taskqueue
from temporalio.api.workflowservice.v1 import request_response_pb2 as ws
from temporalio.client import Client
from temporalio.service import RPCError, RPCStatusCode

from durably import Server
from tests.conftest import eventually
from tests.nodes.test_queues import start_activity
from tests.postgres import PostgresServer
from tests.store.test_postgres import DISK_FULL

WAITING = "SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'SyncRep'"
CLAIMS_WAITING = f"{WAITING} AND query LIKE 'WITH chosen%'"
CUT_WHO_WAITS = (
    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE wait_event = 'SyncRep'"
)
NO_STANDBY = "ALTER SYSTEM SET synchronous_standby_names = 'nobody'"


@pytest_asyncio.fixture
async def pair(postgres_to_stop: PostgresServer) -> AsyncIterator[list[Client]]:
    """Of two servers whose PostgreSQL belongs to this test."""
    url = postgres_to_stop.database(1)
    async with contextlib.AsyncExitStack() as stack:
        found = []
        for _ in range(2):
            server = Server(store=url, port=0, node_beat_s=0.5, postgres_unavailable_s=60.0)
            found.append(await stack.enter_async_context(server))
        yield [await Client.connect(server.address) for server in found]


def polls(client: Client, queue: taskqueue.TaskQueue) -> "list[asyncio.Task[bytes]]":
    """The token of a workflow task, and that of an activity's."""

    async def workflow() -> bytes:
        request = ws.PollWorkflowTaskQueueRequest(namespace="default", task_queue=queue)
        token = b""
        while not token:
            token = (await client.workflow_service.poll_workflow_task_queue(request)).task_token
        return token

    async def activity() -> bytes:
        request = ws.PollActivityTaskQueueRequest(namespace="default", task_queue=queue)
        token = b""
        while not token:
            token = (await client.workflow_service.poll_activity_task_queue(request)).task_token
        return token

    return [asyncio.create_task(workflow()), asyncio.create_task(activity())]


async def test_a_task_whose_start_could_not_be_written(
    pair: list[Client], postgres_to_stop: PostgresServer
) -> None:
    client, queue = pair[0], taskqueue.TaskQueue(name=f"q-{uuid.uuid4()}")
    await client.start_workflow("T", id=queue.name, task_queue=queue.name)
    await start_activity(client, queue)
    database = await asyncpg.connect(await only_database(postgres_to_stop))
    await database.execute(DISK_FULL)
    for poll in polls(client, queue):
        with pytest.raises(RPCError) as refused:
            await poll
        assert refused.value.status == RPCStatusCode.UNAVAILABLE
    await database.execute("DROP FUNCTION disk_full() CASCADE")
    assert all(await asyncio.gather(*polls(client, queue)))
    await database.close()


async def test_tasks_whose_claim_was_never_answered(
    pair: list[Client], postgres_to_stop: PostgresServer
) -> None:
    """They were added at a server without workers. The claim of the other is written, and its connection
    is cut before it is said so."""
    queue = taskqueue.TaskQueue(name=f"q-{uuid.uuid4()}")
    await pair[0].start_workflow("T", id=queue.name, task_queue=queue.name)
    await start_activity(pair[0], queue)
    database = await asyncpg.connect(await only_database(postgres_to_stop))

    async def until(asked: str, count: int) -> None:
        async def so_many() -> bool:
            return int(await database.fetchval(asked)) >= count

        await eventually(so_many, 60)

    await database.execute(NO_STANDBY)
    await database.execute("SELECT pg_reload_conf()")
    try:
        await until(WAITING, 1)
        taken = polls(pair[1], queue)
        await until(CLAIMS_WAITING, len(taken))
        await database.execute(CUT_WHO_WAITS)
    finally:
        await database.execute("ALTER SYSTEM RESET synchronous_standby_names")
        await database.execute("SELECT pg_reload_conf()")
        await database.close()
    assert all(await asyncio.gather(*taken))


async def only_database(postgres: PostgresServer) -> str:
    """The address of the one that this test has made."""
    connection = await asyncpg.connect(postgres.url())
    try:
        names = "SELECT datname FROM pg_database WHERE datname LIKE 'test\\_%'"
        return postgres.url(await connection.fetchval(names))
    finally:
        await connection.close()
