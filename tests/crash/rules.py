"""What must hold in every history, whatever was killed: ARCHITECTURE.md, "Invariants"."""

from collections import Counter
from collections.abc import Sequence

from temporalio.api.enums.v1 import event_type_pb2 as event_types
from temporalio.api.history.v1 import message_pb2 as history

CLOSING = {
    event_types.EventType.Value(f"EVENT_TYPE_WORKFLOW_EXECUTION_{name}")
    for name in ("COMPLETED", "FAILED", "TIMED_OUT", "TERMINATED", "CANCELED", "CONTINUED_AS_NEW")
}
ENDS_OF_ACTIVITY = {
    event_types.EventType.Value(f"EVENT_TYPE_ACTIVITY_TASK_{name}")
    for name in ("COMPLETED", "FAILED", "TIMED_OUT", "CANCELED")
}


def check(events: Sequence[history.HistoryEvent]) -> None:
    """Raises AssertionError at the first rule that a history breaks."""
    assert [e.event_id for e in events] == list(range(1, len(events) + 1)), "ids are contiguous"
    closing = [e.event_id for e in events if e.event_type in CLOSING]
    assert closing == [len(events)], "one event closes the run, and it is the last"
    _check_activities(events)
    _check_timers(events)
    _check_workflow_tasks(events)


def _check_activities(events: Sequence[history.HistoryEvent]) -> None:
    kinds = {e.event_id: e.event_type for e in events}
    ends: Counter[int] = Counter()
    for event in events:
        if event.event_type in ENDS_OF_ACTIVITY:
            attributes = getattr(event, event.WhichOneof("attributes") or "")
            ends[attributes.scheduled_event_id] += 1
            scheduled = kinds[attributes.scheduled_event_id]
            assert scheduled == event_types.EVENT_TYPE_ACTIVITY_TASK_SCHEDULED
            if attributes.started_event_id:
                started = kinds[attributes.started_event_id]
                assert started == event_types.EVENT_TYPE_ACTIVITY_TASK_STARTED
    assert all(count == 1 for count in ends.values()), "an activity ends once"


def _check_timers(events: Sequence[history.HistoryEvent]) -> None:
    started = {
        e.event_id: e for e in events if e.event_type == event_types.EVENT_TYPE_TIMER_STARTED
    }
    fired: Counter[int] = Counter()
    for event in events:
        if event.event_type == event_types.EVENT_TYPE_TIMER_FIRED:
            start = started[event.timer_fired_event_attributes.started_event_id]
            fired[start.event_id] += 1
            due = (
                start.event_time.ToNanoseconds()
                + start.timer_started_event_attributes.start_to_fire_timeout.ToNanoseconds()
            )
            assert event.event_time.ToNanoseconds() >= due, "a timer never fires early"
    assert all(count == 1 for count in fired.values()), "a timer fires once"


def _check_workflow_tasks(events: Sequence[history.HistoryEvent]) -> None:
    in_flight = 0
    for event in events:
        if event.event_type == event_types.EVENT_TYPE_WORKFLOW_TASK_STARTED:
            in_flight += 1
            assert in_flight == 1, "one workflow task is in flight at a time"
        elif event.event_type in (
            event_types.EVENT_TYPE_WORKFLOW_TASK_COMPLETED,
            event_types.EVENT_TYPE_WORKFLOW_TASK_FAILED,
            event_types.EVENT_TYPE_WORKFLOW_TASK_TIMED_OUT,
        ):
            in_flight = max(0, in_flight - 1)


def signals(events: Sequence[history.HistoryEvent]) -> list[str]:
    """The request ids of the signals in a history, in order."""
    return [
        e.workflow_execution_signaled_event_attributes.request_id
        for e in events
        if e.event_type == event_types.EVENT_TYPE_WORKFLOW_EXECUTION_SIGNALED
    ]
