"""Two callers from outside, who know nothing of Temporal: one speaks MCP, one speaks A2A.

Each uses its protocol's own SDK, and makes its call again when the connection breaks: with the same key or the same
message id it is the same call, so that it is worked on once, whatever was killed meanwhile, this process included.
"""

import asyncio
import json
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import httpx
from a2a.client import ClientConfig, ClientFactory
from a2a.client.card_resolver import A2ACardResolver
from a2a.types import a2a_pb2 as a2a
from contract import RESEARCH, REVIEW
from google.protobuf import json_format
from mcp import Client as McpClient

QUESTION = "What does our style ask of a function?"
CODE = '''def seconds(text):
    """Only seconds."""
    return int(text.removesuffix("s"))
'''
PATIENCE_S = 120.0


async def ask_by_mcp(address: str) -> str:
    """The research agent, as a tool."""
    meta: Any = {"io.durably/call-key": "the question of the one outside"}
    async with McpClient(f"http://{address}/mcp/{RESEARCH}") as client:
        result = await client.call_tool("research", {"question": QUESTION}, meta=meta)
    return "\n".join(each.text for each in result.content if each.type == "text")


async def ask_by_a2a(address: str) -> str:
    """The review agent, as an agent with a card."""
    said = a2a.Message(
        message_id="the code of the one outside", role=a2a.ROLE_USER, parts=[a2a.Part(text=CODE)]
    )
    agent = f"http://{address}/a2a/{REVIEW}/reviewer"
    async with httpx.AsyncClient(timeout=PATIENCE_S) as http:
        card = await A2ACardResolver(http, agent).get_agent_card()
        client = ClientFactory(ClientConfig(httpx_client=http, streaming=False)).create(card)
        replies = [each async for each in client.send_message(a2a.SendMessageRequest(message=said))]
    task = replies[-1].task
    parts = [part for each in task.artifacts if each.artifact_id == "result" for part in each.parts]
    if not parts:
        raise ConnectionError(f"the task is {a2a.TaskState.Name(task.status.state)}")
    return json.dumps(json_format.MessageToDict(parts[0].data))


async def until_answered(call: Callable[[str], Awaitable[str]], address: str) -> str:
    """Through outages: whatever goes wrong with a call, it can be made again."""
    while True:
        try:
            return await call(address)
        except Exception:
            await asyncio.sleep(0.3)


async def ask(address: str, answers: Path) -> None:
    by_mcp, by_a2a = await asyncio.gather(
        until_answered(ask_by_mcp, address), until_answered(ask_by_a2a, address)
    )
    written = answers.with_suffix(".new")
    written.write_text(json.dumps({"mcp": by_mcp, "a2a": by_a2a}))
    written.rename(answers)
