"""Workflows are paused and unpaused: what goes on meanwhile, and what waits.

The Python SDK's own descriptions and lists do not know the status; they are asked for by RPC.
"""

import asyncio
import uuid
from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from temporalio import activity, workflow
from temporalio.api.common.v1 import message_pb2 as common
from temporalio.api.enums.v1 import event_type_pb2 as event_types
from temporalio.api.enums.v1 import failed_cause_pb2 as causes
from temporalio.api.enums.v1 import query_pb2 as query_enums
from temporalio.api.enums.v1 import workflow_pb2 as workflow_enums
from temporalio.api.query.v1 import message_pb2 as query_messages
from temporalio.api.taskqueue.v1 import message_pb2 as taskqueue
from temporalio.api.workflowservice.v1 import request_response_pb2 as ws
from temporalio.client import Client, WorkflowExecutionStatus, WorkflowHandle
from temporalio.common import RetryPolicy
from temporalio.exceptions import ApplicationError
from temporalio.service import RPCError, RPCStatusCode
from temporalio.worker import Replayer, UnsandboxedWorkflowRunner, Worker

from durably import Server
from tests.cli.test_temporal_cli import Cli
from tests.conftest import eventually
from tests.processes import ServerProcess

PAUSED = workflow_enums.WORKFLOW_EXECUTION_STATUS_PAUSED
attempts: dict[str, int] = {}
"""Of `flaky`, by workflow id."""


@activity.defn
async def flaky() -> int:
    """Fails twice."""
    workflow_id = activity.info().workflow_id
    assert workflow_id is not None
    attempts[workflow_id] = activity.info().attempt
    if activity.info().attempt < 3:
        raise ApplicationError("not yet")
    return activity.info().attempt


@workflow.defn
class Collects:
    """Returns the first three signals; answers a query and an update."""

    def __init__(self) -> None:
        self.items: list[str] = []

    @workflow.run
    async def run(self) -> list[str]:
        await workflow.wait_condition(lambda: len(self.items) >= 3)
        return self.items

    @workflow.signal
    def add(self, item: str) -> None:
        self.items.append(item)

    @workflow.query
    def content(self) -> list[str]:
        return self.items

    @workflow.update
    def put(self, item: str) -> int:
        self.items.append(item)
        return len(self.items)


@workflow.defn
class Retries:
    @workflow.run
    async def run(self, wait_s: float) -> int:
        return await workflow.execute_activity(
            flaky,
            start_to_close_timeout=timedelta(seconds=60),
            retry_policy=RetryPolicy(
                initial_interval=timedelta(seconds=wait_s), backoff_coefficient=1
            ),
        )


def worker(client: Client) -> Worker:
    return Worker(
        client,
        task_queue="q",
        workflows=[Collects, Retries],
        activities=[flaky],
        workflow_runner=UnsandboxedWorkflowRunner(),
    )


@pytest_asyncio.fixture
async def working(client: Client) -> AsyncIterator[Client]:
    async with worker(client):
        yield client


async def start(client: Client, kind: str = "Collects", *args: Any) -> WorkflowHandle[Any, Any]:
    workflow_id = f"w-{uuid.uuid4()}"
    return await client.start_workflow(kind, args=args, id=workflow_id, task_queue="q")


async def pause(client: Client, handle: WorkflowHandle[Any, Any], request_id: str = "") -> None:
    await client.workflow_service.pause_workflow_execution(
        ws.PauseWorkflowExecutionRequest(
            namespace="default",
            workflow_id=handle.id,
            identity="operator",
            reason="why",
            request_id=request_id,
        )
    )


async def unpause(client: Client, handle: WorkflowHandle[Any, Any]) -> None:
    await client.workflow_service.unpause_workflow_execution(
        ws.UnpauseWorkflowExecutionRequest(namespace="default", workflow_id=handle.id)
    )


async def describe(client: Client, workflow_id: str) -> ws.DescribeWorkflowExecutionResponse:
    return await client.workflow_service.describe_workflow_execution(
        ws.DescribeWorkflowExecutionRequest(
            namespace="default", execution=common.WorkflowExecution(workflow_id=workflow_id)
        )
    )


async def status(client: Client, handle: WorkflowHandle[Any, Any]) -> int:
    return (await describe(client, handle.id)).workflow_execution_info.status


async def kinds(handle: WorkflowHandle[Any, Any]) -> list[str]:
    history = await handle.fetch_history()
    names = [event_types.EventType.Name(event.event_type) for event in history.events]
    return [name.removeprefix("EVENT_TYPE_").removeprefix("WORKFLOW_") for name in names]


async def first_task_done(handle: WorkflowHandle[Any, Any]) -> None:
    async def done() -> bool:
        return "TASK_COMPLETED" in await kinds(handle)

    await eventually(done)


async def poll(client: Client) -> ws.PollWorkflowTaskQueueResponse:
    return await client.workflow_service.poll_workflow_task_queue(
        ws.PollWorkflowTaskQueueRequest(
            namespace="default", task_queue=taskqueue.TaskQueue(name="q"), identity="w"
        ),
        timeout=timedelta(seconds=20),
    )


async def test_signals_wait_in_order_and_the_history_replays(working: Client) -> None:
    handle = await start(working)
    await first_task_done(handle)
    await pause(working, handle)
    for item in ("a", "b", "c"):
        await handle.signal("add", item)
    await asyncio.sleep(0.3)
    assert (await kinds(handle))[4:] == ["EXECUTION_PAUSED"] + ["EXECUTION_SIGNALED"] * 3
    await unpause(working, handle)
    assert await handle.result() == ["a", "b", "c"]
    assert (await kinds(handle))[8:] == [
        "EXECUTION_UNPAUSED",
        "TASK_SCHEDULED",
        "TASK_STARTED",
        "TASK_COMPLETED",
        "EXECUTION_COMPLETED",
    ]
    replayer = Replayer(workflows=[Collects], workflow_runner=UnsandboxedWorkflowRunner())
    await replayer.replay_workflow(await handle.fetch_history())


async def test_queries_and_updates_are_refused_meanwhile(working: Client) -> None:
    handle = await start(working)
    await first_task_done(handle)
    await pause(working, handle)
    for condition in (
        query_enums.QUERY_REJECT_CONDITION_NONE,
        query_enums.QUERY_REJECT_CONDITION_NOT_OPEN,
    ):
        answer = await working.workflow_service.query_workflow(
            ws.QueryWorkflowRequest(
                namespace="default",
                execution=common.WorkflowExecution(workflow_id=handle.id),
                query=query_messages.WorkflowQuery(query_type="content"),
                query_reject_condition=condition,
            )
        )
        assert answer.query_rejected.status == PAUSED
    with pytest.raises(RPCError, match="Workflow is paused") as refused:
        await handle.execute_update("put", "x")
    assert refused.value.status is RPCStatusCode.FAILED_PRECONDITION
    await unpause(working, handle)
    assert await handle.execute_update("put", "y") == 1
    assert await handle.query("content") == ["y"]


async def test_what_is_paused_is_seen_in_descriptions_and_lists(client: Client) -> None:
    handle = await start(client)
    other = await start(client)
    await pause(client, handle)
    found = await describe(client, handle.id)
    assert found.workflow_execution_info.status == PAUSED
    shown = found.workflow_extended_info.pause_info
    assert (shown.identity, shown.reason) == ("operator", "why")
    assert shown.paused_time.ToNanoseconds() > 0
    payload = found.workflow_execution_info.search_attributes.indexed_fields["TemporalPauseInfo"]
    assert payload.data == f'["Workflow:{handle.id}","Reason:why"]'.encode()
    for query in ("ExecutionStatus = 'Paused'", "TemporalPauseInfo = 'Reason:why'"):
        listed = await client.workflow_service.list_workflow_executions(
            ws.ListWorkflowExecutionsRequest(namespace="default", query=query)
        )
        assert [row.execution.workflow_id for row in listed.executions] == [handle.id]
        assert not listed.executions[0].HasField("close_time")
    by_status = await client.count_workflows("GROUP BY ExecutionStatus")
    assert {g.group_values[0]: g.count for g in by_status.groups} == {"Running": 1, "Paused": 1}
    service = client.workflow_service
    opened = await service.list_open_workflow_executions(
        ws.ListOpenWorkflowExecutionsRequest(namespace="default")
    )
    assert {row.execution.workflow_id for row in opened.executions} == {handle.id, other.id}
    closed = await service.list_closed_workflow_executions(
        ws.ListClosedWorkflowExecutionsRequest(namespace="default")
    )
    assert not closed.executions
    await unpause(client, handle)
    found = await describe(client, handle.id)
    assert not found.workflow_extended_info.HasField("pause_info")
    assert not found.workflow_execution_info.search_attributes.indexed_fields
    assert (await client.count_workflows("ExecutionStatus = 'Running'")).count == 2


async def test_a_task_that_no_worker_has_ends_and_one_in_flight_goes_on(client: Client) -> None:
    handle = await start(client)
    await pause(client, handle)
    history = await handle.fetch_history()
    failed = history.events[2].workflow_task_failed_event_attributes
    assert (
        failed.cause
        == causes.WORKFLOW_TASK_FAILED_CAUSE_WORKFLOW_PAUSE_REQUESTED_BEFORE_TASK_STARTED
    )
    await unpause(client, handle)
    task = await poll(client)
    await pause(client, handle)
    completed = ws.RespondWorkflowTaskCompletedRequest(
        namespace="default", task_token=task.task_token, force_create_new_workflow_task=True
    )
    with pytest.raises(RPCError) as refused:
        await client.workflow_service.respond_workflow_task_completed(completed)
    assert refused.value.status is RPCStatusCode.FAILED_PRECONDITION
    completed.force_create_new_workflow_task = False
    await client.workflow_service.respond_workflow_task_completed(completed)
    assert (await kinds(handle))[-2:] == ["TASK_COMPLETED", "EXECUTION_PAUSED"]


async def test_activities_are_not_tried_again_until_it_goes_on(working: Client) -> None:
    handle = await start(working, "Retries", 0.2)

    async def failed() -> bool:
        pending = (await describe(working, handle.id)).pending_activities
        return bool(pending) and pending[0].HasField("last_failure")

    await eventually(failed)
    await pause(working, handle)
    before = attempts[handle.id]
    await asyncio.sleep(0.8)
    assert attempts[handle.id] == before
    assert await status(working, handle) == PAUSED
    await unpause(working, handle)
    assert await handle.result() == 3


async def test_a_paused_activity_stays_paused_and_an_unpaused_one_is_worked_on(
    working: Client,
) -> None:
    handle = await start(working, "Retries", 3600)
    which = {
        "namespace": "default",
        "execution": common.WorkflowExecution(workflow_id=handle.id),
        "type": "flaky",
    }

    async def tried() -> bool:
        return attempts.get(handle.id) == 1

    await eventually(tried)
    service = working.workflow_service
    await service.pause_activity(ws.PauseActivityRequest(**which))  # type: ignore[arg-type]
    await pause(working, handle)
    info = (await describe(working, handle.id)).workflow_execution_info
    assert b"property:activityType=flaky" in (
        info.search_attributes.indexed_fields["TemporalPauseInfo"].data
    )
    await unpause(working, handle)
    assert (await describe(working, handle.id)).pending_activities[0].paused
    await pause(working, handle)
    await service.unpause_activity(ws.UnpauseActivityRequest(**which))  # type: ignore[arg-type]

    async def tried_again() -> bool:
        return attempts[handle.id] == 2

    await eventually(tried_again)


async def test_timers_fire_and_timeouts_end_a_paused_workflow(client: Client) -> None:
    handle = await client.start_workflow(
        "Any", id="w", task_queue="q", run_timeout=timedelta(seconds=1)
    )
    await pause(client, handle)

    async def timed_out() -> bool:
        return await status(client, handle) == workflow_enums.WORKFLOW_EXECUTION_STATUS_TIMED_OUT

    await eventually(timed_out)


async def test_pausing_twice_and_what_is_not_there_is_refused(client: Client) -> None:
    handle = await start(client)
    with pytest.raises(RPCError, match="workflow is not paused") as refused:
        await unpause(client, handle)
    assert refused.value.status is RPCStatusCode.FAILED_PRECONDITION
    await pause(client, handle, "r")
    await pause(client, handle, "r")
    with pytest.raises(RPCError, match="workflow is already paused") as refused:
        await pause(client, handle, "another")
    assert refused.value.status is RPCStatusCode.FAILED_PRECONDITION
    with pytest.raises(RPCError, match="request id is too long") as refused:
        await pause(client, handle, "x" * 1001)
    assert refused.value.status is RPCStatusCode.INVALID_ARGUMENT
    await handle.terminate()
    with pytest.raises(RPCError, match="already completed") as refused:
        await pause(client, handle)
    assert refused.value.status is RPCStatusCode.NOT_FOUND


async def test_a_reset_run_is_not_paused(working: Client) -> None:
    handle = await start(working)
    await first_task_done(handle)
    await pause(working, handle)
    await handle.signal("add", "a")
    reset = await working.workflow_service.reset_workflow_execution(
        ws.ResetWorkflowExecutionRequest(
            namespace="default",
            workflow_execution=common.WorkflowExecution(workflow_id=handle.id),
            reason="again",
            workflow_task_finish_event_id=4,
        )
    )
    following = working.get_workflow_handle(handle.id, run_id=reset.run_id)
    for item in ("b", "c"):
        await following.signal("add", item)
    assert await following.result() == ["a", "b", "c"]


async def test_a_pause_outlives_the_server(server_process: ServerProcess) -> None:
    server_process.start()
    client = await Client.connect(server_process.address)
    async with worker(client):
        handle = await start(client)
        await first_task_done(handle)
        await pause(client, handle)
        await handle.signal("add", "a")
        await asyncio.to_thread(server_process.kill)
        await asyncio.to_thread(server_process.start)
        assert await status(client, handle) == PAUSED
        await handle.signal("add", "b")
        await handle.signal("add", "c")
        assert "TASK_SCHEDULED" not in (await kinds(handle))[4:]
        await unpause(client, handle)
        assert await handle.result() == ["a", "b", "c"]


async def test_the_command_line_pauses_and_unpauses(
    server: Server, client: Client, tmp_path: Path
) -> None:
    handle = await start(client)
    cli = Cli(server.address, tmp_path)
    which = ("--workflow-id", handle.id)
    await cli.text("workflow", "pause", *which, "--reason", "lunch")
    shown = await cli.json("workflow", "describe", *which)
    assert shown["workflowExecutionInfo"]["status"] == "WORKFLOW_EXECUTION_STATUS_PAUSED"
    assert shown["workflowExtendedInfo"]["pauseInfo"]["reason"] == "lunch"
    await cli.text("workflow", "unpause", *which)
    assert (await handle.describe()).status is WorkflowExecutionStatus.RUNNING
