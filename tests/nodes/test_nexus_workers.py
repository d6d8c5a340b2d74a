"""Operations whose handlers poll another server than the one at which they are called."""

import asyncio
import contextlib
import uuid
from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path

import nexusrpc
import pytest
import pytest_asyncio
from nexusrpc.handler import StartOperationContext, service_handler, sync_operation
from temporalio import nexus, workflow
from temporalio.api.nexus.v1 import message_pb2 as nexus_messages
from temporalio.api.operatorservice.v1 import request_response_pb2 as operator
from temporalio.api.taskqueue.v1 import message_pb2 as taskqueue
from temporalio.api.workflowservice.v1 import request_response_pb2 as ws
from temporalio.client import Client, WorkflowFailureError
from temporalio.exceptions import NexusOperationError
from temporalio.nexus import WorkflowRunOperationContext, workflow_run_operation
from temporalio.worker import UnsandboxedWorkflowRunner, Worker

from durably import Server
from tests.conftest import eventually
from tests.postgres import PostgresServer
from tests.processes import ServerProcess

QUEUE = "handlers"
ENDPOINT = "desk"
FOREVER = timedelta(minutes=5)
POLL = ws.PollNexusTaskQueueRequest(namespace="default", task_queue=taskqueue.TaskQueue(name=QUEUE))


@nexusrpc.service
class Desk:
    echo: nexusrpc.Operation[str, str]
    refuse: nexusrpc.Operation[str, str]
    work: nexusrpc.Operation[str, str]


@workflow.defn
class Work:
    @workflow.run
    async def run(self, word: str) -> str:
        return f"{word}, {word}"


@workflow.defn
class Caller:
    @workflow.run
    async def run(self, operation: str) -> str:
        desk = workflow.create_nexus_client(service=Desk, endpoint=ENDPOINT)
        result: str = await desk.execute_operation(operation, "hi", output_type=str)
        return result


@service_handler(service=Desk)
class DeskHandler:
    """`gate`: who is asked to echo waits for it."""

    def __init__(self, gate: asyncio.Event | None = None) -> None:
        self.asked = asyncio.Event()
        self.requests: list[str] = []
        self._gate = gate

    @sync_operation
    async def echo(self, ctx: StartOperationContext, word: str) -> str:
        self.requests.append(ctx.request_id)
        self.asked.set()
        if self._gate is not None:
            await self._gate.wait()
        return word

    @sync_operation
    async def refuse(self, _ctx: StartOperationContext, word: str) -> str:
        raise nexusrpc.HandlerError("never", type=nexusrpc.HandlerErrorType.BAD_REQUEST)

    @workflow_run_operation
    async def work(self, ctx: WorkflowRunOperationContext, word: str) -> nexus.WorkflowHandle[str]:
        return await ctx.start_workflow(Work.run, word, id=f"work-{ctx.request_id}")


def callers(client: Client) -> Worker:
    return Worker(
        client,
        task_queue="callers",
        workflows=[Caller],
        workflow_runner=UnsandboxedWorkflowRunner(),
    )


def handlers(client: Client, handler: DeskHandler) -> Worker:
    return Worker(
        client,
        task_queue=QUEUE,
        workflows=[Work],
        nexus_service_handlers=[handler],
        workflow_runner=UnsandboxedWorkflowRunner(),
    )


async def make_endpoint(client: Client) -> None:
    spec = nexus_messages.EndpointSpec(name=ENDPOINT)
    spec.target.worker.namespace, spec.target.worker.task_queue = "default", QUEUE
    await client.operator_service.create_nexus_endpoint(
        operator.CreateNexusEndpointRequest(spec=spec)
    )


async def answer(client: Client, task: ws.PollNexusTaskQueueResponse) -> None:
    """As a handler that echoes."""
    done = ws.RespondNexusTaskCompletedRequest(namespace="default", task_token=task.task_token)
    payload = task.request.start_operation.payload
    done.response.start_operation.sync_success.payload.CopyFrom(payload)
    await client.workflow_service.respond_nexus_task_completed(done)


async def called(client: Client, operation: str) -> str:
    name = f"{operation}-{uuid.uuid4()}"
    result: str = await client.execute_workflow(
        Caller.run, operation, id=name, task_queue="callers"
    )
    return result


@pytest_asyncio.fixture
async def pair(postgres: PostgresServer) -> AsyncIterator[list[Client]]:
    """Clients of two servers."""
    url = postgres.database()
    async with contextlib.AsyncExitStack() as stack:
        found = []
        for _ in range(2):
            server = Server(store=url, port=0, node_beat_s=0.3)
            found.append(await stack.enter_async_context(server))
        yield [await Client.connect(server.address) for server in found]


async def test_operations_are_handled_at_another_server(pair: list[Client]) -> None:
    """All kinds of answers come back; the first is called before its worker is there."""
    here, there = pair
    await make_endpoint(here)
    async with callers(here):
        early = asyncio.create_task(called(here, "echo"))
        handler = DeskHandler()
        async with handlers(there, handler):
            assert await early == "hi"
            assert await asyncio.gather(*(called(here, "echo") for _ in range(10))) == ["hi"] * 10
            assert len(set(handler.requests)) == 11
            assert await called(here, "work") == "hi, hi"
            with pytest.raises(WorkflowFailureError) as failed:
                await called(here, "refuse")
            assert isinstance(failed.value.cause, NexusOperationError)
            assert isinstance(failed.value.cause.cause, nexusrpc.HandlerError)


async def test_an_answer_may_go_to_any_server(pair: list[Client]) -> None:
    """A worker that polls here, and then answers there."""
    here, there = pair
    await make_endpoint(here)
    async with callers(here):
        for taking, answering in ((here, there), (there, here), (there, there)):
            result = asyncio.create_task(called(here, "echo"))
            task = await taking.workflow_service.poll_nexus_task_queue(POLL)
            assert task.request.start_operation.operation == "echo"
            await answer(answering, task)
            assert await result == "hi"


@pytest_asyncio.fixture
async def three(postgres: PostgresServer, tmp_path: Path) -> AsyncIterator[list[ServerProcess]]:
    """Servers that can be killed; they miss each other soon."""
    settings = ("node_beat_s=0.3", "node_lost_after_s=1.5", "deadline_sweep_interval_s=1")
    options = [part for setting in settings for part in ("--set", setting)]
    url = postgres.database()
    servers = [ServerProcess(url, *options, folder=tmp_path) for _ in range(3)]
    try:
        await asyncio.to_thread(servers[0].start)
        await asyncio.gather(*(asyncio.to_thread(server.start) for server in servers[1:]))
        yield servers
    finally:
        for server in servers:
            server.kill()


async def test_an_operation_outlives_who_asked(three: list[ServerProcess]) -> None:
    """The server that has called a handler is killed before the answer comes."""
    asker, taker, third = [await Client.connect(server.address) for server in three]
    await make_endpoint(third)
    gate = asyncio.Event()
    handler = DeskHandler(gate)
    desk = asker.create_nexus_client(service=Desk, endpoint=ENDPOINT)
    async with handlers(taker, handler):
        await desk.start_operation(Desk.echo, "hi", id="op", schedule_to_close_timeout=FOREVER)
        await handler.asked.wait()
        await asyncio.to_thread(three[0].kill)
        gate.set()
        handle = third.get_nexus_operation_handle("op", result_type=str)
        assert await handle.result() == "hi"
        assert len(set(handler.requests)) == 1, "it is the same request"


async def test_an_operation_outlives_who_took_it(three: list[ServerProcess]) -> None:
    """The server at which a worker has taken a request is killed, and the worker with it: another
    worker gets the request as soon as the server is missed."""
    asker, taker, third = [await Client.connect(server.address) for server in three]
    await make_endpoint(third)
    desk = asker.create_nexus_client(service=Desk, endpoint=ENDPOINT)
    await desk.start_operation(Desk.echo, "hi", id="op", schedule_to_close_timeout=FOREVER)
    taken = await taker.workflow_service.poll_nexus_task_queue(POLL)
    await asyncio.to_thread(three[1].kill)
    again = await third.workflow_service.poll_nexus_task_queue(POLL)
    assert again.task_token == taken.task_token, "it is the same request, not another attempt"
    await answer(third, again)
    assert await asker.get_nexus_operation_handle("op", result_type=str).result() == "hi"


async def test_nothing_is_left_behind(pair: list[Client]) -> None:
    """A request that nobody takes is given up, and is not there any more."""
    here, _ = pair
    await make_endpoint(here)
    desk = here.create_nexus_client(service=Desk, endpoint=ENDPOINT)
    handle = await desk.start_operation(
        Desk.echo, "hi", id="op", schedule_to_close_timeout=timedelta(seconds=1)
    )

    async def ended() -> bool:
        return (await handle.describe()).close_time is not None

    await eventually(ended)
