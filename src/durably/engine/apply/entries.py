"""apply(state, entry): the only writer of state.

Rule 1: live running, recovery and replication all change a state here and nowhere else: in the modules of
        this folder, and in the `apply.py` of those nouns that have a folder of their own.
Rule 2: an entry that is in the journal was valid when it was written; nothing is refused here.
Rule 3: what applying does depends on the state and the entry alone.

What an entry changes is found by its type, in the tables `EVENTS` and `RECORDS` of its noun's module, which
are put together here. A module has the name of the machine that writes its entries.
"""

from collections.abc import Callable
from typing import Any, assert_never, get_args

from temporalio.api.enums.v1 import event_type_pb2 as event_types
from temporalio.api.history.v1 import message_pb2 as history

from durably.engine import records as r
from durably.engine.apply import (
    activity,
    external_workflow,
    nexus_operation,
    timer,
    update,
    workflow,
    workflow_task,
)
from durably.engine.apply.requests import note_request
from durably.engine.batch import apply as batch
from durably.engine.callback import apply as callback
from durably.engine.deployment import apply as deployment
from durably.engine.journal import Changes, Created
from durably.engine.schedule import apply as schedule
from durably.engine.standalone import apply as standalone
from durably.engine.standalone_nexus import apply as standalone_nexus
from durably.engine.state import BUFFERED_EVENT_ID, ExecutionState, HistoryState, WorkflowState
from durably.engine.times import nanoseconds
from durably.engine.version_sets import apply as version_sets
from durably.engine.versioning import apply as versioning

# --- Events -----------------------------------------------------------------------------------


def apply_event(state: HistoryState, event: history.HistoryEvent, size_bytes: int) -> None:
    """Append one event. Its `event_id` is the state's next, unless it comes out of the buffer."""
    state.next_event_id = event.event_id + 1
    state.history_size_bytes += size_bytes
    state.last_event_ns = nanoseconds(event.event_time)
    if state.flushing:
        state.flushing -= 1
        _take_id_from_buffer(state, event)
        return
    _change(state, event)


def _change(state: HistoryState, event: history.HistoryEvent) -> None:
    change = EVENTS.get(event.event_type)
    if change is not None:
        change(state, event)


def _take_id_from_buffer(state: HistoryState, event: history.HistoryEvent) -> None:
    """The event was applied when it was buffered; what remembers its id learns it now."""
    assert isinstance(state, WorkflowState)  # Nothing else has workflow tasks to wait for.
    match event.event_type:
        case event_types.EVENT_TYPE_CHILD_WORKFLOW_EXECUTION_STARTED:
            attributes = event.child_workflow_execution_started_event_attributes
            child = state.children.get(attributes.initiated_event_id)
            if child is not None:
                child.started_event_id = event.event_id
        case event_types.EVENT_TYPE_WORKFLOW_EXECUTION_SIGNALED:
            request_id = event.workflow_execution_signaled_event_attributes.request_id
            if request_id in state.requests_seen:
                state.requests_seen[request_id] = event.event_id
        case event_types.EVENT_TYPE_WORKFLOW_EXECUTION_OPTIONS_UPDATED:
            for request_id in workflow.attached_requests(event):
                note_request(state, request_id, event)


EVENTS: dict[int, Callable[[Any, history.HistoryEvent], None]] = {
    **workflow.EVENTS,
    **workflow_task.EVENTS,
    **activity.EVENTS,
    **timer.EVENTS,
    **external_workflow.EVENTS,
    **update.EVENTS,
    **nexus_operation.EVENTS,
}
"""Event type -> what it changes. Types that are not here only take their place in history."""


# --- Records ----------------------------------------------------------------------------------


def apply_record(state: ExecutionState, record: r.AnyRecord) -> None:
    """Apply one internal record."""
    RECORDS[type(record)](state, record)


def _created(state: ExecutionState, record: Created) -> None:
    state.namespace = record.namespace
    state.create_request_id = record.request_id
    if isinstance(state, WorkflowState):
        state.scheduled_by = record.scheduled_by
        state.started_by = record.started_by


def _apply_buffer(state: WorkflowState, record: r.BufferRecord) -> None:
    match record:
        case r.EventBuffered():
            event = history.HistoryEvent.FromString(record.event)
            event.event_id = BUFFERED_EVENT_ID
            state.buffered.append(event)
            _change(state, event)
        case r.BufferFlushed():
            state.buffered.clear()
            state.flushing = record.count
        case r.BufferedTimerDropped():
            state.buffered = [
                e
                for e in state.buffered
                if e.timer_fired_event_attributes.timer_id != record.timer_id
                or e.event_type != event_types.EVENT_TYPE_TIMER_FIRED
            ]
        case _:
            assert_never(record)


RECORDS: Changes = {
    Created: _created,
    **dict.fromkeys(get_args(r.BufferRecord), _apply_buffer),
    **workflow.RECORDS,
    **workflow_task.RECORDS,
    **activity.RECORDS,
    **external_workflow.RECORDS,
    **update.RECORDS,
    **nexus_operation.RECORDS,
    **versioning.RECORDS,
    **callback.RECORDS,
    **standalone.RECORDS,
    **standalone_nexus.RECORDS,
    **schedule.RECORDS,
    **batch.RECORDS,
    **deployment.RECORDS,
    **version_sets.RECORDS,
}
"""Record -> what it changes. Looked up, not matched one after the other: each commit has some."""
