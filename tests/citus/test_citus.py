"""A store over several databases: where its commits go, and what follows when one of them dies or moves."""

import asyncio
from collections.abc import Iterator

import asyncpg
import pytest

from durably.config import Config
from durably.store.opening import open_store
from durably.store.postgres import PostgresStore
from durably.store.postgres_connections import Connection
from durably.store.store import Commit, NamespaceRow
from tests.citus.cluster import CitusCluster, CitusNode, prepare
from tests.conftest import eventually
from tests.store.test_postgres import acknowledged, check
from tests.store.test_store import visible, write

pytestmark = [pytest.mark.citus, pytest.mark.timeout(600)]

EXECUTIONS = 16


@pytest.fixture
def cluster() -> Iterator[CitusCluster]:
    made = CitusCluster(fsync=True, shards=8)
    try:
        made.create()
        for node in (made, *made.workers):
            node.log_statements()
        yield made.start()
    finally:
        made.remove()


async def opened(url: str, **settings: int) -> PostgresStore:
    store = await open_store(url, Config(postgres_unavailable_s=120.0, **settings))  # type: ignore[arg-type]
    assert isinstance(store, PostgresStore)
    assert store.layout.distributed
    return store


class Load:
    """Commits to all executions, one after the other in each, until it is ended."""

    def __init__(self, store: PostgresStore) -> None:
        self._store = store
        self._over = False
        self._work = [asyncio.create_task(self._write(n)) for n in range(1, EXECUTIONS + 1)]

    async def _write(self, execution_id: int) -> int:
        count = 0
        while not self._over:
            count += await acknowledged(self._store, execution_id, 10)
        return count

    async def goes_on(self) -> None:
        """Until something of each execution was written that was not there."""
        for execution_id in range(1, EXECUTIONS + 1):
            before = await self._version(execution_id)
            await eventually(lambda: self._beyond(execution_id, before), 120)  # noqa: B023

    async def _version(self, execution_id: int) -> int:
        found = await self._store.load(execution_id)
        return found.version if found else 0

    async def _beyond(self, execution_id: int, version: int) -> bool:
        return await self._version(execution_id) > version

    async def end(self) -> None:
        """What was acknowledged is there, and nothing twice."""
        self._over = True
        for number, count in enumerate(await asyncio.gather(*self._work), start=1):
            assert count
            await check(self._store, number, count)


async def test_a_commit_is_one_transaction_at_one_worker(cluster: CitusCluster) -> None:
    store = await opened(await asyncio.to_thread(cluster.database))
    made = [node.log.stat().st_size for node in cluster.workers]
    units = [Commit([write(n, 0, visibility=visible(1, n))]) for n in range(1, EXECUTIONS + 1)]
    await asyncio.gather(*map(store.commit, units))
    again = [Commit([write(n, 1)]) for n in range(1, EXECUTIONS + 1)]
    await asyncio.gather(*map(store.commit, again))
    await asyncio.gather(*(store.delete_execution(n) for n in range(1, EXECUTIONS + 1)))
    written = [node.log.stat().st_size for node in cluster.workers]
    for node, offset in zip(cluster.workers, made, strict=True):
        said = node.statements(offset)
        assert any("SELECT public.write_group" in each for each in said)
        assert any("DELETE FROM public.executions" in each for each in said)
        assert not [each for each in said if "PREPARE TRANSACTION" in each]
        assert not [each for each in said if "statement: BEGIN" in each]
    await store.delete_namespace("of-all-shards")  # The one thing that is: the log would show it.
    await store.close()
    for node, offset in zip(cluster.workers, written, strict=True):
        said = node.statements(offset)
        assert any("PREPARE TRANSACTION" in each for each in said)
        assert any("statement: BEGIN" in each for each in said)


async def test_no_connection_looks_for_shards_to_hide(cluster: CitusCluster) -> None:
    """Where one does, what the driver asks of the catalog takes a second."""
    store = await opened(await asyncio.to_thread(cluster.database))
    found: list[str] = []

    async def look(connection: Connection) -> None:
        found.append(await connection.fetchval("SHOW citus.override_table_visibility"))

    await asyncio.gather(store.reading(look), store.searching(look), store.writer.do(look))
    await store.close()
    assert found == ["off"] * 3


async def test_a_worker_that_dies_is_waited_for(cluster: CitusCluster) -> None:
    store = await opened(await asyncio.to_thread(cluster.database))
    load = Load(store)
    for node in cluster.workers:
        await load.goes_on()
        await asyncio.to_thread(node.stop, "immediate")
        await asyncio.to_thread(node.start)
    await load.goes_on()
    await load.end()
    await store.close()


async def test_a_worker_that_is_down_holds_up_no_commit_of_another(cluster: CitusCluster) -> None:
    """However few connections there are: none waits for it."""
    url = await asyncio.to_thread(cluster.database)
    store = await opened(url, postgres_writing_connections_max=2)
    dead, standing = cluster.workers
    of_dead, of_standing = await lying(url, dead), await lying(url, standing)
    assert len(of_dead) > 2
    await asyncio.gather(*(acknowledged(store, n, 1) for n in (*of_dead, *of_standing)))
    await asyncio.to_thread(dead.stop, "immediate")
    waiting = [store.commit(Commit([write(n, 1)])) for n in of_dead]
    row = NamespaceRow("known", "known", 1, b"")
    async with asyncio.timeout(100):  # Less than the others are tried for.
        for version in range(1, 6):
            units = [Commit([write(n, version)]) for n in of_standing]
            await asyncio.gather(*map(store.commit, units))
        await store.put_namespace(row, 0)
    assert not [each for each in waiting if each.done()]
    assert await store.namespaces() == [row]
    await asyncio.to_thread(dead.start)
    await asyncio.gather(*waiting)
    await store.close()


async def lying(url: str, node: CitusNode) -> list[int]:
    """An execution of each shard that lies at a worker."""
    coordinator = await asyncpg.connect(url)
    rows = await coordinator.fetch(
        """SELECT n FROM generate_series(0, 7) n JOIN citus_shards s
            ON s.shardid = get_shard_id_for_distribution_column('executions', n)
        WHERE s.nodeport = $1""",
        node.port,
    )
    await coordinator.close()
    return [8 + row[0] for row in rows]


async def test_shards_move_to_a_new_worker_under_load(cluster: CitusCluster) -> None:
    url = await asyncio.to_thread(cluster.database)
    name = url.rsplit("/", 1)[1]
    store = await opened(url)
    load = Load(store)
    await load.goes_on()
    added = CitusNode(fsync=True)
    coordinator = await asyncpg.connect(url)
    try:
        await asyncio.to_thread(lambda: added.create().start())
        await asyncio.to_thread(prepare, added, name)
        await asyncio.to_thread(cluster.add, added, name)
        await coordinator.execute("SELECT citus_rebalance_start()")

        async def moved() -> bool:
            states = await coordinator.fetch("SELECT state FROM pg_dist_background_job")
            assert not [row for row in states if row[0] in ("failed", "failing")]
            return [row[0] for row in states] == ["finished"]

        await eventually(moved, 300)
        lying = await coordinator.fetch(
            "SELECT nodeport FROM citus_shards WHERE table_name = 'executions'::regclass"
        )
        assert {row[0] for row in lying} == {node.port for node in (*cluster.workers, added)}
        await load.goes_on()
        await load.end()
    finally:
        await coordinator.close()
        await store.close()
        added.remove()
