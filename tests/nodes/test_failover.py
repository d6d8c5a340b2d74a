"""Two servers on a PostgreSQL whose machine is lost under load: they go on at its standby by themselves, and
nothing that was acknowledged is missing there."""

import asyncio
import random
from collections.abc import Iterator
from pathlib import Path

import pytest
from temporalio.worker import Replayer, UnsandboxedWorkflowRunner

from tests.crash.test_kill import Run, WorkerProcess, check_history, live
from tests.crash.worker import connect
from tests.crash.workflows import Half, Mixed
from tests.postgres import PostgresServer
from tests.processes import ServerProcess
from tests.store.test_replication import both
from tests.store.test_replication import pair as pair

RUNS_BEFORE = 4
AT_ONCE = 4
SETTINGS = ("--set", "node_beat_s=0.5", "--set", "postgres_unavailable_s=20")


@pytest.fixture
def servers(
    pair: tuple[PostgresServer, PostgresServer], tmp_path: Path
) -> Iterator[list[ServerProcess]]:
    primary, standby = pair
    url = both(primary.database(), primary, standby)
    found = [ServerProcess(url, *SETTINGS, folder=tmp_path) for _ in range(2)]
    worker = WorkerProcess(found[1].address, tmp_path / "worker.log")
    try:
        for process in (*found, worker):
            process.start()
        yield found
    finally:
        for process in (worker, *found):
            process.kill()


@pytest.mark.timeout(300)
async def test_servers_go_on_at_the_standby(
    servers: list[ServerProcess], pair: tuple[PostgresServer, PostgresServer]
) -> None:
    primary, standby = pair
    clients = [await connect(server.address) for server in servers]
    runs: list[Run] = []
    finished = 0
    promoted = asyncio.Event()

    async def one_after_the_other(place: int) -> None:
        nonlocal finished
        over = False
        while not over:
            over = promoted.is_set()
            run = Run(len(runs))
            runs.append(run)
            await live(clients[place % 2], run, random.Random(run.number))
            finished += 1

    load = [asyncio.create_task(one_after_the_other(place)) for place in range(AT_ONCE)]
    while finished < RUNS_BEFORE:  # noqa: ASYNC110  what is waited for is in other processes
        await asyncio.sleep(0.05)
    await asyncio.to_thread(primary.stop, "immediate")
    await asyncio.to_thread(standby.promote)
    promoted.set()
    await asyncio.gather(*load)
    replayer = Replayer(workflows=[Mixed, Half], workflow_runner=UnsandboxedWorkflowRunner())
    for run in runs:
        await check_history(clients[run.number % 2], run, replayer)
    assert (await clients[0].count_workflows()).count == 2 * len(runs)
    for server in servers:
        assert "Traceback" not in server.log.read_text()
        assert server.terminate() == 0
