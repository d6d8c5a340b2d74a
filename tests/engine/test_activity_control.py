"""What operators do to pending activities: pause, unpause, reset, change options."""

from typing import Any

import pytest
from temporalio.api.activity.v1 import message_pb2 as activities

from durably.engine import activity, activity_control, workflow_pause
from durably.engine.transition import DispatchActivity
from durably.errors import FailedPrecondition, InvalidArgument, NotFound
from tests.engine.lives import SECOND_NS, WorkflowLife, payloads, schedule_activity


def longest(jitter_ns: int) -> int:
    return jitter_ns


def pause(life: WorkflowLife, request_id: str = "") -> None:
    life.step(activity_control.pause, [life.pending()], "operator", "why", request_id)


def unpause(life: WorkflowLife, jitter_s: int = 0, **options: bool) -> None:
    asked = {"reset_attempts": False, "reset_heartbeat": False, **options}
    life.step(
        activity_control.unpause,
        [life.pending()],
        jitter=longest,
        jitter_ns=jitter_s * SECOND_NS,
        **asked,
    )


def reset(life: WorkflowLife, jitter_s: int = 0, **options: bool) -> None:
    asked = {"reset_heartbeat": False, "keep_paused": False, "restore_options": False, **options}
    life.step(
        activity_control.reset,
        [life.pending()],
        jitter=longest,
        jitter_ns=jitter_s * SECOND_NS,
        **asked,
    )


def change(life: WorkflowLife, *paths: str, limit_ns: int = 0, **options: Any) -> Any:
    return life.step(
        activity_control.update_options,
        [life.pending()],
        activities.ActivityOptions(**options),
        list(paths),
        limit_ns,
    )


def dispatched(life: WorkflowLife) -> bool:
    """Whether the last step put the attempt on its queue."""
    pending = life.pending()
    return DispatchActivity("q", pending.scheduled_event_id, pending.stamp) in life.effects


# --- Which ------------------------------------------------------------------------------------


def test_they_are_chosen_by_id_by_type_or_all() -> None:
    life = WorkflowLife()
    life.work(schedule_activity("a"), schedule_activity("b", activity_type={"name": "other"}))
    for asked, found in (
        ({"activity_id": "a"}, ["a"]),
        ({"kind": "other"}, ["b"]),
        ({"everything": True}, ["a", "b"]),
    ):
        chosen = activity_control.select(life.state, **asked)  # type: ignore[arg-type]
        assert [each.activity_id for each in chosen] == found
    with pytest.raises(NotFound):
        activity_control.select(life.state, activity_id="c")
    with pytest.raises(NotFound):
        activity_control.select(life.state)


# --- Pause ------------------------------------------------------------------------------------


def test_a_paused_attempt_that_waited_is_taken_by_nobody_and_times_out_never() -> None:
    life = WorkflowLife().with_activity(schedule_to_start_timeout={"seconds": 5})
    stamp = life.pending().stamp
    pause(life)
    assert life.visible
    with pytest.raises(NotFound):
        life.step(activity.take, life.pending().scheduled_event_id, stamp, "worker", "rq")
    life.wait(1000)
    unpause(life)
    assert dispatched(life)
    life.check()


def test_the_same_request_pauses_once_and_another_is_refused() -> None:
    life = WorkflowLife().with_activity()
    pause(life, "p")
    pause(life, "p")
    assert not life.visible
    for request_id in ("", "q"):
        with pytest.raises(FailedPrecondition, match="already paused"):
            pause(life, request_id)


def test_a_running_attempt_hears_of_the_pause_and_goes_on() -> None:
    life = WorkflowLife().with_activity()
    life.take()
    pause(life)
    assert life.respond(activity.heartbeat, None).paused
    life.respond(activity.complete, None, "worker")
    assert life.kinds[-2] == "ACTIVITY_TASK_COMPLETED"
    assert life.visible, "no activity of the workflow is paused any more"


def test_an_attempt_that_fails_while_paused_waits_for_the_operator() -> None:
    """However many attempts it has had."""
    life = WorkflowLife().with_activity(retry_policy={"maximum_attempts": 1})
    life.take()
    pause(life)
    life.fail_attempt()
    life.wait(100)
    assert not life.pending().started
    unpause(life)
    assert dispatched(life)
    assert life.pending().attempt == 2


def test_unpausing_one_that_runs_or_is_not_paused_dispatches_nothing() -> None:
    life = WorkflowLife().with_activity()
    unpause(life)
    assert not life.visible
    life.take()
    pause(life)
    unpause(life, reset_attempts=True, reset_heartbeat=True)
    assert life.effects == []
    assert life.respond(activity.heartbeat, None).reset
    life.respond(activity.complete, None, "worker")


def test_unpausing_may_start_over_and_forget_the_heartbeat() -> None:
    life = WorkflowLife().with_activity()
    life.take()
    life.respond(activity.heartbeat, payloads(b"half"))
    life.fail_attempt()
    pause(life)
    unpause(life, reset_attempts=True, reset_heartbeat=True)
    assert (life.pending().attempt, life.pending().heartbeat_details) == (1, None)
    assert dispatched(life)


def test_jitter_puts_off_what_is_dispatched() -> None:
    life = WorkflowLife().with_activity()
    pause(life)
    unpause(life, jitter_s=5)
    assert not dispatched(life)
    life.wait(5)
    assert dispatched(life)


def test_unpausing_may_keep_the_backoff() -> None:
    life = WorkflowLife().with_activity(retry_policy={"initial_interval": {"seconds": 60}})
    life.take()
    life.fail_attempt()
    pause(life)
    unpause(life, keep_backoff=True)
    assert not dispatched(life)
    life.wait(60)
    assert dispatched(life)


# --- Reset ------------------------------------------------------------------------------------


def test_a_waiting_attempt_begins_again_at_once() -> None:
    life = WorkflowLife().with_activity()
    life.take()
    life.respond(activity.heartbeat, payloads(b"half"))
    life.fail_attempt()
    reset(life, reset_heartbeat=True)
    assert dispatched(life)
    assert (life.pending().attempt, life.pending().heartbeat_details) == (1, None)


def test_a_running_attempt_goes_on_and_the_next_is_the_first_again() -> None:
    life = WorkflowLife().with_activity(retry_policy={"maximum_attempts": 2})
    life.take()
    life.fail_attempt()
    life.wait(1)
    life.take()
    life.respond(activity.heartbeat, payloads(b"half"))
    reset(life, reset_heartbeat=True)
    assert life.respond(activity.heartbeat, None).reset
    assert life.pending().heartbeat_details == payloads(b"half"), "not before its end"
    life.fail_attempt()
    assert (life.pending().attempt, life.pending().heartbeat_details) == (2, None)


def test_a_reset_unpauses_unless_it_is_asked_not_to() -> None:
    life = WorkflowLife().with_activity()
    pause(life)
    reset(life, keep_paused=True)
    assert life.pending().pause is not None
    assert not dispatched(life)
    reset(life)
    assert life.pending().pause is None
    assert dispatched(life)


def test_a_reset_may_bring_back_the_options_it_was_scheduled_with() -> None:
    life = WorkflowLife().with_activity()
    reset(life, restore_options=True)
    change(life, "start_to_close_timeout", start_to_close_timeout={"seconds": 7})
    reset(life, restore_options=True)
    assert life.pending().scheduled.start_to_close_timeout.seconds == 10


# --- Options ----------------------------------------------------------------------------------


def test_only_what_is_named_changes() -> None:
    life = WorkflowLife().with_activity(heartbeat_timeout={"seconds": 5})
    before = life.pending().scheduled
    now = change(
        life,
        "heartbeat_timeout",
        "retry_policy.maximum_attempts",
        "retry_policy.initial_interval",
        "priority",
        "task_queue.name",
        heartbeat_timeout={"seconds": 2},
        start_to_close_timeout={"seconds": 99},
        retry_policy={"maximum_attempts": 4, "initial_interval": {"seconds": 3}},
        task_queue={"name": "other"},
    )
    assert now.heartbeat_timeout.seconds == 2
    assert now.start_to_close_timeout.seconds == 10
    assert now.retry_policy.maximum_attempts == 4
    assert now.retry_policy.initial_interval.seconds == 3
    assert not now.HasField("priority")
    assert life.pending().scheduled.task_queue.name == "other"
    assert before.task_queue.name == "q", "what was granted before holds the old ones"
    assert [each.queue for each in life.effects if isinstance(each, DispatchActivity)] == ["other"]


def test_an_attempt_that_backs_off_waits_as_the_new_policy_says() -> None:
    life = WorkflowLife().with_activity(retry_policy={"initial_interval": {"seconds": 60}})
    life.take()
    life.fail_attempt()
    change(life, "retry_policy", retry_policy={"initial_interval": {"seconds": 5}})
    life.wait(4)
    assert not dispatched(life)
    life.wait(1)
    assert dispatched(life)


def test_a_running_or_paused_one_is_left_where_it_is() -> None:
    life = WorkflowLife().with_activity()
    pause(life)
    change(life, "heartbeat_timeout", heartbeat_timeout={"seconds": 2})
    assert not dispatched(life)
    unpause(life)
    life.take()
    change(life, "heartbeat_timeout", heartbeat_timeout={"seconds": 3})
    assert not dispatched(life)
    assert life.pending().started
    life.wait(3)
    assert not life.pending().started, "the deadline of the new timeout was kept"


def test_an_activity_of_a_paused_workflow_is_not_dispatched_by_new_options() -> None:
    life = WorkflowLife().with_activity()
    life.step(workflow_pause.pause, "me", "why", "")
    change(life, "heartbeat_timeout", heartbeat_timeout={"seconds": 2})
    assert not dispatched(life)


def test_a_shorter_timeout_of_a_running_one_holds_while_its_workflow_is_paused() -> None:
    life = WorkflowLife().with_activity(heartbeat_timeout={"seconds": 8})
    life.take()
    life.step(workflow_pause.pause, "me", "why", "")
    change(life, "heartbeat_timeout", heartbeat_timeout={"seconds": 2})
    life.wait(2)
    assert not life.pending().started


def test_options_can_be_restored() -> None:
    life = WorkflowLife().with_activity()
    first = life.step(activity_control.restore_options, [life.pending()])
    assert first.start_to_close_timeout.seconds == 10
    change(life, "start_to_close_timeout", start_to_close_timeout={"seconds": 7})
    change(life, "start_to_close_timeout", start_to_close_timeout={"seconds": 8})
    restored = life.step(activity_control.restore_options, [life.pending()])
    assert restored == first


def test_no_timeout_is_longer_than_the_run_may_take() -> None:
    life = WorkflowLife().with_activity(heartbeat_timeout={"seconds": 5})
    now = change(
        life,
        "start_to_close_timeout",
        limit_ns=3 * SECOND_NS,
        start_to_close_timeout={"seconds": 99},
    )
    assert now.start_to_close_timeout.seconds == 3
    assert now.heartbeat_timeout.seconds == 3


@pytest.mark.parametrize(
    ("paths", "options", "message"),
    [
        (["nonsense"], {}, "'nonsense', which activity options do not have"),
        (["retry_policy.nonsense"], {}, "'retry_policy.nonsense', which"),
        (["task_queue"], {}, "TaskQueue is not set"),
        (["retry_policy"], {"retry_policy": {"maximum_attempts": -1}}, "cannot be negative"),
        (["heartbeat_timeout"], {"heartbeat_timeout": {"seconds": -1}}, "cannot be negative"),
        (
            ["start_to_close_timeout", "schedule_to_close_timeout"],
            {},
            "A valid StartToClose or ScheduleToCloseTimeout is not set",
        ),
    ],
)
def test_what_makes_no_sense_is_refused(
    paths: list[str], options: dict[str, Any], message: str
) -> None:
    life = WorkflowLife().with_activity()
    with pytest.raises(InvalidArgument, match=message):
        change(life, *paths, **options)


def test_activities_of_a_closed_workflow_are_controlled_by_nobody() -> None:
    life = WorkflowLife().with_activity()
    pending = life.pending()
    life.terminate()
    for decide, *asked in (
        (activity_control.pause, "me", "why", ""),
        (activity_control.update_options, activities.ActivityOptions(), [], 0),
        (activity_control.restore_options,),
    ):
        with pytest.raises(NotFound):
            life.step(decide, [pending], *asked)
