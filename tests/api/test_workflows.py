"""Workflows as an SDK user meets them, against a real server on a real port."""

import asyncio
import uuid
from datetime import timedelta
from typing import Any

import pytest
from temporalio import activity, workflow
from temporalio.api.common.v1 import message_pb2 as common
from temporalio.api.enums.v1 import workflow_pb2 as workflow_enums
from temporalio.api.workflowservice.v1 import request_response_pb2 as ws
from temporalio.client import (
    Client,
    WorkflowContinuedAsNewError,
    WorkflowExecutionStatus,
    WorkflowFailureError,
    WorkflowHistory,
    WorkflowQueryRejectedError,
)
from temporalio.common import (
    QueryRejectCondition,
    RetryPolicy,
    WorkflowIDConflictPolicy,
    WorkflowIDReusePolicy,
)
from temporalio.exceptions import (
    ActivityError,
    ApplicationError,
    CancelledError,
    ChildWorkflowError,
    TimeoutError,
    WorkflowAlreadyStartedError,
)
from temporalio.service import RPCError, RPCStatusCode
from temporalio.worker import Replayer, UnsandboxedWorkflowRunner, Worker
from temporalio.workflow import ParentClosePolicy

import durably
from tests.conftest import eventually
from tests.crash import rules

FAST = RetryPolicy(initial_interval=timedelta(milliseconds=10), maximum_attempts=3)
UNTIL_DONE = RetryPolicy(initial_interval=timedelta(milliseconds=10))


@activity.defn
async def echo(value: Any) -> Any:
    return value


@activity.defn
async def fail_until(attempt: int) -> int:
    info = activity.info()
    if info.attempt < attempt:
        raise ApplicationError("not yet", type="NotYet")
    return info.attempt


@activity.defn
async def fail_for_good() -> None:
    raise ApplicationError("never", type="Never", non_retryable=True)


@activity.defn
async def count_on(upto: int) -> int:
    """Each attempt counts one further than the last one said, and then stops without a word."""
    said = activity.info().heartbeat_details
    number = int(said[0]) if said else 0
    if number < upto:
        # The first heartbeat of an attempt is sent at once; later ones the SDK may hold back.
        activity.heartbeat(number + 1)
        await asyncio.sleep(60)
    return number


@activity.defn
async def wait_for_cancel() -> None:
    while True:
        activity.heartbeat()
        await asyncio.sleep(0.05)


@activity.defn
async def complete_later() -> str:
    activity.raise_complete_async()


@workflow.defn
class Acts:
    """Runs one activity by name."""

    @workflow.run
    async def run(self, name: str, args: list[Any]) -> Any:
        return await workflow.execute_activity(
            name,
            args=args,
            start_to_close_timeout=timedelta(seconds=10),
            heartbeat_timeout=timedelta(seconds=1) if name == "count_on" else None,
            retry_policy=UNTIL_DONE if name == "count_on" else FAST,
        )


@workflow.defn
class Slow:
    """An activity that nobody performs, or that takes too long."""

    @workflow.run
    async def run(self, kind: str) -> None:
        if kind == "schedule_to_start":
            await workflow.execute_activity(
                "echo",
                1,
                task_queue="nobody",
                schedule_to_start_timeout=timedelta(milliseconds=200),
                start_to_close_timeout=timedelta(seconds=9),
            )
        elif kind == "start_to_close":
            await workflow.execute_activity(
                "wait_for_cancel",
                start_to_close_timeout=timedelta(milliseconds=200),
                retry_policy=RetryPolicy(maximum_attempts=1),
            )
        else:
            await workflow.execute_activity(
                "wait_for_cancel",
                schedule_to_close_timeout=timedelta(milliseconds=300),
            )


@workflow.defn
class Cancels:
    @workflow.run
    async def run(self) -> str:
        handle = workflow.start_activity(
            wait_for_cancel,
            start_to_close_timeout=timedelta(seconds=30),
            heartbeat_timeout=timedelta(seconds=5),
            cancellation_type=workflow.ActivityCancellationType.WAIT_CANCELLATION_COMPLETED,
        )
        await workflow.sleep(0.3)
        handle.cancel()
        try:
            await handle
        except ActivityError as error:
            return "cancelled" if isinstance(error.cause, CancelledError) else "failed"
        return "finished"


@workflow.defn
class Box:
    """Keeps what it is sent; ends when it is told to."""

    def __init__(self) -> None:
        self.items: list[Any] = []
        self.done = False

    @workflow.run
    async def run(self, *args: Any) -> list[Any]:
        await workflow.wait_condition(lambda: self.done)
        return self.items

    @workflow.signal
    def put(self, item: Any) -> None:
        self.items.append(item)

    @workflow.signal
    def finish(self) -> None:
        self.done = True

    @workflow.query
    def look(self) -> list[Any]:
        return self.items

    @workflow.update
    async def swap(self, item: Any) -> Any:
        former = self.items.pop() if self.items else None
        self.items.append(item)
        return former


@workflow.defn
class Fails:
    @workflow.run
    async def run(self, until: int) -> int:
        if workflow.info().attempt < until:
            raise ApplicationError("again", type="Again")
        return workflow.info().attempt


@workflow.defn
class Counts:
    """Continues as new until zero."""

    @workflow.run
    async def run(self, number: int) -> str:
        if number:
            workflow.continue_as_new(number - 1)
        return workflow.info().first_execution_run_id or "?"


@workflow.defn
class Parent:
    """Starts a Box as a child and ends in a way of choice."""

    @workflow.run
    async def run(self, child_id: str, policy: int, end: str) -> str:
        handle = await workflow.start_child_workflow(
            Box.run, id=child_id, parent_close_policy=ParentClosePolicy(policy)
        )
        if end == "return":
            return "left"
        await handle.signal(Box.put, "from parent")
        other = workflow.get_external_workflow_handle(child_id)
        await other.signal(Box.put, "from outside")
        if end == "cancel":
            await other.cancel()
        else:
            await other.signal(Box.finish)
        try:
            return str(await handle)
        except ChildWorkflowError as error:
            return type(error.cause).__name__


@workflow.defn
class RetriesItsChild:
    @workflow.run
    async def run(self) -> int:
        return await workflow.execute_child_workflow(Fails.run, 3, retry_policy=FAST)


@workflow.defn
class Local:
    @workflow.run
    async def run(self) -> int:
        first = await workflow.execute_local_activity(
            fail_until, 2, start_to_close_timeout=timedelta(seconds=5), retry_policy=FAST
        )
        if workflow.patched("new"):
            await workflow.sleep(0.01)
        workflow.upsert_memo({"colour": "blue"})
        return first


WORKFLOWS = [Acts, Slow, Cancels, Box, Fails, Counts, Parent, RetriesItsChild, Local]
ACTIVITIES = [echo, fail_until, fail_for_good, count_on, wait_for_cancel, complete_later]


def worker(client: Client) -> Worker:
    """Outside the SDK's sandbox: importing this module again for each workflow takes seconds."""
    return Worker(
        client,
        task_queue="q",
        workflows=WORKFLOWS,
        activities=ACTIVITIES,
        workflow_runner=UnsandboxedWorkflowRunner(),
    )


def new_id() -> str:
    return f"w-{uuid.uuid4().hex[:8]}"


async def start(client: Client, run: Any, *args: Any, **options: Any) -> Any:
    options.setdefault("id", new_id())
    return await client.start_workflow(run, args=list(args), task_queue="q", **options)


async def check(client: Client, workflow_id: str, run_id: str | None = None) -> WorkflowHistory:
    """The history keeps the rules and replays."""
    found = await client.get_workflow_handle(workflow_id, run_id=run_id).fetch_history()
    rules.check(found.events)
    await Replayer(
        workflows=WORKFLOWS, workflow_runner=UnsandboxedWorkflowRunner()
    ).replay_workflow(found)
    return found


async def test_activities_are_retried_until_they_succeed(client: Client) -> None:
    async with worker(client):
        handle = await start(client, Acts.run, "fail_until", [3])
        assert await handle.result() == 3
        found = await check(client, handle.id)
    attempts = [
        e.activity_task_started_event_attributes.attempt
        for e in found.events
        if e.HasField("activity_task_started_event_attributes")
    ]
    assert attempts == [3]


async def test_activities_give_up(client: Client) -> None:
    async with worker(client):
        for name, args, kind in (("fail_until", [9], "NotYet"), ("fail_for_good", [], "Never")):
            handle = await start(client, Acts.run, name, args)
            with pytest.raises(WorkflowFailureError) as failed:
                await handle.result()
            cause = failed.value.cause
            assert isinstance(cause, ActivityError)
            assert isinstance(cause.cause, ApplicationError)
            assert cause.cause.type == kind
            await check(client, handle.id)


@pytest.mark.parametrize("kind", ["schedule_to_start", "start_to_close", "schedule_to_close"])
async def test_activities_time_out(client: Client, kind: str) -> None:
    async with worker(client):
        handle = await start(client, Slow.run, kind)
        with pytest.raises(WorkflowFailureError) as failed:
            await handle.result()
        cause = failed.value.cause
        assert isinstance(cause, ActivityError)
        assert isinstance(cause.cause, TimeoutError)
        assert cause.cause.type is not None
        assert cause.cause.type.name.lower() == kind
        await check(client, handle.id)


async def test_a_retry_goes_on_from_the_last_heartbeat(client: Client) -> None:
    async with worker(client):
        handle = await start(client, Acts.run, "count_on", [2])
        assert await handle.result() == 2
        await check(client, handle.id)


async def test_a_running_activity_hears_of_its_cancel(client: Client) -> None:
    async with worker(client):
        handle = await start(client, Cancels.run)
        assert await handle.result() == "cancelled"
        await check(client, handle.id)


async def test_an_activity_is_completed_from_elsewhere_by_id(client: Client) -> None:
    async with worker(client):
        handle = await start(client, Acts.run, "complete_later", [])

        async def is_pending() -> bool:
            return bool((await handle.describe()).raw_description.pending_activities)

        await eventually(is_pending)
        elsewhere = client.get_async_activity_handle(
            workflow_id=handle.id, run_id=None, activity_id="1"
        )
        await elsewhere.heartbeat("half")
        await elsewhere.complete("done elsewhere")
        assert await handle.result() == "done elsewhere"
        with pytest.raises(RPCError) as refused:
            await elsewhere.complete("again")
        assert refused.value.status is RPCStatusCode.NOT_FOUND


async def test_signals_queries_and_updates(client: Client) -> None:
    async with worker(client):
        handle = await start(client, Box.run)
        await handle.signal(Box.put, 1)
        assert await handle.query(Box.look) == [1]
        assert await handle.execute_update(Box.swap, 2) == 1
        assert await handle.query(Box.look) == [2]
        await handle.signal(Box.finish)
        assert await handle.result() == [2]
        assert await handle.query(Box.look) == [2]
        with pytest.raises(WorkflowQueryRejectedError):
            await handle.query(Box.look, reject_condition=QueryRejectCondition.NOT_OPEN)
        with pytest.raises(RPCError) as refused:
            await handle.signal(Box.put, 3)
        assert refused.value.status is RPCStatusCode.NOT_FOUND
        await check(client, handle.id)


async def test_a_query_waits_for_a_worker_that_is_about_to_start(client: Client) -> None:
    async with worker(client):
        handle = await start(client, Box.run)
        await handle.signal(Box.put, 1)
        assert await handle.query(Box.look) == [1]
    asked = asyncio.create_task(handle.query(Box.look))
    async with worker(client):
        assert await asked == [1]


async def test_a_query_is_told_in_the_end_that_there_is_no_worker() -> None:
    async with durably.Server(store="memory:", port=0, query_poller_unavailable_s=0.01) as server:
        client = await Client.connect(server.address)
        async with worker(client):
            handle = await start(client, Box.run)
            assert await handle.query(Box.look) == []
        with pytest.raises(RPCError) as refused:
            await handle.query(Box.look, rpc_timeout=timedelta(seconds=1.5))
        assert refused.value.status is RPCStatusCode.FAILED_PRECONDITION
        assert "no poller seen" in refused.value.message


async def test_a_query_waits_for_a_worker_that_has_left_a_moment_ago(client: Client) -> None:
    """It may come back: the caller's own limit decides, however short that is."""
    async with worker(client):
        handle = await start(client, Box.run)
        assert await handle.query(Box.look) == []
    with pytest.raises(RPCError) as refused:
        await handle.query(Box.look, rpc_timeout=timedelta(seconds=0.5))
    # The SDK's own clock may be the first to ring: then the call was cancelled by it.
    assert refused.value.status in (RPCStatusCode.DEADLINE_EXCEEDED, RPCStatusCode.CANCELLED)


async def test_a_signal_with_a_request_id_applies_once(client: Client) -> None:
    handle = await start(client, Box.run)
    signal = ws.SignalWorkflowExecutionRequest(
        namespace="default",
        workflow_execution=common.WorkflowExecution(workflow_id=handle.id),
        signal_name="put",
        request_id="once",
    )
    for _ in range(3):
        await client.workflow_service.signal_workflow_execution(signal)
    events = (await handle.fetch_history()).events
    assert rules.signals(events) == ["once"]


async def test_id_policies(client: Client) -> None:
    handle = await start(client, Box.run)
    with pytest.raises(WorkflowAlreadyStartedError):
        await start(client, Box.run, id=handle.id)
    same = await start(
        client, Box.run, id=handle.id, id_conflict_policy=WorkflowIDConflictPolicy.USE_EXISTING
    )
    assert same.result_run_id == handle.result_run_id
    other = await start(
        client,
        Box.run,
        id=handle.id,
        id_conflict_policy=WorkflowIDConflictPolicy.TERMINATE_EXISTING,
    )
    assert other.result_run_id != handle.result_run_id
    first = await client.get_workflow_handle(handle.id, run_id=handle.result_run_id).describe()
    assert first.status is WorkflowExecutionStatus.TERMINATED
    await other.terminate()
    with pytest.raises(WorkflowAlreadyStartedError):
        await start(
            client, Box.run, id=handle.id, id_reuse_policy=WorkflowIDReusePolicy.REJECT_DUPLICATE
        )
    again = await start(
        client,
        Box.run,
        id=handle.id,
        id_reuse_policy=WorkflowIDReusePolicy.ALLOW_DUPLICATE_FAILED_ONLY,
    )
    assert again.result_run_id


async def test_a_start_with_a_request_id_starts_once(client: Client) -> None:
    request = ws.StartWorkflowExecutionRequest(
        namespace="default",
        workflow_id=new_id(),
        workflow_type=common.WorkflowType(name="Box"),
        request_id="same",
    )
    request.task_queue.name = "q"
    first = await client.workflow_service.start_workflow_execution(request)
    second = await client.workflow_service.start_workflow_execution(request)
    assert first.run_id == second.run_id


async def test_of_many_starts_of_one_id_at_once_one_succeeds(client: Client) -> None:
    async def start() -> str | None:
        try:
            handle = await client.start_workflow("Any", id="one", task_queue="nobody")
        except WorkflowAlreadyStartedError as error:
            return error.run_id
        return handle.result_run_id

    runs = await asyncio.gather(*(start() for _ in range(60)), return_exceptions=True)
    assert len(set(runs)) == 1
    assert (await client.count_workflows()).count == 1


async def test_a_child_that_is_retried_reports_its_last_end_once(client: Client) -> None:
    async with worker(client):
        handle = await start(client, RetriesItsChild.run)
        assert await handle.result() == 3
    found = await check(client, handle.id)
    kinds = [event.WhichOneof("attributes") or "" for event in found.events]
    assert [k.removesuffix("_event_attributes") for k in kinds if "child" in k] == [
        "start_child_workflow_execution_initiated",
        "child_workflow_execution_started",
        "child_workflow_execution_completed",
    ]


async def test_signal_with_start(client: Client) -> None:
    async with worker(client):
        workflow_id = new_id()
        for item in (1, 2):
            handle = await start(
                client, Box.run, id=workflow_id, start_signal="put", start_signal_args=[item]
            )
        await handle.signal(Box.finish)
        assert await client.get_workflow_handle(workflow_id).result() == [1, 2]


async def test_workflows_are_retried(client: Client) -> None:
    async with worker(client):
        handle = await start(client, Fails.run, 3, retry_policy=FAST)
        assert await handle.result() == 3
        described = await client.get_workflow_handle(handle.id).describe()
        assert described.run_id != handle.result_run_id


async def test_continue_as_new_keeps_the_chain(client: Client) -> None:
    async with worker(client):
        handle = await start(client, Counts.run, 2)
        assert await handle.result() == handle.result_run_id
        with pytest.raises(WorkflowContinuedAsNewError):
            await handle.result(follow_runs=False)


async def test_a_cancel_that_comes_too_late_succeeds_and_changes_nothing(client: Client) -> None:
    async with worker(client):
        handle = await start(client, Fails.run, 1)
        await handle.result()
    before = await handle.fetch_history()
    await handle.cancel()
    assert (await handle.fetch_history()).events == before.events
    with pytest.raises(RPCError) as refused:
        await handle.terminate()
    assert refused.value.status is RPCStatusCode.NOT_FOUND


async def test_cancel_and_terminate(client: Client) -> None:
    async with worker(client):
        handle = await start(client, Box.run)
        await handle.cancel()
        await handle.cancel()
        with pytest.raises(WorkflowFailureError) as failed:
            await handle.result()
        assert isinstance(failed.value.cause, CancelledError)
        await check(client, handle.id)
        handle = await start(client, Box.run)
        await handle.terminate("enough")
        assert (await handle.describe()).status is WorkflowExecutionStatus.TERMINATED


@pytest.mark.parametrize(
    ("policy", "status"),
    [
        (ParentClosePolicy.TERMINATE, WorkflowExecutionStatus.TERMINATED),
        (ParentClosePolicy.REQUEST_CANCEL, WorkflowExecutionStatus.CANCELED),
        (ParentClosePolicy.ABANDON, WorkflowExecutionStatus.RUNNING),
    ],
)
async def test_parent_close_policies(
    client: Client, policy: ParentClosePolicy, status: WorkflowExecutionStatus
) -> None:
    async with worker(client):
        child_id = new_id()
        handle = await start(client, Parent.run, child_id, int(policy), "return")
        assert await handle.result() == "left"
        await check(client, handle.id)
        child = client.get_workflow_handle(child_id)
        if status is not WorkflowExecutionStatus.RUNNING:
            with pytest.raises(WorkflowFailureError):
                await child.result()
        assert (await child.describe()).status is status


@pytest.mark.parametrize(
    ("end", "result"),
    [("finish", "['from parent', 'from outside']"), ("cancel", "CancelledError")],
)
async def test_children_and_external_workflows(client: Client, end: str, result: str) -> None:
    async with worker(client):
        handle = await start(client, Parent.run, new_id(), 1, end)
        assert await handle.result() == result
        await check(client, handle.id)


async def test_local_activities_patches_and_memo(client: Client) -> None:
    async with worker(client):
        handle = await start(client, Local.run, memo={"size": 3})
        assert await handle.result() == 2
        assert await (await handle.describe()).memo() == {"size": 3, "colour": "blue"}
        await check(client, handle.id)


async def test_execution_timeouts_and_start_delay(client: Client) -> None:
    timed = await start(client, Box.run, execution_timeout=timedelta(milliseconds=300))
    with pytest.raises(WorkflowFailureError) as failed:
        await timed.result()
    assert isinstance(failed.value.cause, TimeoutError)
    delayed = await start(client, Box.run, start_delay=timedelta(milliseconds=300))
    events = (await delayed.fetch_history()).events
    assert len(events) == 1
    async with worker(client):
        await delayed.signal(Box.finish)
        await delayed.result()
    found = await check(client, delayed.id)
    first_task = found.events[2].event_time.ToNanoseconds()
    assert first_task - found.events[0].event_time.ToNanoseconds() >= 300_000_000


async def test_history_pages_forwards_and_backwards(client: Client) -> None:
    handle = await start(client, Box.run)
    for item in range(20):
        await handle.signal(Box.put, item)
    which = common.WorkflowExecution(workflow_id=handle.id)
    service = client.workflow_service
    forward: list[int] = []
    token = b""
    while True:
        page = await service.get_workflow_execution_history(
            ws.GetWorkflowExecutionHistoryRequest(
                namespace="default", execution=which, maximum_page_size=5, next_page_token=token
            )
        )
        forward += [event.event_id for event in page.history.events]
        token = page.next_page_token
        if not token:
            break
    assert forward == list(range(1, 23))
    backward: list[int] = []
    while True:
        reverse = await service.get_workflow_execution_history_reverse(
            ws.GetWorkflowExecutionHistoryReverseRequest(
                namespace="default", execution=which, maximum_page_size=5, next_page_token=token
            )
        )
        backward += [event.event_id for event in reverse.history.events]
        token = reverse.next_page_token
        if not token:
            break
    assert backward == forward[::-1]


async def test_a_long_poll_sees_new_events_and_the_close(client: Client) -> None:
    handle = await start(client, Box.run)
    request = ws.GetWorkflowExecutionHistoryRequest(
        namespace="default",
        execution=common.WorkflowExecution(workflow_id=handle.id),
        wait_new_event=True,
    )
    first = await client.workflow_service.get_workflow_execution_history(request)
    request.next_page_token = first.next_page_token
    waiting = asyncio.create_task(client.workflow_service.get_workflow_execution_history(request))
    await handle.signal(Box.put, 1)
    page = await waiting
    assert page.history.events[0].HasField("workflow_execution_signaled_event_attributes")
    request.next_page_token = b""
    request.history_event_filter_type = workflow_enums.HISTORY_EVENT_FILTER_TYPE_CLOSE_EVENT
    waiting = asyncio.create_task(client.workflow_service.get_workflow_execution_history(request))
    await handle.terminate()
    closed = await waiting
    assert [e.event_id for e in closed.history.events] == [4]


async def test_lists_counts_and_delete(client: Client) -> None:
    for _ in range(3):
        await start(client, Box.run)
    handle = await start(client, Box.run)
    await handle.terminate()
    running = [w.id async for w in client.list_workflows("ExecutionStatus = 'Running'")]
    assert len(running) == 3
    count = await client.count_workflows("GROUP BY ExecutionStatus")
    assert {str(g.group_values[0]): g.count for g in count.groups} == {
        "Running": 3,
        "Terminated": 1,
    }
    delete = ws.DeleteWorkflowExecutionRequest(
        namespace="default",
        workflow_execution=common.WorkflowExecution(workflow_id=running[0]),
    )
    await client.workflow_service.delete_workflow_execution(delete)
    assert (await client.count_workflows()).count == 3
    with pytest.raises(RPCError) as refused:
        await client.get_workflow_handle(running[0]).describe()
    assert refused.value.status is RPCStatusCode.NOT_FOUND


async def test_namespaces(client: Client) -> None:
    service = client.workflow_service
    request = ws.RegisterNamespaceRequest(namespace="team-a", description="A")
    request.workflow_execution_retention_period.FromSeconds(3600 * 48)
    await service.register_namespace(request)
    with pytest.raises(RPCError) as refused:
        await service.register_namespace(request)
    assert refused.value.status is RPCStatusCode.ALREADY_EXISTS
    described = await service.describe_namespace(ws.DescribeNamespaceRequest(namespace="team-a"))
    assert described.namespace_info.description == "A"
    assert described.config.workflow_execution_retention_ttl.seconds == 3600 * 48
    assert described.namespace_info.limits.blob_size_limit_error > 2 * 1024 * 1024
    listed = await service.list_namespaces(ws.ListNamespacesRequest())
    names = {n.namespace_info.name for n in listed.namespaces}
    assert {"default", "team-a"} <= names
    with pytest.raises(RPCError) as refused:
        await service.count_workflow_executions(
            ws.CountWorkflowExecutionsRequest(namespace="nowhere")
        )
    assert refused.value.status is RPCStatusCode.NOT_FOUND
