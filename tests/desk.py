"""A Nexus service whose operations go on as workflows: they ask, publish, fail, or wait to be told."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta
from typing import Any

import nexusrpc
from nexusrpc.handler import StartOperationContext, service_handler, sync_operation
from temporalio import nexus, workflow
from temporalio.api.operatorservice.v1 import request_response_pb2 as ops
from temporalio.api.workflowservice.v1 import request_response_pb2 as ws
from temporalio.client import Client
from temporalio.common import WorkflowIDConflictPolicy
from temporalio.exceptions import ApplicationError
from temporalio.nexus import WorkflowRunOperationContext, workflow_run_operation
from temporalio.service import RPCError, RPCStatusCode
from temporalio.worker import UnsandboxedWorkflowRunner, Worker

from durably.agents.interaction import ask, publish
from tests.conftest import eventually

QUEUE = "desk"
ENDPOINT = "desk"
COLOUR = {
    "type": "object",
    "properties": {"colour": {"type": "string"}},
    "required": ["colour"],
}


@workflow.defn
class Work:
    """Does what its input says, `kind NAME`; goes on when it is told to."""

    def __init__(self) -> None:
        self.told: list[str] = []

    @workflow.signal
    def tell(self, word: str) -> None:
        self.told.append(word)

    @workflow.run
    async def run(self, kind: str) -> Any:
        match kind.split()[0]:
            case "asks":
                answer = await ask("Which colour?", schema=COLOUR, key="the colour")
                return f"painted {answer['colour']}"
            case "fails":
                raise ApplicationError("as expected", type="Expected", non_retryable=True)
            case "publishes":
                return await self._publish(kind)
            case "continues":
                publish(f"{kind} begins")
                rest = kind.split()
                if int(rest[1]):
                    workflow.continue_as_new(f"continues {int(rest[1]) - 1} {rest[2]}")
            case "times-out":
                await workflow.sleep(timedelta(days=1))
            case _:
                await workflow.wait_condition(lambda: bool(self.told))
        return f"{kind}: {', '.join(self.told)}"

    async def _publish(self, kind: str) -> str:
        """Each word that it is told is a piece, until it is told to end."""
        publish("begun", kind="status")
        done = 0
        while "end" not in self.told:
            await workflow.wait_condition(lambda done=done: len(self.told) > done)  # type: ignore[misc]
            for word in self.told[done:]:
                publish(word, kind="artifact", name="draft", append=bool(done))
                done += 1
        return f"{kind}: {done}"


@nexusrpc.service
class Desk:
    echo: nexusrpc.Operation[str, str]
    carry: nexusrpc.Operation[str, Any]


@service_handler(service=Desk)
class DeskHandler:
    @sync_operation
    async def echo(self, ctx: StartOperationContext, word: str) -> str:
        return f"{word}, {word}"

    @workflow_run_operation
    async def carry(self, ctx: WorkflowRunOperationContext, kind: str) -> nexus.WorkflowHandle[Any]:
        timeout = timedelta(seconds=1) if kind.startswith("times-out") else None
        return await ctx.start_workflow(
            Work.run,
            kind,
            id=f"work-{kind}",
            id_conflict_policy=WorkflowIDConflictPolicy.USE_EXISTING,
            execution_timeout=timeout,
        )


@asynccontextmanager
async def worker(client: Client) -> AsyncIterator[None]:
    async with Worker(
        client,
        task_queue=QUEUE,
        workflows=[Work],
        nexus_service_handlers=[DeskHandler()],
        workflow_runner=UnsandboxedWorkflowRunner(),
    ):
        yield


@asynccontextmanager
async def beside_worker(address: str) -> AsyncIterator[Client]:
    """A client of a server that has the endpoint, and a worker behind it."""
    client = await Client.connect(address)
    await make_endpoint(client)
    async with worker(client):
        yield client


async def make_endpoint(client: Client) -> str:
    """Its id."""
    request = ops.CreateNexusEndpointRequest()
    request.spec.name = ENDPOINT
    request.spec.target.worker.namespace = client.namespace
    request.spec.target.worker.task_queue = QUEUE
    made = await client.operator_service.create_nexus_endpoint(request)
    return made.endpoint.id


async def start(client: Client, operation_id: str, kind: str, operation: str = "carry") -> None:
    """A standalone operation."""
    request = ws.StartNexusOperationExecutionRequest(
        namespace=client.namespace,
        request_id=operation_id,
        operation_id=operation_id,
        endpoint=ENDPOINT,
        service="Desk",
        operation=operation,
    )
    request.input.metadata["encoding"] = b"json/plain"
    request.input.data = f'"{kind}"'.encode()
    await client.workflow_service.start_nexus_operation_execution(request)


async def tell(client: Client, kind: str, word: str) -> None:
    """Once the workflow of the operation is there."""

    async def told() -> bool:
        try:
            await client.get_workflow_handle(f"work-{kind}").signal(Work.tell, word)
        except RPCError as error:
            if error.status != RPCStatusCode.NOT_FOUND:
                raise
            return False
        return True

    await eventually(told, 60)
