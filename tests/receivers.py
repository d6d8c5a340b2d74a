"""HTTP servers that callbacks are made to, in this process."""

import asyncio
from collections import defaultdict
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

from aiohttp import web
from temporalio.api.common.v1 import message_pb2 as common

from tests.processes import free_port


@dataclass(frozen=True)
class Call:
    """One request that arrived, with the names of its headers in lower case."""

    path: str
    headers: dict[str, str]
    body: bytes

    @property
    def callback_id(self) -> str:
        return self.headers["durably-callback-id"]


Answer = Callable[[Call], Awaitable[web.Response | None]]
"""None: the connection is cut without a reply."""


@dataclass
class Receiver:
    """Keeps what arrives, and answers as it is told: by status, or as `answer` says."""

    port: int = field(default_factory=free_port)
    calls: list[Call] = field(default_factory=list)
    answers: dict[str, list[int]] = field(default_factory=lambda: defaultdict(list))
    """Path -> the statuses of its next replies; then 200. 0: the reply is lost."""
    answer: Answer | None = None
    _runner: web.AppRunner | None = None

    def callback(self, path: str = "x", **header: str) -> common.Callback:
        url = f"http://127.0.0.1:{self.port}/{path}"
        return common.Callback(nexus=common.Callback.Nexus(url=url, header=header))

    def to(self, path: str) -> list[Call]:
        return [call for call in self.calls if call.path == path]

    async def __aenter__(self) -> "Receiver":
        app = web.Application()
        app.router.add_route("*", "/{path:.*}", self._receive)
        self._runner = web.AppRunner(app, access_log=None)
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", self.port).start()
        return self

    async def __aexit__(self, *error: Any) -> None:
        assert self._runner is not None
        await self._runner.cleanup()

    async def _receive(self, request: web.Request) -> web.StreamResponse:
        headers = {name.lower(): value for name, value in request.headers.items()}
        call = Call(request.match_info["path"], headers, await request.read())
        self.calls.append(call)
        if self.answer is not None:
            said = await self.answer(call)
            return said if said is not None else self._cut(request)
        waiting = self.answers[call.path]
        status = waiting.pop(0) if waiting else 200
        return web.Response(status=status) if status else self._cut(request)

    def _cut(self, request: web.Request) -> web.StreamResponse:
        assert request.transport is not None
        request.transport.abort()
        raise asyncio.CancelledError
