"""Moves a whole store from an SQLite file into a PostgreSQL database, open executions included.

Rule 1: all of it or nothing: one transaction, which ends only when the rows of every table are as many
        as in the file.
Rule 2: an execution goes into the shard of its workflow id, and gets an id that says so. Its old id, which
        tokens of its activities have, is a fact about the new store.
Rule 3: nobody uses either meanwhile: the file is locked, and the database must be empty.
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
from durably.store.postgres_schema import OF_EXECUTIONS, SHARDS, layout, migrate
from durably.store.shards import Shards
from durably.store.sqlite_file import connect, existing, lock
from durably.store.sqlite_file import migrate as migrate_sqlite
from durably.store.store import StoreNotEmpty, renumbered_key

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

# The ids of executions, or of tasks, in the file and in the new store.
RENUMBERED = """CREATE TEMP TABLE renumbered_{} (old INTEGER PRIMARY KEY, new INTEGER NOT NULL,
    shard INTEGER NOT NULL)"""
# Those of the file, in their order, and what says their shards.
EXECUTIONS = "SELECT execution_id, namespace_id, workflow_id FROM executions ORDER BY execution_id"
TASKS = """SELECT t.task_id, e.shard FROM tasks t
    JOIN temp.renumbered_executions e ON e.old = t.execution_id ORDER BY t.task_id"""
# Open executions whose ids have changed.
CHANGED = """SELECT e.old, e.new FROM temp.renumbered_executions e
    JOIN visibility v ON v.shard = 0 AND v.execution_id = e.old
    WHERE v.close_ns = 0 AND e.old <> e.new"""
# How many shards a store has is known from the beginning.
HAS_ROWS = {"metadata": f"SELECT EXISTS (SELECT 1 FROM metadata WHERE key <> '{SHARDS}')"}

Progress = Callable[[str, int], None]
"""Called with a table and how many of its rows are copied."""


async def copy(path: Path, url: str, config: Config, progress: Progress) -> dict[str, int]:
    """How many rows of each table. Raises StoreLocked, StoreTooNew, StoreNotEmpty, OSError."""
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
    _renumber(file, (await layout(connection)).shards)
    counts: dict[str, int] = {}
    async with connection.transaction():
        for table in TABLES:
            if await connection.fetchval(
                HAS_ROWS.get(table, f"SELECT EXISTS (SELECT 1 FROM {table})")
            ):
                raise StoreNotEmpty(
                    f"{without_password(url)} is not empty ({table}): copy into a new database"
                )
        for table in TABLES:
            before = await connection.fetchval(f"SELECT count(*) FROM {table}")
            await _copy_table(file, connection, table, progress)
            (counts[table],) = file.execute(f"SELECT count(*) FROM {table}").fetchone()
            found = await connection.fetchval(f"SELECT count(*) FROM {table}") - before
            if found != counts[table]:
                raise OSError(f"{table}: {counts[table]} rows are to be copied, and {found} were")
        await _write(connection, "metadata", ["key", "value"], _other_ids(file), progress)
    return counts


def _renumber(file: sqlite3.Connection, shards: Shards) -> None:
    """Which ids executions and tasks have in the new store, in their old order: with one shard the same,
    else ids that none of them had, so that an old one is never taken for another's."""

    def numbered(rows: Iterator[tuple[int, int]], last: int) -> Iterator[tuple[int, int, int]]:
        lowest = [last + 1 if shards.count > 1 else 0] * shards.count
        for old, shard in rows:
            new = shards.id_from(max(old, lowest[shard]), shard)
            lowest[shard] = new + 1
            yield old, new, shard

    executions = (
        (old, shards.of_workflow(namespace_id, workflow_id))
        for old, namespace_id, workflow_id in file.execute(EXECUTIONS)
    )
    (last,) = file.execute("SELECT max(execution_id) FROM executions").fetchone()
    file.execute(RENUMBERED.format("executions"))
    file.executemany(
        "INSERT INTO temp.renumbered_executions VALUES (?, ?, ?)", numbered(executions, last or 0)
    )
    (last,) = file.execute("SELECT max(task_id) FROM tasks").fetchone()
    file.execute(RENUMBERED.format("tasks"))
    tasks = numbered(file.execute(TASKS), last or 0)
    file.executemany("INSERT INTO temp.renumbered_tasks VALUES (?, ?, ?)", tasks)


def _other_ids(file: sqlite3.Connection) -> Iterator[tuple[str, bytes]]:
    """Of open executions whose ids have changed, for the tokens that are out: facts about the store."""
    changed = file.execute(CHANGED)
    return ((renumbered_key(old), b"%d" % new) for old, new in changed)


async def _copy_table(
    file: sqlite3.Connection, connection: Any, table: str, progress: Progress
) -> None:
    columns = [row[1] for row in file.execute(f"PRAGMA table_info({table})")]
    rows: Iterator[tuple[Any, ...]] = file.execute(_reading(table, columns))
    if table in ADDED:
        name, value = ADDED[table]
        columns.append(name)
        rows = ((*row, value) for row in rows)
    await _write(connection, table, columns, rows, progress)


def _reading(table: str, columns: list[str]) -> str:
    """The statement that reads all rows of a table with the ids that they are to have."""
    if "execution_id" not in columns:
        return f"SELECT {', '.join(columns)} FROM {table}"
    replaced = {"execution_id": "e.new", "shard": "e.shard", "task_id": "n.new"}
    found = ", ".join(replaced.get(column, f"t.{column}") for column in columns)
    sql = (
        f"SELECT {found} FROM {table} t JOIN temp.renumbered_executions e ON e.old = t.execution_id"
    )
    return f"{sql} JOIN temp.renumbered_tasks n ON n.old = t.task_id" if table == "tasks" else sql


async def _write(
    connection: Any,
    table: str,
    columns: list[str],
    rows: Iterator[tuple[Any, ...]],
    progress: Progress,
) -> None:
    count = 0
    while page := list(itertools.islice(rows, ROWS_AT_ONCE)):
        await connection.copy_records_to_table(table, records=page, columns=columns)
        count += len(page)
        progress(table, count)
