"""Rounds: one server at a time, in the order in which they came, and none that falls silent keeps one."""

import asyncio
import contextlib
from collections.abc import AsyncIterator

import asyncpg
import pytest
import pytest_asyncio

from durably.config import Config
from durably.store.postgres_connections import Connector
from durably.store.postgres_rounds import CONNECTIONS_MAX, Rounds
from tests.conftest import eventually
from tests.postgres import PostgresServer
from tests.processes import free_port

ONE, OTHER = 41, 42


class Cluster:
    """Servers that share a database, and what PostgreSQL says of their rounds."""

    def __init__(self, url: str) -> None:
        self.url = url
        self._rounds: list[Rounds] = []

    def server(self) -> Rounds:
        self._rounds.append(Rounds(Connector(self.url, Config())))
        return self._rounds[-1]

    async def waiting(self, count: int) -> None:
        """Until so many wait for a round."""
        connection = await asyncpg.connect(self.url)

        async def wait() -> bool:
            found = await connection.fetchval(
                "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND NOT granted"
                " AND database = (SELECT oid FROM pg_database WHERE datname = current_database())"
            )
            return bool(found == count)

        try:
            await eventually(wait, 60)
        finally:
            await connection.close()

    async def close(self) -> None:
        for each in self._rounds:
            await each.close()


@pytest_asyncio.fixture
async def cluster(
    postgres: PostgresServer, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[Cluster]:
    """Nobody is too slow on a busy machine, unless a test wants it."""
    patience(monkeypatch, wait_s=60.0, held_s=60.0)
    found = Cluster(postgres.database())
    yield found
    await found.close()


def patience(monkeypatch: pytest.MonkeyPatch, *, wait_s: float, held_s: float) -> None:
    monkeypatch.setattr("durably.store.postgres_rounds.WAIT_MAX_S", wait_s)
    monkeypatch.setattr("durably.store.postgres_rounds.HELD_MAX_S", held_s)


async def test_they_come_in_the_order_in_which_they_were_asked_for(cluster: Cluster) -> None:
    order: list[int] = []

    async def have(server: Rounds, number: int) -> None:
        async with server.held(ONE) as held:
            assert held
            order.append(number)

    async with cluster.server().held(ONE) as held:
        assert held
        others = []
        for number in range(3):
            others.append(asyncio.create_task(have(cluster.server(), number)))
            await cluster.waiting(number + 1)
        assert order == []
        async with cluster.server().held(OTHER) as other:
            assert other, "another execution has rounds of its own"
    await asyncio.gather(*others)
    assert order == [0, 1, 2]


async def test_who_asks_for_too_many_goes_on_without(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = cluster.server()
    async with contextlib.AsyncExitStack() as stack:
        for number in range(CONNECTIONS_MAX):
            assert await stack.enter_async_context(server.held(number))
        patience(monkeypatch, wait_s=0.05, held_s=60.0)
        async with server.held(CONNECTIONS_MAX) as held:
            assert not held
    patience(monkeypatch, wait_s=60.0, held_s=60.0)
    async with server.held(CONNECTIONS_MAX) as held:
        assert held


async def test_who_waits_too_long_goes_on_without(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = cluster.server()
    async with cluster.server().held(ONE) as held:
        assert held
        patience(monkeypatch, wait_s=0.2, held_s=60.0)
        async with server.held(ONE) as held:
            assert not held
    patience(monkeypatch, wait_s=60.0, held_s=60.0)
    async with server.held(ONE) as held:
        assert held, "the next one comes"


async def test_who_falls_silent_loses_it(cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    patience(monkeypatch, wait_s=60.0, held_s=0.2)
    server = cluster.server()
    async with server.held(ONE) as held:
        assert held
        async with cluster.server().held(ONE) as taken:
            assert taken
    async with server.held(ONE) as held:
        assert held, "it has another connection"


async def test_a_connection_that_is_cut_ends_it(cluster: Cluster, postgres: PostgresServer) -> None:
    server = cluster.server()
    async with server.held(ONE) as held:
        assert held
        await asyncio.to_thread(postgres.cut_connections)
        async with cluster.server().held(ONE) as taken:
            assert taken
    async with server.held(ONE) as held:
        assert held


async def test_who_gives_up_keeps_nobody_waiting(cluster: Cluster) -> None:
    waits = asyncio.Event()

    async def wait(server: Rounds) -> None:
        waits.set()
        async with server.held(ONE):
            pass

    async with cluster.server().held(ONE) as held:
        assert held
        gives_up = asyncio.create_task(wait(cluster.server()))
        await waits.wait()
        await cluster.waiting(1)
        gives_up.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await gives_up
    async with cluster.server().held(ONE) as held:
        assert held


async def test_without_a_database_there_are_none(cluster: Cluster) -> None:
    cluster.url = f"postgresql://durably@127.0.0.1:{free_port()}/none"
    async with cluster.server().held(ONE) as held:
        assert not held
