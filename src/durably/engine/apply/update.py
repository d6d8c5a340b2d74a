"""Updates, as events and records change them. Rules: see `entries.py`."""

from collections.abc import Callable
from typing import assert_never, get_args

from temporalio.api.enums.v1 import event_type_pb2 as event_types
from temporalio.api.history.v1 import message_pb2 as history
from temporalio.api.update.v1 import message_pb2 as update_messages

from durably.engine import records as r
from durably.engine.apply.requests import note_request
from durably.engine.callback.apply import attach, update_ended
from durably.engine.journal import Changes
from durably.engine.state import Update, WorkflowState
from durably.engine.times import nanoseconds

UPDATES_COMPLETED_MAX = 10_000


def _admitted(state: WorkflowState, event: history.HistoryEvent) -> None:
    request = event.workflow_execution_update_admitted_event_attributes.request
    update_id = request.meta.update_id
    state.updates[update_id] = Update(
        update_id, request.SerializeToString(), admitted_event_id=event.event_id
    )
    state.updates_total += 1
    _requested(state, update_id, request, event)


def _requested(
    state: WorkflowState,
    update_id: str,
    request: update_messages.Request,
    event: history.HistoryEvent,
) -> None:
    """What the request of an update brings along, when it has come into history."""
    note_request(state, request.request_id, event)
    at_ns = nanoseconds(event.event_time)
    attach(state, request.request_id, request.completion_callbacks, at_ns, update_id)


def _accepted(state: WorkflowState, event: history.HistoryEvent) -> None:
    attributes = event.workflow_execution_update_accepted_event_attributes
    update = state.updates.get(attributes.protocol_instance_id)
    if update is None:
        update = Update(attributes.protocol_instance_id, b"")
        state.updates[update.update_id] = update
    update.accepted_event_id = event.event_id
    update.request = b""
    update.sent = False
    update.attached = []
    if attributes.HasField("accepted_request"):
        update_id = attributes.protocol_instance_id
        _requested(state, update_id, attributes.accepted_request, event)


def _completed(state: WorkflowState, event: history.HistoryEvent) -> None:
    update_id = event.workflow_execution_update_completed_event_attributes.meta.update_id
    state.updates.pop(update_id, None)
    state.updates_completed[update_id] = event.event_id
    update_ended(state, update_id, event.event_id)
    if len(state.updates_completed) > UPDATES_COMPLETED_MAX:
        del state.updates_completed[next(iter(state.updates_completed))]


def _apply(state: WorkflowState, record: r.UpdateRecord) -> None:
    match record:
        case r.UpdateAdmitted():
            state.updates[record.update_id] = Update(record.update_id, record.request)
            state.updates_total += 1
        case r.UpdateAttached():
            waiting = state.updates[record.update_id]
            waiting.attached.append((record.request_id, record.options))
        case r.UpdateDropped():
            state.updates.pop(record.update_id, None)
            if record.outcome:
                update_ended(state, record.update_id, 0, record.outcome, record.at_ns)
        case _:
            assert_never(record)


EVENTS: dict[int, Callable[[WorkflowState, history.HistoryEvent], None]] = {
    event_types.EVENT_TYPE_WORKFLOW_EXECUTION_UPDATE_ADMITTED: _admitted,
    event_types.EVENT_TYPE_WORKFLOW_EXECUTION_UPDATE_ACCEPTED: _accepted,
    event_types.EVENT_TYPE_WORKFLOW_EXECUTION_UPDATE_COMPLETED: _completed,
}
RECORDS: Changes = dict.fromkeys(get_args(r.UpdateRecord), _apply)
