"""Nexus over HTTP, in both directions: completions by token, and handlers that are elsewhere."""

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import aiohttp
import nexusrpc
import pytest
import pytest_asyncio
from aiohttp import web
from nexusrpc.handler import (
    CancelOperationContext,
    OperationHandler,
    StartOperationContext,
    StartOperationResultAsync,
    operation_handler,
    service_handler,
    sync_operation,
)
from temporalio import nexus, workflow
from temporalio.api.common.v1 import message_pb2 as common
from temporalio.api.enums.v1 import event_type_pb2 as event_types
from temporalio.api.operatorservice.v1 import request_response_pb2 as ops
from temporalio.api.workflowservice.v1 import request_response_pb2 as ws
from temporalio.client import Client, WorkflowFailureError
from temporalio.exceptions import NexusOperationError
from temporalio.nexus import WorkflowRunOperationContext, workflow_run_operation
from temporalio.worker import UnsandboxedWorkflowRunner, Worker

from durably import Server
from tests.conftest import eventually
from tests.receivers import Call, Receiver

QUEUE = "desk"
SETTINGS: dict[str, Any] = {
    "callback_addresses": ("http://*",),
    "private_networks_allowed": ("127.0.0.0/8",),
    "nexus_retry_initial_interval_s": 0.02,
    "endpoint_credentials": {"outside": "Bearer secret-word"},
}


@nexusrpc.service
class Desk:
    echo: nexusrpc.Operation[str, str]
    later: nexusrpc.Operation[str, str]
    work: nexusrpc.Operation[str, str]


class Later(OperationHandler[str, str]):
    """Goes on until somebody who has its token says how it ended."""

    def __init__(self, started: "asyncio.Queue[dict[str, str]]") -> None:
        self._started = started

    async def start(self, ctx: StartOperationContext, input: str) -> StartOperationResultAsync:
        self._started.put_nowait({k.lower(): v for k, v in ctx.callback_headers.items()})
        return StartOperationResultAsync("token")

    async def cancel(self, ctx: CancelOperationContext, token: str) -> None:
        pass


@service_handler(service=Desk)
class DeskHandler:
    def __init__(self) -> None:
        self.started: asyncio.Queue[dict[str, str]] = asyncio.Queue()

    @sync_operation
    async def echo(self, ctx: StartOperationContext, word: str) -> str:
        return f"{word}, {word}"

    @operation_handler
    def later(self) -> OperationHandler[str, str]:
        return Later(self.started)

    @workflow_run_operation
    async def work(self, ctx: WorkflowRunOperationContext, word: str) -> nexus.WorkflowHandle[str]:
        return await ctx.start_workflow(Behind.run, word, id=f"behind-{word}")


@workflow.defn
class Behind:
    @workflow.run
    async def run(self, word: str) -> str:
        await workflow.sleep(timedelta(milliseconds=10))
        return f"worked on {word}"


@workflow.defn
class Caller:
    @workflow.run
    async def run(self, endpoint: str, operation: str, word: str) -> str:
        client = workflow.create_nexus_client(service=Desk, endpoint=endpoint)
        handle = await client.start_operation(operation, word, output_type=str)
        return await handle


@pytest_asyncio.fixture
async def server(tmp_path: Path) -> AsyncIterator[Server]:
    async with Server(store=f"sqlite:///{tmp_path}/store.db", port=0, **SETTINGS) as running:
        yield running


@pytest.fixture
def handler() -> DeskHandler:
    return DeskHandler()


@pytest_asyncio.fixture
async def caller(server: Server, handler: DeskHandler) -> AsyncIterator[Client]:
    client = await Client.connect(server.address)
    async with Worker(
        client,
        task_queue=QUEUE,
        workflows=[Caller, Behind],
        nexus_service_handlers=[handler],
        workflow_runner=UnsandboxedWorkflowRunner(),
    ):
        yield client


async def make_endpoint(client: Client, name: str, url: str = "") -> None:
    request = ops.CreateNexusEndpointRequest()
    request.spec.name = name
    if url:
        request.spec.target.external.url = url
    else:
        request.spec.target.worker.namespace = "default"
        request.spec.target.worker.task_queue = QUEUE
    await client.operator_service.create_nexus_endpoint(request)


async def call(client: Client, endpoint: str, operation: str, word: str = "hi") -> Any:
    return await client.start_workflow(
        Caller.run, args=[endpoint, operation, word], id="caller", task_queue=QUEUE
    )


async def post(server: Server, path: str, headers: dict[str, str], body: bytes = b"") -> Any:
    url = f"http://{server.address}{path}"
    async with (
        aiohttp.ClientSession() as session,
        session.post(url, headers=headers, data=body) as answer,
    ):
        return answer.status, json.loads(await answer.read() or b"null")


JSON = {"Content-Type": "application/json"}


async def test_a_completion_with_the_token_ends_the_operation_once(
    server: Server, caller: Client, handler: DeskHandler
) -> None:
    await make_endpoint(caller, "desk")
    handle = await call(caller, "desk", "later")
    headers = JSON | await handler.started.get() | {"Nexus-Operation-State": "succeeded"}
    elsewhere = await post(server, "/namespaces/other/nexus/callback", headers, b'"done"')
    assert (elsewhere[0], elsewhere[1]["message"]) == (400, "invalid callback token")
    path = "/namespaces/default/nexus/callback"
    assert await post(server, path, headers, b'"done"') == (200, None)
    assert await handle.result() == "done"
    status, told = await post(server, path, headers, b'"again"')
    assert (status, told["details"]["type"]) == (404, "NOT_FOUND")


@pytest.mark.parametrize("state", ["failed", "canceled"])
async def test_a_failure_is_told_to_the_caller(
    server: Server, caller: Client, handler: DeskHandler, state: str
) -> None:
    await make_endpoint(caller, "desk")
    handle = await call(caller, "desk", "later")
    headers = JSON | await handler.started.get() | {"Nexus-Operation-State": state}
    body = json.dumps({"message": "as told"}).encode()
    assert (await post(server, "/nexus/callback", headers, body))[0] == 200
    with pytest.raises(WorkflowFailureError) as failed:
        await handle.result()
    reason = failed.value.cause
    assert isinstance(reason, NexusOperationError)
    assert "as told" in str(reason.cause)
    kind = f"EVENT_TYPE_NEXUS_OPERATION_{state.upper()}"
    events = (await handle.fetch_history()).events
    assert event_types.EventType.Value(kind) in [event.event_type for event in events]


async def test_a_token_of_somebody_else_is_refused(server: Server) -> None:
    headers = {"Nexus-Operation-State": "succeeded", "Temporal-Callback-Token": "abc.def"}
    status, told = await post(server, "/nexus/callback", headers)
    assert (status, told["message"]) == (400, "invalid callback token")


async def test_a_browser_on_another_site_is_not_served(server: Server) -> None:
    path = "/namespaces/default/task-queues/q/nexus-services/s/o"
    status, told = await post(server, path, {"Origin": "http://evil.example"})
    assert (status, told["details"]["type"]) == (403, "UNAUTHORIZED")


# --- Handlers elsewhere -----------------------------------------------------------------------


async def test_an_endpoint_elsewhere_answers_at_once_and_later(
    server: Server, caller: Client
) -> None:
    url = f"http://{server.address}/namespaces/default/task-queues/{QUEUE}/nexus-services"
    await make_endpoint(caller, "outside", url)
    handle = await call(caller, "outside", "echo")
    assert await handle.result() == "hi, hi"
    handle = await call(caller, "outside", "work")
    assert await handle.result() == "worked on hi"
    started = [
        event
        for event in (await handle.fetch_history()).events
        if event.event_type == event_types.EVENT_TYPE_NEXUS_OPERATION_STARTED
    ]
    (link,) = started[0].links
    assert link.workflow_event.workflow_id == "behind-hi"


async def pending(client: Client) -> Any:
    which = common.WorkflowExecution(workflow_id="caller")
    found = await client.workflow_service.describe_workflow_execution(
        ws.DescribeWorkflowExecutionRequest(namespace="default", execution=which)
    )
    return found.pending_nexus_operations


Answer = Callable[[Call], Awaitable[web.Response | None]]


def replies(*answers: web.Response | None) -> Answer:
    waiting = list(answers)

    async def answer(call: Call) -> web.Response | None:
        return waiting.pop(0)

    return answer


def result(value: str) -> web.Response:
    """With no charset in its type: then it is a value like any other."""
    return web.Response(
        body=json.dumps(value).encode(), headers={"Content-Type": "application/json"}
    )


def refused(status: int, message: str) -> web.Response:
    return web.json_response({"message": message}, status=status)


async def test_the_request_has_all_that_the_handler_needs_and_history_has_no_credentials(
    caller: Client,
) -> None:
    done = result("done")
    async with Receiver(answer=replies(refused(503, "busy"), None, done)) as receiver:
        await make_endpoint(caller, "outside", f"http://127.0.0.1:{receiver.port}/base/")
        handle = await call(caller, "outside", "echo")
        assert await handle.result() == "done"
    assert len(receiver.calls) == 3, "a refusal and a lost reply are followed by another request"
    assert len({each.headers["nexus-request-id"] for each in receiver.calls}) == 1
    (request, *_) = receiver.calls
    assert (request.path, request.body) == ("base/Desk/echo", b'"hi"')
    assert request.headers["authorization"] == "Bearer secret-word"
    assert request.headers["nexus-callback-temporal-callback-token"]
    assert "workflows/caller" in request.headers["nexus-link"]
    assert request.headers["request-timeout"].endswith("ms")
    assert "secret-word" not in (await handle.fetch_history()).to_json()


async def test_an_operation_elsewhere_is_completed_by_its_callback(
    server: Server, caller: Client
) -> None:
    started = web.json_response({"token": "t", "state": "running"}, status=201)
    async with Receiver(answer=replies(started)) as receiver:
        await make_endpoint(caller, "outside", f"http://127.0.0.1:{receiver.port}")
        handle = await call(caller, "outside", "later")

        async def arrived() -> bool:
            return bool(receiver.calls)

        await eventually(arrived)
        token = receiver.calls[0].headers["nexus-callback-temporal-callback-token"]
        headers = JSON | {"Temporal-Callback-Token": token, "Nexus-Operation-State": "succeeded"}
        assert (await post(server, "/nexus/callback", headers, b'"done"'))[0] == 200
        assert await handle.result() == "done"


@pytest.mark.parametrize(
    ("answer", "kind"),
    [
        (web.Response(status=404), "NOT_FOUND"),
        (
            web.json_response(
                {
                    "message": "no",
                    "metadata": {"type": "nexus.HandlerError"},
                    "details": {"type": "BAD_REQUEST"},
                },
                status=400,
            ),
            "BAD_REQUEST",
        ),
    ],
)
async def test_what_is_refused_for_good_fails_the_operation(
    caller: Client, answer: web.Response, kind: str
) -> None:
    async with Receiver(answer=replies(answer)) as receiver:
        await make_endpoint(caller, "outside", f"http://127.0.0.1:{receiver.port}")
        handle = await call(caller, "outside", "echo")
        with pytest.raises(WorkflowFailureError) as failed:
            await handle.result()
    assert isinstance(failed.value.cause, NexusOperationError)
    events = (await handle.fetch_history()).events
    told = [
        event.nexus_operation_failed_event_attributes.failure.cause.nexus_handler_failure_info.type
        for event in events
        if event.event_type == event_types.EVENT_TYPE_NEXUS_OPERATION_FAILED
    ]
    assert told == [kind]


@pytest.mark.parametrize("state", ["failed", "canceled"])
async def test_an_operation_elsewhere_may_fail(caller: Client, state: str) -> None:
    headers = {"Nexus-Operation-State": state}
    answer = web.json_response({"message": "as told"}, status=424, headers=headers)
    async with Receiver(answer=replies(answer)) as receiver:
        await make_endpoint(caller, "outside", f"http://127.0.0.1:{receiver.port}")
        handle = await call(caller, "outside", "echo")
        with pytest.raises(WorkflowFailureError) as failed:
            await handle.result()
    assert isinstance(failed.value.cause, NexusOperationError)
    assert "as told" in str(failed.value.cause.cause)


async def test_a_reply_that_cannot_be_read_is_asked_for_again(caller: Client) -> None:
    answers = [
        web.Response(status=201, body=b"no json"),
        web.json_response({}, status=424),
        result("done"),
    ]
    async with Receiver(answer=replies(*answers)) as receiver:
        await make_endpoint(caller, "outside", f"http://127.0.0.1:{receiver.port}")
        handle = await call(caller, "outside", "echo")
        assert await handle.result() == "done"


async def test_a_private_address_is_not_called_unless_it_is_allowed(tmp_path: Path) -> None:
    settings = {**SETTINGS, "private_networks_allowed": ()}
    async with Server(store=f"sqlite:///{tmp_path}/other.db", port=0, **settings) as server:
        client = await Client.connect(server.address)
        await make_endpoint(client, "outside", "http://localhost:9/")
        async with Worker(
            client,
            task_queue=QUEUE,
            workflows=[Caller],
            workflow_runner=UnsandboxedWorkflowRunner(),
        ):
            await call(client, "outside", "echo")

            async def told() -> bool:
                found = await pending(client)
                return any(
                    "private_networks_allowed" in each.last_attempt_failure.message
                    for each in found
                )

            await eventually(told)


async def test_the_end_of_an_operation_alone_is_called_back(caller: Client) -> None:
    async with Receiver() as receiver:
        await make_endpoint(caller, "desk")
        request = ws.StartNexusOperationExecutionRequest(
            namespace="default",
            operation_id="alone",
            request_id="r",
            endpoint="desk",
            service="Desk",
            operation="echo",
            input=common.Payload(metadata={"encoding": b"json/plain"}, data=b'"hi"'),
            completion_callbacks=[receiver.callback("done")],
        )
        await caller.workflow_service.start_nexus_operation_execution(request)

        async def called() -> bool:
            return bool(receiver.to("done"))

        await eventually(called)
        (told,) = receiver.to("done")
        assert (told.headers["nexus-operation-state"], told.body) == ("succeeded", b'"hi, hi"')
