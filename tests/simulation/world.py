"""A whole server in one thread, in a time of its own, which dies at any commit.

Rule 1: everything that happens follows from the seed: the loop's time jumps from one thing to the next,
        chance is one `Random`, and nothing runs in other threads. A seed replays its run.
Rule 2: service, matching, engine, background and store are the real ones; calls come in below the network.
        The file is a real file: what outlives a crash is what SQLite has committed.
Rule 3: a crash takes all that is in memory: calls, polls, tasks on their way, deliveries. It comes before
        a group of commits is written, or after that and before anybody hears of it.
Rule 4: replies may be lost, so that clients ask again for what was done.
"""

import asyncio
import os
import selectors
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any

from google.protobuf.message import Message

from durably import Server
from durably.errors import Unavailable
from durably.parts import Parts
from durably.service import ids as id_source
from durably.service.admission import Call, Rpc
from durably.store.sqlite import SqliteStore
from durably.store.sqlite_writer import Work

START_NS = 1_700_000_040 * 1_000_000_000
CALL_S = 20.0
"""How long a caller waits for an answer."""
CRASH_AT_COMMIT = 0.05
REPLY_LOST = 0.02
WRITE_S = 0.01
DOWN_S = 15.0


class Down(Exception):
    """The server is not there, or died before it answered, or its answer was lost."""


class Stuck(Exception):
    """Nothing will ever happen again."""


class _JumpingSelector(selectors.SelectSelector):
    """Waits for nothing: the time that would pass has passed."""

    loop: "SimulatedLoop"

    def select(self, timeout: float | None = None) -> list[Any]:
        ready = super().select(0)
        if not ready:
            if timeout is None:
                raise Stuck
            self.loop.now_s += max(timeout, 0.0)
        return ready


class SimulatedLoop(asyncio.SelectorEventLoop):
    """An event loop whose time is as fast as what happens in it."""

    def __init__(self) -> None:
        self.now_s = 0.0
        selector = _JumpingSelector()
        selector.loop = self
        super().__init__(selector)

    def time(self) -> float:
        return self.now_s

    def now_ns(self) -> int:
        return START_NS + int(self.now_s * 1e9)


class SeededIds:
    """In place of the system's randomness and clock, for the ids that the server makes."""

    def __init__(self, seed: int, loop: SimulatedLoop) -> None:
        self._random = Random(f"ids {seed}")
        self.time_ns: Callable[[], int] = loop.now_ns

    def bits(self, count: int) -> int:
        return self._random.getrandbits(count)


class SimulatedStore(SqliteStore):
    """The same statements on the same file, without threads."""

    world: "World"
    dead = False

    def _submit(self, write: Any) -> asyncio.Future[None]:
        loop = asyncio.get_running_loop()
        done: asyncio.Future[None] = loop.create_future()
        if self.dead or self._writer.stopped:
            done.set_exception(Unavailable("the server is gone"))
            return done
        if not self._waiting:
            loop.call_later(self.world.random.uniform(0, WRITE_S), self._write)
        self._waiting.append(Work(write, done))
        return done

    _waiting: list[Any]

    def _write(self) -> None:
        """Write the group that has gathered; or die before it, or right after it."""
        group, self._waiting = self._waiting, []
        if self.dead or not group:
            return
        crashes = self.world.crashes_now()
        if crashes and self.world.random.random() < 0.5:
            self.world.crash()
            return
        if crashes:
            for work in group:
                work.done = asyncio.get_running_loop().create_future()
                work.done.add_done_callback(lambda unheard: unheard.exception())
        self._writer.write_group(group)
        if crashes:
            self.world.crash()

    async def close(self) -> None:
        """At once: a thread would end while the loop's time jumps on."""
        if not self._writer.stopped:
            self._writer.stop()
            self._writer.join()
            self._reader.close()
            self._writing.close()
            if self._lock_descriptor is not None:
                os.close(self._lock_descriptor)

    async def _read_aside(self, readers: Any, read: Any) -> Any:
        await asyncio.sleep(self.world.random.uniform(0, WRITE_S))
        if self.dead or self._writer.stopped:
            raise Unavailable("the server is gone")
        return self._read(read)


class SimulatedServer(Server):
    """Everything but the network."""

    def __init__(self, world: "World") -> None:
        super().__init__(store=world.url, clock=world.loop.now_ns)
        self.world = world
        self.rows: dict[str, Rpc] = {}
        self.store: SimulatedStore | None = None

    async def _open_store(self) -> SqliteStore:
        store = SimulatedStore.open(self.config.store)
        assert isinstance(store, SimulatedStore)
        store.world, store._waiting = self.world, []
        self.store = store
        return store

    async def _serve(self, stack: Any, parts: Parts, deliveries: Any) -> None:
        self.rows = {row.name: row for row in parts.table.values()}


class World:
    """One file, one server at a time over it, and those who call it."""

    def __init__(self, seed: int, folder: Path, loop: SimulatedLoop, crashes_max: int) -> None:
        self.seed = seed
        self.random = Random(seed)
        self.loop = loop
        self.url = f"sqlite:///{folder}/store-{seed}.db"
        self.crashes_left = self.random.randint(0, crashes_max)
        self.crashes = 0
        self.server: SimulatedServer | None = None
        self._crashed = asyncio.Event()
        self._calls: dict[asyncio.Future[Any], None] = {}
        ids = SeededIds(seed, loop)
        id_source._random = ids  # type: ignore[assignment]
        id_source.time = ids  # type: ignore[assignment]

    # --- The server ---------------------------------------------------------------------------

    def crashes_now(self) -> bool:
        return self.crashes_left > 0 and self.random.random() < CRASH_AT_COMMIT

    def crash(self) -> None:
        self.crashes_left -= 1
        self.crashes += 1
        self._crashed.set()
        if self._starting.store is not None:
            self._starting.store.dead = True
        for call in list(self._calls):
            call.cancel()

    async def run(self) -> None:
        """Have a server running, until cancelled; one that crashed is started again after a while."""
        while True:
            self._crashed.clear()
            self._starting = server = SimulatedServer(self)
            living = asyncio.create_task(self._live(server))
            crashed = asyncio.create_task(self._crashed.wait())
            try:
                await asyncio.wait((living, crashed), return_when=asyncio.FIRST_COMPLETED)
            finally:
                self.server = None
                for task in (living, crashed):
                    task.cancel()
                await asyncio.wait((living, crashed))
            if not living.cancelled():
                living.result()  # It failed by itself.
            await asyncio.sleep(self.random.uniform(0, DOWN_S))

    async def _live(self, server: SimulatedServer) -> None:
        async with server:
            self.server = server
            await asyncio.Event().wait()

    # --- Those who call it --------------------------------------------------------------------

    async def call(self, rpc: str, request: Message) -> Any:
        """One call over a bad network. Raises Down, or the refusal that the server gave."""
        await asyncio.sleep(self.random.uniform(0, WRITE_S))
        server = self.server
        if server is None:
            raise Down
        sent = type(request)()
        sent.CopyFrom(request)
        deadline_ns = self.loop.now_ns() + int(CALL_S * 1e9)
        answer = server.rows[rpc].answer(sent, Call(rpc, {}, deadline_ns))
        handler = asyncio.ensure_future(answer)
        self._calls[handler] = None
        try:
            await asyncio.wait((handler,))
        finally:
            del self._calls[handler]
            handler.cancel()
        if handler.cancelled() or self.random.random() < REPLY_LOST:
            if not handler.cancelled():
                handler.exception()
            raise Down
        return handler.result()

    async def pause(self, longest_s: float) -> None:
        await asyncio.sleep(self.random.uniform(0, longest_s))
