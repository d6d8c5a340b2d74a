"""A migration only adds: what the version before reads and writes is still there, and complete."""

from collections.abc import AsyncIterator
from typing import Any

import asyncpg
import pytest
import pytest_asyncio

from durably.store.postgres_schema import CREATE_SCHEMA, migrate
from durably.store.schema import SERVED_FROM, migrations
from durably.store.store import StoreTooNew
from tests.postgres import PostgresServer

COLUMNS = """SELECT table_name, column_name, data_type,
        is_nullable = 'YES' OR column_default IS NOT NULL OR is_identity = 'YES'
    FROM information_schema.columns WHERE table_schema = 'public'"""
UNIQUE = """SELECT indrelid::regclass::text, pg_get_indexdef(indexrelid, k, TRUE), indexrelid::int
    FROM pg_index, generate_series(1, indnkeyatts) k
    WHERE indisunique AND indrelid IN (SELECT oid FROM pg_class
        WHERE relnamespace = 'public'::regnamespace)"""
CHECKS = """SELECT conrelid::regclass::text, pg_get_constraintdef(oid) FROM pg_constraint
    WHERE contype IN ('c', 'f') AND connamespace = 'public'::regnamespace"""


@pytest_asyncio.fixture
async def connection(postgres: PostgresServer) -> AsyncIterator[Any]:
    """To an empty database."""
    connection = await asyncpg.connect(postgres.database(1))
    yield connection
    await connection.close()


async def unique(connection: Any) -> set[tuple[str, frozenset[str]]]:
    """What is unique in each table: what statements may name in ON CONFLICT."""
    found: dict[tuple[str, int], set[str]] = {}
    for table, column, index in await connection.fetch(UNIQUE):
        found.setdefault((table, index), set()).add(column)
    return {(table, frozenset(columns)) for (table, _), columns in found.items()}


async def test_each_migration_only_adds(connection: Any) -> None:
    (_, first), *others = migrations("postgres")
    await connection.execute(first)
    for number, sql in others:
        columns = {row[:2]: row[2:] for row in map(tuple, await connection.fetch(COLUMNS))}
        keys = await unique(connection)
        checks = set(map(tuple, await connection.fetch(CHECKS)))
        await connection.execute(sql)
        after = {row[:2]: row[2:] for row in map(tuple, await connection.fetch(COLUMNS))}
        for column, known in columns.items():
            assert after.get(column) == known, f"{number} changes {column}"
        tables = {table for table, _ in columns}
        for column in after.keys() - columns.keys():
            assert column[0] not in tables or after[column][1], f"{number}: {column} has no default"
        assert keys <= await unique(connection), f"{number} takes a key away"
        more = set(map(tuple, await connection.fetch(CHECKS))) - checks
        assert not [each for each in more if each[0] in tables], f"{number} forbids something"


async def test_a_newer_store_says_who_can_serve_it(connection: Any) -> None:
    """One that the next version brought up to date: this one may be started on it, if that says so."""
    await migrate(connection)
    newest = migrations("postgres")[-1][0]
    assert newest >= SERVED_FROM
    put = "INSERT INTO schema_version (version, served_from) VALUES ($1, $2)"
    await connection.execute(put, newest + 1, newest)
    assert await migrate(connection) == []
    await connection.execute(put, newest + 2, newest + 1)
    with pytest.raises(StoreTooNew, match="upgrade durably"):
        await migrate(connection)


async def test_a_store_from_before_that_is_brought_up_to_date(connection: Any) -> None:
    (first, sql), *others = migrations("postgres")
    await connection.execute(f"{CREATE_SCHEMA}; {sql}; INSERT INTO schema_version VALUES ({first})")
    assert await migrate(connection) == [number for number, _ in others]
    served = await connection.fetch("SELECT * FROM schema_version ORDER BY version")
    assert list(map(tuple, served)) == [
        (first, None),
        *((number, SERVED_FROM) for number, _ in others),
    ]
