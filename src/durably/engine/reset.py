"""Reset: a run goes on from an earlier point of its history, as a new run.

    1. the new run takes over the events before that point
    2. the workflow task that was pending there fails, with the cause RESET_WORKFLOW
    3. what came from outside after that point is applied again: signals, updates, ends of children and
       of Nexus operations
    4. a new workflow task is scheduled; activities that were pending are dispatched again

Rule 1: the new run's journal begins with the events it took over; replaying it needs no other run.
Rule 2: children of the reset run belong to the new one: no parent close policy, no report of an end.

Facts: ResetWorkflowExecution in temporal/api/workflowservice/v1/request_response.proto, and
ResetReapplyExcludeType in temporal/api/enums/v1/reset.proto.
"""

from collections.abc import Collection, Iterable

from temporalio.api.enums.v1 import event_type_pb2 as event_types
from temporalio.api.enums.v1 import failed_cause_pb2 as causes
from temporalio.api.enums.v1 import reset_pb2 as reset_enums
from temporalio.api.enums.v1 import update_pb2 as update_enums
from temporalio.api.failure.v1 import message_pb2 as failure
from temporalio.api.history.v1 import message_pb2 as history
from temporalio.api.workflow.v1 import message_pb2 as workflow_messages

from durably.engine import deadlines, workflow, workflow_options, workflow_task
from durably.engine import records as r
from durably.engine.activity import put_on_queue
from durably.engine.callback.records import CallbackRemoved
from durably.engine.journal import Created
from durably.engine.state import WorkflowState
from durably.engine.transition import Transition, outstanding
from durably.errors import InvalidArgument

IDENTITY = "history-service"
RESETTER = "history-resetter"

Excluded = Collection[reset_enums.ResetReapplyExcludeType.ValueType]

CHILD_EVENTS = frozenset(
    event_types.EventType.Value("EVENT_TYPE_" + name)
    for name in (
        "START_CHILD_WORKFLOW_EXECUTION_FAILED",
        "CHILD_WORKFLOW_EXECUTION_STARTED",
        "CHILD_WORKFLOW_EXECUTION_COMPLETED",
        "CHILD_WORKFLOW_EXECUTION_FAILED",
        "CHILD_WORKFLOW_EXECUTION_CANCELED",
        "CHILD_WORKFLOW_EXECUTION_TIMED_OUT",
        "CHILD_WORKFLOW_EXECUTION_TERMINATED",
    )
)


NEXUS_EVENTS = frozenset(
    event_types.EventType.Value("EVENT_TYPE_NEXUS_OPERATION_" + name)
    for name in ("STARTED", "COMPLETED", "FAILED", "CANCELED", "TIMED_OUT")
)


def excluded(
    exclude_types: Iterable[reset_enums.ResetReapplyExcludeType.ValueType],
    reapply_type: reset_enums.ResetReapplyType.ValueType,
) -> Excluded:
    """What is not applied again; the older `reapply_type` says the same the other way round."""
    found = set(exclude_types)
    if reapply_type in (reset_enums.RESET_REAPPLY_TYPE_SIGNAL, reset_enums.RESET_REAPPLY_TYPE_NONE):
        found.add(reset_enums.RESET_REAPPLY_EXCLUDE_TYPE_UPDATE)
    if reapply_type == reset_enums.RESET_REAPPLY_TYPE_NONE:
        found.add(reset_enums.RESET_REAPPLY_EXCLUDE_TYPE_SIGNAL)
    return found


# --- The run that is reset ----------------------------------------------------------------------


def leave(t: Transition, new_run_id: str, reason: str) -> None:
    """The run that was reset, or that is current: the new run takes its place."""
    t.note(r.ResetTo(new_run_id))
    if t.state.running:
        workflow.terminate(t, reason, None, RESETTER)


# --- The run that goes on -----------------------------------------------------------------------


def begin(
    t: Transition,
    base: WorkflowState,
    events: list[history.HistoryEvent],
    *,
    reason: str,
    request_id: str,
) -> None:
    """Take over `events`, and fail the workflow task that is pending after them.

    InvalidArgument if none is: the point is not one at which a worker can decide again.
    """
    t.note(
        Created(
            namespace=base.namespace,
            request_id=request_id,
            scheduled_by=base.scheduled_by,
            started_by=base.started_by or base.create_request_id,
        )
    )
    for event in events:
        t.adopt(event)
    t.note(r.ResetFrom(base.run_id, t.now_ns))
    t.visible = True
    task = t.state.workflow_task
    if task is None:
        raise InvalidArgument(
            "Can only reset workflow to event ID in range [WorkflowTaskScheduled +1,"
            f" WorkflowTaskStarted + 1]: {len(events) + 1}"
        )
    if not task.started:
        t.record(
            history.WorkflowTaskStartedEventAttributes(
                scheduled_event_id=task.scheduled_event_id,
                identity=IDENTITY,
                request_id=t.new_id(),
                history_size_bytes=t.state.history_size_bytes,
            )
        )
    t.record(
        history.WorkflowTaskFailedEventAttributes(
            scheduled_event_id=task.scheduled_event_id,
            started_event_id=task.started_event_id,
            cause=causes.WORKFLOW_TASK_FAILED_CAUSE_RESET_WORKFLOW,
            failure=failure.Failure(
                message=reason,
                reset_workflow_failure_info=failure.ResetWorkflowFailureInfo(),
            ),
            identity=IDENTITY,
            base_run_id=base.run_id,
            new_run_id=t.state.run_id,
            fork_event_version=base.failover_version,
        )
    )


def reapply(t: Transition, events: Iterable[history.HistoryEvent], exclude: Excluded) -> None:
    """Apply again what reached the workflow from outside."""
    keep_signals = reset_enums.RESET_REAPPLY_EXCLUDE_TYPE_SIGNAL not in exclude
    keep_updates = reset_enums.RESET_REAPPLY_EXCLUDE_TYPE_UPDATE not in exclude
    keep_nexus = reset_enums.RESET_REAPPLY_EXCLUDE_TYPE_NEXUS not in exclude
    for event in events:
        match event.event_type:
            case event_types.EVENT_TYPE_WORKFLOW_EXECUTION_SIGNALED if keep_signals:
                t.record(event.workflow_execution_signaled_event_attributes, links=event.links)
            case event_types.EVENT_TYPE_WORKFLOW_EXECUTION_UPDATE_ADMITTED if keep_updates:
                admitted = event.workflow_execution_update_admitted_event_attributes
                t.record(admitted)
            case event_types.EVENT_TYPE_WORKFLOW_EXECUTION_UPDATE_ACCEPTED if keep_updates:
                _admit_again(t, event.workflow_execution_update_accepted_event_attributes)
            case event_types.EVENT_TYPE_WORKFLOW_EXECUTION_OPTIONS_UPDATED:
                workflow_options.apply_again(t, event)
            case kind if kind in CHILD_EVENTS:
                _child_again(t, event)
            case kind if kind in NEXUS_EVENTS and keep_nexus:
                _nexus_again(t, event)


def leave_out_removed(t: Transition, current: WorkflowState) -> None:
    """Who follows the workflow and is not told by the present run any more is not told by the new one."""
    there = {each.callback for each in current.callbacks.values()}
    for each in list(t.state.callbacks.values()):
        if each.follows and each.callback not in there:
            t.note(CallbackRemoved(each.callback_id))


def _nexus_again(t: Transition, event: history.HistoryEvent) -> None:
    """News of an operation that the new run has scheduled too; its handler knows it by its request."""
    attributes = getattr(event, event.WhichOneof("attributes") or "")
    operation = t.state.nexus_operations.get(attributes.scheduled_event_id)
    if operation is None or operation.request_id != attributes.request_id:
        return
    if event.event_type == event_types.EVENT_TYPE_NEXUS_OPERATION_STARTED and operation.started:
        return
    again = type(attributes)()
    again.CopyFrom(attributes)
    t.record(again, links=event.links)


def _admit_again(
    t: Transition, accepted: history.WorkflowExecutionUpdateAcceptedEventAttributes
) -> None:
    if not accepted.HasField("accepted_request"):
        return  # An event before it has the request.
    t.record(
        history.WorkflowExecutionUpdateAdmittedEventAttributes(
            request=accepted.accepted_request,
            origin=update_enums.UPDATE_ADMITTED_EVENT_ORIGIN_REAPPLY,
        )
    )


def _child_again(t: Transition, event: history.HistoryEvent) -> None:
    """News of a child that the new run has initiated too; of others it knows nothing."""
    attributes = getattr(event, event.WhichOneof("attributes") or "")
    child = t.state.children.get(attributes.initiated_event_id)
    if child is None:
        return
    again = type(attributes)()
    again.CopyFrom(attributes)
    if "started_event_id" in again.DESCRIPTOR.fields_by_name:
        again.started_event_id = child.started_event_id
    t.record(again)


def check_operations(operations: Iterable[workflow_messages.PostResetOperation]) -> None:
    """Raises InvalidArgument for an operation that cannot be done."""
    for operation in operations:
        match operation.WhichOneof("variant"):
            case "signal_workflow" if operation.signal_workflow.signal_name:
                pass
            case "update_workflow_options":
                if not operation.update_workflow_options.HasField("update_mask"):
                    raise InvalidArgument("PostResetOperation: UpdateMask is required")
            case _:
                raise InvalidArgument(
                    "PostResetOperation: set signal_workflow, with a signal name, or"
                    " update_workflow_options."
                )


def operate(t: Transition, operations: Iterable[workflow_messages.PostResetOperation]) -> None:
    """What the caller wants done to the new run before its worker sees it."""
    for operation in operations:
        if operation.WhichOneof("variant") == "update_workflow_options":
            asked = operation.update_workflow_options
            wanted = workflow_options.completed(t.state, asked.workflow_execution_options)
            workflow_options.update(t, wanted, asked.update_mask.paths, IDENTITY)
            continue
        signal = operation.signal_workflow
        t.record(
            history.WorkflowExecutionSignaledEventAttributes(
                signal_name=signal.signal_name,
                input=signal.input if signal.HasField("input") else None,
                header=signal.header if signal.HasField("header") else None,
                identity=IDENTITY,
            ),
            links=signal.links,
        )


def go_on(t: Transition) -> None:
    """Schedule the workflow task, and put on its way again what was pending."""
    workflow_task.schedule(t)
    for activity in t.state.activities.values():
        put_on_queue(t, activity)
    for delivery in outstanding(t.state):
        t.emit(delivery)
    t.attend(deadlines.next_deadline(t.state))
