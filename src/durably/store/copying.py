"""Moves a whole store from an SQLite file into a PostgreSQL database, open executions included.

Rule 1: all of it or nothing: one transaction, which ends only when the rows of every table are as many
        as in the file.
Rule 2: nobody uses either meanwhile: the file is locked, and the database must be empty.
"""

import itertools
import os
import sqlite3
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import asyncpg

from durably.config import Config
from durably.logs import without_password
from durably.store.postgres_connections import BROKEN, Connector
from durably.store.postgres_schema import OF_EXECUTIONS, migrate, refuse_other_shards
from durably.store.sqlite import connect, existing, lock
from durably.store.sqlite import migrate as migrate_sqlite
from durably.store.store import StoreNotEmpty

ROWS_AT_ONCE = 1000
TABLES = (
    "metadata",
    "namespaces",
    "queue_configs",
    "nexus_endpoints",
    *OF_EXECUTIONS,
)
"""What is copied, column by column. Values of search attributes have an index of their own there."""
ADDED = {"executions": ("written_by", 0), "tasks": ("node", 0)}
"""Columns that only PostgreSQL has, and what is in them: no group commit, no server."""

Progress = Callable[[str, int], None]
"""Called with a table and how many of its rows are copied."""


async def copy(path: Path, url: str, config: Config, progress: Progress) -> dict[str, int]:
    """How many rows of each table. Raises StoreLocked, StoreTooNew, ShardsFixed, StoreNotEmpty,
    OSError."""
    descriptor = lock(existing(path))
    file = connect(str(path))
    try:
        migrate_sqlite(file)
        try:
            connection = await Connector(url, config).connect()
        except (*BROKEN, asyncpg.PostgresError) as error:
            raise OSError(f"cannot open {without_password(url)}: {error}") from error
        try:
            return await _copy_tables(file, connection, url, progress)
        finally:
            await connection.close()
    finally:
        file.close()
        os.close(descriptor)


async def _copy_tables(
    file: sqlite3.Connection, connection: Any, url: str, progress: Progress
) -> dict[str, int]:
    await migrate(connection)
    await refuse_other_shards(connection, 1)  # The ids in the file say no shard, and are in tokens.
    counts: dict[str, int] = {}
    async with connection.transaction():
        for table in TABLES:
            if await connection.fetchval(f"SELECT EXISTS (SELECT 1 FROM {table})"):
                raise StoreNotEmpty(
                    f"{without_password(url)} is not empty ({table}): copy into a new database"
                )
        for table in TABLES:
            counts[table] = await _copy_table(file, connection, table, progress)
            found = await connection.fetchval(f"SELECT count(*) FROM {table}")
            if found != counts[table]:
                raise OSError(f"{table}: {counts[table]} rows were read, and {found} are there")
    return counts


async def _copy_table(
    file: sqlite3.Connection, connection: Any, table: str, progress: Progress
) -> int:
    columns = [row[1] for row in file.execute(f"PRAGMA table_info({table})")]
    rows: Iterator[tuple[Any, ...]] = file.execute(f"SELECT {', '.join(columns)} FROM {table}")
    if table in ADDED:
        name, value = ADDED[table]
        columns.append(name)
        rows = ((*row, value) for row in rows)
    count = 0
    while page := list(itertools.islice(rows, ROWS_AT_ONCE)):
        await connection.copy_records_to_table(table, records=page, columns=columns)
        count += len(page)
        progress(table, count)
    return count
