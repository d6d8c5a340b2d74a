"""Programs of those who run workflows: schedules, batches, pauses, standalone activities, task queues.

Rule 1: what a server says of itself or of time is left out where a program gives it; the rest is compared.
"""

import uuid
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from typing import Any

from google.protobuf.duration_pb2 import Duration
from temporalio.api.activity.v1 import message_pb2 as activities
from temporalio.api.batch.v1 import message_pb2 as batches
from temporalio.api.common.v1 import message_pb2 as common
from temporalio.api.enums.v1 import batch_operation_pb2 as batch_enums
from temporalio.api.operatorservice.v1 import request_response_pb2 as operator
from temporalio.api.rules.v1 import message_pb2 as rules
from temporalio.api.schedule.v1 import message_pb2 as schedules
from temporalio.api.taskqueue.v1 import message_pb2 as taskqueue
from temporalio.api.workflowservice.v1 import request_response_pb2 as ws
from temporalio.client import WithStartWorkflowOperation
from temporalio.common import Priority, WorkflowIDConflictPolicy
from temporalio.converter import default

from tests.conftest import eventually
from tests.differential.programs import QUEUE, Handle, Stage, program, refusal, result, started
from tests.differential.tasks_by_hand import ByHand
from tests.differential.worker import Do, Step

HERE = "default"


def payloads(*values: Any) -> common.Payloads:
    return common.Payloads(payloads=default().payload_converter.to_payloads(values))


async def until(found: Callable[[], Awaitable[Any]]) -> Any:
    """What is found, when it is anything."""
    told: list[Any] = []

    async def some() -> bool:
        told.append(await found())
        return bool(told[-1])

    await eventually(some)
    return told[-1]


async def status(call: Awaitable[Any]) -> str:
    """Only the status of a refusal: what is wrong is said in other words."""
    told = await refusal(call)
    return str(told[0])


# --- Schedules --------------------------------------------------------------------------------


def schedule(stage: Stage, *steps: Step, **spec: Any) -> schedules.Schedule:
    made = schedules.Schedule(spec=schedules.ScheduleSpec(**spec))
    start = made.action.start_workflow
    start.workflow_id = stage.id("scheduled")
    start.workflow_type.name = "Do"
    start.task_queue.name = QUEUE
    start.input.CopyFrom(payloads(list(steps)))
    return made


async def create(stage: Stage, made: schedules.Schedule, **options: Any) -> str:
    schedule_id = stage.id("schedule")
    await stage.service.create_schedule(
        ws.CreateScheduleRequest(
            namespace=HERE,
            schedule_id=schedule_id,
            schedule=made,
            request_id=str(uuid.uuid4()),
            **options,
        )
    )
    return schedule_id


async def patch(stage: Stage, schedule_id: str, **what: Any) -> None:
    await stage.service.patch_schedule(
        ws.PatchScheduleRequest(
            namespace=HERE, schedule_id=schedule_id, patch=schedules.SchedulePatch(**what)
        )
    )


async def described(stage: Stage, schedule_id: str) -> ws.DescribeScheduleResponse:
    request = ws.DescribeScheduleRequest(namespace=HERE, schedule_id=schedule_id)
    found: ws.DescribeScheduleResponse = await stage.service.describe_schedule(request)
    return found


async def delete(stage: Stage, schedule_id: str) -> None:
    await stage.service.delete_schedule(
        ws.DeleteScheduleRequest(namespace=HERE, schedule_id=schedule_id)
    )


FAR = {"cron_string": ["0 12 1 1 *"]}


@program
async def a_schedule_is_described_as_it_is_kept(stage: Stage) -> Any:
    made = schedule(
        stage,
        cron_string=["30 9 * * MON-FRI", "@every 1h", "0 8 * * *"],
        timezone_name="Europe/Berlin",
        jitter=Duration(seconds=5),
    )
    made.policies.overlap_policy = 2  # type: ignore[assignment]
    made.policies.catchup_window.seconds = 3600
    made.state.notes = "a note"
    made.state.paused = True
    schedule_id = await create(stage, made)
    found = await described(stage, schedule_id)
    await delete(stage, schedule_id)
    return [found.schedule.spec, found.schedule.policies, found.schedule.state]


@program
async def a_schedule_is_triggered(stage: Stage) -> Any:
    schedule_id = await create(stage, schedule(stage, ["activity", "echo", [1], {}], **FAR))
    await patch(stage, schedule_id, trigger_immediately={})

    async def done() -> Any:
        info = (await described(stage, schedule_id)).info
        ended = [a for a in info.recent_actions if a.start_workflow_status == 2]
        return info if ended else None

    info = await until(done)
    run = info.recent_actions[0].start_workflow_result
    handle = stage.client.get_workflow_handle(run.workflow_id)
    stage.names[run.workflow_id] = "<run>"
    await delete(stage, schedule_id)
    return [info.action_count, len(info.recent_actions), await result(handle)]


@program
async def a_schedule_skips_what_overlaps(stage: Stage) -> Any:
    schedule_id = await create(stage, schedule(stage, ["forever"], **FAR))
    await patch(stage, schedule_id, trigger_immediately={})
    await until(lambda: running(stage, schedule_id))
    await patch(stage, schedule_id, trigger_immediately={})

    async def skipped() -> Any:
        return (await described(stage, schedule_id)).info.overlap_skipped

    told = [await until(skipped)]
    info = (await described(stage, schedule_id)).info
    told += [info.action_count, len(info.running_workflows)]
    await delete(stage, schedule_id)
    await stage.client.get_workflow_handle(info.running_workflows[0].workflow_id).terminate()
    return told


async def running(stage: Stage, schedule_id: str) -> Any:
    return list((await described(stage, schedule_id)).info.running_workflows)


@program
async def a_schedule_is_paused_and_goes_on(stage: Stage) -> Any:
    schedule_id = await create(stage, schedule(stage, **FAR))
    told = []
    for what in ({"pause": "for a reason"}, {"unpause": "again"}):
        await patch(stage, schedule_id, **what)
        told.append((await described(stage, schedule_id)).schedule.state)
    await delete(stage, schedule_id)
    return told


@program
async def a_schedule_with_limited_actions_ends(stage: Stage) -> Any:
    made = schedule(stage, interval=[{"interval": Duration(seconds=1)}])
    made.state.limited_actions = True
    made.state.remaining_actions = 2
    schedule_id = await create(stage, made)

    async def none_left() -> Any:
        found = await described(stage, schedule_id)
        return found.schedule.state.remaining_actions == 0 and found.info.action_count == 2

    await until(none_left)
    found = await described(stage, schedule_id)
    await delete(stage, schedule_id)
    return [found.info.action_count, len(found.info.future_action_times)]


@program
async def a_schedule_is_filled_back(stage: Stage) -> Any:
    begin = datetime(2026, 3, 1, 10, 30, tzinfo=UTC)
    made = schedule(stage, interval=[{"interval": Duration(seconds=3600)}])
    made.state.paused = True
    schedule_id = await create(stage, made)
    request = schedules.BackfillRequest(overlap_policy=6)
    request.start_time.FromDatetime(begin)
    request.end_time.FromDatetime(begin + timedelta(hours=3))
    await patch(stage, schedule_id, backfill_request=[request])

    async def all_done() -> Any:
        actions = (await described(stage, schedule_id)).info.recent_actions
        return [a.schedule_time for a in actions] if len(actions) == 3 else None

    # All are started at once.
    told = sorted(each.ToJsonString() for each in await until(all_done))
    await delete(stage, schedule_id)
    return told


@program
async def the_times_of_a_schedule(stage: Stage) -> Any:
    made = schedule(
        stage,
        cron_string=["15 10 * * *"],
        timezone_name="America/New_York",
        exclude_calendar=[{"day_of_month": "9"}],
    )
    schedule_id = await create(stage, made)
    request = ws.ListScheduleMatchingTimesRequest(namespace=HERE, schedule_id=schedule_id)
    # New York's clocks go forward on the 8th.
    request.start_time.FromDatetime(datetime(2026, 3, 6))
    request.end_time.FromDatetime(datetime(2026, 3, 12))
    found = await stage.service.list_schedule_matching_times(request)
    await delete(stage, schedule_id)
    return [each.ToJsonString() for each in found.start_time]


@program
async def a_schedule_is_updated(stage: Stage) -> Any:
    schedule_id = await create(stage, schedule(stage, **FAR))
    made = schedule(stage, interval=[{"interval": Duration(seconds=7200)}])
    made.state.notes = "changed"
    await stage.service.update_schedule(
        ws.UpdateScheduleRequest(
            namespace=HERE, schedule_id=schedule_id, schedule=made, request_id=str(uuid.uuid4())
        )
    )

    async def changed() -> Any:
        found = await described(stage, schedule_id)
        return [found.schedule.spec] if found.schedule.state.notes else None

    told = await until(changed)
    await delete(stage, schedule_id)
    return told


@program
async def schedules_that_are_refused(stage: Stage) -> Any:
    nobody = stage.id("nobody")
    schedule_id = await create(stage, schedule(stage, **FAR))
    told = [
        await status(create(stage, schedule(stage, **FAR))),
        await status(described(stage, nobody)),
        await status(patch(stage, nobody, pause="x")),
        await status(delete(stage, nobody)),
    ]
    await delete(stage, schedule_id)
    for spec in ({"cron_string": ["nonsense"]}, {"timezone_name": "Nowhere/None", **FAR}):
        stage.names.pop(schedule_id, None)
        told.append(await status(create(stage, schedule(stage, **spec))))
    return told


# --- Batches ----------------------------------------------------------------------------------


async def batch(stage: Stage, handles: list[Handle], **operation: Any) -> Any:
    """Run a batch operation to its end; what is said of it then."""
    job_id = str(uuid.uuid4())
    await stage.service.start_batch_operation(
        ws.StartBatchOperationRequest(
            namespace=HERE,
            job_id=job_id,
            reason="because",
            executions=[common.WorkflowExecution(workflow_id=each.id) for each in handles],
            **operation,
        )
    )
    request = ws.DescribeBatchOperationRequest(namespace=HERE, job_id=job_id)

    async def ended() -> Any:
        found = await stage.service.describe_batch_operation(request)
        over = found.state != batch_enums.BATCH_OPERATION_STATE_RUNNING
        return found if over else None

    found = await until(ended)
    return [
        found.state,
        found.operation_type,
        found.total_operation_count,
        found.complete_operation_count,
        found.failure_operation_count,
        found.reason,
    ]


async def two(stage: Stage, *steps: Step) -> list[Handle]:
    handles = [await stage.start(*steps, name=name) for name in ("one", "two")]
    for handle in handles:
        await stage.idle(handle)
    return handles


@program
async def a_batch_signals(stage: Stage) -> Any:
    handles = await two(stage, ["wait", 1])
    signal = batches.BatchOperationSignal(signal="put", input=payloads("from a batch"))
    told = await batch(stage, handles, signal_operation=signal)
    return [told, *[await result(handle) for handle in handles]]


@program
async def a_batch_terminates(stage: Stage) -> Any:
    handles = await two(stage, ["forever"])
    told = await batch(
        stage, handles, termination_operation=batches.BatchOperationTermination(identity="me")
    )
    return [told, *[await result(handle) for handle in handles]]


@program
async def a_batch_cancels(stage: Stage) -> Any:
    handles = await two(stage, ["forever"])
    told = await batch(
        stage, handles, cancellation_operation=batches.BatchOperationCancellation(identity="me")
    )
    return [told, *[await result(handle) for handle in handles]]


@program
async def a_batch_resets(stage: Stage) -> Any:
    handles = await two(stage, ["activity", "echo", [1], {}])
    for handle in handles:
        await result(handle)
    reset = batches.BatchOperationReset(identity="me")
    reset.options.first_workflow_task.SetInParent()
    told = await batch(stage, handles, reset_operation=reset)
    again = [stage.client.get_workflow_handle(handle.id) for handle in handles]
    return [told, *[await result(handle) for handle in again]]


@program
async def a_batch_of_nobody(stage: Stage) -> Any:
    handle = stage.client.get_workflow_handle(stage.id("nobody"))
    terminate = batches.BatchOperationTermination(identity="me")
    told = await batch(stage, [handle], termination_operation=terminate)
    return told[1:5]


@program
async def batches_that_are_refused(stage: Stage) -> Any:
    start = stage.service.start_batch_operation
    terminate: dict[str, Any] = {"termination_operation": batches.BatchOperationTermination()}
    somebody = {"executions": [common.WorkflowExecution(workflow_id="w")]}
    told = []
    for fields in (
        {"reason": "r", **terminate, **somebody},
        {"job_id": "j", **terminate, **somebody},
        {"job_id": "j", "reason": "r", **somebody},
        {"job_id": "j", "reason": "r", **terminate},
        {"job_id": "j", "reason": "r", "visibility_query": "a = 1", **terminate, **somebody},
    ):
        request = ws.StartBatchOperationRequest(namespace=HERE, **fields)
        told.append(await status(start(request)))
    for kind, call in (
        (ws.DescribeBatchOperationRequest, stage.service.describe_batch_operation),
        (ws.StopBatchOperationRequest, stage.service.stop_batch_operation),
    ):
        told.append(await status(call(kind(namespace=HERE, job_id=str(uuid.uuid4())))))
    return told


# --- Activities -------------------------------------------------------------------------------


async def pending(stage: Stage, handle: Handle) -> Any:
    """What is said of its one pending activity, less what the worker does meanwhile."""
    found = (await handle.describe()).raw_description.pending_activities
    if not found:
        return None
    one = found[0]
    return [one.activity_id, one.paused, one.attempt, one.maximum_attempts, one.activity_options]


def of(handle: Handle) -> common.WorkflowExecution:
    return common.WorkflowExecution(workflow_id=handle.id)


async def with_activity_nobody_does(stage: Stage) -> Handle:
    handle = await stage.start(["activity", "echo", [1], {"id": "a", "queue": "nobody"}])
    await stage.idle(handle)
    return handle


@program
async def an_activity_is_paused_and_goes_on(stage: Stage) -> Any:
    handle = await with_activity_nobody_does(stage)
    pause = ws.PauseActivityRequest(
        namespace=HERE, execution=of(handle), id="a", reason="a look", request_id="r"
    )
    told = [await refusal(stage.service.pause_activity(pause)), await pending(stage, handle)]
    unpause = ws.UnpauseActivityRequest(namespace=HERE, execution=of(handle), id="a")
    told += [await refusal(stage.service.unpause_activity(unpause)), await pending(stage, handle)]
    await handle.terminate()
    return told


@program
async def the_options_of_an_activity_change(stage: Stage) -> Any:
    handle = await with_activity_nobody_does(stage)
    request = ws.UpdateActivityOptionsRequest(
        namespace=HERE,
        execution=of(handle),
        id="a",
        activity_options=activities.ActivityOptions(
            task_queue=taskqueue.TaskQueue(name=QUEUE), start_to_close_timeout=Duration(seconds=9)
        ),
    )
    request.update_mask.paths.extend(["task_queue.name", "start_to_close_timeout"])
    reply = await stage.service.update_activity_options(request)
    return [reply.activity_options, await result(handle)]


@program
async def an_activity_is_reset(stage: Stage) -> Any:
    handle = await stage.start(["activity", "stops", [], {"id": "a", "start_to_close": 60_000}])
    await started(handle)
    request = ws.ResetActivityRequest(namespace=HERE, execution=of(handle), id="a")
    told = [await refusal(stage.service.reset_activity(request)), await pending(stage, handle)]
    await handle.terminate()
    return told


@program
async def activities_that_cannot_be_controlled(stage: Stage) -> Any:
    handle = await with_activity_nobody_does(stage)
    service = stage.service
    told = []
    for kind, call in (
        (ws.PauseActivityRequest, service.pause_activity),
        (ws.UnpauseActivityRequest, service.unpause_activity),
        (ws.ResetActivityRequest, service.reset_activity),
    ):
        told.append(await status(call(kind(namespace=HERE, execution=of(handle), id="b"))))
        told.append(await status(call(kind(namespace=HERE, execution=of(handle)))))
        nobody = common.WorkflowExecution(workflow_id=stage.id("nobody"))
        told.append(await status(call(kind(namespace=HERE, execution=nobody, id="a"))))
    await handle.terminate()
    return told


async def start_activity(stage: Stage, name: str, *values: Any, **options: Any) -> str:
    activity_id = stage.id("activity")
    options.setdefault("task_queue", taskqueue.TaskQueue(name=QUEUE))
    options.setdefault("start_to_close_timeout", Duration(seconds=5))
    await stage.service.start_activity_execution(
        ws.StartActivityExecutionRequest(
            namespace=HERE,
            activity_id=activity_id,
            activity_type=common.ActivityType(name=name),
            input=payloads(*values),
            request_id=str(uuid.uuid4()),
            **options,
        )
    )
    return activity_id


async def outcome(stage: Stage, activity_id: str) -> Any:
    request = ws.PollActivityExecutionRequest(namespace=HERE, activity_id=activity_id)

    async def ended() -> Any:
        reply = await stage.service.poll_activity_execution(request)
        return [reply.outcome] if reply.outcome.WhichOneof("value") else None

    return (await until(ended))[0]


async def activity(stage: Stage, activity_id: str) -> list[Any]:
    request = ws.DescribeActivityExecutionRequest(namespace=HERE, activity_id=activity_id)
    info = (await stage.service.describe_activity_execution(request)).info
    return [info.status, info.run_state, info.attempt, info.activity_type.name, info.task_queue]


@program
async def a_standalone_activity_succeeds(stage: Stage) -> Any:
    activity_id = await start_activity(stage, "echo", {"a": [1]})
    return [await outcome(stage, activity_id), await activity(stage, activity_id)]


@program
async def a_standalone_activity_fails(stage: Stage) -> Any:
    policy = common.RetryPolicy(
        maximum_attempts=2, initial_interval=Duration(nanos=10_000_000), backoff_coefficient=1
    )
    activity_id = await start_activity(stage, "fails", "Soon", 9, retry_policy=policy)
    return [await outcome(stage, activity_id), await activity(stage, activity_id)]


@program
async def a_standalone_activity_is_terminated(stage: Stage) -> Any:
    nobody = taskqueue.TaskQueue(name="nobody")
    activity_id = await start_activity(stage, "echo", 1, task_queue=nobody)
    request = ws.TerminateActivityExecutionRequest(
        namespace=HERE, activity_id=activity_id, reason="enough", request_id="r"
    )
    told = [await refusal(stage.service.terminate_activity_execution(request))]
    told += [await outcome(stage, activity_id), await activity(stage, activity_id)]
    told.append(await status(stage.service.terminate_activity_execution(request)))
    return told


@program
async def a_standalone_activity_is_cancelled(stage: Stage) -> Any:
    nobody = taskqueue.TaskQueue(name="nobody")
    activity_id = await start_activity(stage, "echo", 1, task_queue=nobody)
    request = ws.RequestCancelActivityExecutionRequest(
        namespace=HERE, activity_id=activity_id, reason="enough", request_id="r"
    )
    told = [await refusal(stage.service.request_cancel_activity_execution(request))]
    return [told, await outcome(stage, activity_id), await activity(stage, activity_id)]


@program
async def standalone_activities_that_are_refused(stage: Stage) -> Any:
    nobody = taskqueue.TaskQueue(name="nobody")
    await start_activity(stage, "echo", 1, task_queue=nobody)
    told = [await status(start_activity(stage, "echo", 1, task_queue=nobody))]
    missing = ws.DescribeActivityExecutionRequest(namespace=HERE, activity_id=stage.id("nobody"))
    told.append(await status(stage.service.describe_activity_execution(missing)))
    for fields in (
        {"activity_type": common.ActivityType(name="a")},
        {"activity_id": "a"},
        {"activity_id": "a", "activity_type": common.ActivityType(name="a")},
    ):
        request = ws.StartActivityExecutionRequest(namespace=HERE, **fields)
        told.append(await status(stage.service.start_activity_execution(request)))
    return told


# --- Workflows --------------------------------------------------------------------------------


@program
async def a_workflow_is_paused_and_goes_on(stage: Stage) -> Any:
    handle = await stage.start(["wait", 1])
    await stage.idle(handle)
    pause = ws.PauseWorkflowExecutionRequest(
        namespace=HERE, workflow_id=handle.id, reason="a look", request_id=str(uuid.uuid4())
    )
    unpause = ws.UnpauseWorkflowExecutionRequest(
        namespace=HERE, workflow_id=handle.id, reason="go on", request_id=str(uuid.uuid4())
    )
    told = [await refusal(stage.service.pause_workflow_execution(pause))]
    await handle.signal("put", 1)
    told.append(await status(handle.execute_update("change", 1)))
    told.append(await refusal(stage.service.unpause_workflow_execution(unpause)))
    told.append(await result(handle))
    told.append(await status(stage.service.pause_workflow_execution(pause)))
    return told


@program
async def rules_of_a_namespace(stage: Stage) -> Any:
    service, rule_id = stage.service, stage.id("rule")
    spec = rules.WorkflowRuleSpec(id=rule_id)
    spec.activity_start.predicate = "ActivityType = 'nothing'"
    spec.actions.add().activity_pause.SetInParent()
    create = ws.CreateWorkflowRuleRequest(namespace=HERE, spec=spec, request_id=str(uuid.uuid4()))
    told = [await refusal(service.create_workflow_rule(create))]
    create.request_id = str(uuid.uuid4())
    told.append(await status(service.create_workflow_rule(create)))
    describe = ws.DescribeWorkflowRuleRequest(namespace=HERE, rule_id=rule_id)
    found = await service.describe_workflow_rule(describe)
    told.append([found.rule.spec.id, found.rule.spec.activity_start.predicate])
    remove = ws.DeleteWorkflowRuleRequest(namespace=HERE, rule_id=rule_id)
    told.append(await refusal(service.delete_workflow_rule(remove)))
    told.append(await status(service.describe_workflow_rule(describe)))
    return told


def start_operation(stage: Stage, policy: WorkflowIDConflictPolicy, *steps: Step) -> Any:
    return WithStartWorkflowOperation(
        Do.run, list(steps), id=stage.id(), task_queue=QUEUE, id_conflict_policy=policy
    )


@program
async def an_update_starts_its_workflow(stage: Stage) -> Any:
    operation = start_operation(stage, WorkflowIDConflictPolicy.FAIL, ["wait", 1])
    told = [
        await stage.client.execute_update_with_start_workflow(
            Do.change, 1, start_workflow_operation=operation
        )
    ]
    handle = await operation.workflow_handle()
    return [told, await result(handle)]


@program
async def an_update_finds_its_workflow(stage: Stage) -> Any:
    handle = await stage.start(["wait", 2])
    await stage.idle(handle)
    told = []
    for policy in (WorkflowIDConflictPolicy.USE_EXISTING, WorkflowIDConflictPolicy.FAIL):
        operation = start_operation(stage, policy, ["forever"])
        called = stage.client.execute_update_with_start_workflow(
            Do.change, 1, start_workflow_operation=operation
        )
        told.append(await status(called))
    await handle.signal("put", 2)
    return [told, await result(handle)]


@program
async def a_workflow_is_started_eagerly(stage: Stage) -> Any:
    queue = f"eager-{uuid.uuid4().hex[:12]}"
    stage.names[queue] = "<queue>"
    reply = await stage.service.start_workflow_execution(
        ws.StartWorkflowExecutionRequest(
            namespace=HERE,
            workflow_id=stage.id(),
            workflow_type=common.WorkflowType(name="ByHand"),
            task_queue=taskqueue.TaskQueue(name=queue),
            request_id=str(uuid.uuid4()),
            request_eager_execution=True,
        )
    )
    hand = ByHand(stage, queue)
    task = reply.eager_workflow_task
    await hand.complete(task)
    told = [task.attempt, task.started_event_id, [e.event_id for e in task.history.events]]
    await hand.finish()
    return told


@program
async def a_workflow_with_a_priority(stage: Stage) -> Any:
    priority = Priority(priority_key=2, fairness_key="tenant", fairness_weight=1.5)
    handle = await stage.start(["activity", "echo", [1], {}], priority=priority)
    told = await result(handle)
    found = (await handle.describe()).raw_description.workflow_execution_info.priority
    return [told, found]


@program
async def a_workflow_says_what_it_is_about(stage: Stage) -> Any:
    handle = await stage.start(["sleep", 1], static_summary="short", static_details="and long")
    await result(handle)
    found = (await handle.describe()).raw_description
    return found.execution_config.user_metadata


@program
async def a_reset_keeps_updates_unless_told(stage: Stage) -> Any:
    handle = await stage.start(["wait", 2])
    await stage.idle(handle)
    await handle.execute_update("change", "kept", id="u1")
    await handle.signal("put", "signal")
    await result(handle)
    told = []
    for excluded in ([], [2]):
        request = ws.ResetWorkflowExecutionRequest(
            namespace=HERE,
            reason="again",
            workflow_task_finish_event_id=4,
            request_id=str(uuid.uuid4()),
            reset_reapply_exclude_types=excluded,  # type: ignore[arg-type]
        )
        request.workflow_execution.workflow_id = handle.id
        told.append(await refusal(stage.service.reset_workflow_execution(request)))
        again = stage.client.get_workflow_handle(handle.id)
        if excluded:
            await stage.idle(again, 1)
            await again.terminate()
        told.append(await result(again))
    return told


# --- Task queues, namespaces, lists -----------------------------------------------------------


@program
async def a_task_queue_is_configured(stage: Stage) -> Any:
    queue = stage.id("queue")
    request = ws.UpdateTaskQueueConfigRequest(
        namespace=HERE, task_queue=queue, task_queue_type=2, identity="me"
    )
    request.update_queue_rate_limit.rate_limit.requests_per_second = 7
    request.update_queue_rate_limit.reason = "slowly"
    request.set_fairness_weight_overrides["tenant"] = 2.5
    config = (await stage.service.update_task_queue_config(request)).config
    return [
        config.queue_rate_limit.rate_limit,
        config.queue_rate_limit.metadata.reason,
        dict(config.fairness_weight_overrides),
    ]


@program
async def a_search_attribute_comes_and_goes(stage: Stage) -> Any:
    service, name = stage.client.operator_service, f"Size{uuid.uuid4().hex[:8]}"
    stage.names[name] = "<attribute>"
    add = operator.AddSearchAttributesRequest(namespace=HERE, search_attributes={name: 3})
    told = [await refusal(service.add_search_attributes(add))]

    async def counted() -> Any:
        request = ws.CountWorkflowExecutionsRequest(namespace=HERE, query=f"{name} > 1")
        return (await refusal(stage.service.count_workflow_executions(request)))[0]

    async def known() -> bool:
        return bool(await counted() == "OK")

    await eventually(known)
    remove = operator.RemoveSearchAttributesRequest(namespace=HERE, search_attributes=[name])
    told.append(await refusal(service.remove_search_attributes(remove)))

    async def unknown() -> bool:
        return bool(await counted() == "INVALID_ARGUMENT")

    await eventually(unknown)
    return told


@program
async def a_namespace_is_made_and_changed(stage: Stage) -> Any:
    name = stage.id("namespace")
    register = ws.RegisterNamespaceRequest(
        namespace=name,
        description="one of many",
        owner_email="me@here",
        workflow_execution_retention_period=Duration(seconds=86400 * 3),
    )
    told = [await refusal(stage.service.register_namespace(register))]
    told.append(await status(stage.service.register_namespace(register)))
    update = ws.UpdateNamespaceRequest(namespace=name)
    update.update_info.description = "another"
    update.update_info.data["key"] = "value"
    update.config.workflow_execution_retention_ttl.seconds = 86400 * 5
    reply = await stage.service.update_namespace(update)
    told.append([reply.namespace_info.description, dict(reply.namespace_info.data)])
    told.append(reply.config.workflow_execution_retention_ttl)
    for fault in ("handover", "promotion", "bad binary", "short"):
        update = ws.UpdateNamespaceRequest(namespace=name, promote_namespace=fault == "promotion")
        if fault == "handover":
            update.replication_config.state = 2  # type: ignore[assignment]
        if fault == "bad binary":
            update.delete_bad_binary = "abc"
        if fault == "short":
            update.config.workflow_execution_retention_ttl.seconds = 1
        told.append(await status(stage.service.update_namespace(update)))
    return told


@program
async def counts_by_status(stage: Stage) -> Any:
    kind = f"K{uuid.uuid4().hex[:8]}"
    stage.names[kind] = "<type>"
    for number in range(3):
        await stage.service.start_workflow_execution(
            ws.StartWorkflowExecutionRequest(
                namespace=HERE,
                workflow_id=f"{kind}-{number}",
                workflow_type=common.WorkflowType(name=kind),
                task_queue=taskqueue.TaskQueue(name="nobody"),
                request_id=str(uuid.uuid4()),
            )
        )
    await stage.client.get_workflow_handle(f"{kind}-0").terminate()
    request = ws.CountWorkflowExecutionsRequest(
        namespace=HERE, query=f"WorkflowType = '{kind}' GROUP BY ExecutionStatus"
    )

    async def all_there() -> Any:
        found = await stage.service.count_workflow_executions(request)
        told = {group.group_values[0].data.decode(): group.count for group in found.groups}
        return told if told == {'"Running"': 2, '"Terminated"': 1} else None

    told = [await until(all_there)]
    for call, kind_of in (
        (stage.service.list_open_workflow_executions, ws.ListOpenWorkflowExecutionsRequest),
        (stage.service.list_closed_workflow_executions, ws.ListClosedWorkflowExecutionsRequest),
    ):
        asked = kind_of(namespace=HERE, maximum_page_size=10)
        asked.start_time_filter.earliest_time.seconds = 1
        asked.start_time_filter.latest_time.seconds = 4_000_000_000
        asked.type_filter.name = kind
        found = await call(asked)
        told.append(sorted(each.execution.workflow_id for each in found.executions))
    archived = ws.ListArchivedWorkflowExecutionsRequest(namespace=HERE, page_size=1)
    told.append(await refusal(stage.service.list_archived_workflow_executions(archived)))
    return told


@program
async def time_is_not_skipped_for_one_workflow(stage: Stage) -> Any:
    request = ws.PollWorkflowExecutionTimeSkippingRequest(
        namespace=HERE, workflow_execution={"workflow_id": "w"}, fast_forward_id="f"
    )
    told = [await status(stage.service.poll_workflow_execution_time_skipping(request))]
    request.ClearField("workflow_execution")
    told.append(await status(stage.service.poll_workflow_execution_time_skipping(request)))
    return told
