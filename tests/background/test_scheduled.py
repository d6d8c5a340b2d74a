"""Schedules and their workflows: deliveries that a crash cut off are made again, and count once."""

from typing import Any

import pytest
from temporalio.api.common.v1 import message_pb2 as common
from temporalio.api.failure.v1 import message_pb2 as failures
from temporalio.api.schedule.v1 import message_pb2 as schedules
from temporalio.api.workflow.v1 import message_pb2 as workflow_messages
from temporalio.api.workflowservice.v1 import request_response_pb2 as ws

from durably.background.scheduled import mark_of, start_request
from durably.engine import deadlines
from durably.engine.schedule.overlap import TERMINATE_OTHER
from durably.engine.schedule.state import ScheduleState
from durably.engine.state import Kind
from durably.engine.transition import EndScheduled, ReportToSchedule, StartScheduled, outstanding
from durably.errors import NotFound, Unavailable
from durably.service.execution import Execution
from durably.service.schedules import Schedules
from tests.background.test_outbox import CALL, QUEUE, Parts
from tests.background.test_outbox import parts as parts

MINUTE_NS = 60_000_000_000
TRIGGER = schedules.SchedulePatch(trigger_immediately=schedules.TriggerImmediatelyRequest())


async def schedule(parts: Parts, overlap: int = 0, cron: str = "") -> Execution[ScheduleState]:
    """A schedule that acts by hand, or as `cron` says."""
    request = ws.CreateScheduleRequest(
        namespace="default",
        schedule_id="s",
        request_id="r",
        schedule=schedules.Schedule(
            spec=schedules.ScheduleSpec(cron_string=[cron] if cron else []),
            policies=schedules.SchedulePolicies(overlap_policy=overlap),  # type: ignore[arg-type]
            action=schedules.ScheduleAction(
                start_workflow=workflow_messages.NewWorkflowExecutionInfo(
                    workflow_id="w", workflow_type=common.WorkflowType(name="t"), task_queue=QUEUE
                )
            ),
        ),
    )
    if not cron:
        request.initial_patch.CopyFrom(TRIGGER)
    await rpcs(parts).create_schedule(request, CALL)
    found = await parts.executions.find_of_kind(Kind.SCHEDULE, parts.namespace_id, "s")
    assert found is not None
    return found


def rpcs(parts: Parts) -> Schedules:
    return Schedules(parts.executions, parts.namespaces, parts.workflows)


async def trigger(parts: Parts) -> None:
    request = ws.PatchScheduleRequest(namespace="default", schedule_id="s", patch=TRIGGER)
    await rpcs(parts).patch_schedule(request, CALL)


async def deliver_all(parts: Parts, execution: Execution[Any]) -> None:
    for delivery in outstanding(execution.state):
        await parts.outbox.deliver(execution.execution_id, delivery)


@pytest.mark.parametrize("closed", [False, True])
async def test_a_start_that_is_delivered_again_starts_nothing(parts: Parts, closed: bool) -> None:
    """As if the server had died after the start and before the schedule recorded it."""
    found = await schedule(parts)
    action = found.state.actions[1]
    run_id, _ = await parts.workflows.start_scheduled(
        parts.namespace_id, start_request(found.state, action), mark_of(found.state, action)
    )
    await parts.complete_next_task("continue_as_new_workflow_execution")
    if closed:
        await parts.complete_next_task("complete_workflow_execution")
    await parts.outbox.deliver(found.execution_id, StartScheduled(1))
    await parts.outbox.deliver(found.execution_id, StartScheduled(1))
    assert found.state.actions[1].run_id == run_id
    assert found.state.action_count == 1
    assert await parts.runs() == 2


async def test_an_end_that_is_reported_again_counts_once(parts: Parts) -> None:
    found = await schedule(parts)
    await deliver_all(parts, found)
    await parts.complete_next_task("complete_workflow_execution")
    target = await parts.find(found.state.recent[0].workflow_id)
    assert outstanding(target.state) == [ReportToSchedule()]
    await parts.outbox.deliver(target.execution_id, ReportToSchedule())
    await parts.outbox.deliver(target.execution_id, ReportToSchedule())
    assert outstanding(target.state) == []
    assert (found.state.actions, found.state.recent[0].status) == ({}, 2)


async def test_an_end_that_is_reported_before_the_start_was_heard_of(parts: Parts) -> None:
    found = await schedule(parts)
    action = found.state.actions[1]
    await parts.workflows.start_scheduled(
        parts.namespace_id, start_request(found.state, action), mark_of(found.state, action)
    )
    await parts.complete_next_task("complete_workflow_execution")
    target = await parts.find(action.workflow_id)
    await parts.outbox.deliver(target.execution_id, ReportToSchedule())
    await parts.outbox.deliver(found.execution_id, StartScheduled(1))
    assert (found.state.actions, found.state.action_count) == ({}, 1)
    assert await parts.runs() == 1


async def test_a_schedule_that_is_gone_need_not_know(parts: Parts) -> None:
    found = await schedule(parts)
    await deliver_all(parts, found)
    await parts.executions.delete(found)
    await parts.complete_next_task("complete_workflow_execution")
    target = await parts.find(found.state.recent[0].workflow_id)
    await parts.outbox.deliver(target.execution_id, ReportToSchedule())
    assert outstanding(target.state) == []


async def test_a_termination_follows_the_chain(parts: Parts) -> None:
    found = await schedule(parts, TERMINATE_OTHER)
    await deliver_all(parts, found)
    await trigger(parts)
    assert outstanding(found.state) == [EndScheduled(1)]
    await parts.complete_next_task("continue_as_new_workflow_execution")
    await deliver_all(parts, found)
    await parts.outbox.deliver(found.execution_id, EndScheduled(1))
    target = await parts.find(found.state.recent[0].workflow_id)
    assert target.state.closed
    await deliver_all(parts, target)
    assert outstanding(found.state) == [StartScheduled(2)]


async def test_who_has_ended_need_not_be_ended(parts: Parts) -> None:
    found = await schedule(parts, TERMINATE_OTHER)
    await deliver_all(parts, found)
    await trigger(parts)
    await parts.complete_next_task("complete_workflow_execution")
    await deliver_all(parts, found)
    assert found.state.actions[1].end_sent


async def test_a_start_that_comes_too_late_is_missed(parts: Parts) -> None:
    """As if the server had been down between the decision and the delivery."""
    found = await schedule(parts, cron="* * * * *")
    now_ns = found.state.next_ns
    parts.executions.clock = lambda: now_ns
    await parts.executions.transact(found.execution_id, deadlines.fire_due)
    assert outstanding(found.state) == [StartScheduled(1)]
    now_ns += 366 * 24 * 60 * MINUTE_NS
    await deliver_all(parts, found)
    assert 1 not in found.state.actions
    assert found.state.missed_catchup_window > 0
    assert await parts.runs() == 0


async def test_a_start_carries_all_that_was_asked_for(parts: Parts) -> None:
    found = await schedule(parts)
    wanted = found.state.schedule.action.start_workflow
    wanted.user_metadata.summary.data = b"summary"
    wanted.memo.fields["a"].data = b"1"
    found.state.last_completion_result = common.Payloads(payloads=[common.Payload(data=b"last")])
    found.state.continued_failure = failures.Failure(message="before")
    await deliver_all(parts, found)
    started = (await parts.find(found.state.recent[0].workflow_id)).state
    assert started.user_metadata == wanted.user_metadata.SerializeToString()
    assert started.memo == wanted.memo
    assert started.started.last_completion_result == found.state.last_completion_result
    assert started.started.continued_failure.message == "before"
    assert started.started.identity == "temporal-scheduler-default-s"


async def test_a_start_that_might_succeed_later_is_tried_again(parts: Parts) -> None:
    async def unavailable(*_: Any) -> tuple[str, int]:
        raise Unavailable("not now")

    found = await schedule(parts)
    parts.outbox._scheduled._start_run = unavailable
    with pytest.raises(Unavailable):
        await deliver_all(parts, found)
    assert outstanding(found.state) == [StartScheduled(1)]
    parts.outbox._scheduled._start_run = parts.workflows.start_scheduled
    await deliver_all(parts, found)
    assert found.state.action_count == 1


async def test_a_start_that_cannot_succeed_is_given_up(parts: Parts) -> None:
    async def gone(*_: Any) -> tuple[str, int]:
        raise NotFound("the namespace")

    found = await schedule(parts)
    parts.outbox._scheduled._start_run = gone
    await deliver_all(parts, found)
    assert (found.state.actions, found.state.action_count) == ({}, 0)
