"""What a store on PostgreSQL writes: shard by shard, as many units as wait in one statement.

Rule 1: units of one shard are written in the order of the calls, one group at a time: meanwhile the next
        ones gather. Groups of different shards are written side by side, each over a connection of its
        own: no transaction of an execution spans two shards. Shards take turns with the connections.
Rule 2: a lost race concerns its unit alone. A group that would be torn is written unit by unit.
Rule 3: when a connection breaks in the middle of a commit, the group is written again: what it wrote
        the first time is known by its tag. What cannot be known is Unavailable, never acknowledged.
Rule 4: what waits for a database to come back has no connection meanwhile; only its shard waits.
Rule 5: what belongs to no execution is written in its turn, too: that of the one shard there is, else in
        one of its own, which waits for no worker of Citus.
"""

import asyncio
import logging
import os
import time
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import TypeVar

import asyncpg

from durably.errors import InvalidArgument, Refusal, Unavailable
from durably.store import postgres_citus
from durably.store.postgres_connections import (
    BROKEN,
    OF_ONE_UNIT,
    UNDONE,
    Connection,
    Connector,
    Turn,
    WritingConnections,
    pauses,
    unavailable,
)
from durably.store.postgres_group import Group, alone, won_of
from durably.store.postgres_schema import Layout
from durably.store.store import Commit, Conflict, Writes

logger = logging.getLogger(__name__)

R = TypeVar("R")

DELETED_TOGETHER_MAX = 500

# --- Statements, each with what it is for ---------------------------------------------------------

# Which of these executions a certain group commit wrote last. They are locked, because that writes to the
# log: it makes this statement wait for the standbys that synchronous_standby_names asks for until they
# have the log so far. A commit whose connection was cut while it waited for them can be seen, and may
# still be lost.
WRITTEN_BY = """SELECT execution_id FROM executions
    WHERE shard = $1 AND execution_id = ANY($2::bigint[]) AND written_by = $3 FOR UPDATE"""
# Executions of one shard and all that is stored of them.
DELETE_EXECUTIONS = """WITH
    journal AS (DELETE FROM journal WHERE shard = $1 AND execution_id = ANY($2::bigint[])),
    snapshots AS (DELETE FROM snapshots WHERE shard = $1 AND execution_id = ANY($2::bigint[])),
    heartbeats AS (DELETE FROM heartbeats WHERE shard = $1 AND execution_id = ANY($2::bigint[])),
    visibility AS (DELETE FROM visibility WHERE shard = $1 AND execution_id = ANY($2::bigint[])),
    tasks AS (DELETE FROM tasks WHERE shard = $1 AND execution_id = ANY($2::bigint[])),
    current_runs AS (DELETE FROM current_runs c USING executions e WHERE e.shard = $1
        AND e.execution_id = ANY($2::bigint[]) AND c.shard = $1 AND c.namespace_id = e.namespace_id
        AND c.kind = e.kind AND c.workflow_id = e.workflow_id AND c.execution_id = e.execution_id)
    DELETE FROM executions WHERE shard = $1 AND execution_id = ANY($2::bigint[])"""


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


Work = _Unit | _Deletion | _Errand


class Writer:
    """All that a store writes: a queue for each shard, each written by a lane while it has something."""

    def __init__(
        self,
        connector: Connector,
        layout: Layout,
        writes: Writes,
        connections_max: int,
        unavailable_s: float,
    ) -> None:
        self.layout = layout
        self.shards = shards = layout.shards
        self.node = 0
        self.writes = writes
        self.unavailable_s = unavailable_s
        self._closing = False
        self._errands = 0 if shards.count == 1 else shards.count
        """The place among the lanes of what belongs to no execution."""
        self._connections = WritingConnections(connector, min(connections_max, shards.count))
        self._lanes = [_Lane(self, self._connections, n) for n in range(self._errands + 1)]
        self._writing: set[asyncio.Task[None]] = set()

    def commit(self, unit: Commit) -> asyncio.Future[None]:
        """ValueError for a unit of several shards."""
        done = self._future()
        return self._submit(self._shard_of(unit), _Unit(unit, done), done)

    def _shard_of(self, unit: Commit) -> int:
        if self.shards.count == 1:
            return 0
        of_id = self.shards.of_id
        found = {of_id(write.execution_id) for write in unit.writes}
        found.update(of_id(task.task_id) for task in unit.tasks_added)
        found.update(map(of_id, unit.tasks_removed))
        if len(found) > 1:
            raise ValueError(f"a unit of the shards {sorted(found)}: what is written lies in one")
        return found.pop() if found else 0

    def delete(self, execution_id: int) -> asyncio.Future[None]:
        done = self._future()
        shard = self.shards.of_id(execution_id)
        return self._submit(shard, _Deletion(execution_id, done), done)

    def do(self, write: Callable[[Connection], Awaitable[None]]) -> asyncio.Future[None]:
        done = self._future()
        return self._submit(self._errands, _Errand(write, done), done)

    def _future(self) -> asyncio.Future[None]:
        return asyncio.get_running_loop().create_future()

    def _submit(self, place: int, work: Work, done: asyncio.Future[None]) -> asyncio.Future[None]:
        if self._closing:
            done.set_exception(Unavailable("the server is shutting down"))
            return done
        lane = self._lanes[place]
        lane.queue.append(work)
        if not lane.writing:
            lane.writing = True
            task = asyncio.create_task(lane.run(), name="postgres writer")
            self._writing.add(task)
            task.add_done_callback(self._writing.discard)
        return done

    async def close(self) -> None:
        """Write what waits, and close the connections."""
        self._closing = True
        await asyncio.gather(*self._writing)
        await self._connections.close()


class _Lane:
    """Writes what waits in one shard: one group after the other, each in a turn of its own."""

    def __init__(self, writer: Writer, connections: WritingConnections, shard: int) -> None:
        self.queue: deque[Work] = deque()
        self.writing = False
        self._writer = writer
        self._shard = shard
        self._turn = Turn(connections)

    async def run(self) -> None:
        """Until nothing waits any more."""
        while self.queue:
            await self._turn.begin()
            try:
                await self._write_some()
            finally:
                self._turn.end()
        self.writing = False

    async def _write_some(self) -> None:
        match self.queue[0]:
            case _Unit():
                await self._write_group(*self._take_group())
            case _Deletion():
                await self._delete(self._take_deletions())
            case _Errand() as errand:
                self.queue.popleft()
                await self._do(errand)

    def _take_group(self) -> tuple[Group, list[_Unit]]:
        """The units that wait, as many as fit into one statement."""
        tag = int.from_bytes(os.urandom(8), "big", signed=True)
        group = Group(tag, self._shard, self._writer.node)
        queue = self.queue
        taken: list[_Unit] = []
        while queue and isinstance(queue[0], _Unit):
            work = queue[0]
            if _undermined(work.unit):
                queue.popleft()
                _end(work.done, Conflict())
                continue
            if not group.fits(work.unit):
                break
            queue.popleft()
            group.add(work.unit, work.done)
            taken.append(work)
        return group, taken

    def _take_deletions(self) -> list[_Deletion]:
        queue = self.queue
        taken: list[_Deletion] = []
        while queue and len(taken) < DELETED_TOGETHER_MAX:
            work = queue[0]
            if not isinstance(work, _Deletion):
                break
            queue.popleft()
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
            ends = [unavailable("be written to", error)] * len(taken)
        writes = self._writer.writes
        writes.seconds.observe(time.perf_counter() - began_s)
        writes.units.observe(len(taken))
        for work, end in zip(taken, ends, strict=True):
            writes.conflicts += isinstance(end, Conflict)
            writes.failed_units += isinstance(end, Unavailable)
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
        sql, values = self._statement(group)
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

    def _statement(self, group: Group) -> tuple[str, list[object]]:
        if not self._writer.layout.distributed:
            return group.statement()
        values = postgres_citus.values(group.tag, group.shard, group.columns())
        return postgres_citus.call(), values

    async def _delete(self, taken: list[_Deletion]) -> None:
        ids = [work.execution_id for work in taken]
        end: BaseException | None = None
        try:
            await self._retried(lambda c: c.execute(DELETE_EXECUTIONS, self._shard, ids))
        except Exception as error:
            end = unavailable("be written to", error)
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
            end = unavailable("be written to", error)
        _end(errand.done, end)

    async def _retried(self, write: Callable[[Connection], Awaitable[R]]) -> R:
        """Write over the connection of this turn; over another, in another turn, if it breaks."""
        loop = asyncio.get_running_loop()
        give_up = loop.time() + self._writer.unavailable_s
        for pause_s in pauses():
            try:
                return await write(await self._turn.connection())
            except (*BROKEN, *UNDONE) as error:
                if not isinstance(error, UNDONE):
                    logger.warning("the connection to PostgreSQL broke: %r", error)
                    self._turn.broken(error)
                if loop.time() >= give_up:
                    raise
            self._turn.end()
            await asyncio.sleep(pause_s)
            await self._turn.begin(again=True)
        raise AssertionError


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
    rows = await connection.fetch(WRITTEN_BY, group.shard, group.execution_ids(), group.tag)
    return {row[0] for row in rows}
