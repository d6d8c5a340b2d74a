"""The same steps on each system: durably on PostgreSQL, DBOS on the same cluster, Temporal's dev server.

Rule 1: every measurement has a database of its own, and processes of its own, warmed up before it.
Rule 2: what a figure is of differs where systems differ, and is said: DBOS runs within the application;
        the `temporal` CLI knows no PostgreSQL, its dev server writes to an SQLite file of its own.
"""

import asyncio
import json
import subprocess
import sys
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace
from pathlib import Path

from temporalio.client import Client

from bench import cluster
from bench.cluster import Commits, Counters
from bench.loads import IN_FLIGHT, Load, Outcome, workflows_of
from bench.measure import Measurement, measure, percentile
from bench.servers import ROOT, own_cpu_s, temporal_command
from tests.postgres import PostgresServer

STOP_TIMEOUT_S = 30.0


@dataclass(frozen=True, slots=True)
class Work:
    """So many workflows of so many steps each, so many of them at once."""

    name: str
    steps: int
    in_flight: int
    workflows: int

    @property
    def title(self) -> str:
        steps = "1 step" if self.steps == 1 else f"{self.steps} steps"
        pace = "one after another" if self.in_flight == 1 else f"{self.in_flight} at once"
        return f"workflows of {steps}, {pace}"

    def scaled(self, scale: float) -> "Work":
        return replace(self, workflows=max(1, round(self.workflows * scale)))


WORKS = [
    Work("one-step", 1, 1, 200),
    Work("one-step-at-once", 1, IN_FLIGHT, 1000),
    Work("twenty-steps", 20, 1, 20),
    Work("twenty-steps-at-once", 20, IN_FLIGHT, 150),
]


@dataclass(frozen=True, slots=True)
class Figures:
    """What one system did with one work. CPU is in seconds, of all of it; `application_cpu_s` is that of
    what users write and run: worker and client, or with DBOS everything but PostgreSQL."""

    work: Work
    system: str
    actions: int
    seconds: float
    p50_s: float
    p99_s: float
    server_cpu_s: float | None
    application_cpu_s: float
    postgres: Counters | None = None
    commits: Commits | None = None


def durably_on(url: str) -> Callable[[Path, int], list[str]]:
    """The command of a server whose store is a database, not a file."""
    durably = [sys.executable, "-m", "durably.cli", "serve", "--store", url]
    return lambda _, port: [*durably, "--port", str(port)]


async def durably(work: Work, postgres: PostgresServer, settle_s: float) -> Figures:
    url = postgres.database()
    database = cluster.name_of(url)
    found: list[tuple[Counters, Commits]] = []

    async def settle(_: Client, workflows: int) -> int:
        await asyncio.sleep(settle_s)
        return workflows

    async def run(client: Client, workflows: int) -> Outcome:
        address = client.service_client.config.target_host
        found.append(await _counted(postgres, database, [address]))
        outcome = await workflows_of(client, workflows, work.steps, work.in_flight)
        found.append(await _counted(postgres, database, [address]))
        return outcome

    load = Load(work.name, work.title, "workflow", work.workflows, run, prepare=settle)
    measured = await measure(load, "durably", durably_on(url), scale=1)
    last = await cluster.counters(postgres, database)
    (before, commits_before), (after, commits_after) = found
    # Its connections are gone, and have told all their counts.
    after = replace(after, transactions=last.transactions)
    return replace(
        _figures(work, measured),
        postgres=after.since(before),
        commits=commits_after.since(commits_before),
    )


async def temporal(work: Work) -> Figures:
    async def run(client: Client, workflows: int) -> Outcome:
        return await workflows_of(client, workflows, work.steps, work.in_flight)

    load = Load(work.name, work.title, "workflow", work.workflows, run)
    return _figures(work, await measure(load, "temporal", temporal_command, scale=1))


def _figures(work: Work, measured: Measurement) -> Figures:
    return Figures(
        work=work,
        system=measured.server,
        actions=measured.actions,
        seconds=measured.seconds,
        p50_s=measured.p50_s,
        p99_s=measured.p99_s,
        server_cpu_s=measured.server_cpu_s * measured.actions,
        application_cpu_s=measured.client_cpu_s * measured.actions,
    )


async def dbos(work: Work, postgres: PostgresServer, settle_s: float, *, queue: bool) -> Figures:
    way = "one by one" if work.in_flight == 1 else "queued" if queue else "at once"
    url = postgres.database()
    application = _Application(url, way, work)
    try:
        await application.line()
        await asyncio.sleep(settle_s)
        before, cpu_before_s = (
            await cluster.counters(postgres, cluster.name_of(url)),
            application.cpu_s(),
        )
        application.go_on()
        outcome = Outcome(**json.loads(await application.line()))
        after, cpu_after_s = (
            await cluster.counters(postgres, cluster.name_of(url)),
            application.cpu_s(),
        )
        application.go_on()
        await application.end()
    finally:
        application.kill()
    last = await cluster.counters(postgres, cluster.name_of(url))
    return Figures(
        work=work,
        system="DBOS, queue" if queue else "DBOS",
        actions=outcome.actions,
        seconds=outcome.seconds,
        p50_s=percentile(outcome.latencies_s, 50),
        p99_s=percentile(outcome.latencies_s, 99),
        server_cpu_s=None,
        application_cpu_s=cpu_after_s - cpu_before_s,
        postgres=replace(after, transactions=last.transactions).since(before),
    )


class _Application:
    """The process of bench.dbos_application."""

    def __init__(self, url: str, way: str, work: Work) -> None:
        arguments = [url, way, str(work.steps), str(work.workflows)]
        self._process = subprocess.Popen(
            [sys.executable, "-m", "bench.dbos_application", *arguments],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )

    async def line(self) -> str:
        """Its next line of ours. Raises RuntimeError when it has ended."""
        assert self._process.stdout is not None
        while line := await asyncio.to_thread(self._process.stdout.readline):
            if line.startswith(("ready", "{")):
                return line
        raise RuntimeError(f"the application of DBOS ended with code {self._process.wait()}")

    def go_on(self) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write("\n")
        self._process.stdin.flush()

    def cpu_s(self) -> float:
        return own_cpu_s(self._process.pid)

    async def end(self) -> None:
        await asyncio.to_thread(self._process.wait, STOP_TIMEOUT_S)

    def kill(self) -> None:
        self._process.kill()
        self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout):
            assert pipe is not None
            pipe.close()


async def _counted(
    postgres: PostgresServer, database: str, addresses: list[str]
) -> tuple[Counters, Commits]:
    return await cluster.counters(postgres, database), await cluster.commits(addresses)


Run = Callable[[Work, PostgresServer, float], Awaitable[Figures]]
SYSTEMS: dict[str, Run] = {
    "durably": durably,
    "dbos": lambda *given: dbos(*given, queue=False),
    "dbos-queue": lambda *given: dbos(*given, queue=True),
    "temporal": lambda work, _, __: temporal(work),
}
