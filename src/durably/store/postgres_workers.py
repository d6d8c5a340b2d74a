"""What servers that share a PostgreSQL keep there of workers: their heartbeats, and requests to those that
handle Nexus operations.

Rule 1: all of it may be lost with the database's memory: workers repeat their heartbeats, and who makes a
        request has it, and writes it again.
Rule 2: what is said of a moment is said by the database's clock.
"""

from collections.abc import Iterable, Sequence

from durably.store.postgres import PostgresStore
from durably.store.store import NexusRequestRow, QueueKey

# --- Statements, each with what it is for ---------------------------------------------------------

# A request that nobody has taken yet; one that was lost, or whose taker is gone, is there again.
PUT_REQUEST = """INSERT INTO nexus_requests (request_id, asker, holder, namespace_id, queue, version,
        asked_at, ends_at, request)
    VALUES ($1, $2, 0, $3, $4, $5, clock_timestamp() - make_interval(secs => $6),
        clock_timestamp() + make_interval(secs => $7), $8)
    ON CONFLICT (request_id) DO UPDATE SET holder = 0, version = excluded.version"""
# Requests that no server has taken: this one takes them.
TAKE_REQUESTS = """WITH chosen AS (SELECT request_id FROM nexus_requests
        WHERE namespace_id = $1 AND queue = $2 AND version = $3 AND holder = 0
            AND ends_at > clock_timestamp()
        ORDER BY asked_at LIMIT $5 FOR UPDATE SKIP LOCKED)
    UPDATE nexus_requests r SET holder = $4 FROM chosen WHERE r.request_id = chosen.request_id
    RETURNING r.request_id, r.request, extract(epoch FROM clock_timestamp() - r.asked_at)::float8,
        extract(epoch FROM r.ends_at - clock_timestamp())::float8"""
# What this server has taken for workers that are gone: others may take it.
RELEASE_REQUEST = "UPDATE nexus_requests SET holder = 0 WHERE request_id = $1 AND holder = $2"
# What has become of the requests of a server.
REQUESTS_OF = "SELECT request_id, holder FROM nexus_requests WHERE asker = $1"
FORGET_REQUESTS = "DELETE FROM nexus_requests WHERE request_id = ANY($1::text[])"
# Requests whose askers are gone.
CLEAN_REQUESTS = "DELETE FROM nexus_requests WHERE ends_at < clock_timestamp()"
# What workers said last.
PUT_HEARTBEATS = """INSERT INTO worker_heartbeats (namespace_id, instance_key, seen_at, heartbeat)
    SELECT $1, r.instance_key, clock_timestamp(), r.heartbeat
    FROM unnest($2::text[], $3::bytea[]) AS r(instance_key, heartbeat)
    ON CONFLICT (namespace_id, instance_key)
    DO UPDATE SET seen_at = excluded.seen_at, heartbeat = excluded.heartbeat"""
# Workers that have shut down.
FORGET_HEARTBEATS = """DELETE FROM worker_heartbeats
    WHERE namespace_id = $1 AND instance_key = ANY($2::text[])"""
# A page of those that were heard lately.
HEARTBEATS = """SELECT instance_key, heartbeat FROM worker_heartbeats
    WHERE namespace_id = $1 AND instance_key > $2
        AND seen_at > clock_timestamp() - make_interval(secs => $3)
    ORDER BY instance_key LIMIT $4"""
HEARTBEAT = """SELECT heartbeat FROM worker_heartbeats WHERE namespace_id = $1 AND instance_key = $2
    AND seen_at > clock_timestamp() - make_interval(secs => $3)"""
# Workers that were silent for long, and the longest silent where there are too many.
CLEAN_HEARTBEATS = """DELETE FROM worker_heartbeats w USING (
        SELECT namespace_id, instance_key, row_number() OVER (ORDER BY seen_at DESC) AS place, seen_at
        FROM worker_heartbeats) AS old
    WHERE w.namespace_id = old.namespace_id AND w.instance_key = old.instance_key
        AND (old.place > $2 OR old.seen_at < clock_timestamp() - make_interval(secs => $1))"""


class PostgresWorkers:
    """The same database as a place where servers tell of their workers."""

    def __init__(self, store: PostgresStore) -> None:
        self._store = store

    # --- Requests to handlers -----------------------------------------------------------------

    async def put_request(self, asker: int, part: QueueKey, row: NexusRequestRow) -> None:
        """Let any server take a request for a worker that polls this part of a queue."""
        place = (part.namespace_id, part.name, part.version)
        values = (row.request_id, asker, *place, row.age_s, row.left_s, row.request)
        await self._store.reading(lambda c: c.execute(PUT_REQUEST, *values))

    async def take_requests(self, part: QueueKey, node: int, limit: int) -> list[NexusRequestRow]:
        """Up to so many that no server has; the oldest first."""
        place = (part.namespace_id, part.name, part.version)
        rows = await self._store.reading(lambda c: c.fetch(TAKE_REQUESTS, *place, node, limit))
        found = [NexusRequestRow(*row) for row in rows]
        return sorted(found, key=lambda row: row.age_s, reverse=True)

    async def release_request(self, request_id: str, node: int) -> None:
        await self._store.reading(lambda c: c.execute(RELEASE_REQUEST, request_id, node))

    async def requests_of(self, asker: int) -> dict[str, int]:
        """Request id -> the server that has it; 0: none."""
        rows = await self._store.reading(lambda c: c.fetch(REQUESTS_OF, asker))
        return {row[0]: row[1] for row in rows}

    async def forget_requests(self, request_ids: Sequence[str]) -> None:
        await self._store.reading(lambda c: c.execute(FORGET_REQUESTS, request_ids))

    # --- Heartbeats ---------------------------------------------------------------------------

    async def put_heartbeats(self, namespace_id: str, heartbeats: dict[str, bytes]) -> None:
        """Instance key -> serialized heartbeat."""
        keys, bodies = list(heartbeats), list(heartbeats.values())
        await self._store.reading(lambda c: c.execute(PUT_HEARTBEATS, namespace_id, keys, bodies))

    async def forget_heartbeats(self, namespace_id: str, keys: Iterable[str]) -> None:
        gone = list(keys)
        await self._store.reading(lambda c: c.execute(FORGET_HEARTBEATS, namespace_id, gone))

    async def heartbeats(
        self, namespace_id: str, after: str, within_s: float, limit: int
    ) -> list[tuple[str, bytes]]:
        """(instance key, serialized heartbeat) of workers that were heard lately, by their keys."""
        asked = (namespace_id, after, within_s, limit)
        rows = await self._store.reading(lambda c: c.fetch(HEARTBEATS, *asked))
        return [(row[0], row[1]) for row in rows]

    async def heartbeat(self, namespace_id: str, key: str, within_s: float) -> bytes | None:
        asked = (namespace_id, key, within_s)
        found: bytes | None = await self._store.reading(lambda c: c.fetchval(HEARTBEAT, *asked))
        return found

    # --- What is left behind ------------------------------------------------------------------

    async def clean(self, heartbeats_kept_s: float, heartbeats_max: int) -> None:
        """Requests whose askers are gone; heartbeats that are old, or too many."""
        await self._store.reading(lambda c: c.execute(CLEAN_REQUESTS))
        kept = (heartbeats_kept_s, heartbeats_max)
        await self._store.reading(lambda c: c.execute(CLEAN_HEARTBEATS, *kept))
