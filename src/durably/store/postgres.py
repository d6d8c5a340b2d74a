"""The store on PostgreSQL, which several servers may share: group commit, reads from a pool.

Rule 1: one connection writes. It takes every unit that is waiting and writes them with one statement,
        in one round trip; meanwhile the next ones gather.
Rule 2: a lost race concerns its unit alone. A group that would be torn is written unit by unit.
Rule 3: when a connection breaks in the middle of a commit, the group is written again: what it wrote
        the first time is known by its tag. What cannot be known is Unavailable, never acknowledged.
Rule 4: connections come back by themselves, after pauses that grow and differ; who waits longer than
        `postgres_unavailable_s` is told so.
Rule 5: nothing here needs a session of its own but `listen`: everything else goes through PgBouncer in
        transaction mode (`postgres_prepared_statements=0` where that does not keep statements).
"""

import asyncio
import contextlib
import json
import logging
import os
import random
import time
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Any, TypeVar

import asyncpg

from durably.config import Config
from durably.errors import InvalidArgument, Refusal, Unavailable
from durably.logs import without_password
from durably.store.filter_dialects import POSTGRES, Dialect
from durably.store.postgres_group import Group, alone, won_of
from durably.store.rows import decode_page_token, page_token_after, task_row, visible
from durably.store.schema import migrations, refuse_newer
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
    READ_TAIL,
    ROW_OF_EVENT,
    UPDATE_NAMESPACE,
    UPDATE_NEXUS_ENDPOINT,
    VISIBLE_COLUMNS,
    numbered,
)
from durably.store.store import (
    ClosedRun,
    Commit,
    Conflict,
    Cursor,
    Heartbeat,
    JournalRow,
    NamespaceRow,
    NexusEndpointRow,
    QueueBacklog,
    QueueKey,
    RunRow,
    StoredExecution,
    StoreTooOld,
    TaskKind,
    TaskRow,
    VisibleExecution,
    Writes,
)
from durably.store.visibility_query import Query

logger = logging.getLogger(__name__)

R = TypeVar("R")
Connection = Any
"""An asyncpg.Connection, or what its pool lends: asyncpg has no types."""

SEARCHING_CONNECTIONS_MAX = 2
FIRST_PAUSE_S = 0.05
LAST_PAUSE_S = 2.0
DELETED_TOGETHER_MAX = 500
EVENTS_PAGE_ROWS = 64
VERSION_MAX = 2**62

# --- Statements, each with what it is for ---------------------------------------------------------

# All that is needed to bring an execution back, after a version that is known already ($2, or 0): one
# statement, so that it is of one moment.
LOAD = """SELECT e.kind, e.namespace_id, e.workflow_id, e.run_id, e.version, e.status,
        e.next_event_id, e.next_deadline_ns, s.version, s.state, j.versions, j.first_event_ids, j.events,
        j.records, h.scheduled_event_ids, h.attempts, h.at_ns, h.details, h.totals
    FROM executions e
    LEFT JOIN snapshots s ON $2 = 0 AND s.shard = 0 AND s.execution_id = e.execution_id
    LEFT JOIN LATERAL (SELECT array_agg(version ORDER BY version) AS versions,
            array_agg(first_event_id ORDER BY version) AS first_event_ids,
            array_agg(events ORDER BY version) AS events,
            array_agg(records ORDER BY version) AS records
        FROM journal WHERE shard = 0 AND execution_id = e.execution_id
            AND version > greatest(coalesce(s.version, 0), $2) AND version <= e.version) j ON TRUE
    LEFT JOIN LATERAL (SELECT array_agg(scheduled_event_id) AS scheduled_event_ids,
            array_agg(attempt) AS attempts, array_agg(at_ns) AS at_ns,
            array_agg(details) AS details, array_agg(total) AS totals
        FROM heartbeats WHERE shard = 0 AND execution_id = e.execution_id) h ON TRUE
    WHERE e.shard = 0 AND e.execution_id = $1"""
# Which of these executions a certain group commit wrote last.
WRITTEN_BY = """SELECT execution_id FROM executions
    WHERE shard = 0 AND execution_id = ANY($1::bigint[]) AND written_by = $2"""
# Executions and all that is stored of them.
DELETE_EXECUTIONS = """WITH
    journal AS (DELETE FROM journal WHERE shard = 0 AND execution_id = ANY($1::bigint[])),
    snapshots AS (DELETE FROM snapshots WHERE shard = 0 AND execution_id = ANY($1::bigint[])),
    heartbeats AS (DELETE FROM heartbeats WHERE shard = 0 AND execution_id = ANY($1::bigint[])),
    visibility AS (DELETE FROM visibility WHERE shard = 0 AND execution_id = ANY($1::bigint[])),
    tasks AS (DELETE FROM tasks WHERE shard = 0 AND execution_id = ANY($1::bigint[])),
    current_runs AS (DELETE FROM current_runs c USING executions e WHERE e.shard = 0
        AND e.execution_id = ANY($1::bigint[]) AND c.shard = 0 AND c.namespace_id = e.namespace_id
        AND c.kind = e.kind AND c.workflow_id = e.workflow_id AND c.execution_id = e.execution_id)
    DELETE FROM executions WHERE shard = 0 AND execution_id = ANY($1::bigint[])"""
# The number of the schema, if there is one.
HAS_SCHEMA = """SELECT EXISTS (SELECT 1 FROM pg_tables WHERE tablename = 'schema_version'
    AND schemaname = ANY(current_schemas(FALSE)))"""
SCHEMA = "SELECT max(version) FROM schema_version"
CREATE_SCHEMA = "CREATE TABLE schema_version (version INTEGER PRIMARY KEY)"
PUT_SCHEMA = "INSERT INTO schema_version VALUES ($1)"
# One migrates at a time.
MIGRATING = "SELECT pg_advisory_xact_lock(7233, 1)"


# --- Opening --------------------------------------------------------------------------------------


async def present_schema(connection: Connection) -> int:
    """The number of the schema; 0: the database is empty."""
    if not await connection.fetchval(HAS_SCHEMA):
        return 0
    return int(await connection.fetchval(SCHEMA) or 0)


async def migrate(connection: Connection) -> list[int]:
    """Bring the schema up to date, all of it or nothing; the numbers that were added. Raises
    StoreTooNew."""
    known = migrations("postgres")
    async with connection.transaction():
        await connection.execute(MIGRATING)
        present = await present_schema(connection)
        refuse_newer(present, known[-1][0])
        if not present:
            await connection.execute(CREATE_SCHEMA)
        added = [(version, sql) for version, sql in known if version > present]
        for version, sql in added:
            await connection.execute(sql)
            await connection.execute(PUT_SCHEMA, version)
    return [version for version, _ in added]


async def _check_schema(connection: Connection, url: str) -> None:
    """An empty database gets its tables; an old one is brought up to date by whoever runs it."""
    known = migrations("postgres")[-1][0]
    present = await present_schema(connection)
    refuse_newer(present, known)
    if not present:
        await migrate(connection)
    elif present < known:
        raise StoreTooOld(
            f"this store has schema {present}, and this version of durably needs {known}:"
            f" run `durably migrate --store {without_password(url)}`"
        )


async def pending(url: str, config: Config) -> tuple[int, list[int]]:
    """The number of the schema, and the migrations that are missing. Raises StoreTooNew, Unavailable."""
    async with _opened(url, config) as connection:
        present = await present_schema(connection)
        known = [version for version, _ in migrations("postgres")]
        refuse_newer(present, known[-1])
        return present, [version for version in known if version > present]


async def migrate_database(url: str, config: Config) -> list[int]:
    """Bring a database up to date; the migrations that were missing. Raises StoreTooNew, Unavailable."""
    async with _opened(url, config) as connection:
        return await migrate(connection)


@contextlib.asynccontextmanager
async def _opened(url: str, config: Config) -> AsyncIterator[Connection]:
    try:
        connection = await Connector(url, config).connect()
    except (*BROKEN, asyncpg.PostgresError) as error:
        raise Unavailable(f"cannot open {without_password(url)}: {error}") from error
    try:
        yield connection
    finally:
        await _close(connection)


class _Connection(asyncpg.Connection):  # type: ignore[misc]
    """A connection that leaves nothing to clean up: giving it back to its pool costs no round trip."""

    def get_reset_query(self) -> str:
        return ""


class Connector:
    """Opens connections, again and again if need be."""

    def __init__(self, url: str, config: Config) -> None:
        self._url = url
        self._config = config

    def arguments(self) -> dict[str, Any]:
        prepared = self._config.postgres_prepared_statements
        arguments: dict[str, Any] = {
            "dsn": self._url,
            "connection_class": _Connection,
            "statement_cache_size": prepared,
            "command_timeout": self._config.postgres_statement_timeout_s,
            "timeout": self._config.postgres_statement_timeout_s,
        }
        if prepared:
            arguments["server_settings"] = {"application_name": "durably"}
        return arguments

    async def connect(self, url: str = "") -> Connection:
        """To the store; to `url` if one is given."""
        arguments = self.arguments()
        return await asyncpg.connect(**(arguments | {"dsn": url} if url else arguments))

    def pool(self, connections_max: int) -> Any:
        return asyncpg.create_pool(
            **self.arguments(),
            min_size=0,
            max_size=connections_max,
            max_inactive_connection_lifetime=60.0,
        )


def pauses() -> Iterable[float]:
    """How long to wait before each new try, in seconds: longer and longer, and never the same."""
    pause_s = FIRST_PAUSE_S
    while True:
        yield pause_s * random.uniform(0.5, 1.0)
        pause_s = min(2 * pause_s, LAST_PAUSE_S)


# What says that a connection, or its server, is gone, and that another may do.
BROKEN = (
    OSError,
    asyncpg.PostgresConnectionError,
    asyncpg.OperatorInterventionError,
    asyncpg.TooManyConnectionsError,
    asyncpg.InterfaceError,
    asyncpg.InternalClientError,
)
# What the server has undone whole, and may well do if it is asked again.
UNDONE = (asyncpg.DeadlockDetectedError, asyncpg.SerializationError, asyncpg.LockNotAvailableError)
# What concerns one unit of a group, which then has to be found.
OF_ONE_UNIT = (
    asyncpg.IntegrityConstraintViolationError,
    asyncpg.DataError,
)


# --- The writer's work ----------------------------------------------------------------------------


@dataclass(slots=True, eq=False)
class _Unit:
    unit: Commit
    done: asyncio.Future[None]


@dataclass(slots=True, eq=False)
class _Deletion:
    execution_id: int
    done: asyncio.Future[None]


@dataclass(slots=True, eq=False)
class _Errand:
    """Anything else that is written: done in its turn, in a transaction of its own."""

    write: Callable[[Connection], Awaitable[None]]
    done: asyncio.Future[None]


_Work = _Unit | _Deletion | _Errand


class PostgresStore:
    """One PostgreSQL database."""

    name = "postgres"
    dialect: Dialect = POSTGRES
    shared = True

    def __init__(self, url: str, config: Config) -> None:
        self.connector = Connector(url, config)
        self.writes = Writes()
        self.node = 0
        """The number of this server among those that share the store; 0: it has none yet."""
        self._unavailable_s = config.postgres_unavailable_s
        self._queue: deque[_Work] = deque()
        self._wanted = asyncio.Event()
        self._closing = False
        self._writing: Connection = None
        self._pool: Any = None
        self._searching: Any = None
        self._writer: asyncio.Task[None] | None = None

    @classmethod
    async def open(cls, url: str, config: Config) -> "PostgresStore":
        """Open `postgresql://...`; an empty database gets its tables. Raises StoreTooNew, StoreTooOld,
        Unavailable if nothing answers there."""
        store = cls(url, config)
        async with _opened(url, config) as connection:
            await _check_schema(connection, url)
        try:
            store._pool = await store.connector.pool(config.postgres_reading_connections_max)
            store._searching = await store.connector.pool(SEARCHING_CONNECTIONS_MAX)
        except (*BROKEN, asyncpg.PostgresError) as error:
            raise Unavailable(f"cannot open {without_password(url)}: {error}") from error
        store._writer = asyncio.create_task(store._run(), name="postgres writer")
        return store

    # --- Writing ------------------------------------------------------------------------------

    def commit(self, unit: Commit) -> asyncio.Future[None]:
        done = self._future()
        return self._submit(_Unit(unit, done), done)

    def delete_execution(self, execution_id: int) -> asyncio.Future[None]:
        done = self._future()
        return self._submit(_Deletion(execution_id, done), done)

    def put_namespace(self, row: NamespaceRow, expected_version: int) -> asyncio.Future[None]:
        if expected_version == 0:
            created = (row.namespace_id, row.name, row.version, row.record)
            return self._put_named(CREATE_NAMESPACE, created)
        key = (row.namespace_id, expected_version)
        return self._put_named(UPDATE_NAMESPACE, (row.name, row.version, row.record, *key))

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

        async def put(connection: Connection) -> None:
            try:
                written = await connection.execute(numbered(sql), *values)
            except asyncpg.UniqueViolationError as error:
                raise Conflict from error
            if written.endswith(" 0"):
                raise Conflict

        return self._errand(put)

    def delete_namespace(self, namespace_id: str) -> asyncio.Future[None]:
        async def delete(connection: Connection) -> None:
            for sql in DELETE_NAMESPACE:
                await connection.execute(numbered(sql), namespace_id)

        return self._errand(delete)

    def delete_nexus_endpoint(self, endpoint_id: str) -> asyncio.Future[None]:
        async def delete(connection: Connection) -> None:
            await connection.execute(numbered(DELETE_NEXUS_ENDPOINT), endpoint_id)

        return self._errand(delete)

    def put_queue_config(self, queue: QueueKey, config: bytes) -> asyncio.Future[None]:
        values = (queue.namespace_id, int(queue.kind), queue.name, config)

        async def put(connection: Connection) -> None:
            await connection.execute(numbered(PUT_QUEUE_CONFIG), *values)

        return self._errand(put)

    def put_metadata(self, key: str, value: bytes, *, once: bool = False) -> asyncio.Future[None]:
        sql = numbered(ADD_METADATA if once else PUT_METADATA)

        async def put(connection: Connection) -> None:
            await connection.execute(sql, key, value)

        return self._errand(put)

    def _errand(self, write: Callable[[Connection], Awaitable[None]]) -> asyncio.Future[None]:
        done = self._future()
        return self._submit(_Errand(write, done), done)

    def _future(self) -> asyncio.Future[None]:
        return asyncio.get_running_loop().create_future()

    def _submit(self, work: _Work, done: asyncio.Future[None]) -> asyncio.Future[None]:
        if self._closing:
            done.set_exception(Unavailable("the server is shutting down"))
        else:
            self._queue.append(work)
            self._wanted.set()
        return done

    async def _run(self) -> None:
        """Write what waits, until the store is closed and nothing waits any more."""
        while True:
            if not self._queue:
                if self._closing:
                    return
                self._wanted.clear()
                await self._wanted.wait()
                continue
            match self._queue[0]:
                case _Unit():
                    await self._write_group(*self._take_group())
                case _Deletion():
                    await self._delete(self._take_deletions())
                case _Errand() as errand:
                    self._queue.popleft()
                    await self._do(errand)

    def _take_group(self) -> tuple[Group, list[_Unit]]:
        """The units that wait, as many as fit into one statement."""
        group = Group(int.from_bytes(os.urandom(8), "big", signed=True), self.node)
        taken: list[_Unit] = []
        while self._queue and isinstance(self._queue[0], _Unit):
            work = self._queue[0]
            if _undermined(work.unit):
                self._queue.popleft()
                _end(work.done, Conflict())
                continue
            if not group.fits(work.unit):
                break
            self._queue.popleft()
            group.add(work.unit, work.done)
            taken.append(work)
        return group, taken

    def _take_deletions(self) -> list[_Deletion]:
        taken: list[_Deletion] = []
        while self._queue and len(taken) < DELETED_TOGETHER_MAX:
            work = self._queue[0]
            if not isinstance(work, _Deletion):
                break
            self._queue.popleft()
            taken.append(work)
        return taken

    async def _write_group(self, group: Group, taken: list[_Unit]) -> None:
        if not taken:
            return
        began_s = time.perf_counter()
        try:
            ends = await self._outcome(group, taken)
        except Exception as error:
            logger.error("commit of %d units failed: %r", len(taken), error)
            ends = [_unwritable(error)] * len(taken)
        self.writes.seconds.observe(time.perf_counter() - began_s)
        self.writes.units.observe(len(taken))
        for work, end in zip(taken, ends, strict=True):
            self.writes.conflicts += isinstance(end, Conflict)
            self.writes.failed_units += isinstance(end, Unavailable)
            _end(work.done, end)

    async def _outcome(
        self, group: Group, taken: Sequence[_Unit]
    ) -> Sequence[BaseException | None]:
        """What became of each unit; None: it is written."""
        try:
            won, again = await self._write(group)
        except (asyncpg.DivisionByZeroError, *OF_ONE_UNIT) as error:
            if len(taken) > 1:
                return await self._one_by_one(group, taken)
            return [await self._refused(group, taken[0].unit, error)]
        lost = Unavailable("the connection was lost in the middle of a commit; try again")
        return [
            (lost if again else Conflict()) if group.lost(work.unit, won) else None
            for work in taken
        ]

    async def _one_by_one(
        self, group: Group, taken: Sequence[_Unit]
    ) -> Sequence[BaseException | None]:
        """In their order; what was decided on top of a lost one is lost, too."""
        ends: list[BaseException | None] = []
        lost: set[asyncio.Future[None]] = set()
        for work in taken:
            end: BaseException | None = Conflict()
            if not any(write.decided_on in lost for write in work.unit.writes):
                (end,) = await self._outcome(alone(work.unit, work.done, group), [work])
            if end is not None:
                lost.add(work.done)
            ends.append(end)
        return ends

    async def _refused(
        self, group: Group, unit: Commit, error: asyncpg.PostgresError
    ) -> BaseException | None:
        """Of a unit that could not be written: was it written before, has another taken its ids, or
        can it never be written?"""
        if isinstance(error, asyncpg.DataError) and not isinstance(
            error, asyncpg.DivisionByZeroError
        ):
            return InvalidArgument(f"the store cannot hold this: {error}")
        won = await self._retried(lambda connection: _written_by(connection, group))
        return Conflict() if group.lost(unit, won) else None

    async def _write(self, group: Group) -> tuple[set[int], bool]:
        """The executions that won their race, and whether the group had to be written again."""
        sql, values = group.statement()
        again = False

        async def write(connection: Connection) -> set[int]:
            nonlocal again
            tried, again = again, True
            won = won_of(await connection.fetchrow(sql, *values))
            if tried:
                return won | await _written_by(connection, group)
            again = False
            return won

        return await self._retried(write), again

    async def _delete(self, taken: list[_Deletion]) -> None:
        ids = [work.execution_id for work in taken]
        end: BaseException | None = None
        try:
            await self._retried(lambda c: c.execute(DELETE_EXECUTIONS, ids))
        except Exception as error:
            end = _unwritable(error)
        for work in taken:
            _end(work.done, end)

    async def _do(self, errand: _Errand) -> None:
        async def write(connection: Connection) -> None:
            async with connection.transaction():
                await errand.write(connection)

        end: BaseException | None = None
        try:
            await self._retried(write)
        except (Conflict, Refusal) as error:
            end = error
        except Exception as error:
            end = _unwritable(error)
        _end(errand.done, end)

    async def _retried(self, write: Callable[[Connection], Awaitable[R]]) -> R:
        """Write over the one connection that writes; over a new one if it breaks."""
        loop = asyncio.get_running_loop()
        give_up = loop.time() + self._unavailable_s
        for pause_s in pauses():
            try:
                if self._writing is None or self._writing.is_closed():
                    self._writing = await self.connector.connect()
                return await write(self._writing)
            except (*BROKEN, *UNDONE) as error:
                if loop.time() >= give_up:
                    raise
                if not isinstance(error, UNDONE):
                    logger.warning("the connection to PostgreSQL broke: %r", error)
                    await self._disconnect()
            await asyncio.sleep(pause_s)
        raise AssertionError

    async def _disconnect(self) -> None:
        broken, self._writing = self._writing, None
        if broken is not None:
            broken.terminate()

    # --- Reading ------------------------------------------------------------------------------

    async def load(self, execution_id: int) -> StoredExecution | None:
        return await self.load_after(execution_id, 0)

    async def load_after(self, execution_id: int, version: int) -> StoredExecution | None:
        """An execution whose state at `version` is known: the journal after it, no snapshot."""
        row = await self._row(LOAD, execution_id, version)
        return None if row is None else _stored(execution_id, row)

    async def find_run(
        self, kind: int, namespace_id: str, workflow_id: str, run_id: str
    ) -> RunRow | None:
        row = await self._row(FIND_RUN, namespace_id, int(kind), workflow_id, run_id)
        return RunRow(*row) if row else None

    async def current_run(self, kind: int, namespace_id: str, workflow_id: str) -> RunRow | None:
        row = await self._row(CURRENT_RUN, namespace_id, int(kind), workflow_id)
        return RunRow(*row) if row else None

    async def read_events(
        self, execution_id: int, first_event_id: int, bytes_max: int
    ) -> list[JournalRow]:
        return await self._events(EVENTS_FORWARD, execution_id, first_event_id, bytes_max)

    async def read_events_reverse(
        self, execution_id: int, last_event_id: int, bytes_max: int
    ) -> list[JournalRow]:
        return await self._events(EVENTS_BACKWARD, execution_id, last_event_id, bytes_max)

    async def _events(
        self, sql: str, execution_id: int, event_id: int, bytes_max: int
    ) -> list[JournalRow]:
        found = await self._row(ROW_OF_EVENT, execution_id, event_id)
        if found is None:
            return []
        rows: list[JournalRow] = []
        total, version = 0, found[0]
        forward = sql is EVENTS_FORWARD
        while True:
            page = await self._rows(f"{sql} LIMIT {EVENTS_PAGE_ROWS}", execution_id, version)
            for row in page:
                total += len(row[2])
                if rows and total > bytes_max:
                    return rows
                rows.append(JournalRow(row[0], row[1], row[2], b""))
            if len(page) < EVENTS_PAGE_ROWS:
                return rows
            version = page[-1][0] + (1 if forward else -1)

    async def read_journal(
        self, execution_id: int, after_version: int, bytes_max: int
    ) -> list[JournalRow]:
        rows: list[JournalRow] = []
        total, version = 0, after_version
        while True:
            sql = f"{READ_TAIL} LIMIT {EVENTS_PAGE_ROWS}"
            page = await self._search(sql, execution_id, version, VERSION_MAX)
            for values in page:
                row = JournalRow(*values)
                total += len(row.events) + len(row.records)
                if rows and total > bytes_max:
                    return rows
                rows.append(row)
            if len(page) < EVENTS_PAGE_ROWS:
                return rows
            version = rows[-1].version

    async def closed_runs(
        self, kind: int, namespace_id: str, after: Cursor, before_ns: int, limit: int
    ) -> list[ClosedRun]:
        values = (namespace_id, int(kind), after[0], before_ns, *after, limit)
        rows = await self._search(CLOSED_RUNS, *values)
        return [ClosedRun(row[0], row[1], row[2], (row[3], row[4], row[0])) for row in rows]

    async def due(self, before_ns: int, limit: int) -> list[tuple[int, int]]:
        return [(row[0], row[1]) for row in await self._rows(DUE, before_ns, limit)]

    async def backlog(self, queue: QueueKey, after_task_id: int, limit: int) -> list[TaskRow]:
        key = (queue.namespace_id, int(queue.kind), queue.name)
        rows = await self._rows(BACKLOG, *key, after_task_id, limit)
        return [task_row(queue, row) for row in rows]

    async def backlogs(self) -> list[QueueBacklog]:
        rows = await self._search(BACKLOGS)
        return [
            QueueBacklog(QueueKey(row[0], TaskKind(row[1]), row[2]), row[3], row[4], bool(row[5]))
            for row in rows
        ]

    async def queue_config(self, queue: QueueKey) -> bytes | None:
        key = (queue.namespace_id, int(queue.kind), queue.name)
        row = await self._row(QUEUE_CONFIG, *key)
        return row[0] if row else None

    async def executions_of(self, namespace_id: str, limit: int) -> list[int]:
        return [row[0] for row in await self._rows(EXECUTIONS_OF, namespace_id, limit)]

    async def namespaces(self) -> list[NamespaceRow]:
        return [NamespaceRow(*row) for row in await self._rows(NAMESPACES)]

    async def nexus_endpoints(self) -> list[NexusEndpointRow]:
        return [NexusEndpointRow(*row) for row in await self._rows(NEXUS_ENDPOINTS)]

    async def metadata(self, key: str) -> bytes | None:
        row = await self._row(METADATA, key)
        return row[0] if row else None

    async def list_executions(
        self, kind: int, namespace_id: str, query: Query, page_size: int, page_token: bytes
    ) -> tuple[list[VisibleExecution], bytes]:
        condition, values = _asked(kind, namespace_id, query)
        if page_token:
            condition += f" AND {AFTER_ROW}"
            values += decode_page_token(page_token)
        sql = f"SELECT {VISIBLE_COLUMNS} FROM visibility WHERE {condition} {LIST_ORDER} LIMIT ?"
        rows = await self._search(sql, *values, page_size)
        token = page_token_after(rows[-1]) if len(rows) == page_size else b""
        return [visible(row) for row in rows], token

    async def count_executions(
        self, kind: int, namespace_id: str, query: Query
    ) -> list[tuple[object, int]]:
        if query.group_by == "status" and not query.sql:
            sql = f"{COUNT_BY_STATUS} ORDER BY 2 DESC"
            counts = await self._search(sql, namespace_id, int(kind))
            return [(status, count) for status, count in counts if count]
        condition, values = _asked(kind, namespace_id, query)
        group = query.group_by or "NULL"
        sql = f"SELECT {group}, count(*) FROM visibility WHERE {condition}"
        if query.group_by:
            sql += f" GROUP BY {query.group_by} ORDER BY 2 DESC"
        rows = await self._search(sql, *values)
        return [(_group(row[0], query.group_type), row[1]) for row in rows]

    async def _row(self, sql: str, *values: object) -> Any:
        return await self.reading(lambda c: c.fetchrow(numbered(sql), *values))

    async def _rows(self, sql: str, *values: object) -> list[Any]:
        found: list[Any] = await self.reading(lambda c: c.fetch(numbered(sql), *values))
        return found

    async def _search(self, sql: str, *values: object) -> list[Any]:
        """A read that may be long: it never holds up the short ones."""
        found: list[Any] = await self._reading(
            self._searching, lambda c: c.fetch(numbered(sql), *values)
        )
        return found

    async def reading(self, read: Callable[[Connection], Awaitable[R]]) -> R:
        """Read over a connection of the pool; over another one if it breaks. Raises Unavailable,
        InvalidArgument for values that PostgreSQL does not know."""
        return await self._reading(self._pool, read)

    async def _reading(self, pool: Any, read: Callable[[Connection], Awaitable[R]]) -> R:
        loop = asyncio.get_running_loop()
        give_up = loop.time() + self._unavailable_s
        for pause_s in pauses():
            try:
                async with pool.acquire() as connection:
                    return await read(connection)
            except (*BROKEN, *UNDONE) as error:
                if self._closing or loop.time() >= give_up:
                    raise _unreadable(error) from error
            except asyncpg.DataError as error:
                raise InvalidArgument(f"the store cannot hold this: {error}") from error
            await asyncio.sleep(pause_s)
        raise AssertionError

    async def close(self) -> None:
        """Write what is waiting, then let go of all connections."""
        if self._closing:
            return
        self._closing = True
        self._wanted.set()
        if self._writer is not None:
            await self._writer
        if self._writing is not None:
            await _close(self._writing)
        self._pool.terminate()
        self._searching.terminate()


async def _close(connection: Connection) -> None:
    try:
        await connection.close(timeout=5)
    except (*BROKEN, asyncpg.PostgresError):
        connection.terminate()


def _undermined(unit: Commit) -> bool:
    """Whether it was decided on top of a commit that has failed."""
    return any(
        write.decided_on is not None
        and write.decided_on.done()
        and (write.decided_on.cancelled() or write.decided_on.exception() is not None)
        for write in unit.writes
    )


def _end(done: asyncio.Future[None], end: BaseException | None) -> None:
    if done.done():
        return
    if end is None:
        done.set_result(None)
    else:
        done.set_exception(end)


async def _written_by(connection: Connection, group: Group) -> set[int]:
    rows = await connection.fetch(WRITTEN_BY, group.execution_ids(), group.tag)
    return {row[0] for row in rows}


def _unwritable(error: BaseException) -> Unavailable:
    return Unavailable(
        f"the store cannot write ({error}): see that PostgreSQL is running, then try again"
    )


def _unreadable(error: BaseException) -> Unavailable:
    return Unavailable(
        f"the store cannot be read ({error}): see that PostgreSQL is running, then try again"
    )


def _asked(kind: int, namespace_id: str, query: Query) -> tuple[str, list[object]]:
    condition = "namespace_id = ? AND kind = ?"
    if query.sql:
        condition += f" AND ({query.sql})"
    return condition, [namespace_id, int(kind), *query.values]


def _group(value: Any, kind: str) -> object:
    """The value of a group as SQLite gives it."""
    if isinstance(value, Decimal):
        return float(value) if kind == "Double" else int(value)
    if kind == "KeywordList" and value is not None:
        return json.dumps(json.loads(value), separators=(",", ":"))
    return value


def _stored(execution_id: int, row: Any) -> StoredExecution:
    journal = zip(*(row[column] or () for column in range(10, 14)), strict=True)
    heartbeats = zip(*(row[column] or () for column in range(14, 19)), strict=True)
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
        snapshot=row[9] or b"",
        snapshot_version=row[8] or 0,
        journal=[JournalRow(*each) for each in journal],
        heartbeats=[Heartbeat(*each) for each in heartbeats],
    )
