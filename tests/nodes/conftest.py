"""Servers that share a store, for tests of more than one of them."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest_asyncio

from tests.postgres import PostgresServer
from tests.processes import ServerProcess

SETTINGS = (
    "node_beat_s=0.3",
    "node_lost_after_s=1.5",
    "deadline_sweep_interval_s=1",
    "callback_addresses=http://*",
    "private_networks_allowed=127.0.0.0/8",
)
"""They miss each other soon; push notifications go to receivers in the tests' own process."""


@pytest_asyncio.fixture
async def processes(
    postgres: PostgresServer, tmp_path: Path
) -> AsyncIterator[tuple[ServerProcess, ServerProcess]]:
    """Two servers that can be killed."""
    options = [part for setting in SETTINGS for part in ("--set", setting)]
    url = postgres.database()
    first, second = (ServerProcess(url, *options, folder=tmp_path) for _ in range(2))
    try:
        await asyncio.to_thread(first.start)
        await asyncio.to_thread(second.start)
        yield first, second
    finally:
        first.kill()
        second.kill()
