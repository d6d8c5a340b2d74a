"""apply(state, entry) for what only standalone activities have. Rules: see `engine/apply/entries.py`."""

import json
from typing import assert_never, get_args

from temporalio.api.common.v1 import message_pb2 as common
from temporalio.api.enums.v1 import activity_pb2 as activity_enums
from temporalio.api.enums.v1 import event_type_pb2 as event_types
from temporalio.api.enums.v1 import workflow_pb2 as workflow_enums
from temporalio.api.failure.v1 import message_pb2 as failure
from temporalio.api.history.v1 import message_pb2 as history

from durably.engine.callback.apply import attach, execution_closed
from durably.engine.journal import Changes
from durably.engine.standalone import records as r
from durably.engine.standalone.state import (
    Attachment,
    CancelRequest,
    StandaloneActivityState,
)
from durably.engine.state import Activity

ATTEMPT_TIMEOUTS = (
    workflow_enums.TIMEOUT_TYPE_START_TO_CLOSE,
    workflow_enums.TIMEOUT_TYPE_HEARTBEAT,
)


def _apply(state: StandaloneActivityState, record: r.StandaloneRecord) -> None:
    match record:
        case r.StandaloneOpened():
            state.start_delay_ns = record.start_delay_ns
            state.search_attributes.ParseFromString(record.search_attributes)
        case r.StandaloneAttached():
            state.attachments.append(
                Attachment(record.request_id, record.at_ns, record.callbacks, record.links)
            )
            brought = [common.Callback.FromString(each) for each in record.callbacks]
            attach(state, record.request_id, brought, record.at_ns)
        case r.StandaloneCancelAsked():
            state.cancel = CancelRequest(record.identity, record.reason, record.request_id)
        case r.StandaloneTerminated():
            state.terminate_request_id = record.request_id
            state.failure = failure.Failure(
                message=record.reason,
                terminated_failure_info=failure.TerminatedFailureInfo(identity=record.identity),
            )
            _close(state, activity_enums.ACTIVITY_EXECUTION_STATUS_TERMINATED, record.at_ns)
        case r.StandaloneRequestSeen():
            state.requests_seen[record.command] = record.request_id
        case r.StandaloneDelayed():
            state.start_delay_ns = record.start_delay_ns
            _delay(state)
        case _:
            assert_never(record)


def activity_opened(
    state: StandaloneActivityState, event: history.HistoryEvent, at_ns: int
) -> None:
    """The one activity is scheduled: the execution begins."""
    state.status = activity_enums.ACTIVITY_EXECUTION_STATUS_RUNNING
    state.start_ns = at_ns
    state.user_metadata = event.user_metadata.SerializeToString()
    if state.start_delay_ns:
        _delay(state)


def _delay(state: StandaloneActivityState) -> None:
    """A start delay is a backoff before the first attempt."""
    activity = state.activity
    activity.start_delay_ns = state.start_delay_ns
    activity.retry_at_ns = activity.dispatched_ns = state.first_dispatch_ns


def activity_ended(state: StandaloneActivityState, event: history.HistoryEvent, at_ns: int) -> None:
    """The one activity ended: the execution closes as it did."""
    activity = state.activity
    match event.event_type:
        case event_types.EVENT_TYPE_ACTIVITY_TASK_COMPLETED:
            completed = event.activity_task_completed_event_attributes
            state.result = common.Payloads()
            state.result.CopyFrom(completed.result)
            _attempt_ended(activity, completed.identity, at_ns)
            status = activity_enums.ACTIVITY_EXECUTION_STATUS_COMPLETED
        case event_types.EVENT_TYPE_ACTIVITY_TASK_FAILED:
            failed = event.activity_task_failed_event_attributes
            _fail(state, failed.failure, failed.retry_state)
            _attempt_ended(activity, failed.identity, at_ns)
            activity.last_failure = state.failure
            status = activity_enums.ACTIVITY_EXECUTION_STATUS_FAILED
        case event_types.EVENT_TYPE_ACTIVITY_TASK_TIMED_OUT:
            _timed_out(state, event.activity_task_timed_out_event_attributes, at_ns)
            status = activity_enums.ACTIVITY_EXECUTION_STATUS_TIMED_OUT
        case _:
            _canceled(state, event.activity_task_canceled_event_attributes)
            status = activity_enums.ACTIVITY_EXECUTION_STATUS_CANCELED
    _close(state, status, at_ns)


def _attempt_ended(activity: Activity, identity: str, at_ns: int) -> None:
    activity.last_identity = identity
    activity.last_ended_ns = at_ns
    # One that was completed by its id may never have been given to a worker.
    activity.last_started_ns = activity.last_started_ns or at_ns


def _fail(state: StandaloneActivityState, reason: failure.Failure, retry_state: int) -> None:
    state.failure = failure.Failure()
    state.failure.CopyFrom(reason)
    state.retry_state = retry_state


def _timed_out(
    state: StandaloneActivityState,
    timed_out: history.ActivityTaskTimedOutEventAttributes,
    at_ns: int,
) -> None:
    retry_state = timed_out.retry_state
    kind = timed_out.failure.timeout_failure_info.timeout_type
    if kind not in ATTEMPT_TIMEOUTS:
        retry_state = workflow_enums.RETRY_STATE_TIMEOUT
    _fail(state, timed_out.failure, retry_state)
    if kind in ATTEMPT_TIMEOUTS:
        state.activity.last_failure = state.failure
        state.activity.last_ended_ns = at_ns


def _canceled(
    state: StandaloneActivityState, canceled: history.ActivityTaskCanceledEventAttributes
) -> None:
    """One that no worker had is canceled with the reason for its details."""
    cancel = state.cancel or CancelRequest("", "", "")
    details = canceled.details
    if not canceled.started_event_id:
        details = common.Payloads(payloads=[_text(cancel.reason)])
    state.failure = failure.Failure(
        message="Activity canceled",
        canceled_failure_info=failure.CanceledFailureInfo(
            details=details, identity=cancel.identity
        ),
    )


def _text(text: str) -> common.Payload:
    return common.Payload(metadata={"encoding": b"json/plain"}, data=json.dumps(text).encode())


def _close(
    state: StandaloneActivityState,
    status: activity_enums.ActivityExecutionStatus.ValueType,
    at_ns: int,
) -> None:
    state.status = status
    state.close_ns = at_ns
    execution_closed(state, 0, goes_on=False)
    activity = state.activity
    activity.started_ns = 0
    activity.retry_at_ns = 0


RECORDS: Changes = dict.fromkeys(get_args(r.StandaloneRecord), _apply)
