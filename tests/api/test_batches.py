"""Batch operations: one thing done to many executions, each once, whatever happens meanwhile."""

import asyncio
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from temporalio import activity, workflow
from temporalio.api.batch.v1 import message_pb2 as batch
from temporalio.api.common.v1 import message_pb2 as common
from temporalio.api.enums.v1 import batch_operation_pb2 as batch_enums
from temporalio.api.enums.v1 import reset_pb2 as reset_enums
from temporalio.api.workflowservice.v1 import request_response_pb2 as ws
from temporalio.client import Client, WorkflowExecutionStatus
from temporalio.service import RPCError, RPCStatusCode
from temporalio.worker import UnsandboxedWorkflowRunner, Worker

from durably import Server
from tests.cli.test_temporal_cli import Cli
from tests.conftest import eventually
from tests.crash.test_kill import through_outages
from tests.processes import ServerProcess

COMPLETED = batch_enums.BATCH_OPERATION_STATE_COMPLETED


@activity.defn
async def nothing() -> None: ...


@workflow.defn
class Quick:
    @workflow.run
    async def run(self) -> str:
        await workflow.execute_activity(nothing, start_to_close_timeout=timedelta(seconds=9))
        return workflow.info().run_id


async def start(client: Client, count: int, kind: str = "Any", prefix: str = "w") -> None:
    await asyncio.gather(
        *(client.start_workflow(kind, id=f"{prefix}-{n}", task_queue="q") for n in range(count))
    )


async def run_batch(
    client: Client, job_id: str, **fields: Any
) -> ws.DescribeBatchOperationResponse:
    """Start a batch and wait for its end."""
    request = ws.StartBatchOperationRequest(
        namespace="default", job_id=job_id, reason="why", **fields
    )
    await client.workflow_service.start_batch_operation(request)
    return await ended(client, job_id)


async def describe(client: Client, job_id: str) -> ws.DescribeBatchOperationResponse:
    return await client.workflow_service.describe_batch_operation(
        ws.DescribeBatchOperationRequest(namespace="default", job_id=job_id)
    )


async def ended(client: Client, job_id: str) -> ws.DescribeBatchOperationResponse:
    async def closed() -> bool:
        found = await through_outages(lambda: describe(client, job_id))
        return found.state != batch_enums.BATCH_OPERATION_STATE_RUNNING

    await eventually(closed)
    return await describe(client, job_id)


async def statuses(client: Client, query: str = "") -> list[WorkflowExecutionStatus | None]:
    return [row.status async for row in client.list_workflows(query)]


async def test_what_a_query_finds_is_terminated(client: Client) -> None:
    await start(client, 7)
    await start(client, 2, prefix="other")
    found = await run_batch(
        client,
        "job",
        visibility_query="WorkflowId STARTS_WITH 'w-'",
        termination_operation=batch.BatchOperationTermination(identity="me"),
    )
    assert found.state == COMPLETED
    assert found.operation_type == batch_enums.BATCH_OPERATION_TYPE_TERMINATE
    assert (found.total_operation_count, found.complete_operation_count) == (7, 7)
    assert (found.identity, found.reason) == ("me", "why")
    assert found.query == "WorkflowId STARTS_WITH 'w-'"
    assert found.close_time.ToNanoseconds() >= found.start_time.ToNanoseconds() > 0
    terminated = await statuses(client, "WorkflowId STARTS_WITH 'w-'")
    assert terminated == [WorkflowExecutionStatus.TERMINATED] * 7
    others = await statuses(client, "WorkflowId STARTS_WITH 'other'")
    assert others == [WorkflowExecutionStatus.RUNNING] * 2
    history = await client.get_workflow_handle("w-0").fetch_history()
    assert history.events[-1].workflow_execution_terminated_event_attributes.reason == "why"


async def test_a_page_is_not_all_there_is(client: Client) -> None:
    await start(client, 450)
    found = await run_batch(
        client,
        "job",
        visibility_query="ExecutionStatus = 'Running'",
        signal_operation=batch.BatchOperationSignal(signal="hello", identity="me"),
    )
    assert found.complete_operation_count == 450
    for number in (0, 220, 449):
        history = await client.get_workflow_handle(f"w-{number}").fetch_history()
        signals = [
            e for e in history.events if e.HasField("workflow_execution_signaled_event_attributes")
        ]
        assert len(signals) == 1


async def test_executions_are_named_cancelled_and_deleted(client: Client) -> None:
    await start(client, 4)
    named = [common.WorkflowExecution(workflow_id=f"w-{n}") for n in (0, 1)]
    cancel = batch.BatchOperationCancellation()
    found = await run_batch(client, "cancel", executions=named, cancellation_operation=cancel)
    assert found.complete_operation_count == 2
    for number, asked in ((0, True), (1, True), (2, False)):
        history = await client.get_workflow_handle(f"w-{number}").fetch_history()
        name = "workflow_execution_cancel_requested_event_attributes"
        assert any(event.HasField(name) for event in history.events) == asked  # type: ignore[arg-type]
    deletion = batch.BatchOperationDeletion()
    found = await run_batch(client, "delete", executions=named, deletion_operation=deletion)
    assert found.complete_operation_count == 2

    async def gone() -> bool:
        return (await client.count_workflows()).count == 2

    await eventually(gone)


@pytest.mark.parametrize("how", ["options", "type"])
async def test_workflows_are_reset(client: Client, how: str) -> None:
    async with Worker(
        client,
        task_queue="q",
        workflows=[Quick],
        activities=[nothing],
        workflow_runner=UnsandboxedWorkflowRunner(),
    ):
        await start(client, 3, "Quick")
        before = {n: await client.get_workflow_handle(f"w-{n}").result() for n in range(3)}
        reset = batch.BatchOperationReset()
        if how == "options":
            reset.options.first_workflow_task.SetInParent()
        else:
            reset.reset_type = reset_enums.RESET_TYPE_LAST_WORKFLOW_TASK
        found = await run_batch(
            client, "job", visibility_query="WorkflowType = 'Quick'", reset_operation=reset
        )
        assert (found.complete_operation_count, found.failure_operation_count) == (3, 0)
        for number in range(3):
            result = await client.get_workflow_handle(f"w-{number}").result()
            assert result != before[number]
    assert (await client.count_workflows()).count == 6


async def test_standalone_activities_are_terminated(client: Client) -> None:
    for number in range(3):
        await client.start_activity(
            "any", id=f"a-{number}", task_queue="q", start_to_close_timeout=timedelta(seconds=9)
        )
    found = await run_batch(
        client,
        "job",
        visibility_query="ActivityType = 'any'",
        terminate_activities_operation=batch.BatchOperationTerminateActivities(reason="enough"),
    )
    assert found.complete_operation_count == 3
    assert (await client.count_activities("ExecutionStatus = 'Terminated'")).count == 3


async def test_a_batch_is_stopped(client: Client) -> None:
    await start(client, 20)
    request = ws.StartBatchOperationRequest(
        namespace="default",
        job_id="slow",
        reason="why",
        visibility_query="ExecutionStatus = 'Running'",
        max_operations_per_second=1,
    )
    request.signal_operation.signal = "hello"
    service = client.workflow_service
    await service.start_batch_operation(request)
    stop = ws.StopBatchOperationRequest(
        namespace="default", job_id="slow", reason="changed my mind"
    )
    await service.stop_batch_operation(stop)
    found = await describe(client, "slow")
    assert found.state == batch_enums.BATCH_OPERATION_STATE_FAILED
    with pytest.raises(RPCError) as again:
        await service.stop_batch_operation(stop)
    assert again.value.status is RPCStatusCode.NOT_FOUND
    listed = await service.list_batch_operations(ws.ListBatchOperationsRequest(namespace="default"))
    assert [info.job_id for info in listed.operation_info] == ["slow"]
    with pytest.raises(RPCError) as twice:
        await service.start_batch_operation(request)
    assert twice.value.status is RPCStatusCode.ALREADY_EXISTS


async def test_a_batch_goes_on_after_a_kill_and_signals_once(server_process: ServerProcess) -> None:
    server_process.start()
    client = await Client.connect(server_process.address)
    await start(client, 300)
    request = ws.StartBatchOperationRequest(
        namespace="default",
        job_id="job",
        reason="why",
        visibility_query="WorkflowId STARTS_WITH 'w-'",
        max_operations_per_second=150,
    )
    request.signal_operation.signal = "hello"
    await client.workflow_service.start_batch_operation(request)
    for _ in range(2):
        await asyncio.sleep(0.5)
        await asyncio.to_thread(server_process.kill)
        await asyncio.to_thread(server_process.start)
    found = await ended(client, "job")
    assert found.complete_operation_count == 300
    for number in range(300):
        history = await client.get_workflow_handle(f"w-{number}").fetch_history()
        signals = [
            e for e in history.events if e.HasField("workflow_execution_signaled_event_attributes")
        ]
        assert len(signals) == 1


async def test_the_command_line_starts_and_shows_batches(
    server: Server, client: Client, tmp_path: Path
) -> None:
    await start(client, 3)
    cli = Cli(server.address, tmp_path)
    query = ("--query", "WorkflowId STARTS_WITH 'w-'", "--reason", "enough", "--yes")
    said = await cli.json("workflow", "terminate", *query)
    job_id = said["batchJobId"]
    await ended(client, job_id)
    shown = await cli.json("batch", "describe", "--job-id", job_id)
    assert shown["completeOperationCount"] == "3"
    assert job_id in await cli.text("batch", "list")
    assert await statuses(client) == [WorkflowExecutionStatus.TERMINATED] * 3


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"visibility_query": "NoSuch = 1"},
        {"visibility_query": "WorkflowId = 'w'", "executions": [{"workflow_id": "w"}]},
        {"executions": [{"workflow_id": ""}]},
    ],
)
async def test_bad_input_starts_nothing(client: Client, fields: dict[str, Any]) -> None:
    request = ws.StartBatchOperationRequest(
        namespace="default", job_id="job", reason="why", **fields
    )
    request.termination_operation.SetInParent()
    with pytest.raises(RPCError) as refused:
        await client.workflow_service.start_batch_operation(request)
    assert refused.value.status is RPCStatusCode.INVALID_ARGUMENT
    listed = await client.workflow_service.list_batch_operations(
        ws.ListBatchOperationsRequest(namespace="default")
    )
    assert not listed.operation_info
