"""The timer machine, the smallest: read it first.

    state     input    to        journal
    -------   ------   -------   ----------------------------------
    none      start    pending   TimerStarted
    pending   due      none      TimerFired, and a workflow task
    pending   cancel   none      TimerCanceled

Rule 1: a timer never fires early, nor twice; one that is overdue fires once.
Rule 2: a timer that fired while the worker was deciding to cancel it is canceled: the worker has not
        seen it fire.
"""

from temporalio.api.command.v1 import message_pb2 as command
from temporalio.api.enums.v1 import event_type_pb2 as event_types
from temporalio.api.enums.v1 import failed_cause_pb2 as causes
from temporalio.api.history.v1 import message_pb2 as history
from temporalio.api.sdk.v1 import user_metadata_pb2 as sdk

from durably.engine import workflow_task
from durably.engine.records import BufferedTimerDropped
from durably.engine.refusals import BadCommand
from durably.engine.times import nanoseconds
from durably.engine.transition import Transition

BAD_START = causes.WORKFLOW_TASK_FAILED_CAUSE_BAD_START_TIMER_ATTRIBUTES
BAD_CANCEL = causes.WORKFLOW_TASK_FAILED_CAUSE_BAD_CANCEL_TIMER_ATTRIBUTES


def start(
    t: Transition,
    attributes: command.StartTimerCommandAttributes,
    completed_event_id: int,
    user_metadata: sdk.UserMetadata | None,
) -> None:
    """Command: start a timer."""
    if not attributes.timer_id:
        raise BadCommand(BAD_START, "TimerId is not set on StartTimerCommand.")
    if nanoseconds(attributes.start_to_fire_timeout) < 0:
        raise BadCommand(
            BAD_START,
            "An invalid StartToFireTimeout is set on StartTimerCommand:"
            f" it must not be negative. TimerId={attributes.timer_id}",
        )
    if attributes.timer_id in t.state.timers:
        cause = causes.WORKFLOW_TASK_FAILED_CAUSE_START_TIMER_DUPLICATE_ID
        raise BadCommand(cause, f"Timer already started. TimerId={attributes.timer_id}")
    event = history.TimerStartedEventAttributes(
        timer_id=attributes.timer_id,
        start_to_fire_timeout=attributes.start_to_fire_timeout,
        workflow_task_completed_event_id=completed_event_id,
    )
    t.record(event, user_metadata=user_metadata)
    t.attend(t.state.timers[attributes.timer_id].fire_at_ns)


def cancel(
    t: Transition,
    attributes: command.CancelTimerCommandAttributes,
    completed_event_id: int,
    identity: str,
) -> None:
    """Command: cancel a timer that is pending, or fired where the worker could not see it yet."""
    timer_id = attributes.timer_id
    if not timer_id:
        raise BadCommand(BAD_CANCEL, "TimerId is not set on CancelTimerCommand.")
    pending = t.state.timers.get(timer_id)
    started_event_id = pending.started_event_id if pending else _fired_in_buffer(t, timer_id)
    if not started_event_id:
        raise BadCommand(BAD_CANCEL, f"Timer not found. TimerId={timer_id}")
    if pending is None:
        t.note(BufferedTimerDropped(timer_id))
    t.record(
        history.TimerCanceledEventAttributes(
            timer_id=timer_id,
            started_event_id=started_event_id,
            workflow_task_completed_event_id=completed_event_id,
            identity=identity,
        )
    )


def _fired_in_buffer(t: Transition, timer_id: str) -> int:
    for event in t.state.buffered:
        fired = event.timer_fired_event_attributes
        if event.event_type == event_types.EVENT_TYPE_TIMER_FIRED and fired.timer_id == timer_id:
            return fired.started_event_id
    return 0


def fire_due(t: Transition) -> None:
    """Fire every timer whose time has come, in the order of their times."""
    due = [timer for timer in t.state.timers.values() if timer.fire_at_ns <= t.now_ns]
    for timer in sorted(due, key=lambda each: (each.fire_at_ns, each.started_event_id)):
        t.record(
            history.TimerFiredEventAttributes(
                timer_id=timer.timer_id, started_event_id=timer.started_event_id
            )
        )
    if due:
        workflow_task.schedule_if_none(t)
