"""Schedules as an SDK user meets them, against a real server on a real port."""

import uuid
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from google.protobuf.duration_pb2 import Duration
from temporalio import workflow
from temporalio.api.common.v1 import message_pb2 as common
from temporalio.api.schedule.v1 import message_pb2 as schedules
from temporalio.api.taskqueue.v1 import message_pb2 as taskqueue
from temporalio.api.workflow.v1 import message_pb2 as workflow_messages
from temporalio.api.workflowservice.v1 import request_response_pb2 as ws
from temporalio.client import (
    Client,
    Schedule,
    ScheduleActionExecutionStartWorkflow,
    ScheduleActionStartWorkflow,
    ScheduleAlreadyRunningError,
    ScheduleBackfill,
    ScheduleDescription,
    ScheduleHandle,
    ScheduleIntervalSpec,
    ScheduleOverlapPolicy,
    SchedulePolicy,
    ScheduleSpec,
    ScheduleState,
    ScheduleUpdate,
    WorkflowExecutionStatus,
)
from temporalio.common import (
    RetryPolicy,
    SearchAttributeKey,
    SearchAttributePair,
    TypedSearchAttributes,
)
from temporalio.exceptions import ApplicationError
from temporalio.service import RPCError, RPCStatusCode
from temporalio.worker import UnsandboxedWorkflowRunner, Worker

from durably import Server
from durably.engine.schedule import machine
from tests.conftest import eventually

QUEUE = "scheduled"
TEAM = SearchAttributeKey.for_keyword("Team")
LONG_AGO = datetime(2020, 1, 20, 5, tzinfo=UTC)


@workflow.defn
class Chain:
    """Continues as new once, and only then ends; its result tells what it was given."""

    @workflow.run
    async def run(self, rounds: int, last: str = "") -> str:
        last = last or workflow.get_last_completion_result(type_hint=str) or "nothing"
        if rounds:
            workflow.continue_as_new(args=[rounds - 1, last])
        return f"{last} and more"


@workflow.defn
class Failing:
    @workflow.run
    async def run(self) -> None:
        raise ApplicationError("no", non_retryable=workflow.info().attempt > 1)


@workflow.defn
class UntilTold:
    def __init__(self) -> None:
        self.told = False

    @workflow.signal
    def go(self) -> None:
        self.told = True

    @workflow.run
    async def run(self) -> None:
        await workflow.wait_condition(lambda: self.told)


@pytest.fixture
async def working(client: Client) -> AsyncIterator[Client]:
    async with Worker(
        client,
        task_queue=QUEUE,
        workflows=[Chain, Failing, UntilTold],
        workflow_runner=UnsandboxedWorkflowRunner(),
    ):
        yield client


def action(name: str, *args: Any, **options: Any) -> ScheduleActionStartWorkflow:
    return ScheduleActionStartWorkflow(
        name, args=args, id=f"w-{uuid.uuid4()}", task_queue=QUEUE, **options
    )


async def create(client: Client, what: ScheduleActionStartWorkflow, **parts: Any) -> ScheduleHandle:
    options = {key: parts.pop(key) for key in ("trigger_immediately", "backfill") if key in parts}
    parts.setdefault("spec", ScheduleSpec())
    return await client.create_schedule(f"s-{uuid.uuid4()}", Schedule(what, **parts), **options)


async def described(
    handle: ScheduleHandle, condition: Any, seconds: float = 30.0
) -> ScheduleDescription:
    """The description once it is as wanted."""
    found: list[ScheduleDescription] = []

    async def wanted() -> bool:
        found.append(await handle.describe())
        return bool(condition(found[-1]))

    await eventually(wanted, seconds)
    return found[-1]


def started(description: ScheduleDescription) -> list[ScheduleActionExecutionStartWorkflow]:
    executions = [result.action for result in description.info.recent_actions]
    assert all(isinstance(each, ScheduleActionExecutionStartWorkflow) for each in executions)
    return executions  # type: ignore[return-value]


# --- What is started --------------------------------------------------------------------------


async def test_an_interval_starts_workflows_named_after_their_times(working: Client) -> None:
    every_second = ScheduleSpec(intervals=[ScheduleIntervalSpec(timedelta(seconds=1))])
    handle = await create(working, action("Chain", 0), spec=every_second)
    description = await described(handle, lambda d: d.info.num_actions >= 2)
    await handle.delete()
    first = started(description)[0]
    info = await working.get_workflow_handle(first.workflow_id).describe()
    attributes = info.typed_search_attributes
    by_id = SearchAttributeKey.for_keyword("TemporalScheduledById")
    at = SearchAttributeKey.for_datetime("TemporalScheduledStartTime")
    assert attributes[by_id] == handle.id
    time = attributes[at].strftime("%Y-%m-%dT%H:%M:%SZ")
    assert first.workflow_id.endswith(f"-{time}")
    assert description.info.recent_actions[0].scheduled_at == attributes[at]
    listed = [w.id async for w in working.list_workflows(f"TemporalScheduledById = '{handle.id}'")]
    assert {each.workflow_id for each in started(description)} <= set(listed)


async def test_results_go_from_one_to_the_next_through_continue_as_new(working: Client) -> None:
    handle = await create(working, action("Chain", 1), trigger_immediately=True)
    for count in (1, 2, 3):
        description = await described(handle, lambda d, n=count: d.info.num_actions == n)
        last = started(description)[-1]
        await working.get_workflow_handle(last.workflow_id).result()
        await described(handle, lambda d: not d.info.running_actions)
        if count < 3:
            await handle.trigger()
    result = await working.get_workflow_handle(last.workflow_id).result()
    assert result == "nothing and more and more and more"


async def test_the_whole_retry_chain_must_fail_to_pause(working: Client) -> None:
    handle = await create(
        working,
        action("Failing", retry_policy=RetryPolicy(initial_interval=timedelta(milliseconds=10))),
        policy=SchedulePolicy(pause_on_failure=True),
        trigger_immediately=True,
    )
    description = await described(handle, lambda d: d.schedule.state.paused)
    failed = started(description)[0]
    assert description.schedule.state.note == (
        f"paused due to workflow failure: {failed.workflow_id}: no"
    )
    info = await working.get_workflow_handle(failed.workflow_id).describe()
    assert info.raw_info.execution.run_id != failed.first_execution_run_id
    assert info.status == WorkflowExecutionStatus.FAILED


@pytest.mark.parametrize(
    ("overlap", "status"),
    [
        (ScheduleOverlapPolicy.CANCEL_OTHER, WorkflowExecutionStatus.CANCELED),
        (ScheduleOverlapPolicy.TERMINATE_OTHER, WorkflowExecutionStatus.TERMINATED),
    ],
)
async def test_what_runs_makes_way(
    working: Client, overlap: ScheduleOverlapPolicy, status: WorkflowExecutionStatus
) -> None:
    policy = SchedulePolicy(overlap=overlap)
    handle = await create(working, action("UntilTold"), policy=policy, trigger_immediately=True)
    first = started(await handle.describe())[0]
    await handle.trigger()
    description = await described(handle, lambda d: d.info.num_actions == 2)
    assert len(description.info.running_actions) == 1
    run_id = first.first_execution_run_id
    ended = await working.get_workflow_handle(first.workflow_id, run_id=run_id).describe()
    assert ended.status == status
    raw = description.raw_description.info.recent_actions[0]
    assert raw.start_workflow_status == int(status)


async def test_buffered_actions_wait_for_the_one_that_runs(working: Client) -> None:
    handle = await create(
        working,
        action("UntilTold"),
        spec=ScheduleSpec(intervals=[ScheduleIntervalSpec(timedelta(minutes=1))]),
        state=ScheduleState(paused=True),
        backfill=[
            ScheduleBackfill(
                LONG_AGO, LONG_AGO + timedelta(minutes=2), ScheduleOverlapPolicy.BUFFER_ALL
            )
        ],
    )
    for count in (1, 2, 3):
        description = await described(handle, lambda d, n=count: d.info.num_actions == n)
        assert description.raw_description.info.buffer_size == 3 - count
        current = started(description)[-1]
        minute = LONG_AGO + timedelta(minutes=count - 1)
        assert current.workflow_id.endswith(minute.strftime("-%Y-%m-%dT%H:%M:%SZ"))
        await working.get_workflow_handle(current.workflow_id).signal(UntilTold.go)
    await described(handle, lambda d: not d.info.running_actions)


async def test_an_id_that_is_taken_is_skipped_and_the_schedule_goes_on(working: Client) -> None:
    what = action("UntilTold")
    taken = f"{what.id}-2020-01-20T05:00:00Z"
    await working.start_workflow(UntilTold.run, id=taken, task_queue=QUEUE)
    handle = await create(
        working,
        what,
        spec=ScheduleSpec(intervals=[ScheduleIntervalSpec(timedelta(minutes=1))]),
        state=ScheduleState(paused=True),
        backfill=[
            ScheduleBackfill(
                LONG_AGO, LONG_AGO + timedelta(minutes=1), ScheduleOverlapPolicy.BUFFER_ALL
            )
        ],
    )
    description = await described(handle, lambda d: d.info.num_actions == 1)
    assert started(description)[0].workflow_id == f"{what.id}-2020-01-20T05:01:00Z"


async def test_a_kept_workflow_id(working: Client) -> None:
    request = creation(schedules.ScheduleSpec())
    request.schedule.policies.keep_original_workflow_id = True
    request.initial_patch.trigger_immediately.SetInParent()
    await working.workflow_service.create_schedule(request)
    handle = working.get_schedule_handle(request.schedule_id)
    description = await described(handle, lambda d: d.info.num_actions == 1)
    assert started(description)[0].workflow_id == "w"


async def test_the_end_of_a_deleted_workflow_is_heard_of(working: Client) -> None:
    handle = await create(working, action("UntilTold"), trigger_immediately=True)
    (first,) = started(await handle.describe())
    await working.workflow_service.delete_workflow_execution(
        ws.DeleteWorkflowExecutionRequest(
            namespace="default",
            workflow_execution=common.WorkflowExecution(workflow_id=first.workflow_id),
        )
    )
    description = (await handle.describe()).raw_description
    assert not description.info.running_workflows
    assert description.info.recent_actions[0].start_workflow_status == 5


# --- Restarts ---------------------------------------------------------------------------------


async def test_a_schedule_survives_a_restart_and_fires_nothing_twice(store_url: str) -> None:
    """Time stands still while the server is down, then jumps; the catch-up window decides."""
    store, now = store_url, [1_700_000_040_000_000_000]

    def minutes_pass(minutes: float) -> None:
        now[0] += int(minutes * 60e9)

    async with Server(store=store, port=0, clock=lambda: now[0]) as server:
        client = await Client.connect(server.address)
        handle = await create(
            client,
            action("UntilTold"),
            spec=ScheduleSpec(intervals=[ScheduleIntervalSpec(timedelta(minutes=1))]),
            policy=SchedulePolicy(
                overlap=ScheduleOverlapPolicy.ALLOW_ALL, catchup_window=timedelta(seconds=150)
            ),
        )
        running = await client.start_workflow("UntilTold", id="other", task_queue=QUEUE)
        before = (await handle.describe()).raw_description
    minutes_pass(10.5)
    async with Server(store=store, port=0, clock=lambda: now[0]) as server:
        client = await Client.connect(server.address)
        handle = client.get_schedule_handle(handle.id)
        description = await described(handle, lambda d: d.info.num_actions == 3)
        assert description.info.num_actions_missed_catchup_window == 7
        assert description.raw_description.schedule == before.schedule
        times = sorted(each.workflow_id[-9:] for each in started(description))
        assert times == ["22:22:00Z", "22:23:00Z", "22:24:00Z"]
    async with Server(store=store, port=0, clock=lambda: now[0]) as server:
        client = await Client.connect(server.address)
        again = (await client.get_schedule_handle(handle.id).describe()).raw_description
        assert again == description.raw_description
        listed = [entry.id async for entry in await client.list_schedules()]
        assert listed == [handle.id]
        count = await client.count_workflows()
        assert count.count == 4
        assert running.id == "other"


async def test_the_end_of_a_workflow_reaches_a_restarted_server(store_url: str) -> None:
    store = store_url
    async with Server(store=store, port=0) as server:
        client = await Client.connect(server.address)
        handle = await create(client, action("Chain", 2), trigger_immediately=True)
        (first,) = started(await handle.describe())
    async with Server(store=store, port=0) as server:
        client = await Client.connect(server.address)
        handle = client.get_schedule_handle(handle.id)
        assert (await handle.describe()).info.running_actions == [first]
        async with Worker(
            client,
            task_queue=QUEUE,
            workflows=[Chain],
            workflow_runner=UnsandboxedWorkflowRunner(),
        ):
            description = await described(handle, lambda d: not d.info.running_actions)
    assert description.raw_description.info.recent_actions[0].start_workflow_status == 2


async def test_a_long_life_leaves_no_journal_behind(
    store_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The journal of a schedule is cut at each snapshot, and loading gives the same state."""
    monkeypatch.setattr("durably.service.transact.SNAPSHOT_BYTES_MIN", 2_000)
    store = store_url
    async with Server(store=store, port=0) as server:
        client = await Client.connect(server.address)
        handle = await create(client, action("UntilTold"))
        for number in range(200):
            await handle.pause(note=f"note {number}")
        description = (await handle.describe()).raw_description
    async with Server(store=store, port=0) as server:
        client = await Client.connect(server.address)
        again = await client.get_schedule_handle(handle.id).describe()
        assert again.raw_description == description


# --- Definition -------------------------------------------------------------------------------


def creation(spec: schedules.ScheduleSpec, **parts: Any) -> ws.CreateScheduleRequest:
    start = workflow_messages.NewWorkflowExecutionInfo(
        workflow_id="w",
        workflow_type=common.WorkflowType(name="UntilTold"),
        task_queue=taskqueue.TaskQueue(name=QUEUE),
        **parts,
    )
    return ws.CreateScheduleRequest(
        namespace="default",
        schedule_id=f"s-{uuid.uuid4()}",
        request_id=str(uuid.uuid4()),
        schedule=schedules.Schedule(
            spec=spec, action=schedules.ScheduleAction(start_workflow=start)
        ),
    )


async def test_what_is_shown_is_canonical(client: Client) -> None:
    request = creation(schedules.ScheduleSpec(cron_string=["CRON_TZ=Asia/Tokyo 0 12 * * MON"]))
    token = (await client.workflow_service.create_schedule(request)).conflict_token
    shown = await client.workflow_service.describe_schedule(
        ws.DescribeScheduleRequest(namespace="default", schedule_id=request.schedule_id)
    )
    assert shown.conflict_token == token == b"\0\0\0\0\0\0\0\x01"
    assert shown.schedule.spec.timezone_name == "Asia/Tokyo"
    (calendar,) = shown.schedule.spec.structured_calendar
    assert calendar.day_of_week == [schedules.Range(start=1, end=1, step=1)]
    assert shown.schedule.policies.catchup_window == Duration(seconds=365 * 86_400)
    assert shown.schedule.policies.overlap_policy == 1
    assert len(shown.info.future_action_times) == 10
    assert {each.ToDatetime().hour for each in shown.info.future_action_times} == {3}
    assert not shown.HasField("memo")
    assert not shown.HasField("search_attributes")


async def test_the_same_request_creates_once(client: Client) -> None:
    request = creation(schedules.ScheduleSpec())
    first = await client.workflow_service.create_schedule(request)
    assert await client.workflow_service.create_schedule(request) == first
    request.request_id = "another"
    with pytest.raises(RPCError) as refused:
        await client.workflow_service.create_schedule(request)
    assert refused.value.status == RPCStatusCode.ALREADY_EXISTS
    assert refused.value.message == f'schedule "{request.schedule_id}" is already registered'


async def test_an_id_is_free_again_after_a_delete(working: Client) -> None:
    handle = await create(working, action("UntilTold"), trigger_immediately=True)
    (first,) = started(await handle.describe())
    await handle.delete()
    with pytest.raises(RPCError) as refused:
        await handle.describe()
    assert refused.value.status == RPCStatusCode.NOT_FOUND
    again = Schedule(action("UntilTold"), spec=ScheduleSpec())
    await working.create_schedule(handle.id, again)
    with pytest.raises(ScheduleAlreadyRunningError):
        await working.create_schedule(handle.id, again)
    # The workflow of the former schedule runs on, and its end is no business of the new one.
    workflow_handle = working.get_workflow_handle(first.workflow_id)
    await workflow_handle.signal(UntilTold.go)
    await workflow_handle.result()
    assert (await handle.describe()).info.num_actions == 0


async def test_an_update_with_an_old_token_is_refused(client: Client) -> None:
    handle = await create(client, action("UntilTold"))
    before = (await handle.describe()).raw_description
    await handle.pause(note="meanwhile")
    update = ws.UpdateScheduleRequest(
        namespace="default",
        schedule_id=handle.id,
        schedule=before.schedule,
        conflict_token=before.conflict_token,
    )
    with pytest.raises(RPCError) as refused:
        await client.workflow_service.update_schedule(update)
    assert refused.value.status == RPCStatusCode.FAILED_PRECONDITION
    assert (await handle.describe()).schedule.state.note == "meanwhile"
    update.conflict_token = b"nonsense?"
    with pytest.raises(RPCError):
        await client.workflow_service.update_schedule(update)
    update.ClearField("conflict_token")
    update.memo.fields["key"].data = b"value"
    await client.workflow_service.update_schedule(update)
    after = (await handle.describe()).raw_description
    assert not after.schedule.state.paused
    assert after.memo.fields["key"].data == b"value"
    assert after.info.HasField("update_time")


async def test_an_update_takes_effect_at_once(working: Client) -> None:
    yearly = ScheduleSpec(cron_expressions=["@yearly"])
    handle = await create(working, action("Chain", 0), spec=yearly)

    async def often(given: Any) -> ScheduleUpdate:
        schedule = given.description.schedule
        schedule.spec = ScheduleSpec(intervals=[ScheduleIntervalSpec(timedelta(seconds=1))])
        return ScheduleUpdate(schedule)

    await handle.update(often)
    await described(handle, lambda d: d.info.num_actions >= 1)


# --- Lists ------------------------------------------------------------------------------------


async def ids(client: Client, query: str | None = None) -> list[str]:
    return sorted([entry.id async for entry in await client.list_schedules(query, page_size=2)])


async def test_lists_and_counts(store_url: str) -> None:
    store = store_url
    async with Server(store=store, port=0, search_attributes={"Team": "Keyword"}) as server:
        client = await Client.connect(server.address)
        for number in range(5):
            await client.create_schedule(
                f"s{number}",
                Schedule(
                    action("UntilTold"),
                    spec=ScheduleSpec(cron_expressions=["@daily"]),
                    state=ScheduleState(paused=number == 3, note=f"n{number}"),
                ),
                memo={"number": number},
                search_attributes=TypedSearchAttributes(
                    [SearchAttributePair(TEAM, "red" if number % 2 else "blue")]
                ),
            )
        assert await ids(client) == ["s0", "s1", "s2", "s3", "s4"]
        assert await ids(client, "TemporalSchedulePaused = true") == ["s3"]
        assert await ids(client, "TemporalSchedulePaused = false AND Team = 'red'") == ["s1"]
        assert await ids(client, "ScheduleId IN ('s1', 's2')") == ["s1", "s2"]
        assert await ids(client, "`ScheduleId` STARTS_WITH 's'") == ["s0", "s1", "s2", "s3", "s4"]
        assert await ids(client, "Team = 'ScheduleId'") == []
        await client.get_schedule_handle("s0").pause(note="later")
        assert await ids(client, "TemporalSchedulePaused = true") == ["s0", "s3"]
        (entry,) = [each async for each in await client.list_schedules("ScheduleId = 's0'")]
        assert entry.schedule is not None
        assert (entry.schedule.state.paused, entry.schedule.state.note) == (True, "later")
        assert len(entry.info.next_action_times if entry.info else []) == 5
        assert await entry.memo_value("number") == 0
        assert entry.typed_search_attributes[TEAM] == "blue"
        count = await client.workflow_service.count_schedules(
            ws.CountSchedulesRequest(namespace="default", query="Team = 'red'")
        )
        assert count.count == 2
        assert [w async for w in client.list_workflows()] == []


@pytest.mark.parametrize("query", ["Unknown = 1", "((", "GROUP BY ExecutionStatus"])
async def test_a_query_that_makes_no_sense_is_refused(client: Client, query: str) -> None:
    with pytest.raises(RPCError) as refused:
        await ids(client, query)
    assert refused.value.status == RPCStatusCode.INVALID_ARGUMENT


# --- Refusals ---------------------------------------------------------------------------------


def _bad_requests() -> list[tuple[str, Any, str]]:
    """(RPC, request, message)."""
    spec = schedules.ScheduleSpec
    nameless, untyped, queueless = (creation(spec()) for _ in range(3))
    nameless.schedule.action.start_workflow.workflow_id = ""
    nameless.schedule.policies.keep_original_workflow_id = True
    untyped.schedule.action.start_workflow.workflow_type.name = ""
    queueless.schedule.action.start_workflow.task_queue.name = ""
    unasked, idless, negative = (creation(spec()) for _ in range(3))
    unasked.request_id = ""
    idless.schedule_id = ""
    negative.schedule.state.remaining_actions = -1
    noted = ws.PatchScheduleRequest(namespace="default", schedule_id="s")
    noted.patch.pause = "x" * 1001
    actionless = ws.UpdateScheduleRequest(namespace="default", schedule_id="s")
    patch = ws.PatchScheduleRequest(namespace="default", schedule_id="s")
    return [
        ("create", creation(spec(cron_string=["* *"])), "Invalid schedule spec: CronString"),
        ("create", creation(spec(timezone_name="No/Where")), "Invalid schedule spec: unknown time"),
        ("create", nameless, "WorkflowId is not set on request."),
        ("create", untyped, "WorkflowType is not set on request."),
        ("create", queueless, "missing task queue name"),
        ("create", unasked, "RequestId is not set on request."),
        ("create", idless, "ScheduleId is not set on request."),
        ("create", negative, "RemainingActions is negative."),
        ("update", actionless, "Only StartWorkflow action is supported for schedules"),
        ("patch", noted, "Schedule notes exceeds limit."),
        (
            "create",
            creation(spec(), cron_schedule="* * * * *"),
            "Scheduled workflow must not contain CronSchedule",
        ),
        (
            "create",
            creation(spec(), workflow_id_reuse_policy=3),
            "Scheduled workflow must not contain WorkflowIDReusePolicy",
        ),
        ("patch", patch, "Patch is not set on request."),
        (
            "list_schedule_matching_times",
            ws.ListScheduleMatchingTimesRequest(namespace="default", schedule_id="s"),
            "missing or invalid query",
        ),
    ]


@pytest.mark.parametrize(("rpc", "request_", "message"), _bad_requests())
async def test_bad_requests(client: Client, rpc: str, request_: Any, message: str) -> None:
    name = rpc if rpc.startswith("list") else f"{rpc}_schedule"
    with pytest.raises(RPCError) as refused:
        await getattr(client.workflow_service, name)(request_)
    assert refused.value.status == RPCStatusCode.INVALID_ARGUMENT
    assert refused.value.message.startswith(message)


@pytest.mark.parametrize("rpc", ["describe", "delete", "update", "trigger"])
async def test_a_schedule_that_is_not_there(client: Client, rpc: str) -> None:
    handle = client.get_schedule_handle("nowhere")
    update = ws.UpdateScheduleRequest(
        namespace="default",
        schedule_id="nowhere",
        schedule=creation(schedules.ScheduleSpec()).schedule,
    )
    if rpc == "update":
        called = client.workflow_service.update_schedule(update)
    else:
        called = getattr(handle, rpc)()
    with pytest.raises(RPCError) as refused:
        await called
    assert refused.value.status == RPCStatusCode.NOT_FOUND


async def test_an_expired_schedule_is_gone_and_its_id_free(store_url: str) -> None:
    store, now = store_url, [1_700_000_040_000_000_000]
    async with Server(store=store, port=0, clock=lambda: now[0]) as server:
        client = await Client.connect(server.address)
        handle = await create(client, action("UntilTold"))
    now[0] += machine.IDLE_NS
    async with Server(store=store, port=0, clock=lambda: now[0]) as server:
        client = await Client.connect(server.address)

        async def gone() -> bool:
            return await ids(client) == []

        await eventually(gone)
        with pytest.raises(RPCError):
            await client.get_schedule_handle(handle.id).describe()
        await client.create_schedule(handle.id, Schedule(action("UntilTold"), spec=ScheduleSpec()))
        assert await ids(client) == [handle.id]
