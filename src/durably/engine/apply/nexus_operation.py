"""Nexus operations, of workflows and on their own, as events and records change them.

Rules: see `entries.py`.
"""

from collections.abc import Callable
from typing import assert_never, get_args

from temporalio.api.enums.v1 import common_pb2 as common_enums
from temporalio.api.enums.v1 import event_type_pb2 as event_types
from temporalio.api.failure.v1 import message_pb2 as failure
from temporalio.api.history.v1 import message_pb2 as history

from durably.engine import records as r
from durably.engine.journal import Changes
from durably.engine.standalone_nexus.apply import operation_ended, operation_opened
from durably.engine.standalone_nexus.state import StandaloneNexusState
from durably.engine.state import HistoryState, NexusCancel, NexusOperation
from durably.engine.times import nanoseconds


def _scheduled(state: HistoryState, event: history.HistoryEvent) -> None:
    scheduled = history.NexusOperationScheduledEventAttributes()
    scheduled.CopyFrom(event.nexus_operation_scheduled_event_attributes)
    at_ns = nanoseconds(event.event_time)
    state.nexus_operations[event.event_id] = NexusOperation(event.event_id, scheduled, at_ns)
    if isinstance(state, StandaloneNexusState):
        operation_opened(state, event, at_ns)


def _started(state: HistoryState, event: history.HistoryEvent) -> None:
    attributes = event.nexus_operation_started_event_attributes
    operation = state.nexus_operations[attributes.scheduled_event_id]
    operation.started_ns = nanoseconds(event.event_time)
    operation.token = attributes.operation_token
    operation.attempt += 1
    operation.retry_at_ns = 0
    operation.last_ended_ns = operation.started_ns
    operation.last_failure = None
    if operation.cancel is not None and not operation.cancel.requested_ns:
        operation.cancel.requested_ns = operation.started_ns
    if isinstance(state, StandaloneNexusState):
        state.links.extend(link.SerializeToString() for link in event.links)


def _ended(state: HistoryState, event: history.HistoryEvent) -> None:
    if isinstance(state, StandaloneNexusState):
        operation_ended(state, event, nanoseconds(event.event_time))
        return
    attributes = getattr(event, event.WhichOneof("attributes") or "")
    state.nexus_operations.pop(attributes.scheduled_event_id, None)


def _cancel_requested(state: HistoryState, event: history.HistoryEvent) -> None:
    attributes = event.nexus_operation_cancel_requested_event_attributes
    operation = state.nexus_operations.get(attributes.scheduled_event_id)
    if operation is not None:
        at_ns = nanoseconds(event.event_time) if operation.started else 0
        operation.cancel = NexusCancel(event.event_id, at_ns)


def _cancel_ended(state: HistoryState, event: history.HistoryEvent) -> None:
    attributes = getattr(event, event.WhichOneof("attributes") or "")
    cancel = state.nexus_operations[attributes.scheduled_event_id].cancel
    assert cancel is not None
    cancel.attempt += 1
    cancel.last_ended_ns = nanoseconds(event.event_time)
    if event.event_type == event_types.EVENT_TYPE_NEXUS_OPERATION_CANCEL_REQUEST_COMPLETED:
        cancel.last_failure = None
        cancel.ended = common_enums.NEXUS_OPERATION_CANCELLATION_STATE_SUCCEEDED
    else:
        cancel.last_failure = failure.Failure()
        cancel.last_failure.CopyFrom(attributes.failure)
        cancel.ended = common_enums.NEXUS_OPERATION_CANCELLATION_STATE_FAILED


def _apply(state: HistoryState, record: r.NexusRecord) -> None:
    operation = state.nexus_operations[record.scheduled_event_id]
    match record:
        case r.NexusAttemptFailed():
            operation.attempt += 1
            operation.retry_at_ns = record.retry_at_ns
            operation.last_ended_ns = record.ended_ns
            operation.last_failure = failure.Failure.FromString(record.failure)
        case r.NexusRetryDue():
            operation.retry_at_ns = 0
        case r.NexusCancelAttemptFailed():
            assert operation.cancel is not None
            operation.cancel.attempt += 1
            operation.cancel.retry_at_ns = record.retry_at_ns
            operation.cancel.last_ended_ns = record.ended_ns
            operation.cancel.last_failure = failure.Failure.FromString(record.failure)
        case r.NexusCancelRetryDue():
            assert operation.cancel is not None
            operation.cancel.retry_at_ns = 0
        case _:
            assert_never(record)


EVENTS: dict[int, Callable[[HistoryState, history.HistoryEvent], None]] = {
    event_types.EVENT_TYPE_NEXUS_OPERATION_SCHEDULED: _scheduled,
    event_types.EVENT_TYPE_NEXUS_OPERATION_STARTED: _started,
    event_types.EVENT_TYPE_NEXUS_OPERATION_COMPLETED: _ended,
    event_types.EVENT_TYPE_NEXUS_OPERATION_FAILED: _ended,
    event_types.EVENT_TYPE_NEXUS_OPERATION_CANCELED: _ended,
    event_types.EVENT_TYPE_NEXUS_OPERATION_TIMED_OUT: _ended,
    event_types.EVENT_TYPE_NEXUS_OPERATION_CANCEL_REQUESTED: _cancel_requested,
    event_types.EVENT_TYPE_NEXUS_OPERATION_CANCEL_REQUEST_COMPLETED: _cancel_ended,
    event_types.EVENT_TYPE_NEXUS_OPERATION_CANCEL_REQUEST_FAILED: _cancel_ended,
}
RECORDS: Changes = dict.fromkeys(get_args(r.NexusRecord), _apply)
