"""One ASGI application on one port, routing to the rest of this folder."""

import asyncio
import json
from collections.abc import Awaitable, Callable, Mapping, MutableMapping
from typing import Any, Protocol

from durably.edge.agents import Agents
from durably.edge.grpc import GrpcApp
from durably.edge.http_json import HttpJson
from durably.edge.nexus import Nexus
from durably.version import VERSION

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
Page = Callable[[Scope, Receive, Send], Awaitable[None]]

WELCOME = (
    f"durably {VERSION}\n\n"
    "This port speaks the Temporal API over gRPC. Connect a Temporal SDK, or run\n"
    "    temporal --address HOST:PORT workflow list\n"
    "The same API over HTTP and JSON is described in /openapi.json\n"
)
WITH_CONSOLE = "The web console is at /ui: open it in a browser\n"


class Console(Protocol):
    """The web console, as this module sees it."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None: ...

    def stop(self) -> None: ...


class App:
    """Routes by content type and path."""

    def __init__(
        self,
        grpc: GrpcApp,
        http: HttpJson,
        nexus: Nexus,
        agents: Agents,
        pages: Mapping[str, Callable[[], Page]],
        make_console: Callable[[], Console] | None = None,
    ) -> None:
        """`pages`: path -> what makes the page when it is first asked for.

        `make_console` is called, in a thread, when its first page is asked for: few servers' are.
        """
        self._grpc = grpc
        self._http = http
        self._nexus = nexus
        self._agents = agents
        self._pages = dict(pages)
        self._made: dict[str, Page] = {}
        self._make_console = make_console
        self._console: Console | None = None
        self._making = asyncio.Lock()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return
        for name, value in scope["headers"]:
            if name == b"content-type":
                if value.startswith(b"application/grpc"):
                    await self._grpc(scope, receive, send)
                    return
                break
        page = self._page(scope)
        if page is not None:
            await page(scope, receive, send)
        elif self._nexus.serves(scope):
            await self._nexus(scope, receive, send)
        elif self._agents.serves(scope):
            await self._agents(scope, receive, send)
        elif self._http.serves(scope):
            await self._http(scope, receive, send)
        elif self._make_console is not None and _is_of_console(scope):
            console = await self._made_console(self._make_console)
            await console(scope, receive, send)
        else:
            await _plain(scope, send, self._make_console is not None)

    async def _made_console(self, make: Callable[[], Console]) -> Console:
        async with self._making:
            if self._console is None:
                self._console = await asyncio.to_thread(make)
            return self._console

    def stop(self) -> None:
        """Pages that are kept up to date end, so that they do not hold up the end of the server."""
        if self._console is not None:
            self._console.stop()

    def _page(self, scope: Scope) -> Page | None:
        path = scope["path"]
        if path in self._pages and path not in self._made and scope["method"] == "GET":
            self._made[path] = self._pages[path]()
        return self._made.get(path) if scope["method"] == "GET" else None


def _is_of_console(scope: Scope) -> bool:
    path: str = scope["path"]
    if path == "/":
        accepted = b",".join(value for name, value in scope["headers"] if name == b"accept")
        return b"text/html" in accepted
    return path == "/ui" or path.startswith(("/ui/", "/static/"))


async def _plain(scope: Scope, send: Send, has_console: bool) -> None:
    if scope["path"] == "/":
        status, body = 200, WELCOME + (WITH_CONSOLE if has_console else "")
    elif scope["path"] == "/healthz":
        status, body = 200, json.dumps({"status": "ok"}) + "\n"
    elif scope["method"] not in ("GET", "HEAD"):
        status, body = 415, "this is not a path of the API: see /openapi.json\n"
    else:
        status, body = 404, "not found: see /openapi.json for the paths of the API\n"
    kind = b"application/json" if body.startswith("{") else b"text/plain; charset=utf-8"
    headers = [(b"content-type", kind), (b"x-content-type-options", b"nosniff")]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body.encode()})
