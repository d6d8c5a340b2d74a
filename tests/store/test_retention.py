"""Closed executions are deleted when their namespace's retention is over; open ones never are."""

import asyncio
import sqlite3
import time
from datetime import timedelta
from pathlib import Path

import pytest
from google.protobuf.duration_pb2 import Duration
from temporalio.api.workflowservice.v1 import request_response_pb2 as ws
from temporalio.client import Client
from temporalio.service import RPCError, RPCStatusCode

from durably import Server
from tests.conftest import eventually

HOUR_NS = 3600 * 1_000_000_000


class Clock:
    """The machine's time, and what a test has added to it."""

    def __init__(self) -> None:
        self.ahead_ns = 0

    def __call__(self) -> int:
        return time.time_ns() + self.ahead_ns


def rows(path: Path, run_id: str) -> dict[str, int]:
    """How many rows of each table belong to a run, or are keyed by its execution."""
    store = sqlite3.connect(f"file:{path}?mode=ro", uri=True)
    try:
        found = {}
        tables = [
            name
            for (name,) in store.execute(
                "SELECT name FROM sqlite_master WHERE type = 'table' AND name NOT LIKE 'sqlite_%'"
            )
        ]
        for table in tables:
            columns = [row[1] for row in store.execute(f"PRAGMA table_info({table})")]
            if "execution_id" in columns:
                sql = f"SELECT count(*) FROM {table} WHERE execution_id = ?"
                found[table] = store.execute(sql, (execution_id(path, run_id),)).fetchone()[0]
        return found
    finally:
        store.close()


def execution_id(path: Path, run_id: str) -> int:
    store = sqlite3.connect(f"file:{path}?mode=ro", uri=True)
    try:
        sql = "SELECT execution_id FROM executions WHERE run_id = ?"
        found = store.execute(sql, (run_id,)).fetchone()
        return KNOWN.setdefault(run_id, found[0]) if found else KNOWN[run_id]
    finally:
        store.close()


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


async def test_closed_executions_go_after_their_retention(tmp_path: Path) -> None:
    clock, path = Clock(), tmp_path / "store.db"
    async with Server(
        store=f"sqlite:///{path}", port=0, clock=clock, deadline_sweep_interval_s=0.05
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
        assert rows(path, gone)["journal"] > 0

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
        assert {table for table, count in rows(path, gone).items() if count} == set()
        assert not await polled(client, "left")
        assert {table for table, count in rows(path, gone).items() if count} == set()

        clock.ahead_ns += int(timedelta(days=365).total_seconds()) * 1_000_000_000
        await asyncio.sleep(0.2)
        assert await listed(client) == {"open"}
        assert rows(path, kept)["journal"] > 0
