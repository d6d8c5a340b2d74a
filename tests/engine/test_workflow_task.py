"""Workflow tasks: one at a time; sticky, transient, and what waits for the end of one."""

import pytest
from temporalio.api.common.v1 import message_pb2 as common
from temporalio.api.enums.v1 import workflow_pb2 as e
from temporalio.api.sdk.v1 import task_complete_metadata_pb2 as sdk

from durably.config import Config
from durably.engine import update, workflow_pause, workflow_task
from durably.engine.transition import DispatchWorkflowTask
from durably.errors import NotFound
from tests.engine.lives import (
    SECOND_NS,
    WorkflowLife,
    application_failure,
    complete_workflow,
    payloads,
    start_timer,
)

STICKY = {
    "worker_task_queue": {"name": "sticky"},
    "schedule_to_start_timeout": {"seconds": 5},
}


def sticky_life() -> WorkflowLife:
    """Its next workflow task waits on the queue of the worker that knows it."""
    life = WorkflowLife()
    life.work(sticky_attributes=STICKY)
    life.signal()
    return life


# --- One at a time ----------------------------------------------------------------------------


def test_a_task_is_taken_once() -> None:
    life = WorkflowLife()
    granted = life.start_task("first")
    assert life.start_task("first") == granted, "asked again after a lost reply"
    with pytest.raises(NotFound, match="Workflow task not found"):
        life.start_task("second")
    for scheduled, attempt in ((2, 2), (9, 1)):
        with pytest.raises(NotFound):
            life.step(workflow_task.start, scheduled, attempt, "w", "first", life.config)


def test_there_is_none_after_the_end() -> None:
    life = WorkflowLife()
    life.start_task()
    reference = life.reference
    life.complete(complete_workflow())
    with pytest.raises(NotFound):
        life.step(workflow_task.start, 2, 1, "w", "rq", life.config)
    with pytest.raises(NotFound):
        workflow_task.in_flight(life.state, reference)


def test_what_a_worker_says_of_another_task_is_refused() -> None:
    life = WorkflowLife()
    with pytest.raises(NotFound):
        life.complete()
    life.start_task()
    asked = life.reference
    for wrong in (
        workflow_task.TaskReference(9, asked.started_event_id, 1),
        workflow_task.TaskReference(asked.scheduled_event_id, 9, 1),
        workflow_task.TaskReference(asked.scheduled_event_id, asked.started_event_id, 2),
    ):
        with pytest.raises(NotFound):
            workflow_task.in_flight(life.state, wrong)
    life.complete()
    with pytest.raises(NotFound):
        workflow_task.in_flight(life.state, asked)


def test_events_wait_for_the_end_of_a_task_and_bring_another() -> None:
    life = WorkflowLife()
    life.start_task()
    life.signal("one")
    life.signal("two")
    life.complete()
    assert life.kinds[-4:] == [
        "WORKFLOW_TASK_COMPLETED",
        "WORKFLOW_EXECUTION_SIGNALED",
        "WORKFLOW_EXECUTION_SIGNALED",
        "WORKFLOW_TASK_SCHEDULED",
    ]
    life.check()


def test_a_worker_may_ask_for_another_task_and_get_it_at_once() -> None:
    life = WorkflowLife()
    assert life.work().new_task is None
    life.signal()
    completed = life.work(force_create_new_workflow_task=True)
    assert completed.new_task is None
    assert life.state.workflow_task is not None
    completed = life.work(force_create_new_workflow_task=True, return_new_workflow_task=True)
    assert completed.new_task is not None
    assert life.state.workflow_task.started
    life.check()


def test_what_a_worker_says_of_itself_is_in_history() -> None:
    life = WorkflowLife()
    stamp = common.WorkerVersionStamp(build_id="b1")
    metadata = sdk.WorkflowTaskCompletedMetadata(sdk_name="sdk", sdk_version="1")
    life.work(
        binary_checksum="b1",
        worker_version_stamp=stamp,
        sdk_metadata=metadata,
        metering_metadata={"nonfirst_local_activity_execution_attempts": 2},
    )
    completed = life.last("WORKFLOW_TASK_COMPLETED")
    assert completed.worker_version == stamp
    assert completed.metering_metadata.nonfirst_local_activity_execution_attempts == 2
    assert (life.state.sdk_name, life.state.sdk_version) == ("sdk", "1")
    assert life.state.build_ids == ["unversioned", "unversioned:b1"]
    assert life.visible
    assert [point.build_id for point in life.state.reset_points] == ["b1"]
    life.signal()
    life.work(deployment_options={"build_id": "b2"})
    life.signal()
    life.work(worker_version_stamp=stamp)
    assert [point.build_id for point in life.state.reset_points] == ["b1", "b2"]
    assert not life.visible


def test_a_versioned_worker_is_not_listed_as_unversioned() -> None:
    life = WorkflowLife()
    life.work(worker_version_stamp={"build_id": "b1", "use_versioning": True})
    assert life.state.build_ids == ["versioned:b1"]


def test_a_failed_task_says_why_and_comes_again() -> None:
    life = WorkflowLife()
    life.start_task()
    life.fail_task(application_failure(), worker_version=common.WorkerVersionStamp(build_id="b"))
    failed = life.last("WORKFLOW_TASK_FAILED")
    assert (failed.failure.message, failed.worker_version.build_id) == ("broken", "b")
    assert DispatchWorkflowTask("q", False, 5, 2) in life.effects


# --- Sticky -----------------------------------------------------------------------------------


def test_the_worker_that_knows_a_workflow_is_asked_first() -> None:
    life = sticky_life()
    scheduled = life.last("WORKFLOW_TASK_SCHEDULED").task_queue
    assert (scheduled.name, scheduled.normal_name) == ("sticky", "q")
    assert life.start_task().sticky
    life.complete(sticky_attributes=STICKY)
    assert life.effects == []


def test_a_worker_that_no_longer_caches_is_not_asked_again() -> None:
    life = sticky_life()
    life.work()
    life.signal()
    assert not life.state.workflow_task.sticky  # type: ignore[union-attr]


def test_a_sticky_worker_that_does_not_come_is_not_waited_for() -> None:
    life = sticky_life()
    life.wait(5)
    timed_out = life.last("WORKFLOW_TASK_TIMED_OUT")
    assert timed_out.timeout_type == e.TIMEOUT_TYPE_SCHEDULE_TO_START
    task = life.state.workflow_task
    assert task is not None
    assert (task.queue, task.attempt) == ("q", 1), "it is no failed attempt"
    life.check()


def test_a_task_may_move_to_the_normal_queue() -> None:
    life = sticky_life()
    moved = life.step(workflow_task.move_to_normal_queue)
    assert moved == DispatchWorkflowTask("q", False, 6, 1)
    assert life.state.sticky_queue == ""


def test_stickiness_can_be_reset() -> None:
    life = WorkflowLife()
    life.step(workflow_task.reset_sticky)
    life.work(sticky_attributes=STICKY)
    life.step(workflow_task.reset_sticky)
    life.signal()
    assert not life.state.workflow_task.sticky  # type: ignore[union-attr]


# --- Again and again --------------------------------------------------------------------------


def test_attempts_after_the_first_leave_no_events() -> None:
    life = WorkflowLife()
    life.start_task()
    life.fail_task()
    for attempt in range(2, 6):
        shown = workflow_task.transient_events(life.state)
        assert [each.event_id for each in shown] == [5]
        granted = life.start_task()
        assert granted.attempt == attempt
        assert [each.event_id for each in granted.transient_events] == [5, 6]
        life.fail_task()
    assert life.kinds.count("WORKFLOW_TASK_FAILED") == 1
    life.now_ns += SECOND_NS
    life.work()
    assert life.kinds[-3:] == [
        "WORKFLOW_TASK_SCHEDULED",
        "WORKFLOW_TASK_STARTED",
        "WORKFLOW_TASK_COMPLETED",
    ]
    assert life.last("WORKFLOW_TASK_SCHEDULED").attempt == 6
    assert workflow_task.transient_events(life.state) == []
    life.check()


def test_new_events_make_it_a_first_attempt_again() -> None:
    life = WorkflowLife()
    life.start_task()
    life.fail_task()
    life.signal()
    granted = life.start_task()
    assert (granted.attempt, granted.transient_events) == (1, [])
    assert life.kinds[-2:] == ["WORKFLOW_TASK_SCHEDULED", "WORKFLOW_TASK_STARTED"]


def test_events_that_waited_while_it_failed_make_it_a_first_attempt_too() -> None:
    life = WorkflowLife()
    life.start_task()
    life.signal()
    life.fail_task()
    assert life.state.workflow_task.attempt == 1  # type: ignore[union-attr]
    life.check()


def test_a_worker_that_does_not_answer_is_given_more_time_each_time() -> None:
    life = WorkflowLife()
    timeouts = []
    for _ in range(6):
        life.start_task()
        task = life.state.workflow_task
        assert task is not None
        timeouts.append(task.timeout_ns // SECOND_NS)
        life.wait(timeouts[-1])
    assert timeouts == [10, 10, 10, 15, 20, 30]
    timed_out = life.last("WORKFLOW_TASK_TIMED_OUT")
    assert timed_out.timeout_type == e.TIMEOUT_TYPE_START_TO_CLOSE
    assert life.kinds.count("WORKFLOW_TASK_TIMED_OUT") == 1


def test_a_transient_task_carries_the_updates_that_wait() -> None:
    life = WorkflowLife()
    life.start_task()
    life.fail_task()
    life.admit("u")
    life.start_task()
    assert [each.protocol_instance_id for each in update.messages(life.state)] == ["u"]


# --- Long histories ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    "config",
    [
        Config(history_events_suggest_continue_as_new=5),
        Config(history_bytes_suggest_continue_as_new=300),
    ],
)
def test_a_long_history_suggests_to_continue_as_new(config: Config) -> None:
    life = WorkflowLife(config=config, input=payloads(b"x" * 10))
    life.start_task()
    assert not life.last("WORKFLOW_TASK_STARTED").suggest_continue_as_new
    life.complete(*(start_timer(f"t{i}") for i in range(5)))
    life.signal()
    life.start_task()
    assert life.last("WORKFLOW_TASK_STARTED").suggest_continue_as_new


# --- Pauses -----------------------------------------------------------------------------------


def test_a_pause_ends_a_task_that_no_worker_has() -> None:
    life = WorkflowLife()
    life.step(workflow_pause.pause, "me", "why", "p")
    assert life.kinds[-2:] == ["WORKFLOW_TASK_FAILED", "WORKFLOW_EXECUTION_PAUSED"]
    assert life.state.workflow_task is None
    life.signal()
    assert life.state.workflow_task is None
    life.step(workflow_pause.unpause, "me", "go on", "")
    assert life.state.workflow_task is not None
    assert life.state.workflow_task.attempt == 1
    life.check()


def test_a_pause_ends_a_transient_task_without_an_event() -> None:
    life = WorkflowLife()
    life.start_task()
    life.fail_task()
    life.step(workflow_pause.pause, "me", "why", "")
    assert life.kinds.count("WORKFLOW_TASK_FAILED") == 1
    life.step(workflow_pause.unpause, "me", "go on", "")
    life.work()
    life.check()


def test_a_task_that_a_worker_has_goes_on_through_a_pause() -> None:
    life = WorkflowLife()
    life.start_task()
    life.step(workflow_pause.pause, "me", "why", "")
    assert "WORKFLOW_EXECUTION_PAUSED" not in life.kinds, "its event waits"
    assert life.state.held, "it holds at once"
    life.complete()
    assert life.kinds[-1] == "WORKFLOW_EXECUTION_PAUSED"
    assert life.state.workflow_task is None


def test_without_a_task_a_pause_only_holds() -> None:
    life = WorkflowLife()
    life.work()
    life.step(workflow_pause.pause, "me", "why", "")
    assert life.kinds[-1] == "WORKFLOW_EXECUTION_PAUSED"
