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
from temporalio.api.enums.v1 import common_pb2 as enums
from temporalio.api.enums.v1 import reset_pb2 as reset_enums
from temporalio.api.operatorservice.v1 import request_response_pb2 as operator
from temporalio.api.workflow.v1 import message_pb2 as workflow_messages
from temporalio.api.workflowservice.v1 import request_response_pb2 as ws
from temporalio.client import Client, WorkflowExecutionStatus
from temporalio.common import SearchAttributeKey, SearchAttributePair, TypedSearchAttributes
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


@workflow.defn
class Twice:
    """Ends after two signals."""

    def __init__(self) -> None:
        self.signals = 0

    @workflow.run
    async def run(self) -> None:
        await workflow.wait_condition(lambda: self.signals >= 2)

    @workflow.signal
    def go(self) -> None:
        self.signals += 1


@workflow.defn
class Waits:
    """For an activity whose queue nobody polls."""

    @workflow.run
    async def run(self) -> None:
        await workflow.execute_activity(
            nothing, task_queue="nowhere", start_to_close_timeout=timedelta(seconds=9)
        )


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
    assert found.operation_type == batch_enums.BATCH_OPERATION_TYPE_TERMINATE_WORKFLOW
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


async def test_what_has_closed_is_left_alone(client: Client) -> None:
    await start(client, 3)
    await client.get_workflow_handle("w-0").terminate()
    signal = batch.BatchOperationSignal(signal="hello")
    found = await run_batch(
        client, "job", visibility_query="WorkflowId STARTS_WITH 'w-'", signal_operation=signal
    )
    assert (found.total_operation_count, found.complete_operation_count) == (2, 2)


async def test_workflows_are_reset_to_where_a_build_began(client: Client) -> None:
    for build in ("one", "two"):
        async with Worker(
            client,
            task_queue="q",
            workflows=[Twice],
            build_id=build,
            workflow_runner=UnsandboxedWorkflowRunner(),
        ):
            if build == "one":
                await start(client, 2, "Twice")
            for number in range(2):
                await client.get_workflow_handle(f"w-{number}").signal("go")
            if build == "two":
                for number in range(2):
                    await client.get_workflow_handle(f"w-{number}").result()
            else:
                await eventually(lambda: first_tasks_done(client, 2))
    reset = batch.BatchOperationReset(options=common.ResetOptions(build_id="two"))
    found = await run_batch(
        client, "job", visibility_query="WorkflowType = 'Twice'", reset_operation=reset
    )
    assert (found.complete_operation_count, found.failure_operation_count) == (2, 0)
    for number in range(2):
        history = await client.get_workflow_handle(f"w-{number}").fetch_history()
        taken_over = [
            e.workflow_task_completed_event_attributes.worker_version.build_id
            for e in history.events
            if e.HasField("workflow_task_completed_event_attributes")
        ]
        assert taken_over
        assert set(taken_over) == {"one"}
    reset.options.build_id = "three"
    found = await run_batch(
        client, "none", visibility_query="WorkflowType = 'Twice'", reset_operation=reset
    )
    assert found.complete_operation_count == 0
    assert found.failure_operation_count > 0


async def first_tasks_done(client: Client, count: int) -> bool:
    for number in range(count):
        history = await client.get_workflow_handle(f"w-{number}").fetch_history()
        signaled = [
            e.event_id
            for e in history.events
            if e.HasField("workflow_execution_signaled_event_attributes")
        ]
        completed = [
            e.event_id
            for e in history.events
            if e.HasField("workflow_task_completed_event_attributes")
        ]
        if not completed or completed[-1] < signaled[-1]:
            return False
    return True


async def test_activities_of_workflows_are_unpaused_reset_and_changed(client: Client) -> None:
    async with Worker(
        client,
        task_queue="q",
        workflows=[Waits],
        workflow_runner=UnsandboxedWorkflowRunner(),
    ):
        await start(client, 3, "Waits")

        async def scheduled() -> bool:
            return all([await pending(client, n) is not None for n in range(3)])

        await eventually(scheduled)
        for number in (0, 1):
            await client.workflow_service.pause_activity(
                ws.PauseActivityRequest(
                    namespace="default",
                    execution=common.WorkflowExecution(workflow_id=f"w-{number}"),
                    type="nothing",
                )
            )
        options = batch.BatchOperationUpdateActivityOptions(type="nothing")
        options.activity_options.task_queue.name = "elsewhere"
        options.update_mask.paths.append("task_queue.name")
        found = await run_batch(
            client,
            "options",
            visibility_query="WorkflowType = 'Waits'",
            update_activity_options_operation=options,
        )
        assert (found.complete_operation_count, found.failure_operation_count) == (3, 0)
        found = await run_batch(
            client,
            "unpause",
            visibility_query="TemporalPauseInfo = 'property:activityType=nothing'",
            unpause_activities_operation=batch.BatchOperationUnpauseActivities(type="nothing"),
        )
        assert found.complete_operation_count == 2
        found = await run_batch(
            client,
            "reset",
            visibility_query="WorkflowType = 'Waits'",
            reset_activities_operation=batch.BatchOperationResetActivities(match_all=True),
        )
        assert found.complete_operation_count == 3
        for number in range(3):
            shown = await pending(client, number)
            assert shown is not None
            assert not shown.paused
            assert shown.activity_options.task_queue.name == "elsewhere"


async def pending(client: Client, number: int) -> workflow_messages.PendingActivityInfo | None:
    found = await client.get_workflow_handle(f"w-{number}").describe()
    shown = found.raw_description.pending_activities
    return shown[0] if shown else None


async def test_a_stop_is_heard_at_once_and_what_was_done_counts(client: Client) -> None:
    await start(client, 20)
    request = ws.StartBatchOperationRequest(
        namespace="default",
        job_id="job",
        reason="why",
        visibility_query="ExecutionStatus = 'Running'",
        max_operations_per_second=10,
    )
    request.termination_operation.SetInParent()
    service = client.workflow_service
    await service.start_batch_operation(request)

    async def some_are_done() -> bool:
        return (await client.count_workflows("ExecutionStatus = 'Terminated'")).count > 1

    await eventually(some_are_done)
    await service.stop_batch_operation(
        ws.StopBatchOperationRequest(namespace="default", job_id="job", reason="enough")
    )

    async def counted() -> bool:
        return (await describe(client, "job")).complete_operation_count > 0

    await eventually(counted)
    ended = (await client.count_workflows("ExecutionStatus = 'Terminated'")).count
    assert (await describe(client, "job")).complete_operation_count == ended < 20
    await asyncio.sleep(0.5)
    assert (await client.count_workflows("ExecutionStatus = 'Terminated'")).count == ended


async def test_a_batch_whose_query_makes_no_sense_any_more_has_failed(client: Client) -> None:
    name = "Colour"
    await client.operator_service.add_search_attributes(
        operator.AddSearchAttributesRequest(
            namespace="default",
            search_attributes={name: enums.INDEXED_VALUE_TYPE_KEYWORD},
        )
    )
    for number in range(20):
        await client.start_workflow(
            "Any",
            id=f"w-{number}",
            task_queue="q",
            search_attributes=TypedSearchAttributes(
                [SearchAttributePair(SearchAttributeKey.for_keyword(name), "red")]
            ),
        )
    request = ws.StartBatchOperationRequest(
        namespace="default",
        job_id="job",
        reason="why",
        visibility_query=f"{name} = 'red'",
        max_operations_per_second=5,
    )
    request.signal_operation.signal = "hello"
    await client.workflow_service.start_batch_operation(request)
    await client.operator_service.remove_search_attributes(
        operator.RemoveSearchAttributesRequest(namespace="default", search_attributes=[name])
    )
    found = await ended(client, "job")
    assert found.state == batch_enums.BATCH_OPERATION_STATE_FAILED


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


async def test_what_is_done_to_ids_counts_once_through_kills(
    server_process: ServerProcess,
) -> None:
    server_process.start()
    client = await Client.connect(server_process.address)
    await start(client, 200)
    request = ws.StartBatchOperationRequest(
        namespace="default",
        job_id="job",
        reason="why",
        executions=[common.WorkflowExecution(workflow_id=f"w-{n}") for n in range(200)],
        max_operations_per_second=80,
    )
    request.termination_operation.SetInParent()
    await client.workflow_service.start_batch_operation(request)
    for _ in range(3):
        await asyncio.sleep(0.4)
        await asyncio.to_thread(server_process.kill)
        await asyncio.to_thread(server_process.start)
    found = await ended(client, "job")
    assert (found.total_operation_count, found.complete_operation_count) == (200, 200)
    assert await statuses(client) == [WorkflowExecutionStatus.TERMINATED] * 200


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
    await start(client, 20, prefix="slow")
    query = ("--query", "WorkflowId STARTS_WITH 'slow'", "--reason", "enough", "--yes")
    said = await cli.json("workflow", "cancel", *query, "--rps", "1")
    job_id = said["batchJobId"]
    await cli.text("batch", "terminate", "--job-id", job_id, "--reason", "changed my mind")
    shown = await cli.json("batch", "describe", "--job-id", job_id)
    assert shown["state"] == "BATCH_OPERATION_STATE_FAILED"


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"visibility_query": "NoSuch = 1"},
        {"visibility_query": "WorkflowId = 'w'", "executions": [{"workflow_id": "w"}]},
        {"executions": [{"workflow_id": ""}]},
        {"executions": [{"workflow_id": "w", "run_id": "not-a-uuid"}]},
        {
            "visibility_query": "WorkflowId = 'w'",
            "update_activity_options_operation": {"match_all": True},
        },
        {
            "visibility_query": "WorkflowId = 'w'",
            "reset_operation": {"reset_type": 1, "post_reset_operations": [{}]},
        },
    ],
)
async def test_bad_input_starts_nothing(client: Client, fields: dict[str, Any]) -> None:
    request = ws.StartBatchOperationRequest(
        namespace="default", job_id="job", reason="why", **fields
    )
    if request.WhichOneof("operation") is None:
        request.termination_operation.SetInParent()
    with pytest.raises(RPCError) as refused:
        await client.workflow_service.start_batch_operation(request)
    assert refused.value.status is RPCStatusCode.INVALID_ARGUMENT
    listed = await client.workflow_service.list_batch_operations(
        ws.ListBatchOperationsRequest(namespace="default")
    )
    assert not listed.operation_info
