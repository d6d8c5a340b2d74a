"""Calls of agents outside, on durably alone: a workflow started and awaited by itself, as an MCP tool, as an A2A agent.

Rule: the same workflow and the same client process each time, one call after the other, each protocol spoken by its own SDK;
what is more than the first is what the protocol costs.
"""

import time
import uuid
from collections.abc import Awaitable, Callable

import httpx
from a2a.client import ClientConfig, ClientFactory
from a2a.client.card_resolver import A2ACardResolver
from a2a.types import a2a_pb2 as a2a
from mcp import Client as McpClient
from temporalio.client import Client

from bench import aims
from bench.loads import Load, Outcome, fresh_id, timed
from bench.workflows import TASK_QUEUE, Hello
from durably.agents.convention import Exposed
from durably.agents.interaction import expose

NAME = "hello"
FIRST_CALL_TIMEOUT_S = 120.0
CALLS = 100


async def prepare(client: Client, size: int) -> int:
    what = Exposed(workflow="Hello", task_queue=TASK_QUEUE, agent=True)
    await expose(client, NAME, what)
    # The first request of a protocol loads its SDK.
    async with httpx.AsyncClient(timeout=FIRST_CALL_TIMEOUT_S) as http:
        await _card(client, http)
        ping = {"jsonrpc": "2.0", "id": 1, "method": "tools/list", "params": {}}
        accept = {"accept": "application/json, text/event-stream"}
        await http.post(_url(client, f"mcp/{client.namespace}"), json=ping, headers=accept)
    return size


def _url(client: Client, path: str) -> str:
    return f"http://{client.service_client.config.target_host}/{path}"


async def _card(client: Client, http: httpx.AsyncClient) -> a2a.AgentCard:
    agent = _url(client, f"a2a/{client.namespace}/{NAME}")
    return await A2ACardResolver(http, agent).get_agent_card()


async def _one_by_one(calls: int, call: Callable[[], Awaitable[object]]) -> Outcome:
    await call()
    began = time.perf_counter()
    latencies = [await timed(call) for _ in range(calls)]
    return Outcome(calls, calls, time.perf_counter() - began, latencies)


async def bare(client: Client, calls: int) -> Outcome:
    async def call() -> None:
        await client.execute_workflow(Hello.run, {}, id=fresh_id(), task_queue=TASK_QUEUE)

    return await _one_by_one(calls, call)


async def by_mcp(client: Client, calls: int) -> Outcome:
    async with McpClient(_url(client, f"mcp/{client.namespace}")) as tools:

        async def call() -> None:
            result = await tools.call_tool(NAME, {})
            assert not result.is_error, result

        return await _one_by_one(calls, call)


async def by_a2a(client: Client, calls: int) -> Outcome:
    async with httpx.AsyncClient(timeout=FIRST_CALL_TIMEOUT_S) as http:
        config = ClientConfig(httpx_client=http, streaming=False)
        agent = ClientFactory(config).create(await _card(client, http))

        async def call() -> None:
            said = a2a.Message(
                message_id=str(uuid.uuid4()), role=a2a.ROLE_USER, parts=[a2a.Part(text="hello")]
            )
            replies = [e async for e in agent.send_message(a2a.SendMessageRequest(message=said))]
            state = replies[-1].task.status.state
            assert state == a2a.TASK_STATE_COMPLETED, a2a.TaskState.Name(state)

        return await _one_by_one(calls, call)


LOADS = {
    load.name: load
    for load in [
        Load(
            name,
            title,
            "call",
            CALLS,
            run,
            prepare=prepare,
            aims=aims.NONE,
            servers=("durably",),
        )
        for name, title, run in (
            ("call", "workflows called one by one", bare),
            ("call-mcp", "the same as MCP tools", by_mcp),
            ("call-a2a", "the same as A2A agents", by_a2a),
        )
    ]
}
