"""Activities that are executions of their own: started, worked on, watched and ended by clients."""

import asyncio
import uuid
from collections.abc import Awaitable, Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from google.protobuf.duration_pb2 import Duration
from google.protobuf.field_mask_pb2 import FieldMask
from temporalio import activity
from temporalio.api.activity.v1 import message_pb2 as activities
from temporalio.api.common.v1 import message_pb2 as common
from temporalio.api.enums.v1 import activity_pb2 as activity_enums
from temporalio.api.enums.v1 import workflow_pb2 as workflow_enums
from temporalio.api.failure.v1 import message_pb2 as failure
from temporalio.api.taskqueue.v1 import message_pb2 as taskqueue
from temporalio.api.workflowservice.v1 import request_response_pb2 as ws
from temporalio.client import ActivityFailureError, Client
from temporalio.common import (
    RetryPolicy,
    SearchAttributeKey,
    SearchAttributePair,
    TypedSearchAttributes,
)
from temporalio.exceptions import (
    ActivityAlreadyStartedError,
    ApplicationError,
    CancelledError,
    TerminatedError,
    TimeoutError,
)
from temporalio.service import RPCError, RPCStatusCode
from temporalio.worker import Worker

from durably import Server

TIMEOUT = timedelta(seconds=60)
RUNNING = activity_enums.ACTIVITY_EXECUTION_STATUS_RUNNING
PAUSED = activity_enums.ACTIVITY_EXECUTION_STATUS_PAUSED
STARTED = workflow_enums.PENDING_ACTIVITY_STATE_STARTED


@activity.defn
async def double(number: int) -> int:
    return number * 2


@activity.defn
async def third_time_lucky() -> str:
    if activity.info().attempt < 3:
        raise ApplicationError("not yet", type="NotYet")
    return f"attempt {activity.info().attempt}"


@activity.defn
async def until_canceled() -> None:
    while True:
        activity.heartbeat("alive")
        await asyncio.sleep(0.05)


def worker(client: Client, queue: str = "q") -> Worker:
    return Worker(
        client,
        task_queue=queue,
        activities=[double, third_time_lucky, until_canceled],
        default_heartbeat_throttle_interval=timedelta(milliseconds=50),
        max_heartbeat_throttle_interval=timedelta(milliseconds=50),
    )


class Raw:
    """One activity, and the calls about it as they are on the wire."""

    def __init__(self, client: Client) -> None:
        self.service = client.workflow_service
        self.id = f"a-{uuid.uuid4()}"
        self.which = {"namespace": "default", "activity_id": self.id}

    async def start(self, **options: Any) -> ws.StartActivityExecutionResponse:
        options.setdefault("start_to_close_timeout", Duration(seconds=60))
        request = ws.StartActivityExecutionRequest(
            **self.which,
            activity_type=common.ActivityType(name="work"),
            task_queue=taskqueue.TaskQueue(name=self.id),
            **options,
        )
        return await self.service.start_activity_execution(request)

    async def take(self) -> ws.PollActivityTaskQueueResponse:
        return await self.service.poll_activity_task_queue(
            ws.PollActivityTaskQueueRequest(
                namespace="default", task_queue=taskqueue.TaskQueue(name=self.id), identity="me"
            )
        )

    async def describe(self, **more: Any) -> ws.DescribeActivityExecutionResponse:
        return await self.service.describe_activity_execution(
            ws.DescribeActivityExecutionRequest(
                **self.which,
                include_input=True,
                include_outcome=True,
                include_heartbeat_details=True,
                include_last_failure=True,
                **more,
            )
        )

    async def outcome(self) -> activities.ActivityExecutionOutcome:
        request = ws.PollActivityExecutionRequest(**self.which)
        return (await self.service.poll_activity_execution(request)).outcome

    async def complete(self, task: ws.PollActivityTaskQueueResponse) -> None:
        await self.service.respond_activity_task_completed(
            ws.RespondActivityTaskCompletedRequest(
                namespace="default", task_token=task.task_token, result=payloads("out")
            )
        )

    async def fail(self, task: ws.PollActivityTaskQueueResponse, message: str) -> None:
        await self.service.respond_activity_task_failed(
            ws.RespondActivityTaskFailedRequest(
                namespace="default",
                task_token=task.task_token,
                failure=failure.Failure(
                    message=message, application_failure_info=failure.ApplicationFailureInfo()
                ),
            )
        )

    async def beat(
        self, task: ws.PollActivityTaskQueueResponse
    ) -> ws.RecordActivityTaskHeartbeatResponse:
        return await self.service.record_activity_task_heartbeat(
            ws.RecordActivityTaskHeartbeatRequest(
                namespace="default", task_token=task.task_token, details=payloads("beat")
            )
        )


def payloads(text: str) -> common.Payloads:
    return common.Payloads(
        payloads=[common.Payload(metadata={"encoding": b"json/plain"}, data=f'"{text}"'.encode())]
    )


async def refused(call: Awaitable[Any], status: RPCStatusCode, words: str) -> None:
    with pytest.raises(RPCError, match=words) as error:
        await call
    assert error.value.status is status


# --- Through the SDK --------------------------------------------------------------------------


async def test_result_retries_and_failure(client: Client) -> None:
    policy = RetryPolicy(initial_interval=timedelta(milliseconds=10))
    once = RetryPolicy(maximum_attempts=1)
    options: dict[str, Any] = {"task_queue": "q", "start_to_close_timeout": TIMEOUT}
    async with worker(client):
        assert await client.execute_activity(double, 21, id="d", **options) == 42
        lucky = await client.execute_activity(
            third_time_lucky, id="l", retry_policy=policy, **options
        )
        assert lucky == "attempt 3"
        with pytest.raises(ActivityFailureError) as failed:
            await client.execute_activity(third_time_lucky, id="f", retry_policy=once, **options)
    assert isinstance(failed.value.cause, ApplicationError)
    assert failed.value.cause.type == "NotYet"


async def test_a_cancel_reaches_the_worker_with_its_heartbeat(client: Client) -> None:
    async with worker(client):
        handle = await client.start_activity(
            until_canceled,
            id="c",
            task_queue="q",
            start_to_close_timeout=TIMEOUT,
            heartbeat_timeout=TIMEOUT,
        )
        await handle.cancel(reason="enough")
        with pytest.raises(ActivityFailureError) as failed:
            await handle.result()
    assert isinstance(failed.value.cause, CancelledError)


async def test_one_without_a_worker_is_canceled_or_terminated_at_once(client: Client) -> None:
    options: dict[str, Any] = {"task_queue": "nobody", "start_to_close_timeout": TIMEOUT}
    canceled = await client.start_activity(double, 1, id="c", **options)
    await canceled.cancel(reason="why not")
    with pytest.raises(ActivityFailureError) as failed:
        await canceled.result()
    assert isinstance(failed.value.cause, CancelledError)
    assert list(failed.value.cause.details) == ["why not"]
    terminated = await client.start_activity(double, 1, id="t", **options)
    await terminated.terminate(reason="enough")
    with pytest.raises(ActivityFailureError) as failed:
        await terminated.result()
    assert isinstance(failed.value.cause, TerminatedError)


async def test_the_id_names_one_activity(client: Client) -> None:
    options: dict[str, Any] = {"task_queue": "q", "start_to_close_timeout": TIMEOUT}
    first = await client.start_activity(double, 1, id="one", **options)
    with pytest.raises(ActivityAlreadyStartedError) as already:
        await client.start_activity(double, 1, id="one", **options)
    assert already.value.run_id == first.run_id
    async with worker(client):
        assert await first.result() == 2
        again = await client.start_activity(double, 5, id="one", **options)
        assert again.run_id != first.run_id
        assert await again.result() == 10
        assert await first.result() == 2
    latest = await client.get_activity_handle("one").describe()
    assert latest.activity_run_id == again.run_id


async def test_schedule_to_start_and_schedule_to_close_time_out(client: Client) -> None:
    waits = await client.start_activity(
        double,
        1,
        id="s",
        task_queue="nobody",
        start_to_close_timeout=TIMEOUT,
        schedule_to_start_timeout=timedelta(milliseconds=50),
    )
    closes = await client.start_activity(
        double, 1, id="c", task_queue="nobody", schedule_to_close_timeout=timedelta(milliseconds=50)
    )
    for handle in (waits, closes):
        with pytest.raises(ActivityFailureError) as failed:
            await handle.result()
        assert isinstance(failed.value.cause, TimeoutError)


async def test_the_namespace_announces_them(client: Client) -> None:
    described = await client.workflow_service.describe_namespace(
        ws.DescribeNamespaceRequest(namespace="default")
    )
    announced = described.namespace_info.capabilities
    assert announced.standalone_activities
    assert announced.standalone_activity_start_delay
    assert announced.standalone_activity_operator_commands


async def test_lists_and_counts_see_activities_and_no_workflows(tmp_path: Path) -> None:
    keyword = SearchAttributeKey.for_keyword("Colour")
    async with Server(store="memory:", port=0, search_attributes={"Colour": "Keyword"}) as server:
        client = await Client.connect(server.address)
        options: dict[str, Any] = {"task_queue": "q", "start_to_close_timeout": TIMEOUT}
        for number, colour in enumerate(("red", "red", "blue")):
            await client.start_activity(
                double,
                number,
                id=f"n-{number}",
                search_attributes=TypedSearchAttributes([SearchAttributePair(keyword, colour)]),
                **options,
            )
        await client.get_activity_handle("n-2").terminate()
        red = [a async for a in client.list_activities("Colour = 'red' AND ActivityType='double'")]
        assert {a.activity_id for a in red} == {"n-0", "n-1"}
        found = [a async for a in client.list_activities("ActivityId = 'n-2'")]
        assert found[0].status == activity_enums.ACTIVITY_EXECUTION_STATUS_TERMINATED
        assert found[0].typed_search_attributes[keyword] == "blue"
        counted = await client.count_activities("GROUP BY ExecutionStatus")
        groups = {g.group_values[0]: g.count for g in counted.groups}
        assert groups == {"Running": 2, "Terminated": 1}
        assert [w async for w in client.list_workflows()] == []


# --- On the wire ------------------------------------------------------------------------------


async def test_a_description_tells_the_whole_life(client: Client) -> None:
    raw = Raw(client)
    link = common.Link(
        workflow_event=common.Link.WorkflowEvent(namespace="default", workflow_id="w", run_id="r")
    )
    callback = common.Callback(nexus=common.Callback.Nexus(url="https://a.invalid/done"))
    await raw.start(
        input=payloads("in"),
        header=common.Header(fields={"h": common.Payload(data=b"x")}),
        priority=common.Priority(priority_key=2),
        links=[link],
        completion_callbacks=[callback],
    )
    shown = await raw.describe()
    assert shown.input == payloads("in")
    assert not shown.HasField("outcome")
    assert shown.info.run_state == workflow_enums.PENDING_ACTIVITY_STATE_SCHEDULED
    assert list(shown.info.links) == [link]
    assert shown.callbacks[0].info.callback == callback
    task = await raw.take()
    assert task.activity_run_id == shown.run_id
    assert task.HasField("workflow_execution")
    assert not task.workflow_execution.workflow_id
    assert (task.priority.priority_key, task.header.fields["h"].data) == (2, b"x")
    await raw.beat(task)
    shown = await raw.describe()
    assert (shown.info.status, shown.info.run_state) == (RUNNING, STARTED)
    assert shown.info.last_worker_identity == "me"
    assert shown.info.total_heartbeat_count == 1
    assert shown.info.heartbeat_details == payloads("beat")
    await raw.complete(task)
    shown = await raw.describe()
    assert shown.info.status == activity_enums.ACTIVITY_EXECUTION_STATUS_COMPLETED
    assert shown.outcome.result == payloads("out")
    assert await raw.outcome() == shown.outcome
    assert shown.info.HasField("close_time")


async def test_a_long_poll_of_the_description_answers_when_something_changes(
    client: Client,
) -> None:
    raw = Raw(client)
    run_id = (await raw.start()).run_id
    seen = (await raw.describe()).long_poll_token
    waiting = asyncio.ensure_future(raw.describe(run_id=run_id, long_poll_token=seen))
    task = await raw.take()
    changed = await waiting
    assert changed.info.run_state == STARTED
    waiting = asyncio.ensure_future(
        raw.describe(run_id=run_id, long_poll_token=changed.long_poll_token)
    )
    await raw.beat(task)
    assert (await waiting).info.total_heartbeat_count == 1
    bad = raw.describe(run_id=run_id, long_poll_token=b"nonsense")
    await refused(bad, RPCStatusCode.INVALID_ARGUMENT, "invalid long poll token")
    await refused(
        raw.describe(long_poll_token=seen), RPCStatusCode.INVALID_ARGUMENT, "run id is required"
    )


async def test_polls_that_outlast_the_limit_come_back_empty() -> None:
    async with Server(store="memory:", port=0, activity_poll_timeout_s=0.05) as server:
        raw = Raw(await Client.connect(server.address))
        run_id = (await raw.start()).run_id
        assert not (await raw.outcome()).WhichOneof("value")
        seen = (await raw.describe()).long_poll_token
        shown = await raw.describe(run_id=run_id, long_poll_token=seen)
        assert shown == ws.DescribeActivityExecutionResponse()


async def test_the_same_request_starts_and_attaches_once(client: Client) -> None:
    raw = Raw(client)
    use_existing = activity_enums.ACTIVITY_ID_CONFLICT_POLICY_USE_EXISTING
    first = await raw.start(request_id="r")
    again = await raw.start(request_id="r")
    assert first.started
    assert not again.started
    assert first.run_id == again.run_id == again.link.activity.run_id
    attaching: dict[str, Any] = {
        "request_id": "s",
        "id_conflict_policy": use_existing,
        "completion_callbacks": [
            common.Callback(nexus=common.Callback.Nexus(url="https://a.invalid/b"))
        ],
        "on_conflict_options": common.OnConflictOptions(
            attach_request_id=True, attach_completion_callbacks=True
        ),
    }
    assert (await raw.start(**attaching)).run_id == first.run_id
    await raw.start(**attaching)
    assert len((await raw.describe()).callbacks) == 1
    await raw.complete(await raw.take())
    assert (await raw.start(request_id="s")).run_id == first.run_id


async def test_reuse_policies_look_at_how_the_last_one_ended(client: Client) -> None:
    raw = Raw(client)
    await raw.start()
    await raw.complete(await raw.take())
    failed_only = activity_enums.ACTIVITY_ID_REUSE_POLICY_ALLOW_DUPLICATE_FAILED_ONLY
    never = activity_enums.ACTIVITY_ID_REUSE_POLICY_REJECT_DUPLICATE
    for policy in (failed_only, never):
        await refused(
            raw.start(id_reuse_policy=policy), RPCStatusCode.ALREADY_EXISTS, "already started"
        )
    assert (await raw.start()).started
    await raw.service.terminate_activity_execution(
        ws.TerminateActivityExecutionRequest(**raw.which)
    )
    assert (await raw.start(id_reuse_policy=failed_only)).started


async def test_an_ended_attempt_is_refused(client: Client) -> None:
    raw = Raw(client)
    await raw.start(retry_policy=common.RetryPolicy(maximum_attempts=1))
    task = await raw.take()
    await raw.fail(task, "broken")
    outcome = await raw.outcome()
    assert outcome.failure.message == "broken"
    assert outcome.retry_state == workflow_enums.RETRY_STATE_MAXIMUM_ATTEMPTS_REACHED
    await refused(raw.complete(task), RPCStatusCode.NOT_FOUND, "activity not found for ID")
    await refused(raw.beat(task), RPCStatusCode.NOT_FOUND, "activity not found for ID")


async def test_workers_may_answer_by_id(client: Client) -> None:
    raw = Raw(client)
    await raw.start()
    task = await raw.take()
    beat = ws.RecordActivityTaskHeartbeatByIdRequest(**raw.which, details=payloads("b"))
    await raw.service.record_activity_task_heartbeat_by_id(beat)
    canceled = ws.RespondActivityTaskCanceledRequest(
        namespace="default", task_token=task.task_token
    )
    await refused(
        raw.service.respond_activity_task_canceled(canceled),
        RPCStatusCode.INVALID_ARGUMENT,
        "without activity being request canceled",
    )
    cancel = ws.RequestCancelActivityExecutionRequest(**raw.which, request_id="c", reason="why")
    await raw.service.request_cancel_activity_execution(cancel)
    await raw.service.request_cancel_activity_execution(cancel)
    cancel.request_id = "d"
    await refused(
        raw.service.request_cancel_activity_execution(cancel),
        RPCStatusCode.FAILED_PRECONDITION,
        "cancellation already requested with request ID c",
    )
    assert (await raw.service.record_activity_task_heartbeat_by_id(beat)).cancel_requested
    await raw.service.respond_activity_task_canceled_by_id(
        ws.RespondActivityTaskCanceledByIdRequest(**raw.which, details=payloads("obeyed"))
    )
    shown = await raw.describe()
    assert shown.outcome.failure.canceled_failure_info.details == payloads("obeyed")
    assert shown.info.canceled_reason == "why"
    missing = ws.RespondActivityTaskCompletedByIdRequest(namespace="default", activity_id="none")
    await refused(
        raw.service.respond_activity_task_completed_by_id(missing),
        RPCStatusCode.NOT_FOUND,
        "activity not found for ID: none",
    )


async def test_terminate_and_delete(client: Client) -> None:
    raw = Raw(client)
    await raw.start()
    task = await raw.take()
    end = ws.TerminateActivityExecutionRequest(**raw.which, request_id="t", reason="why")
    await raw.service.terminate_activity_execution(end)
    await raw.service.terminate_activity_execution(end)
    end.request_id = "u"
    await refused(
        raw.service.terminate_activity_execution(end),
        RPCStatusCode.FAILED_PRECONDITION,
        "already terminated with request ID t",
    )
    await refused(raw.complete(task), RPCStatusCode.NOT_FOUND, "activity not found")
    await raw.service.delete_activity_execution(ws.DeleteActivityExecutionRequest(**raw.which))
    await refused(raw.describe(), RPCStatusCode.NOT_FOUND, "activity not found for ID")
    running = Raw(client)
    await running.start()
    await running.service.delete_activity_execution(
        ws.DeleteActivityExecutionRequest(**running.which)
    )
    await refused(running.outcome(), RPCStatusCode.NOT_FOUND, "activity not found for ID")


async def test_a_start_delay_is_waited_for(client: Client) -> None:
    raw = Raw(client)
    await raw.start(
        start_delay=Duration(seconds=3600), schedule_to_close_timeout=Duration(seconds=7200)
    )
    info = (await raw.describe()).info
    scheduled_ns = info.schedule_time.ToNanoseconds()
    assert info.next_attempt_schedule_time.ToNanoseconds() == scheduled_ns + 3600 * 10**9
    assert info.execution_time == info.next_attempt_schedule_time
    assert info.expiration_time.ToNanoseconds() == scheduled_ns + (3600 + 7200) * 10**9
    sooner = ws.UpdateActivityExecutionOptionsRequest(
        **raw.which,
        activity_options=activities.ActivityOptions(start_delay=Duration(nanos=1)),
        update_mask=FieldMask(paths=["start_delay"]),
    )
    await raw.service.update_activity_execution_options(sooner)
    task = await raw.take()
    assert task.attempt == 1
    await refused(
        raw.service.update_activity_execution_options(sooner),
        RPCStatusCode.FAILED_PRECONDITION,
        "already been dispatched",
    )


# --- Operators --------------------------------------------------------------------------------


async def test_pause_and_unpause(client: Client) -> None:
    raw = Raw(client)
    await raw.start()
    pause = ws.PauseActivityExecutionRequest(**raw.which, request_id="p")
    await raw.service.pause_activity_execution(pause)
    await raw.service.pause_activity_execution(pause)
    assert (await raw.describe()).info.status == PAUSED
    counted = await client.count_activities("ExecutionStatus = 'Paused'")
    assert counted.count == 1
    pause.request_id = "q"
    await refused(
        raw.service.pause_activity_execution(pause),
        RPCStatusCode.FAILED_PRECONDITION,
        "non-pausable state Paused",
    )
    unpause = ws.UnpauseActivityExecutionRequest(**raw.which, request_id="u")
    await raw.service.unpause_activity_execution(unpause)
    task = await raw.take()
    await raw.service.pause_activity_execution(pause)
    assert (await raw.beat(task)).activity_paused
    await raw.fail(task, "while paused")
    shown = (await raw.describe()).info
    assert (shown.status, shown.attempt) == (PAUSED, 2)
    assert (await client.count_activities("ExecutionStatus = 'Paused'")).count == 1


async def test_reset_and_new_options(client: Client) -> None:
    raw = Raw(client)
    await raw.start(retry_policy=common.RetryPolicy(initial_interval=Duration(seconds=3600)))
    await raw.fail(await raw.take(), "first")
    assert (await raw.describe()).info.current_retry_interval.seconds == 3600
    changed = await raw.service.update_activity_execution_options(
        ws.UpdateActivityExecutionOptionsRequest(
            **raw.which,
            activity_options=activities.ActivityOptions(
                start_to_close_timeout=Duration(seconds=7),
            ),
            update_mask=FieldMask(paths=["start_to_close_timeout"]),
        )
    )
    assert changed.activity_options.start_to_close_timeout.seconds == 7
    await raw.service.reset_activity_execution(ws.ResetActivityExecutionRequest(**raw.which))
    task = await raw.take()
    assert (task.attempt, task.start_to_close_timeout.seconds) == (1, 7)
    await raw.service.reset_activity_execution(ws.ResetActivityExecutionRequest(**raw.which))
    assert (await raw.beat(task)).activity_reset
    await raw.complete(task)
    for call, words in (
        (
            raw.service.reset_activity_execution(ws.ResetActivityExecutionRequest(**raw.which)),
            "activity execution is not running",
        ),
        (
            raw.service.pause_activity_execution(ws.PauseActivityExecutionRequest(**raw.which)),
            "non-pausable state Completed",
        ),
        (
            raw.service.unpause_activity_execution(ws.UnpauseActivityExecutionRequest(**raw.which)),
            "terminal state Completed",
        ),
    ):
        await refused(call, RPCStatusCode.FAILED_PRECONDITION, words)


# --- Failure paths ----------------------------------------------------------------------------


async def test_everything_is_there_after_a_restart(store_url: str) -> None:
    store = store_url
    async with Server(store=store, port=0) as server:
        client = await Client.connect(server.address)
        done, waits, runs = Raw(client), Raw(client), Raw(client)
        await done.start(input=payloads("in"))
        task = await done.take()
        await done.beat(task)
        await done.complete(task)
        before = await done.describe()
        await waits.start()
        await runs.start()
        running = await runs.take()
        await runs.beat(running)
    async with Server(store=store, port=0) as server:
        client = await Client.connect(server.address)
        done.service = waits.service = runs.service = client.workflow_service
        assert await done.describe() == before
        assert (await runs.describe()).info.total_heartbeat_count == 1
        await waits.complete(await waits.take())
        await runs.complete(running)
        for raw in (waits, runs):
            assert (await raw.outcome()).result == payloads("out")


Change = Callable[[ws.StartActivityExecutionRequest], None]


def _set(path: str, value: Any) -> Change:
    def change(request: Any) -> None:
        *parents, last = path.split(".")
        for name in parents:
            request = getattr(request, name)
        setattr(request, last, value)

    return change


BAD_STARTS: list[tuple[Change, str]] = [
    (_set("activity_id", ""), "activityId is not set"),
    (_set("activity_id", "x" * 1001), "activityId exceeds length limit. Length=1001 Limit=1000"),
    (_set("activity_type.name", ""), "activityType is not set"),
    (_set("task_queue.name", ""), "missing task queue name"),
    (_set("start_to_close_timeout.seconds", 0), "a valid StartToCloseTimeout"),
    (_set("start_to_close_timeout.seconds", -1), "invalid StartToCloseTimeout"),
    (_set("heartbeat_timeout.seconds", -1), "invalid HeartbeatTimeout"),
    (_set("start_delay.seconds", -1), "invalid StartDelay"),
    (_set("retry_policy.maximum_attempts", -1), "MaximumAttempts cannot be negative"),
    (_set("request_id", "x" * 1001), "request ID exceeds length limit"),
    (_set("identity", "x" * 1001), "identity exceeds length limit"),
    (_set("priority.priority_key", -1), "priority key can't be negative"),
    (_set("id_reuse_policy", 9), "unsupported ID reuse policy: 9"),
    (_set("id_conflict_policy", 9), "unsupported ID conflict policy: 9"),
    (lambda r: r.links.add(), "unsupported link variant"),
    (
        _set("on_conflict_options.attach_completion_callbacks", True),
        "attach_completion_callbacks requires attach_request_id",
    ),
    (_set("on_conflict_options.attach_request_id", True), "requires at least one"),
]


async def test_bad_starts_are_refused_and_change_nothing(client: Client) -> None:
    for change, words in BAD_STARTS:
        request = ws.StartActivityExecutionRequest(
            namespace="default",
            activity_id="bad",
            activity_type=common.ActivityType(name="work"),
            task_queue=taskqueue.TaskQueue(name="q"),
            start_to_close_timeout=Duration(seconds=1),
        )
        change(request)
        call = client.workflow_service.start_activity_execution(request)
        await refused(call, RPCStatusCode.INVALID_ARGUMENT, words)
    assert (await client.count_activities()).count == 0


async def test_calls_about_no_activity_are_refused(client: Client) -> None:
    service: Any = client.workflow_service
    for name, kind in (
        ("describe_activity_execution", ws.DescribeActivityExecutionRequest),
        ("poll_activity_execution", ws.PollActivityExecutionRequest),
        ("request_cancel_activity_execution", ws.RequestCancelActivityExecutionRequest),
        ("terminate_activity_execution", ws.TerminateActivityExecutionRequest),
        ("delete_activity_execution", ws.DeleteActivityExecutionRequest),
        ("pause_activity_execution", ws.PauseActivityExecutionRequest),
        ("unpause_activity_execution", ws.UnpauseActivityExecutionRequest),
        ("reset_activity_execution", ws.ResetActivityExecutionRequest),
    ):
        call, request = getattr(service, name), kind(namespace="default")
        await refused(call(request), RPCStatusCode.INVALID_ARGUMENT, "activity ID is required")
        request.activity_id = "none"
        await refused(call(request), RPCStatusCode.NOT_FOUND, "activity not found for ID: none")
        request.run_id = "no uuid"
        await refused(call(request), RPCStatusCode.INVALID_ARGUMENT, "invalid run id")
        request.run_id = ""
    query = ws.CountActivityExecutionsRequest(namespace="default", query="HowNice = 1")
    await refused(
        service.count_activity_executions(query), RPCStatusCode.INVALID_ARGUMENT, "HowNice"
    )
