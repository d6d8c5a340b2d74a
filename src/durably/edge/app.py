"""One ASGI application on one port, routing to the rest of this folder.

Rule 1: nothing is answered that `gate.py` has not let in; what it refuses is said in the words of the way in.
"""

import asyncio
import json
from collections.abc import Awaitable, Callable, Mapping, MutableMapping
from typing import Any, Protocol
from urllib.parse import urlencode

from durably.edge.agents import Agents
from durably.edge.gate import LOGIN_PATH, OF_CONSOLE, Gate
from durably.edge.grpc import GrpcApp, send_refusal
from durably.edge.http_json import HttpJson
from durably.edge.nexus import Nexus
from durably.errors import HTTP_STATUS, Refusal, Unauthenticated
from durably.service.access import CALLER, CHALLENGE, Role, need
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
        gate: Gate,
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
        self._gate = gate
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
        grpc = _is_grpc(scope)
        try:
            caller = self._gate.admit(scope, grpc=grpc)
        except Refusal as refusal:
            await self._refuse(scope, send, refusal, grpc)
            return
        answer = self._grpc if grpc else self._answer
        if caller is None:
            await answer(scope, receive, send)
            return
        before = CALLER.set(caller)
        try:
            await answer(scope, receive, send)
        finally:
            CALLER.reset(before)

    async def _answer(self, scope: Scope, receive: Receive, send: Send) -> None:
        """What is not gRPC."""
        page = self._page(scope)
        if page is not None:
            await self._show(page, scope, receive, send)
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

    async def _show(self, page: Page, scope: Scope, receive: Receive, send: Send) -> None:
        """Pages of the server itself are about all namespaces."""
        try:
            need(Role.READ, what=scope["path"])
        except Refusal as refusal:
            await self._refuse(scope, send, refusal, grpc=False)
        else:
            await page(scope, receive, send)

    async def _refuse(self, scope: Scope, send: Send, refusal: Refusal, grpc: bool) -> None:
        """In the words of who asks: a person with a browser is asked to log in."""
        if grpc:
            await send_refusal(send, refusal)
            return
        if self._nexus.serves(scope):
            await self._nexus.refuse(send, refusal)
            return
        headers = [(b"x-content-type-options", b"nosniff")]
        unknown = isinstance(refusal, Unauthenticated)
        if unknown and self._make_console is not None and _wants_page(scope):
            place = f"{LOGIN_PATH}?{urlencode({'next': scope['path']})}"
            await _send(send, 303, [*headers, (b"location", place.encode())], b"")
            return
        if unknown:
            headers.append((b"www-authenticate", CHALLENGE.encode()))
        if OF_CONSOLE.fullmatch(scope["path"]):
            kind, body = b"text/plain; charset=utf-8", refusal.message + "\n"
        else:
            told = {"code": int(refusal.status), "message": refusal.message}
            kind, body = b"application/json", json.dumps(told)
        headers.append((b"content-type", kind))
        await _send(send, HTTP_STATUS[refusal.status], headers, body.encode())

    async def _made_console(self, make: Callable[[], Console]) -> Console:
        async with self._making:
            if self._console is None:
                self._console = await asyncio.to_thread(make)
            return self._console

    def stop(self) -> None:
        """Pages that are kept up to date and waits end, so that they do not hold up the end of the server."""
        self._nexus.stop()
        if self._console is not None:
            self._console.stop()

    def _page(self, scope: Scope) -> Page | None:
        path = scope["path"]
        if path in self._pages and path not in self._made and scope["method"] == "GET":
            self._made[path] = self._pages[path]()
        return self._made.get(path) if scope["method"] == "GET" else None


def _is_grpc(scope: Scope) -> bool:
    for name, value in scope["headers"]:
        if name == b"content-type":
            return bool(value.startswith(b"application/grpc"))
    return False


def _wants_page(scope: Scope) -> bool:
    accepted = b",".join(value for name, value in scope["headers"] if name == b"accept")
    return b"text/html" in accepted and OF_CONSOLE.fullmatch(scope["path"]) is not None


async def _send(send: Send, status: int, headers: list[tuple[bytes, bytes]], body: bytes) -> None:
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})


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
    await _send(send, status, headers, body.encode())
