"""Fixtures for tests of workflows: `durably_server` and `temporal_client`.

They come with the package, wherever pytest-asyncio is installed: a test asks for them by name.
"""

from collections.abc import AsyncIterator
from importlib.util import find_spec
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from temporalio.client import Client

    from durably.server import Server

if find_spec("pytest_asyncio") is not None:
    import pytest_asyncio

    @pytest_asyncio.fixture
    async def durably_server() -> "AsyncIterator[Server]":
        """A server in memory, on a port of its own, for one test."""
        from durably.server import Server

        async with Server(store="memory:", port=0) as server:
            yield server

    @pytest_asyncio.fixture
    async def temporal_client(durably_server: "Server") -> "Client":
        """A client of `durably_server`, in the namespace `default`."""
        from temporalio.client import Client

        return await Client.connect(durably_server.address)
