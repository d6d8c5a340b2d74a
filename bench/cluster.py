"""PostgreSQL as a thing to measure: what it has used and written so far, and what the difference is.

Rule 1: CPU is that of all processes of the cluster, also of those that have ended.
Rule 2: it waits for the disk as in production: fsync is on.
Rule 3: whoever counts is connected to another database than the one that is counted.
"""

import asyncio
import operator
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from typing import Self

import asyncpg
import httpx
import psutil  # type: ignore[import-untyped]
from prometheus_client.parser import text_string_to_metric_families

from tests.citus.cluster import CitusCluster
from tests.postgres import PostgresServer

SETTINGS = """
shared_buffers = 256MB
max_wal_size = 4GB
"""
# A connection that idles tells its counts after 10 s; one that works tells them every second.
COUNTS_ARE_TOLD_S = 11.0

COUNTERS = """SELECT pg_current_wal_lsn() - '0/0'::pg_lsn AS wal_bytes,
        (SELECT wal_fpi FROM pg_stat_wal) AS wal_pages,
        pg_snapshot_xmax(pg_current_snapshot())::text::bigint AS writing_transactions,
        xact_commit + xact_rollback AS transactions, pg_database_size(datname) AS stored_bytes
    FROM pg_stat_database WHERE datname = $1"""
TABLES = """SELECT relname AS name, pg_total_relation_size(relid) AS stored_bytes,
        n_dead_tup AS dead_rows, n_live_tup AS live_rows, n_tup_upd AS updates,
        n_tup_hot_upd AS updates_in_page
    FROM pg_stat_user_tables ORDER BY relname"""


class Amounts:
    """The base of what is counted: frozen dataclasses of numbers alone."""

    def __add__(self, other: Self) -> Self:
        return self._each(other, operator.add)

    def since(self, before: Self) -> Self:
        return self._each(before, operator.sub)

    def _each(self, other: Self, combine: Callable[[float, float], float]) -> Self:
        names = [field.name for field in fields(self)]  # type: ignore[arg-type]
        return type(self)(*(combine(getattr(self, n), getattr(other, n)) for n in names))


@dataclass(frozen=True, slots=True)
class Counters(Amounts):
    """So far. `wal_pages`: pages that the log has whole, once after each checkpoint."""

    cpu_s: float = 0.0
    wal_bytes: float = 0.0
    wal_pages: float = 0.0
    writing_transactions: float = 0.0
    transactions: float = 0.0
    stored_bytes: float = 0.0


@dataclass(frozen=True, slots=True)
class Commits(Amounts):
    """What servers say of their commits: groups, transitions in them, transitions that lost a race."""

    groups: float = 0.0
    transitions: float = 0.0
    conflicts: float = 0.0


def created() -> PostgresServer:
    """A cluster of its own, started."""
    return PostgresServer(fsync=True, settings=SETTINGS).create().start()


def machines(cluster: PostgresServer) -> list[PostgresServer]:
    """Itself, and with Citus its workers."""
    return [cluster, *cluster.workers] if isinstance(cluster, CitusCluster) else [cluster]


def cpu_s(cluster: PostgresServer) -> float:
    """Of all its machines."""
    return sum(_cpu_s(machine) for machine in machines(cluster))


def _cpu_s(machine: PostgresServer) -> float:
    postmaster = psutil.Process(machine.pid)
    times = postmaster.cpu_times()
    found = times.user + times.system + times.children_user + times.children_system
    for child in postmaster.children(recursive=True):
        try:
            times = child.cpu_times()
        except psutil.NoSuchProcess:
            continue  # It ended just now, and is among the postmaster's own.
        found += times.user + times.system
    return float(found)


def name_of(url: str) -> str:
    """Of the database."""
    return url.rpartition("/")[2]


async def counters(cluster: PostgresServer, database: str) -> Counters:
    """Of all its machines together."""
    found = Counters()
    for machine in machines(cluster):
        found += await _counters(machine, database)
    return found


async def _counters(machine: PostgresServer, database: str) -> Counters:
    connection = await asyncpg.connect(machine.url())
    try:
        row = await connection.fetchrow(COUNTERS, database)
    finally:
        await connection.close()
    return Counters(_cpu_s(machine), *map(float, row.values()))


async def tables(url: str) -> list[Mapping[str, object]]:
    """The tables of a database with their sizes, and how they were written."""
    connection = await asyncpg.connect(url)
    try:
        return [dict(row) for row in await connection.fetch(TABLES)]
    finally:
        await connection.close()


async def commits(addresses: list[str]) -> Commits:
    """Of all these servers together, from their /metrics."""
    found = Commits()
    async with httpx.AsyncClient() as client:
        pages = await asyncio.gather(
            *(client.get(f"http://{address}/metrics") for address in addresses)
        )
    for page in pages:
        samples = {
            sample.name: sample.value
            for family in text_string_to_metric_families(page.text)
            for sample in family.samples
            if not sample.labels
        }
        found += Commits(
            samples["durably_commit_seconds_count"],
            samples["durably_commit_units_sum"],
            samples["durably_commit_conflicts_total"],
        )
    return found
