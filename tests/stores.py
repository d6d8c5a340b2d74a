"""What is in a store, read past the server: an SQLite file or a PostgreSQL database."""

import sqlite3
from typing import Any

import asyncpg

from tests.postgres import elsewhere

OF_SERVERS = frozenset(("nodes", "pollers", "letters", "nexus_requests", "worker_heartbeats"))
"""What servers say of themselves, whether or not anything is asked of them."""


def dump(url: str) -> dict[str, list[tuple[Any, ...]]]:
    """All rows of every table."""
    if url.startswith("postgresql://"):
        return elsewhere(lambda: _dump_postgres(url))
    path = url.removeprefix("sqlite:///")
    store = sqlite3.connect(f"file:{path}?mode=ro", uri=True)
    try:
        tables = store.execute(
            "SELECT name FROM sqlite_master WHERE type = 'table' AND name NOT LIKE 'sqlite_%'"
        ).fetchall()
        return {name: store.execute(f"SELECT * FROM {name}").fetchall() for (name,) in tables}
    finally:
        store.close()


async def _dump_postgres(url: str) -> dict[str, list[tuple[Any, ...]]]:
    connection = await asyncpg.connect(url)
    try:
        tables = await connection.fetch(
            "SELECT tablename FROM pg_tables WHERE schemaname = 'public' ORDER BY tablename"
        )
        return {
            name: sorted(map(tuple, await connection.fetch(f"SELECT * FROM {name}")))
            for (name,) in tables
            if name not in OF_SERVERS
        }
    finally:
        await connection.close()
