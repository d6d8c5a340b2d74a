"""The tables of a PostgreSQL database: made, brought up to date, checked, and distributed with Citus.

Rule 1: a migration is done whole or not at all, by one at a time.
Rule 2: how many shards a store has is a fact of the store, written when its tables are made.
Rule 3: on a Citus coordinator, a store of several shards has its tables of executions on the workers,
        those of one shard together; all that belongs to no execution stays on the coordinator.
"""

from dataclasses import dataclass

import asyncpg

from durably.config import Config
from durably.logs import without_password
from durably.store import postgres_citus
from durably.store.postgres_connections import Connection, opened
from durably.store.schema import SERVED_FROM, migrations, refuse_newer
from durably.store.shards import ONE_SHARD, SHARDS_MAX, Shards
from durably.store.store import ShardsFixed, StoreTooOld

OF_EXECUTIONS = (
    "executions",
    "journal",
    "snapshots",
    "current_runs",
    "tasks",
    "heartbeats",
    "visibility",
)
"""The tables of executions, the first of them the one with which the others lie together."""
SHARDS = "shards"
"""The key in `metadata` of how many there are; without it there is one."""

# The number of the schema, if there is one.
HAS_SCHEMA = """SELECT EXISTS (SELECT 1 FROM pg_tables WHERE tablename = 'schema_version'
    AND schemaname = ANY(current_schemas(FALSE)))"""
SCHEMA = "SELECT max(version) FROM schema_version"
CREATE_SCHEMA = "CREATE TABLE IF NOT EXISTS schema_version (version INTEGER PRIMARY KEY)"
# From which schema on programs can serve it: of the tables since that migration.
ADD_SERVED_FROM = "ALTER TABLE schema_version ADD COLUMN IF NOT EXISTS served_from INTEGER"
SERVED = "SELECT served_from FROM schema_version ORDER BY version DESC LIMIT 1"
PUT_SCHEMA = "INSERT INTO schema_version (version, served_from) VALUES ($1, $2)"
# One migrates at a time.
MIGRATING = "SELECT pg_advisory_xact_lock(7233, 1)"
# How many shards a store has.
READ_SHARDS = "SELECT value FROM metadata WHERE key = $1"
PUT_SHARDS = "INSERT INTO metadata (key, value) VALUES ($1, $2)"
# Whether the database is a coordinator of Citus, and whether the tables are distributed.
HAS_CITUS = "SELECT EXISTS (SELECT 1 FROM pg_extension WHERE extname = 'citus')"
IS_DISTRIBUTED = """SELECT EXISTS (SELECT 1 FROM pg_dist_partition
    WHERE logicalrelid = to_regclass('executions') AND partmethod = 'h')"""
# Lay a table of executions onto the workers.
DISTRIBUTE_FIRST = "SELECT create_distributed_table($1::text::regclass, 'shard', shard_count := $2)"
DISTRIBUTE = "SELECT create_distributed_table($1::text::regclass, 'shard', colocate_with := $2)"
# Citus makes tables and functions in one transaction only if it does one thing at a time.
SEQUENTIALLY = "SET LOCAL citus.multi_shard_modify_mode TO 'sequential'"
HAS_FUNCTION = "SELECT EXISTS (SELECT 1 FROM pg_proc WHERE proname = $1)"


@dataclass(frozen=True, slots=True)
class Layout:
    """How a store lies in its database."""

    shards: Shards = ONE_SHARD
    distributed: bool = False
    """Its tables of executions are on the workers of Citus."""


async def present_schema(connection: Connection) -> int:
    """The number of the schema; 0: the database is empty."""
    if not await connection.fetchval(HAS_SCHEMA):
        return 0
    return int(await connection.fetchval(SCHEMA) or 0)


async def _refuse_newer(connection: Connection, present: int) -> None:
    """Raises StoreTooNew."""
    known = migrations("postgres")[-1][0]
    if present > known:
        refuse_newer(present, known, await connection.fetchval(SERVED))


async def layout(connection: Connection) -> Layout:
    value = await connection.fetchval(READ_SHARDS, SHARDS)
    if value is None:
        return Layout()
    distributed = await connection.fetchval(HAS_CITUS) and await connection.fetchval(IS_DISTRIBUTED)
    return Layout(Shards(int(value)), bool(distributed))


async def migrate(connection: Connection, shards: int | None = None) -> list[int]:
    """Bring the schema up to date, all of it or nothing; the numbers that were added.

    An empty database gets so many shards, one by default. Raises StoreTooNew, ShardsFixed for another
    number than the store has, ValueError for one that cannot be.
    """
    if shards is not None and not 1 <= shards <= SHARDS_MAX:
        raise ValueError(f"{shards} shards: a store has from 1 to {SHARDS_MAX}")
    known = migrations("postgres")
    async with connection.transaction():
        await connection.execute(MIGRATING)
        citus = await connection.fetchval(HAS_CITUS)
        if citus:
            await connection.execute(SEQUENTIALLY)
        present = await present_schema(connection)
        await _refuse_newer(connection, present)
        if present and shards is not None:
            await refuse_other_shards(connection, shards)
        added = [(version, sql) for version, sql in known if version > present]
        if added:
            await connection.execute(CREATE_SCHEMA)
            await connection.execute(ADD_SERVED_FROM)
        for version, sql in added:
            await connection.execute(sql)
            await connection.execute(PUT_SCHEMA, version, SERVED_FROM)
        if not present and shards is not None and shards > 1:
            await connection.execute(PUT_SHARDS, SHARDS, b"%d" % shards)
            if citus:
                await _distribute(connection, shards)
        if await _lacks_function(connection):
            await connection.execute(postgres_citus.definition())
            signature = postgres_citus.signature()
            await connection.fetchval(postgres_citus.DISTRIBUTE_FUNCTION, signature)
    return [version for version, _ in added]


async def _distribute(connection: Connection, shards: int) -> None:
    """Citus spreads as many pieces as there are shards evenly over its workers."""
    first, *others = OF_EXECUTIONS
    await connection.fetchval(DISTRIBUTE_FIRST, first, shards)
    for table in others:
        await connection.fetchval(DISTRIBUTE, table, first)


async def _lacks_function(connection: Connection) -> bool:
    """Whether the tables are distributed, and that is missing which this version writes them with."""
    if not (await layout(connection)).distributed:
        return False
    return not await connection.fetchval(HAS_FUNCTION, postgres_citus.function_name())


async def refuse_other_shards(connection: Connection, wanted: int) -> None:
    """Raises ShardsFixed if a store has another number of shards."""
    count = (await layout(connection)).shards.count
    if count != wanted:
        raise ShardsFixed(
            f"this store has {count} {'shard' if count == 1 else 'shards'}, and keeps that number:"
            f" for {wanted}, run `durably migrate --shards {wanted}` on an empty database"
        )


async def check(connection: Connection, url: str) -> None:
    """An empty database gets its tables; an old one is brought up to date by whoever runs it. Raises
    StoreTooNew, StoreTooOld."""
    known = migrations("postgres")[-1][0]
    present = await present_schema(connection)
    await _refuse_newer(connection, present)
    command = f"run `durably migrate --store {without_password(url)}`"
    if not present:
        try:
            await migrate(connection)
        except (
            asyncpg.InsufficientPrivilegeError,
            asyncpg.InvalidSchemaNameError,
        ) as error:
            raise StoreTooOld(
                f"this database has no tables of durably, and the role that serves may not make them:"
                f" {command} with a role that may"
            ) from error
    elif present < known:
        raise StoreTooOld(
            f"this store has schema {present}, and this version of durably needs {known}: {command}"
        )
    elif await _lacks_function(connection):
        raise StoreTooOld(f"this version of durably writes to Citus in another way: {command}")


async def pending(url: str, config: Config, shards: int | None = None) -> tuple[int, list[int]]:
    """The number of the schema, and the migrations that are missing. Raises StoreTooNew, ShardsFixed,
    Unavailable."""
    async with opened(url, config) as connection:
        present = await present_schema(connection)
        known = [version for version, _ in migrations("postgres")]
        await _refuse_newer(connection, present)
        if present and shards is not None:
            await refuse_other_shards(connection, shards)
        return present, [version for version in known if version > present]


async def migrate_database(url: str, config: Config, shards: int | None = None) -> list[int]:
    """Bring a database up to date; the migrations that were missing. Raises what `migrate` raises, and
    Unavailable."""
    async with opened(url, config) as connection:
        return await migrate(connection, shards)
