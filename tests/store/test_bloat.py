"""Tables on PostgreSQL stay bounded: what is deleted makes room for what comes.

Workflows are started, completed and deleted, over and over; autovacuum runs as PostgreSQL runs it, only more
often. SOAK_SECONDS=600 goes on for as long.
"""

import asyncio
import os
import time
import uuid
from collections.abc import Iterator
from datetime import timedelta

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
ROUNDS_MIN = 6
FILLED_AFTER = 3
"""After so many rounds the tables have the size that they need."""
WORKFLOWS = 60
PAYLOAD = "x" * 2000
GROWTH_MAX = 1.5
SMALL_BYTES = 256 * 1024
"""Tables below this are a few pages, which come and go."""
DEAD_ROWS_MAX = 3 * WORKFLOWS


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
def vacuumed() -> Iterator[PostgresServer]:
    """A cluster that looks for dead rows every second."""
    server = PostgresServer(settings="autovacuum_naptime = 1").create().start()
    yield server
    server.remove()


async def live_and_die(client: Client, queue: str) -> None:
    """Workflows come, complete and are deleted."""

    async def one() -> None:
        handle = await client.start_workflow(
            Echo.run, PAYLOAD, id=str(uuid.uuid4()), task_queue=queue
        )
        assert await handle.result() == PAYLOAD
        execution = common.WorkflowExecution(
            workflow_id=handle.id, run_id=handle.first_execution_run_id or ""
        )
        await client.workflow_service.delete_workflow_execution(
            ws.DeleteWorkflowExecutionRequest(namespace="default", workflow_execution=execution)
        )

    await asyncio.gather(*(one() for _ in range(WORKFLOWS)))


async def sizes_when_clean(url: str) -> dict[str, int]:
    """The sizes of the tables once autovacuum has been there."""

    async def clean() -> bool:
        return all(int(str(row["dead_rows"])) <= DEAD_ROWS_MAX for row in await tables(url))

    try:
        await eventually(clean, seconds=25)
    except TimeoutError:
        for row in await tables(url):
            print("DEAD", dict(row))
    return {str(row["name"]): int(str(row["stored_bytes"])) for row in await tables(url)}


async def test_tables_stay_bounded(vacuumed: PostgresServer) -> None:
    url, queue = vacuumed.database(), str(uuid.uuid4())
    sizes: list[dict[str, int]] = []
    began = time.monotonic()
    async with Server(store=url, port=0) as server:
        client = await Client.connect(server.address)
        runner = UnsandboxedWorkflowRunner()
        async with Worker(
            client, task_queue=queue, workflows=[Echo], activities=[echo], workflow_runner=runner
        ):
            while len(sizes) < ROUNDS_MIN or time.monotonic() - began < SOAK_S:
                await live_and_die(client, queue)
                sizes.append(await sizes_when_clean(url))
    for each in sizes:
        print({k: v // 1024 for k, v in each.items()})
    filled, last = sizes[FILLED_AFTER - 1], sizes[-1]
    grown = {
        name: (filled[name], size)
        for name, size in last.items()
        if size > max(GROWTH_MAX * filled[name], SMALL_BYTES)
    }
    assert not grown, f"(bytes after {FILLED_AFTER} rounds, after {len(sizes)}): {grown}"
