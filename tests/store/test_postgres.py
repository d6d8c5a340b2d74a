"""What only PostgreSQL has: connections that break, a server that dies, a schema that must fit."""

import asyncio
import uuid

import asyncpg
import pytest

from durably.config import Config
from durably.errors import InvalidArgument, Unavailable
from durably.store import sqlite_file
from durably.store.opening import open_store
from durably.store.postgres import PostgresStore
from durably.store.postgres_nodes import PostgresNodes
from durably.store.postgres_schema import layout, migrate
from durably.store.schema import migrations
from durably.store.store import Commit, Conflict, ShardsFixed, StoreTooNew, StoreTooOld
from tests.conftest import eventually
from tests.postgres import PostgresServer
from tests.store.test_store import visible, write

DISK_FULL = """CREATE FUNCTION disk_full() RETURNS trigger LANGUAGE plpgsql AS
    $$ BEGIN RAISE EXCEPTION 'no space left' USING ERRCODE = 'disk_full'; END $$;
    CREATE TRIGGER journal_full BEFORE INSERT ON journal EXECUTE FUNCTION disk_full();
    CREATE TRIGGER nodes_full BEFORE INSERT ON nodes EXECUTE FUNCTION disk_full()"""
"""Every write to these tables fails as it does when there is no room for it."""
POSTGRES_ALONE = ("written_by", "node")
"""Columns of tables that both have."""


async def opened(url: str, **settings: float) -> PostgresStore:
    store = await open_store(url, Config(**settings))  # type: ignore[arg-type]
    assert isinstance(store, PostgresStore)
    return store


async def acknowledged(store: PostgresStore, execution_id: int, commits: int) -> int:
    """Commit one version after the other; how many were acknowledged. One that was not may have been
    written all the same: what is there decides how it goes on."""
    version = count = 0
    for _ in range(commits):
        try:
            await store.commit(Commit([write(execution_id, version)]))
        except (Unavailable, Conflict):
            found = await store.load(execution_id)
            version = found.version if found else 0
            continue
        version += 1
        count += 1
    return count


async def check(store: PostgresStore, execution_id: int, acknowledged: int) -> None:
    found = await store.load(execution_id)
    assert found is not None
    assert found.version >= acknowledged
    assert [row.version for row in found.journal] == list(range(1, found.version + 1))


async def test_broken_connections_lose_and_double_nothing(postgres: PostgresServer) -> None:
    url = postgres.database()
    store = await opened(url)
    other = await asyncpg.connect(url)
    work = [asyncio.create_task(acknowledged(store, n, 600)) for n in range(1, 6)]
    for _ in range(6):
        await asyncio.sleep(0.2)
        await other.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
            " WHERE datname = current_database() AND pid <> pg_backend_pid()"
        )
    counts = await asyncio.gather(*work)
    assert min(counts) > 500
    for number, count in enumerate(counts, start=1):
        await check(store, number, count)
    await store.close()
    await other.close()


async def test_a_database_that_dies_is_waited_for(postgres_to_stop: PostgresServer) -> None:
    store = await opened(postgres_to_stop.database(), postgres_unavailable_s=60.0)
    work = [asyncio.create_task(acknowledged(store, n, 200)) for n in range(1, 4)]
    await asyncio.sleep(0.2)
    await asyncio.to_thread(postgres_to_stop.stop, "immediate")
    await asyncio.to_thread(postgres_to_stop.start)
    for number, count in enumerate(await asyncio.gather(*work), start=1):
        assert count > 190
        await check(store, number, count)
    await store.close()


async def test_one_that_stays_away_is_said_to_be_away(postgres_to_stop: PostgresServer) -> None:
    url = postgres_to_stop.database()
    store = await opened(url, postgres_unavailable_s=0.2)
    await asyncio.to_thread(postgres_to_stop.stop, "immediate")
    with pytest.raises(Unavailable, match="see that PostgreSQL is running"):
        await store.commit(Commit([write(1, 0)]))
    with pytest.raises(Unavailable, match="see that PostgreSQL is running"):
        await store.load(1)
    with pytest.raises(Unavailable, match="cannot open"):
        await opened(url)
    await asyncio.to_thread(postgres_to_stop.start)
    await store.commit(Commit([write(1, 0)]))
    await store.close()


async def test_what_a_database_cannot_or_may_not_do_is_said(postgres: PostgresServer) -> None:
    """Its disk is full, a right is missing: nothing is acknowledged, the reason and what to do are named,
    and when it was seen to, it goes on by itself."""
    url = postgres.database(1)
    name, role = url.rsplit("/", 1)[1], f"serving_{uuid.uuid4().hex}"
    store = await opened(url)
    await store.commit(Commit([write(1, 0)]))
    postgres.execute(DISK_FULL, name)
    with pytest.raises(
        Unavailable, match=r"no space left\): free some space on its disk, then try"
    ):
        await store.commit(Commit([write(1, 1)]))
    with pytest.raises(Unavailable, match="free some space on its disk"):
        await PostgresNodes(store, url).seen(1, "")
    assert await store.load(1)
    postgres.execute("DROP FUNCTION disk_full() CASCADE", name)
    await store.commit(Commit([write(1, 1)]))
    await store.close()
    rights = f"CREATE ROLE {role} LOGIN; GRANT SELECT ON ALL TABLES IN SCHEMA public TO {role}"
    postgres.execute(rights, name)
    reader = await opened(postgres.url(name, role))
    with pytest.raises(
        Unavailable, match=r"permission denied .* grant its role what docs/operations"
    ):
        await reader.commit(Commit([write(1, 2)]))
    with pytest.raises(
        Unavailable, match=r"permission denied .* grant its role what docs/operations"
    ):
        await PostgresNodes(reader, url).next_node()
    await reader.close()


async def test_who_is_refused_for_a_while_listens_again(postgres: PostgresServer) -> None:
    """A password that is changed, a role that may not come in: the connections that stand are cut, too."""
    name, role = postgres.new_name(), f"serving_{uuid.uuid4().hex}"
    postgres.execute(f"CREATE ROLE {role} LOGIN")
    postgres.execute(f"CREATE DATABASE {name} OWNER {role}")
    store = await opened(postgres.url(name, role), postgres_unavailable_s=0.2)
    nodes = PostgresNodes(store, postgres.url(name, role))
    heard: list[str] = []
    anew: list[None] = []
    listening = asyncio.create_task(nodes.listen(heard.append, lambda: anew.append(None)))

    async def times(count: int) -> None:
        async def listens() -> bool:
            assert not listening.done()
            return len(anew) == count

        await eventually(listens, 60)

    await times(1)
    postgres.execute(f"ALTER ROLE {role} NOLOGIN")
    postgres.execute(
        f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename='{role}'"
    )
    with pytest.raises(Unavailable, match=r"not permitted to log in.*see to the role"):
        await store.load(1)
    postgres.execute(f"ALTER ROLE {role} LOGIN")
    await times(2)
    await nodes.say(["again"])

    async def again() -> bool:
        return heard == ["again"]

    await eventually(again, 60)
    listening.cancel()
    await store.close()


async def test_only_a_server_that_can_be_written_to_is_connected_to(
    postgres: PostgresServer,
) -> None:
    url = postgres.database(1)
    name = url.rsplit("/", 1)[1]
    store = await opened(url, postgres_unavailable_s=0.2)
    await store.commit(Commit([write(1, 0)]))
    postgres.execute(f"ALTER DATABASE {name} SET default_transaction_read_only = on", name)
    postgres.execute(
        f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname='{name}'"
    )
    for work in (store.commit(Commit([write(1, 1)])), store.load(1), opened(url)):
        with pytest.raises(Unavailable, match="this server cannot be written to"):
            await work
    postgres.execute(f"ALTER DATABASE {name} RESET default_transaction_read_only")
    await store.commit(Commit([write(1, 1)]))
    await store.close()


async def test_what_it_cannot_hold_concerns_its_unit_alone(postgres: PostgresServer) -> None:
    store = await opened(postgres.database())
    bad = write(2, 0, workflow_id="a\x00b")
    done = [store.commit(Commit([each])) for each in (write(1, 0), bad, write(3, 0))]
    ends = await asyncio.gather(*done, return_exceptions=True)
    assert [type(end) for end in ends] == [type(None), InvalidArgument, type(None)]
    with pytest.raises(InvalidArgument):
        await store.current_run(1, "ns", "a\x00b")
    await store.close()


async def test_two_stores_race_and_each_version_is_written_once(postgres: PostgresServer) -> None:
    url = postgres.database()
    stores = [await opened(url) for _ in range(3)]
    counts = await asyncio.gather(*(acknowledged(store, 1, 60) for store in stores))
    found = await stores[0].load(1)
    assert found is not None
    assert found.version == sum(counts)
    assert [row.version for row in found.journal] == list(range(1, found.version + 1))
    for store in stores:
        await store.close()


async def test_what_is_decided_on_a_lost_commit_is_lost(postgres: PostgresServer) -> None:
    """Even if another server has written just the version that it expects."""
    url = postgres.database()
    one, other = await opened(url), await opened(url)
    await one.commit(Commit([write(1, 0)]))
    await other.commit(Commit([write(1, 1)]))
    lost = one.commit(Commit([write(1, 1, events=b"lost")]))
    on_top = one.commit(Commit([write(1, 2, events=b"on top", decided_on=lost)]))
    ends = await asyncio.gather(lost, on_top, return_exceptions=True)
    late = one.commit(Commit([write(1, 2, events=b"late", decided_on=lost)]))
    (end,) = await asyncio.gather(late, return_exceptions=True)
    assert [type(each) for each in (*ends, end)] == [Conflict] * 3
    found = await one.load(1)
    assert found is not None
    assert found.version == 2
    await one.close()
    await other.close()


async def test_old_and_new_stores_are_refused(postgres: PostgresServer) -> None:
    url = postgres.database()
    await (await opened(url)).close()
    connection = await asyncpg.connect(url)
    await connection.execute("INSERT INTO schema_version VALUES (999)")
    with pytest.raises(StoreTooNew, match="upgrade durably"):
        await opened(url)
    await connection.execute("UPDATE schema_version SET version = 1 WHERE version = 999")
    await connection.execute("DELETE FROM schema_version WHERE version > 1")
    with pytest.raises(StoreTooOld, match="durably migrate --store postgresql://"):
        await opened(url)
    await connection.close()


async def test_many_may_open_an_empty_database_at_once(postgres: PostgresServer) -> None:
    url = postgres.database()
    stores = await asyncio.gather(*(opened(url) for _ in range(4)))
    await asyncio.gather(*(store.close() for store in stores))


async def test_how_many_shards_there_may_be(postgres: PostgresServer) -> None:
    connection = await asyncpg.connect(postgres.database(1))
    for count in (0, 1025):
        with pytest.raises(ValueError, match="from 1 to 1024"):
            await migrate(connection, count)
    assert await migrate(connection, 1024)
    assert (await layout(connection)).shards.count == 1024
    assert await migrate(connection, 1024) == []
    with pytest.raises(ShardsFixed, match="this store has 1024 shards"):
        await migrate(connection, 1)
    await connection.close()


async def test_what_is_written_at_once_lies_in_one_shard(postgres: PostgresServer) -> None:
    store = await opened(postgres.database(8))
    with pytest.raises(ValueError, match=r"the shards \[1, 2\]"):
        store.commit(Commit([write(1, 0), write(2, 0)]))
    assert await store.load(1) is None
    await store.close()


async def test_both_databases_have_the_same_schema(postgres: PostgresServer) -> None:
    """The numbers mean the same, and so do the columns that both have."""
    numbers = [number for number, _ in migrations("postgres")]
    ours = [number for number, _ in migrations()]
    assert numbers == list(range(numbers[0], ours[-1] + 1))
    url = postgres.database(1)
    connection = await asyncpg.connect(url)
    assert await migrate(connection) == numbers
    assert await migrate(connection) == []
    columns: dict[str, list[str]] = {}
    for table, column in await connection.fetch(
        "SELECT table_name, column_name FROM information_schema.columns"
        " WHERE table_schema = 'public' ORDER BY table_name, ordinal_position"
    ):
        columns.setdefault(table, []).append(column)
    await connection.close()
    file = sqlite_file.connect(":memory:")
    sqlite_file.migrate(file)
    for (table,) in file.execute(
        "SELECT name FROM sqlite_schema WHERE type = 'table' AND name NOT LIKE 'sqlite_%'"
    ).fetchall():
        wanted = [row[1] for row in file.execute(f"PRAGMA table_info({table})")]
        if table != "attribute_values":  # PostgreSQL finds values in an index of its own.
            shared = [name for name in columns[table] if name not in POSTGRES_ALONE]
            assert shared == wanted, table
    file.close()


async def test_a_page_of_a_list_reads_no_more_than_it_shows(postgres: PostgresServer) -> None:
    """Plans: the newest of a namespace come out of an index in their order."""
    store = await opened(postgres.database(1))
    units = [
        Commit([write(n, 0, visibility=visible(1 if n % 2 else 2, n, n if n % 2 else 0))])
        for n in range(1, 2001)
    ]
    await asyncio.gather(*map(store.commit, units))

    async def plan(connection: asyncpg.Connection) -> str:
        await connection.execute("ANALYZE visibility")
        rows = await connection.fetch(
            "EXPLAIN SELECT * FROM visibility WHERE namespace_id = 'ns' AND kind = 1"
            " ORDER BY sort_close_ns DESC, start_ns DESC, execution_id DESC LIMIT 20"
        )
        return "\n".join(row[0] for row in rows)

    said = await store.reading(plan)
    assert "visibility_by_time" in said
    assert "Sort" not in said
    await store.close()
