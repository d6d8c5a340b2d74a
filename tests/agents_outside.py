"""Workflows that agents outside call, and their worker: `python -m tests.agents_outside ADDRESS`.

The names and what they do are those that the MCP conformance suite asks of a server.
"""

import asyncio
import json
import sys
from datetime import timedelta
from typing import Any

from temporalio import activity, workflow
from temporalio.client import Client
from temporalio.exceptions import ApplicationError
from temporalio.worker import UnsandboxedWorkflowRunner, Worker

from durably.agents.convention import PROTOCOL_ERROR, Exposed
from durably.agents.interaction import ask, expose, publish, request

QUEUE = "agents-outside"
PIXEL = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mP8z8BQDwAEhQGAhKmMIQAAAABJRU5ErkJggg=="
SOUND = "UklGRiQAAABXQVZFZm10IBAAAAABAAEAQB8AAEAfAAABAAgAZGF0YQAAAAA="
NAME = {"type": "object", "properties": {"name": {"type": "string"}}, "required": ["name"]}
OK = {"type": "object", "properties": {"ok": {"type": "boolean"}}, "required": ["ok"]}
SAMPLING = {
    "messages": [
        {"role": "user", "content": {"type": "text", "text": "What is the capital of France?"}}
    ],
    "maxTokens": 100,
}
TEXT = {"type": "text", "text": "This is a simple text response for testing."}
IMAGE = {"type": "image", "data": PIXEL, "mimeType": "image/png"}
AUDIO = {"type": "audio", "data": SOUND, "mimeType": "audio/wav"}
RESOURCE = {
    "type": "resource",
    "resource": {
        "uri": "test://embedded-resource",
        "mimeType": "text/plain",
        "text": "This is an embedded resource content.",
    },
}
CONTENTS = {
    "test_simple_text": [TEXT],
    "test_image_content": [IMAGE],
    "test_audio_content": [AUDIO],
    "test_embedded_resource": [RESOURCE],
    "test_multiple_content_types": [TEXT, IMAGE, RESOURCE],
}


@workflow.defn
class Content:
    @workflow.run
    async def run(self, arguments: dict[str, Any]) -> list[dict[str, Any]]:
        return CONTENTS[workflow.memo_value("durably.call")["name"]]


@workflow.defn
class Fails:
    @workflow.run
    async def run(self, arguments: dict[str, Any]) -> str:
        kind = PROTOCOL_ERROR if arguments.get("protocol") else "Failed"
        raise ApplicationError("This tool intentionally returns an error for testing", type=kind)


@workflow.defn
class ProtocolFails:
    @workflow.run
    async def run(self, arguments: dict[str, Any]) -> str:
        raise ApplicationError("it went wrong below the tool", type=PROTOCOL_ERROR)


@activity.defn
async def count(path: str) -> int:
    """How often it has run, as lines of a file; the number of lines is the result."""

    def append() -> int:
        with open(path, "a+") as file:
            file.write("x\n")
            file.seek(0)
            return len(file.readlines())

    return await asyncio.to_thread(append)


@workflow.defn
class Slow:
    """Takes the seconds it is given; counts itself in a file, if it is given one."""

    @workflow.run
    async def run(self, arguments: dict[str, Any]) -> dict[str, Any]:
        publish("half way", kind="status")
        times = 0
        if arguments.get("path"):
            times = await workflow.execute_activity(
                count, arguments["path"], start_to_close_timeout=timedelta(seconds=20)
            )
        await workflow.sleep(float(arguments.get("seconds", 1)))
        return {"computed": True, "times": times}


@workflow.defn
class Greet:
    @workflow.run
    async def run(self, arguments: dict[str, Any]) -> str:
        return f"Hello, {arguments.get('name', 'World')}!"


@workflow.defn
class AsksName:
    @workflow.run
    async def run(self, arguments: dict[str, Any]) -> str:
        answer = await ask("What is your name?", schema=NAME, key="user_name")
        return f"Hello, {answer['name']}!"


@workflow.defn
class AsksToConfirm:
    @workflow.run
    async def run(self, arguments: dict[str, Any]) -> str:
        answer = await ask("Please confirm", schema=OK, key="confirm")
        return f"state-ok: {json.dumps(answer)}"


@workflow.defn
class AsksModel:
    @workflow.run
    async def run(self, arguments: dict[str, Any]) -> str:
        answer = await request("sampling/createMessage", SAMPLING, key="capital_question")
        return str(answer["content"]["text"])


@workflow.defn
class AsksRoots:
    @workflow.run
    async def run(self, arguments: dict[str, Any]) -> str:
        answer = await request("roots/list", {}, key="client_roots")
        return json.dumps(answer)


@workflow.defn
class AsksAll:
    @workflow.run
    async def run(self, arguments: dict[str, Any]) -> str:
        answers = await asyncio.gather(
            ask("What is your name?", schema=NAME, key="user_name"),
            request("sampling/createMessage", SAMPLING, key="greeting"),
            request("roots/list", {}, key="client_roots"),
        )
        return json.dumps(answers)


@workflow.defn
class AsksTwice:
    @workflow.run
    async def run(self, arguments: dict[str, Any]) -> str:
        first = await ask("Step 1: What is your name?", schema=NAME, key="step1")
        colour = {
            "type": "object",
            "properties": {"color": {"type": "string"}},
            "required": ["color"],
        }
        second = await ask("Step 2: What is your favorite color?", schema=colour, key="step2")
        return f"{first} {second}"


@workflow.defn
class ConfirmsDelete:
    @workflow.run
    async def run(self, arguments: dict[str, Any]) -> str:
        confirm = {"type": "object", "properties": {"confirm": {"type": "boolean"}}}
        answer = await ask(
            f"Delete {arguments.get('filename', 'it')}?", schema=confirm, key="confirm"
        )
        return "deleted" if answer.get("confirm") else "kept"


@workflow.defn
class AsksTwo:
    @workflow.run
    async def run(self, arguments: dict[str, Any]) -> str:
        answers = await asyncio.gather(
            ask("First?", schema=NAME, key="first"), ask("Second?", schema=NAME, key="second")
        )
        return json.dumps(answers)


@workflow.defn
class Progresses:
    @workflow.run
    async def run(self, arguments: dict[str, Any]) -> str:
        for percent in (0, 50, 100):
            publish(f"{percent} %", kind="status")
            await workflow.sleep(0.05)
        return "done"


@activity.defn
async def expose_another() -> None:
    client = activity.client()
    name = f"exposed_{activity.info().workflow_id[-8:]}"
    await expose(client, name, Exposed(workflow="Greet", task_queue=QUEUE))


@workflow.defn
class ExposesAnother:
    @workflow.run
    async def run(self, arguments: dict[str, Any]) -> str:
        await workflow.execute_activity(
            expose_another, start_to_close_timeout=timedelta(seconds=10)
        )
        return "there is another tool"


@workflow.defn
class Agent:
    """An A2A agent: it writes what it was told, in pieces, and asks when it is told to."""

    def __init__(self) -> None:
        self.may_go_on = False

    @workflow.signal
    def go_on(self) -> None:
        self.may_go_on = True

    @workflow.run
    async def run(self, message: dict[str, Any]) -> str:
        told = " ".join(part.get("text", "") for part in message.get("parts", []))
        publish(f"read: {told}", kind="status")
        publish("a first part", kind="artifact", name="draft")
        if "ask" in told:
            colour = await ask("Which colour?", key="colour")
            return f"painted {colour}"
        if "held" in told:
            await workflow.wait_condition(lambda: self.may_go_on)
        if "patiently" in told:
            await workflow.sleep(4)
        if "wait" in told:
            await workflow.sleep(3600)
        await workflow.sleep(1)
        return f"done: {told}"


@workflow.defn
class CallsEndpoint:
    """Calls an operation of any endpoint: how a workflow calls a server that has no worker."""

    @workflow.run
    async def run(self, endpoint: str, service: str, operation: str, value: Any) -> Any:
        client = workflow.create_nexus_client(endpoint=endpoint, service=service)
        return await client.execute_operation(operation, value)


WORKFLOWS = [
    Content, Fails, ProtocolFails, Slow, Greet, AsksName, AsksToConfirm, AsksModel, AsksRoots, AsksAll, AsksTwice,
    ConfirmsDelete, AsksTwo, Progresses, ExposesAnother, Agent, CallsEndpoint,
]  # fmt: skip
WITH_HEADER = {
    "type": "object",
    "properties": {"region": {"type": "string", "x-mcp-header": "Region"}},
    "required": ["region"],
}
DRAFT_2020_12 = {
    "$schema": "https://json-schema.org/draft/2020-12/schema",
    "type": "object",
    "$defs": {
        "address": {
            "$anchor": "addressDef",
            "type": "object",
            "properties": {"street": {"type": "string"}, "city": {"type": "string"}},
        }
    },
    "properties": {
        "name": {"type": "string"},
        "address": {"$ref": "#/$defs/address"},
        "contactMethod": {"type": "string", "enum": ["phone", "email"]},
        "phone": {"type": "string"},
        "email": {"type": "string"},
    },
    "allOf": [{"anyOf": [{"required": ["phone"]}, {"required": ["email"]}]}],
    "if": {"properties": {"contactMethod": {"const": "phone"}}, "required": ["contactMethod"]},
    "then": {"required": ["phone"]},
    "else": {"required": ["email"]},
    "additionalProperties": False,
}
FILE_NAME = {"type": "object", "properties": {"filename": {"type": "string"}}}
TOOLS = {
    **{name: ("Content", {"content": True}) for name in CONTENTS},
    "test_error_handling": ("Fails", {}),
    "test_tool_with_task": ("AsksName", {"tasks": "required", "asks_first": True}),
    "test_streaming_elicitation": ("AsksName", {}),
    "test_logging_tool": ("Greet", {}),
    "test_tool_with_progress": ("Progresses", {}),
    "test_trigger_tool_change": ("ExposesAnother", {}),
    "json_schema_2020_12_tool": ("Greet", {"input_schema": DRAFT_2020_12}),
    "test_custom_headers": ("Greet", {"input_schema": WITH_HEADER}),
    "slow_compute": ("Slow", {"tasks": "always", "input_schema": {"type": "object", "properties": {"seconds": {"type": "number"}}}}),
    "failing_job": ("Fails", {"tasks": "required"}),
    "protocol_error_job": ("ProtocolFails", {"tasks": "required"}),
    "greet": ("Greet", {}),
    "confirm_delete": ("ConfirmsDelete", {"input_schema": FILE_NAME}),
    "multi_input": ("AsksTwo", {}),
    "test_input_required_result_elicitation": ("AsksName", {}),
    "test_input_required_result_sampling": ("AsksModel", {}),
    "test_input_required_result_list_roots": ("AsksRoots", {}),
    "test_input_required_result_request_state": ("AsksToConfirm", {}),
    "test_input_required_result_tampered_state": ("AsksToConfirm", {}),
    "test_input_required_result_multiple_inputs": ("AsksAll", {}),
    "test_input_required_result_multi_round": ("AsksTwice", {}),
    "test_input_required_result_capabilities": ("AsksAll", {}),
    "test_missing_capability": ("AsksModel", {}),
}  # fmt: skip


async def expose_all(client: Client) -> None:
    for name, (kind, options) in TOOLS.items():
        what = Exposed(workflow=kind, task_queue=QUEUE, description=f"{kind}, durably", **options)
        await expose(client, name, what)
    card = Exposed(
        workflow="Agent",
        task_queue=QUEUE,
        tool=False,
        agent=True,
        description="Does as told",
        tags=["test"],
    )
    await expose(client, "writer", card)


async def main(address: str) -> None:
    client = await Client.connect(address)
    await expose_all(client)
    print("ready", flush=True)
    worker = Worker(
        client,
        task_queue=QUEUE,
        workflows=WORKFLOWS,
        activities=[count, expose_another],
        workflow_runner=UnsandboxedWorkflowRunner(),
    )
    await worker.run()


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1]))
