"""Which store an address means.

Rule 1: a database is loaded only if it is used.
"""

from durably.config import Config
from durably.store import sqlite_file
from durably.store.sqlite import SqliteStore
from durably.store.store import Store

POSTGRES_SCHEMES = ("postgresql://", "postgres://")


async def pending_migrations(
    url: str, config: Config, shards: int | None = None
) -> tuple[int, list[int]]:
    """The number of a store's schema (0: it is empty), and the migrations that are missing. Raises
    ShardsFixed if it has another number of shards than it is to have."""
    if url.startswith(POSTGRES_SCHEMES):
        from durably.store import postgres_schema

        return await postgres_schema.pending(url, config, shards)
    if shards is not None and shards != 1:
        raise ValueError("a store of several shards is one on PostgreSQL: --store postgresql://...")
    return sqlite_file.pending(sqlite_file.path_of(url))


async def migrate_store(url: str, config: Config, shards: int | None = None) -> None:
    """Bring a store up to date that no server has open; an empty database gets so many shards. Raises
    what `open_store` and `pending_migrations` raise."""
    if url.startswith(POSTGRES_SCHEMES):
        from durably.store import postgres_schema

        await postgres_schema.migrate_database(url, config, shards)
    else:
        await SqliteStore.open(url).close()


async def open_store(url: str, config: Config) -> Store:
    """Open `memory:`, `sqlite:///PATH` or `postgresql://...`, with its tables made or checked.

    Raises StoreLocked, StoreTooNew, StoreTooOld, ValueError for an unknown address, Unavailable if
    nothing answers there.
    """
    if url.startswith(POSTGRES_SCHEMES):
        from durably.store.postgres import PostgresStore

        return await PostgresStore.open(url, config)
    return SqliteStore.open(url)
