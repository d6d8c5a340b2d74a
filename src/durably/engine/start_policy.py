"""What a start does when its workflow id names a run already.

Facts: WorkflowIdReusePolicy and WorkflowIdConflictPolicy in temporal/api/enums/v1/workflow.proto.

    the run is   policy                                 outcome
    ----------   ------------------------------------   -------------------------
    any          (the same request id)                  RETURN it, as if started if it was
    running      conflict FAIL, or none given           refused
    running      conflict USE_EXISTING                  RETURN it
    running      conflict TERMINATE_EXISTING            TERMINATE it, then start
    closed       reuse ALLOW_DUPLICATE, or none given   START
    closed       reuse ALLOW_DUPLICATE_FAILED_ONLY      START if it did not succeed
    closed       reuse REJECT_DUPLICATE                 refused
"""

from enum import Enum, auto

from temporalio.api.enums.v1 import workflow_pb2 as workflow_enums

from durably.engine.state import WorkflowState
from durably.errors import InvalidArgument, WorkflowExecutionAlreadyStarted


class Outcome(Enum):
    START = auto()
    RETURN = auto()
    TERMINATE = auto()


UNSUCCESSFUL = frozenset(
    (
        workflow_enums.WORKFLOW_EXECUTION_STATUS_FAILED,
        workflow_enums.WORKFLOW_EXECUTION_STATUS_CANCELED,
        workflow_enums.WORKFLOW_EXECUTION_STATUS_TERMINATED,
        workflow_enums.WORKFLOW_EXECUTION_STATUS_TIMED_OUT,
    )
)


def validate(
    reuse: workflow_enums.WorkflowIdReusePolicy.ValueType,
    conflict: workflow_enums.WorkflowIdConflictPolicy.ValueType,
) -> None:
    """Refuse combinations that contradict themselves."""
    if not conflict:
        return
    if reuse == workflow_enums.WORKFLOW_ID_REUSE_POLICY_TERMINATE_IF_RUNNING:
        raise InvalidArgument(
            "Invalid WorkflowIDReusePolicy: WORKFLOW_ID_REUSE_POLICY_TERMINATE_IF_RUNNING"
            " cannot be used together with a WorkflowIdConflictPolicy."
        )
    if (
        reuse == workflow_enums.WORKFLOW_ID_REUSE_POLICY_REJECT_DUPLICATE
        and conflict == workflow_enums.WORKFLOW_ID_CONFLICT_POLICY_TERMINATE_EXISTING
    ):
        raise InvalidArgument(
            "Invalid WorkflowIDReusePolicy: WORKFLOW_ID_REUSE_POLICY_REJECT_DUPLICATE cannot be"
            " used together with WorkflowIdConflictPolicy"
            " WORKFLOW_ID_CONFLICT_POLICY_TERMINATE_EXISTING"
        )


def started_by(existing: WorkflowState, request_id: str) -> bool:
    """Whether this very request started the run."""
    return bool(request_id) and request_id in (existing.create_request_id, existing.started_by)


def decide(
    existing: WorkflowState,
    request_id: str,
    reuse: workflow_enums.WorkflowIdReusePolicy.ValueType,
    conflict: workflow_enums.WorkflowIdConflictPolicy.ValueType,
) -> Outcome:
    """The outcome by the table above; a refusal raises WorkflowExecutionAlreadyStarted."""
    if request_id and (request_id in existing.requests or started_by(existing, request_id)):
        return Outcome.RETURN
    if existing.running:
        return _on_running(existing, reuse, conflict)
    return _on_closed(existing, reuse)


def _on_running(
    existing: WorkflowState,
    reuse: workflow_enums.WorkflowIdReusePolicy.ValueType,
    conflict: workflow_enums.WorkflowIdConflictPolicy.ValueType,
) -> Outcome:
    if conflict == workflow_enums.WORKFLOW_ID_CONFLICT_POLICY_USE_EXISTING:
        return Outcome.RETURN
    if (
        conflict == workflow_enums.WORKFLOW_ID_CONFLICT_POLICY_TERMINATE_EXISTING
        or reuse == workflow_enums.WORKFLOW_ID_REUSE_POLICY_TERMINATE_IF_RUNNING
    ):
        return Outcome.TERMINATE
    raise _refused(existing, "Workflow execution is already running. {}.")


def _on_closed(
    existing: WorkflowState, reuse: workflow_enums.WorkflowIdReusePolicy.ValueType
) -> Outcome:
    if reuse == workflow_enums.WORKFLOW_ID_REUSE_POLICY_REJECT_DUPLICATE:
        raise _refused(
            existing,
            "Workflow execution already finished. {}."
            " Workflow Id reuse policy: reject duplicate workflow Id.",
        )
    if (
        reuse == workflow_enums.WORKFLOW_ID_REUSE_POLICY_ALLOW_DUPLICATE_FAILED_ONLY
        and existing.status not in UNSUCCESSFUL
    ):
        raise _refused(
            existing,
            "Workflow execution already finished successfully. {}."
            " Workflow Id reuse policy: allow duplicate workflow Id if last run failed.",
        )
    return Outcome.START


def _refused(existing: WorkflowState, template: str) -> WorkflowExecutionAlreadyStarted:
    which = f"WorkflowId: {existing.workflow_id}, RunId: {existing.run_id}"
    return WorkflowExecutionAlreadyStarted(
        template.format(which), existing.create_request_id, existing.run_id
    )
