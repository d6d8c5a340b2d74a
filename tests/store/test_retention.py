"""Closed executions are deleted when their namespace's retention is over; open ones never are."""

import asyncio
import time
from datetime import timedelta

import pytest
from google.protobuf.duration_pb2 import Duration
from temporalio.api.workflowservice.v1 import request_response_pb2 as ws
from temporalio.client import Client
from temporalio.service import RPCError, RPCStatusCode

from durably import Server
from tests.conftest import eventually
from tests.stores import dump

HOUR_NS = 3600 * 1_000_000_000


class Clock:
    """The machine's time, and what a test has added to it."""

    def __init__(self) -> None:
        self.ahead_ns = 0

    def __call__(self) -> int:
        return time.time_ns() + self.ahead_ns


def rows(url: str, run_id: str) -> dict[str, int]:
    """How many rows of each table belong to a run, or are keyed by its execution."""
    tables = dump(url)
    for row in tables["executions"]:
        KNOWN.setdefault(row[5], row[1])
    return {
        table: sum(KNOWN[run_id] in row[:9] for row in found) for table, found in tables.items()
    }


KNOWN: dict[str, int] = {}
"""Execution ids by run id: the store forgets a deleted run."""


async def listed(client: Client) -> set[str]:
    return {found.id async for found in client.list_workflows("")}


async def polled(client: Client, queue: str) -> bytes:
    """The token of the task that a worker gets; none when the server ends the poll."""
    request = ws.PollWorkflowTaskQueueRequest(namespace=client.namespace, identity="w")
    request.task_queue.name = queue
    try:
        reply = await client.workflow_service.poll_workflow_task_queue(
            request, timeout=timedelta(seconds=1)
        )
    except RPCError:
        return b""
    return reply.task_token


async def test_closed_executions_go_after_their_retention(store_url: str) -> None:
    clock = Clock()
    async with Server(
        store=store_url, port=0, clock=clock, deadline_sweep_interval_s=0.05
    ) as server:
        system = await Client.connect(server.address)
        await system.workflow_service.register_namespace(
            ws.RegisterNamespaceRequest(
                namespace="brief", workflow_execution_retention_period=Duration(seconds=7200)
            )
        )
        client = await Client.connect(server.address, namespace="brief")
        closed = await client.start_workflow("Any", id="closed", task_queue="left")
        await closed.terminate()
        opened = await client.start_workflow("Any", id="open", task_queue="q")
        gone, kept = closed.result_run_id or "", opened.result_run_id or ""
        assert rows(store_url, gone)["journal"] > 0

        clock.ahead_ns = 2 * HOUR_NS - 60 * 1_000_000_000
        await asyncio.sleep(0.2)  # several sweeps, none of which may delete
        assert await listed(client) == {"closed", "open"}

        clock.ahead_ns = 2 * HOUR_NS + 60 * 1_000_000_000

        async def only_the_open_one() -> bool:
            return await listed(client) == {"open"}

        await eventually(only_the_open_one)
        assert (await client.count_workflows("")).count == 1
        for ask in (closed.describe, closed.fetch_history):
            with pytest.raises(RPCError) as refused:
                await ask()
            assert refused.value.status is RPCStatusCode.NOT_FOUND
        assert {table for table, count in rows(store_url, gone).items() if count} == set()
        assert not await polled(client, "left")
        assert {table for table, count in rows(store_url, gone).items() if count} == set()

        clock.ahead_ns += int(timedelta(days=365).total_seconds()) * 1_000_000_000
        await asyncio.sleep(0.2)
        assert await listed(client) == {"open"}
        assert rows(store_url, kept)["journal"] > 0
