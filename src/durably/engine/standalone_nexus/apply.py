"""apply(state, entry) for what only standalone Nexus operations have. Rules: see `engine/apply/entries.py`."""

from typing import assert_never, get_args

from temporalio.api.common.v1 import message_pb2 as common
from temporalio.api.enums.v1 import event_type_pb2 as event_types
from temporalio.api.enums.v1 import nexus_pb2 as nexus_enums
from temporalio.api.failure.v1 import message_pb2 as failure
from temporalio.api.history.v1 import message_pb2 as history

from durably.engine.callback.apply import attach, execution_closed
from durably.engine.journal import Changes
from durably.engine.standalone_nexus import records as r
from durably.engine.standalone_nexus.state import NexusCancelRequest, StandaloneNexusState


def _apply(state: StandaloneNexusState, record: r.StandaloneNexusRecord) -> None:
    match record:
        case r.NexusOpened():
            state.identity = record.identity
            state.search_attributes.ParseFromString(record.search_attributes)
        case r.NexusAttached():
            brought = [common.Callback.FromString(each) for each in record.callbacks]
            attach(state, record.request_id, brought, record.at_ns)
        case r.NexusCancelAsked():
            state.cancel = NexusCancelRequest(record.identity, record.reason, record.request_id)
        case r.NexusTerminated():
            state.terminate_request_id = record.request_id
            state.failure = failure.Failure(
                message=record.reason,
                terminated_failure_info=failure.TerminatedFailureInfo(identity=record.identity),
            )
            status = nexus_enums.NEXUS_OPERATION_EXECUTION_STATUS_TERMINATED
            _close(state, status, record.at_ns)
        case _:
            assert_never(record)


def operation_opened(state: StandaloneNexusState, event: history.HistoryEvent, at_ns: int) -> None:
    """The one operation is scheduled: the execution begins."""
    state.status = nexus_enums.NEXUS_OPERATION_EXECUTION_STATUS_RUNNING
    state.start_ns = at_ns
    state.user_metadata = event.user_metadata.SerializeToString()


STATUSES = {
    event_types.EVENT_TYPE_NEXUS_OPERATION_FAILED: (
        nexus_enums.NEXUS_OPERATION_EXECUTION_STATUS_FAILED
    ),
    event_types.EVENT_TYPE_NEXUS_OPERATION_CANCELED: (
        nexus_enums.NEXUS_OPERATION_EXECUTION_STATUS_CANCELED
    ),
    event_types.EVENT_TYPE_NEXUS_OPERATION_TIMED_OUT: (
        nexus_enums.NEXUS_OPERATION_EXECUTION_STATUS_TIMED_OUT
    ),
}


BY_ANSWER = frozenset(
    (
        event_types.EVENT_TYPE_NEXUS_OPERATION_FAILED,
        event_types.EVENT_TYPE_NEXUS_OPERATION_CANCELED,
    )
)
"""Ends whose failure is also that of the attempt, if it was an attempt that ended it."""


def operation_ended(state: StandaloneNexusState, event: history.HistoryEvent, at_ns: int) -> None:
    """The one operation ended: the execution closes as it did."""
    operation = state.operation
    answered = operation.start_is_owed  # It is an attempt to start it that ended it.
    state.links.extend(link.SerializeToString() for link in event.links)
    if event.event_type == event_types.EVENT_TYPE_NEXUS_OPERATION_COMPLETED:
        completed = event.nexus_operation_completed_event_attributes
        state.result = common.Payload()
        state.result.CopyFrom(completed.result)
        status = nexus_enums.NEXUS_OPERATION_EXECUTION_STATUS_COMPLETED
    else:
        attributes = getattr(event, event.WhichOneof("attributes") or "")
        # Who looks at the execution knows which operation failed: only the cause is news.
        state.failure = failure.Failure()
        state.failure.CopyFrom(attributes.failure.cause)
        status = STATUSES[event.event_type]
    if answered:
        operation.attempt += 1
        if event.event_type in BY_ANSWER:
            operation.last_ended_ns = at_ns
            operation.last_failure = state.failure
    _close(state, status, at_ns)


def _close(
    state: StandaloneNexusState,
    status: nexus_enums.NexusOperationExecutionStatus.ValueType,
    at_ns: int,
) -> None:
    state.status = status
    state.close_ns = at_ns
    operation = state.operation
    operation.closed = True
    operation.retry_at_ns = 0
    if operation.cancel is not None:
        operation.cancel.retry_at_ns = 0
    execution_closed(state, 0, goes_on=False)


RECORDS: Changes = dict.fromkeys(get_args(r.StandaloneNexusRecord), _apply)
