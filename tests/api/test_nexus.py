"""Nexus operations: called from workflows and alone, handled by workers, with the official SDK."""

import asyncio
import uuid
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import nexusrpc
import pytest
import pytest_asyncio
from google.protobuf.duration_pb2 import Duration
from nexusrpc.handler import StartOperationContext, service_handler, sync_operation
from temporalio import nexus, workflow
from temporalio.api.command.v1 import message_pb2 as command
from temporalio.api.common.v1 import message_pb2 as common
from temporalio.api.enums.v1 import command_type_pb2 as command_types
from temporalio.api.enums.v1 import common_pb2 as common_enums
from temporalio.api.enums.v1 import event_type_pb2 as event_types
from temporalio.api.failure.v1 import message_pb2 as failure
from temporalio.api.nexus.v1 import message_pb2 as nexus_messages
from temporalio.api.operatorservice.v1 import request_response_pb2 as ops
from temporalio.api.workflowservice.v1 import request_response_pb2 as ws
from temporalio.client import Client, NexusOperationFailureError, WorkflowFailureError
from temporalio.exceptions import (
    ApplicationError,
    CancelledError,
    NexusOperationAlreadyStartedError,
    NexusOperationError,
    TerminatedError,
    TimeoutError,
)
from temporalio.nexus import WorkflowRunOperationContext, workflow_run_operation
from temporalio.service import RPCError, RPCStatusCode
from temporalio.worker import Replayer, UnsandboxedWorkflowRunner, Worker

from durably import Server
from tests.conftest import eventually

QUEUE = "handlers"
ENDPOINT = "desk"


@pytest_asyncio.fixture
async def server(tmp_path: Path) -> AsyncIterator[Server]:
    """One that asks again soon, and gives up soon."""
    store = f"sqlite:///{tmp_path}/store.db"
    async with Server(store=store, port=0, nexus_retry_initial_interval_s=0.02) as running:
        yield running


@workflow.defn
class Handler:
    """The workflow behind an operation: done at once, or when it is told."""

    def __init__(self) -> None:
        self.told = False

    @workflow.run
    async def run(self, word: str) -> str:
        if word == "fail":
            raise ApplicationError("as asked", type="Asked")
        if word == "wait":
            await workflow.wait_condition(lambda: self.told)
        return f"{word}, {word}"

    @workflow.signal
    def tell(self) -> None:
        self.told = True


@nexusrpc.service
class Desk:
    echo: nexusrpc.Operation[str, str]
    flaky: nexusrpc.Operation[str, str]
    refuse: nexusrpc.Operation[str, str]
    fail: nexusrpc.Operation[str, str]
    work: nexusrpc.Operation[str, str]


@service_handler(service=Desk)
class DeskHandler:
    def __init__(self) -> None:
        self.asked: list[str] = []

    @sync_operation
    async def echo(self, ctx: StartOperationContext, word: str) -> str:
        return f"{word} {ctx.headers.get('tone', '')}".strip()

    @sync_operation
    async def flaky(self, ctx: StartOperationContext, word: str) -> str:
        self.asked.append(ctx.request_id)
        if len(self.asked) < 3:
            raise nexusrpc.HandlerError("not yet", type=nexusrpc.HandlerErrorType.UNAVAILABLE)
        return word

    @sync_operation
    async def refuse(self, _ctx: StartOperationContext, word: str) -> str:
        raise nexusrpc.HandlerError("never", type=nexusrpc.HandlerErrorType.BAD_REQUEST)

    @sync_operation
    async def fail(self, _ctx: StartOperationContext, word: str) -> str:
        raise nexusrpc.OperationError("no", state=nexusrpc.OperationErrorState.FAILED)

    @workflow_run_operation
    async def work(self, ctx: WorkflowRunOperationContext, word: str) -> nexus.WorkflowHandle[str]:
        return await ctx.start_workflow(Handler.run, word, id=f"handler-{ctx.request_id}")


@dataclass
class Order:
    operation: str
    word: str = "hi"
    close_s: float | None = None
    headers: dict[str, str] | None = None


@workflow.defn
class Caller:
    @workflow.run
    async def run(self, order: Order) -> str:
        desk = workflow.create_nexus_client(service=Desk, endpoint=ENDPOINT)
        limit = timedelta(seconds=order.close_s) if order.close_s else None
        result: str = await desk.execute_operation(
            order.operation,
            order.word,
            output_type=str,
            schedule_to_close_timeout=limit,
            headers=order.headers,
        )
        return result


@workflow.defn
class Patient:
    """Waits for word that it is to cancel its operation, and says how that ended."""

    def __init__(self) -> None:
        self.stop = False

    @workflow.signal
    def give_up(self) -> None:
        self.stop = True

    @workflow.run
    async def run(self) -> str:
        desk = workflow.create_nexus_client(service=Desk, endpoint=ENDPOINT)
        handle = await desk.start_operation(Desk.work, "wait")
        await workflow.wait_condition(lambda: self.stop)
        handle.cancel()  # type: ignore[attr-defined]
        try:
            await handle
        except NexusOperationError as error:
            return type(error.cause).__name__
        return "it went on"


WORKFLOWS = [Caller, Patient, Handler]


def worker(client: Client, handler: DeskHandler | None = None) -> Worker:
    return Worker(
        client,
        task_queue=QUEUE,
        workflows=WORKFLOWS,
        nexus_service_handlers=[handler or DeskHandler()],
        workflow_runner=UnsandboxedWorkflowRunner(),
    )


async def endpoint(client: Client, name: str = ENDPOINT, queue: str = QUEUE) -> Any:
    spec = nexus_messages.EndpointSpec(name=name)
    spec.target.worker.namespace, spec.target.worker.task_queue = "default", queue
    request = ops.CreateNexusEndpointRequest(spec=spec)
    return (await client.operator_service.create_nexus_endpoint(request)).endpoint


async def call(client: Client, operation: str, word: str = "hi", **more: Any) -> Any:
    return await client.start_workflow(
        Caller.run,
        Order(operation, word, **more),
        id=f"caller-{uuid.uuid4()}",
        task_queue=QUEUE,
    )


async def kinds(handle: Any) -> list[str]:
    """The Nexus events of a workflow, in their order; its history replays."""
    history = await handle.fetch_history()
    await Replayer(
        workflows=WORKFLOWS, workflow_runner=UnsandboxedWorkflowRunner()
    ).replay_workflow(history)
    names = [event_types.EventType.Name(event.event_type) for event in history.events]
    prefix = "EVENT_TYPE_NEXUS_OPERATION_"
    return [name.removeprefix(prefix) for name in names if name.startswith(prefix)]


async def cause_of(handle: Any) -> BaseException:
    with pytest.raises(WorkflowFailureError) as caught:
        await handle.result()
    assert isinstance(caught.value.cause, NexusOperationError)
    cause = caught.value.cause.cause
    assert cause is not None
    return cause


# --- From workflows ---------------------------------------------------------------------------


async def test_an_operation_that_is_done_at_once(client: Client) -> None:
    await endpoint(client)
    async with worker(client):
        handle = await call(client, "echo", headers={"Tone": "loud"})
        assert await handle.result() == "hi loud"
        assert await kinds(handle) == ["SCHEDULED", "COMPLETED"]


async def test_an_operation_that_a_workflow_carries_out(client: Client) -> None:
    await endpoint(client)
    async with worker(client):
        handle = await call(client, "work")
        assert await handle.result() == "hi, hi"
        assert await kinds(handle) == ["SCHEDULED", "STARTED", "COMPLETED"]
        failed = await call(client, "work", "fail")
        cause = await cause_of(failed)
        assert isinstance(cause, ApplicationError)
        assert cause.type == "Asked"
        assert await kinds(failed) == ["SCHEDULED", "STARTED", "FAILED"]


async def test_a_handler_that_is_not_ready_is_asked_again(client: Client) -> None:
    await endpoint(client)
    handler = DeskHandler()
    async with worker(client, handler):
        handle = await call(client, "flaky")
        assert await handle.result() == "hi"
        assert await kinds(handle) == ["SCHEDULED", "COMPLETED"]
    assert len(handler.asked) == 3
    assert len(set(handler.asked)) == 1, "it is the same request"


async def test_a_refusal_fails_the_operation(client: Client) -> None:
    await endpoint(client)
    async with worker(client):
        handle = await call(client, "refuse")
        cause = await cause_of(handle)
        assert isinstance(cause, nexusrpc.HandlerError)
        assert cause.type is nexusrpc.HandlerErrorType.BAD_REQUEST
        failed = await call(client, "fail")
        assert isinstance(await cause_of(failed), ApplicationError)
        assert await kinds(failed) == ["SCHEDULED", "FAILED"]


async def test_a_cancel_reaches_the_workflow_behind_the_operation(client: Client) -> None:
    await endpoint(client)
    async with worker(client):
        handle = await client.start_workflow(Patient.run, id="patient", task_queue=QUEUE)

        async def started() -> bool:
            return "STARTED" in await kinds(handle)

        await eventually(started)
        shown = (await handle.describe()).raw_description.pending_nexus_operations[0]
        assert shown.state == common_enums.PENDING_NEXUS_OPERATION_STATE_STARTED
        assert shown.operation_token
        await handle.signal(Patient.give_up)
        assert await handle.result() == "CancelledError"
        told = await kinds(handle)
        assert told[:3] == ["SCHEDULED", "STARTED", "CANCEL_REQUESTED"]
        # The workflow goes on when the operation has ended: the answer to the cancel may come later.
        assert "CANCELED" in told[3:]
        assert set(told[3:]) <= {"CANCELED", "CANCEL_REQUEST_COMPLETED"}


async def test_nobody_handles_it_in_time(client: Client) -> None:
    await endpoint(client, queue="nobody")
    async with worker(client):
        handle = await call(client, "echo", close_s=0.3)
        cause = await cause_of(handle)
        assert isinstance(cause, TimeoutError)
        assert await kinds(handle) == ["SCHEDULED", "TIMED_OUT"]


async def test_an_endpoint_that_keeps_failing_is_blocked(tmp_path: Path) -> None:
    async with Server(
        store=f"sqlite:///{tmp_path}/store.db",
        port=0,
        nexus_retry_initial_interval_s=0.01,
        nexus_breaker_failures=3,
    ) as server:
        client = await Client.connect(server.address)
        await endpoint(client)
        raw = Raw(client)
        await raw.start()
        for _ in range(3):
            task = await raw.take()
            await raw.refuse(task, "UNAVAILABLE")

        async def blocked() -> bool:
            shown = await raw.pending()
            return bool(shown.state == common_enums.PENDING_NEXUS_OPERATION_STATE_BLOCKED)

        await eventually(blocked)
        shown = await raw.pending()
        assert shown.blocked_reason == "The circuit breaker is open."
        assert shown.attempt == 3


async def test_the_server_signals_with_start_for_a_workflow(client: Client) -> None:
    async with worker(client):
        handle = await client.start_workflow(Starter.run, id="starter", task_queue=STARTERS)
        async with Worker(
            client,
            task_queue=STARTERS,
            workflows=[Starter],
            workflow_runner=UnsandboxedWorkflowRunner(),
        ):
            assert await handle.result() == "started"
        assert await client.get_workflow_handle("started").result() == "wait, wait"


STARTERS = "starters"


@workflow.defn
class Starter:
    @workflow.run
    async def run(self) -> str:
        handle = await workflow.signal_with_start_workflow(
            "Handler", "wait", id="started", task_queue=QUEUE, signal="tell"
        )
        return handle.id


# --- By hand ----------------------------------------------------------------------------------


class Raw:
    """A workflow with one operation, whose worker and handler are the test."""

    def __init__(self, client: Client) -> None:
        self.client = client
        self.service = client.workflow_service
        self.id = f"raw-{uuid.uuid4()}"
        self.which = common.WorkflowExecution(workflow_id=self.id)

    async def start(self, **options: Any) -> None:
        await self.service.start_workflow_execution(
            ws.StartWorkflowExecutionRequest(
                namespace="default",
                workflow_id=self.id,
                workflow_type=common.WorkflowType(name="Raw"),
                task_queue={"name": self.id},  # type: ignore[arg-type]
                request_id=str(uuid.uuid4()),
            )
        )
        await self.work(
            schedule_nexus_operation=command.ScheduleNexusOperationCommandAttributes(
                endpoint=ENDPOINT, service="s", operation="o", **options
            )
        )

    async def work(self, **commands: Any) -> ws.PollWorkflowTaskQueueResponse:
        """Take the workflow task, and complete it with these commands."""
        task = await self.service.poll_workflow_task_queue(
            ws.PollWorkflowTaskQueueRequest(
                namespace="default",
                task_queue={"name": self.id},  # type: ignore[arg-type]
            )
        )
        asked = [
            command.Command(
                command_type=command_types.CommandType.Value(f"COMMAND_TYPE_{name.upper()}"),
                **{f"{name}_command_attributes": attributes},
            )
            for name, attributes in commands.items()
        ]
        await self.service.respond_workflow_task_completed(
            ws.RespondWorkflowTaskCompletedRequest(
                namespace="default", task_token=task.task_token, commands=asked
            )
        )
        return task

    async def take(self) -> ws.PollNexusTaskQueueResponse:
        return await self.service.poll_nexus_task_queue(
            ws.PollNexusTaskQueueRequest(
                namespace="default",
                task_queue={"name": QUEUE},  # type: ignore[arg-type]
                identity="me",
            )
        )

    async def answer(self, task: ws.PollNexusTaskQueueResponse, **response: Any) -> None:
        answer = nexus_messages.Response(
            start_operation=nexus_messages.StartOperationResponse(**response)
        )
        await self.service.respond_nexus_task_completed(
            ws.RespondNexusTaskCompletedRequest(
                namespace="default", task_token=task.task_token, response=answer
            )
        )

    async def refuse(self, task: ws.PollNexusTaskQueueResponse, kind: str) -> None:
        info = failure.NexusHandlerFailureInfo(type=kind)
        await self.service.respond_nexus_task_failed(
            ws.RespondNexusTaskFailedRequest(
                namespace="default",
                task_token=task.task_token,
                failure=failure.Failure(message="no", nexus_handler_failure_info=info),
            )
        )

    async def pending(self) -> Any:
        request = ws.DescribeWorkflowExecutionRequest(namespace="default", execution=self.which)
        described = await self.service.describe_workflow_execution(request)
        return described.pending_nexus_operations[0]

    async def events(self) -> list[Any]:
        history = await self.client.get_workflow_handle(self.id).fetch_history()
        return list(history.events)


STARTED = nexus_messages.StartOperationResponse.Async(operation_token="token")


async def test_what_a_handler_is_told(client: Client) -> None:
    await endpoint(client)
    raw = Raw(client)
    await raw.start(
        input=common.Payload(data=b"in"),
        nexus_header={"Trace": "1"},
        start_to_close_timeout=Duration(seconds=7),
    )
    task = await raw.take()
    request, start = task.request, task.request.start_operation
    assert request.endpoint == ENDPOINT
    assert request.header["trace"] == "1"
    assert request.header["operation-timeout"] == "7000ms"
    assert int(request.header["request-timeout"].removesuffix("ms")) > 0
    assert (start.service, start.operation, start.payload.data) == ("s", "o", b"in")
    assert start.callback == "temporal://system"
    assert start.callback_header["temporal-callback-token"]
    scheduled = (await raw.events())[4]
    attributes = scheduled.nexus_operation_scheduled_event_attributes
    assert start.request_id == attributes.request_id
    link = start.links[0]
    assert link.type == "temporal.api.common.v1.Link.WorkflowEvent"
    assert f"/workflows/{raw.id}/" in link.url
    assert "eventID=5" in link.url


async def test_an_answer_is_taken_once_and_in_time(client: Client) -> None:
    await endpoint(client)
    raw = Raw(client)
    await raw.start()
    task = await raw.take()
    with pytest.raises(RPCError, match="missing operation token"):
        await raw.answer(task, async_success={})
    with pytest.raises(RPCError, match="operation token length exceeds"):
        await raw.answer(task, async_success={"operation_token": "x" * 5000})
    await raw.answer(task, sync_success={"payload": {"data": b"out"}})
    with pytest.raises(RPCError, match="not found or already expired") as caught:
        await raw.answer(task, sync_success={})
    assert caught.value.status is RPCStatusCode.NOT_FOUND
    await raw.work()
    assert (await raw.events())[5].nexus_operation_completed_event_attributes.result.data == b"out"


async def test_older_workers_have_failures_of_another_form(client: Client) -> None:
    await endpoint(client)
    raw = Raw(client)
    await raw.start()
    task = await raw.take()
    error = nexus_messages.HandlerError(
        error_type="UNAVAILABLE", failure={"message": "old", "details": b'{"a": 1}'}
    )
    await raw.service.respond_nexus_task_failed(
        ws.RespondNexusTaskFailedRequest(
            namespace="default", task_token=task.task_token, error=error
        )
    )
    task = await raw.take()
    assert (await raw.pending()).last_attempt_failure.cause.message == "old"
    await raw.answer(
        task, operation_error={"operation_state": "canceled", "failure": {"message": "gone"}}
    )
    await raw.work()
    cause = (await raw.events())[5].nexus_operation_canceled_event_attributes.failure.cause
    assert (cause.message, cause.HasField("canceled_failure_info")) == ("gone", True)


async def test_a_completion_needs_a_token_that_the_server_signed(
    client: Client, server: Server
) -> None:
    """The receiver is what callbacks of workflows, and those that come over HTTP, end in."""
    await endpoint(client)
    raw = Raw(client)
    await raw.start()
    task = await raw.take()
    token = task.request.start_operation.callback_header["temporal-callback-token"]
    await raw.answer(task, async_success=STARTED)
    handler = await client.start_workflow(
        "Nobody",
        id="carries-the-callback",
        task_queue="nowhere",
    )
    del handler
    forged = token[:-4] + ("AAAA" if not token.endswith("AAAA") else "BBBB")
    for wrong in ("", "x", forged, token.split(".")[0]):
        started = await with_callback(client, wrong)
        await client.get_workflow_handle(started).terminate()
        await callback_ends(client, started, "FAILED")
    assert await raw.pending()
    started = await with_callback(client, token)
    await client.get_workflow_handle(started).terminate()
    await callback_ends(client, started, "SUCCEEDED")
    again = await with_callback(client, token)
    await client.get_workflow_handle(again).terminate()
    await callback_ends(client, again, "FAILED")
    await raw.work()
    ended = [e for e in await raw.events() if "NEXUS_OPERATION_FAILED" in kind_of(e)]
    assert len(ended) == 1


def kind_of(event: Any) -> str:
    return event_types.EventType.Name(event.event_type)


async def with_callback(client: Client, token: str) -> str:
    """A workflow whose end completes the operation of the token."""
    workflow_id = f"callback-{uuid.uuid4()}"
    callback = common.Callback.Nexus(
        url="temporal://system", header={"temporal-callback-token": token}
    )
    await client.workflow_service.start_workflow_execution(
        ws.StartWorkflowExecutionRequest(
            namespace="default",
            workflow_id=workflow_id,
            workflow_type=common.WorkflowType(name="Nobody"),
            task_queue={"name": "nowhere"},  # type: ignore[arg-type]
            request_id=str(uuid.uuid4()),
            completion_callbacks=[common.Callback(nexus=callback)],
        )
    )
    return workflow_id


async def callback_ends(client: Client, workflow_id: str, state: str) -> None:
    async def ended() -> bool:
        described = await client.get_workflow_handle(workflow_id).describe()
        found = described.raw_description.callbacks[0].state
        return common_enums.CallbackState.Name(found) == f"CALLBACK_STATE_{state}"

    await eventually(ended)


async def test_a_completion_finds_the_run_that_a_reset_made(client: Client) -> None:
    await endpoint(client)
    raw = Raw(client)
    await raw.start()
    task = await raw.take()
    token = task.request.start_operation.callback_header["temporal-callback-token"]
    await raw.answer(task, async_success=STARTED)
    await raw.work()
    await raw.service.reset_workflow_execution(
        ws.ResetWorkflowExecutionRequest(
            namespace="default",
            workflow_execution=raw.which,
            workflow_task_finish_event_id=9,
            reason="again",
            request_id=str(uuid.uuid4()),
        )
    )
    assert (await raw.pending()).operation_token == "token"
    started = await with_callback(client, token)
    await client.get_workflow_handle(started).terminate()
    await callback_ends(client, started, "SUCCEEDED")
    assert [k for k in map(kind_of, await raw.events()) if "NEXUS" in k] == [
        "EVENT_TYPE_NEXUS_OPERATION_SCHEDULED",
        "EVENT_TYPE_NEXUS_OPERATION_STARTED",
        "EVENT_TYPE_NEXUS_OPERATION_FAILED",
    ]


async def test_timers_fire_while_a_handler_takes_its_time(client: Client) -> None:
    await endpoint(client)
    raw = Raw(client)
    await raw.start()
    task = await raw.take()
    await client.get_workflow_handle(raw.id).signal("go")
    timer = command.StartTimerCommandAttributes(timer_id="t")
    timer.start_to_fire_timeout.FromMilliseconds(50)
    await raw.work(start_timer=timer)
    fired = await asyncio.wait_for(raw.work(), 5)
    assert kind_of(fired.history.events[-3]) == "EVENT_TYPE_TIMER_FIRED"
    await raw.answer(task, sync_success={})


# --- Endpoints --------------------------------------------------------------------------------


async def test_endpoints_are_kept(tmp_path: Path) -> None:
    store = f"sqlite:///{tmp_path}/store.db"
    async with Server(store=store, port=0) as server:
        client = await Client.connect(server.address)
        service = client.operator_service
        made = await endpoint(client, "one")
        assert (made.version, made.spec.name) == (1, "one")
        assert made.url_prefix == f"/nexus/endpoints/{made.id}/services"
        assert made.HasField("created_time")
        with pytest.raises(RPCError, match="already registered") as caught:
            await endpoint(client, "one")
        assert caught.value.status is RPCStatusCode.ALREADY_EXISTS
        other = await endpoint(client, "two")
        spec = nexus_messages.EndpointSpec()
        spec.CopyFrom(made.spec)
        spec.name = "two"
        update = ops.UpdateNexusEndpointRequest(id=made.id, version=1, spec=spec)
        with pytest.raises(RPCError, match="already registered"):
            await service.update_nexus_endpoint(update)
        update.spec.name = "uno"
        changed = (await service.update_nexus_endpoint(update)).endpoint
        assert (changed.version, changed.spec.name, changed.id) == (2, "uno", made.id)
        assert changed.HasField("last_modified_time")
        with pytest.raises(RPCError, match=r"version mismatch\. received: 1 expected 2"):
            await service.update_nexus_endpoint(update)
        again = await endpoint(client, "one")
        for each in (other, again):
            await service.delete_nexus_endpoint(
                ops.DeleteNexusEndpointRequest(id=each.id, version=each.version)
            )
    async with Server(store=store, port=0) as server:
        client = await Client.connect(server.address)
        service = client.operator_service
        listed = await service.list_nexus_endpoints(ops.ListNexusEndpointsRequest())
        assert list(listed.endpoints) == [changed]
        found = await service.get_nexus_endpoint(ops.GetNexusEndpointRequest(id=made.id))
        assert found.endpoint == changed


async def test_endpoints_are_listed_in_pages_and_by_name(client: Client) -> None:
    made = {(await endpoint(client, f"e{n}")).id for n in range(5)}
    token, seen = b"", []
    while True:
        page = await client.operator_service.list_nexus_endpoints(
            ops.ListNexusEndpointsRequest(page_size=2, next_page_token=token)
        )
        seen += [each.id for each in page.endpoints]
        token = page.next_page_token
        if not token:
            break
    assert set(seen) == made
    assert len(seen) == 5
    named = await client.operator_service.list_nexus_endpoints(
        ops.ListNexusEndpointsRequest(name="e3")
    )
    assert [each.spec.name for each in named.endpoints] == ["e3"]
    none = await client.operator_service.list_nexus_endpoints(
        ops.ListNexusEndpointsRequest(name="e9")
    )
    assert not none.endpoints


async def test_an_operation_on_an_endpoint_that_is_deleted_fails(client: Client) -> None:
    made = await endpoint(client)
    raw = Raw(client)
    await raw.start()
    await raw.refuse(await raw.take(), "UNAVAILABLE")
    await client.operator_service.delete_nexus_endpoint(
        ops.DeleteNexusEndpointRequest(id=made.id, version=1)
    )
    await raw.work()
    cause = (await raw.events())[5].nexus_operation_failed_event_attributes.failure.cause
    assert cause.message == "endpoint not registered"


# --- Standalone -------------------------------------------------------------------------------


async def start_alone(client: Client, operation: str, word: str = "hi", **options: Any) -> Any:
    desk = client.create_nexus_client(service=Desk, endpoint=ENDPOINT)
    options.setdefault("id", f"op-{uuid.uuid4()}")
    options.setdefault("schedule_to_close_timeout", timedelta(seconds=60))
    return await desk.start_operation(getattr(Desk, operation), word, **options)


async def test_an_operation_alone(client: Client) -> None:
    await endpoint(client)
    async with worker(client):
        assert await (await start_alone(client, "echo")).result() == "hi"
        handle = await start_alone(client, "work", summary="why")
        assert await handle.result() == "hi, hi"
        shown = await handle.describe()
        assert (shown.endpoint, shown.service, shown.operation) == (ENDPOINT, "Desk", "work")
        assert shown.attempt == 1
        assert await shown.static_summary() == "why"
        refused = await start_alone(client, "refuse")
        with pytest.raises(NexusOperationFailureError) as caught:
            await refused.result()
        assert isinstance(caught.value.cause, nexusrpc.HandlerError)


async def test_an_operation_alone_is_canceled_or_terminated(client: Client) -> None:
    await endpoint(client)
    async with worker(client):
        canceled = await start_alone(client, "work", "wait")
        await canceled.cancel(reason="enough")
        with pytest.raises(NexusOperationFailureError) as caught:
            await canceled.result()
        assert isinstance(caught.value.cause, CancelledError)
        terminated = await start_alone(client, "work", "wait")
        await terminated.terminate(reason="now")
        with pytest.raises(NexusOperationFailureError) as caught:
            await terminated.result()
        assert isinstance(caught.value.cause, TerminatedError)


async def test_an_operation_id_names_one_at_a_time(client: Client) -> None:
    await endpoint(client, queue="nobody")
    first = await start_alone(client, "echo", id="one")
    with pytest.raises(NexusOperationAlreadyStartedError):
        await start_alone(client, "echo", id="one")
    await first.terminate()
    second = await start_alone(client, "echo", id="one")
    assert second.run_id != first.run_id
    with pytest.raises(RPCError, match="not found"):
        await client.get_nexus_operation_handle("two").describe()


async def test_operations_are_listed_counted_and_deleted(client: Client) -> None:
    await endpoint(client)
    async with worker(client):
        for word in ("a", "b"):
            await (await start_alone(client, "echo", word)).result()
    waiting = await start_alone(client, "echo", id="waiting")
    of_desk = "Endpoint = 'desk' AND Service = 'Desk' AND Operation = 'echo'"
    assert (await client.count_nexus_operations(of_desk)).count == 3
    running = "ExecutionStatus = 'Running' AND OperationId = 'waiting'"
    listed = [each async for each in client.list_nexus_operations(running)]
    assert [each.operation_id for each in listed] == ["waiting"]
    assert (listed[0].endpoint, listed[0].service, listed[0].operation) == (
        "desk",
        "Desk",
        "echo",
    )
    await client.workflow_service.delete_nexus_operation_execution(
        ws.DeleteNexusOperationExecutionRequest(namespace="default", operation_id="waiting")
    )
    with pytest.raises(RPCError, match="not found"):
        await waiting.describe()


async def test_an_operation_alone_outlives_the_server(tmp_path: Path) -> None:
    store = f"sqlite:///{tmp_path}/store.db"
    async with Server(store=store, port=0) as server:
        client = await Client.connect(server.address)
        await endpoint(client)
        handle = await start_alone(client, "work", id="kept")
        run_id = handle.run_id
    async with Server(store=store, port=0) as server:
        client = await Client.connect(server.address)
        async with worker(client):
            kept = client.get_nexus_operation_handle("kept", run_id=run_id, result_type=str)
            assert await kept.result() == "hi, hi"


async def test_a_description_waits_for_the_next_change(client: Client) -> None:
    await endpoint(client)
    await start_alone(client, "work", "wait", id="watched")
    request = ws.DescribeNexusOperationExecutionRequest(
        namespace="default", operation_id="watched", include_input=True, include_outcome=True
    )
    describe: Callable[[Any], Any] = client.workflow_service.describe_nexus_operation_execution
    first = await describe(request)
    assert first.input.data == b'"wait"'
    request.run_id, request.long_poll_token = first.run_id, first.long_poll_token
    following = asyncio.create_task(describe(request))
    async with worker(client):
        shown = await following
        assert shown.info.operation_token
        started = await client.workflow_service.poll_nexus_operation_execution(
            ws.PollNexusOperationExecutionRequest(
                namespace="default", operation_id="watched", wait_stage=1
            )
        )
        assert started.operation_token == shown.info.operation_token
