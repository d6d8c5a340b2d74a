"""Resets: a run goes on from an earlier point, with what reached it since."""

from collections.abc import Iterable
from typing import Any

import pytest
from temporalio.api.common.v1 import message_pb2 as common
from temporalio.api.enums.v1 import failed_cause_pb2 as causes
from temporalio.api.enums.v1 import reset_pb2 as e
from temporalio.api.enums.v1 import update_pb2 as update_enums
from temporalio.api.history.v1 import message_pb2 as history
from temporalio.api.workflow.v1 import message_pb2 as workflow_messages

from durably.engine import external_workflow, reset
from durably.engine.transition import DispatchActivity, StartChild, Transition, outstanding
from durably.errors import InvalidArgument
from tests.engine.lives import (
    SECOND_NS,
    WorkflowLife,
    acceptance,
    complete_workflow,
    fresh,
    payloads,
    schedule_activity,
    start_child,
    start_timer,
    update_request,
)

SIGNAL = e.RESET_REAPPLY_EXCLUDE_TYPE_SIGNAL
UPDATE = e.RESET_REAPPLY_EXCLUDE_TYPE_UPDATE


def reset_to(
    life: WorkflowLife,
    finished_event_id: int,
    exclude: Iterable[int] = (),
    operations: Iterable[workflow_messages.PostResetOperation] = (),
) -> WorkflowLife:
    """The run that goes on from before the event that ended a workflow task, as the service does it."""
    life.now_ns += SECOND_NS
    t = Transition(fresh("new"), life.now_ns, life.new_id)
    taken = life.events[: finished_event_id - 1]
    reset.begin(t, life.state, taken, reason="why", request_id="reset")
    reset.reapply(t, life.events[finished_event_id - 1 :], list(exclude))  # type: ignore[arg-type]
    reset.leave_out_removed(t, life.state)
    reset.operate(t, operations)
    reset.go_on(t)
    life.step(reset.leave, "new", "reset")
    return WorkflowLife.of(t)


def test_it_goes_on_from_before_the_end_of_a_task() -> None:
    life = WorkflowLife(
        workflow_run_timeout={"seconds": 60}, workflow_execution_timeout={"seconds": 90}
    )
    life.work(start_timer())
    life.wait(5)
    life.work(complete_workflow())
    new = reset_to(life, 8)
    assert new.kinds[-2:] == ["WORKFLOW_TASK_FAILED", "WORKFLOW_TASK_SCHEDULED"]
    failed = new.last("WORKFLOW_TASK_FAILED")
    assert failed.cause == causes.WORKFLOW_TASK_FAILED_CAUSE_RESET_WORKFLOW
    assert (failed.base_run_id, failed.new_run_id) == ("run", "new")
    assert failed.failure.message == "why"
    assert new.state.workflow_task.attempt == 1  # type: ignore[union-attr]
    assert (new.state.base_run_id, new.state.original_start_ns) == ("run", life.state.start_ns)
    assert new.state.run_expires_ns == new.now_ns + 60 * SECOND_NS
    assert new.state.execution_expires_ns == new.now_ns + 90 * SECOND_NS
    new.check()
    assert life.state.reset_run_id == "new"


def test_the_run_that_was_current_ends() -> None:
    life = WorkflowLife()
    life.work()
    new = reset_to(life, 4)
    assert life.last("WORKFLOW_EXECUTION_TERMINATED").identity == "history-resetter"
    assert not new.state.run_expires_ns
    assert new.state.running


def test_a_task_that_nobody_had_taken_is_started_first() -> None:
    life = WorkflowLife()
    new = reset_to(life, 3)
    assert new.kinds[1:4] == [
        "WORKFLOW_TASK_SCHEDULED",
        "WORKFLOW_TASK_STARTED",
        "WORKFLOW_TASK_FAILED",
    ]
    new.check()


def test_a_point_without_a_task_is_refused() -> None:
    life = WorkflowLife()
    life.work(start_timer())
    with pytest.raises(InvalidArgument, match="Can only reset workflow to event ID in range"):
        reset_to(life, 6)


def test_what_waited_waits_again_and_its_time_counts_anew() -> None:
    life = WorkflowLife()
    life.work(schedule_activity(schedule_to_start_timeout={"seconds": 5}), start_child())
    life.now_ns += 4 * SECOND_NS
    life.signal()
    life.work()
    new = reset_to(life, 10)
    assert DispatchActivity("q", 5, new.pending().stamp) in new.effects
    assert outstanding(new.state) == [StartChild(6)]
    new.wait(4)
    assert new.state.activities
    new.wait(1)
    assert not new.state.activities
    new.check()


# --- What is applied again --------------------------------------------------------------------


def after_much() -> WorkflowLife:
    """Signals, updates and a child's end after the first workflow task, which ended at event 4."""
    life = WorkflowLife()
    life.work(start_child("early"))
    life.signal("one", "r1", links=[common.Link()])
    life.admit("u")
    life.work(start_child("late"), messages=[acceptance()])
    life.step(external_workflow.child_started, 5, "early-run")
    for initiated in list(life.state.children):
        life.step(
            external_workflow.child_closed,
            initiated,
            "c-run",
            "c-run",
            history.HistoryEvent(
                event_type=2,  # type: ignore[arg-type]
                workflow_execution_completed_event_attributes={},  # type: ignore[arg-type]
            ),
        )
    return life


def test_signals_updates_and_news_of_children_are_applied_again() -> None:
    life = after_much()
    new = reset_to(life, 9)
    assert new.kinds[8:] == [
        "WORKFLOW_TASK_FAILED",
        "WORKFLOW_EXECUTION_UPDATE_ADMITTED",
        "CHILD_WORKFLOW_EXECUTION_STARTED",
        "CHILD_WORKFLOW_EXECUTION_COMPLETED",
        "WORKFLOW_TASK_SCHEDULED",
    ], "of the child that the new run did not initiate it knows nothing"
    admitted = new.last("WORKFLOW_EXECUTION_UPDATE_ADMITTED")
    assert admitted.request == update_request("u")
    assert admitted.origin == update_enums.UPDATE_ADMITTED_EVENT_ORIGIN_REAPPLY
    ended = new.last("CHILD_WORKFLOW_EXECUTION_COMPLETED")
    assert ended.started_event_id == new.events[-3].event_id
    assert life.state.children == {}, "they belong to the new run"
    new.check()
    again = reset_to(new, 9)
    assert "WORKFLOW_EXECUTION_UPDATE_ADMITTED" in again.kinds


def test_a_signal_is_applied_again_with_its_links_and_request_id() -> None:
    new = reset_to(after_much(), 4)
    event = new.events[new.kinds.index("WORKFLOW_EXECUTION_SIGNALED")]
    assert len(event.links) == 1
    assert "r1" in new.state.requests_seen


def test_an_update_whose_request_came_with_an_earlier_reset_is_admitted_once() -> None:
    first = reset_to(after_much(), 9)
    first.work(messages=[acceptance()])
    second = reset_to(first, 9)
    assert second.kinds.count("WORKFLOW_EXECUTION_UPDATE_ADMITTED") == 1
    second.check()


@pytest.mark.parametrize("exclude", [(SIGNAL,), (UPDATE,), (SIGNAL, UPDATE)])
def test_what_is_excluded_is_not_applied_again(exclude: tuple[int, ...]) -> None:
    new = reset_to(after_much(), 4, exclude)
    assert ("WORKFLOW_EXECUTION_SIGNALED" in new.kinds) == (SIGNAL not in exclude)
    assert ("WORKFLOW_EXECUTION_UPDATE_ADMITTED" in new.kinds) == (UPDATE not in exclude)
    if UPDATE in exclude:
        twice = reset_to(reset_to(after_much(), 4), 4, exclude)
        assert "WORKFLOW_EXECUTION_UPDATE_ADMITTED" not in twice.kinds


@pytest.mark.parametrize(
    ("reapply", "found"),
    [
        (e.RESET_REAPPLY_TYPE_UNSPECIFIED, set()),
        (e.RESET_REAPPLY_TYPE_ALL_ELIGIBLE, set()),
        (e.RESET_REAPPLY_TYPE_SIGNAL, {UPDATE}),
        (e.RESET_REAPPLY_TYPE_NONE, {UPDATE, SIGNAL}),
    ],
)
def test_the_older_field_says_the_same(
    reapply: e.ResetReapplyType.ValueType, found: set[int]
) -> None:
    assert reset.excluded([], reapply) == found
    assert reset.excluded([SIGNAL], reapply) == found | {SIGNAL}


# --- Operations -------------------------------------------------------------------------------


def operation(**signal: Any) -> workflow_messages.PostResetOperation:
    return workflow_messages.PostResetOperation(
        signal_workflow=workflow_messages.PostResetOperation.SignalWorkflow(**signal)
    )


def test_a_signal_can_follow_the_reset() -> None:
    life = WorkflowLife()
    life.work()
    header = common.Header(fields={"h": common.Payload(data=b"1")})
    asked = [
        operation(signal_name="s", input=payloads(b"in"), header=header, links=[common.Link()]),
        operation(signal_name="bare"),
    ]
    reset.check_operations(asked)
    new = reset_to(life, 4, operations=asked)
    first, second = new.events[-3:-1]
    signaled = first.workflow_execution_signaled_event_attributes
    assert (signaled.signal_name, signaled.input) == ("s", payloads(b"in"))
    assert (signaled.header, len(first.links)) == (header, 1)
    bare = second.workflow_execution_signaled_event_attributes
    assert (bare.HasField("input"), bare.HasField("header")) == (False, False)


def test_other_operations_are_refused() -> None:
    for asked in (operation(), workflow_messages.PostResetOperation()):
        with pytest.raises(InvalidArgument, match="PostResetOperation"):
            reset.check_operations([asked])


def test_a_change_of_options_names_them() -> None:
    asked = workflow_messages.PostResetOperation(update_workflow_options={})
    with pytest.raises(InvalidArgument, match="UpdateMask is required"):
        reset.check_operations([asked])
    asked.update_workflow_options.update_mask.paths.append("priority")
    reset.check_operations([asked])
