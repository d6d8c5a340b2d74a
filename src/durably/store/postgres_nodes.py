"""What servers that share a PostgreSQL need of it beside the store: who is there, who waits for tasks,
which tasks are whose, and words to each other.

Rule 1: a word is a hint. One that is lost costs time, never work: whoever waits looks for himself now
        and then.
Rule 2: what is said of a moment is said by the database's clock.
"""

import asyncio
import logging
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import asyncpg

from durably.store.postgres import PostgresStore
from durably.store.postgres_connections import BROKEN, Connection, pauses, said
from durably.store.rows import task_row
from durably.store.store import QueueKey, StoredExecution, TaskKind, TaskRow

logger = logging.getLogger(__name__)

CHANNEL = "durably"
KEEP_ALIVE_S = 5.0
LETTERS_KEPT_S = 120.0
TICKETS_KEPT_S = 3600.0
DEAD_NODES_KEPT_S = 3600.0

# --- Statements, each with what it is for ---------------------------------------------------------

# A number that no server has had.
NEXT_NODE = "SELECT nextval('node_numbers')"
# This server is there.
SEEN = """INSERT INTO nodes (node, address, seen_at) VALUES ($1, $2, clock_timestamp())
    ON CONFLICT (node) DO UPDATE SET address = excluded.address, seen_at = excluded.seen_at"""
# The servers that said so lately.
LIVE = """SELECT node FROM nodes WHERE seen_at > clock_timestamp() - make_interval(secs => $1)
    ORDER BY node"""
# This server leaves.
LEFT = """WITH gone AS (DELETE FROM pollers WHERE node = $1) DELETE FROM nodes WHERE node = $1"""
# What servers have left behind that are long gone.
CLEAN = """WITH gone AS (DELETE FROM nodes
        WHERE seen_at < clock_timestamp() - make_interval(secs => $1) RETURNING node),
    polls AS (DELETE FROM pollers WHERE node NOT IN (SELECT node FROM nodes))
    DELETE FROM letters WHERE sent_at < now() - make_interval(secs => $2)
        AND (node > 0 OR sent_at < now() - make_interval(secs => $3))"""
# The versions that executions have now.
VERSIONS = """SELECT execution_id, version FROM executions
    WHERE shard = $1 AND execution_id = ANY($2::bigint[])"""
# Changes when any execution of these kinds in these namespaces does.
STAMP = """SELECT count(*), coalesce(sum(version), 0)::bigint, coalesce(max(execution_id), 0)
    FROM executions WHERE shard = ANY($3::int[]) AND namespace_id = ANY($1::text[])
    AND kind = ANY($2::int[])"""
# Executions of one part of all that want attention.
DUE_OF_PART = """SELECT execution_id, next_deadline_ns FROM executions
    WHERE next_deadline_ns > 0 AND next_deadline_ns <= $1 AND execution_id % $3 = $4
    ORDER BY next_deadline_ns LIMIT $2"""
# The most urgent tasks of a queue that none of these servers has, or another one than $6 and they were
# created before $7; and where they are.
CLAIMABLE = """SELECT shard FROM tasks WHERE namespace_id = $1 AND kind = $2 AND queue = $3
    AND (node <> ALL($4::bigint[]) OR (node <> $6 AND created_ns < $7))
    ORDER BY level, task_id LIMIT $5"""
# Those of one shard: from now on this server has them.
CLAIM_TASKS = """WITH chosen AS (SELECT t.task_id, e.workflow_id FROM tasks t
        LEFT JOIN executions e ON e.shard = $6 AND e.execution_id = t.execution_id
        WHERE t.shard = $6 AND t.namespace_id = $1 AND t.kind = $2 AND t.queue = $3
            AND (t.node <> ALL($4::bigint[]) OR (t.node <> $7 AND t.created_ns < $8))
        ORDER BY t.level, t.task_id LIMIT $5 FOR UPDATE OF t SKIP LOCKED)
    UPDATE tasks t SET node = $7 FROM chosen WHERE t.shard = $6 AND t.task_id = chosen.task_id
    RETURNING t.task_id, t.execution_id, t.scheduled_event_id, t.stamp, t.created_ns, t.sticky,
        t.level, t.fairness_key, t.weight, t.route, chosen.workflow_id"""
# The tasks of a queue that this server has.
HELD = """SELECT task_id FROM tasks
    WHERE namespace_id = $1 AND kind = $2 AND queue = $3 AND node = $4"""
# Tasks that this server has, and perhaps does not know of: nobody has them.
RELEASE_TASKS = """UPDATE tasks SET node = 0
    WHERE shard = $1 AND task_id = ANY($2::bigint[]) AND node = $3"""
# Which of these queues have tasks that this server does not have.
WAITING = """SELECT q.namespace_id, q.kind, q.queue
    FROM unnest($1::text[], $2::int[], $3::text[]) AS q(namespace_id, kind, queue)
    WHERE EXISTS (SELECT 1 FROM tasks t WHERE t.namespace_id = q.namespace_id AND t.kind = q.kind
        AND t.queue = q.queue AND t.node <> $4)"""
# The same over the workers of Citus, which find each queue once.
WAITING_DISTRIBUTED = """SELECT DISTINCT t.namespace_id, t.kind, t.queue FROM tasks t
    JOIN unnest($1::text[], $2::int[], $3::text[]) AS q(namespace_id, kind, queue)
        ON t.namespace_id = q.namespace_id AND t.kind = q.kind AND t.queue = q.queue
    WHERE t.node <> $4"""
# How many tasks of each level of a queue this server does not have, and when the first was made.
ELSEWHERE = """SELECT level, count(*), min(created_ns) FROM tasks
    WHERE namespace_id = $1 AND kind = $2 AND queue = $3 AND node <> $4 GROUP BY level"""
# Who waits for tasks at this server.
PUT_POLLERS = """INSERT INTO pollers
        (node, namespace_id, kind, queue, version, identity, at_ns, request)
    SELECT $1, r.* FROM unnest($2::text[], $3::int[], $4::text[], $5::text[], $6::text[], $7::bigint[],
        $8::bytea[]) AS r(namespace_id, kind, queue, version, identity, at_ns, request)
    ON CONFLICT (node, namespace_id, kind, queue, version, identity)
    DO UPDATE SET at_ns = excluded.at_ns, request = excluded.request"""
# Who waits elsewhere; and nobody is remembered for ever.
POLLERS = """SELECT node, namespace_id, kind, queue, version, identity, at_ns, request FROM pollers
    WHERE node <> $1 AND at_ns > $2"""
FORGET_POLLERS = "DELETE FROM pollers WHERE at_ns < $1"
FORGET_POLLER = """DELETE FROM pollers WHERE namespace_id = $1 AND kind = $2 AND queue = $3
    AND ($4 = '' OR identity = $4 OR identity = $4 || $5 || version)"""
# Words to all. They need not be on disk before their sender goes on.
SAY = """SELECT set_config('synchronous_commit', 'off', TRUE), pg_notify($1, words)
    FROM unnest($2::text[]) AS words"""
# What is too long for a word.
SEND = """INSERT INTO letters (node, body) SELECT r.node, r.body
    FROM unnest($1::bigint[], $2::bytea[]) AS r(node, body)"""
# What one of several servers may take: a letter to none.
PUT_TICKET = "INSERT INTO letters (node, body) VALUES (0, '') RETURNING letter_id"
TAKE_TICKET = "DELETE FROM letters WHERE node = 0 AND letter_id = $1 RETURNING letter_id"
TAKE_LETTERS = "DELETE FROM letters WHERE node = $1 RETURNING letter_id, body"


@dataclass(frozen=True, slots=True)
class PollerRow:
    """A worker that waits for tasks of a part of a queue at some server; `request` is its serialized
    poll."""

    node: int
    queue: QueueKey
    identity: str
    at_ns: int
    request: bytes


class PostgresNodes:
    """The same database as a place where servers meet."""

    def __init__(self, store: PostgresStore, listen_url: str) -> None:
        self._store = store
        self._listen_url = listen_url

    # --- Who is there -------------------------------------------------------------------------

    async def next_node(self) -> int:
        number: int = await self._store.reading(lambda c: c.fetchval(NEXT_NODE))
        return number

    async def seen(self, node: int, address: str) -> None:
        await self._store.reading(lambda c: c.execute(SEEN, node, address))

    async def live(self, lost_after_s: float) -> list[int]:
        rows = await self._store.reading(lambda c: c.fetch(LIVE, lost_after_s))
        return [row[0] for row in rows]

    async def left(self, node: int) -> None:
        await self._store.reading(lambda c: c.execute(LEFT, node))

    async def clean(self) -> None:
        kept = (DEAD_NODES_KEPT_S, LETTERS_KEPT_S, TICKETS_KEPT_S)
        await self._store.reading(lambda c: c.execute(CLEAN, *kept))

    # --- Executions ---------------------------------------------------------------------------

    async def versions(self, execution_ids: Sequence[int]) -> dict[int, int]:
        """The committed versions; one that is gone is missing."""
        found: dict[int, int] = {}
        for rows in await asyncio.gather(
            *(
                self._store.reading(partial(_rows, VERSIONS, (shard, ids)))
                for shard, ids in self._by_shard(execution_ids)
            )
        ):
            found.update((row[0], row[1]) for row in rows)
        return found

    def _by_shard(self, numbers: Sequence[int]) -> Iterable[tuple[int, Sequence[int]]]:
        """The ids of executions or tasks, those of each shard together."""
        shards = self._store.shards
        if shards.count == 1:
            return [(0, numbers)]
        found: dict[int, list[int]] = {}
        for number in numbers:
            found.setdefault(shards.of_id(number), []).append(number)
        return found.items()

    async def stamp(self, namespace_ids: Sequence[str], kinds: Sequence[int]) -> tuple[int, ...]:
        """The same as before if no execution of these kinds was made, changed or deleted since."""
        shards = range(self._store.shards.count)
        row = await self._store.reading(lambda c: c.fetchrow(STAMP, namespace_ids, kinds, shards))
        return tuple(row)

    async def load_after(self, execution_id: int, version: int) -> StoredExecution | None:
        return await self._store.load_after(execution_id, version)

    async def due(self, before_ns: int, limit: int, part: int, parts: int) -> list[tuple[int, int]]:
        """(execution id, deadline) of those that want attention before `before_ns`, of one part."""
        rows = await self._store.reading(
            lambda c: c.fetch(DUE_OF_PART, before_ns, limit, parts, part)
        )
        return [(row[0], row[1]) for row in rows]

    # --- Tasks --------------------------------------------------------------------------------

    async def claim(
        self,
        queue: QueueKey,
        node: int,
        limit: int,
        others: Sequence[int],
        before_ns: int,
    ) -> tuple[list[TaskRow], bool]:
        """Up to so many tasks of the queue that neither this server nor these others had, or that others
        had which were created before `before_ns`; the most urgent first. And whether that is all: not if
        a reply was lost, and perhaps more are claimed now."""
        key = (queue.namespace_id, int(queue.kind), queue.name)
        not_of = [node, *others]
        claimable = await self._claimable((*key, not_of, limit), node, before_ns)
        asked = 0

        async def ask(values: Sequence[object], connection: Connection) -> list[Any]:
            nonlocal asked
            asked += 1
            return await _rows(CLAIM_TASKS, values, connection)

        def claim(shard: int, count: int) -> Awaitable[list[Any]]:
            values = (*key, not_of, count, shard, node, before_ns)
            return self._store.reading(partial(ask, values))

        found = await asyncio.gather(*(claim(*each) for each in claimable.items()))
        rows = [row for each in found for row in each]
        rows.sort(key=lambda row: (row[6], row[0]))
        return [task_row(queue, row) for row in rows], asked == len(claimable)

    async def _claimable(
        self, asked: tuple[str, int, str, Sequence[int], int], node: int, before_ns: int
    ) -> dict[int, int]:
        """How many of the most urgent tasks lie in which shard."""
        if self._store.shards.count == 1:
            return {0: asked[-1]}
        rows = await self._store.reading(partial(_rows, CLAIMABLE, (*asked, node, before_ns)))
        return Counter(row[0] for row in rows)

    async def held(self, queue: QueueKey, node: int) -> list[int]:
        """The ids of the tasks of a queue that are in this server's name."""
        key = (queue.namespace_id, int(queue.kind), queue.name)
        rows = await self._store.reading(lambda c: c.fetch(HELD, *key, node))
        return [row[0] for row in rows]

    async def release(self, task_ids: Sequence[int], node: int) -> None:
        for shard, ids in self._by_shard(task_ids):
            await self._store.reading(partial(_rows, RELEASE_TASKS, (shard, ids, node)))

    async def waiting(self, queues: Sequence[QueueKey], node: int) -> list[QueueKey]:
        columns = [
            [key.namespace_id for key in queues],
            [int(key.kind) for key in queues],
            [key.name for key in queues],
        ]
        sql = WAITING_DISTRIBUTED if self._store.layout.distributed else WAITING
        rows = await self._store.reading(lambda c: c.fetch(sql, *columns, node))
        return [QueueKey(row[0], TaskKind(row[1]), row[2]) for row in rows]

    async def elsewhere(self, queue: QueueKey, node: int) -> dict[int, tuple[int, int]]:
        """Level -> how many tasks of the queue others have, or nobody; when the oldest was created."""
        key = (queue.namespace_id, int(queue.kind), queue.name)
        rows = await self._store.reading(lambda c: c.fetch(ELSEWHERE, *key, node))
        return {row[0]: (row[1], row[2]) for row in rows}

    # --- Pollers ------------------------------------------------------------------------------

    async def put_pollers(
        self, node: int, rows: Sequence[tuple[QueueKey, str, int, bytes]]
    ) -> None:
        """(queue, identity, when it was here last, its serialized poll)."""
        columns = [
            [queue.namespace_id for queue, *_ in rows],
            [int(queue.kind) for queue, *_ in rows],
            [queue.name for queue, *_ in rows],
            [queue.version for queue, *_ in rows],
            [_poller_key(queue, identity) for queue, identity, *_ in rows],
            *(list(column) for column in zip(*(row[2:] for row in rows), strict=True)),
        ]
        await self._store.reading(lambda c: c.execute(PUT_POLLERS, node, *columns))

    async def pollers(self, node: int, since_ns: int) -> list[PollerRow]:
        """Who has waited at other servers since then."""
        rows = await self._store.reading(lambda c: c.fetch(POLLERS, node, since_ns))
        return [_poller_row(row) for row in rows]

    async def forget_pollers(self, before_ns: int) -> None:
        await self._store.reading(lambda c: c.execute(FORGET_POLLERS, before_ns))

    async def forget_poller(self, queue: QueueKey, identity: str) -> None:
        """A worker has left a queue; all have, without an identity."""
        key = (queue.namespace_id, int(queue.kind), queue.name)
        await self._store.reading(lambda c: c.execute(FORGET_POLLER, *key, identity, OF_VERSION))

    # --- Words --------------------------------------------------------------------------------

    async def say(self, words: Sequence[str]) -> None:
        """To all servers that listen; each text less than 8000 bytes."""
        await self._store.reading(lambda c: c.execute(SAY, CHANNEL, words))

    async def send(self, letters: Sequence[tuple[int, bytes]]) -> None:
        nodes, bodies = [node for node, _ in letters], [body for _, body in letters]
        await self._store.reading(lambda c: c.execute(SEND, nodes, bodies))

    async def take_letters(self, node: int) -> list[bytes]:
        rows = await self._store.reading(lambda c: c.fetch(TAKE_LETTERS, node))
        return [row[1] for row in sorted(rows)]

    async def put_ticket(self) -> int:
        """A number that is taken once, by whichever server comes first."""
        ticket: int = await self._store.reading(lambda c: c.fetchval(PUT_TICKET))
        return ticket

    async def take_ticket(self, ticket: int) -> bool:
        """Whether this server was the first."""
        found: int | None = await self._store.reading(lambda c: c.fetchval(TAKE_TICKET, ticket))
        return found is not None

    async def listen(self, heard: Callable[[str], None], anew: Callable[[], None]) -> None:
        """Call `heard` with every word, until cancelled; `anew` whenever words may have been missed."""
        while True:
            connection = await self._listening(heard)
            try:
                anew()
                await _until_broken(connection)
            except (*BROKEN, asyncpg.PostgresError) as error:
                logger.warning("other servers are not heard any more: %s", said(error))
            finally:
                connection.terminate()

    async def _listening(self, heard: Callable[[str], None]) -> Connection:
        """A connection that listens, as soon as there can be one."""
        for pause_s in pauses():
            try:
                connection = await self._store.connector.connect(self._listen_url)
                try:
                    await connection.add_listener(CHANNEL, lambda *word: heard(word[3]))
                except BaseException:  # The server may be stopped meanwhile.
                    connection.terminate()
                    raise
                return connection
            except (*BROKEN, asyncpg.PostgresError) as error:
                logger.warning("cannot listen to other servers: %s", said(error))
            await asyncio.sleep(pause_s)
        raise AssertionError


OF_VERSION = "\x1f"
"""Between an identity and the version of a worker, in the key of its row."""


def _poller_key(queue: QueueKey, identity: str) -> str:
    """Workers of two versions may have one identity, of which the table's key knows nothing."""
    return f"{identity}{OF_VERSION}{queue.version}" if queue.version else identity


def _poller_row(row: Any) -> PollerRow:
    queue = QueueKey(row[1], TaskKind(row[2]), row[3], row[4])
    identity = row[5].removesuffix(f"{OF_VERSION}{queue.version}") if queue.version else row[5]
    return PollerRow(row[0], queue, identity, *row[6:])


async def _rows(sql: str, values: Sequence[object], connection: Connection) -> list[Any]:
    rows: list[Any] = await connection.fetch(sql, *values)
    return rows


async def _until_broken(connection: Connection) -> None:
    """A connection that says nothing may be dead: ask it."""
    gone = asyncio.Event()
    connection.add_termination_listener(lambda _: gone.set())
    while not gone.is_set():
        try:
            async with asyncio.timeout(KEEP_ALIVE_S):
                await gone.wait()
        except TimeoutError:
            await connection.execute("SELECT 1", timeout=KEEP_ALIVE_S)
