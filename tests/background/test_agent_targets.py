"""Endpoints that lead to MCP servers and A2A agents: those of the official SDKs, and durably itself."""

import asyncio
import json
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import pytest_asyncio
from aiohttp import web
from temporalio import workflow
from temporalio.api.operatorservice.v1 import request_response_pb2 as ops
from temporalio.client import Client, NexusOperationFailureError
from temporalio.exceptions import ApplicationError, CancelledError
from temporalio.service import RPCError
from temporalio.worker import UnsandboxedWorkflowRunner, Worker

from durably import Server
from durably.agents.convention import (
    INPUT_REQUIRED,
    OPERATION_ANSWER,
    OPERATION_DISCOVER,
    UPDATE_ANSWER,
)
from durably.agents.interaction import call
from tests.conftest import eventually
from tests.processes import ServerProcess, listening
from tests.receivers import Call, Receiver

SETTINGS: dict[str, Any] = {
    "private_networks_allowed": ("127.0.0.0/8",),
    "nexus_retry_initial_interval_s": 0.05,
    "agent_poll_interval_s": 0.05,
    "agent_poll_maximum_interval_s": 0.2,
    "endpoint_credentials": {"guarded": "Bearer secret-word"},
}
SET = [
    argument
    for name, value in SETTINGS.items()
    if not isinstance(value, dict)
    for argument in ("--set", f"{name}={value[0] if isinstance(value, tuple) else value}")
]
QUEUE = "callers"


@pytest.fixture(scope="module")
def elsewhere(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Host and port of the SDKs' own servers."""
    log = tmp_path_factory.mktemp("elsewhere") / "log"
    with listening("tests.agents_elsewhere", log) as address:
        yield address


@pytest_asyncio.fixture
async def server(tmp_path: Path) -> AsyncIterator[Server]:
    async with Server(store=f"sqlite:///{tmp_path}/store.db", port=0, **SETTINGS) as running:
        yield running


async def make_endpoint(client: Client, name: str, url: str) -> Any:
    request = ops.CreateNexusEndpointRequest()
    request.spec.name = name
    request.spec.target.external.url = url
    return (await client.operator_service.create_nexus_endpoint(request)).endpoint


async def start(client: Client, endpoint: str, operation: str, value: Any, **options: Any) -> Any:
    agent = client.create_nexus_client(service="any", endpoint=endpoint)
    options.setdefault("id", f"{endpoint}-{operation}-{value}")
    return await agent.start_operation(operation, value, **options)


async def run(client: Client, endpoint: str, operation: str, value: Any = None) -> Any:
    return await (await start(client, endpoint, operation, value)).result()


async def failure(client: Client, endpoint: str, operation: str, value: Any = None) -> Any:
    with pytest.raises(NexusOperationFailureError) as failed:
        await run(client, endpoint, operation, value)
    return failed.value.cause


async def watched(handle: Any) -> None:
    """Until the operation has started, and its agent is asked how it stands."""

    async def started() -> bool:
        return "durably-watch:" in str((await handle.describe()).raw_description)

    await eventually(started)


# --- MCP --------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", ["mcp", "handshake"])
async def test_tools_are_operations_in_either_revision(
    client: Client, elsewhere: str, path: str
) -> None:
    await make_endpoint(client, "tools", f"mcp+http://{elsewhere}/{path}/")
    assert await run(client, "tools", "add", {"a": 2, "b": 3}) == {"result": 5}
    assert await run(client, "tools", "shout", {"word": path}) == f"{path.upper()} 1"
    offered = (await run(client, "tools", OPERATION_DISCOVER))["operations"]
    schemas = {each["name"]: each["inputSchema"] for each in offered}
    assert set(schemas["add"]["properties"]) == {"a", "b"}
    failed = await failure(client, "tools", "fails")
    assert isinstance(failed, ApplicationError)
    assert failed.type == "ToolError"
    assert "no such luck" in failed.message
    refused = await failure(client, "tools", "add", "not an object")
    assert "must be an object" in str(refused)


async def test_a_task_is_an_operation_that_is_watched(client: Client, elsewhere: str) -> None:
    await make_endpoint(client, "tools", f"mcp+http://{elsewhere}/mcp/")
    assert await run(client, "tools", "task_ends", {"key": "k1"}) == "ended k1"
    failed = await failure(client, "tools", "task_fails", {"key": "k1"})
    assert (failed.type, failed.message) == ("McpError", "it broke")
    waiting = await start(client, "tools", "task_waits", {"key": "k1"})
    await watched(waiting)
    await waiting.cancel(reason="enough")
    with pytest.raises(NexusOperationFailureError) as failed_with:
        await waiting.result()
    assert isinstance(failed_with.value.cause, CancelledError)


async def test_what_a_tool_asks_for_is_told_and_answered(client: Client, elsewhere: str) -> None:
    await make_endpoint(client, "tools", f"mcp+http://{elsewhere}/mcp/")
    asked = await failure(client, "tools", "task_asks", {"key": "k2"})
    assert (asked.type, asked.message) == (INPUT_REQUIRED, "Sure?")
    (details,) = asked.details
    assert details["questions"]["sure"]["method"] == "elicitation/create"
    answers = {"sure": {"action": "accept", "content": {"answer": "yes"}}}
    told = {"call": details["call"], "answers": answers}
    assert await run(client, "tools", OPERATION_ANSWER, told) == "told yes"
    refused = await failure(client, "tools", OPERATION_ANSWER, {"call": {}, "answers": {}})
    assert INPUT_REQUIRED in str(refused)


@workflow.defn
class CallsAgent:
    """As anybody's workflow does it: one line, whatever the agent asks on the way."""

    @workflow.run
    async def run(self, endpoint: str, operation: str, value: Any) -> Any:
        agent = workflow.create_nexus_client(endpoint=endpoint, service="any")
        return await call(agent, operation, value)


async def open_question(client: Client, workflow_id: str) -> str:
    keys: list[str] = []

    async def asked() -> bool:
        memo = await (await client.get_workflow_handle(workflow_id).describe()).memo()
        keys.extend(memo.get("durably.questions") or {})
        return bool(keys)

    await eventually(asked)
    return keys[0]


@pytest.mark.parametrize(
    ("url", "operation", "value", "result"),
    [
        ("mcp+http://{}/mcp/", "task_asks", {"key": "k3"}, "told red"),
        ("a2a+http://{}/agent", "send", "ask me", "painted red"),
    ],
)
async def test_a_workflow_asks_a_person_what_its_agent_asks(
    client: Client, elsewhere: str, url: str, operation: str, value: Any, result: str
) -> None:
    await make_endpoint(client, "agent", url.format(elsewhere))
    async with Worker(
        client,
        task_queue=QUEUE,
        workflows=[CallsAgent],
        workflow_runner=UnsandboxedWorkflowRunner(),
    ):
        handle = await client.start_workflow(
            CallsAgent.run, args=["agent", operation, value], id="w", task_queue=QUEUE
        )
        key = await open_question(client, "w")
        response = {"action": "accept", "content": {"answer": "red"}}
        await handle.execute_update(UPDATE_ANSWER, args=[key, response])
        assert await handle.result() == result


# --- A2A --------------------------------------------------------------------------------------


async def test_messages_are_operations(client: Client, elsewhere: str) -> None:
    await make_endpoint(client, "writer", f"a2a+http://{elsewhere}/agent")
    assert await run(client, "writer", "send", "hello") == "hi"
    assert await run(client, "writer", "send", "a letter") == "wrote a letter 1"
    (offered,) = (await run(client, "writer", OPERATION_DISCOVER))["operations"]
    assert (offered["name"], "Writes it" in offered["description"]) == ("send", True)
    refused = await failure(client, "writer", "send", "refuse this")
    assert (refused.type, refused.message) == ("TaskRejected", "not that")
    unknown = await failure(client, "writer", "write", "this")
    assert "send and durably.answer" in str(unknown)
    waiting = await start(client, "writer", "send", "wait")
    await watched(waiting)
    await waiting.cancel(reason="enough")
    with pytest.raises(NexusOperationFailureError) as failed:
        await waiting.result()
    assert isinstance(failed.value.cause, CancelledError)


# --- What may go wrong ------------------------------------------------------------------------


class Between(Receiver):
    """Passes requests on to the server behind it; of the replies to some methods the first is lost."""

    def __init__(self, behind: str, *lost: str) -> None:
        super().__init__(answer=self.pass_on)
        self.behind = behind
        self.lost = list(lost)
        self.methods: list[str] = []

    async def pass_on(self, call: Call) -> web.Response | None:
        method = json.loads(call.body)["method"] if call.body else ""
        self.methods.append(method)
        url = f"http://{self.behind}/{call.path}"
        headers = {name: call.headers[name] for name in call.headers if name != "host"}
        async with aiohttp.ClientSession() as session:
            send = session.post if call.body else session.get
            async with send(url, headers=headers, data=call.body or None) as reply:
                body = await reply.read()
        if method in self.lost:
            self.lost.remove(method)
            return None
        body = body.replace(self.behind.encode(), f"127.0.0.1:{self.port}".encode())
        return web.Response(status=reply.status, body=body, content_type=reply.content_type)


async def test_a_reply_that_is_lost_begins_no_second_task(client: Client, elsewhere: str) -> None:
    async with Between(elsewhere, "SendMessage") as between:
        await make_endpoint(client, "writer", f"a2a+http://127.0.0.1:{between.port}/agent")
        assert await run(client, "writer", "send", "once") == "wrote once 1"
        assert between.methods.count("SendMessage") == 1
        assert not between.lost


async def test_replies_that_are_lost_change_no_result(client: Client, elsewhere: str) -> None:
    lost = ("server/discover", "tasks/get", "tasks/get")
    async with Between(elsewhere, *lost) as between:
        await make_endpoint(client, "tools", f"mcp+http://127.0.0.1:{between.port}/mcp/")
        assert await run(client, "tools", "task_ends", {"key": "k4"}) == "ended k4"
        assert not between.lost
        assert await run(client, "tools", "count", {"key": "k4"}) == "1"


async def test_what_is_refused_for_now_is_asked_again_and_credentials_are_told_to_nobody(
    client: Client,
) -> None:
    statuses = [503, 429]

    async def answer(call: Call) -> web.Response | None:
        if statuses:
            return web.Response(status=statuses.pop(0), text="later")
        if json.loads(call.body)["method"] == "server/discover":
            result: dict[str, Any] = {"supportedVersions": ["2026-07-28"]}
        else:
            result = {"content": [{"type": "text", "text": "done"}]}
        told = {"jsonrpc": "2.0", "id": 1, "result": result}
        return web.Response(
            text=f"event: message\ndata: {json.dumps(told)}\n\n", content_type="text/event-stream"
        )

    async with Receiver(answer=answer) as receiver:
        await make_endpoint(client, "guarded", f"mcp+http://127.0.0.1:{receiver.port}")
        handle = await start(client, "guarded", "anything", None)
        assert await handle.result() == "done"
        assert "secret-word" not in str((await handle.describe()).raw_description)
    assert {each.headers["authorization"] for each in receiver.calls} == {"Bearer secret-word"}


@pytest.mark.parametrize(
    ("status", "body", "kind"),
    [
        (401, "who are you", "UNAUTHENTICATED"),
        (404, "nothing here", "NOT_FOUND"),
        (
            400,
            '{"jsonrpc":"2.0","id":1,"error":{"code":-32602,"message":"no such tool"}}',
            "BAD_REQUEST",
        ),
        (302, "", "unexpected reply"),
    ],
)
async def test_what_can_never_succeed_fails_the_operation(
    client: Client, status: int, body: str, kind: str
) -> None:
    async def answer(call: Call) -> web.Response | None:
        return web.Response(status=status, text=body)

    async with Receiver(answer=answer) as receiver:
        await make_endpoint(client, "tools", f"mcp+http://127.0.0.1:{receiver.port}")
        refused = await failure(client, "tools", "anything")
    assert kind in f"{getattr(refused, 'type', '')} {refused}"


async def test_a_card_without_what_is_spoken_here_fails_the_operation(client: Client) -> None:
    offered = [{"url": "http://x", "protocolBinding": "GRPC", "protocolVersion": "1.0"}]

    async def answer(call: Call) -> web.Response | None:
        return web.json_response({"name": "a", "supportedInterfaces": offered})

    async with Receiver(answer=answer) as receiver:
        await make_endpoint(client, "agent", f"a2a+http://127.0.0.1:{receiver.port}")
        refused = await failure(client, "agent", "send", "x")
    assert "GRPC 1.0" in str(refused)


@pytest.mark.parametrize(
    ("url", "why"),
    [
        ("mcp+ftp://example.com", "invalid target URL scheme"),
        ("mcp+http://", "missing host"),
        ("mcp+https://me:word@example.com/", "endpoint_credentials"),
        ("a2a+https://example.com/#part", "a query or a fragment"),
        ("a2a+https://exam ple.com/", "a space"),
        ("a2a+http://10.0.0.1/", "private_networks_allowed"),
        ("mcp+http://[::1/", "invalid target URL"),
    ],
)
async def test_a_bad_url_is_refused(client: Client, url: str, why: str) -> None:
    with pytest.raises(RPCError, match=why):
        await make_endpoint(client, "bad", url)
    assert not (
        await client.operator_service.list_nexus_endpoints(ops.ListNexusEndpointsRequest())
    ).endpoints


async def test_an_endpoint_shows_its_url(client: Client) -> None:
    made = await make_endpoint(client, "tools", "mcp+https://example.com/mcp")
    assert made.spec.target.external.url == "mcp+https://example.com/mcp"


async def test_tasks_go_on_after_a_kill(tmp_path: Path, elsewhere: str) -> None:
    process = ServerProcess(tmp_path / "store.db", *SET, folder=tmp_path).start()
    try:
        client = await Client.connect(process.address)
        await make_endpoint(client, "tools", f"mcp+http://{elsewhere}/mcp/")
        await make_endpoint(client, "writer", f"a2a+http://{elsewhere}/agent")
        handles = [
            await start(client, "tools", "task_ends", {"key": "killed task"}, id="of-mcp"),
            await start(client, "writer", "send", "killed", id="of-a2a"),
        ]
        await watched(handles[0])  # The other may be at any stage: not called, called, recorded.
        await asyncio.to_thread(process.kill)
        await asyncio.to_thread(process.start)
        results = [await each.result() for each in handles]
        assert results == ["ended killed task", "wrote killed 1"]
    finally:
        process.kill()
