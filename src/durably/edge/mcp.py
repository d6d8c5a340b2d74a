"""An MCP server for each namespace, at `/mcp/{namespace}`: what is exposed there are its tools.

Rule 1: a call of a tool is a durable execution, begun before anything is replied. One that takes long is
        a task for clients that know tasks (`io.modelcontextprotocol/tasks`); others wait.
Rule 2: nothing is kept here: a task is its execution, and any server of the store can answer for it.
Rule 3: the SDK `mcp` speaks the protocol, in its revision 2026-07-28 and, without sessions, the earlier
        ones. It is loaded when the first request comes: the server runs without it.

Facts: https://modelcontextprotocol.io/specification/2026-07-28 and SEP-2663.
"""

import asyncio
import contextlib
import hashlib
import json
import secrets
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any
from urllib.parse import unquote

import mcp_types as types
from jsonschema import Draft202012Validator
from jsonschema.exceptions import SchemaError
from mcp.server import ServerRequestContext
from mcp.server.caching import CacheHint
from mcp.server.lowlevel import Server
from mcp.server.streamable_http_manager import StreamableHTTPSessionManager
from mcp.server.subscriptions import SUBSCRIPTION_ID_META_KEY
from mcp.server.transport_security import TransportSecuritySettings
from mcp.shared.exceptions import MCPError

from durably.agents.convention import CALL_KEY, PROTOCOL_ERROR, Exposed, Piece, Question
from durably.config import Config
from durably.edge.calls import Receive, Scope, Send
from durably.errors import NotFound, Refusal
from durably.service.durable_calls import (
    CANCELED,
    COMPLETED,
    INPUT_REQUIRED,
    TIMED_OUT,
    WORKING,
    DurableCalls,
    Seen,
)
from durably.service.exposures import Exposures
from durably.service.operation_output import OutputStreams, call_of
from durably.service.request_states import RequestStates
from durably.version import VERSION

TASKS = "io.modelcontextprotocol/tasks"


MISSING_CAPABILITY = -32021
BY = "mcp"
POLL_INTERVAL_MS = 1_000
TOOLS_INTERVAL_S = 0.5
"""So often those who listen learn of other tools."""
ALWAYS = ("always", "required")

CAPABILITIES = {
    "elicitation/create": "elicitation",
    "sampling/createMessage": "sampling",
    "roots/list": "roots",
}
"""What a client must be able to do, to be asked for it."""

Context = ServerRequestContext[Any, Any]


class TaskParams(types.RequestParams):
    taskId: str


class UpdateTaskParams(TaskParams):
    inputResponses: dict[str, Any]


class Mcp:
    """One MCP server whose namespace is in the path of each request."""

    def __init__(
        self,
        calls: DurableCalls,
        streams: OutputStreams,
        exposures: Exposures,
        states: RequestStates,
        config: Config,
    ) -> None:
        self._calls = calls
        self._streams = streams
        self._exposures = exposures
        self._states = states
        self._config = config
        self._manager = StreamableHTTPSessionManager(
            app=self._server(),
            stateless=True,
            # `gate.py` looks at names and origins, for all paths.
            security_settings=TransportSecuritySettings(enable_dns_rebinding_protection=False),
            max_request_body_size=config.message_bytes_max,
        )
        self._started: asyncio.Future[None] | None = None
        self._running: asyncio.Task[None] | None = None

    def _server(self) -> Server[Any]:
        server: Server[Any] = Server(
            "durably",
            version=VERSION,
            instructions="Each tool is a durable execution: it goes on whatever crashes.",
            on_list_tools=self._list_tools,
            on_call_tool=self._call_tool,  # type: ignore[arg-type]  # a task is a result too
            on_subscriptions_listen=self._listen,
            cache_hints={"tools/list": CacheHint(ttl_ms=POLL_INTERVAL_MS, scope="private")},
        )
        server.extensions[TASKS] = {}
        server.add_request_handler("tasks/get", TaskParams, self._get_task)
        server.add_request_handler("tasks/update", UpdateTaskParams, self._update_task)
        server.add_request_handler("tasks/cancel", TaskParams, self._cancel_task)
        return server

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await self._run()
        await self._manager.handle_request(scope, receive, send)

    async def _run(self) -> None:
        """The SDK's task group is entered and left by one task."""
        if self._started is None:
            self._started = asyncio.get_running_loop().create_future()
            self._running = asyncio.create_task(self._until_closed(), name="mcp")
        await asyncio.shield(self._started)

    async def _until_closed(self) -> None:
        assert self._started is not None
        async with self._manager.run():
            self._started.set_result(None)
            await asyncio.Event().wait()

    async def close(self) -> None:
        if self._running is not None:
            self._running.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._running

    # --- Tools --------------------------------------------------------------------------------

    async def _list_tools(
        self, context: Context, params: types.PaginatedRequestParams | None
    ) -> types.ListToolsResult:
        with _refusals():
            found = self._exposures.tools(_namespace(context))
        return types.ListToolsResult(tools=[_tool(name, each) for name, each in found.items()])

    async def _call_tool(
        self, context: Context, params: types.CallToolRequestParams
    ) -> types.CallToolResult | types.InputRequiredResult | dict[str, Any]:
        namespace = _namespace(context)
        with _refusals():
            tool = self._exposures.tools(namespace).get(params.name)
        if tool is None:
            raise MCPError(types.INVALID_PARAMS, f"Unknown tool: {params.name[:200]}")
        with_tasks = tool.tasks != "never" and TASKS in _extensions(context)
        if tool.tasks == "required" and not with_tasks:
            raise _missing({"extensions": {TASKS: {}}})
        arguments = params.arguments or {}
        fault = _fault(tool, arguments)
        if fault:
            return _failed(fault)
        raw = context.params or {}
        responses = _responses(raw)
        with _refusals():
            call_id = await self._begun(namespace, params.name, tool, arguments, context)
            seen = await self._settled(context, call_id, tool, with_tasks, responses)
        if seen.phase == INPUT_REQUIRED and (tool.asks_first or not with_tasks):
            return await self._interrupted(namespace, params.name, seen, context)
        if not seen.ended or (with_tasks and tool.tasks in ALWAYS):
            return _task(seen, self._config) | {"resultType": "task"}
        return _result(tool, seen)

    async def _begun(
        self,
        namespace: str,
        name: str,
        tool: Exposed,
        arguments: dict[str, Any],
        context: Context,
    ) -> str:
        raw = context.params or {}
        if raw.get("requestState") is not None:
            state = self._states.verify(namespace, name, str(raw["requestState"]))
            return state.partition("~")[0]
        key = (raw.get("_meta") or {}).get(CALL_KEY)
        call_id = _id_of(namespace, name, str(key)) if key else f"mcp-{secrets.token_hex(16)}"
        await self._calls.begin(namespace, call_id, tool, arguments, {"by": BY, "name": name})
        return call_id

    async def _settled(
        self,
        context: Context,
        call_id: str,
        tool: Exposed,
        with_tasks: bool,
        responses: Mapping[str, Any],
    ) -> Seen:
        """The call once it has ended, asks for more than it was given, or has taken its time. Meanwhile a client
        that wants to know is told of the pieces that are published."""
        namespace, given = _namespace(context), dict(responses)
        at_once = with_tasks and tool.tasks in ALWAYS
        seen = await self._calls.look(namespace, call_id)
        if at_once and not tool.asks_first:
            answered = await self._give(namespace, seen, given)
            return await self._calls.look(namespace, call_id) if answered else seen
        progress = _Progress(context)
        watching = self._streams.watch(namespace, seen, from_now=not progress.wanted)
        wait_s = self._config.call_wait_s if with_tasks else None
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(wait_s) as patience, contextlib.aclosing(watching):
                async for told in watching:
                    seen = told.seen(seen)
                    if told.piece is not None:
                        await progress.tell(told.piece)
                    elif seen.phase != WORKING:
                        until = patience.when()
                        patience.reschedule(None)  # An answer that was begun is given.
                        if not await self._give(namespace, seen, given):
                            return seen
                        seen = await self._calls.look(namespace, call_id)
                        if at_once:
                            return seen
                        patience.reschedule(until)
        return seen

    async def _give(self, namespace: str, seen: Seen, given: dict[str, Any]) -> bool:
        """Answer what the call asks for with what was given, each once. Whether anything was."""
        answered = [key for key in seen.questions if key in given]
        for key in answered:
            refused = await self._calls.answer(namespace, seen, key, given.pop(key))
            if refused:
                raise MCPError(types.INVALID_PARAMS, refused)
        return bool(answered)

    async def _interrupted(
        self, namespace: str, name: str, seen: Seen, context: Context
    ) -> types.InputRequiredResult | dict[str, Any]:
        """A client without tasks is asked at once, and calls again with its answers."""
        able = _capabilities(context)
        asked = _requests(seen.questions, able)
        if not asked or context.protocol_version < "2026":
            await self._calls.cancel(namespace, seen)
            method = next(iter(seen.questions.values())).method
            raise _missing({CAPABILITIES.get(method, method): {}})
        return {
            "resultType": "input_required",
            "inputRequests": asked,
            "requestState": self._states.sign(
                namespace, name, f"{seen.call_id}~{','.join(sorted(asked))}"
            ),
        }

    # --- Tasks --------------------------------------------------------------------------------

    async def _get_task(self, context: Context, params: TaskParams) -> dict[str, Any]:
        _need_tasks(context)
        namespace = _namespace(context)
        seen = await self._found(context, namespace, params.taskId)
        return self._detailed(namespace, seen, _capabilities(context)) | {"resultType": "complete"}

    async def _update_task(self, context: Context, params: UpdateTaskParams) -> dict[str, Any]:
        _need_tasks(context)
        namespace = _namespace(context)
        seen = await self._found(context, namespace, params.taskId)
        with _refusals():
            for key, response in params.inputResponses.items():
                if key in seen.questions:
                    refused = await self._calls.answer(namespace, seen, key, response)
                    if refused:
                        raise MCPError(types.INVALID_PARAMS, refused)
        return {"resultType": "complete"}

    async def _cancel_task(self, context: Context, params: TaskParams) -> dict[str, Any]:
        _need_tasks(context)
        namespace = _namespace(context)
        seen = await self._found(context, namespace, params.taskId)
        with _refusals():
            await self._calls.cancel(namespace, seen)
        return {"resultType": "complete"}

    async def _found(self, context: Context, namespace: str, task_id: str) -> Seen:
        """Raises MCPError for what is no task of MCP's."""
        named = context.request.headers.get("mcp-name") if context.request is not None else None
        if context.method.startswith("tasks/") and named is not None and named != task_id:
            raise MCPError(types.HEADER_MISMATCH, "Mcp-Name is not the id of the task")
        try:
            seen = await self._calls.look(namespace, task_id)
        except NotFound as refusal:
            raise _unknown(task_id) from refusal
        except Refusal as refusal:
            raise MCPError(types.INVALID_PARAMS, refusal.message) from refusal
        if seen.begun.get("by") != BY:
            raise _unknown(task_id)
        return seen

    def _detailed(self, namespace: str, seen: Seen, able: Mapping[str, Any]) -> dict[str, Any]:
        """A task with what belongs to its status."""
        shown = _task(seen, self._config)
        match shown["status"]:
            case "input_required":
                shown["inputRequests"] = _requests(seen.questions, able)
            case "completed":
                name = str(seen.begun.get("name", ""))
                tool = self._exposures.tools(namespace).get(name) or Exposed()
                result = _result(tool, seen)
                shown["result"] = result.model_dump(by_alias=True, mode="json", exclude_none=True)
            case "failed":
                shown["error"] = {"code": types.INTERNAL_ERROR, "message": _why(seen)}
        return shown

    # --- Subscriptions ------------------------------------------------------------------------

    async def _listen(
        self, context: Context, params: types.SubscriptionsListenRequestParams
    ) -> types.SubscriptionsListenResult:
        """Tasks that are named, until each has ended or the client goes away."""
        namespace = _namespace(context)
        asked = (params.notifications.model_extra or {}).get("taskIds") or []
        if asked:
            _need_tasks(context)
        found = []
        for task_id in asked:
            with contextlib.suppress(MCPError):
                found.append(await self._found(context, namespace, str(task_id)))
        meta = {SUBSCRIPTION_ID_META_KEY: context.request_id}
        agreed: dict[str, Any] = {"taskIds": [each.call_id for each in found]} if asked else {}
        if params.notifications.tools_list_changed:
            agreed["toolsListChanged"] = True
        await _notify(
            context,
            "notifications/subscriptions/acknowledged",
            {"notifications": agreed, "_meta": meta},
        )
        able = _capabilities(context)
        following = [self._follow(context, namespace, each.call_id, able, meta) for each in found]
        if params.notifications.tools_list_changed:
            following.append(self._follow_tools(context, namespace, meta))
        if not following:
            await asyncio.Event().wait()  # Nothing that it listens for ever changes here.
        tasks = [asyncio.ensure_future(each) for each in following]
        try:
            await asyncio.gather(*tasks)
        finally:
            for each in tasks:
                each.cancel()
        return types.SubscriptionsListenResult(_meta=meta)

    async def _follow_tools(
        self, context: Context, namespace: str, meta: Mapping[str, Any]
    ) -> None:
        """Until the client goes away."""
        known = self._exposures.tools(namespace)
        while True:
            await asyncio.sleep(TOOLS_INTERVAL_S)
            found = self._exposures.tools(namespace)
            if found != known:
                known = found
                told = {"_meta": dict(meta)}
                await _notify(context, "notifications/tools/list_changed", told)

    async def _follow(
        self,
        context: Context,
        namespace: str,
        call_id: str,
        able: Mapping[str, Any],
        meta: Mapping[str, Any],
    ) -> None:
        last: dict[str, Any] = {}
        with _refusals():
            seen = await self._calls.look(namespace, call_id)
            which = call_of(namespace, seen)
            stream = self._streams.stream(which, None, from_now=True, seen=seen)
            async with contextlib.aclosing(stream):
                async for told in stream:
                    seen = told.seen(seen)
                    shown = self._detailed(namespace, seen, able)
                    if shown != last:
                        last = shown
                        await _notify(
                            context, "notifications/tasks", {**shown, "_meta": dict(meta)}
                        )


class _Progress:
    """Tells a client of pieces while its call goes on, if it wants to know."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self._token = ((context.params or {}).get("_meta") or {}).get("progressToken")
        self._count = 0

    @property
    def wanted(self) -> bool:
        return self._token is not None

    async def tell(self, piece: Piece) -> None:
        if self._token is None:
            return
        self._count += 1
        told = {
            "progressToken": self._token,
            "progress": self._count,
            "message": str(piece.value),
        }
        await _notify(self._context, "notifications/progress", told)


# --- Requests ---------------------------------------------------------------------------------


def _namespace(context: Context) -> str:
    path = str(context.request.scope["path"]) if context.request is not None else ""
    return unquote(path.removeprefix("/mcp/").rstrip("/"))


def _capabilities(context: Context) -> Mapping[str, Any]:
    meta = (context.params or {}).get("_meta") or {}
    found = meta.get(types.CLIENT_CAPABILITIES_META_KEY) or {}
    return found if isinstance(found, Mapping) else {}


def _extensions(context: Context) -> Mapping[str, Any]:
    found = _capabilities(context).get("extensions") or {}
    return found if isinstance(found, Mapping) else {}


def _need_tasks(context: Context) -> None:
    if TASKS not in _extensions(context):
        raise _missing({"extensions": {TASKS: {}}})


def _missing(required: dict[str, Any]) -> MCPError:
    return MCPError(
        MISSING_CAPABILITY,
        f"the client must declare the capability {json.dumps(required)}",
        {"requiredCapabilities": required},
    )


def _unknown(task_id: str) -> MCPError:
    return MCPError(types.INVALID_PARAMS, f"Unknown task: {task_id[:200]}")


def _responses(raw: Mapping[str, Any]) -> Mapping[str, Any]:
    found = raw.get("inputResponses")
    if found is None and "inputResponses" not in raw:
        return {}
    if not isinstance(found, Mapping) or not all(isinstance(v, Mapping) for v in found.values()):
        raise MCPError(types.INVALID_PARAMS, "inputResponses: an object of responses by their key")
    return found


def _id_of(namespace: str, tool: str, key: str) -> str:
    return "mcp-" + hashlib.sha256("\x00".join((namespace, tool, key)).encode()).hexdigest()[:32]


def _fault(tool: Exposed, arguments: dict[str, Any]) -> str:
    """Why the arguments do not fit the schema; empty: they do."""
    try:
        faults = list(Draft202012Validator(tool.input_schema).iter_errors(arguments))
    except SchemaError as error:
        return f"the tool's own schema is wrong: {error.message}"
    return "; ".join(f"{each.json_path}: {each.message}" for each in faults[:5])


class _refusals(contextlib.AbstractContextManager[None]):
    """Refusals of the server as errors of the protocol."""

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: Any, error: BaseException | None, traceback: Any) -> None:
        if isinstance(error, Refusal):
            raise MCPError(types.INVALID_PARAMS, error.message) from error


async def _notify(context: Context, method: str, params: dict[str, Any]) -> None:
    """The SDK types the notifications it knows; tasks are an extension's."""
    await context.session._request_outbound.notify(method, params)


# --- Replies ----------------------------------------------------------------------------------


def _tool(name: str, what: Exposed) -> types.Tool:
    schema = {"type": "object"} | what.input_schema
    fields: dict[str, Any] = {"name": name, "inputSchema": schema}
    if what.title:
        fields["title"] = what.title
    fields["description"] = what.description or f"{what.workflow or what.operation}, durably"
    if isinstance(what.output_schema, dict):
        fields["outputSchema"] = what.output_schema
    return types.Tool.model_validate(fields)


def _task(seen: Seen, config: Config) -> dict[str, Any]:
    shown: dict[str, Any] = {
        "taskId": seen.call_id,
        "status": _status(seen),
        "createdAt": _time(seen.created_ns),
        "lastUpdatedAt": _time(seen.changed_ns),
        "ttlMs": None,
        "pollIntervalMs": POLL_INTERVAL_MS,
    }
    message = _why(seen) if seen.ended and seen.phase != COMPLETED else seen.message
    if message:
        shown["statusMessage"] = message
    return shown


def _status(seen: Seen) -> str:
    """A tool that failed has a result that says so; `failed` is for the protocol's own errors."""
    if seen.phase in (WORKING, INPUT_REQUIRED):
        return seen.phase
    if seen.phase == CANCELED:
        return "cancelled"
    protocol = seen.failure is not None and (
        seen.failure.application_failure_info.type == PROTOCOL_ERROR
    )
    return "failed" if seen.phase == TIMED_OUT or protocol else "completed"


def _why(seen: Seen) -> str:
    if seen.phase == TIMED_OUT:
        return "the call timed out"
    if seen.failure is None:
        return "the call was canceled"
    innermost = seen.failure
    while innermost.HasField("cause"):
        innermost = innermost.cause
    return str(innermost.message or seen.failure.message)


def _requests(questions: Mapping[str, Question], able: Mapping[str, Any]) -> dict[str, Any]:
    """Those that the client says it can answer."""
    return {
        key: {"method": each.method, "params": each.params}
        for key, each in questions.items()
        if CAPABILITIES.get(each.method, each.method) in able
    }


def _time(nanoseconds: int) -> str:
    moment = datetime.fromtimestamp(nanoseconds / 1e9, UTC)
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _failed(message: str) -> types.CallToolResult:
    return types.CallToolResult(
        content=[types.TextContent(type="text", text=message)], is_error=True
    )


def _result(tool: Exposed, seen: Seen) -> types.CallToolResult:
    status = _status(seen)
    if status == "failed":
        raise MCPError(types.INTERNAL_ERROR, _why(seen))
    if seen.phase != COMPLETED:
        return _failed(_why(seen))
    value = seen.result
    if tool.content:
        whole = value if isinstance(value, dict) and "content" in value else {"content": value}
        return types.CallToolResult.model_validate(whole)
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    structured = value if isinstance(value, dict) else None
    if structured is None and isinstance(tool.output_schema, dict):
        structured = {"result": value}
    return types.CallToolResult(
        content=[types.TextContent(type="text", text=text)], structured_content=structured
    )
