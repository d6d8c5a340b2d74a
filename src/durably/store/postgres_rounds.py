"""Rounds: servers that would race for one execution take turns at it.

Rule 1: nothing rests on a round: what is written is compared and set as ever. Who waits too long for one,
        or loses its connection, goes on without it.
Rule 2: a round is an advisory lock, in a transaction that writes nothing. So it holds up no commit, ends
        with its connection, and with Citus lies on the coordinator. PostgreSQL gives it to those who
        wait in the order in which they came.
Rule 3: who falls silent in a round loses it: PostgreSQL ends the connection (`HELD_MAX_S`).
Rule 4: it goes past PgBouncer where listening does: those who wait would take the connections that those
        before them need to write.
"""

import asyncio
import contextlib
from collections.abc import AsyncIterator

import asyncpg

from durably.store.postgres_connections import BROKEN, Connector, Turn, WritingConnections

CONNECTIONS_MAX = 4
"""A contested execution has two: one holds its round, one waits for the next."""
WAIT_MAX_S = 1.0
"""So long a server waits for its round before it goes on without."""
HELD_MAX_S = 2.0
"""Of a round in which nothing is heard of its server: it sleeps, or is cut off."""

# Begin a round, when all who asked before have had theirs.
BEGIN = """BEGIN;
    SET LOCAL lock_timeout = {wait_ms:d};
    SET LOCAL idle_in_transaction_session_timeout = {held_ms:d};
    SELECT pg_advisory_xact_lock({execution_id:d})"""
END = "ROLLBACK"
FAILED = (*BROKEN, asyncpg.PostgresError)


class Rounds:
    """Of all the servers that share a database."""

    def __init__(self, connector: Connector) -> None:
        self._connections = WritingConnections(connector, CONNECTIONS_MAX)

    @contextlib.asynccontextmanager
    async def held(self, execution_id: int) -> AsyncIterator[bool]:
        """Wait for a round with this execution, and hold it; False: it did not come in time."""
        turn = Turn(self._connections)
        try:
            async with asyncio.timeout(WAIT_MAX_S):
                await turn.begin()
        except TimeoutError:
            yield False
            return
        try:
            held = await _done(turn, _begin(execution_id))
            yield held
            if held:
                await _done(turn, END)
        except BaseException:
            turn.discard()
            raise
        finally:
            turn.end()

    async def close(self) -> None:
        """When nobody holds one any more."""
        await self._connections.close()


def _begin(execution_id: int) -> str:
    return BEGIN.format(
        wait_ms=int(WAIT_MAX_S * 1000),
        held_ms=int(HELD_MAX_S * 1000),
        execution_id=execution_id,
    )


async def _done(turn: Turn, sql: str) -> bool:
    """Whether it was. A connection that is in doubt is not used again."""
    try:
        async with asyncio.timeout(2 * WAIT_MAX_S):
            connection = await turn.connection()
            await connection.execute(sql)
    except FAILED:
        turn.discard()
        return False
    return True
