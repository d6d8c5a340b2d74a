"""What it costs that servers on one PostgreSQL tell each other of every change.

Every group commit is followed by one notification, with a word for each execution in it, to every server. So
each server hears of what all others do: this is what grows with their number, and no table of three shows it.

Rule 1: servers are real ones, which hear words of executions that they do not know, as most are; what else
        listens, so that there are as many listeners as in a large fleet, are plain connections.
Rule 2: what servers use when nobody says anything is measured before, and taken off.
"""

import asyncio
import tempfile
import time
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path

import asyncpg
import msgspec

from bench import cluster
from bench.servers import BenchServer
from bench.systems import durably_on
from durably.config import Config
from durably.service.nodes import Changed
from durably.store.postgres import PostgresStore
from durably.store.postgres_nodes import CHANNEL, PostgresNodes
from tests.postgres import PostgresServer

LISTENERS = (1, 20, 60)
NOTIFICATIONS = 4000
WORDS = 40
"""In each notification: less than the 150 or so that it holds."""
SPEAKERS = 4
NOBODYS_NODE = 1_000_000
EXECUTION = 2**60
IDLE_S = 5.0
HEARD_TIMEOUT_S = 60.0


@dataclass(frozen=True, slots=True)
class WordFigures:
    """CPU in seconds, of all of it, without what is used when nothing is said."""

    listeners: int
    notifications: int
    words: int
    seconds: float
    postgres_cpu_s: float
    server_cpu_s: float


async def measure_words(
    postgres: PostgresServer, listeners: int, notifications: int, words: int, idle_s: float = IDLE_S
) -> WordFigures:
    """To one server, and to as many connections more as make so many listeners; what nobody asked
    for is measured for `idle_s` before."""
    url = postgres.database()
    async with AsyncExitStack() as stack:
        folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="bench-"))
        server = BenchServer(durably_on(url), Path(folder) / "server.db")
        stack.callback(server.process.stop)
        await server.answer()
        store = await PostgresStore.open(url, Config())
        stack.push_async_callback(store.close)
        heard = [await _listener(url, stack) for _ in range(listeners - 1)]

        def used_s() -> tuple[float, float]:
            return cluster.cpu_s(postgres), server.process.usage().cpu_s

        before = used_s()
        await asyncio.sleep(idle_s)
        idle = used_s()
        began = time.perf_counter()
        await _say(PostgresNodes(store, url), notifications, words)
        async with asyncio.timeout(HEARD_TIMEOUT_S):
            while any(each[0] < notifications for each in heard):  # noqa: ASYNC110  they count
                await asyncio.sleep(0.01)
            await server.answer()  # It has heard all that came before.
        seconds = time.perf_counter() - began
        after = used_s()
    postgres_s, server_s = (
        after[which] - idle[which] - (idle[which] - before[which]) * seconds / idle_s
        for which in (0, 1)
    )
    return WordFigures(
        listeners, notifications, notifications * words, seconds, postgres_s, server_s
    )


async def _listener(url: str, stack: AsyncExitStack) -> list[int]:
    """A connection that counts what it hears, in the list's only place."""
    count = [0]

    def hear(*_: object) -> None:
        count[0] += 1

    connection = await asyncpg.connect(url)
    stack.callback(connection.terminate)
    await connection.add_listener(CHANNEL, hear)
    return count


async def _say(board: PostgresNodes, notifications: int, words: int) -> None:
    numbers = iter(range(notifications))

    async def speak() -> None:
        for number in numbers:
            first = EXECUTION + number * words
            told = [Changed(first + nth, 7) for nth in range(words)]
            await board.say([msgspec.json.encode((NOBODYS_NODE, told)).decode()])

    await asyncio.gather(*(speak() for _ in range(SPEAKERS)))
