"""Runs of workflows, as events and records change them: from start to end.

Rules: see `entries.py`.
"""

from collections.abc import Callable
from typing import Any, assert_never, get_args

from temporalio.api.common.v1 import message_pb2 as common
from temporalio.api.enums.v1 import event_type_pb2 as event_types
from temporalio.api.enums.v1 import workflow_pb2 as workflow_enums
from temporalio.api.history.v1 import message_pb2 as history

from durably.engine import records as r
from durably.engine.apply.activity import recall_activities
from durably.engine.apply.requests import note_request, see_request
from durably.engine.callback.apply import attach, execution_closed, memo_changed, taken_over
from durably.engine.journal import Changes
from durably.engine.state import PAUSED, RUNNING, Pause, WorkflowState
from durably.engine.times import nanoseconds
from durably.engine.versioning import apply as versioning


def _started(state: WorkflowState, event: history.HistoryEvent) -> None:
    attributes = event.workflow_execution_started_event_attributes
    state.started.CopyFrom(attributes)
    state.user_metadata = event.user_metadata.SerializeToString()
    state.status = RUNNING
    state.start_ns = nanoseconds(event.event_time)
    backoff_ns = nanoseconds(attributes.first_workflow_task_backoff)
    state.execution_ns = state.start_ns + backoff_ns
    state.backoff_pending = backoff_ns > 0
    state.execution_expires_ns = nanoseconds(attributes.workflow_execution_expiration_time)
    run_timeout_ns = nanoseconds(attributes.workflow_run_timeout)
    state.run_expires_ns = state.execution_ns + run_timeout_ns if run_timeout_ns else 0
    state.memo.CopyFrom(attributes.memo)
    state.search_attributes.CopyFrom(attributes.search_attributes)
    versioning.workflow_started(state, attributes)
    request_id = state.started_by or state.create_request_id
    note_request(state, request_id, event)
    attach(state, request_id, attributes.completion_callbacks, state.start_ns)


def _options_updated(state: WorkflowState, event: history.HistoryEvent) -> None:
    attributes = event.workflow_execution_options_updated_event_attributes
    versioning.options_updated(state, attributes)
    at_ns = nanoseconds(event.event_time)
    for request_id in attached_requests(event):
        note_request(state, request_id, event)
    attach(state, attributes.attached_request_id, attributes.attached_completion_callbacks, at_ns)
    for options in attributes.workflow_update_options:
        attach(
            state,
            options.attached_request_id,
            options.attached_completion_callbacks,
            at_ns,
            options.update_id,
        )


def attached_requests(event: history.HistoryEvent) -> list[str]:
    attributes = event.workflow_execution_options_updated_event_attributes
    found = [attributes.attached_request_id]
    return found + [each.attached_request_id for each in attributes.workflow_update_options]


def _signaled(state: WorkflowState, event: history.HistoryEvent) -> None:
    state.signals += 1
    request_id = event.workflow_execution_signaled_event_attributes.request_id
    if request_id:
        see_request(state, request_id, event.event_id)


def _cancel_requested(state: WorkflowState, event: history.HistoryEvent) -> None:
    state.cancel_requested = True


def _paused(state: WorkflowState, event: history.HistoryEvent) -> None:
    attributes = event.workflow_execution_paused_event_attributes
    at_ns = nanoseconds(event.event_time)
    state.status = PAUSED
    state.pause = Pause(at_ns, attributes.identity, attributes.reason, attributes.request_id)
    recall_activities(state)


def _unpaused(state: WorkflowState, event: history.HistoryEvent) -> None:
    state.status = RUNNING
    state.pause = None
    # However often a task failed before: the next one brings new events to the worker.
    state.workflow_task_attempt = 1
    recall_activities(state)


def _closed(status: int) -> Callable[[WorkflowState, history.HistoryEvent], None]:
    def close(state: WorkflowState, event: history.HistoryEvent) -> None:
        state.status = status
        state.close_ns = nanoseconds(event.event_time)
        state.close_event_id = event.event_id
        attributes = getattr(event, event.WhichOneof("attributes") or "")
        state.successor_run_id = getattr(attributes, "new_execution_run_id", "")
        followed = bool(state.successor_run_id or state.reset_run_id)
        execution_closed(state, event.event_id, goes_on=_takes_callbacks_along(state, attributes))
        state.parent_reported = followed
        state.schedule_reported = followed
        _owe_policies(state)
        state.workflow_task = None
        state.activities.clear()
        state.activity_ids.clear()
        state.nexus_operations.clear()
        state.timers.clear()
        state.external_signals.clear()
        state.external_cancels.clear()
        state.updates.clear()
        state.buffered.clear()
        state.sticky_queue = ""

    return close


def _takes_callbacks_along(state: WorkflowState, closing: Any) -> bool:
    """Whether the run that follows calls back instead. The runs of a cron schedule are not waited for:
    the first that ends without being retried calls."""
    if state.reset_run_id:
        return True
    if isinstance(closing, history.WorkflowExecutionContinuedAsNewEventAttributes):
        return True
    retry_state = getattr(closing, "retry_state", workflow_enums.RETRY_STATE_UNSPECIFIED)
    return bool(retry_state == workflow_enums.RETRY_STATE_IN_PROGRESS)


def _owe_policies(state: WorkflowState) -> None:
    """Of the children, keep those whose parent close policy asks for something.

    One that was initiated and not started yet is not started any more; but it may have been started
    without having been recorded, so its policy is due too. After a reset the children belong to the
    run that goes on.
    """
    kept = {
        initiated: child
        for initiated, child in state.children.items()
        if not state.reset_run_id
        and child.initiated.parent_close_policy != workflow_enums.PARENT_CLOSE_POLICY_ABANDON
    }
    state.children = kept
    state.policies_due = {i: c.initiated.parent_close_policy for i, c in kept.items()}


def _search_attributes_upserted(state: WorkflowState, event: history.HistoryEvent) -> None:
    upserted = event.upsert_workflow_search_attributes_event_attributes.search_attributes
    merge_payloads(state.search_attributes.indexed_fields, upserted.indexed_fields)


def _properties_modified(state: WorkflowState, event: history.HistoryEvent) -> None:
    modified = event.workflow_properties_modified_event_attributes
    if modified.HasField("upserted_memo"):
        merge_payloads(state.memo.fields, modified.upserted_memo.fields)
        memo_changed(state, event.event_id, modified.upserted_memo.fields)


def merge_payloads(into: Any, upserted: Any) -> None:
    """Upsert a map of payloads; a null payload (encoding binary/null or JSON null) removes its key."""
    for key, payload in upserted.items():
        if payload_is_null(payload):
            into.pop(key, None)
        else:
            into[key].CopyFrom(payload)


def payload_is_null(payload: common.Payload) -> bool:
    encoding = payload.metadata.get("encoding", b"")
    if encoding == b"binary/null":
        return True
    return encoding == b"json/plain" and payload.data in (b"null", b"[]", b"")


def _apply(state: WorkflowState, record: r.RunRecord) -> None:
    match record:
        case r.RequestSeen():
            see_request(state, record.request_id)
        case r.ResetTo():
            state.reset_run_id = record.run_id
        case r.ResetFrom():
            _reset_from(state, record)
        case r.ParentReported():
            state.parent_reported = True
        case r.ScheduleReported():
            state.schedule_reported = True
        case _:
            assert_never(record)


def _reset_from(state: WorkflowState, record: r.ResetFrom) -> None:
    """Timeouts of the run and of what waits to be started count from here."""
    taken_over(state)
    state.base_run_id = record.base_run_id
    state.original_start_ns = state.start_ns
    state.start_ns = record.at_ns
    run_timeout_ns = nanoseconds(state.started.workflow_run_timeout)
    state.run_expires_ns = record.at_ns + run_timeout_ns if run_timeout_ns else 0
    execution_timeout_ns = nanoseconds(state.started.workflow_execution_timeout)
    if execution_timeout_ns:
        state.execution_expires_ns = record.at_ns + execution_timeout_ns
    state.execution_ns = record.at_ns
    state.backoff_pending = False
    for activity in state.activities.values():
        activity.first_scheduled_ns = record.at_ns
        activity.dispatched_ns = record.at_ns


EVENTS: dict[int, Callable[[WorkflowState, history.HistoryEvent], None]] = {
    event_types.EVENT_TYPE_WORKFLOW_EXECUTION_STARTED: _started,
    event_types.EVENT_TYPE_WORKFLOW_EXECUTION_SIGNALED: _signaled,
    event_types.EVENT_TYPE_WORKFLOW_EXECUTION_CANCEL_REQUESTED: _cancel_requested,
    event_types.EVENT_TYPE_WORKFLOW_EXECUTION_OPTIONS_UPDATED: _options_updated,
    event_types.EVENT_TYPE_WORKFLOW_EXECUTION_PAUSED: _paused,
    event_types.EVENT_TYPE_WORKFLOW_EXECUTION_UNPAUSED: _unpaused,
    event_types.EVENT_TYPE_WORKFLOW_EXECUTION_COMPLETED: _closed(
        workflow_enums.WORKFLOW_EXECUTION_STATUS_COMPLETED
    ),
    event_types.EVENT_TYPE_WORKFLOW_EXECUTION_FAILED: _closed(
        workflow_enums.WORKFLOW_EXECUTION_STATUS_FAILED
    ),
    event_types.EVENT_TYPE_WORKFLOW_EXECUTION_TIMED_OUT: _closed(
        workflow_enums.WORKFLOW_EXECUTION_STATUS_TIMED_OUT
    ),
    event_types.EVENT_TYPE_WORKFLOW_EXECUTION_CANCELED: _closed(
        workflow_enums.WORKFLOW_EXECUTION_STATUS_CANCELED
    ),
    event_types.EVENT_TYPE_WORKFLOW_EXECUTION_TERMINATED: _closed(
        workflow_enums.WORKFLOW_EXECUTION_STATUS_TERMINATED
    ),
    event_types.EVENT_TYPE_WORKFLOW_EXECUTION_CONTINUED_AS_NEW: _closed(
        workflow_enums.WORKFLOW_EXECUTION_STATUS_CONTINUED_AS_NEW
    ),
    event_types.EVENT_TYPE_UPSERT_WORKFLOW_SEARCH_ATTRIBUTES: _search_attributes_upserted,
    event_types.EVENT_TYPE_WORKFLOW_PROPERTIES_MODIFIED: _properties_modified,
}
RECORDS: Changes = dict.fromkeys(get_args(r.RunRecord), _apply)
