"""Shared fixtures. Every test runs real code: a real server on a real port, a real store."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path

import hypothesis
import pytest
import pytest_asyncio
from hypothesis import HealthCheck
from temporalio.client import Client

from durably import Server
from tests.citus.cluster import CitusCluster
from tests.postgres import PostgresServer
from tests.processes import ServerProcess

# The same examples in every run: a red run is a change's doing. `make fuzz` looks for new ones, and
# for many more.
hypothesis.settings.register_profile("repeatable", derandomize=True, deadline=None)
hypothesis.settings.register_profile(
    "explore",
    deadline=None,
    max_examples=3_000,
    print_blob=True,
    suppress_health_check=list(HealthCheck),
)
hypothesis.settings.load_profile("repeatable")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--store",
        choices=("sqlite", "postgres", "citus"),
        default="sqlite",
        help="what the servers of the tests keep their state in",
    )
    parser.addoption(
        "--shards", type=int, default=1, help="how many shards their databases on PostgreSQL have"
    )


def _database_server(request: pytest.FixtureRequest, *, fsync: bool = False) -> PostgresServer:
    """PostgreSQL; where the tests are run with `--store=citus`, a coordinator and two workers."""
    shards = request.config.getoption("--shards")
    if request.config.getoption("--store") == "citus":
        return CitusCluster(fsync=fsync, shards=shards)
    return PostgresServer(fsync=fsync, shards=shards)


@pytest.fixture(scope="session")
def postgres(request: pytest.FixtureRequest) -> Iterator[PostgresServer]:
    """A PostgreSQL that the tests of this process share; each takes a database of its own."""
    server = _database_server(request)
    try:
        yield server.create().start()
    finally:
        server.remove()


@pytest.fixture
def postgres_to_stop(request: pytest.FixtureRequest) -> Iterator[PostgresServer]:
    """A PostgreSQL of a test's own, which it may stop: it writes to the disk in earnest."""
    server = _database_server(request, fsync=True)
    try:
        yield server.create().start()
    finally:
        server.remove()


@pytest.fixture
def store_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    return new_store(request, tmp_path)


def new_store(request: pytest.FixtureRequest, folder: Path) -> str:
    """An SQLite file, or where the tests are run with `--store=postgres` a database."""
    if request.config.getoption("--store") != "sqlite":
        server: PostgresServer = request.getfixturevalue("postgres")
        return server.database()
    return f"sqlite:///{folder}/store.db"


@pytest_asyncio.fixture
async def server(store_url: str) -> AsyncIterator[Server]:
    """A server in this process."""
    async with Server(store=store_url, port=0) as running:
        yield running


@pytest_asyncio.fixture
async def client(server: Server) -> Client:
    return await Client.connect(server.address)


@pytest.fixture
def server_process(store_url: str, tmp_path: Path) -> Iterator[ServerProcess]:
    """A server in a process of its own, which a test may kill and start again."""
    process = ServerProcess(store_url, folder=tmp_path)
    yield process
    process.kill()


async def eventually(condition: Callable[[], Awaitable[bool]], seconds: float = 30.0) -> None:
    """Wait for something that happens by itself; a failure after a generous time, never a sleep."""
    async with asyncio.timeout(seconds):
        while not await condition():  # noqa: ASYNC110  what is waited for is in another process
            await asyncio.sleep(0.01)
