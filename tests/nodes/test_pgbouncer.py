"""Servers behind PgBouncer in transaction mode: statements of one server go over many connections, and only
listening goes past it. It needs `pgbouncer`: see `make test-pgbouncer`."""

import asyncio
import os
import pwd
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import asyncpg
import pytest
from temporalio.client import Client
from temporalio.worker import Worker

from durably import Server
from durably.config import Config
from durably.store.postgres_rounds import CONNECTIONS_MAX
from tests.crash.workflows import TASK_QUEUE, Half, Mixed, add, expected
from tests.postgres import PostgresServer
from tests.processes import free_port, wait_for_port

pytestmark = [pytest.mark.pgbouncer, pytest.mark.timeout(300)]

RUNS = 20
KEPT = 3
SIGNALS = 200
SETTINGS = """
[databases]
* = host=127.0.0.1 port={server}
[pgbouncer]
listen_addr = 127.0.0.1
listen_port = {port}
unix_socket_dir =
pool_mode = transaction
default_pool_size = {kept}
auth_type = trust
auth_file = {folder}/roles
"""


@pytest.fixture
def pooled(postgres: PostgresServer) -> Iterator[tuple[str, str]]:
    """The addresses of one database: through PgBouncer, which keeps three connections, and past it."""
    url, port = postgres.database(), free_port()
    folder = Path(tempfile.mkdtemp(prefix="durably-pgbouncer-"))
    folder.chmod(0o755)  # It does not run as root.
    (folder / "roles").write_text('"durably" ""\n')
    settings = folder / "pgbouncer.ini"
    settings.write_text(SETTINGS.format(kept=KEPT, server=postgres.port, port=port, folder=folder))
    account = ("--user", pwd.getpwnam("nobody").pw_name) if os.getuid() == 0 else ()
    program = shutil.which("pgbouncer") or "/usr/sbin/pgbouncer"
    process = subprocess.Popen([program, "-q", *account, str(settings)])
    try:
        wait_for_port(port, process)
        yield url.replace(f":{postgres.port}/", f":{port}/"), url
    finally:
        process.terminate()
        process.wait(30)
        shutil.rmtree(folder)


def settings(pooled: tuple[str, str]) -> Config:
    through, past = pooled
    return Config(
        store=through,
        port=0,
        postgres_listen=past,
        postgres_prepared_statements=0,
        node_beat_s=0.5,
    )


async def test_two_servers_work_behind_it(pooled: tuple[str, str]) -> None:
    config = settings(pooled)
    async with Server(config) as one, Server(config) as other:
        clients = [await Client.connect(server.address) for server in (one, other)]
        async with Worker(
            clients[0], task_queue=TASK_QUEUE, workflows=[Mixed, Half], activities=[add]
        ):
            await asyncio.gather(*(life(clients, number) for number in range(RUNS)))
        count = (await clients[1].count_workflows("ExecutionStatus = 'Completed'")).count
        assert count >= RUNS
        # Those that listen go past it, and those that wait for turns.
        assert await connections(pooled[1]) <= KEPT + 2 * (1 + CONNECTIONS_MAX)


async def test_they_take_turns_past_it(pooled: tuple[str, str]) -> None:
    """All signals to one workflow arrive, though few connections are there to write them."""
    config = settings(pooled)
    async with Server(config) as one, Server(config) as other:
        clients = [await Client.connect(server.address) for server in (one, other)]
        handle = await clients[0].start_workflow("box", id="box", task_queue=TASK_QUEUE)
        boxes = [client.get_workflow_handle("box") for client in clients]

        async def send(number: int) -> None:
            await boxes[number % 2].signal("put", number)

        await asyncio.gather(*(send(number) for number in range(SIGNALS)))
        history = await handle.fetch_history()
        sent = [
            each.workflow_execution_signaled_event_attributes.input.payloads[0].data
            for each in history.events
            if each.HasField("workflow_execution_signaled_event_attributes")
        ]
        assert sorted(map(int, sent)) == list(range(SIGNALS))


async def life(clients: list[Client], number: int) -> None:
    """Started at one server, signalled at both, waited for at the other."""
    handle = await clients[number % 2].start_workflow(
        Mixed.run, number, id=f"w{number}", task_queue=TASK_QUEUE
    )
    for index in range(3):
        at = clients[(number + index) % 2].get_workflow_handle(handle.id)
        await at.signal("give", number * 10 + index)
    assert await clients[1 - number % 2].get_workflow_handle(handle.id).result() == expected(number)


async def connections(url: str) -> int:
    """How many connections the database has, but this one."""
    connection = await asyncpg.connect(url)
    count = await connection.fetchval(
        "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database()"
        " AND backend_type = 'client backend' AND pid <> pg_backend_pid()"
    )
    await connection.close()
    return int(count)
