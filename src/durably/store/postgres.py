"""The store on PostgreSQL, which several servers may share: what it writes goes to its writer, what it
reads comes from a pool.

Rule 1: an id says its shard, and so does a workflow id: a statement about one execution asks one shard.
Rule 2: lists, counts and sweeps ask all of them; so does whoever looks for the tasks of a queue.
Rule 3: long reads have connections of their own, so that they never hold up the short ones.
"""

import asyncio
import json
from collections.abc import Awaitable, Callable
from decimal import Decimal
from typing import Any, TypeVar

import asyncpg

from durably.config import Config
from durably.errors import InvalidArgument
from durably.store import postgres_citus
from durably.store.filter_dialects import POSTGRES, Dialect
from durably.store.postgres_connections import (
    BROKEN,
    IMPEDED,
    UNDONE,
    Connection,
    Connector,
    cannot_open,
    opened,
    pauses,
    unavailable,
)
from durably.store.postgres_schema import Layout, check, layout
from durably.store.postgres_writer import Writer
from durably.store.rows import (
    decode_page_token,
    page_token_after,
    stored_execution,
    task_row,
    visible,
)
from durably.store.shards import Shards
from durably.store.statements import (
    ADD_METADATA,
    AFTER_ROW,
    BACKLOG,
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
    routed,
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

SEARCHING_CONNECTIONS_MAX = 2
EVENTS_PAGE_ROWS = 64
VERSION_MAX = 2**62

# --- Statements, each with what it is for ---------------------------------------------------------

# What brings an execution back: one statement, so that it is of one moment.
_LOADING = """SELECT e.kind, e.namespace_id, e.workflow_id, e.run_id, e.version, e.status,
        e.next_event_id, e.next_deadline_ns, {snapshot}, j.versions, j.first_event_ids, j.events,
        j.records, h.scheduled_event_ids, h.attempts, h.at_ns, h.details, h.totals
    FROM executions e {joined}
    LEFT JOIN LATERAL (SELECT array_agg(version ORDER BY version) AS versions,
            array_agg(first_event_id ORDER BY version) AS first_event_ids,
            array_agg(events ORDER BY version) AS events,
            array_agg(records ORDER BY version) AS records
        FROM journal WHERE shard = $2 AND execution_id = e.execution_id
            AND version > {after} AND version <= e.version) j ON TRUE
    LEFT JOIN LATERAL (SELECT array_agg(scheduled_event_id) AS scheduled_event_ids,
            array_agg(attempt) AS attempts, array_agg(at_ns) AS at_ns,
            array_agg(details) AS details, array_agg(total) AS totals
        FROM heartbeats WHERE shard = $2 AND execution_id = e.execution_id) h ON TRUE
    WHERE e.shard = $2 AND e.execution_id = $1"""
# All of it: snapshot and tail.
LOAD = _LOADING.format(
    snapshot="s.version, s.state",
    joined="LEFT JOIN snapshots s ON s.shard = $2 AND s.execution_id = e.execution_id",
    after="coalesce(s.version, 0)",
)
# The journal after a version that is known already.
LOAD_AFTER = _LOADING.format(snapshot="0, NULL", joined="", after="$3")
# How many tasks wait in each queue; since when the oldest does.
POSTGRES_BACKLOGS = """SELECT namespace_id, kind, queue, count(*), min(created_ns), max(sticky) FROM tasks
    GROUP BY namespace_id, kind, queue"""
# All of a namespace by status, over all workers at once.
COUNT_GROUPED = """SELECT status, count(*) FROM visibility
    WHERE namespace_id = ? AND kind = ? GROUP BY status"""


class PostgresStore:
    """One PostgreSQL database."""

    name = "postgres"
    dialect: Dialect = POSTGRES
    shared = True

    def __init__(self, url: str, config: Config, layout: Layout) -> None:
        first = postgres_citus.HIDE_NO_SHARDS if layout.distributed else ""
        self.connector = Connector(url, config, first)
        self.layout = layout
        self.writes = Writes()
        self.writer: Writer
        self._config = config
        self._closing = False
        self._pool: Any = None
        self._searching: Any = None

    @classmethod
    async def open(cls, url: str, config: Config) -> "PostgresStore":
        """Open `postgresql://...`; an empty database gets its tables. Raises StoreTooNew, StoreTooOld,
        Unavailable if nothing answers there."""
        async with opened(url, config) as connection:
            await check(connection, url)
            store = cls(url, config, await layout(connection))
        try:
            store._pool = await store.connector.pool(config.postgres_reading_connections_max)
            store._searching = await store.connector.pool(SEARCHING_CONNECTIONS_MAX)
        except (*BROKEN, asyncpg.PostgresError) as error:
            raise cannot_open(url, error) from error
        store.writer = Writer(
            store.connector,
            store.layout,
            store.writes,
            config.postgres_writing_connections_max,
            config.postgres_unavailable_s,
        )
        return store

    @property
    def shards(self) -> Shards:
        return self.layout.shards

    # --- Writing ------------------------------------------------------------------------------

    def commit(self, unit: Commit) -> asyncio.Future[None]:
        return self.writer.commit(unit)

    def delete_execution(self, execution_id: int) -> asyncio.Future[None]:
        return self.writer.delete(execution_id)

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

        return self.writer.do(put)

    def delete_namespace(self, namespace_id: str) -> asyncio.Future[None]:
        async def delete(connection: Connection) -> None:
            for sql in DELETE_NAMESPACE:
                await connection.execute(numbered(sql), namespace_id)

        return self.writer.do(delete)

    def delete_nexus_endpoint(self, endpoint_id: str) -> asyncio.Future[None]:
        async def delete(connection: Connection) -> None:
            await connection.execute(numbered(DELETE_NEXUS_ENDPOINT), endpoint_id)

        return self.writer.do(delete)

    def put_queue_config(self, queue: QueueKey, config: bytes) -> asyncio.Future[None]:
        values = (queue.namespace_id, int(queue.kind), queue.name, config)

        async def put(connection: Connection) -> None:
            await connection.execute(numbered(PUT_QUEUE_CONFIG), *values)

        return self.writer.do(put)

    def put_metadata(self, key: str, value: bytes, *, once: bool = False) -> asyncio.Future[None]:
        sql = numbered(ADD_METADATA if once else PUT_METADATA)

        async def put(connection: Connection) -> None:
            await connection.execute(sql, key, value)

        return self.writer.do(put)

    # --- Reading ------------------------------------------------------------------------------

    async def load(self, execution_id: int) -> StoredExecution | None:
        return await self._loaded(LOAD, execution_id)

    async def load_after(self, execution_id: int, version: int) -> StoredExecution | None:
        """An execution whose state at `version` is known: the journal after it, no snapshot."""
        return await self._loaded(LOAD_AFTER, execution_id, version)

    async def _loaded(self, sql: str, execution_id: int, *after: int) -> StoredExecution | None:
        shard = self.shards.of_id(execution_id)
        row = await self.reading(lambda c: c.fetchrow(sql, execution_id, shard, *after))
        return None if row is None else _stored(execution_id, row)

    async def find_run(
        self, kind: int, namespace_id: str, workflow_id: str, run_id: str
    ) -> RunRow | None:
        shard = self.shards.of_workflow(namespace_id, workflow_id)
        values = (namespace_id, int(kind), workflow_id, run_id)
        row = await self._row_of(shard, FIND_RUN, *values)
        return RunRow(*row) if row else None

    async def current_run(self, kind: int, namespace_id: str, workflow_id: str) -> RunRow | None:
        shard = self.shards.of_workflow(namespace_id, workflow_id)
        row = await self._row_of(shard, CURRENT_RUN, namespace_id, int(kind), workflow_id)
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
        shard = self.shards.of_id(execution_id)
        found = await self._row_of(shard, ROW_OF_EVENT, execution_id, event_id)
        if found is None:
            return []
        rows: list[JournalRow] = []
        total, version = 0, found[0]
        forward = sql is EVENTS_FORWARD
        while True:
            paged = f"{sql} LIMIT {EVENTS_PAGE_ROWS}"
            page = await self._rows_of(shard, paged, execution_id, version)
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
        shard = self.shards.of_id(execution_id)
        sql = routed(f"{READ_TAIL} LIMIT {EVENTS_PAGE_ROWS}")
        while True:
            values = (execution_id, version, VERSION_MAX, shard)
            page = await self.searching(lambda c: c.fetch(sql, *values))  # noqa: B023
            for each in page:
                row = JournalRow(*each)
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
        rows = await self._search(POSTGRES_BACKLOGS)
        return [
            QueueBacklog(QueueKey(row[0], TaskKind(row[1]), row[2]), row[3], row[4], bool(row[5]))
            for row in rows
        ]

    async def queue_config(self, queue: QueueKey) -> bytes | None:
        key = (queue.namespace_id, int(queue.kind), queue.name)
        row = await self._row(QUEUE_CONFIG, *key)
        return row[0] if row else None

    async def executions_of(self, namespace_id: str, limit: int) -> list[int]:
        found: list[int] = []
        for shard in range(self.shards.count):
            rows = await self._rows_of(shard, EXECUTIONS_OF, namespace_id, limit - len(found))
            found += [row[0] for row in rows]
            if len(found) >= limit:
                break
        return found

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
            by_status = COUNT_GROUPED if self.layout.distributed else COUNT_BY_STATUS
            sql = f"{by_status} ORDER BY 2 DESC"
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

    async def _row_of(self, shard: int, sql: str, *values: object) -> Any:
        return await self.reading(lambda c: c.fetchrow(routed(sql), *values, shard))

    async def _rows(self, sql: str, *values: object) -> list[Any]:
        found: list[Any] = await self.reading(lambda c: c.fetch(numbered(sql), *values))
        return found

    async def _rows_of(self, shard: int, sql: str, *values: object) -> list[Any]:
        found: list[Any] = await self.reading(lambda c: c.fetch(routed(sql), *values, shard))
        return found

    async def _search(self, sql: str, *values: object) -> list[Any]:
        found: list[Any] = await self.searching(lambda c: c.fetch(numbered(sql), *values))
        return found

    async def searching(self, read: Callable[[Connection], Awaitable[R]]) -> R:
        """A read that may be long: it never holds up the short ones."""
        return await self._reading(self._searching, read)

    async def reading(self, read: Callable[[Connection], Awaitable[R]]) -> R:
        """Read over a connection of the pool; over another one if it breaks. Raises Unavailable,
        InvalidArgument for values that PostgreSQL does not know."""
        return await self._reading(self._pool, read)

    async def _reading(self, pool: Any, read: Callable[[Connection], Awaitable[R]]) -> R:
        loop = asyncio.get_running_loop()
        give_up = loop.time() + self._config.postgres_unavailable_s
        for pause_s in pauses():
            try:
                async with pool.acquire() as connection:
                    try:
                        return await read(connection)
                    except asyncpg.ReadOnlySQLTransactionError:
                        connection.terminate()
                        raise
            except (*BROKEN, *UNDONE) as error:
                if self._closing or loop.time() >= give_up:
                    raise unavailable("be read", error) from error
            except IMPEDED as error:
                raise unavailable("be read", error) from error
            except asyncpg.DataError as error:
                raise InvalidArgument(f"the store cannot hold this: {error}") from error
            await asyncio.sleep(pause_s)
        raise AssertionError

    async def close(self) -> None:
        """Write what is waiting, then let go of all connections."""
        if self._closing:
            return
        self._closing = True
        await self.writer.close()
        self._pool.terminate()
        self._searching.terminate()


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
    return stored_execution(execution_id, row, (row[8] or 0, row[9] or b""), journal, heartbeats)
