"""Which store an address means.

Rule 1: a database is loaded only if it is used.
"""

from durably.config import Config
from durably.store import sqlite
from durably.store.sqlite import SqliteStore
from durably.store.store import Store

POSTGRES_SCHEMES = ("postgresql://", "postgres://")


async def pending_migrations(url: str, config: Config) -> tuple[int, list[int]]:
    """The number of a store's schema (0: it is empty), and the migrations that are missing."""
    if url.startswith(POSTGRES_SCHEMES):
        from durably.store import postgres

        return await postgres.pending(url, config)
    return sqlite.pending(sqlite.path_of(url))


async def migrate_store(url: str, config: Config) -> None:
    """Bring a store up to date that no server has open. Raises what `open_store` raises."""
    if url.startswith(POSTGRES_SCHEMES):
        from durably.store import postgres

        await postgres.migrate_database(url, config)
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
