"""An MCP server and an A2A agent made with their official SDKs, in a process of their own.

    /mcp         an MCP server of the SDK, with a tasks extension: the SDK has none of its own
    /handshake   the same server for clients of earlier revisions only
    /agent       an A2A agent of the SDK, as JSON-RPC

They know nothing of durably. Tools and messages say what they do.
"""

import asyncio
import contextlib
import secrets
import sys
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from typing import Any

import mcp_types as types
import uvicorn
from a2a.server.agent_execution import AgentExecutor, RequestContext
from a2a.server.events.event_queue_v2 import EventQueue
from a2a.server.request_handlers.default_request_handler_v2 import DefaultRequestHandlerV2
from a2a.server.routes.agent_card_routes import create_agent_card_routes
from a2a.server.routes.jsonrpc_routes import create_jsonrpc_routes
from a2a.server.tasks import InMemoryTaskStore, TaskUpdater
from a2a.types import a2a_pb2 as a2a
from mcp.server.extension import Extension, MethodBinding
from mcp.server.mcpserver import MCPServer
from mcp.server.mcpserver.exceptions import ToolError
from mcp.shared.exceptions import MCPError
from pydantic import Field
from starlette.applications import Starlette
from starlette.routing import Mount
from starlette.types import ASGIApp, Receive, Scope, Send

TASKS = "io.modelcontextprotocol/tasks"
ran: Counter[str] = Counter()
"""How often something was done, by what was said."""


# --- MCP --------------------------------------------------------------------------------------


class TaskParams(types.RequestParams):
    taskId: str
    inputResponses: dict[str, Any] = Field(default_factory=dict)


class TasksInMemory(Extension):
    """Calls of the tools whose names begin with `task_` are tasks."""

    identifier = TASKS

    def __init__(self) -> None:
        self.tasks: dict[str, dict[str, Any]] = {}

    def methods(self) -> Sequence[MethodBinding]:
        return [
            MethodBinding("tasks/get", TaskParams, self.get),
            MethodBinding("tasks/update", TaskParams, self.update),
            MethodBinding("tasks/cancel", TaskParams, self.cancel),
        ]

    async def intercept_tool_call(self, params: Any, ctx: Any, call_next: Any) -> Any:
        if not params.name.startswith("task_"):
            return await call_next(ctx)
        key = (params.arguments or {}).get("key", "")
        ran[key] += 1
        task = {"taskId": secrets.token_hex(8), "status": "working", "pollIntervalMs": 100}
        task |= {"createdAt": "2026-07-28T00:00:00Z", "lastUpdatedAt": "2026-07-28T00:00:00Z"}
        self.tasks[task["taskId"]] = task
        if params.name == "task_asks":
            asked = {"method": "elicitation/create", "params": {"message": "Sure?", "mode": "form"}}
            asked["params"]["requestedSchema"] = {"type": "object", "properties": {}}
            task |= {"status": "input_required", "inputRequests": {"sure": asked}}
        elif params.name == "task_fails":
            task |= {"status": "failed", "error": {"code": -32603, "message": "it broke"}}
        elif params.name == "task_ends":
            asyncio.get_running_loop().call_later(1.0, self.end, task, f"ended {key}")
        return {"resultType": "task", "ttlMs": None, **task}

    def end(self, task: dict[str, Any], text: str) -> None:
        if task["status"] == "working":
            content = [{"type": "text", "text": text}]
            task |= {"status": "completed", "result": {"content": content}}

    async def get(self, ctx: Any, params: TaskParams) -> dict[str, Any]:
        return {"resultType": "complete", "ttlMs": None, **self.found(params)}

    async def update(self, ctx: Any, params: TaskParams) -> dict[str, Any]:
        task = self.found(params)
        answer = params.inputResponses["sure"]
        task.pop("inputRequests", None)
        task["status"] = "working"
        self.end(task, f"told {answer['content']['answer']}")
        return {"resultType": "complete"}

    async def cancel(self, ctx: Any, params: TaskParams) -> dict[str, Any]:
        self.found(params)["status"] = "cancelled"
        return {"resultType": "complete"}

    def found(self, params: TaskParams) -> dict[str, Any]:
        if params.taskId not in self.tasks:
            raise MCPError(types.INVALID_PARAMS, f"Unknown task: {params.taskId}")
        return self.tasks[params.taskId]


def mcp_server() -> MCPServer:
    server = MCPServer("elsewhere", extensions=[TasksInMemory()])

    @server.tool()
    async def add(a: int, b: int) -> int:
        """Adds two numbers."""
        return a + b

    @server.tool(structured_output=False)
    async def shout(word: str) -> str:
        ran[word] += 1
        return f"{word.upper()} {ran[word]}"

    @server.tool(structured_output=False)
    async def count(key: str) -> str:
        return str(ran[key])

    @server.tool()
    async def fails() -> str:
        raise ToolError("no such luck")

    for name in ("task_ends", "task_waits", "task_asks", "task_fails"):

        async def task(key: str) -> str:
            raise AssertionError("it is a task")

        server.tool(name=name, structured_output=False)(task)
    return server


class OnlyWithHandshake:
    """As servers do that know nothing of a revision: a request that names it is refused."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        headers = dict(scope.get("headers") or ())
        if headers.get(b"mcp-protocol-version") != b"2026-07-28":
            await self.app(scope, receive, send)
            return
        body = b"Bad Request: Unsupported protocol version"
        await send({"type": "http.response.start", "status": 400, "headers": []})
        await send({"type": "http.response.body", "body": body})


# --- A2A --------------------------------------------------------------------------------------


class Writer(AgentExecutor):
    async def execute(self, context: RequestContext, event_queue: EventQueue) -> None:
        told = context.get_user_input()
        assert context.message is not None
        if told == "hello":
            message = a2a.Message(message_id="m", role=a2a.ROLE_AGENT, parts=[a2a.Part(text="hi")])
            await event_queue.enqueue_event(message)
            return
        updater = TaskUpdater(event_queue, str(context.task_id), str(context.context_id))
        if context.current_task is None:
            ran[told] += 1
            task = a2a.Task(id=str(context.task_id), context_id=str(context.context_id))
            task.status.state = a2a.TASK_STATE_SUBMITTED
            task.history.append(context.message)
            await event_queue.enqueue_event(task)
        else:
            await updater.add_artifact([a2a.Part(text=f"painted {told}")], name="picture")
            await updater.complete()
            return
        await updater.start_work()
        if told.startswith("ask"):
            parts = [a2a.Part(text="Which colour?")]
            await updater.requires_input(updater.new_agent_message(parts))
            return
        if told.startswith("refuse"):
            await updater.reject(updater.new_agent_message([a2a.Part(text="not that")]))
            return
        await asyncio.sleep(3600 if told.startswith("wait") else 1)
        await updater.add_artifact([a2a.Part(text=f"wrote {told} {ran[told]}")], name="text")
        await updater.complete()

    async def cancel(self, context: RequestContext, event_queue: EventQueue) -> None:
        await TaskUpdater(event_queue, str(context.task_id), str(context.context_id)).cancel()


def agent_routes(url: str) -> list[Any]:
    card = a2a.AgentCard(
        name="Writer",
        description="Writes",
        version="1",
        supported_interfaces=[
            a2a.AgentInterface(url=url, protocol_binding="JSONRPC", protocol_version="1.0")
        ],
        capabilities=a2a.AgentCapabilities(),
        default_input_modes=["text/plain"],
        default_output_modes=["text/plain"],
        skills=[a2a.AgentSkill(id="write", name="Write", description="Writes it", tags=["w"])],
    )
    handler = DefaultRequestHandlerV2(Writer(), InMemoryTaskStore(), card)
    return [*create_agent_card_routes(card), *create_jsonrpc_routes(handler, "/")]


def app(port: int) -> Starlette:
    tools, with_sessions = mcp_server(), mcp_server()
    modern = tools.streamable_http_app(streamable_http_path="/")
    earlier = with_sessions.streamable_http_app(streamable_http_path="/")

    @contextlib.asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[None]:
        async with tools.session_manager.run(), with_sessions.session_manager.run():
            print("ready", flush=True)
            yield

    return Starlette(
        routes=[
            Mount("/mcp", app=modern),
            Mount("/handshake", app=OnlyWithHandshake(earlier)),
            Mount("/agent", routes=agent_routes(f"http://127.0.0.1:{port}/agent/")),
        ],
        lifespan=lifespan,
    )


if __name__ == "__main__":
    port = int(sys.argv[1])
    uvicorn.run(app(port), host="127.0.0.1", port=port, log_level="warning")
