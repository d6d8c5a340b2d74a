"""Completion callbacks over real HTTP: who is told what, once, through refusals, lost replies, restarts."""

import asyncio
import json
import time
import uuid
from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from temporalio import activity, workflow
from temporalio.api.common.v1 import message_pb2 as common
from temporalio.api.enums.v1 import common_pb2 as common_enums
from temporalio.api.enums.v1 import event_type_pb2 as event_types
from temporalio.api.workflow.v1 import message_pb2 as workflow_messages
from temporalio.api.workflowservice.v1 import request_response_pb2 as ws
from temporalio.client import Client
from temporalio.exceptions import ApplicationError
from temporalio.service import RPCError, RPCStatusCode
from temporalio.worker import UnsandboxedWorkflowRunner, Worker

from durably import Server
from tests.conftest import eventually
from tests.processes import free_port
from tests.receivers import Receiver

QUEUE = "callbacks"
SETTINGS: dict[str, Any] = {
    "callback_addresses": ("http://*", "https://*"),
    "private_networks_allowed": ("127.0.0.0/8",),
}
USE_EXISTING = 2
ATTACH = workflow_messages.OnConflictOptions(
    attach_request_id=True, attach_completion_callbacks=True, attach_links=True
)
STANDBY = common_enums.CALLBACK_STATE_STANDBY
BACKING_OFF = common_enums.CALLBACK_STATE_BACKING_OFF
FAILED = common_enums.CALLBACK_STATE_FAILED
SUCCEEDED = common_enums.CALLBACK_STATE_SUCCEEDED
BLOCKED = common_enums.CALLBACK_STATE_BLOCKED


@workflow.defn
class Told:
    """Ends as it is told by a signal, or at once by its argument."""

    def __init__(self) -> None:
        self.ends: list[str] = []

    @workflow.run
    async def run(self, end: str) -> str:
        if end == "wait":
            await workflow.wait_condition(lambda: bool(self.ends))
            end = self.ends.pop(0)
        if end == "continue":
            workflow.continue_as_new("wait")
        if end == "fail":
            raise ApplicationError("as told", "detail", type="Told")
        return end

    @workflow.signal
    def finish(self, end: str) -> None:
        self.ends.append(end)

    @workflow.update
    async def change(self, end: str) -> str:
        if end == "fail":
            raise ApplicationError("cannot", type="Cannot")
        return f"changed {end}"

    @change.validator
    def _check(self, end: str) -> None:
        if end == "refuse":
            raise ValueError("refused")


@activity.defn
async def work(end: str) -> str:
    if end == "fail":
        raise ApplicationError("as told", type="Told")
    return end


@pytest_asyncio.fixture
async def receiver() -> AsyncIterator[Receiver]:
    async with Receiver() as running:
        yield running


@pytest_asyncio.fixture
async def client(tmp_path: Path) -> AsyncIterator[Client]:
    store = f"sqlite:///{tmp_path}/store.db"
    async with Server(store=store, port=0, **SETTINGS) as server:
        connected = await Client.connect(server.address)
        async with worker(connected):
            yield connected


def worker(client: Client) -> Worker:
    return Worker(
        client,
        task_queue=QUEUE,
        workflows=[Told],
        activities=[work],
        workflow_runner=UnsandboxedWorkflowRunner(),
    )


async def start(
    client: Client, end: str, *callbacks: common.Callback, **options: Any
) -> ws.StartWorkflowExecutionResponse:
    request = ws.StartWorkflowExecutionRequest(
        namespace="default",
        workflow_id=options.pop("workflow_id", "w"),
        workflow_type=common.WorkflowType(name="Told"),
        request_id=options.pop("request_id", "") or str(uuid.uuid4()),
        completion_callbacks=callbacks,
        **options,
    )
    request.task_queue.name = QUEUE
    request.input.payloads.extend(await client.data_converter.encode([end]))
    return await client.workflow_service.start_workflow_execution(request)


async def describe(client: Client, run_id: str = "", workflow_id: str = "w") -> Any:
    which = common.WorkflowExecution(workflow_id=workflow_id, run_id=run_id)
    return await client.workflow_service.describe_workflow_execution(
        ws.DescribeWorkflowExecutionRequest(namespace="default", execution=which)
    )


async def until(client: Client, *states: int, workflow_id: str = "w") -> Any:
    """The description of the workflow, once its callbacks have these states."""
    found: Any = None

    async def come() -> bool:
        nonlocal found
        found = await describe(client, workflow_id=workflow_id)
        return [each.state for each in found.callbacks] == list(states)

    await eventually(come)
    return found


# --- What is told -----------------------------------------------------------------------------


async def test_the_receiver_is_told_how_it_ended(client: Client, receiver: Receiver) -> None:
    replied = await start(client, "done", receiver.callback(Mine="yes"), request_id="rq")
    found = await until(client, SUCCEEDED)
    (call,) = receiver.calls
    assert call.body == b'"done"'
    assert call.headers["content-type"] == "application/json"
    assert call.headers["nexus-operation-state"] == "succeeded"
    assert call.headers["mine"] == "yes"
    assert call.callback_id == f"{replied.run_id}/rq-0"
    assert "/workflows/w/" in call.headers["nexus-link"]
    assert call.headers["nexus-operation-close-time"].startswith("20")
    (shown,) = found.callbacks
    assert shown.trigger.HasField("workflow_closed")
    assert (shown.attempt, shown.callback.nexus.header) == (1, {"mine": "yes"})
    assert shown.last_attempt_complete_time.seconds >= shown.registration_time.seconds > 0


async def test_a_failure_is_told_as_nexus_has_it(client: Client, receiver: Receiver) -> None:
    await start(client, "fail", receiver.callback())
    await until(client, SUCCEEDED)
    (call,) = receiver.calls
    assert call.headers["nexus-operation-state"] == "failed"
    told = json.loads(call.body)
    assert told["message"] == "as told"
    assert told["metadata"] == {"type": "temporal.api.failure.v1.Failure"}
    assert told["details"]["applicationFailureInfo"]["type"] == "Told"


async def test_only_the_last_run_of_a_chain_tells(client: Client, receiver: Receiver) -> None:
    first = await start(client, "wait", receiver.callback())
    handle = client.get_workflow_handle("w")
    await handle.signal(Told.finish, "continue")

    async def goes_on() -> bool:
        found = await describe(client)
        return bool(found.workflow_execution_info.execution.run_id != first.run_id)

    await eventually(goes_on)
    await handle.signal(Told.finish, "end")
    await until(client, SUCCEEDED)
    assert [call.body for call in receiver.calls] == [b'"end"']
    old = await describe(client, first.run_id)
    assert [each.state for each in old.callbacks] == [STANDBY]


async def test_updates_tell_too(client: Client, receiver: Receiver) -> None:
    await start(client, "wait")
    for end in ("one", "fail", "refuse"):
        request = ws.UpdateWorkflowExecutionRequest(
            namespace="default", workflow_execution=common.WorkflowExecution(workflow_id="w")
        )
        request.request.request_id = f"rq-{end}"
        request.request.meta.update_id = end
        request.request.completion_callbacks.append(receiver.callback(end))
        request.request.input.name = "change"
        arguments = await client.data_converter.encode([end])
        request.request.input.args.payloads.extend(arguments)
        request.wait_policy.lifecycle_stage = 3  # type: ignore[assignment]
        reply = await client.workflow_service.update_workflow_execution(request)
        if end == "one":
            assert reply.link.workflow_event.request_id_ref.request_id == "rq-one"
        else:
            assert reply.link.workflow.reason == "Update rejected"
    found = await until(client, SUCCEEDED, SUCCEEDED)
    triggers = [each.trigger.update_workflow_execution_completed for each in found.callbacks]
    assert [each.update_id for each in triggers] == ["one", "fail"]
    assert receiver.to("one")[0].body == b'"changed one"'
    assert json.loads(receiver.to("fail")[0].body)["message"] == "cannot"
    assert receiver.to("refuse") == []


@pytest.mark.parametrize("end", ["done", "fail"])
async def test_standalone_activities_tell(client: Client, receiver: Receiver, end: str) -> None:
    request = ws.StartActivityExecutionRequest(
        namespace="default", activity_id="a", completion_callbacks=[receiver.callback()]
    )
    request.activity_type.name, request.task_queue.name = "work", QUEUE
    request.start_to_close_timeout.FromTimedelta(timedelta(seconds=10))
    request.retry_policy.maximum_attempts = 1
    request.input.payloads.extend(await client.data_converter.encode([end]))
    await client.workflow_service.start_activity_execution(request)

    async def told() -> bool:
        shown = await client.workflow_service.describe_activity_execution(
            ws.DescribeActivityExecutionRequest(namespace="default", activity_id="a")
        )
        (found,) = shown.callbacks
        assert found.trigger.HasField("activity_closed")
        return bool(found.info.state == SUCCEEDED)

    await eventually(told)
    (call,) = receiver.calls
    assert "/activities/a/" in call.headers["nexus-link"]
    if end == "done":
        assert (call.headers["nexus-operation-state"], call.body) == ("succeeded", b'"done"')
    else:
        assert call.headers["nexus-operation-state"] == "failed"
        assert json.loads(call.body)["message"] == "as told"


# --- Attached to one that runs ----------------------------------------------------------------


async def test_a_start_that_meets_a_run_attaches_its_callbacks_once(
    client: Client, receiver: Receiver
) -> None:
    first = await start(client, "wait", receiver.callback("first"), request_id="one")
    link = common.Link(batch_job=common.Link.BatchJob(job_id="j"))
    for _ in range(2):
        again = await start(
            client,
            "wait",
            receiver.callback("second"),
            request_id="two",
            workflow_id_conflict_policy=USE_EXISTING,
            on_conflict_options=ATTACH,
            links=[link],
        )
        assert (again.run_id, again.started) == (first.run_id, False)
        assert again.link.workflow_event.request_id_ref.request_id == "two"
    await client.get_workflow_handle("w").signal(Told.finish, "end")
    found = await until(client, SUCCEEDED, SUCCEEDED)
    assert [len(receiver.to(path)) for path in ("first", "second")] == [1, 1]
    shown = found.workflow_extended_info.request_id_infos
    updated = event_types.EVENT_TYPE_WORKFLOW_EXECUTION_OPTIONS_UPDATED
    assert shown["one"].event_type == event_types.EVENT_TYPE_WORKFLOW_EXECUTION_STARTED
    assert shown["two"].event_type == updated
    events = (await client.get_workflow_handle("w").fetch_history()).events
    (attached,) = [event for event in events if event.event_type == updated]
    assert attached.event_id == shown["two"].event_id
    assert list(attached.links) == [link]


async def test_the_same_request_again_finds_the_run_after_its_end(
    client: Client, receiver: Receiver
) -> None:
    first = await start(client, "wait")
    options: dict[str, Any] = {
        "request_id": "two",
        "workflow_id_conflict_policy": USE_EXISTING,
        "on_conflict_options": ATTACH,
    }
    await start(client, "wait", receiver.callback(), **options)
    await client.get_workflow_handle("w").signal(Told.finish, "end")
    await until(client, SUCCEEDED)
    again = await start(client, "wait", receiver.callback(), **options)
    assert (again.run_id, again.started) == (first.run_id, False)
    assert len(receiver.calls) == 1


# --- Receivers that do not take it at once ----------------------------------------------------


async def test_lost_replies_and_refusals_are_followed_by_the_same_call(
    client: Client, receiver: Receiver
) -> None:
    receiver.answers["x"] = [0, 503]
    await start(client, "done", receiver.callback())
    found = await until(client, SUCCEEDED)
    assert found.callbacks[0].attempt == 3
    assert len(receiver.calls) == 3
    assert len({(call.callback_id, call.body) for call in receiver.calls}) == 1


async def test_what_is_refused_for_good_is_not_tried_again(
    client: Client, receiver: Receiver
) -> None:
    receiver.answers["x"] = [404]
    await start(client, "done", receiver.callback())
    (shown,) = (await until(client, FAILED)).callbacks
    assert shown.last_attempt_failure.message == "handler error (NOT_FOUND)"
    assert shown.last_attempt_failure.application_failure_info.non_retryable
    assert not shown.HasField("next_attempt_schedule_time")


async def test_a_destination_that_is_down_is_left_alone_and_found_again(tmp_path: Path) -> None:
    store = f"sqlite:///{tmp_path}/store.db"
    down, up = Receiver(), Receiver()
    settings = {**SETTINGS, "nexus_breaker_open_s": 0.2, "nexus_breaker_failures": 2}
    async with Server(store=store, port=0, **settings) as server:
        client = await Client.connect(server.address)
        async with worker(client), up:
            for name in ("a", "b", "c"):
                await start(client, "done", down.callback(name), workflow_id=name)

            async def blocked() -> bool:
                found = [await describe(client, workflow_id=name) for name in ("a", "b", "c")]
                shown = [each for one in found for each in one.callbacks]
                return any(
                    each.state == BLOCKED and each.blocked_reason == "The circuit breaker is open."
                    for each in shown
                )

            await eventually(blocked)
            await start(client, "done", up.callback())
            await until(client, SUCCEEDED)
            async with down:
                for name in ("a", "b", "c"):
                    await until(client, SUCCEEDED, workflow_id=name)
    assert {call.path for call in down.calls} == {"a", "b", "c"}


async def test_a_callback_outlives_the_server(tmp_path: Path, receiver: Receiver) -> None:
    store = f"sqlite:///{tmp_path}/store.db"
    receiver.answers["x"] = [503]
    async with Server(store=store, port=0, **SETTINGS) as server:
        client = await Client.connect(server.address)
        async with worker(client):
            await start(client, "done", receiver.callback())
            await until(client, BACKING_OFF)
    async with Server(store=store, port=0, **SETTINGS) as server:
        await until(await Client.connect(server.address), SUCCEEDED)
    assert len({call.callback_id for call in receiver.calls}) == 1


async def test_a_workflow_can_be_deleted_once_its_receiver_has_been_tried(client: Client) -> None:
    nobody = Receiver(port=free_port())
    await start(client, "done", nobody.callback())
    await client.get_workflow_handle("w").result()
    which = common.WorkflowExecution(workflow_id="w")
    await client.workflow_service.delete_workflow_execution(
        ws.DeleteWorkflowExecutionRequest(namespace="default", workflow_execution=which)
    )
    with pytest.raises(RPCError) as refused:
        await describe(client)
    assert refused.value.status == RPCStatusCode.NOT_FOUND


async def test_when_its_retention_is_over_nobody_is_tried_any_more(tmp_path: Path) -> None:
    shift_ns = 0
    nobody = Receiver(port=free_port())
    settings = {**SETTINGS, "deadline_sweep_interval_s": 0.2}
    async with Server(
        store=f"sqlite:///{tmp_path}/store.db",
        port=0,
        clock=lambda: time.time_ns() + shift_ns,
        **settings,
    ) as server:
        client = await Client.connect(server.address)
        async with worker(client):
            await start(client, "done", nobody.callback())
            await until(client, BACKING_OFF)
            shift_ns = 25 * 3600 * 1_000_000_000

            async def gone() -> bool:
                try:
                    await describe(client)
                except RPCError as error:
                    return error.status == RPCStatusCode.NOT_FOUND
                return False

            await eventually(gone)


# --- Addresses --------------------------------------------------------------------------------


async def refusal(client: Client, *callbacks: common.Callback) -> str:
    with pytest.raises(RPCError) as refused:
        await start(client, "done", *callbacks)
    assert refused.value.status == RPCStatusCode.INVALID_ARGUMENT
    return refused.value.message


def to_url(url: str) -> common.Callback:
    return common.Callback(nexus=common.Callback.Nexus(url=url))


async def test_without_a_setting_only_public_addresses_are_called_and_only_with_tls(
    server: Server,
) -> None:
    client = await Client.connect(server.address)
    assert "callback_addresses" in await refusal(client, to_url("http://a.example/x"))
    for host in ("127.0.0.1", "10.1.2.3", "[::1]", "169.254.169.254", "[::ffff:192.168.0.1]"):
        message = await refusal(client, to_url(f"https://{host}/x"))
        assert "private_networks_allowed" in message
    with pytest.raises(RPCError):
        await describe(client)


async def test_a_name_that_leads_to_a_private_address_is_not_called(
    tmp_path: Path, receiver: Receiver
) -> None:
    settings = {**SETTINGS, "private_networks_allowed": ()}
    async with Server(store=f"sqlite:///{tmp_path}/store.db", port=0, **settings) as server:
        client = await Client.connect(server.address)
        async with worker(client):
            await start(client, "done", to_url(f"http://localhost:{receiver.port}/x"))
            (shown,) = (await until(client, BACKING_OFF)).callbacks
    assert "private_networks_allowed" in shown.last_attempt_failure.message
    assert receiver.calls == []


async def test_a_redirect_is_not_followed(client: Client, receiver: Receiver) -> None:
    receiver.answers["x"] = [302]
    await start(client, "done", receiver.callback())
    found = await until(client, SUCCEEDED)
    assert found.callbacks[0].attempt == 2
    assert "302" not in str(found.callbacks[0].last_attempt_failure)


async def test_a_receiver_that_says_nothing_is_given_up(tmp_path: Path, receiver: Receiver) -> None:
    async def never(_: object) -> None:
        await asyncio.sleep(3600)

    receiver.answer = never
    settings = {**SETTINGS, "callback_timeout_s": 0.2}
    async with Server(store=f"sqlite:///{tmp_path}/store.db", port=0, **settings) as server:
        client = await Client.connect(server.address)
        async with worker(client):
            await start(client, "done", receiver.callback())

            async def told() -> bool:
                (shown,) = (await describe(client)).callbacks
                return "no reply within" in shown.last_attempt_failure.message

            await eventually(told)


async def test_one_that_belongs_to_an_operation_of_this_server_needs_its_token(
    client: Client,
) -> None:
    await start(client, "done", to_url("temporal://system"))
    (shown,) = (await until(client, FAILED)).callbacks
    assert "token" in shown.last_attempt_failure.message
