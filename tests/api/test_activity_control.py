"""Operators pause, unpause, reset and change pending activities; workers hear of it."""

import asyncio
import uuid
from datetime import timedelta
from typing import Any

import pytest
from google.protobuf.duration_pb2 import Duration
from google.protobuf.field_mask_pb2 import FieldMask
from temporalio import activity, workflow
from temporalio.api.activity.v1 import message_pb2 as activities
from temporalio.api.common.v1 import message_pb2 as common
from temporalio.api.enums.v1 import workflow_pb2 as workflow_enums
from temporalio.api.workflow.v1 import message_pb2 as workflow_messages
from temporalio.api.workflowservice.v1 import request_response_pb2 as ws
from temporalio.client import Client, WorkflowHandle
from temporalio.common import RetryPolicy
from temporalio.exceptions import ApplicationError
from temporalio.service import RPCError, RPCStatusCode
from temporalio.worker import UnsandboxedWorkflowRunner, Worker

from durably import Server
from tests.conftest import eventually


@activity.defn
async def told() -> str:
    """Heartbeats until it is told to stop; says why, on its first attempt by failing."""
    try:
        while True:
            activity.heartbeat("working")
            await asyncio.sleep(0.05)
    except asyncio.CancelledError:
        details = activity.cancellation_details()
        assert details is not None
        return f"paused={details.paused} reset={details.reset}"


@activity.defn
async def flaky() -> str:
    if activity.info().attempt < 3:
        raise ApplicationError("not yet")
    return f"attempt {activity.info().attempt} on {activity.info().task_queue}"


@workflow.defn
class Calls:
    @workflow.run
    async def run(self, name: str, wait_s: float) -> Any:
        return await workflow.execute_activity(
            name,
            activity_id="a",
            start_to_close_timeout=timedelta(seconds=60),
            heartbeat_timeout=timedelta(seconds=5),
            retry_policy=RetryPolicy(
                initial_interval=timedelta(seconds=wait_s), backoff_coefficient=1
            ),
        )


def worker(client: Client, queue: str = "q") -> Worker:
    return Worker(
        client,
        task_queue=queue,
        workflows=[Calls],
        activities=[told, flaky],
        workflow_runner=UnsandboxedWorkflowRunner(),
        default_heartbeat_throttle_interval=timedelta(milliseconds=50),
        max_heartbeat_throttle_interval=timedelta(milliseconds=50),
    )


async def start(client: Client, name: str, wait_s: float = 3600) -> WorkflowHandle[Any, Any]:
    return await client.start_workflow(
        Calls.run, args=[name, wait_s], id=f"w-{uuid.uuid4()}", task_queue="q"
    )


async def pending(handle: WorkflowHandle[Any, Any]) -> workflow_messages.PendingActivityInfo | None:
    shown = (await handle.describe()).raw_description.pending_activities
    return shown[0] if shown else None


async def until(handle: WorkflowHandle[Any, Any], state: int, attempt: int = 0) -> None:
    async def is_so() -> bool:
        found = await pending(handle)
        return found is not None and found.state == state and found.attempt >= attempt

    await eventually(is_so)


def of(handle: WorkflowHandle[Any, Any]) -> dict[str, Any]:
    return {
        "namespace": "default",
        "execution": common.WorkflowExecution(workflow_id=handle.id),
        "id": "a",
    }


STARTED = workflow_enums.PENDING_ACTIVITY_STATE_STARTED
SCHEDULED = workflow_enums.PENDING_ACTIVITY_STATE_SCHEDULED
PAUSED = workflow_enums.PENDING_ACTIVITY_STATE_PAUSED


async def test_a_running_activity_hears_that_it_is_paused(client: Client) -> None:
    async with worker(client):
        handle = await start(client, "told")
        await until(handle, STARTED)
        await client.workflow_service.pause_activity(
            ws.PauseActivityRequest(**of(handle), identity="me", reason="lunch", request_id="r")
        )
        found = await pending(handle)
        assert found is not None
        assert found.paused
        assert (found.pause_info.manual.identity, found.pause_info.manual.reason) == ("me", "lunch")
        assert await handle.result() == "paused=True reset=False"


async def test_pausing_twice_is_refused_unless_it_is_the_same_request(client: Client) -> None:
    async with worker(client):
        handle = await start(client, "flaky")
        await until(handle, SCHEDULED, attempt=2)
        request = ws.PauseActivityRequest(**of(handle), request_id="r")
        await client.workflow_service.pause_activity(request)
        await client.workflow_service.pause_activity(request)
        request.request_id = "another"
        with pytest.raises(RPCError, match="already paused") as refused:
            await client.workflow_service.pause_activity(request)
        assert refused.value.status is RPCStatusCode.FAILED_PRECONDITION
        await handle.terminate()


async def test_unpause_goes_on_after_a_restart_too(store_url: str) -> None:
    store = store_url
    async with Server(store=store, port=0) as server:
        client = await Client.connect(server.address)
        async with worker(client):
            handle = await start(client, "flaky")
            await until(handle, SCHEDULED, attempt=2)
            await client.workflow_service.pause_activity(ws.PauseActivityRequest(**of(handle)))
            await until(handle, PAUSED)
    async with Server(store=store, port=0) as server:
        client = await Client.connect(server.address)
        handle = client.get_workflow_handle(handle.id)
        await until(handle, PAUSED, attempt=2)
        async with worker(client):
            unpause = ws.UnpauseActivityRequest(**of(handle), reset_attempts=True)
            await client.workflow_service.unpause_activity(unpause)
            await until(handle, SCHEDULED, attempt=2)  # one again, and it failed again
            await client.workflow_service.reset_activity(
                ws.ResetActivityRequest(**of(handle), keep_paused=True)
            )
            await until(handle, SCHEDULED, attempt=2)
            await handle.terminate()


async def test_a_running_activity_hears_that_it_is_reset(client: Client) -> None:
    async with worker(client):
        handle = await start(client, "told")
        await until(handle, STARTED)
        await client.workflow_service.reset_activity(ws.ResetActivityRequest(**of(handle)))
        assert await handle.result() == "paused=False reset=True"


async def test_changed_options_count_from_now_on_and_can_be_restored(client: Client) -> None:
    async with worker(client), worker(client, "other"):
        handle = await start(client, "flaky")
        await until(handle, SCHEDULED, attempt=2)
        soon = activities.ActivityOptions(
            task_queue={"name": "other"},  # type: ignore[arg-type]
            retry_policy=common.RetryPolicy(initial_interval=Duration(nanos=10**7)),
        )
        mask = FieldMask(paths=["task_queue.name", "retry_policy.initial_interval"])
        changed = await client.workflow_service.update_activity_options(
            ws.UpdateActivityOptionsRequest(**of(handle), activity_options=soon, update_mask=mask)
        )
        assert changed.activity_options.task_queue.name == "other"
        assert changed.activity_options.heartbeat_timeout.seconds == 5
        assert await handle.result() == "attempt 3 on other"

        handle = await start(client, "flaky")
        await until(handle, SCHEDULED, attempt=2)
        mask = FieldMask(paths=["retry_policy.maximum_attempts"])
        fewer = activities.ActivityOptions(retry_policy=common.RetryPolicy(maximum_attempts=9))
        await client.workflow_service.update_activity_options(
            ws.UpdateActivityOptionsRequest(**of(handle), activity_options=fewer, update_mask=mask)
        )
        restored = await client.workflow_service.update_activity_options(
            ws.UpdateActivityOptionsRequest(**of(handle), restore_original=True)
        )
        assert restored.activity_options.retry_policy.maximum_attempts == 0
        await handle.terminate()


@pytest.mark.parametrize(
    ("request_type", "changes", "status"),
    [
        (ws.PauseActivityRequest, {"id": "no such"}, RPCStatusCode.NOT_FOUND),
        (ws.UnpauseActivityRequest, {"id": "no such"}, RPCStatusCode.NOT_FOUND),
        (ws.ResetActivityRequest, {"id": "no such"}, RPCStatusCode.NOT_FOUND),
        (ws.UpdateActivityOptionsRequest, {}, RPCStatusCode.INVALID_ARGUMENT),
    ],
)
async def test_refusals(
    client: Client, request_type: Any, changes: dict[str, Any], status: RPCStatusCode
) -> None:
    async with worker(client):
        handle = await start(client, "told")
        await until(handle, STARTED)
        request = request_type(**(of(handle) | changes))
        call = {
            ws.PauseActivityRequest: client.workflow_service.pause_activity,
            ws.UnpauseActivityRequest: client.workflow_service.unpause_activity,
            ws.ResetActivityRequest: client.workflow_service.reset_activity,
            ws.UpdateActivityOptionsRequest: client.workflow_service.update_activity_options,
        }[request_type]
        with pytest.raises(RPCError) as refused:
            await call(request)
        assert refused.value.status is status
        await handle.cancel()
        await handle.terminate()
