"""Tools of MCP, called by the SDK's own client: real processes, which are killed."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import mcp_types as types
import nexusrpc
import nexusrpc.handler
import pytest
import pytest_asyncio
from mcp import Client as McpClient
from mcp.shared.exceptions import MCPError
from temporalio.api.nexus.v1 import EndpointSpec
from temporalio.api.operatorservice.v1 import CreateNexusEndpointRequest
from temporalio.client import Client, NexusOperationFailureError
from temporalio.exceptions import ApplicationError
from temporalio.worker import Worker

from durably import Server
from durably.agents.convention import CALL_KEY, OPERATION_ANSWER, Exposed
from durably.agents.interaction import expose
from tests.callers import Caller
from tests.conftest import eventually
from tests.outside import restart
from tests.processes import ServerProcess


@pytest_asyncio.fixture
async def caller(server: Server) -> AsyncIterator[Caller]:
    yield Caller(server.address)


async def executions(client: Client) -> int:
    return (await client.count_workflows("WorkflowType = 'Slow'")).count


def text_of(result: types.CallToolResult) -> str:
    content = result.content[0]
    assert isinstance(content, types.TextContent)
    return content.text


async def test_the_sdks_client_lists_and_calls_tools(outside: ServerProcess) -> None:
    async with McpClient(f"http://{outside.address}/mcp/default") as client:
        tools = {tool.name: tool for tool in (await client.list_tools()).tools}
        assert tools["confirm_delete"].input_schema["properties"] == {
            "filename": {"type": "string"}
        }
        result = await client.call_tool("greet", {"name": "Ada"})
        assert text_of(result) == "Hello, Ada!"
        failed = await client.call_tool("test_error_handling", {})
        assert failed.is_error
        with pytest.raises(MCPError, match="Unknown tool"):
            await client.call_tool("nobody_exposed_this", {})


async def test_the_legacy_revision_is_served_too(outside: ServerProcess) -> None:
    url = f"http://{outside.address}/mcp/default"
    async with McpClient(url, mode="legacy") as client:
        assert text_of(await client.call_tool("greet", {"name": "Ada"})) == "Hello, Ada!"


async def test_a_question_is_asked_of_the_sdks_client(outside: ServerProcess) -> None:
    async def answer(context: Any, params: types.ElicitRequestParams) -> types.ElicitResult:
        assert params.message == "What is your name?"
        return types.ElicitResult(action="accept", content={"name": "Grace"})

    url = f"http://{outside.address}/mcp/default"
    async with McpClient(url, elicitation_callback=answer) as client:
        result = await client.call_tool("test_input_required_result_elicitation", {})
        assert text_of(result) == "Hello, Grace!"


async def test_the_sdks_client_calls_again_after_a_kill_and_gets_the_one_result(
    outside: ServerProcess, tmp_path: Path
) -> None:
    url = f"http://{outside.address}/mcp/default"
    counted = tmp_path / "count"
    arguments = {"seconds": 4, "path": str(counted)}
    meta: Any = {CALL_KEY: "the one call"}
    temporal = await Client.connect(outside.address)
    before = await executions(temporal)

    async def call() -> types.CallToolResult:
        async with McpClient(url) as client:
            return await client.call_tool("slow_compute", arguments, meta=meta)

    first = asyncio.create_task(call())

    async def started() -> bool:
        return counted.exists()

    await eventually(started, 60)
    await asyncio.to_thread(restart, outside)
    lost = (await asyncio.gather(first, return_exceptions=True))[0]
    assert isinstance(lost, BaseException)
    result = await call()
    assert result.structured_content is not None
    assert result.structured_content["computed"]
    assert (await call()).structured_content == result.structured_content
    assert await executions(temporal) == before + 1


async def test_a_task_goes_on_after_a_kill(outside: ServerProcess) -> None:
    caller = Caller(outside.address)
    arguments = {"seconds": 2}
    task = await caller.result("tools/call", {"name": "slow_compute", "arguments": arguments})
    assert task["resultType"] == "task"
    await asyncio.to_thread(restart, outside)
    done = await caller.until(task["taskId"], "completed")
    assert done["result"]["structuredContent"] == {"computed": True, "times": 0}
    assert done == await caller.result("tasks/get", {"taskId": task["taskId"]})


async def test_a_task_asks_and_is_answered_once(outside: ServerProcess) -> None:
    caller = Caller(outside.address)
    task = await caller.result(
        "tools/call", {"name": "confirm_delete", "arguments": {"filename": "a"}}
    )
    asking = await caller.until(task["taskId"], "input_required")
    assert asking["inputRequests"]["confirm"]["params"]["message"] == "Delete a?"
    await asyncio.to_thread(restart, outside)
    answers = {
        "confirm": {"action": "accept", "content": {"confirm": True}},
        "never asked": {"action": "accept", "content": {}},
    }
    wrong = {"taskId": task["taskId"], "inputResponses": {"confirm": {"action": "perhaps"}}}
    refused = await caller("tasks/update", wrong)
    assert "action" in refused["error"]["message"]
    right = {"taskId": task["taskId"], "inputResponses": answers}
    await caller.result("tasks/update", right)
    await caller.result("tasks/update", right)
    done = await caller.until(task["taskId"], "completed")
    assert done["result"]["content"] == [{"type": "text", "text": "deleted"}]


async def test_a_task_is_canceled(outside: ServerProcess) -> None:
    caller = Caller(outside.address)
    arguments = {"seconds": 1000}
    task = await caller.result("tools/call", {"name": "slow_compute", "arguments": arguments})
    await caller.result("tasks/cancel", {"taskId": task["taskId"]})
    assert (await caller.until(task["taskId"], "cancelled"))["statusMessage"]
    await caller.result("tasks/cancel", {"taskId": task["taskId"]})


async def test_what_was_not_begun_by_a_tool_is_no_task(server: Server, caller: Caller) -> None:
    client = await Client.connect(server.address)
    await client.start_workflow("Secret", id="secret", task_queue="nobody")
    for method, more in (
        ("tasks/get", {}),
        ("tasks/cancel", {}),
        ("tasks/update", {"inputResponses": {}}),
    ):
        reply = await caller(method, {"taskId": "secret", **more})
        assert reply["error"] == {"code": -32602, "message": "Unknown task: secret"}


async def test_bad_calls_are_refused_and_begin_nothing(server: Server, caller: Caller) -> None:
    client = await Client.connect(server.address)
    schema = {"type": "object", "properties": {"n": {"type": "integer"}}, "required": ["n"]}
    what = Exposed(workflow="Counts", task_queue="nobody", input_schema=schema, tasks="required")
    await expose(client, "counts", what)
    wrong = await caller("tools/call", {"name": "counts", "arguments": {"n": "one"}})
    assert wrong["result"]["isError"]
    assert "$.n" in wrong["result"]["content"][0]["text"]
    call = {"name": "counts", "arguments": {"n": 1}}
    incapable = await caller("tools/call", call, {})
    assert incapable["error"]["code"] == -32021
    forged = await caller("tools/call", {**call, "requestState": "secret.x"})
    assert "requestState" in forged["error"]["message"]
    assert not [each async for each in client.list_workflows("")]
    elsewhere = Caller(server.address, "nowhere")
    assert "nowhere" in (await elsewhere("tools/list", {}))["error"]["message"]


async def test_an_entry_that_cannot_be_read_leaves_the_others(
    server: Server, caller: Caller
) -> None:
    from temporalio.api.namespace.v1 import UpdateNamespaceInfo
    from temporalio.api.workflowservice.v1 import UpdateNamespaceRequest

    client = await Client.connect(server.address)
    await expose(client, "good", Exposed(workflow="Good", task_queue="q"))
    broken = {"durably.expose.broken": "{", "durably.expose.lacking": '{"workflow": "W"}'}
    await client.workflow_service.update_namespace(
        UpdateNamespaceRequest(namespace="default", update_info=UpdateNamespaceInfo(data=broken))
    )
    tools = (await caller.result("tools/list", {}))["tools"]
    assert [tool["name"] for tool in tools] == ["good"]


async def test_who_listens_is_told_of_the_end(outside: ServerProcess) -> None:
    caller = Caller(outside.address)
    arguments = {"seconds": 2}
    task = await caller.result("tools/call", {"name": "slow_compute", "arguments": arguments})
    task_ids = [task["taskId"], "unknown"]
    await caller.result("subscriptions/listen", {"notifications": {"taskIds": task_ids}})
    acknowledged, *told = caller.frames[:-1]
    assert acknowledged["method"] == "notifications/subscriptions/acknowledged"
    assert acknowledged["params"]["notifications"] == {"taskIds": [task["taskId"]]}
    assert {each["method"] for each in told} == {"notifications/tasks"}
    assert told[-1]["params"]["status"] == "completed"
    assert told[-1]["params"]["result"]["structuredContent"]["computed"]


@nexusrpc.handler.service_handler(name="Sums")
class Sums:
    @nexusrpc.handler.sync_operation
    async def add(
        self, context: nexusrpc.handler.StartOperationContext, numbers: dict[str, int]
    ) -> int:
        if numbers["a"] < 0:
            raise nexusrpc.OperationError("too small", state=nexusrpc.OperationErrorState.FAILED)
        return numbers["a"] + numbers["b"]


async def test_an_operation_of_an_endpoint_is_a_tool(server: Server, caller: Caller) -> None:
    client = await Client.connect(server.address)
    spec = EndpointSpec(name="sums")
    spec.target.worker.namespace = "default"
    spec.target.worker.task_queue = "sums"
    await client.operator_service.create_nexus_endpoint(CreateNexusEndpointRequest(spec=spec))
    await expose(client, "add", Exposed(endpoint="sums", service="Sums", operation="add"))
    async with Worker(client, task_queue="sums", nexus_service_handlers=[Sums()]):
        call = {"name": "add", "arguments": {"a": 1, "b": 2}}
        added = await caller("tools/call", call, {})
        assert added["result"]["content"] == [{"type": "text", "text": "3"}]
        failed = await caller("tools/call", {"name": "add", "arguments": {"a": -1, "b": 2}}, {})
        assert failed["result"]["isError"]
        assert failed["result"]["content"] == [{"type": "text", "text": "too small"}]


async def test_another_durably_calls_tools_as_operations(
    outside: ServerProcess,
) -> None:
    """Its endpoint leads here; a question ends its operation, and the answer is another."""
    networks = ("127.0.0.0/8",)
    async with Server(store="memory:", port=0, private_networks_allowed=networks) as caller:
        client = await Client.connect(caller.address)
        request = CreateNexusEndpointRequest(spec=EndpointSpec(name="tools"))
        request.spec.target.external.url = f"mcp+http://{outside.address}/mcp/default"
        await client.operator_service.create_nexus_endpoint(request)
        tools = client.create_nexus_client(service="any", endpoint="tools")

        async def run(operation: str, value: Any) -> Any:
            handle = await tools.start_operation(operation, value, id=f"{operation}-{value}"[:200])
            return await handle.result()

        assert await run("greet", {"name": "Ada"}) == "Hello, Ada!"
        assert await run("test_custom_headers", {"region": "Grönland"})
        assert await run("slow_compute", {"seconds": 0.1})
        with pytest.raises(NexusOperationFailureError) as failed:
            await run("confirm_delete", {"filename": "f"})
        assert isinstance(failed.value.cause, ApplicationError)
        (details,) = failed.value.cause.details
        (key,) = details["questions"]
        answers = {key: {"action": "accept", "content": {"confirm": True}}}
        told = {"call": details["call"], "answers": answers}
        assert "delete" in str(await run(OPERATION_ANSWER, told))
