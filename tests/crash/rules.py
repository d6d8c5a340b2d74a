"""What must hold in every history, whatever was killed: ARCHITECTURE.md, "Invariants"."""

from collections import Counter
from collections.abc import Sequence
from typing import Any

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


def check_tables(tables: dict[str, list[tuple[Any, ...]]]) -> None:
    """What the tables say of executions that are all closed agrees, and nothing is left over."""
    versions = {row[1]: row[6] for row in tables["executions"]}
    runs = Counter((row[3], row[2], row[4], row[5]) for row in tables["executions"])
    assert set(runs.values()) <= {1}, "a run is there once"
    open_runs = Counter((row[3], row[2], row[4]) for row in tables["executions"] if row[7] == 1)
    assert not [key for key in open_runs if key[1] == 1], "no workflow is open any more"
    for row in tables["journal"]:
        assert row[2] <= versions[row[1]], "no version is beyond the last"
    assert {row[4] for row in tables["current_runs"]} <= set(versions)
    statuses = {row[1]: row[7] for row in tables["executions"]}
    for row in tables["visibility"]:
        assert row[8] == statuses[row[1]], "lists agree with the executions"
