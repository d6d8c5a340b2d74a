"""The same load through one, two and three servers on one PostgreSQL.

Rule 1: each server has a worker and a client of its own; a workflow is started through one server, and
        its result is asked of the next, as behind a balancer.
Rule 2: the load is the same however many servers there are.
"""

import os
import tempfile
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path

from temporalio.client import Client

from bench import cluster
from bench.cluster import Commits, Counters
from bench.loads import Outcome, fresh_id, run_steps, together
from bench.measure import percentile
from bench.servers import BenchServer, Running, own_cpu_s, start_worker
from bench.systems import durably_on
from bench.workflows import TASK_QUEUE, Inbox, Steps
from tests.postgres import PostgresServer

WARM_UP_WORKFLOWS = 10


@dataclass(frozen=True, slots=True)
class Spread:
    """A load over several clients."""

    title: str
    size: int
    run: Callable[[list[Client], int], Awaitable[Outcome]]
    normal: bool = True
    """Whether users have it like this, and the aim for conflicts is for it."""


@dataclass(frozen=True, slots=True)
class NodeFigures:
    """CPU in seconds, of all of it."""

    spread: Spread
    size: int
    nodes: int
    outcome: Outcome
    servers_cpu_s: float
    application_cpu_s: float
    postgres: Counters
    commits: Commits

    @property
    def conflict_rate(self) -> float:
        """Transitions that lost a race, of all that were tried."""
        return self.commits.conflicts / max(1.0, self.commits.transitions)

    @property
    def p50_s(self) -> float:
        return percentile(self.outcome.latencies_s, 50)

    @property
    def p99_s(self) -> float:
        return percentile(self.outcome.latencies_s, 99)


async def _workflows(clients: list[Client], workflows: int, steps: int) -> Outcome:
    async def run(number: int) -> None:
        starts, asks = (clients[(number + turn) % len(clients)] for turn in (0, 1))
        handle = await starts.start_workflow(Steps.run, steps, id=fresh_id(), task_queue=TASK_QUEUE)
        await asks.get_workflow_handle(handle.id, run_id=handle.first_execution_run_id).result()

    began = time.perf_counter()
    latencies_s = await together(workflows, run)
    return Outcome(workflows, workflows * (1 + steps), time.perf_counter() - began, latencies_s)


async def one_step(clients: list[Client], workflows: int) -> Outcome:
    return await _workflows(clients, workflows, 1)


async def twenty_steps(clients: list[Client], workflows: int) -> Outcome:
    return await _workflows(clients, workflows, 20)


async def signals(clients: list[Client], count: int) -> Outcome:
    """All to one workflow, through all servers in turn: the worst there is."""
    began = time.perf_counter()
    started = await clients[0].start_workflow(
        Inbox.run, count, id=fresh_id(), task_queue=TASK_QUEUE
    )

    async def send(number: int) -> None:
        client = clients[number % len(clients)]
        await client.get_workflow_handle(started.id).signal(Inbox.message, number)

    latencies_s = await together(count, send)
    received = await started.result()
    assert received == count, f"{received} signals received of {count}"
    return Outcome(count, 1 + count, time.perf_counter() - began, latencies_s)


SPREADS = {
    "one-step": Spread("workflows of 1 step", 1000, one_step),
    "twenty-steps": Spread("workflows of 20 steps", 150, twenty_steps),
    "signals": Spread("signals to one workflow", 1000, signals, normal=False),
}


async def measure_nodes(
    spread: Spread, nodes: int, postgres: PostgresServer, scale: float
) -> NodeFigures:
    """The load on so many fresh servers that share a fresh database."""
    size = max(1, round(spread.size * scale))
    url = postgres.database()
    with tempfile.TemporaryDirectory(prefix="bench-") as folder:
        servers: list[BenchServer] = []
        workers: list[Running] = []
        try:
            for number in range(nodes):
                servers.append(BenchServer(durably_on(url), Path(folder) / f"{number}.db"))
                # The first one makes the tables.
                await servers[-1].answer()
            clients = [await server.answer() for server in servers]
            for number, server in enumerate(servers):
                workers.append(start_worker(server.address, Path(folder) / f"worker-{number}.log"))
            for client in clients:
                await together(WARM_UP_WORKFLOWS, lambda _, client=client: run_steps(client, 1))  # type: ignore[misc]
            return await _measured(spread, size, url, postgres, clients, servers, workers)
        finally:
            for worker in workers:
                worker.kill()
            for server in servers:
                server.process.stop()


async def _measured(
    spread: Spread,
    size: int,
    url: str,
    postgres: PostgresServer,
    clients: list[Client],
    servers: list[BenchServer],
    workers: list[Running],
) -> NodeFigures:
    database = cluster.name_of(url)
    addresses = [server.address for server in servers]

    def servers_cpu_s() -> float:
        return sum(server.process.usage().cpu_s for server in servers)

    def application_cpu_s() -> float:
        return own_cpu_s(os.getpid()) + sum(own_cpu_s(worker.pid) for worker in workers)

    commits_before = await cluster.commits(addresses)
    counters_before = await cluster.counters(postgres, database)
    servers_before_s, application_before_s = servers_cpu_s(), application_cpu_s()
    outcome = await spread.run(clients, size)
    servers_s = servers_cpu_s() - servers_before_s
    application_s = application_cpu_s() - application_before_s
    counters = (await cluster.counters(postgres, database)).since(counters_before)
    commits = (await cluster.commits(addresses)).since(commits_before)
    return NodeFigures(
        spread, size, len(servers), outcome, servers_s, application_s, counters, commits
    )
