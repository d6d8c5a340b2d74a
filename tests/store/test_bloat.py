"""Tables on PostgreSQL stay bounded: what is deleted makes room for what comes.

Workflows are started, completed and deleted, over and over, and what the tables take at their fullest stays the
same. In a test run dead rows are vacuumed after each round by the test, so that nothing hangs on when it
happens; `make soak` goes on for SOAK_SECONDS and leaves it to autovacuum, as tables and settings have it.
"""

import asyncio
import os
import time
import uuid
from collections.abc import Iterator
from datetime import timedelta

import asyncpg
import pytest
from temporalio import activity, workflow
from temporalio.api.common.v1 import message_pb2 as common
from temporalio.api.workflowservice.v1 import request_response_pb2 as ws
from temporalio.client import Client
from temporalio.worker import UnsandboxedWorkflowRunner, Worker

from bench.cluster import tables
from durably import Server
from tests.conftest import eventually
from tests.postgres import PostgresServer

SOAK_S = float(os.environ.get("SOAK_SECONDS", "0"))
ROUNDS_MIN = 5 if not SOAK_S else 40
FILLED_AFTER = 2 if not SOAK_S else 20
"""After so many rounds the tables have the size that they need."""
WORKFLOWS = 30
PAYLOAD_BYTES = 2000
GROWTH_MAX = 1.5
SMALL_BYTES = 384 * 1024
"""Tables below this are a few pages, which come and go."""
ROOM_BYTES = SMALL_BYTES if not SOAK_S else 2 * 1024 * 1024
"""How much room autovacuum may leave while it comes and goes; a soak writes many times that."""


@activity.defn
async def echo(text: str) -> str:
    return text


@workflow.defn
class Echo:
    @workflow.run
    async def run(self, text: str) -> str:
        return await workflow.execute_activity(
            echo, text, start_to_close_timeout=timedelta(seconds=60)
        )


@pytest.fixture
def cluster() -> Iterator[PostgresServer]:
    """One of its own: its settings are not those of other tests."""
    settings = "autovacuum_naptime = 1" if SOAK_S else "autovacuum = off"
    server = PostgresServer(settings=settings).create().start()
    yield server
    server.remove()


async def live_and_die(client: Client, queue: str) -> None:
    """Workflows come, complete and are deleted."""

    async def one() -> None:
        # Random, for what repeats itself is stored small.
        payload = os.urandom(PAYLOAD_BYTES // 2).hex()
        handle = await client.start_workflow(
            Echo.run, payload, id=str(uuid.uuid4()), task_queue=queue
        )
        assert await handle.result() == payload
        execution = common.WorkflowExecution(
            workflow_id=handle.id, run_id=handle.first_execution_run_id or ""
        )
        await client.workflow_service.delete_workflow_execution(
            ws.DeleteWorkflowExecutionRequest(namespace="default", workflow_execution=execution)
        )

    await asyncio.gather(*(one() for _ in range(WORKFLOWS)))


async def executions(url: str) -> int:
    """How many there are, of whatever kind."""
    connection = await asyncpg.connect(url)
    try:
        return int(await connection.fetchval("SELECT count(*) FROM executions"))
    finally:
        await connection.close()


async def sizes(url: str) -> dict[str, int]:
    return {str(row["name"]): int(str(row["stored_bytes"])) for row in await tables(url)}


async def test_tables_stay_bounded(cluster: PostgresServer) -> None:
    url, queue = cluster.database(), str(uuid.uuid4())
    fullest: list[dict[str, int]] = []
    began = time.monotonic()
    async with Server(store=url, port=0) as server:
        client = await Client.connect(server.address)
        runner = UnsandboxedWorkflowRunner()
        before = await executions(url)

        async def all_deleted() -> bool:
            return await executions(url) <= before

        async with Worker(
            client, task_queue=queue, workflows=[Echo], activities=[echo], workflow_runner=runner
        ):
            while len(fullest) < ROUNDS_MIN or time.monotonic() - began < SOAK_S:
                await live_and_die(client, queue)
                await eventually(all_deleted, seconds=60)
                fullest.append(await sizes(url))
                if not SOAK_S:
                    cluster.execute("VACUUM", url.rpartition("/")[2])
    filled, last = fullest[FILLED_AFTER - 1], fullest[-1]
    for name in sorted(last):
        print(name, *(size[name] for size in fullest[:: max(1, len(fullest) // 12)]), last[name])
    grown = {
        name: (filled[name], size)
        for name, size in last.items()
        if size > max(GROWTH_MAX * filled[name], ROOM_BYTES)
    }
    assert max(last.values()) > SMALL_BYTES, "nothing was large enough to see it grow"
    assert not grown, f"(bytes after {FILLED_AFTER} rounds, after {len(fullest)}): {grown}"
