"""Shards move to a new worker of Citus while servers, workers of workflows and databases of both sides of
the move die and come back: every history is whole, nothing is lost and nothing happens twice."""

import asyncio
import random
from collections.abc import Iterator
from pathlib import Path

import asyncpg
import pytest

from tests.citus.cluster import CitusCluster, CitusNode, prepare
from tests.conftest import eventually
from tests.crash.test_kill import Run
from tests.crash.test_kill_nodes import Cluster, check, live

pytestmark = [pytest.mark.citus, pytest.mark.timeout(900)]

AT_ONCE = 6
MOVED_S = 400
"""How long the move may take, with all the times that it has to begin again."""


@pytest.fixture
def databases() -> Iterator[CitusCluster]:
    made = CitusCluster(fsync=True, shards=8)
    try:
        yield made.create().start()
    finally:
        made.remove()


@pytest.fixture
def added() -> Iterator[CitusNode]:
    made = CitusNode(fsync=True)
    try:
        yield made.create().start()
    finally:
        made.remove()


async def states(url: str) -> list[str]:
    """Of all moves so far."""
    coordinator = await asyncpg.connect(url)
    try:
        rows = await coordinator.fetch("SELECT state::text FROM pg_dist_background_job")
        return [row[0] for row in rows]
    finally:
        await coordinator.close()


async def places(url: str) -> set[int]:
    """The ports of the databases in which executions lie."""
    coordinator = await asyncpg.connect(url)
    try:
        rows = await coordinator.fetch(
            "SELECT DISTINCT nodeport FROM citus_shards WHERE table_name = 'executions'::regclass"
        )
        return {row[0] for row in rows}
    finally:
        await coordinator.close()


async def move(cluster: Cluster, databases: CitusCluster, added: CitusNode) -> None:
    """Begin the move, and kill one after the other of those that take part before it is over."""
    url = cluster.store
    name = url.rsplit("/", 1)[1]
    await asyncio.to_thread(prepare, added, name)
    await asyncio.to_thread(databases.add, added, name)
    begin = "SELECT citus_rebalance_start(shard_transfer_mode := 'force_logical')"
    await asyncio.to_thread(databases.execute, begin, name)
    for node in (databases.workers[0], added):
        await eventually(lambda: moving(url), 60)
        await asyncio.to_thread(node.stop, "immediate")
        await asyncio.to_thread(cluster.servers[0].kill)
        await asyncio.to_thread(node.start)
        await asyncio.to_thread(cluster.servers[0].start)

    async def over() -> bool:
        """What could not be moved is begun again."""
        now = await states(url)
        if (
            not set(now) & {"scheduled", "running", "failing", "cancelling"}
            and now[-1] != "finished"
        ):
            await asyncio.to_thread(databases.execute, begin, name)
        return now[-1] == "finished"

    await eventually(over, MOVED_S)


async def moving(url: str) -> bool:
    return (await states(url))[-1] in ("running", "finished")


async def test_what_moves_while_databases_die_stays_whole(
    databases: CitusCluster, added: CitusNode, tmp_path: Path
) -> None:
    cluster = await asyncio.to_thread(Cluster, databases, tmp_path)
    dice = random.Random(7)
    runs: list[Run] = []
    try:
        await cluster.start()
        moved = asyncio.create_task(move(cluster, databases, added))

        async def one_after_the_other() -> None:
            while not moved.done() or len(runs) < 2 * AT_ONCE:
                run = Run(len(runs))
                runs.append(run)
                await live(cluster, run, random.Random(dice.random()))

        await asyncio.gather(*(one_after_the_other() for _ in range(AT_ONCE)))
        await moved
        assert added.port in await places(cluster.store)
        await check(cluster, runs)
    finally:
        cluster.kill()
