"""Clients of what servers speak over HTTP: Nexus and what goes beyond it, and MCP as it is on the wire."""

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import aiohttp

from tests import desk
from tests.conftest import eventually

OPERATIONS = "/namespaces/default/nexus/operations"
"""Standalone operations."""
DESK = f"/namespaces/default/task-queues/{desk.QUEUE}/nexus-services/Desk"
"""Operations of the desk, by their tokens."""
PATIENT = {"Request-Timeout": "60s"}
"""A worker that has just been started may take its time."""
TASKS = "io.modelcontextprotocol/tasks"
CAPABLE = {"extensions": {TASKS: {}}, "elicitation": {"form": {}}}


class Asking:
    """An HTTP client of one server."""

    def __init__(self, address: str, session: aiohttp.ClientSession) -> None:
        self._address = address
        self._session = session

    async def __call__(
        self, method: str, path: str, body: Any = None, **headers: str
    ) -> tuple[int, dict[str, str], Any]:
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        url = f"http://{self._address}{path}"
        sent = {"Content-Type": "application/json", **named}
        async with self._session.request(
            method, url, headers=sent, data=data if method == "POST" else None
        ) as reply:
            read = await reply.read()
            said = {name.lower(): value for name, value in reply.headers.items()}
            return reply.status, said, json.loads(read or b"null")

    async def started(self, kind: str) -> str:
        """The token of an operation of the desk that goes on."""
        status, _, told = await self("POST", f"{DESK}/carry", kind, **PATIENT)
        assert status == 201, told
        return str(told["token"])


class Events:
    """Reads a stream of server-sent events."""

    def __init__(self, reply: aiohttp.ClientResponse) -> None:
        self.reply = reply

    async def next(self) -> dict[str, Any] | None:
        """None: the stream has ended."""
        fields: dict[str, Any] = {}
        while True:
            line = (await self.reply.content.readline()).decode()
            if not line:
                return None
            name, _, value = line.rstrip("\r\n").partition(": ")
            if name:
                fields[name] = value
            elif "data" in fields:
                return {**fields, "data": json.loads(fields["data"])}
            else:
                fields = {}  # A sign of life.

    async def rest(self) -> list[dict[str, Any]]:
        found = []
        while (each := await self.next()) is not None:
            found.append(each)
        return found

    async def pieces(self, count: int) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = []
        while len(found) < count:
            each = await self.next()
            assert each is not None
            if each["event"] == "output":
                found.append(each)
        return found


@asynccontextmanager
async def stream(address: str, path: str, **headers: str) -> AsyncIterator[Events]:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    timeout = aiohttp.ClientTimeout(total=None, sock_read=90)
    async with (
        aiohttp.ClientSession(timeout=timeout) as session,
        session.get(f"http://{address}{path}", headers=named) as reply,
    ):
        yield Events(reply)


def values(events: list[dict[str, Any]]) -> list[Any]:
    return [each["data"]["value"] for each in events if each["event"] == "output"]


async def until_cut(events: Events) -> None:
    try:
        await events.rest()
    except aiohttp.ClientError:
        pass  # A connection that is cut is no end that a reader believes.


class Caller:
    """JSON-RPC as it is on the wire, for what the SDK's client has no methods for: tasks."""

    def __init__(self, address: str, namespace: str = "default") -> None:
        self.url = f"http://{address}/mcp/{namespace}"
        self.frames: list[dict[str, Any]] = []
        """What came on the last stream."""

    async def __call__(
        self, method: str, params: dict[str, Any], capabilities: dict[str, Any] = CAPABLE
    ) -> dict[str, Any]:
        async with self._post(method, params, capabilities) as reply:
            if reply.content_type == "application/json":
                return dict(await reply.json())
            text = await reply.text()
        data = [line[6:] for line in text.splitlines() if line.startswith("data: ")]
        self.frames = [json.loads(each) for each in data]
        return dict(self.frames[-1])

    @asynccontextmanager
    async def stream(
        self, method: str, params: dict[str, Any], capabilities: dict[str, Any] = CAPABLE
    ) -> AsyncIterator[Events]:
        """What is told while the reply goes on; the message is the `data` of each event."""
        async with self._post(method, params, capabilities) as reply:
            assert reply.content_type == "text/event-stream", await reply.text()
            yield Events(reply)

    @asynccontextmanager
    async def _post(
        self, method: str, params: dict[str, Any], capabilities: dict[str, Any]
    ) -> AsyncIterator[aiohttp.ClientResponse]:
        version = "2026-07-28"
        meta = {
            "io.modelcontextprotocol/protocolVersion": version,
            "io.modelcontextprotocol/clientInfo": {"name": "test", "version": "1"},
            "io.modelcontextprotocol/clientCapabilities": capabilities,
        }
        body = {
            "jsonrpc": "2.0",
            "id": 1,
            "method": method,
            "params": {**params, "_meta": {**meta, **params.get("_meta", {})}},
        }
        headers = {
            "accept": "application/json, text/event-stream",
            "mcp-protocol-version": version,
            "mcp-method": method,
        }
        name = params.get("name") or params.get("taskId")
        if name:
            headers["mcp-name"] = name
        async with (
            aiohttp.ClientSession() as session,
            session.post(self.url, json=body, headers=headers) as reply,
        ):
            yield reply

    async def result(self, method: str, params: dict[str, Any]) -> dict[str, Any]:
        reply = await self(method, params)
        assert "result" in reply, reply
        return dict(reply["result"])

    async def until(self, task_id: str, *statuses: str) -> dict[str, Any]:
        task: dict[str, Any] = {}

        async def there() -> bool:
            found = await self.result("tasks/get", {"taskId": task_id})
            task.clear()
            task.update(found)
            return task["status"] in statuses

        await eventually(there, 60)
        return task
