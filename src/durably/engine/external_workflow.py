"""Other workflows: children, and signals and cancels sent to any execution.

    on the sender    input                to         delivered by the outbox
    --------------   ------------------   --------   -------------------------------------------
    child            initiate             pending    a start with this parent
    child            started, failed      started    nothing
    child            closed               none       nothing (the child reports it)
    signal, cancel   initiate             pending    a signal or cancel to the target
    signal, cancel   delivered, failed    none       nothing

Rule 1: what is pending is the outbox (`transition.outstanding`). Each delivery carries a request id
        made of the run and the initiating event, so that a repeated one finds the first.
Rule 2: an answer to something that is not pending any more changes nothing.
"""

from temporalio.api.command.v1 import message_pb2 as command
from temporalio.api.common.v1 import message_pb2 as common
from temporalio.api.enums.v1 import event_type_pb2 as event_types
from temporalio.api.enums.v1 import failed_cause_pb2 as causes
from temporalio.api.enums.v1 import workflow_pb2 as workflow_enums
from temporalio.api.history.v1 import message_pb2 as history
from temporalio.api.sdk.v1 import user_metadata_pb2 as sdk

from durably.config import Config
from durably.engine import priority, workflow_task
from durably.engine import records as r
from durably.engine.refusals import BadCommand
from durably.engine.retry import validate_policy
from durably.engine.state import Child, WorkflowState
from durably.engine.times import nanoseconds, set_duration
from durably.engine.transition import CancelExternal, SignalExternal, StartChild, Transition
from durably.engine.workflow import cap, normal_queue, task_timeout_ns
from durably.errors import InvalidArgument

BAD_CHILD = causes.WORKFLOW_TASK_FAILED_CAUSE_BAD_START_CHILD_EXECUTION_ATTRIBUTES
BAD_SIGNAL = causes.WORKFLOW_TASK_FAILED_CAUSE_BAD_SIGNAL_WORKFLOW_EXECUTION_ATTRIBUTES
BAD_CANCEL = (
    causes.WORKFLOW_TASK_FAILED_CAUSE_BAD_REQUEST_CANCEL_EXTERNAL_WORKFLOW_EXECUTION_ATTRIBUTES
)


def delivery_request_id(state: WorkflowState, initiated_event_id: int) -> str:
    """The request id under which one delivery is made, however often it is repeated."""
    return f"{state.run_id}:{initiated_event_id}"


# --- Children ---------------------------------------------------------------------------------


def start_child(
    t: Transition,
    attributes: command.StartChildWorkflowExecutionCommandAttributes,
    completed_event_id: int,
    user_metadata: sdk.UserMetadata | None,
    namespace_id: str,
    config: Config,
) -> None:
    """Command: start a child workflow; `namespace_id` is that of the namespace it names."""
    _validate_child(t.state, attributes, config)
    event = history.StartChildWorkflowExecutionInitiatedEventAttributes(
        namespace=attributes.namespace or t.state.namespace,
        namespace_id=namespace_id,
        workflow_id=attributes.workflow_id,
        workflow_type=attributes.workflow_type,
        task_queue=normal_queue(attributes.task_queue.name or t.state.task_queue),
        parent_close_policy=attributes.parent_close_policy
        or workflow_enums.PARENT_CLOSE_POLICY_TERMINATE,
        control=attributes.control,
        workflow_task_completed_event_id=completed_event_id,
        workflow_id_reuse_policy=attributes.workflow_id_reuse_policy
        or workflow_enums.WORKFLOW_ID_REUSE_POLICY_ALLOW_DUPLICATE,
        cron_schedule=attributes.cron_schedule,
        inherit_build_id=attributes.inherit_build_id,
    )
    execution_ns = nanoseconds(attributes.workflow_execution_timeout)
    if execution_ns:
        set_duration(event.workflow_execution_timeout, execution_ns)
    run_ns = cap(nanoseconds(attributes.workflow_run_timeout), execution_ns)
    set_duration(event.workflow_run_timeout, run_ns)
    asked_ns = nanoseconds(attributes.workflow_task_timeout)
    set_duration(event.workflow_task_timeout, task_timeout_ns(asked_ns, run_ns, config))
    for field in (
        "input",
        "retry_policy",
        "header",
        "memo",
        "search_attributes",
        "priority",
        "versioning_override",
    ):
        if attributes.HasField(field):
            getattr(event, field).CopyFrom(getattr(attributes, field))
    event_id = t.record(event, user_metadata=user_metadata)
    t.emit(StartChild(event_id))


def _validate_child(
    state: WorkflowState,
    attributes: command.StartChildWorkflowExecutionCommandAttributes,
    config: Config,
) -> None:
    where = (
        f"WorkflowId={attributes.workflow_id} WorkflowType={attributes.workflow_type.name}"
        f" Namespace={attributes.namespace}"
    )
    for value, name in (
        (attributes.workflow_id, "WorkflowId"),
        (attributes.workflow_type.name, "WorkflowType"),
    ):
        if not value:
            raise BadCommand(
                BAD_CHILD,
                f"Required field {name} is not set on StartChildWorkflowExecutionCommand. {where}",
            )
        _check_length(BAD_CHILD, name, value, "StartChildWorkflowExecutionCommand", config)
    for field in ("execution", "run", "task"):
        if nanoseconds(getattr(attributes, f"workflow_{field}_timeout")) < 0:
            raise BadCommand(
                BAD_CHILD,
                f"Invalid Workflow{field.title()}Timeout on StartChildWorkflowExecutionCommand:"
                f" negative duration. {where}",
            )
    try:
        priority.check(attributes.priority)
    except InvalidArgument as error:
        raise BadCommand(BAD_CHILD, error.message) from error
    if attributes.HasField("retry_policy"):
        try:
            validate_policy(attributes.retry_policy)
        except InvalidArgument as error:
            raise BadCommand(
                BAD_CHILD,
                "invalid WorkflowRetryPolicy on StartChildWorkflowExecutionCommand:"
                f" {error.message} {where}",
            ) from error
    if len(state.children) >= config.pending_children_max:
        raise BadCommand(
            causes.WORKFLOW_TASK_FAILED_CAUSE_PENDING_CHILD_WORKFLOWS_LIMIT_EXCEEDED,
            f"the number of pending child workflow executions, {len(state.children)},"
            f" has reached the limit of {config.pending_children_max}",
        )


def _check_length(
    cause: causes.WorkflowTaskFailedCause.ValueType,
    name: str,
    value: str,
    where: str,
    config: Config,
) -> None:
    if len(value) > config.identifier_chars_max:
        raise BadCommand(
            cause,
            f"{name} on {where} exceeds length limit."
            f" Length={len(value)} Limit={config.identifier_chars_max}",
        )


def child_started(t: Transition, initiated_event_id: int, run_id: str) -> None:
    """The child exists now."""
    child = t.state.children.get(initiated_event_id)
    if not t.state.running or child is None or child.started:
        return
    initiated = child.initiated
    t.record(
        history.ChildWorkflowExecutionStartedEventAttributes(
            namespace=initiated.namespace,
            namespace_id=initiated.namespace_id,
            initiated_event_id=initiated_event_id,
            workflow_execution=common.WorkflowExecution(
                workflow_id=initiated.workflow_id, run_id=run_id
            ),
            workflow_type=initiated.workflow_type,
            header=initiated.header if initiated.HasField("header") else None,
        )
    )
    workflow_task.schedule_if_none(t)


def child_start_failed(
    t: Transition,
    initiated_event_id: int,
    cause: causes.StartChildWorkflowExecutionFailedCause.ValueType,
) -> None:
    child = t.state.children.get(initiated_event_id)
    if not t.state.running or child is None or child.started:
        return
    initiated = child.initiated
    t.record(
        history.StartChildWorkflowExecutionFailedEventAttributes(
            namespace=initiated.namespace,
            namespace_id=initiated.namespace_id,
            workflow_id=initiated.workflow_id,
            workflow_type=initiated.workflow_type,
            cause=cause,
            control=initiated.control,
            initiated_event_id=initiated_event_id,
        )
    )
    workflow_task.schedule_if_none(t)


def child_closed(
    t: Transition,
    initiated_event_id: int,
    first_run_id: str,
    run_id: str,
    closed: history.HistoryEvent,
) -> None:
    """The child reports its closing event. Its start may not have been recorded yet.

    `first_run_id` is the run that was started, `run_id` the last of its chain.
    """
    if not t.state.running or initiated_event_id not in t.state.children:
        return
    child_started(t, initiated_event_id, t.state.children[initiated_event_id].run_id or run_id)
    child = t.state.children[initiated_event_id]
    event = _child_closed_attributes(child, closed)
    event.namespace = child.initiated.namespace
    event.namespace_id = child.initiated.namespace_id
    event.workflow_execution.workflow_id = child.initiated.workflow_id
    event.workflow_execution.run_id = run_id
    event.workflow_type.CopyFrom(child.initiated.workflow_type)
    event.initiated_event_id = initiated_event_id
    event.started_event_id = child.started_event_id
    t.record(event)
    workflow_task.schedule_if_none(t)


ChildClosed = (
    history.ChildWorkflowExecutionCompletedEventAttributes
    | history.ChildWorkflowExecutionFailedEventAttributes
    | history.ChildWorkflowExecutionCanceledEventAttributes
    | history.ChildWorkflowExecutionTerminatedEventAttributes
    | history.ChildWorkflowExecutionTimedOutEventAttributes
)


def _child_closed_attributes(child: Child, closed: history.HistoryEvent) -> ChildClosed:
    match closed.event_type:
        case event_types.EVENT_TYPE_WORKFLOW_EXECUTION_COMPLETED:
            completed = closed.workflow_execution_completed_event_attributes
            return history.ChildWorkflowExecutionCompletedEventAttributes(
                result=completed.result if completed.HasField("result") else None
            )
        case event_types.EVENT_TYPE_WORKFLOW_EXECUTION_FAILED:
            failed = closed.workflow_execution_failed_event_attributes
            return history.ChildWorkflowExecutionFailedEventAttributes(
                failure=failed.failure, retry_state=failed.retry_state
            )
        case event_types.EVENT_TYPE_WORKFLOW_EXECUTION_CANCELED:
            canceled = closed.workflow_execution_canceled_event_attributes
            return history.ChildWorkflowExecutionCanceledEventAttributes(
                details=canceled.details if canceled.HasField("details") else None
            )
        case event_types.EVENT_TYPE_WORKFLOW_EXECUTION_TIMED_OUT:
            timed_out = closed.workflow_execution_timed_out_event_attributes
            return history.ChildWorkflowExecutionTimedOutEventAttributes(
                retry_state=timed_out.retry_state
            )
        case _:
            return history.ChildWorkflowExecutionTerminatedEventAttributes()


def policy_applied(t: Transition, initiated_event_id: int) -> None:
    """The parent close policy of one child has been carried out."""
    if initiated_event_id in t.state.policies_due:
        t.note(r.ParentClosePolicyApplied(initiated_event_id))


# --- Signals to others ------------------------------------------------------------------------


def signal(
    t: Transition,
    attributes: command.SignalExternalWorkflowExecutionCommandAttributes,
    completed_event_id: int,
    user_metadata: sdk.UserMetadata | None,
    namespace_id: str,
    config: Config,
) -> None:
    """Command: signal another execution."""
    where = "SignalExternalWorkflowExecutionCommand"
    if not attributes.HasField("execution"):
        raise BadCommand(BAD_SIGNAL, f"Execution is not set on {where}.")
    if not attributes.execution.workflow_id:
        raise BadCommand(BAD_SIGNAL, f"WorkflowId is not set on {where}.")
    if not attributes.signal_name:
        raise BadCommand(BAD_SIGNAL, f"SignalName is not set on {where}.")
    _check_length(BAD_SIGNAL, "WorkflowId", attributes.execution.workflow_id, where, config)
    if len(t.state.external_signals) >= config.pending_signals_max:
        raise BadCommand(
            causes.WORKFLOW_TASK_FAILED_CAUSE_PENDING_SIGNALS_LIMIT_EXCEEDED,
            "the number of pending signals to external workflows has reached the limit of"
            f" {config.pending_signals_max}",
        )
    event = history.SignalExternalWorkflowExecutionInitiatedEventAttributes(
        workflow_task_completed_event_id=completed_event_id,
        namespace=attributes.namespace or t.state.namespace,
        namespace_id=namespace_id,
        workflow_execution=attributes.execution,
        signal_name=attributes.signal_name,
        control=attributes.control,
        child_workflow_only=attributes.child_workflow_only,
    )
    for field in ("input", "header"):
        if attributes.HasField(field):
            getattr(event, field).CopyFrom(getattr(attributes, field))
    t.emit(SignalExternal(t.record(event, user_metadata=user_metadata)))


def signal_delivered(t: Transition, initiated_event_id: int) -> None:
    pending = t.state.external_signals.get(initiated_event_id)
    if not t.state.running or pending is None:
        return
    t.record(
        history.ExternalWorkflowExecutionSignaledEventAttributes(
            initiated_event_id=initiated_event_id,
            namespace=pending.initiated.namespace,
            namespace_id=pending.initiated.namespace_id,
            workflow_execution=pending.initiated.workflow_execution,
            control=pending.initiated.control,
        )
    )
    workflow_task.schedule_if_none(t)


def signal_failed(
    t: Transition,
    initiated_event_id: int,
    cause: causes.SignalExternalWorkflowExecutionFailedCause.ValueType,
) -> None:
    pending = t.state.external_signals.get(initiated_event_id)
    if not t.state.running or pending is None:
        return
    t.record(
        history.SignalExternalWorkflowExecutionFailedEventAttributes(
            cause=cause,
            namespace=pending.initiated.namespace,
            namespace_id=pending.initiated.namespace_id,
            workflow_execution=pending.initiated.workflow_execution,
            initiated_event_id=initiated_event_id,
            control=pending.initiated.control,
        )
    )
    workflow_task.schedule_if_none(t)


# --- Cancels to others ------------------------------------------------------------------------


def request_cancel(
    t: Transition,
    attributes: command.RequestCancelExternalWorkflowExecutionCommandAttributes,
    completed_event_id: int,
    user_metadata: sdk.UserMetadata | None,
    namespace_id: str,
    config: Config,
) -> None:
    """Command: ask another execution to cancel itself."""
    where = "RequestCancelExternalWorkflowExecutionCommand"
    if not attributes.workflow_id:
        raise BadCommand(BAD_CANCEL, f"WorkflowId is not set on {where}.")
    _check_length(BAD_CANCEL, "WorkflowId", attributes.workflow_id, where, config)
    initiated_now = {
        child.initiated.workflow_id
        for child in t.state.children.values()
        if child.initiated.workflow_task_completed_event_id == completed_event_id
    }
    if attributes.workflow_id in initiated_now:
        raise BadCommand(
            BAD_CANCEL,
            "Start and RequestCancel for child workflow is not allowed in same workflow task."
            f" WorkflowId={attributes.workflow_id}",
        )
    if len(t.state.external_cancels) >= config.pending_cancels_max:
        raise BadCommand(
            causes.WORKFLOW_TASK_FAILED_CAUSE_PENDING_REQUEST_CANCEL_LIMIT_EXCEEDED,
            "the number of pending cancel requests to external workflows has reached the limit of"
            f" {config.pending_cancels_max}",
        )
    event = history.RequestCancelExternalWorkflowExecutionInitiatedEventAttributes(
        workflow_task_completed_event_id=completed_event_id,
        namespace=attributes.namespace or t.state.namespace,
        namespace_id=namespace_id,
        workflow_execution=common.WorkflowExecution(
            workflow_id=attributes.workflow_id, run_id=attributes.run_id
        ),
        control=attributes.control,
        child_workflow_only=attributes.child_workflow_only,
        reason=attributes.reason,
    )
    t.emit(CancelExternal(t.record(event, user_metadata=user_metadata)))


def cancel_delivered(t: Transition, initiated_event_id: int) -> None:
    pending = t.state.external_cancels.get(initiated_event_id)
    if not t.state.running or pending is None:
        return
    t.record(
        history.ExternalWorkflowExecutionCancelRequestedEventAttributes(
            initiated_event_id=initiated_event_id,
            namespace=pending.initiated.namespace,
            namespace_id=pending.initiated.namespace_id,
            workflow_execution=pending.initiated.workflow_execution,
        )
    )
    workflow_task.schedule_if_none(t)


def cancel_failed(
    t: Transition,
    initiated_event_id: int,
    cause: causes.CancelExternalWorkflowExecutionFailedCause.ValueType,
) -> None:
    pending = t.state.external_cancels.get(initiated_event_id)
    if not t.state.running or pending is None:
        return
    t.record(
        history.RequestCancelExternalWorkflowExecutionFailedEventAttributes(
            cause=cause,
            namespace=pending.initiated.namespace,
            namespace_id=pending.initiated.namespace_id,
            workflow_execution=pending.initiated.workflow_execution,
            initiated_event_id=initiated_event_id,
            control=pending.initiated.control,
        )
    )
    workflow_task.schedule_if_none(t)
