"""Which store an address means.

Rule 1: a database is loaded only if it is used.
"""

from durably.config import Config
from durably.store.sqlite import SqliteStore
from durably.store.store import Store

POSTGRES_SCHEMES = ("postgresql://", "postgres://")


async def open_store(url: str, config: Config) -> Store:
    """Open `memory:`, `sqlite:///PATH` or `postgresql://...`, with its tables made or checked.

    Raises StoreLocked, StoreTooNew, StoreTooOld, ValueError for an unknown address, Unavailable if
    nothing answers there.
    """
    if url.startswith(POSTGRES_SCHEMES):
        from durably.store.postgres import PostgresStore

        return await PostgresStore.open(url, config)
    return SqliteStore.open(url)
