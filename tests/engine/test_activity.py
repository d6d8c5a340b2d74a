"""Activities of workflows: attempts, retries, heartbeats, timeouts, cancels."""

from typing import Any

import pytest
from temporalio.api.command.v1 import message_pb2 as command
from temporalio.api.common.v1 import message_pb2 as common
from temporalio.api.enums.v1 import workflow_pb2 as workflow_enums
from temporalio.api.failure.v1 import message_pb2 as failure

from durably.config import Config
from durably.engine import activity, workflow_pause
from durably.engine.state import Activity, WorkflowState
from durably.engine.transition import DispatchActivity, PausingRule
from durably.errors import InvalidArgument, NotFound
from tests.engine.lives import (
    SECOND_NS,
    WorkflowLife,
    application_failure,
    as_command,
    assert_bad,
    cancel_activity,
    complete_workflow,
    payloads,
    schedule_activity,
)

SCHEDULED = 5
"""Id of the event that schedules the first activity of a workflow."""
NO_RETRY = common.RetryPolicy(maximum_attempts=1)


def always(state: WorkflowState, pending: Activity, now_ns: int) -> PausingRule:
    return PausingRule("rule", "me", "why")


def timeout_of(life: WorkflowLife) -> str:
    ended = life.last("ACTIVITY_TASK_TIMED_OUT")
    kind = ended.failure.timeout_failure_info.timeout_type
    return workflow_enums.TimeoutType.Name(kind).removeprefix("TIMEOUT_TYPE_")


def retry_state(life: WorkflowLife, kind: str = "ACTIVITY_TASK_FAILED") -> str:
    name = workflow_enums.RetryState.Name(life.last(kind).retry_state)
    return name.removeprefix("RETRY_STATE_")


# --- Schedule ---------------------------------------------------------------------------------


def test_it_waits_on_the_queue_of_its_workflow_unless_it_names_another() -> None:
    life = WorkflowLife()
    life.work(schedule_activity("a"), schedule_activity("b", task_queue={"name": "other"}))
    assert {e.queue for e in life.effects if isinstance(e, DispatchActivity)} == {"q", "other"}
    life.check()


def test_history_shows_what_was_asked_for_and_every_default() -> None:
    life = WorkflowLife(workflow_run_timeout={"seconds": 60})
    life.work(
        schedule_activity(
            header={"fields": {"h": common.Payload(data=b"1")}},
            input=payloads(b"in"),
            priority={"priority_key": 2},
            start_to_close_timeout={"seconds": 100},
            heartbeat_timeout={"seconds": 200},
        )
    )
    scheduled = life.last("ACTIVITY_TASK_SCHEDULED")
    assert scheduled.header.fields["h"].data == b"1"
    assert scheduled.input == payloads(b"in")
    assert scheduled.priority.priority_key == 2
    policy = scheduled.retry_policy
    assert (policy.initial_interval.seconds, policy.backoff_coefficient) == (1, 2.0)
    assert policy.maximum_interval.seconds == 100
    timeouts = (
        scheduled.schedule_to_close_timeout.seconds,
        scheduled.schedule_to_start_timeout.seconds,
        scheduled.start_to_close_timeout.seconds,
        scheduled.heartbeat_timeout.seconds,
    )
    assert timeouts == (60, 60, 60, 60), "none is longer than the run may take"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"activity_id": ""}, "ActivityId is not set"),
        ({"activity_type": common.ActivityType()}, "ActivityType is not set"),
        ({"activity_id": "x" * 1001}, "exceeds its length limit"),
        ({"activity_type": common.ActivityType(name="x" * 1001)}, "exceeds its length limit"),
        ({"retry_policy": {"maximum_attempts": -1}}, "MaximumAttempts cannot be negative"),
        ({"priority": {"priority_key": -1}}, "priority key can't be negative"),
        ({"schedule_to_close_timeout": {"seconds": -1}}, "Invalid ScheduleToCloseTimeout"),
        ({"schedule_to_start_timeout": {"seconds": -1}}, "Invalid ScheduleToStartTimeout"),
        ({"start_to_close_timeout": {"seconds": -1}}, "Invalid StartToCloseTimeout"),
        ({"heartbeat_timeout": {"seconds": -1}}, "Invalid HeartbeatTimeout"),
        ({"start_to_close_timeout": {}}, "A valid StartToClose or ScheduleToCloseTimeout"),
    ],
)
def test_a_bad_command_fails_the_task(options: dict[str, Any], message: str) -> None:
    life = WorkflowLife()
    life.start_task()
    asked = schedule_activity(**options)
    assert_bad(life, asked, "BAD_SCHEDULE_ACTIVITY_ATTRIBUTES", message)


def test_an_activity_id_is_pending_once() -> None:
    life = WorkflowLife().with_activity()
    life.signal()
    life.start_task()
    assert_bad(life, schedule_activity(), "SCHEDULE_ACTIVITY_DUPLICATE_ID", "pending already")


def test_so_many_activities_may_be_pending() -> None:
    life = WorkflowLife(config=Config(pending_activities_max=1)).with_activity()
    life.signal()
    life.start_task()
    asked = schedule_activity("b")
    assert_bad(life, asked, "PENDING_ACTIVITIES_LIMIT_EXCEEDED", "has reached the limit of 1")


def test_an_eager_one_starts_for_the_worker_that_asks() -> None:
    life = WorkflowLife()
    eager = schedule_activity("a", request_eager_execution=True)
    elsewhere = schedule_activity("b", request_eager_execution=True, task_queue={"name": "other"})
    completed = life.work(eager, elsewhere)
    assert [each.activity.activity_id for each in completed.activities] == ["a"]
    assert life.pending("a").started
    assert not life.pending("b").started


def test_a_rule_stops_an_eager_one_too() -> None:
    life = WorkflowLife()
    life.rule_for = always
    completed = life.work(schedule_activity("a", request_eager_execution=True))
    assert completed.activities == []
    assert life.pending().pause is not None


# --- Start ------------------------------------------------------------------------------------


def test_an_attempt_is_taken_once() -> None:
    life = WorkflowLife().with_activity()
    granted = life.take(request_id="first")
    again = life.take(request_id="first")
    assert granted == again, "a worker that asks again after a lost reply is given the same"
    with pytest.raises(NotFound):
        life.take(request_id="second")
    stamp = life.pending().stamp
    with pytest.raises(NotFound):
        life.step(activity.take, SCHEDULED, stamp + 1, "worker", "first")
    with pytest.raises(NotFound):
        life.step(activity.take, 99, 1, "worker", "first")


def test_nobody_takes_an_attempt_of_a_closed_workflow() -> None:
    life = WorkflowLife().with_activity()
    stamp = life.pending().stamp
    life.terminate()
    with pytest.raises(NotFound):
        life.step(activity.take, SCHEDULED, stamp, "worker", "rq")


def test_a_rule_pauses_an_attempt_that_has_waited_on_its_queue() -> None:
    life = WorkflowLife().with_activity()
    life.rule_for = always
    assert life.take() is None
    assert life.visible
    pause = life.pending().pause
    assert pause is not None
    assert (pause.rule_id, pause.identity, pause.reason) == ("rule", "me", "why")


def test_a_rule_pauses_an_attempt_before_it_is_dispatched() -> None:
    life = WorkflowLife()
    life.rule_for = always
    life.with_activity()
    assert life.pending().pause is not None
    assert life.effects == []


def test_what_it_does_not_say_of_its_priority_is_as_in_its_workflow() -> None:
    life = WorkflowLife(priority={"priority_key": 1, "fairness_key": "tenant"})
    life.with_activity(priority={"priority_key": 4, "fairness_weight": 2.0})
    granted = life.take()
    assert granted is not None
    assert granted.priority == common.Priority(
        priority_key=4, fairness_key="tenant", fairness_weight=2.0
    )


# --- End --------------------------------------------------------------------------------------


def test_an_attempt_enters_history_when_it_ends() -> None:
    life = WorkflowLife().with_activity()
    life.take()
    assert "ACTIVITY_TASK_STARTED" not in life.kinds
    life.now_ns += SECOND_NS
    life.respond(activity.complete, payloads(b"out"), "worker")
    assert life.kinds[-3:] == [
        "ACTIVITY_TASK_STARTED",
        "ACTIVITY_TASK_COMPLETED",
        "WORKFLOW_TASK_SCHEDULED",
    ]
    started = life.events[-3]
    assert started.event_time.ToNanoseconds() == life.now_ns - SECOND_NS
    assert life.last("ACTIVITY_TASK_COMPLETED").started_event_id == started.event_id
    assert not life.state.activities
    with pytest.raises(NotFound):
        life.step(activity.complete, SCHEDULED, 1, None, "worker")


def test_an_end_that_comes_while_a_worker_decides_waits_in_order() -> None:
    life = WorkflowLife().with_activity()
    life.take()
    life.signal("before")
    life.start_task()
    life.respond(activity.complete, payloads(b"out"), "worker")
    life.signal("after")
    life.complete()
    assert life.kinds[-5:] == [
        "WORKFLOW_TASK_COMPLETED",
        "ACTIVITY_TASK_STARTED",
        "WORKFLOW_EXECUTION_SIGNALED",
        "ACTIVITY_TASK_COMPLETED",
        "WORKFLOW_TASK_SCHEDULED",
    ], "ends come after all else, so that none precedes its start"
    completed = life.last("ACTIVITY_TASK_COMPLETED")
    assert completed.started_event_id == life.events[-4].event_id
    life.check()


def test_by_its_id_one_that_waits_can_be_completed_but_not_failed() -> None:
    life = WorkflowLife().with_activity()
    with pytest.raises(NotFound):
        life.step(activity.fail, SCHEDULED, 0, application_failure(), "me")
    life.step(activity.complete, SCHEDULED, 0, None, "me")
    assert life.kinds[-2] == "ACTIVITY_TASK_COMPLETED"
    with pytest.raises(NotFound):
        life.step(activity.complete, SCHEDULED, 0, None, "me")


def test_nothing_is_said_of_activities_of_a_closed_workflow() -> None:
    life = WorkflowLife().with_activity()
    life.take()
    life.terminate()
    with pytest.raises(NotFound):
        life.step(activity.complete, SCHEDULED, 1, None, "worker")


def test_a_failed_attempt_is_followed_by_another_after_its_backoff() -> None:
    life = WorkflowLife().with_activity()
    life.take()
    life.fail_attempt()
    assert "ACTIVITY_TASK_STARTED" not in life.kinds, "retries leave no events"
    with pytest.raises(NotFound):
        life.step(activity.complete, SCHEDULED, 1, None, "worker")
    life.wait(0.9)
    assert life.effects == []
    life.wait(0.1)
    assert [type(each) for each in life.effects] == [DispatchActivity]
    granted = life.take()
    assert granted is not None
    assert granted.attempt == 2
    life.respond(activity.complete, None, "worker")
    started = life.last("ACTIVITY_TASK_STARTED")
    assert (started.attempt, started.last_failure.message) == (2, "broken")


def test_the_last_attempt_that_fails_fails_the_activity() -> None:
    life = WorkflowLife().with_activity(retry_policy=NO_RETRY)
    life.take()
    life.fail_attempt()
    assert life.last("ACTIVITY_TASK_FAILED").failure.message == "broken"
    assert retry_state(life) == "MAXIMUM_ATTEMPTS_REACHED"


def test_a_failure_brings_the_last_heartbeat_along() -> None:
    life = WorkflowLife().with_activity()
    life.take()
    life.respond(activity.fail, application_failure(), "worker", payloads(b"progress"))
    assert life.pending().heartbeat_details == payloads(b"progress")
    life.wait(1)
    life.take()
    life.respond(activity.fail, application_failure(), "worker", common.Payloads())
    assert life.pending().heartbeat_details == payloads(b"progress")


def test_one_that_is_to_be_canceled_is_not_tried_again() -> None:
    life = WorkflowLife().with_activity()
    life.take()
    life.signal()
    life.work(cancel_activity(SCHEDULED))
    life.fail_attempt()
    assert retry_state(life) == "CANCEL_REQUESTED"


def test_a_heartbeat_says_what_is_asked_of_the_attempt() -> None:
    life = WorkflowLife().with_activity()
    life.take()
    answer = life.respond(activity.heartbeat, payloads(b"1"))
    assert answer == activity.HeartbeatAnswer(False, False, False)
    life.signal()
    life.work(cancel_activity(SCHEDULED))
    assert life.respond(activity.heartbeat, None).cancel_requested
    assert life.pending().heartbeat_details == payloads(b"1")
    assert life.pending().heartbeats == 2


# --- Cancel -----------------------------------------------------------------------------------


def test_a_worker_that_obeys_a_cancel_ends_the_activity() -> None:
    life = WorkflowLife().with_activity()
    life.take()
    with pytest.raises(InvalidArgument, match="without activity being request canceled first"):
        life.respond(activity.confirm_cancel, None, "worker")
    life.signal()
    life.work(cancel_activity(SCHEDULED))
    requested = life.events[-1].event_id
    assert life.kinds[-1] == "ACTIVITY_TASK_CANCEL_REQUESTED"
    life.respond(activity.confirm_cancel, payloads(b"undone"), "worker")
    canceled = life.last("ACTIVITY_TASK_CANCELED")
    assert canceled.latest_cancel_requested_event_id == requested
    assert canceled.details == payloads(b"undone")


def test_one_that_no_worker_has_is_canceled_at_once() -> None:
    life = WorkflowLife()
    life.work(schedule_activity(), cancel_activity(SCHEDULED))
    assert life.kinds[-3:-1] == ["ACTIVITY_TASK_CANCEL_REQUESTED", "ACTIVITY_TASK_CANCELED"]
    assert life.kinds[-1] == "WORKFLOW_TASK_SCHEDULED", "the worker is to hear of it"


def test_a_cancel_that_comes_twice_or_too_late_changes_nothing() -> None:
    life = WorkflowLife().with_activity()
    life.take()
    life.signal()
    life.work(cancel_activity(SCHEDULED), cancel_activity(SCHEDULED))
    assert life.kinds.count("ACTIVITY_TASK_CANCEL_REQUESTED") == 1
    life.respond(activity.complete, None, "worker")
    life.work(cancel_activity(SCHEDULED))
    assert life.kinds.count("ACTIVITY_TASK_CANCEL_REQUESTED") == 2, "SDKs expect the event"
    life.check()


@pytest.mark.parametrize(
    ("event_id", "message"), [(0, "ScheduledEventId is not set"), (99, "no activity has the id 99")]
)
def test_a_cancel_of_what_never_was_fails_the_task(event_id: int, message: str) -> None:
    life = WorkflowLife()
    life.start_task()
    asked = as_command(
        command.RequestCancelActivityTaskCommandAttributes(scheduled_event_id=event_id)
    )
    assert_bad(life, asked, "BAD_REQUEST_CANCEL_ACTIVITY_ATTRIBUTES", message)


# --- Time -------------------------------------------------------------------------------------


def test_one_that_no_worker_takes_in_time_is_not_tried_again() -> None:
    life = WorkflowLife().with_activity(schedule_to_start_timeout={"seconds": 3})
    life.wait(3)
    assert timeout_of(life) == "SCHEDULE_TO_START"
    assert retry_state(life, "ACTIVITY_TASK_TIMED_OUT") == "TIMEOUT"
    assert life.last("ACTIVITY_TASK_TIMED_OUT").started_event_id == 0


def test_an_attempt_that_takes_too_long_is_tried_again() -> None:
    life = WorkflowLife().with_activity(retry_policy={"maximum_attempts": 2})
    life.take()
    life.wait(10)
    assert life.pending().attempt == 2
    life.wait(1)
    life.take()
    life.wait(10)
    assert timeout_of(life) == "START_TO_CLOSE"
    assert retry_state(life, "ACTIVITY_TASK_TIMED_OUT") == "MAXIMUM_ATTEMPTS_REACHED"
    cause = life.last("ACTIVITY_TASK_TIMED_OUT").failure.cause
    assert cause.timeout_failure_info.timeout_type == workflow_enums.TIMEOUT_TYPE_START_TO_CLOSE


def test_silence_for_longer_than_the_heartbeat_timeout_ends_an_attempt() -> None:
    life = WorkflowLife().with_activity(heartbeat_timeout={"seconds": 3}, retry_policy=NO_RETRY)
    life.take()
    life.wait(2)
    life.respond(activity.heartbeat, payloads(b"half"))
    life.wait(2)
    assert life.pending().started
    life.wait(1)
    assert timeout_of(life) == "HEARTBEAT"
    ended = life.last("ACTIVITY_TASK_TIMED_OUT").failure.timeout_failure_info
    assert ended.last_heartbeat_details == payloads(b"half")


def test_schedule_to_close_ends_all_attempts() -> None:
    life = WorkflowLife().with_activity(schedule_to_close_timeout={"seconds": 8})
    life.take()
    life.wait(8)
    assert timeout_of(life) == "SCHEDULE_TO_CLOSE"
    assert retry_state(life, "ACTIVITY_TASK_TIMED_OUT") == "TIMEOUT"


def test_what_ends_one_whose_next_attempt_would_come_too_late_is_schedule_to_close() -> None:
    life = WorkflowLife().with_activity(
        schedule_to_close_timeout={"seconds": 8},
        start_to_close_timeout={"seconds": 5},
        retry_policy={"initial_interval": {"seconds": 4}},
    )
    life.take()
    life.wait(5)
    assert timeout_of(life) == "SCHEDULE_TO_CLOSE"
    assert "Not enough time" in life.last("ACTIVITY_TASK_TIMED_OUT").failure.message


def test_a_canceled_one_that_times_out_is_not_tried_again() -> None:
    life = WorkflowLife().with_activity(schedule_to_close_timeout={"seconds": 8})
    life.take()
    life.signal()
    life.work(cancel_activity(SCHEDULED))
    life.wait(8)
    assert timeout_of(life) == "SCHEDULE_TO_CLOSE"
    assert retry_state(life, "ACTIVITY_TASK_TIMED_OUT") == "CANCEL_REQUESTED"


def test_time_touches_only_what_is_due() -> None:
    life = WorkflowLife()
    life.work(
        schedule_activity("soon", schedule_to_start_timeout={"seconds": 2}),
        schedule_activity("later", schedule_to_start_timeout={"seconds": 9}),
        schedule_activity("never"),
    )
    life.wait(2)
    assert set(life.state.activity_ids) == {"later", "never"}


def test_a_rule_pauses_a_retry_that_is_due() -> None:
    life = WorkflowLife().with_activity()
    life.take()
    life.fail_attempt()
    life.rule_for = always
    life.wait(1)
    assert life.pending().pause is not None
    assert life.effects == []


def test_while_its_workflow_is_paused_it_is_scheduled_but_not_dispatched() -> None:
    life = WorkflowLife()
    life.start_task()
    life.step(workflow_pause.pause, "me", "why", "")
    life.complete(schedule_activity(request_eager_execution=True))
    assert life.effects == []
    assert not life.pending().started
    life.step(workflow_pause.unpause, "me", "go on", "")
    assert DispatchActivity("q", SCHEDULED, life.pending().stamp) in life.effects
    life.check()


def test_the_end_of_its_workflow_is_the_end_of_it() -> None:
    life = WorkflowLife()
    life.work(schedule_activity(), complete_workflow())
    assert not life.state.activities
    assert life.kinds[-1] == "WORKFLOW_EXECUTION_COMPLETED"


def test_a_timeout_is_said_by_the_server() -> None:
    life = WorkflowLife().with_activity(schedule_to_start_timeout={"seconds": 1})
    life.wait(1)
    reason: failure.Failure = life.last("ACTIVITY_TASK_TIMED_OUT").failure
    assert (reason.source, reason.message) == ("Server", "activity ScheduleToStart timeout")


def test_what_no_worker_had_ends_while_another_decides() -> None:
    """Its end waits in the buffer, and names no start when it leaves it."""
    life = WorkflowLife().with_activity(schedule_to_start_timeout={"seconds": 3})
    life.signal()
    life.start_task()
    life.wait(3)
    life.complete()
    assert life.kinds[-2] == "ACTIVITY_TASK_TIMED_OUT"
    assert life.last("ACTIVITY_TASK_TIMED_OUT").started_event_id == 0
