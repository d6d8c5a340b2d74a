"""Calls tools of MCP servers by their URLs, as operations of Nexus endpoints.

    operation                  request                        outcome
    ------------------------   ----------------------------   ------------------------------------------
    the name of a tool         tools/call                     its result; a failure if it is an error
    (with a task)              ..., then tasks/get            started; its end, when the task has ended
    durably.answer             tasks/update, or tools/call    goes on with what asked for something
    its cancel                 tasks/cancel

Rule 1: a request that got no answer is made again. Servers that are durably know it by its call key; a tool
        of others may run twice, as an activity may. Its result is recorded once.
Rule 2: the revision 2026-07-28 is spoken with who knows it, the handshake of earlier ones with others. What
        a server speaks is remembered for a while, and never kept.

Facts: https://modelcontextprotocol.io/specification/2026-07-28, SEP-2663 (tasks), and the earlier revisions.
"""

import base64
import json
import re
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from temporalio.api.nexus.v1 import message_pb2 as nexus

from durably.agents.convention import CALL_KEY, OPERATION_ANSWER
from durably.background import json_rpc
from durably.background.json_rpc import RpcFailed
from durably.background.outbound_http import CallFailed, OutboundHttp
from durably.config import Config
from durably.engine.nexus_outcome import Ended, Refused, StartOutcome, Unsuccessful, refused
from durably.service import agent_outcomes
from durably.service.agent_outcomes import Unreadable
from durably.service.nexus_dispatch import AgentTarget, Look, Offered, StillRunning
from durably.version import VERSION

REVISION = "2026-07-28"
LAST_WITH_HANDSHAKE = "2025-11-25"
TASKS = "io.modelcontextprotocol/tasks"
REMEMBERED_S = 600.0
SERVERS_MAX = 10_000
PAGES_MAX = 100

HEADER_MISMATCH = -32020
UNSUPPORTED_REVISION = -32022
KINDS = {
    HEADER_MISMATCH: "BAD_REQUEST",
    -32021: "NOT_IMPLEMENTED",
    UNSUPPORTED_REVISION: "NOT_IMPLEMENTED",
    -32042: "BAD_REQUEST",
}
CLIENT = {"name": "durably", "version": VERSION}
CAPABILITIES: dict[str, Any] = {"extensions": {TASKS: {}}, "elicitation": {"form": {}}}
"""What this client can be asked for: questions end the operation, and are answered by its caller."""

PLAIN = re.compile(r"[\x21-\x7e](?:[\x20-\x7e]*[\x21-\x7e])?")
ENCODED = re.compile(r"=\?base64\?.*\?=")


@dataclass(frozen=True, slots=True)
class _Speech:
    """What a server speaks, until a moment of the monotonic clock."""

    handshake: bool
    until_s: float


class McpServers:
    """The calls of this node."""

    def __init__(self, http: OutboundHttp, config: Config) -> None:
        self._http = http
        self._config = config
        self._speech: dict[str, _Speech] = {}

    # --- Operations ---------------------------------------------------------------------------

    async def start_operation(
        self,
        target: AgentTarget,
        request: nexus.StartOperationRequest,
        header: Mapping[str, str],
        timeout_s: float,
    ) -> StartOutcome:
        meta: dict[str, Any] = {CALL_KEY: request.request_id}
        meta |= {name: header[name] for name in agent_outcomes.TRACING if name in header}
        try:
            value = agent_outcomes.input_of(request.payload)
            if request.operation == OPERATION_ANSWER:
                call, answers = agent_outcomes.answer_of(value)
                return await self._answer(target, call, answers, meta, timeout_s)
            if value is not None and not isinstance(value, dict):
                raise Unreadable("the input must be an object: the arguments of the tool")
            params = {"name": request.operation, "arguments": value or {}}
            result = await self._ask(target, "tools/call", params, timeout_s, meta)
        except Unreadable as error:
            return refused("BAD_REQUEST", str(error))
        except (RpcFailed, CallFailed) as error:
            return json_rpc.refusal(error, KINDS)
        return self._outcome(params, result)

    async def _answer(
        self,
        target: AgentTarget,
        call: Mapping[str, Any],
        answers: Mapping[str, Any],
        meta: Mapping[str, Any],
        timeout_s: float,
    ) -> StartOutcome:
        """Go on with a task, or with a call that has none."""
        if isinstance(call.get("task"), str):
            params = {"taskId": call["task"], "inputResponses": dict(answers)}
            await self._ask(target, "tasks/update", params, timeout_s)
            known = {"task": call["task"], "answered": sorted(answers)}
            return agent_outcomes.started(known, self._config.nexus_token_bytes_max)
        if not isinstance(call.get("name"), str):
            raise Unreadable("the call names neither a task nor a tool")
        params = {"name": call["name"], "arguments": call.get("arguments") or {}}
        again = {**params, "inputResponses": dict(answers)}
        if call.get("requestState") is not None:
            again["requestState"] = call["requestState"]
        result = await self._ask(target, "tools/call", again, timeout_s, meta)
        return self._outcome(params, result)

    def _outcome(self, params: Mapping[str, Any], result: Any) -> StartOutcome:
        """What a tool answered that was called with `params`."""
        if not isinstance(result, dict):
            return refused("INTERNAL", "the result of the tool is no object")
        match result.get("resultType"):
            case "task" if isinstance(result.get("taskId"), str):
                limit = self._config.nexus_token_bytes_max
                return agent_outcomes.started({"task": result["taskId"]}, limit)
            case "input_required":
                call = {**params, "requestState": result.get("requestState")}
                return _asks(call, result)
            case _:
                return _ended(result)

    async def look(self, target: AgentTarget, known: Mapping[str, Any], timeout_s: float) -> Look:
        try:
            task = await self._ask(target, "tasks/get", {"taskId": known["task"]}, timeout_s)
        except (RpcFailed, CallFailed) as error:
            return json_rpc.refusal(error, KINDS)
        if not isinstance(task, dict):
            return refused("INTERNAL", "the task is no object")
        message = str(task.get("statusMessage") or "")
        match task.get("status"):
            case "completed":
                return _ended(task.get("result") or {})
            case "failed":
                why = task.get("error") or {}
                said = why.get("message") if isinstance(why, dict) else why
                return agent_outcomes.failed("McpError", str(said or message), why)
            case "cancelled":
                return agent_outcomes.canceled(message)
            case "input_required":
                waiting = set(task.get("inputRequests") or {})
                if waiting and waiting <= set(known.get("answered") or ()):
                    return StillRunning()  # It has not come to what it was told yet.
                return _asks({"task": known["task"]}, task)
            case _:
                interval = task.get("pollIntervalMs")
                return StillRunning(interval / 1e3 if isinstance(interval, int | float) else 0.0)

    async def cancel_operation(
        self, target: AgentTarget, known: Mapping[str, Any], timeout_s: float
    ) -> Refused | None:
        try:
            await self._ask(target, "tasks/cancel", {"taskId": known["task"]}, timeout_s)
        except (RpcFailed, CallFailed) as error:
            return json_rpc.refusal(error, KINDS)
        return None

    async def offered(self, target: AgentTarget, timeout_s: float) -> list[Offered] | Refused:
        try:
            tools = await self._tools(target, timeout_s)
        except (RpcFailed, CallFailed) as error:
            return json_rpc.refusal(error, KINDS)
        return [
            Offered(
                str(each.get("name", "")),
                str(each.get("description") or each.get("title") or ""),
                each.get("inputSchema"),
                each.get("outputSchema"),
            )
            for each in tools
        ]

    async def _tools(self, target: AgentTarget, timeout_s: float) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = []
        cursor = None
        for _ in range(PAGES_MAX):
            params: dict[str, Any] = {"cursor": cursor} if cursor else {}
            page = await self._ask(target, "tools/list", params, timeout_s)
            if not isinstance(page, dict):
                break
            found += [each for each in page.get("tools") or () if isinstance(each, dict)]
            cursor = page.get("nextCursor")
            if not cursor:
                break
        return found

    # --- Requests -----------------------------------------------------------------------------

    async def _ask(
        self,
        target: AgentTarget,
        method: str,
        params: Mapping[str, Any],
        timeout_s: float,
        meta: Mapping[str, Any] | None = None,
    ) -> Any:
        """The result of a request in whatever revision the server speaks. Raises RpcFailed, CallFailed."""
        told = {**params, "_meta": dict(meta)} if meta else dict(params)
        for _ in range(2):
            if await self._needs_handshake(target, timeout_s):
                return await self._in_session(target, method, told, timeout_s)
            try:
                return await self._modern(target, method, told, timeout_s)
            except RpcFailed as failed:
                if failed.code != HEADER_MISMATCH or method != "tools/call":
                    if failed.code != UNSUPPORTED_REVISION:
                        raise
                    # It was replaced by one that speaks otherwise: find out, and ask again.
                    self._speech.pop(target.url, None)
                    continue
            # Some arguments are to be headers too: the tool's schema says which.
            extra = await self._argument_headers(target, params, timeout_s)
            return await self._modern(target, method, told, timeout_s, extra)
        raise RpcFailed(
            400, UNSUPPORTED_REVISION, "the server speaks no revision that is known here"
        )

    async def _modern(
        self,
        target: AgentTarget,
        method: str,
        params: Mapping[str, Any],
        timeout_s: float,
        extra: Mapping[str, str] | None = None,
    ) -> Any:
        prefix = "io.modelcontextprotocol/"
        meta = {
            **(params.get("_meta") or {}),
            f"{prefix}protocolVersion": REVISION,
            f"{prefix}clientInfo": CLIENT,
            f"{prefix}clientCapabilities": CAPABILITIES,
        }
        headers = self._credentials(target) | dict(extra or {})
        headers |= {"mcp-protocol-version": REVISION, "mcp-method": method}
        name = params.get("name") if method == "tools/call" else params.get("taskId")
        if name:
            headers["mcp-name"] = _header_value(str(name))
        told = {**params, "_meta": meta}
        return (
            await json_rpc.call(self._http, target.url, method, told, headers, timeout_s)
        ).result

    async def _needs_handshake(self, target: AgentTarget, timeout_s: float) -> bool:
        """Whether the server speaks only revisions that begin with a handshake."""
        known = self._speech.get(target.url)
        if known is not None and time.monotonic() < known.until_s:
            return known.handshake
        try:
            found = await self._modern(target, "server/discover", {}, timeout_s)
            versions = found.get("supportedVersions") if isinstance(found, dict) else None
            handshake = REVISION not in (versions or ())
        except RpcFailed as failed:
            if failed.status in json_rpc.BY_STATUS or failed.status >= 500:
                raise  # It is not well, or does not let us in: that says nothing of what it speaks.
            handshake = True
        if len(self._speech) >= SERVERS_MAX:
            self._speech.clear()
        self._speech[target.url] = _Speech(handshake, time.monotonic() + REMEMBERED_S)
        return handshake

    async def _in_session(
        self, target: AgentTarget, method: str, params: Mapping[str, Any], timeout_s: float
    ) -> Any:
        """With a handshake before, in a session that ends with the request."""
        headers = self._credentials(target)
        asked = {
            "protocolVersion": LAST_WITH_HANDSHAKE,
            "capabilities": {},
            "clientInfo": CLIENT,
        }
        url = target.url
        greeted = await json_rpc.call(self._http, url, "initialize", asked, headers, timeout_s)
        session = greeted.headers.get("mcp-session-id", "")
        if session:
            headers["mcp-session-id"] = session
        if isinstance(greeted.result, dict) and greeted.result.get("protocolVersion"):
            headers["mcp-protocol-version"] = str(greeted.result["protocolVersion"])
        try:
            await self._notify_initialized(url, headers, timeout_s)
            return (await json_rpc.call(self._http, url, method, params, headers, timeout_s)).result
        finally:
            if session:
                await self._leave(url, headers, timeout_s)

    async def _notify_initialized(
        self, url: str, headers: Mapping[str, str], timeout_s: float
    ) -> None:
        body = json.dumps({"jsonrpc": "2.0", "method": "notifications/initialized"}).encode()
        sent = {
            "content-type": "application/json",
            "accept": f"application/json, {json_rpc.EVENTS}",
            **headers,
        }
        await self._http.request("POST", url, sent, body, timeout_s)

    async def _leave(self, url: str, headers: Mapping[str, str], timeout_s: float) -> None:
        """A session that is not ended ends by itself, some time."""
        try:
            await self._http.request("DELETE", url, headers, b"", timeout_s)
        except CallFailed:
            pass  # The reply is there already.

    def _credentials(self, target: AgentTarget) -> dict[str, str]:
        credentials = self._config.endpoint_credentials.get(target.endpoint)
        return {"authorization": credentials} if credentials is not None else {}

    async def _argument_headers(
        self, target: AgentTarget, params: Mapping[str, Any], timeout_s: float
    ) -> dict[str, str]:
        tools = await self._tools(target, timeout_s)
        schema = next(
            (each.get("inputSchema") for each in tools if each.get("name") == params["name"]), None
        )
        return dict(_mirrored(schema, params["arguments"]))


# --- Reading and writing ----------------------------------------------------------------------


def _ended(result: Mapping[str, Any]) -> Ended:
    """The result of a tool: its structured content; else its text, if it is nothing but one; else all
    of its content."""
    content = result.get("content") or []
    texts = [
        each.get("text", "")
        for each in content
        if isinstance(each, dict) and each.get("type") == "text"
    ]
    if result.get("isError"):
        return agent_outcomes.failed("ToolError", "\n".join(texts) or "the tool failed", content)
    if result.get("structuredContent") is not None:
        return agent_outcomes.succeeded(result["structuredContent"])
    if len(content) == len(texts) == 1:
        return agent_outcomes.succeeded(texts[0])
    return agent_outcomes.succeeded({"content": content} if content else None)


def _asks(call: Mapping[str, Any], said: Mapping[str, Any]) -> Unsuccessful:
    questions = said.get("inputRequests") or {}
    messages = [
        str(each["params"]["message"])
        for each in questions.values()
        if isinstance(each, dict) and "message" in (each.get("params") or {})
    ]
    message = str(said.get("statusMessage") or "; ".join(messages) or "the tool asks for input")
    return agent_outcomes.input_required(call, questions, message)


def _header_value(text: str) -> str:
    """What no header can have is encoded, as MCP has it."""
    if PLAIN.fullmatch(text) and not ENCODED.fullmatch(text):
        return text
    return f"=?base64?{base64.b64encode(text.encode()).decode()}?="


def _mirrored(schema: Any, arguments: Any) -> Iterator[tuple[str, str]]:
    """(header, value) of each argument that the schema wants as a header too."""
    if not isinstance(schema, dict) or not isinstance(arguments, dict):
        return
    for name, each in (schema.get("properties") or {}).items():
        value = arguments.get(name)
        if not isinstance(each, dict) or value is None:
            continue
        if isinstance(value, dict):
            yield from _mirrored(each, value)
        elif isinstance(each.get("x-mcp-header"), str) and not isinstance(value, list):
            text = str(value).lower() if isinstance(value, bool) else str(value)
            yield f"mcp-param-{each['x-mcp-header']}", _header_value(text)
