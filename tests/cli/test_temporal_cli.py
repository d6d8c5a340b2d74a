"""The real `temporal` command line against a real server: what people type, and what they read."""

import asyncio
import json
import sysconfig
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

from temporalio import activity, workflow
from temporalio.client import Client
from temporalio.worker import UnsandboxedWorkflowRunner, Worker

from durably import Server
from tests.conftest import eventually

TEMPORAL = Path(sysconfig.get_path("scripts")) / "temporal"
QUEUE = "cli"


@activity.defn
async def shout(text: str) -> str:
    return text.upper()


@workflow.defn
class Shout:
    @workflow.run
    async def run(self, text: str) -> str:
        limit = timedelta(seconds=10)
        return await workflow.execute_activity(shout, text, start_to_close_timeout=limit)


@workflow.defn
class Basket:
    """Collects what it is sent until it is told to stop."""

    def __init__(self) -> None:
        self.items: list[str] = []
        self.closed = False

    @workflow.run
    async def run(self) -> list[str]:
        await workflow.wait_condition(lambda: self.closed)
        return self.items

    @workflow.signal
    def add(self, item: str) -> None:
        self.items.append(item)

    @workflow.signal
    def close(self) -> None:
        self.closed = True

    @workflow.query
    def content(self) -> list[str]:
        return self.items

    @workflow.update
    def put(self, item: str) -> int:
        self.items.append(item)
        return len(self.items)


class Cli:
    """`temporal`, with an address and an empty configuration folder."""

    def __init__(self, address: str, folder: Path) -> None:
        self._address, self._folder = address, folder

    async def run(self, *arguments: str) -> tuple[int, str, str]:
        process = await asyncio.create_subprocess_exec(
            str(TEMPORAL),
            *arguments,
            env={
                "HOME": str(self._folder),
                "TEMPORAL_ADDRESS": self._address,
                "PATH": "/usr/bin:/bin",
            },
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
        output, errors = await process.communicate()
        assert process.returncode is not None
        return process.returncode, output.decode(), errors.decode()

    async def text(self, *arguments: str) -> str:
        """What it prints for a person."""
        code, output, errors = await self.run(*arguments)
        assert code == 0, f"{arguments}: {errors}{output}"
        return output

    async def json(self, *arguments: str) -> Any:
        """What it prints for a program."""
        return json.loads(await self.text(*arguments, "-o", "json"))

    async def fails(self, *arguments: str) -> str:
        code, output, errors = await self.run(*arguments)
        assert code != 0, output
        return errors


@asynccontextmanager
async def working(client: Client) -> AsyncIterator[None]:
    async with Worker(
        client,
        task_queue=QUEUE,
        workflows=[Shout, Basket],
        activities=[shout],
        workflow_runner=UnsandboxedWorkflowRunner(),
    ):
        yield


def start(kind: str, workflow_id: str, *rest: str) -> list[str]:
    return ["--type", kind, "--task-queue", QUEUE, "--workflow-id", workflow_id, *rest]


async def test_a_workflow_is_started_executed_and_shown(
    server: Server, client: Client, tmp_path: Path
) -> None:
    cli = Cli(server.address, tmp_path)
    async with working(client):
        done = await cli.json("workflow", "execute", *start("Shout", "w1", "--input", '"hi"'))
        assert (done["status"], done["result"]) == ("COMPLETED", "HI")

        started = await cli.json("workflow", "start", *start("Shout", "w2", "--input", '"you"'))
        assert uuid.UUID(started["runId"])
        result = await cli.json("workflow", "result", "-w", "w2")
        assert result["result"] == "YOU"

        described = await cli.json("workflow", "describe", "-w", "w2")
        info = described["workflowExecutionInfo"]
        assert info["status"] == "WORKFLOW_EXECUTION_STATUS_COMPLETED"
        assert info["type"]["name"] == "Shout"
        assert described["result"] == "YOU"

        shown = await cli.json("workflow", "show", "-w", "w2")
        assert [event["eventType"] for event in shown["events"]] == [
            "EVENT_TYPE_WORKFLOW_EXECUTION_STARTED",
            "EVENT_TYPE_WORKFLOW_TASK_SCHEDULED",
            "EVENT_TYPE_WORKFLOW_TASK_STARTED",
            "EVENT_TYPE_WORKFLOW_TASK_COMPLETED",
            "EVENT_TYPE_ACTIVITY_TASK_SCHEDULED",
            "EVENT_TYPE_ACTIVITY_TASK_STARTED",
            "EVENT_TYPE_ACTIVITY_TASK_COMPLETED",
            "EVENT_TYPE_WORKFLOW_TASK_SCHEDULED",
            "EVENT_TYPE_WORKFLOW_TASK_STARTED",
            "EVENT_TYPE_WORKFLOW_TASK_COMPLETED",
            "EVENT_TYPE_WORKFLOW_EXECUTION_COMPLETED",
        ]
        assert "WorkflowExecutionCompleted" in await cli.text("workflow", "show", "-w", "w2")
        assert "COMPLETED" in await cli.text("workflow", "describe", "-w", "w2")


async def test_workflows_are_listed_and_counted(
    server: Server, client: Client, tmp_path: Path
) -> None:
    cli = Cli(server.address, tmp_path)
    async with working(client):
        for number in range(3):
            await cli.json("workflow", "execute", *start("Shout", f"s{number}", "--input", '"a"'))
        await cli.json("workflow", "start", *start("Basket", "b"))

        listed = await cli.json("workflow", "list", "--query", "WorkflowType = 'Shout'")
        assert {row["execution"]["workflowId"] for row in listed} == {"s0", "s1", "s2"}
        assert len(await cli.json("workflow", "list", "--limit", "2")) == 2
        running = await cli.json("workflow", "count", "--query", "ExecutionStatus = 'Running'")
        assert running["count"] == "1"
        text = await cli.text("workflow", "count", "--query", "GROUP BY ExecutionStatus")
        assert "Total: 4" in text
        assert "Group total: 3, values: Completed" in text
        errors = await cli.fails("workflow", "list", "--query", "NoSuchAttribute = 1")
        assert "NoSuchAttribute" in errors


async def test_a_running_workflow_is_signalled_queried_updated_and_traced(
    server: Server, client: Client, tmp_path: Path
) -> None:
    cli = Cli(server.address, tmp_path)
    async with working(client):
        await cli.json("workflow", "start", *start("Basket", "b"))
        await cli.text("workflow", "signal", "-w", "b", "--name", "add", "--input", '"apple"')
        update = ("--name", "put", "--input", '"pear"')
        updated = await cli.json("workflow", "update", "execute", "-w", "b", *update)
        assert updated["result"] == 2
        content = await cli.json("workflow", "query", "-w", "b", "--name", "content")
        assert content["queryResult"] == [["apple", "pear"]]
        assert "Basket" in await cli.text("workflow", "stack", "-w", "b")
        metadata = await cli.json("workflow", "metadata", "-w", "b")
        assert {
            q["name"] for q in metadata["queryResult"][0]["definition"]["queryDefinitions"]
        } >= {"content"}
        await cli.text(
            "workflow",
            "signal-with-start",
            *start("Basket", "b", "--signal-name", "add", "--signal-input", '"plum"'),
        )
        await cli.text("workflow", "signal", "-w", "b", "--name", "close")
        result = await cli.json("workflow", "result", "-w", "b")
        assert result["result"] == ["apple", "pear", "plum"]


async def test_workflows_are_cancelled_terminated_deleted_and_reset(
    server: Server, client: Client, tmp_path: Path
) -> None:
    cli = Cli(server.address, tmp_path)

    async def status(workflow_id: str) -> str:
        described = await cli.json("workflow", "describe", "-w", workflow_id)
        return str(described["workflowExecutionInfo"]["status"]).rsplit("_", 1)[-1]

    async with working(client):
        for workflow_id in ("cancelled", "terminated"):
            await cli.json("workflow", "start", *start("Basket", workflow_id))
        await cli.text("workflow", "cancel", "-w", "cancelled")

        async def closed() -> bool:
            return await status("cancelled") == "CANCELED"

        await eventually(closed)
        await cli.text("workflow", "terminate", "-w", "terminated", "--reason", "enough")
        assert await status("terminated") == "TERMINATED"
        assert "enough" in await cli.text("workflow", "show", "-w", "terminated", "--detailed")

        await cli.json("workflow", "execute", *start("Shout", "again", "--input", '"x"'))
        reset = await cli.json(
            "workflow", "reset", "-w", "again", "-t", "FirstWorkflowTask", "--reason", "once more"
        )
        assert uuid.UUID(reset["runId"])
        assert (await cli.json("workflow", "result", "-w", "again"))["result"] == "X"

        await cli.text("workflow", "delete", "-w", "terminated", "--yes")

        async def gone() -> bool:
            code, _, errors = await cli.run("workflow", "describe", "-w", "terminated")
            return code != 0 and "not found" in errors

        await eventually(gone)


async def test_mistakes_are_told(server: Server, tmp_path: Path) -> None:
    cli = Cli(server.address, tmp_path)
    missing = await cli.fails("workflow", "describe", "-w", "no-such-workflow")
    assert "no-such-workflow" in missing
    assert "nowhere" in await cli.fails("workflow", "list", "--namespace", "nowhere")
    first, again = [
        await cli.json("workflow", "start", *start("Basket", "b", "--id-conflict-policy", policy))
        for policy in ("Fail", "UseExisting")
    ]
    assert first["runId"] == again["runId"]


async def test_namespaces_are_created_described_and_listed(server: Server, tmp_path: Path) -> None:
    cli = Cli(server.address, tmp_path)
    created = await cli.text(
        "operator", "namespace", "create", "-n", "team", "--retention", "3d", "--description", "us"
    )
    assert "team" in created
    described = await cli.json("operator", "namespace", "describe", "-n", "team")
    assert described["namespaceInfo"]["description"] == "us"
    assert described["config"]["workflowExecutionRetentionTtl"] == "259200s"
    listed = await cli.json("operator", "namespace", "list")
    assert {row["namespaceInfo"]["name"] for row in listed} >= {"default", "team"}
    await cli.text("operator", "namespace", "update", "-n", "team", "--description", "you")
    assert "you" in await cli.text("operator", "namespace", "describe", "-n", "team")
    assert "team" in await cli.fails("operator", "namespace", "create", "-n", "team")


async def test_a_task_queue_shows_its_pollers_and_its_backlog(
    server: Server, client: Client, tmp_path: Path
) -> None:
    cli = Cli(server.address, tmp_path)
    describe = ("task-queue", "describe", "--task-queue", QUEUE)
    for number in range(3):
        await cli.json("workflow", "start", *start("Shout", f"w{number}", "--input", '"a"'))
    waiting = await cli.json(*describe)
    backlog = {row["taskQueueType"]: row["approximateBacklogCount"] for row in waiting["stats"]}
    assert str(backlog["workflow"]) == "3"
    async with working(client):

        async def polled() -> bool:
            pollers = (await cli.json(*describe))["pollers"] or []
            return {poller["taskQueueType"] for poller in pollers} == {"workflow", "activity"}

        await eventually(polled)


async def test_search_attributes_are_created_used_and_removed(
    server: Server, client: Client, tmp_path: Path
) -> None:
    cli = Cli(server.address, tmp_path)
    attribute = ("operator", "search-attribute")
    await cli.text(*attribute, "create", "--name", "Team", "--type", "Keyword")
    assert "Team" in await cli.text(*attribute, "list")
    await cli.json("workflow", "start", *start("Basket", "b", "--search-attribute", 'Team="blue"'))
    found = await cli.json("workflow", "list", "--query", "Team = 'blue'")
    assert [row["execution"]["workflowId"] for row in found] == ["b"]
    await cli.text(*attribute, "remove", "--name", "Team", "--yes")
    assert "Team" not in await cli.text(*attribute, "list")


async def test_the_system_describes_itself(server: Server, tmp_path: Path) -> None:
    cli = Cli(server.address, tmp_path)
    assert "SERVING" in await cli.text("operator", "cluster", "health")
    assert "sqlite" in await cli.text("operator", "cluster", "describe")
    system = await cli.json("operator", "cluster", "system")
    assert system["serverVersion"]


async def test_an_endpoint_leads_to_an_mcp_server_and_then_to_an_agent(
    server: Server, tmp_path: Path
) -> None:
    cli = Cli(server.address, tmp_path)
    tools, writer = "mcp+https://tools.example/mcp", "a2a+https://agents.example/writer"
    endpoint = ("operator", "nexus", "endpoint")
    told = ("--name", "search", "--description", "What there is to read")
    await cli.text(*endpoint, "create", *told, "--target-url", tools)
    shown = await cli.json(*endpoint, "get", "--name", "search")
    assert shown["spec"]["target"] == {"external": {"url": tools}}
    refused = await cli.fails(*endpoint, "create", "--name", "search", "--target-url", writer)
    assert "already registered" in refused
    for wrong, why in (
        ("mcp+https://me:word@tools.example/", "endpoint_credentials"),
        ("mcp+http://10.0.0.1/", "private_networks_allowed"),
        ("mcp+ftp://tools.example/", "invalid target URL scheme"),
    ):
        assert why in await cli.fails(*endpoint, "create", "--name", "wrong", "--target-url", wrong)
        assert why in await cli.fails(
            *endpoint, "update", "--name", "search", "--target-url", wrong
        )
    await cli.text(*endpoint, "update", "--name", "search", "--target-url", writer)
    (listed,) = await cli.json(*endpoint, "list")
    assert listed["spec"]["target"] == {"external": {"url": writer}}
    assert (listed["spec"]["name"], listed["version"]) == ("search", "2")
    await cli.text(*endpoint, "delete", "--name", "search")
    assert "not found" in await cli.fails(*endpoint, "get", "--name", "search")
