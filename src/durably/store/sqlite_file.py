"""An SQLite file: how it is found, locked, opened and brought up to date; threads that read it.

Rule 1: a file belongs to one server at a time: an advisory lock, which the system frees on any death.
"""

import asyncio
import fcntl
import logging
import os
import sqlite3
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

from durably.store.schema import migrations, refuse_newer
from durably.store.store import StoreLocked

logger = logging.getLogger(__name__)
R = TypeVar("R")
CHECKPOINT_PAGES = 4096
"""Pages of 4 KiB in the write-ahead log before they are copied into the file: each copy writes a page
once, however often it changed meanwhile."""


def path_of(url: str) -> Path:
    """The file that an address means. Raises ValueError."""
    if not url.startswith("sqlite:///") or url == "sqlite:///":
        raise ValueError(f"unknown store {url!r}: use sqlite:///PATH, postgresql://... or memory:")
    return Path(url.removeprefix("sqlite:///")).expanduser()


def existing(path: Path) -> Path:
    """Raises FileNotFoundError."""
    if not path.exists():
        raise FileNotFoundError(f"there is no store at {path}")
    return path


def lock(path: Path) -> int:
    """Take the store's lock file; the descriptor holds it until it is closed, or its process ends."""
    descriptor = os.open(f"{path}.lock", os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        os.close(descriptor)
        raise StoreLocked(
            f"another durably server has {path} open; stop it first, or use another --store"
        ) from error
    return descriptor


def connect(target: str) -> sqlite3.Connection:
    connection = sqlite3.connect(
        target, isolation_level=None, check_same_thread=False, cached_statements=256
    )
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute("PRAGMA synchronous = FULL")
    connection.execute("PRAGMA cache_size = -65536")
    connection.execute(f"PRAGMA wal_autocheckpoint = {CHECKPOINT_PAGES}")
    connection.execute("PRAGMA temp_store = MEMORY")
    return connection


def migrate(connection: sqlite3.Connection) -> None:
    """Bring the schema up to date, one transaction a migration. Raises StoreTooNew."""
    present = connection.execute("PRAGMA user_version").fetchone()[0]
    known = migrations()
    refuse_newer(present, known[-1][0])
    for version, sql in known:
        if version > present:
            connection.executescript(f"BEGIN;\n{sql}\nPRAGMA user_version = {version};\nCOMMIT;")
            logger.info("the schema was brought up to date", extra={"fields": {"schema": version}})


def pending(path: Path) -> tuple[int, list[int]]:
    """The number of a file's schema, and the migrations that are missing. Raises StoreTooNew."""
    present = 0
    if path.exists():
        connection = sqlite3.connect(f"file:{path}?mode=ro", uri=True)
        present = connection.execute("PRAGMA user_version").fetchone()[0]
        connection.close()
    known = [version for version, _ in migrations()]
    refuse_newer(present, known[-1])
    return present, [version for version in known if version > present]


class Readers:
    """Threads that read a file, each over a connection of its own."""

    def __init__(self, target: str, name: str, threads: int) -> None:
        self._target = target
        self._own = threading.local()
        self._connections: list[sqlite3.Connection] = []
        self._threads = ThreadPoolExecutor(threads, name, initializer=self._connect)

    def _connect(self) -> None:
        self._own.connection = connect(self._target)
        self._connections.append(self._own.connection)

    async def read(self, read: Callable[[sqlite3.Connection], R]) -> R:
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._threads, lambda: read(self._own.connection))

    def close(self) -> None:
        """Cut off what is being read, and end the threads."""
        self._threads.shutdown(wait=False, cancel_futures=True)
        for connection in self._connections:
            connection.interrupt()
        self._threads.shutdown(wait=True)
        for connection in self._connections:
            connection.close()
