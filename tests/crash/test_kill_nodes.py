"""Three servers on one PostgreSQL, and everything that can happen to them: servers and workers are
killed, servers sleep for longer than every lease and go on, the database dies and comes back, its
connections are cut. Nothing is lost and nothing happens twice.

The seed is printed; `CRASH_SEED=N CRASH_SECONDS=M pytest tests/crash/test_kill_nodes.py` runs the same
plan again, for as long as one likes.
"""

import asyncio
import os
import random
from collections import Counter
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, TypeVar

import pytest
from temporalio.client import Client
from temporalio.service import RPCError
from temporalio.worker import Replayer, UnsandboxedWorkflowRunner

from tests.crash import rules
from tests.crash.test_kill import OUTAGE, Run, WorkerProcess, check_history, send_signal, start_run
from tests.crash.worker import connect
from tests.crash.workflows import SIGNALS, Half, Mixed, expected
from tests.postgres import PostgresServer
from tests.processes import ServerProcess
from tests.stores import dump

NODES = 3
SECONDS = float(os.environ.get("CRASH_SECONDS", "40"))
AT_ONCE = 12
SETTINGS = (
    "node_beat_s=0.5",
    "node_lost_after_s=2",
    "deadline_sweep_interval_s=2",
    "postgres_unavailable_s=20",
)
ASLEEP_S = 4.0
"""Longer than a server may be silent before others take over what it has."""
FAULTS = {"kill": 5, "sleep": 2, "worker": 2, "cut": 2, "database": 1}

R = TypeVar("R")


class Cluster:
    """The servers, their database, and clients of each."""

    def __init__(self, postgres: PostgresServer, folder: Path) -> None:
        self.postgres = postgres
        self.store = postgres.database()
        options = [part for setting in SETTINGS for part in ("--set", setting)]
        self.servers = [ServerProcess(self.store, *options, folder=folder) for _ in range(NODES)]
        self.workers = [
            WorkerProcess(server.address, folder / f"worker-{number}.log")
            for number, server in enumerate(self.servers[:2])
        ]
        self.clients: list[Client] = []

    async def start(self) -> None:
        await asyncio.to_thread(self.servers[0].start)
        await asyncio.gather(*(asyncio.to_thread(server.start) for server in self.servers[1:]))
        self.clients = [await connect(server.address) for server in self.servers]
        for worker in self.workers:
            worker.start()

    def kill(self) -> None:
        for process in (*self.workers, *self.servers):
            process.kill()

    async def anywhere(self, dice: random.Random, call: Callable[[Client], Awaitable[R]]) -> R:
        """Ask one server after the other until one acknowledges."""
        while True:
            try:
                async with asyncio.timeout(10):
                    return await call(dice.choice(self.clients))
            except TimeoutError:
                continue
            except RPCError as error:
                if error.status not in OUTAGE:
                    raise
                await asyncio.sleep(0.05)


async def harm(cluster: Cluster, dice: random.Random) -> Counter[str]:
    """One thing after the other, until the time is over; what was done, and how often."""
    done: Counter[str] = Counter()
    ends = asyncio.get_running_loop().time() + SECONDS
    while asyncio.get_running_loop().time() < ends:
        await asyncio.sleep(0.3 + dice.random() * 1.5)
        (what,) = dice.choices(list(FAULTS), list(FAULTS.values()))
        server, worker = dice.choice(cluster.servers), dice.choice(cluster.workers)
        match what:
            case "kill":
                server.kill()
                await asyncio.sleep(dice.random())
                await asyncio.to_thread(server.start)
            case "sleep":
                server.stop()
                await asyncio.sleep(ASLEEP_S)
                server.go_on()
            case "worker":
                worker.kill()
                worker.start()
            case "cut":
                await asyncio.to_thread(cluster.postgres.cut_connections)
            case "database":
                await asyncio.to_thread(cluster.postgres.stop, "immediate")
                await asyncio.to_thread(cluster.postgres.start)
        done[what] += 1
    return done


async def live(cluster: Cluster, run: Run, dice: random.Random) -> None:
    """One workflow: started, signalled and waited for, each at any server."""
    started = await cluster.anywhere(dice, lambda client: start_run(client, run))
    for index in range(SIGNALS):
        await asyncio.sleep(dice.random() * 0.3)
        await cluster.anywhere(dice, lambda client: send_signal(client, run, index))  # noqa: B023

    async def result(client: Client) -> Any:
        return await client.get_workflow_handle(run.workflow_id, run_id=started).result()

    assert await cluster.anywhere(dice, result) == expected(run.number)


@pytest.mark.timeout(600 + 2 * SECONDS)
async def test_three_nodes_lose_nothing_and_double_nothing(
    postgres_to_stop: PostgresServer, tmp_path: Path
) -> None:
    seed = int(os.environ.get("CRASH_SEED", random.randrange(10**6)))
    print(f"CRASH_SEED={seed}")
    cluster = Cluster(postgres_to_stop, tmp_path)
    runs: list[Run] = []
    try:
        await cluster.start()
        harming = asyncio.create_task(harm(cluster, random.Random(seed)))

        async def one_after_the_other() -> None:
            while not harming.done():
                run = Run(len(runs))
                runs.append(run)
                await live(cluster, run, random.Random(seed + run.number))

        await asyncio.gather(*(one_after_the_other() for _ in range(AT_ONCE)))
        print(f"{len(runs)} workflows; {dict(await harming)}")
        await check(cluster, runs)
    finally:
        cluster.kill()


async def check(cluster: Cluster, runs: list[Run]) -> None:
    """Every history, at any server; and the tables agree with them."""
    replayer = Replayer(workflows=[Mixed, Half], workflow_runner=UnsandboxedWorkflowRunner())
    for run in runs:
        await check_history(cluster.clients[run.number % NODES], run, replayer)
    for client in cluster.clients:
        assert (await client.count_workflows("ExecutionStatus = 'Running'")).count == 0
        assert (await client.count_workflows()).count == 2 * len(runs)
    rules.check_tables(dump(cluster.store))
