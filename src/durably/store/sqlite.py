"""The store on SQLite: one thread writes, others read beside it.

Rule 1: a read that may be long never holds up the event loop, nor a load: point reads, bounded reads
        and searches of a file have connections of their own. In memory there is one connection, and
        reads and writes wait for each other.
"""

import asyncio
import os
import sqlite3
import threading
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from typing import Any, TypeVar

from durably.errors import Unavailable
from durably.store.filter_dialects import SQLITE, Dialect
from durably.store.rows import task_row
from durably.store.shards import ONE_SHARD
from durably.store.sqlite_file import Readers, connect, lock, migrate, path_of
from durably.store.sqlite_reading import events_from, journal_after, load
from durably.store.sqlite_search import count, list_page
from durably.store.sqlite_unit import forget_values, write_unit
from durably.store.sqlite_writer import Writer
from durably.store.statements import (
    ADD_METADATA,
    BACKLOG,
    BACKLOGS,
    CLOSED_RUNS,
    CREATE_NAMESPACE,
    CREATE_NEXUS_ENDPOINT,
    CURRENT_RUN,
    DELETE_EXECUTION,
    DELETE_NAMESPACE,
    DELETE_NEXUS_ENDPOINT,
    DUE,
    EVENTS_BACKWARD,
    EVENTS_FORWARD,
    EXECUTIONS_OF,
    FIND_RUN,
    METADATA,
    NAMESPACES,
    NEXUS_ENDPOINTS,
    PUT_METADATA,
    PUT_QUEUE_CONFIG,
    QUEUE_CONFIG,
    UPDATE_NAMESPACE,
    UPDATE_NEXUS_ENDPOINT,
)
from durably.store.store import (
    ClosedRun,
    Commit,
    Conflict,
    Cursor,
    JournalRow,
    NamespaceRow,
    NexusEndpointRow,
    QueueBacklog,
    QueueKey,
    RunRow,
    StoredExecution,
    TaskKind,
    TaskRow,
    VisibleExecution,
    Writes,
)
from durably.store.visibility_query import Query

R = TypeVar("R")
LOADING_THREADS = 2
SEARCHING_THREADS = 2


class SqliteStore:
    """One SQLite file, or `memory:`."""

    name = "sqlite"
    dialect: Dialect = SQLITE
    shared = False
    shards = ONE_SHARD

    def __init__(self, target: str, lock_descriptor: int | None = None) -> None:
        self._lock_descriptor = lock_descriptor
        self._writing = connect(target)
        migrate(self._writing)
        self._in_memory = target == ":memory:"
        self._reader = self._writing if self._in_memory else connect(target)
        self._reading = threading.RLock()
        self._loading: Readers | None = None
        self._searching: Readers | None = None
        if not self._in_memory:
            self._loading = Readers(target, "durably-loading", LOADING_THREADS)
            self._searching = Readers(target, "durably-searching", SEARCHING_THREADS)
        self.writes = Writes()
        alone = self._reading if self._in_memory else nullcontext()
        self._writer = Writer(self._writing, self.writes, alone)

    @classmethod
    def open(cls, url: str) -> "SqliteStore":
        """Open `memory:` or `sqlite:///PATH` (`sqlite:////PATH` is absolute), creating or migrating
        it. Raises StoreLocked, StoreTooNew, ValueError."""
        if url == "memory:":
            return cls(":memory:")
        path = path_of(url)
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor = lock(path)
        try:
            return cls(str(path), descriptor)
        except BaseException:
            os.close(descriptor)
            raise

    # --- Writing ------------------------------------------------------------------------------

    def commit(self, unit: Commit) -> asyncio.Future[None]:
        return self._submit(lambda connection: write_unit(connection, unit))

    def delete_execution(self, execution_id: int) -> asyncio.Future[None]:
        def delete(connection: sqlite3.Connection) -> None:
            forget_values(connection.execute, execution_id)
            for statement in DELETE_EXECUTION:
                connection.execute(statement, (execution_id,))

        return self._submit(delete)

    def put_namespace(self, row: NamespaceRow, expected_version: int) -> asyncio.Future[None]:
        if expected_version == 0:
            created = (row.namespace_id, row.name, row.version, row.record)
            return self._put_named(CREATE_NAMESPACE, created)
        key = (row.namespace_id, expected_version)
        return self._put_named(UPDATE_NAMESPACE, (row.name, row.version, row.record, *key))

    def delete_namespace(self, namespace_id: str) -> asyncio.Future[None]:
        def delete(connection: sqlite3.Connection) -> None:
            for statement in DELETE_NAMESPACE:
                connection.execute(statement, (namespace_id,))

        return self._submit(delete)

    def put_nexus_endpoint(
        self, row: NexusEndpointRow, expected_version: int
    ) -> asyncio.Future[None]:
        if expected_version == 0:
            created = (row.endpoint_id, row.name, row.version, row.record)
            return self._put_named(CREATE_NEXUS_ENDPOINT, created)
        key = (row.endpoint_id, expected_version)
        return self._put_named(UPDATE_NEXUS_ENDPOINT, (row.name, row.version, row.record, *key))

    def _put_named(self, sql: str, values: tuple[object, ...]) -> asyncio.Future[None]:
        """Conflict if another was first, or has the name."""

        def put(connection: sqlite3.Connection) -> None:
            try:
                written = connection.execute(sql, values)
            except sqlite3.IntegrityError as error:
                raise Conflict from error
            if written.rowcount != 1:
                raise Conflict

        return self._submit(put)

    def delete_nexus_endpoint(self, endpoint_id: str) -> asyncio.Future[None]:
        def delete(connection: sqlite3.Connection) -> None:
            connection.execute(DELETE_NEXUS_ENDPOINT, (endpoint_id,))

        return self._submit(delete)

    def put_queue_config(self, queue: QueueKey, config: bytes) -> asyncio.Future[None]:
        values = (queue.namespace_id, int(queue.kind), queue.name, config)

        def put(connection: sqlite3.Connection) -> None:
            connection.execute(PUT_QUEUE_CONFIG, values)

        return self._submit(put)

    async def queue_config(self, queue: QueueKey) -> bytes | None:
        row = self._row(QUEUE_CONFIG, (queue.namespace_id, int(queue.kind), queue.name))
        return bytes(row[0]) if row else None

    def put_metadata(self, key: str, value: bytes, *, once: bool = False) -> asyncio.Future[None]:
        sql = ADD_METADATA if once else PUT_METADATA

        def put(connection: sqlite3.Connection) -> None:
            connection.execute(sql, (key, value))

        return self._submit(put)

    def _submit(self, write: Callable[[sqlite3.Connection], None]) -> asyncio.Future[None]:
        return self._writer.submit(write)

    # --- Reading ------------------------------------------------------------------------------

    async def load(self, execution_id: int) -> StoredExecution | None:
        return await self._read_aside(self._loading, lambda c: load(c, execution_id))

    async def find_run(
        self, kind: int, namespace_id: str, workflow_id: str, run_id: str
    ) -> RunRow | None:
        row = self._row(FIND_RUN, (namespace_id, kind, workflow_id, run_id))
        return RunRow(*row) if row else None

    async def current_run(self, kind: int, namespace_id: str, workflow_id: str) -> RunRow | None:
        row = self._row(CURRENT_RUN, (namespace_id, kind, workflow_id))
        return RunRow(*row) if row else None

    async def read_events(
        self, execution_id: int, first_event_id: int, bytes_max: int
    ) -> list[JournalRow]:
        return await self._read_aside(
            self._loading,
            lambda c: events_from(c, EVENTS_FORWARD, execution_id, first_event_id, bytes_max),
        )

    async def read_events_reverse(
        self, execution_id: int, last_event_id: int, bytes_max: int
    ) -> list[JournalRow]:
        return await self._read_aside(
            self._loading,
            lambda c: events_from(c, EVENTS_BACKWARD, execution_id, last_event_id, bytes_max),
        )

    async def read_journal(
        self, execution_id: int, after_version: int, bytes_max: int
    ) -> list[JournalRow]:
        return await self._read_aside(
            self._searching, lambda c: journal_after(c, execution_id, after_version, bytes_max)
        )

    async def closed_runs(
        self, kind: int, namespace_id: str, after: Cursor, before_ns: int, limit: int
    ) -> list[ClosedRun]:
        values = (namespace_id, kind, after[0], before_ns, *after, limit)
        rows = await self._read_aside(
            self._searching, lambda c: c.execute(CLOSED_RUNS, values).fetchall()
        )
        return [ClosedRun(row[0], row[1], row[2], (row[3], row[4], row[0])) for row in rows]

    async def due(self, before_ns: int, limit: int) -> list[tuple[int, int]]:
        return await self._read_aside(
            self._loading, lambda c: c.execute(DUE, (before_ns, limit)).fetchall()
        )

    async def backlog(self, queue: QueueKey, after_task_id: int, limit: int) -> list[TaskRow]:
        key = (queue.namespace_id, int(queue.kind), queue.name, after_task_id, limit)
        rows = self._rows(BACKLOG, key)
        return [task_row(queue, row) for row in rows]

    async def backlogs(self) -> list[QueueBacklog]:
        rows = await self._read_aside(self._searching, lambda c: c.execute(BACKLOGS).fetchall())
        return [
            QueueBacklog(QueueKey(row[0], TaskKind(row[1]), row[2]), row[3], row[4], bool(row[5]))
            for row in rows
        ]

    async def executions_of(self, namespace_id: str, limit: int) -> list[int]:
        return [row[0] for row in self._rows(EXECUTIONS_OF, (namespace_id, limit))]

    async def namespaces(self) -> list[NamespaceRow]:
        return [NamespaceRow(*row) for row in self._rows(NAMESPACES, ())]

    async def nexus_endpoints(self) -> list[NexusEndpointRow]:
        return [NexusEndpointRow(*row) for row in self._rows(NEXUS_ENDPOINTS, ())]

    async def metadata(self, key: str) -> bytes | None:
        row = self._row(METADATA, (key,))
        return bytes(row[0]) if row else None

    async def list_executions(
        self, kind: int, namespace_id: str, query: Query, page_size: int, page_token: bytes
    ) -> tuple[list[VisibleExecution], bytes]:
        return await self._read_aside(
            self._searching,
            lambda c: list_page(c, kind, namespace_id, query, page_size, page_token),
        )

    async def count_executions(
        self, kind: int, namespace_id: str, query: Query
    ) -> list[tuple[object, int]]:
        return await self._read_aside(
            self._searching, lambda c: count(c, kind, namespace_id, query)
        )

    async def _read_aside(
        self, readers: Readers | None, read: Callable[[sqlite3.Connection], R]
    ) -> R:
        """A read that may be long, in a thread."""
        if readers is None:
            return await asyncio.to_thread(self._read, read)
        try:
            return await readers.read(read)
        except sqlite3.OperationalError as error:
            if not self._writer.stopped:
                raise
            raise Unavailable("the server is shutting down") from error

    def _read(self, read: Callable[[sqlite3.Connection], R]) -> R:
        with self._reading:
            return read(self._reader)

    def _row(self, sql: str, values: Sequence[object]) -> Any:
        """A point read takes microseconds: less than a hop to a thread."""
        with self._reading:
            return self._reader.execute(sql, values).fetchone()

    def _rows(self, sql: str, values: Sequence[object]) -> list[Any]:
        with self._reading:
            return self._reader.execute(sql, values).fetchall()

    async def close(self) -> None:
        """Write what is waiting, then release the file."""
        if self._writer.stopped:
            return
        self._writer.stop()
        await asyncio.to_thread(self._writer.join)
        for readers in (self._loading, self._searching):
            if readers is not None:
                await asyncio.to_thread(readers.close)
        if not self._in_memory:
            self._reader.close()
            self._writing.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        with self._reading:  # In memory, a thread may still read for somebody who was cancelled.
            self._writing.close()
        if self._lock_descriptor is not None:
            os.close(self._lock_descriptor)
