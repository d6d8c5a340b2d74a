"""Several servers on one PostgreSQL, and a client that gives each call to the next of them.

Rule 1: as behind a balancer that divides calls: one call after another of one client goes to other servers.
Rule 2: what a worker polls and answers goes to one server, each worker's to the next: that is how its
        library keeps a connection.
"""

import asyncio
import contextlib
import itertools
from collections.abc import AsyncIterator, Mapping, Sequence
from datetime import timedelta
from typing import Any, TypeVar

from google.protobuf.message import Message
from temporalio.client import Client
from temporalio.service import ServiceClient

from durably import Server
from tests.postgres import PostgresServer

NODES = 3

M = TypeVar("M", bound=Message)


class Spread(ServiceClient):
    """Looks like the connection of a client, and is several."""

    def __init__(self, connections: Sequence[ServiceClient]) -> None:
        super().__init__(connections[0].config)
        self._connections = connections
        self._calls = itertools.cycle(connections)
        self._workers = itertools.cycle(connections)

    @property
    def worker_service_client(self) -> Any:
        return next(self._workers).worker_service_client

    def update_rpc_metadata(self, metadata: Mapping[str, str | bytes]) -> None:
        for each in self._connections:
            each.update_rpc_metadata(metadata)

    def update_api_key(self, api_key: str | None) -> None:
        for each in self._connections:
            each.update_api_key(api_key)

    async def _rpc_call(
        self,
        rpc: str,
        req: Message,
        resp_type: type[M],
        *,
        service: str,
        retry: bool,
        metadata: Mapping[str, str | bytes],
        timeout: timedelta | None,  # noqa: ASYNC109  the library's own signature
    ) -> M:
        return await next(self._calls)._rpc_call(
            rpc,
            req,
            resp_type,
            service=service,
            retry=retry,
            metadata=metadata,
            timeout=timeout,
        )


async def spread(addresses: Sequence[str]) -> Client:
    """A client of servers that share a store."""
    clients = await asyncio.gather(*(Client.connect(each) for each in addresses))
    return Client(Spread([each.service_client for each in clients]))


@contextlib.asynccontextmanager
async def servers(postgres: PostgresServer, **settings: Any) -> AsyncIterator[list[str]]:
    """So many servers on a new database, when each knows of the others; their addresses."""
    url = postgres.database()
    async with contextlib.AsyncExitStack() as stack:
        found = []
        for _ in range(NODES):
            server = Server(store=url, port=0, **settings)
            found.append((await stack.enter_async_context(server)).address)
        yield found
