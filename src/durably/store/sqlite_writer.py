"""What is written to SQLite: one thread, which writes all that waits in one transaction.

Rule 1: one fsync serves many executions (WAL, synchronous=FULL): the thread takes every unit that is waiting.
Rule 2: a lost race concerns its unit alone (`sqlite_unit`).
Rule 3: if the group cannot be committed, no unit of it is acknowledged.
"""

import asyncio
import logging
import queue
import sqlite3
import threading
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

from durably.errors import Unavailable
from durably.store.store import Conflict, Writes

logger = logging.getLogger(__name__)

GROUP_UNITS_MAX = 512


class Work:
    """One thing for the writer: what to do in the transaction, and whom to tell."""

    __slots__ = ("done", "error", "loop", "write")

    def __init__(
        self, write: Callable[[sqlite3.Connection], None], done: asyncio.Future[None]
    ) -> None:
        self.write = write
        self.done = done
        self.loop = done.get_loop()
        self.error: BaseException | None = None


class Writer:
    """The thread, and what waits for it."""

    def __init__(
        self, connection: sqlite3.Connection, writes: Writes, alone: AbstractContextManager[Any]
    ) -> None:
        """`alone`: held while a group is written."""
        self.stopped = False
        self._connection = connection
        self._writes = writes
        self._alone = alone
        self._queue: queue.SimpleQueue[Work | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._run, name="durably-writer", daemon=True)
        self._thread.start()

    def submit(self, write: Callable[[sqlite3.Connection], None]) -> asyncio.Future[None]:
        """Write it with its neighbours. The future raises Conflict, or Unavailable."""
        done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        if self.stopped:
            done.set_exception(Unavailable("the server is shutting down"))
        else:
            self._queue.put(Work(write, done))
        return done

    def stop(self) -> None:
        """What waits is still written; nothing that comes now is."""
        self.stopped = True
        self._queue.put(None)

    def join(self) -> None:
        """Until all is written."""
        self._thread.join()

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
            self.write_group(group)
            if stop:
                return

    def write_group(self, group: list[Work]) -> None:
        """One transaction for the whole group; then every waiter hears of it at once."""
        began_s = time.perf_counter()
        try:
            with self._alone:
                self._connection.execute("BEGIN IMMEDIATE")
                for work in group:
                    _attempt(self._connection, work)
                self._connection.execute("COMMIT")
            self._count(group, time.perf_counter() - began_s)
        except BaseException as error:
            self._roll_back(group, error)
        group[0].loop.call_soon_threadsafe(_resolve, group)

    def _count(self, group: list[Work], seconds: float) -> None:
        self._writes.seconds.observe(seconds)
        self._writes.units.observe(len(group))
        for work in group:
            if work.error is not None:
                self._writes.conflicts += 1

    def _roll_back(self, group: list[Work], error: BaseException) -> None:
        logger.error("commit of %d units failed: %s", len(group), error)
        if self._connection.in_transaction:
            try:
                self._connection.execute("ROLLBACK")
            except sqlite3.Error:
                logger.exception("rollback failed")
        refusal = Unavailable(
            f"the store cannot write ({error}): free some disk space or mend the disk, then try again"
        )
        for work in group:
            work.error = refusal
        self._writes.failed_units += len(group)


def _attempt(connection: sqlite3.Connection, work: Work) -> None:
    """A lost race concerns its unit alone; any other error ends the group."""
    try:
        work.write(connection)
    except Conflict as conflict:
        work.error = conflict


def _resolve(group: list[Work]) -> None:
    for work in group:
        if work.done.cancelled():
            continue
        if work.error is None:
            work.done.set_result(None)
        else:
            work.done.set_exception(work.error)
