"""PostgreSQL with a standby: what is acknowledged outlives the loss of the first machine, and whoever was
connected to it goes on at the second."""

import asyncio
from collections.abc import Iterator

import asyncpg
import pytest

from durably.config import Config
from durably.errors import Unavailable
from durably.store.opening import open_store
from durably.store.store import Commit, Conflict, Store
from tests.conftest import eventually
from tests.postgres import PostgresServer, elsewhere
from tests.store.test_store import write

SYNCHRONOUS = "ALTER SYSTEM SET synchronous_standby_names = '*'"


@pytest.fixture
def pair() -> Iterator[tuple[PostgresServer, PostgresServer]]:
    """A primary, and a standby that has all that was acknowledged."""
    primary, standby = PostgresServer(fsync=True), PostgresServer(fsync=True)
    try:
        primary.create().start()
        standby.follow(primary).start()
        primary.execute(SYNCHRONOUS)
        primary.execute("SELECT pg_reload_conf()")
        yield primary, standby
    finally:
        primary.remove()
        standby.remove()


def both(url: str, primary: PostgresServer, standby: PostgresServer) -> str:
    """The address of a database, with both hosts."""
    one, other = (f"127.0.0.1:{each.port}" for each in (primary, standby))
    return url.replace(one, f"{one},{other}")


async def test_what_no_standby_has_is_not_acknowledged(
    pair: tuple[PostgresServer, PostgresServer],
) -> None:
    """A commit whose connection is cut while it waits for the standby is on one machine only: it is there
    when it is looked for, and must not be acknowledged yet."""
    primary, standby = pair
    store = await open_store(primary.database(), Config(postgres_unavailable_s=300.0))
    await store.commit(Commit([write(1, 0)]))
    await asyncio.to_thread(standby.stop, "immediate")
    done = asyncio.ensure_future(store.commit(Commit([write(1, 1)])))
    await asyncio.to_thread(wait_for_a_waiting_commit, primary)
    await asyncio.to_thread(primary.cut_connections)

    async def is_there() -> bool:
        found = await store.load(1)
        return found is not None and found.version == 2

    await eventually(is_there, 60)
    await asyncio.to_thread(wait_for_a_waiting_commit, primary)
    assert not done.done()
    await asyncio.to_thread(standby.start)
    await done
    await store.close()


async def test_a_host_that_hangs_is_passed_over(
    pair: tuple[PostgresServer, PostgresServer],
) -> None:
    """The first host takes connections and never answers; the second follows, and is promoted."""
    primary, standby = pair
    url = both(primary.database(), primary, standby)
    config = Config(
        postgres_connect_timeout_s=1.0,
        postgres_statement_timeout_s=3.0,
        postgres_unavailable_s=2.0,
    )
    store = await open_store(url, config)
    try:
        await store.commit(Commit([write(1, 0)]))
        assert await store.load(1)
        await asyncio.to_thread(primary.hang)
        with pytest.raises(Unavailable):
            await store.commit(Commit([write(1, 1)]))
        with pytest.raises(Unavailable, match="cannot be written to"):
            await open_store(url, config)
        await asyncio.to_thread(standby.promote)
        assert await version_after_another(store) == 2
        late = await open_store(url, config)
        assert await version_after_another(late) == 3
        await late.close()
    finally:
        await asyncio.to_thread(primary.kill)
        await store.close()


async def version_after_another(store: Store) -> int:
    """Of the one execution, when one more commit was acknowledged."""
    while True:
        try:
            found = await store.load(1)
            assert found is not None
            await store.commit(Commit([write(1, found.version)]))
            return found.version + 1
        except (Unavailable, Conflict):
            continue


def wait_for_a_waiting_commit(primary: PostgresServer) -> None:
    """Until one waits for the standby."""
    asked = "SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'SyncRep'"

    async def ask() -> None:
        connection = await asyncpg.connect(primary.url())
        try:

            async def waits() -> bool:
                return bool(await connection.fetchval(asked))

            await eventually(waits, 60)
        finally:
            await connection.close()

    elsewhere(ask)
