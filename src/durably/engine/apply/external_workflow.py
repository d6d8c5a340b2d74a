"""Children, signals and cancels to other workflows, as events and records change them.

Rules: see `entries.py`.
"""

from collections.abc import Callable

from temporalio.api.enums.v1 import event_type_pb2 as event_types
from temporalio.api.history.v1 import message_pb2 as history

from durably.engine import records as r
from durably.engine.journal import Changes
from durably.engine.state import Child, ExternalCancel, ExternalSignal, WorkflowState


def _child_initiated(state: WorkflowState, event: history.HistoryEvent) -> None:
    initiated = history.StartChildWorkflowExecutionInitiatedEventAttributes()
    initiated.CopyFrom(event.start_child_workflow_execution_initiated_event_attributes)
    state.children[event.event_id] = Child(
        initiated_event_id=event.event_id,
        initiated=initiated,
        user_metadata=event.user_metadata.SerializeToString(),
    )


def _child_started(state: WorkflowState, event: history.HistoryEvent) -> None:
    attributes = event.child_workflow_execution_started_event_attributes
    child = state.children.get(attributes.initiated_event_id)
    if child is not None:
        child.started_event_id = event.event_id
        child.run_id = attributes.workflow_execution.run_id


def _child_ended(state: WorkflowState, event: history.HistoryEvent) -> None:
    attributes = getattr(event, event.WhichOneof("attributes") or "")
    state.children.pop(attributes.initiated_event_id, None)


def _policy_applied(state: WorkflowState, record: r.ParentClosePolicyApplied) -> None:
    state.policies_due.pop(record.initiated_event_id, None)
    state.children.pop(record.initiated_event_id, None)


def _signal_initiated(state: WorkflowState, event: history.HistoryEvent) -> None:
    initiated = history.SignalExternalWorkflowExecutionInitiatedEventAttributes()
    initiated.CopyFrom(event.signal_external_workflow_execution_initiated_event_attributes)
    state.external_signals[event.event_id] = ExternalSignal(event.event_id, initiated)


def _signal_ended(state: WorkflowState, event: history.HistoryEvent) -> None:
    attributes = getattr(event, event.WhichOneof("attributes") or "")
    state.external_signals.pop(attributes.initiated_event_id, None)


def _cancel_initiated(state: WorkflowState, event: history.HistoryEvent) -> None:
    initiated = history.RequestCancelExternalWorkflowExecutionInitiatedEventAttributes()
    initiated.CopyFrom(event.request_cancel_external_workflow_execution_initiated_event_attributes)
    state.external_cancels[event.event_id] = ExternalCancel(event.event_id, initiated)


def _cancel_ended(state: WorkflowState, event: history.HistoryEvent) -> None:
    attributes = getattr(event, event.WhichOneof("attributes") or "")
    state.external_cancels.pop(attributes.initiated_event_id, None)


EVENTS: dict[int, Callable[[WorkflowState, history.HistoryEvent], None]] = {
    event_types.EVENT_TYPE_START_CHILD_WORKFLOW_EXECUTION_INITIATED: _child_initiated,
    event_types.EVENT_TYPE_CHILD_WORKFLOW_EXECUTION_STARTED: _child_started,
    event_types.EVENT_TYPE_START_CHILD_WORKFLOW_EXECUTION_FAILED: _child_ended,
    event_types.EVENT_TYPE_CHILD_WORKFLOW_EXECUTION_COMPLETED: _child_ended,
    event_types.EVENT_TYPE_CHILD_WORKFLOW_EXECUTION_FAILED: _child_ended,
    event_types.EVENT_TYPE_CHILD_WORKFLOW_EXECUTION_CANCELED: _child_ended,
    event_types.EVENT_TYPE_CHILD_WORKFLOW_EXECUTION_TIMED_OUT: _child_ended,
    event_types.EVENT_TYPE_CHILD_WORKFLOW_EXECUTION_TERMINATED: _child_ended,
    event_types.EVENT_TYPE_SIGNAL_EXTERNAL_WORKFLOW_EXECUTION_INITIATED: _signal_initiated,
    event_types.EVENT_TYPE_EXTERNAL_WORKFLOW_EXECUTION_SIGNALED: _signal_ended,
    event_types.EVENT_TYPE_SIGNAL_EXTERNAL_WORKFLOW_EXECUTION_FAILED: _signal_ended,
    event_types.EVENT_TYPE_REQUEST_CANCEL_EXTERNAL_WORKFLOW_EXECUTION_INITIATED: _cancel_initiated,
    event_types.EVENT_TYPE_EXTERNAL_WORKFLOW_EXECUTION_CANCEL_REQUESTED: _cancel_ended,
    event_types.EVENT_TYPE_REQUEST_CANCEL_EXTERNAL_WORKFLOW_EXECUTION_FAILED: _cancel_ended,
}
RECORDS: Changes = {r.ParentClosePolicyApplied: _policy_applied}
