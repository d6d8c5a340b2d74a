"""The store on SQLite: one writer thread, group commit, reads beside it.

Rule 1: one thread writes. It takes every unit that is waiting and writes them in one transaction, so
        that one fsync serves many executions (WAL, synchronous=FULL).
Rule 2: within a group a unit that lost its race leaves no trace, and its neighbours are not touched:
        the compare-and-set of all its executions is checked before anything of it is written.
Rule 3: if the group cannot be committed, no unit of it is acknowledged.
Rule 4: a read that may be long never holds up the event loop, nor a load: point reads, bounded reads
        and searches of a file have connections of their own. In memory there is one connection, and
        reads wait for each other.
Rule 5: a file belongs to one server at a time: an advisory lock, which the system frees on any death.
"""

import asyncio
import fcntl
import json
import logging
import os
import queue
import sqlite3
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

from durably.errors import Unavailable
from durably.store.filter_dialects import SQLITE, Dialect
from durably.store.rows import (
    decode_page_token,
    indexed_values,
    page_token_after,
    task_row,
    task_values,
    visible,
    visible_values,
)
from durably.store.schema import migrations, refuse_newer
from durably.store.shards import ONE_SHARD
from durably.store.statements import (
    ADD_METADATA,
    AFTER_ROW,
    BACKLOG,
    BACKLOGS,
    CLOSED_RUNS,
    COUNT_BY_STATUS,
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
    LIST_ORDER,
    METADATA,
    NAMESPACES,
    NEXUS_ENDPOINTS,
    PUT_METADATA,
    PUT_QUEUE_CONFIG,
    QUEUE_CONFIG,
    READ_EXECUTION,
    READ_HEARTBEATS,
    READ_SNAPSHOT,
    READ_TAIL,
    ROW_OF_EVENT,
    UPDATE_NAMESPACE,
    UPDATE_NEXUS_ENDPOINT,
    VISIBLE_COLUMNS,
)
from durably.store.store import (
    ClosedRun,
    Commit,
    Conflict,
    Cursor,
    ExecutionWrite,
    Heartbeat,
    JournalRow,
    NamespaceRow,
    NexusEndpointRow,
    QueueBacklog,
    QueueKey,
    RunRow,
    StoredExecution,
    StoreLocked,
    TaskKind,
    TaskRow,
    VisibilityRow,
    VisibleExecution,
    Writes,
)
from durably.store.visibility_query import OPEN_LAST, ByAttribute, Query

logger = logging.getLogger(__name__)

R = TypeVar("R")
SHARD = 0
GROUP_UNITS_MAX = 512
CHECKPOINT_PAGES = 4096
"""Pages of 4 KiB in the write-ahead log before they are copied into the file: each copy writes a page
once, however often it changed meanwhile."""
LOADING_THREADS = 2
SEARCHING_THREADS = 2

# --- Statements, each with what it is for ---------------------------------------------------------

# The compare-and-set: the next version of an execution.
ADVANCE = """UPDATE executions SET version = ?, status = ?, next_event_id = ?, next_deadline_ns = ?
    WHERE shard = 0 AND execution_id = ? AND version = ?"""
# A new execution.
CREATE = """INSERT INTO executions (shard, execution_id, kind, namespace_id, workflow_id, run_id,
    version, status, next_event_id, next_deadline_ns) VALUES (0, ?, ?, ?, ?, ?, 1, ?, ?, ?)"""
# The run that a workflow id names is to be this one, if none is named yet.
CLAIM_CURRENT = """INSERT INTO current_runs (shard, namespace_id, kind, workflow_id, execution_id,
    run_id) VALUES (0, ?, ?, ?, ?, ?) ON CONFLICT DO NOTHING"""
# The same, in place of a certain other run.
REPLACE_CURRENT = """UPDATE current_runs SET execution_id = ?, run_id = ?
    WHERE shard = 0 AND namespace_id = ? AND kind = ? AND workflow_id = ? AND execution_id = ?"""
# What a commit added to the history and beside it.
APPEND = "INSERT INTO journal VALUES (0, ?, ?, ?, ?, ?)"
# The state, so that loading need not start at the beginning.
SNAPSHOT = "INSERT OR REPLACE INTO snapshots VALUES (0, ?, ?, ?)"
# The journal that a snapshot makes unnecessary.
FORGET_JOURNAL = "DELETE FROM journal WHERE shard = 0 AND execution_id = ? AND version <= ?"
# The last heartbeat of an activity.
HEARTBEAT = "INSERT OR REPLACE INTO heartbeats VALUES (0, ?, ?, ?, ?, ?, ?)"
# A task that no poller waited for.
ADD_TASK = f"INSERT INTO tasks VALUES (0, {', '.join('?' * 13)})"
# A task that a worker has started, or that is stale.
REMOVE_TASK = "DELETE FROM tasks WHERE shard = 0 AND task_id = ?"
# What lists and counts see; what never changes is not written again, nor are indexes of it alone.
SHOW = f"""INSERT INTO visibility VALUES (0, {", ".join("?" * 22)})
    ON CONFLICT (shard, execution_id) DO UPDATE SET workflow_type = excluded.workflow_type,
    task_queue = excluded.task_queue, status = excluded.status,
    execution_ns = excluded.execution_ns, close_ns = excluded.close_ns,
    history_length = excluded.history_length, history_size_bytes = excluded.history_size_bytes,
    state_transitions = excluded.state_transitions, memo = excluded.memo,
    search_attributes = excluded.search_attributes, search_values = excluded.search_values,
    sort_close_ns = excluded.sort_close_ns"""
# What is shown of an execution, as far as the values of its attributes are kept with it.
SHOWN = """SELECT namespace_id, kind, search_values, sort_close_ns, start_ns FROM visibility
    WHERE shard = 0 AND execution_id = ?"""
# One value of a search attribute.
ADD_VALUE = "INSERT OR REPLACE INTO attribute_values VALUES (0, ?, ?, ?, ?, ?, ?, ?, ?)"
REMOVE_VALUE = """DELETE FROM attribute_values WHERE shard = 0 AND namespace_id = ? AND kind = ?
    AND name = ? AND value = ? AND sort_close_ns = ? AND start_ns = ? AND execution_id = ?"""
# --- Opening --------------------------------------------------------------------------------------


def migrate(connection: sqlite3.Connection) -> None:
    """Bring the schema up to date, one transaction a migration. Raises StoreTooNew."""
    present = connection.execute("PRAGMA user_version").fetchone()[0]
    known = migrations()
    refuse_newer(present, known[-1][0])
    for version, sql in known:
        if version > present:
            connection.executescript(f"BEGIN;\n{sql}\nPRAGMA user_version = {version};\nCOMMIT;")
            logger.info("the schema was brought up to date", extra={"fields": {"schema": version}})


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


class _Readers:
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


# --- The writer's work ----------------------------------------------------------------------------


class _Work:
    """One thing for the writer: what to do in the transaction, and whom to tell."""

    __slots__ = ("done", "error", "loop", "write")

    def __init__(
        self, write: Callable[[sqlite3.Connection], None], done: asyncio.Future[None]
    ) -> None:
        self.write = write
        self.done = done
        self.loop = done.get_loop()
        self.error: BaseException | None = None


class SqliteStore:
    """One SQLite file, or `memory:`."""

    name = "sqlite"
    dialect: Dialect = SQLITE
    shared = False
    shards = ONE_SHARD

    def __init__(self, target: str, lock_descriptor: int | None = None) -> None:
        self._lock_descriptor = lock_descriptor
        self._writer = connect(target)
        migrate(self._writer)
        self._in_memory = target == ":memory:"
        self._reader = self._writer if self._in_memory else connect(target)
        self._reading = threading.RLock()
        self._loading: _Readers | None = None
        self._searching: _Readers | None = None
        if not self._in_memory:
            self._loading = _Readers(target, "durably-loading", LOADING_THREADS)
            self._searching = _Readers(target, "durably-searching", SEARCHING_THREADS)
        self._queue: queue.SimpleQueue[_Work | None] = queue.SimpleQueue()
        self._closed = False
        self.writes = Writes()
        self._thread = threading.Thread(target=self._run, name="durably-writer", daemon=True)
        self._thread.start()

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
        return self._submit(lambda connection: _write_unit(connection, unit))

    def delete_execution(self, execution_id: int) -> asyncio.Future[None]:
        def delete(connection: sqlite3.Connection) -> None:
            _forget_values(connection.execute, execution_id)
            for statement in DELETE_EXECUTION:
                connection.execute(statement, (execution_id,))

        return self._submit(delete)

    def put_namespace(self, row: NamespaceRow, expected_version: int) -> asyncio.Future[None]:
        def put(connection: sqlite3.Connection) -> None:
            if expected_version == 0:
                values: tuple[object, ...] = (
                    row.namespace_id,
                    row.name,
                    row.version,
                    row.record,
                )
                written = connection.execute(CREATE_NAMESPACE, values)
            else:
                values = (
                    row.name,
                    row.version,
                    row.record,
                    row.namespace_id,
                    expected_version,
                )
                written = connection.execute(UPDATE_NAMESPACE, values)
            if written.rowcount != 1:
                raise Conflict

        return self._submit(put)

    def delete_namespace(self, namespace_id: str) -> asyncio.Future[None]:
        def delete(connection: sqlite3.Connection) -> None:
            for statement in DELETE_NAMESPACE:
                connection.execute(statement, (namespace_id,))

        return self._submit(delete)

    def put_nexus_endpoint(
        self, row: NexusEndpointRow, expected_version: int
    ) -> asyncio.Future[None]:
        def put(connection: sqlite3.Connection) -> None:
            if expected_version == 0:
                created = (row.endpoint_id, row.name, row.version, row.record)
                written = connection.execute(CREATE_NEXUS_ENDPOINT, created)
            else:
                changed = (row.name, row.version, row.record, row.endpoint_id, expected_version)
                try:
                    written = connection.execute(UPDATE_NEXUS_ENDPOINT, changed)
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
        done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        if self._closed:
            done.set_exception(Unavailable("the server is shutting down"))
        else:
            self._queue.put(_Work(write, done))
        return done

    def _run(self) -> None:
        while True:
            first = self._queue.get()
            if first is None:
                return
            group = [first]
            stop = False
            while len(group) < GROUP_UNITS_MAX and not stop:
                try:
                    following = self._queue.get_nowait()
                except queue.Empty:
                    break
                if following is None:
                    stop = True
                else:
                    group.append(following)
            self._write_group(group)
            if stop:
                return

    def _write_group(self, group: list[_Work]) -> None:
        """One transaction for the whole group; then every waiter hears of it at once."""
        began_s = time.perf_counter()
        try:
            with self._reading if self._in_memory else _NO_LOCK:
                self._writer.execute("BEGIN IMMEDIATE")
                for work in group:
                    _attempt(self._writer, work)
                self._writer.execute("COMMIT")
            self._count(group, time.perf_counter() - began_s)
        except BaseException as error:
            self._roll_back(group, error)
        group[0].loop.call_soon_threadsafe(_resolve, group)

    def _count(self, group: list[_Work], seconds: float) -> None:
        self.writes.seconds.observe(seconds)
        self.writes.units.observe(len(group))
        for work in group:
            if work.error is not None:
                self.writes.conflicts += 1

    def _roll_back(self, group: list[_Work], error: BaseException) -> None:
        logger.error("commit of %d units failed: %s", len(group), error)
        if self._writer.in_transaction:
            try:
                self._writer.execute("ROLLBACK")
            except sqlite3.Error:
                logger.exception("rollback failed")
        refusal = Unavailable(
            f"the store cannot write ({error}): free some disk space or mend the disk, then try again"
        )
        for work in group:
            work.error = refusal
        self.writes.failed_units += len(group)

    # --- Reading ------------------------------------------------------------------------------

    async def load(self, execution_id: int) -> StoredExecution | None:
        return await self._read_aside(self._loading, lambda c: _load(c, execution_id))

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
            lambda c: _events(c, EVENTS_FORWARD, execution_id, first_event_id, bytes_max),
        )

    async def read_events_reverse(
        self, execution_id: int, last_event_id: int, bytes_max: int
    ) -> list[JournalRow]:
        return await self._read_aside(
            self._loading,
            lambda c: _events(c, EVENTS_BACKWARD, execution_id, last_event_id, bytes_max),
        )

    async def read_journal(
        self, execution_id: int, after_version: int, bytes_max: int
    ) -> list[JournalRow]:
        return await self._read_aside(
            self._searching, lambda c: _journal(c, execution_id, after_version, bytes_max)
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
            lambda c: _list(c, kind, namespace_id, query, page_size, page_token),
        )

    async def count_executions(
        self, kind: int, namespace_id: str, query: Query
    ) -> list[tuple[object, int]]:
        return await self._read_aside(
            self._searching, lambda c: _count(c, kind, namespace_id, query)
        )

    async def _read_aside(
        self, readers: _Readers | None, read: Callable[[sqlite3.Connection], R]
    ) -> R:
        """A read that may be long, in a thread."""
        if readers is None:
            return await asyncio.to_thread(self._read, read)
        try:
            return await readers.read(read)
        except sqlite3.OperationalError as error:
            if not self._closed:
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
        if self._closed:
            return
        self._closed = True
        self._queue.put(None)
        await asyncio.to_thread(self._thread.join)
        for readers in (self._loading, self._searching):
            if readers is not None:
                await asyncio.to_thread(readers.close)
        if not self._in_memory:
            self._reader.close()
            self._writer.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        with self._reading:  # In memory, a thread may still read for somebody who was cancelled.
            self._writer.close()
        if self._lock_descriptor is not None:
            os.close(self._lock_descriptor)


class _NoLock:
    def __enter__(self) -> None: ...

    def __exit__(self, *_: object) -> None: ...


_NO_LOCK = _NoLock()


def _attempt(connection: sqlite3.Connection, work: _Work) -> None:
    """A lost race concerns its unit alone; any other error ends the group."""
    try:
        work.write(connection)
    except Conflict as conflict:
        work.error = conflict


def _resolve(group: list[_Work]) -> None:
    for work in group:
        if work.done.cancelled():
            continue
        if work.error is None:
            work.done.set_result(None)
        else:
            work.done.set_exception(work.error)


def _write_unit(connection: sqlite3.Connection, unit: Commit) -> None:
    """All of a unit, or nothing of it and Conflict."""
    execute = connection.execute
    if len(unit.writes) == 1 and unit.writes[0].expected_version:
        # The common case needs no savepoint: the compare-and-set is its first statement.
        _advance(execute, unit.writes[0])
    else:
        execute("SAVEPOINT unit")
        try:
            for write in unit.writes:
                _advance(execute, write)
        except Conflict:
            execute("ROLLBACK TO unit")
            execute("RELEASE unit")
            raise
        execute("RELEASE unit")
    for write in unit.writes:
        _write_rest(execute, write)
    for task in unit.tasks_added:
        execute(ADD_TASK, task_values(task))
    for task_id in unit.tasks_removed:
        execute(REMOVE_TASK, (task_id,))


Execute = Callable[..., sqlite3.Cursor]


def _advance(execute: Execute, write: ExecutionWrite) -> None:
    if write.expected_version:
        values = (
            write.expected_version + 1,
            write.status,
            write.next_event_id,
            write.next_deadline_ns,
            write.execution_id,
            write.expected_version,
        )
        if execute(ADVANCE, values).rowcount != 1:
            raise Conflict
        return
    _claim_current(execute, write)
    try:
        execute(
            CREATE,
            (
                write.execution_id,
                write.kind,
                write.namespace_id,
                write.workflow_id,
                write.run_id,
                write.status,
                write.next_event_id,
                write.next_deadline_ns,
            ),
        )
    except sqlite3.IntegrityError as error:
        raise Conflict from error


def _claim_current(execute: Execute, write: ExecutionWrite) -> None:
    if write.replaces_current is None:
        return
    key = (write.namespace_id, write.kind, write.workflow_id)
    if write.replaces_current == 0:
        claimed = execute(CLAIM_CURRENT, (*key, write.execution_id, write.run_id))
    else:
        values = (write.execution_id, write.run_id, *key, write.replaces_current)
        claimed = execute(REPLACE_CURRENT, values)
    if claimed.rowcount != 1:
        raise Conflict


def _write_rest(execute: Execute, write: ExecutionWrite) -> None:
    version = write.expected_version + 1
    if write.events or write.records:
        values = (
            write.execution_id,
            version,
            write.first_event_id,
            write.events,
            write.records,
        )
        execute(APPEND, values)
    if write.snapshot:
        execute(SNAPSHOT, (write.execution_id, version, write.snapshot))
        if write.forgets_journal:
            execute(FORGET_JOURNAL, (write.execution_id, version))
    for beat in write.heartbeats:
        execute(
            HEARTBEAT,
            (
                write.execution_id,
                beat.scheduled_event_id,
                beat.attempt,
                beat.at_ns,
                beat.details,
                beat.total,
            ),
        )
    if write.visibility is not None:
        _show(execute, write, write.visibility)


def _show(execute: Execute, write: ExecutionWrite, row: VisibilityRow) -> None:
    if write.expected_version:
        _forget_values(execute, write.execution_id)
    execute(SHOW, visible_values(write, row))
    for name, value in indexed_values(row.search_values):
        key = (write.namespace_id, write.kind, name, value)
        execute(
            ADD_VALUE,
            (*key, row.close_ns or OPEN_LAST, row.start_ns, write.execution_id, row.status),
        )


def _forget_values(execute: Execute, execution_id: int) -> None:
    """Remove the values of its attributes, as they were shown last."""
    shown = execute(SHOWN, (execution_id,)).fetchone()
    if shown is None or shown[2] == "{}":
        return
    namespace_id, kind, values, sort_close_ns, start_ns = shown
    for name, value in indexed_values(json.loads(values)):
        execute(
            REMOVE_VALUE,
            (namespace_id, kind, name, value, sort_close_ns, start_ns, execution_id),
        )


def _load(connection: sqlite3.Connection, execution_id: int) -> StoredExecution | None:
    """Everything about one execution, read in one transaction."""
    in_transaction = connection.in_transaction
    if not in_transaction:
        connection.execute("BEGIN")
    try:
        row = connection.execute(READ_EXECUTION, (execution_id,)).fetchone()
        if row is None:
            return None
        found = connection.execute(READ_SNAPSHOT, (execution_id,)).fetchone()
        snapshot_version, snapshot = found or (0, b"")
        tail = connection.execute(READ_TAIL, (execution_id, snapshot_version, row[4])).fetchall()
        beats = connection.execute(READ_HEARTBEATS, (execution_id,)).fetchall()
    finally:
        if not in_transaction:
            connection.execute("COMMIT")
    return StoredExecution(
        execution_id=execution_id,
        kind=row[0],
        namespace_id=row[1],
        workflow_id=row[2],
        run_id=row[3],
        version=row[4],
        status=row[5],
        next_event_id=row[6],
        next_deadline_ns=row[7],
        snapshot=snapshot,
        snapshot_version=snapshot_version,
        journal=[JournalRow(*each) for each in tail],
        heartbeats=[Heartbeat(*each) for each in beats],
    )


def _events(
    connection: sqlite3.Connection,
    sql: str,
    execution_id: int,
    event_id: int,
    bytes_max: int,
) -> list[JournalRow]:
    found = connection.execute(ROW_OF_EVENT, (execution_id, event_id)).fetchone()
    if found is None:
        return []
    rows: list[JournalRow] = []
    total = 0
    cursor = connection.execute(sql, (execution_id, found[0]))
    for version, first_event_id, events in cursor:
        total += len(events)
        if rows and total > bytes_max:
            break
        rows.append(JournalRow(version, first_event_id, events, b""))
    cursor.close()
    return rows


def _journal(
    connection: sqlite3.Connection, execution_id: int, after_version: int, bytes_max: int
) -> list[JournalRow]:
    rows: list[JournalRow] = []
    total = 0
    cursor = connection.execute(READ_TAIL, (execution_id, after_version, 2**62))
    for values in cursor:
        row = JournalRow(*values)
        total += len(row.events) + len(row.records)
        if rows and total > bytes_max:
            break
        rows.append(row)
    cursor.close()
    return rows


SEVERAL_VALUES = 10_000
"""So many rows of an attribute's value are counted to find which of several is the rarest."""


def _found_by(
    connection: sqlite3.Connection, kind: int, namespace_id: str, query: Query
) -> tuple[str, str, list[object]]:
    """Where to look for what is asked, the condition there, and its values."""
    way = _rarest(connection, kind, namespace_id, query.by_attribute)
    if way is None:
        condition, asked = query.sql, query.values
        source, sql = "visibility", "namespace_id = ? AND kind = ?"
        values: list[object] = [namespace_id, kind]
    else:
        condition, asked = way.rest, way.rest_values
        source, sql, values = _of_attribute(kind, namespace_id, way)
        if not way.copied:
            source += """ CROSS JOIN visibility USING
                (shard, namespace_id, kind, sort_close_ns, start_ns, execution_id, status)"""
    return source, f"{sql} AND ({condition})" if condition else sql, [*values, *asked]


def _of_attribute(kind: int, namespace_id: str, way: ByAttribute) -> tuple[str, str, list[object]]:
    sql = f"shard = 0 AND namespace_id = ? AND kind = ? AND name = ? AND {way.sql}"
    return "attribute_values", sql, [namespace_id, kind, way.name, *way.values]


def _rarest(
    connection: sqlite3.Connection, kind: int, namespace_id: str, ways: tuple[ByAttribute, ...]
) -> ByAttribute | None:
    """The way with the fewest rows to look at."""
    if len(ways) < 2:
        return ways[0] if ways else None

    def rows(way: ByAttribute) -> int:
        source, sql, values = _of_attribute(kind, namespace_id, way)
        some = f"SELECT 1 FROM {source} WHERE {sql} LIMIT {SEVERAL_VALUES}"
        counted = connection.execute(f"SELECT count(*) FROM ({some})", values).fetchone()
        return int(counted[0])

    return min(ways, key=rows)


def _count(
    connection: sqlite3.Connection, kind: int, namespace_id: str, query: Query
) -> list[tuple[object, int]]:
    if query.group_by == "status" and not query.sql:
        counts = connection.execute(f"{COUNT_BY_STATUS} ORDER BY 2 DESC", (namespace_id, kind))
        return [(status, count) for status, count in counts if count]
    source, condition, values = _found_by(connection, kind, namespace_id, query)
    sql = f"SELECT {query.group_by or 'NULL'}, count(*) FROM {source} WHERE {condition}"
    if query.group_by:
        # Not in the order of an index: the condition decides where to look.
        sql += f" GROUP BY +{query.group_by} ORDER BY 2 DESC"
    return connection.execute(sql, values).fetchall()


def _list(
    connection: sqlite3.Connection,
    kind: int,
    namespace_id: str,
    query: Query,
    page_size: int,
    page_token: bytes,
) -> tuple[list[VisibleExecution], bytes]:
    source, sql, values = _found_by(connection, kind, namespace_id, query)
    if page_token:
        sql += f" AND {AFTER_ROW}"
        values += decode_page_token(page_token)
    # Which they are is found in an index, if it has all that is asked; only then rows are read.
    page = f"SELECT execution_id FROM {source} WHERE {sql} {LIST_ORDER} LIMIT ?"
    sql = f"""SELECT {VISIBLE_COLUMNS} FROM visibility WHERE shard = 0 AND execution_id IN ({page})
        {LIST_ORDER}"""
    values.append(page_size)
    rows = connection.execute(sql, values).fetchall()
    token = b""
    if len(rows) == page_size:
        token = page_token_after(rows[-1])
    return [visible(row) for row in rows], token
