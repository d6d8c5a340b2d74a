"""The command line with PostgreSQL: several servers behind one port, migrations, moving a store."""

import asyncio
import contextlib
import os
import signal
import subprocess
import sys
import uuid
from collections.abc import Iterator
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any

import asyncpg
import psutil
import pytest
from temporalio import activity, workflow
from temporalio.api.enums.v1 import EventType
from temporalio.api.workflowservice.v1 import request_response_pb2 as ws
from temporalio.client import Client
from temporalio.common import RetryPolicy
from temporalio.service import RPCError, RPCStatusCode
from temporalio.worker import UnsandboxedWorkflowRunner, Worker

from durably import Server
from durably.config import Config
from durably.store.copying import TABLES
from durably.store.opening import open_store
from durably.store.postgres_schema import migrate_database
from durably.store.shards import Shards
from durably.store.store import StoreTooOld
from tests.cli.test_serve import durably
from tests.conftest import eventually
from tests.crash import rules
from tests.crash.test_kill import WorkerProcess
from tests.crash.worker import connect
from tests.crash.workflows import TASK_QUEUE, Half, Mixed, add, expected
from tests.postgres import PostgresServer
from tests.processes import free_port
from tests.stores import dump


@pytest.fixture
def fleet(postgres: PostgresServer, tmp_path: Path) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """Three servers behind one port; the parent process and the address."""
    address = f"127.0.0.1:{free_port()}"
    command = [sys.executable, "-m", "durably.cli", "serve", "--workers", "3"]
    options = ["--store", postgres.database(), "--port", address.split(":")[1]]
    process = subprocess.Popen(
        [*command, *options, "--set", "node_beat_s=0.5"],
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONUNBUFFERED": "1"},
    )
    try:
        assert process.stdout is not None
        assert address in process.stdout.readline()
        yield process, address
    finally:
        process.kill()
        process.wait()
        process.stdout.close()


def members(process: "subprocess.Popen[str]") -> list[psutil.Process]:
    """The servers among its children."""
    return [each for each in psutil.Process(process.pid).children() if serves(each)]


def serves(process: psutil.Process) -> bool:
    """One that has ended has no command line any more."""
    try:
        return "spawn_main" in " ".join(process.cmdline())
    except (psutil.NoSuchProcess, psutil.ZombieProcess):
        return False


async def test_several_servers_behind_one_port(fleet: tuple[subprocess.Popen[str], str]) -> None:
    process, address = fleet
    clients = [await Client.connect(address) for _ in range(6)]
    worker = Worker(clients[0], task_queue=TASK_QUEUE, workflows=[Mixed, Half], activities=[add])
    async with worker:
        for number, client in enumerate(clients):
            await client.start_workflow(Mixed.run, number, id=f"w{number}", task_queue=TASK_QUEUE)
        for index in range(3):
            for number in range(len(clients)):
                handle = clients[(number + index) % len(clients)].get_workflow_handle(f"w{number}")
                await handle.signal("give", number * 10 + index)
        for number, client in enumerate(reversed(clients)):
            assert await client.get_workflow_handle(f"w{number}").result() == expected(number)
    before = members(process)
    assert len(before) == 3
    before[0].kill()

    async def again() -> bool:
        now = members(process)
        return len(now) == 3 and before[0].pid not in {each.pid for each in now}

    await eventually(again)
    client = await connect(address)
    assert await client.get_workflow_handle("w1").result() == expected(1)
    process.send_signal(signal.SIGTERM)
    assert await asyncio.to_thread(process.wait, 30) == 0
    assert not any(each.is_running() for each in before)


async def test_the_servers_end_with_their_parent(fleet: tuple[subprocess.Popen[str], str]) -> None:
    process, _ = fleet
    servers = members(process)
    process.kill()

    async def gone() -> bool:
        return not any(each.is_running() for each in servers)

    await eventually(gone)


def test_a_store_that_cannot_be_shared_is_refused(tmp_path: Path) -> None:
    ended = durably("serve", "--workers", "2", folder=tmp_path)
    assert ended.returncode == 2
    assert "postgresql://" in ended.stderr


def test_what_is_wrong_with_the_database_is_one_line(
    postgres: PostgresServer, tmp_path: Path
) -> None:
    """And no line says a password."""
    url = postgres.database(1)
    role, name = f"reader_{uuid.uuid4().hex}", url.rsplit("/", 1)[1]
    postgres.execute(f"CREATE ROLE {role} LOGIN; GRANT pg_read_all_data TO {role}", name)
    assert "Done" in durably("migrate", "--store", url, folder=tmp_path).stdout
    for wrong, reason, workers in (
        (url.replace("durably@", "durably:secret/a@"), "is no address of PostgreSQL", 1),
        (postgres.url(name, role), "permission denied", 2),
    ):
        place = ("--store", wrong, "--port", "0", "--workers", str(workers))
        ended = durably("serve", *place, folder=tmp_path)
        assert ended.returncode == 1
        assert reason in ended.stderr
        for line in ended.stderr.splitlines():
            assert line.startswith("durably: ")
        assert "secret" not in ended.stderr


def test_migrations_are_shown_and_done(postgres: PostgresServer, tmp_path: Path) -> None:
    url = postgres.database(1)
    assert (
        "Missing: migrations"
        in durably("migrate", "--store", url, "--dry-run", folder=tmp_path).stdout
    )
    assert dump(url) == {}
    assert "Done: migrations" in durably("migrate", "--store", url, folder=tmp_path).stdout
    assert "Up to date" in durably("migrate", "--store", url, folder=tmp_path).stdout
    postgres.execute("DELETE FROM schema_version", url.rsplit("/", 1)[1])
    postgres.execute("INSERT INTO schema_version VALUES (1)", url.rsplit("/", 1)[1])
    ended = durably("serve", "--store", url, "--port", "0", folder=tmp_path)
    assert ended.returncode == 1
    assert "durably migrate --store" in ended.stderr
    file = f"sqlite:///{tmp_path}/s.db"
    assert "Missing" in durably("migrate", "--store", file, "--dry-run", folder=tmp_path).stdout
    assert "Done" in durably("migrate", "--store", file, folder=tmp_path).stdout
    assert "Up to date" in durably("migrate", "--store", file, folder=tmp_path).stdout


@pytest.mark.parametrize("shards", [1, 8])
async def test_a_store_moves_with_its_open_workflows(
    postgres: PostgresServer, tmp_path: Path, shards: int
) -> None:
    source, target = f"sqlite:///{tmp_path}/s.db", postgres.database(shards)
    runs = 8
    async with Server(store=source, port=0) as server:
        client = await Client.connect(server.address)
        for number in range(runs):
            await client.start_workflow(
                Mixed.run,
                number,
                id=f"w{number}",
                task_queue=TASK_QUEUE,
                task_timeout=timedelta(seconds=2),
            )
        with killed_worker(server.address, tmp_path / "worker.log"):
            for number in range(runs):
                await client.get_workflow_handle(f"w{number}").signal("give", number * 10)
                await eventually(partial(has_begun, client, f"w{number}"))
        await client.get_workflow_handle("w1").signal("give", 11)
    before = dump(source)
    ended = await asyncio.to_thread(
        durably, "copy", "--from", source, "--to", target, folder=tmp_path
    )
    assert ended.returncode == 0, ended.stderr
    after = dump(target)
    for table in TABLES:
        if table != "metadata":
            assert len(after[table]) == len(before[table]), table
    assert {row[0] for row in after["metadata"]} >= {row[0] for row in before["metadata"]}
    assert (len({row[0] for row in after["executions"]}) > 1) == (shards > 1)
    check_shards(after, Shards(shards))
    ids, old = ({row[1] for row in tables["executions"]} for tables in (after, before))
    assert ids == old if shards == 1 else not ids & old
    async with Server(store=target, port=0) as server:
        client = await Client.connect(server.address)
        assert (await client.count_workflows("ExecutionStatus = 'Running'")).count >= runs
        for number in range(runs):
            for index in range(2 if number == 1 else 1, 3):
                handle = client.get_workflow_handle(f"w{number}")
                await handle.signal("give", number * 10 + index)
        async with Worker(client, task_queue=TASK_QUEUE, workflows=[Mixed, Half], activities=[add]):
            for number in range(runs):
                handle = client.get_workflow_handle(f"w{number}")
                assert await handle.result() == expected(number)
    rules.check_tables(dump(target))
    again = await asyncio.to_thread(
        durably, "copy", "--from", source, "--to", target, folder=tmp_path
    )
    assert again.returncode == 1
    assert "not empty" in again.stderr


@contextlib.contextmanager
def killed_worker(address: str, log: Path) -> Iterator[None]:
    """A worker in a process of its own, which has no time to end what it has."""
    worker = WorkerProcess(address, log)
    worker.start()
    try:
        yield
    finally:
        worker.kill()


async def has_begun(client: Client, workflow_id: str) -> bool:
    """Whether a worker has ended its first activity."""
    history = await client.get_workflow_handle(workflow_id).fetch_history()
    return any(
        event.event_type == EventType.EVENT_TYPE_ACTIVITY_TASK_COMPLETED for event in history.events
    )


def check_shards(tables: dict[str, list[tuple[Any, ...]]], shards: Shards) -> None:
    """All that is stored of an execution lies where its workflow id belongs, and its id says so."""
    for shard, execution_id, _, namespace_id, workflow_id, *_ in tables["executions"]:
        assert shard == shards.of_workflow(namespace_id, workflow_id) == shards.of_id(execution_id)
    known = {(row[0], row[1]) for row in tables["executions"]}
    for table in ("journal", "snapshots", "heartbeats", "visibility"):
        assert {(row[0], row[1]) for row in tables[table]} <= known, table
    assert {(row[0], row[4]) for row in tables["current_runs"]} <= known
    assert {(row[0], row[5]) for row in tables["tasks"]} <= known
    assert all(row[0] == shards.of_id(row[1]) for row in tables["tasks"])


@activity.defn
async def answered_later() -> str:
    activity.raise_complete_async()


@workflow.defn
class Asking:
    @workflow.run
    async def run(self) -> str:
        return await workflow.execute_activity(
            answered_later,
            start_to_close_timeout=timedelta(hours=1),
            retry_policy=RetryPolicy(maximum_attempts=1),
        )


@pytest.mark.parametrize("shards", [1, 8])
async def test_attempts_that_are_out_end_in_the_copy(
    postgres: PostgresServer, tmp_path: Path, shards: int
) -> None:
    """The tokens of many alike: none is taken for another's, whatever their executions' ids are now."""
    source, target = f"sqlite:///{tmp_path}/s.db", postgres.database(shards)
    names = [f"w{number}" for number in range(12)]
    async with Server(store=source, port=0) as server:
        client = await Client.connect(server.address)
        worker = Worker(
            client, task_queue="q", workflows=[Asking], workflow_runner=UnsandboxedWorkflowRunner()
        )
        async with worker:
            for name in names:
                await client.start_workflow(Asking.run, id=name, task_queue="q")
            poll = ws.PollActivityTaskQueueRequest(namespace="default")
            poll.task_queue.name = "q"
            tasks = [await client.workflow_service.poll_activity_task_queue(poll) for _ in names]
    ended = await asyncio.to_thread(
        durably, "copy", "--from", source, "--to", target, folder=tmp_path
    )
    assert ended.returncode == 0, ended.stderr
    async with Server(store=target, port=0) as server:
        client = await Client.connect(server.address)
        for task in tasks:
            handle = client.get_async_activity_handle(task_token=task.task_token)
            await handle.heartbeat("still here")
            await handle.complete(task.workflow_execution.workflow_id)
            with pytest.raises(RPCError) as refused:
                await handle.complete("twice")
            assert refused.value.status == RPCStatusCode.NOT_FOUND
        async with Worker(
            client, task_queue="q", workflows=[Asking], workflow_runner=UnsandboxedWorkflowRunner()
        ):
            results = [await client.get_workflow_handle(name).result() for name in names]
    assert results == names


def test_the_shards_of_a_store_are_fixed(postgres: PostgresServer, tmp_path: Path) -> None:
    url = postgres.database(1)

    def migrate(shards: int, store: str = url) -> "subprocess.CompletedProcess[str]":
        return durably("migrate", "--store", store, "--shards", str(shards), folder=tmp_path)

    assert "Done: migrations" in migrate(64).stdout
    ended = migrate(32)
    assert ended.returncode == 1
    assert "this store has 64 shards, and keeps that number" in ended.stderr
    assert "--store postgresql://" in migrate(2, f"sqlite:///{tmp_path}/s.db").stderr


async def test_a_role_that_may_only_write_rows_serves(
    postgres: PostgresServer, tmp_path: Path
) -> None:
    url = postgres.database(1)
    name, role = url.rsplit("/", 1)[1], f"serving_{uuid.uuid4().hex}"
    page = (Path(__file__).parents[2] / "docs/operations.md").read_text()
    grants = next(b for b in page.split("```") if b.startswith("sql\nCREATE ROLE durably_serving"))
    postgres.execute("REVOKE CREATE ON SCHEMA public FROM PUBLIC", name)
    postgres.execute(grants.removeprefix("sql").replace("durably_serving", role), name)
    serving = postgres.url(name, role)
    with pytest.raises(StoreTooOld, match=r"durably migrate --store .* with a role that may"):
        await open_store(serving, Config())
    await migrate_database(url, Config())
    async with Server(store=serving, port=0) as server:
        client = await Client.connect(server.address)
        async with Worker(client, task_queue=TASK_QUEUE, workflows=[Mixed, Half], activities=[add]):
            handle = await client.start_workflow(Mixed.run, 1, id="w1", task_queue=TASK_QUEUE)
            for number in (10, 11, 12):
                await handle.signal("give", number)
            assert await handle.result() == expected(1)
        assert (await client.count_workflows()).count > 0
    connection = await asyncpg.connect(serving)
    with pytest.raises(asyncpg.InsufficientPrivilegeError):
        await connection.execute("CREATE TABLE more (id BIGINT)")
    with pytest.raises(asyncpg.InsufficientPrivilegeError):
        await connection.execute("DROP TABLE executions")
    await connection.close()
    postgres.execute("DELETE FROM schema_version WHERE version > 4", name)
    with pytest.raises(StoreTooOld, match="run `durably migrate"):
        await open_store(serving, Config())
    postgres.execute(f"REVOKE SELECT ON schema_version FROM {role}", name)
    blind = await asyncio.to_thread(
        durably, "serve", "--port", "0", "--store", serving, folder=tmp_path
    )
    assert blind.returncode == 1
    assert "grant this role what docs/operations.md says" in blind.stderr
