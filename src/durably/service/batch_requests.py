"""What a batch operation does to one execution: the RPC that does it to one, and its request.

Rule 1: where the RPC knows request ids, it is given one that is made of the batch's run and the
        execution's, so that it applies once, however often the batch comes to it.
"""

from collections.abc import Sequence
from typing import Any

from google.protobuf.message import Message
from temporalio.api.batch.v1 import message_pb2 as batch
from temporalio.api.common.v1 import message_pb2 as common
from temporalio.api.enums.v1 import event_type_pb2 as event_types
from temporalio.api.enums.v1 import reset_pb2 as reset_enums
from temporalio.api.workflowservice.v1 import request_response_pb2 as ws

from durably.engine.batch.state import BatchState
from durably.engine.state import BatchTarget
from durably.errors import InvalidArgument
from durably.service.transact import Executions


async def request_of(
    executions: Executions, state: BatchState, target: BatchTarget
) -> tuple[str, Message]:
    """The RPC by which the batch is done to one execution, and its request."""
    asked = getattr(state.request, state.operation)
    which = common.WorkflowExecution(workflow_id=target.id, run_id=target.run_id)
    request_id = f"{state.run_id}:{target.run_id or target.id}"
    if isinstance(asked, batch.BatchOperationReset):
        return "ResetWorkflowExecution", await _reset(executions, state, asked, which, request_id)
    return _request(state, asked, which, request_id)


async def _reset(
    executions: Executions,
    state: BatchState,
    asked: batch.BatchOperationReset,
    which: common.WorkflowExecution,
    request_id: str,
) -> ws.ResetWorkflowExecutionRequest:
    request = ws.ResetWorkflowExecutionRequest(
        namespace=state.namespace,
        workflow_execution=which,
        reason=state.request.reason,
        request_id=request_id,
        identity=asked.identity,
        post_reset_operations=asked.post_reset_operations,
        reset_reapply_type=asked.reset_reapply_type,
    )
    options = asked.options
    if asked.HasField("options"):
        request.reset_reapply_type = options.reset_reapply_type
        request.reset_reapply_exclude_types.extend(options.reset_reapply_exclude_types)
    point = options.WhichOneof("target")
    if point == "workflow_task_id":
        request.workflow_task_finish_event_id = options.workflow_task_id
    elif point == "build_id":
        base, request.workflow_task_finish_event_id = await _first_task_of(
            executions, state, which, options
        )
        request.workflow_execution.run_id = base
    else:
        first = point == "first_workflow_task" or (
            asked.reset_type == reset_enums.RESET_TYPE_FIRST_WORKFLOW_TASK
        )
        request.workflow_task_finish_event_id = await _task_end(executions, state, which, first)
    return request


async def _task_end(
    executions: Executions, state: BatchState, which: common.WorkflowExecution, first: bool
) -> int:
    """The event after the first, or the last, workflow task of a run was done."""
    execution = await executions.find(state.namespace_id, which.workflow_id, which.run_id)
    completed = scheduled = 0
    pages = executions.history_pages(execution, 1, executions.config.history_page_bytes_max)
    async for page in pages:
        for event in page:
            if event.event_type == event_types.EVENT_TYPE_WORKFLOW_TASK_COMPLETED:
                completed = event.event_id
                if first:
                    return completed
            elif event.event_type == event_types.EVENT_TYPE_WORKFLOW_TASK_SCHEDULED:
                scheduled = scheduled or event.event_id
    if not (completed or scheduled):
        raise InvalidArgument("no workflow task was scheduled yet")
    return completed or scheduled + 1


async def _first_task_of(
    executions: Executions,
    state: BatchState,
    which: common.WorkflowExecution,
    options: common.ResetOptions,
) -> tuple[str, int]:
    """(run id, event id): where the build was at work first, in this run or one before it."""
    found: tuple[str, int] | None = None
    run_id = which.run_id
    while run_id:
        execution = await executions.find_or_none(state.namespace_id, which.workflow_id, run_id)
        if execution is None:
            break  # Its retention is over.
        for point in execution.state.reset_points:
            if options.build_id in (point.build_id, point.binary_checksum):
                found = execution.state.run_id, point.first_workflow_task_completed_event_id
        run_id = execution.state.started.continued_execution_run_id
        if options.current_run_only:
            break
    if found is None:
        raise InvalidArgument(f"can't find reset point for {options.build_id}")
    return found


Asked = (
    batch.BatchOperationTermination
    | batch.BatchOperationSignal
    | batch.BatchOperationCancellation
    | batch.BatchOperationDeletion
    | batch.BatchOperationUpdateWorkflowExecutionOptions
    | batch.BatchOperationUnpauseActivities
    | batch.BatchOperationResetActivities
    | batch.BatchOperationUpdateActivityOptions
    | batch.BatchOperationCancelActivities
    | batch.BatchOperationTerminateActivities
    | batch.BatchOperationDeleteActivities
)


def _request(
    state: BatchState, asked: Asked, which: common.WorkflowExecution, request_id: str
) -> tuple[str, Message]:
    namespace, reason = state.namespace, state.request.reason
    match asked:
        case batch.BatchOperationTermination():
            return "TerminateWorkflowExecution", ws.TerminateWorkflowExecutionRequest(
                namespace=namespace,
                workflow_execution=which,
                reason=reason,
                details=asked.details if asked.HasField("details") else None,
                identity=asked.identity,
            )
        case batch.BatchOperationSignal():
            return "SignalWorkflowExecution", ws.SignalWorkflowExecutionRequest(
                namespace=namespace,
                workflow_execution=which,
                signal_name=asked.signal,
                input=asked.input if asked.HasField("input") else None,
                header=asked.header if asked.HasField("header") else None,
                identity=asked.identity,
                request_id=request_id,
            )
        case batch.BatchOperationCancellation():
            return "RequestCancelWorkflowExecution", ws.RequestCancelWorkflowExecutionRequest(
                namespace=namespace,
                workflow_execution=which,
                identity=asked.identity,
                request_id=request_id,
            )
        case batch.BatchOperationUpdateWorkflowExecutionOptions():
            return "UpdateWorkflowExecutionOptions", ws.UpdateWorkflowExecutionOptionsRequest(
                namespace=namespace,
                workflow_execution=which,
                workflow_execution_options=asked.workflow_execution_options,
                update_mask=asked.update_mask,
                identity=asked.identity,
            )
        case batch.BatchOperationDeletion():
            return "DeleteWorkflowExecution", ws.DeleteWorkflowExecutionRequest(
                namespace=namespace, workflow_execution=which
            )
        case _:
            return _activity_request(state, asked, which, request_id)


def _activity_request(
    state: BatchState, asked: Asked, which: common.WorkflowExecution, request_id: str
) -> tuple[str, Message]:
    """Operations on the activities of a workflow, or on activities that stand alone."""
    one = {
        "namespace": state.namespace,
        "activity_id": which.workflow_id,
        "run_id": which.run_id,
    }
    match asked:
        case batch.BatchOperationUnpauseActivities():
            unpause = ws.UnpauseActivityRequest(reset_attempts=asked.reset_attempts)
            return "UnpauseActivity", _chosen(
                unpause, asked, state, which, "unpause_all", ("reset_heartbeat", "jitter")
            )
        case batch.BatchOperationResetActivities():
            kept = ("reset_heartbeat", "keep_paused", "jitter", "restore_original_options")
            reset = ws.ResetActivityRequest()
            return "ResetActivity", _chosen(reset, asked, state, which, "match_all", kept)
        case batch.BatchOperationUpdateActivityOptions():
            fields = ("activity_options", "update_mask", "restore_original")
            update = ws.UpdateActivityOptionsRequest()
            return "UpdateActivityOptions", _chosen(
                update, asked, state, which, "match_all", fields
            )
        case batch.BatchOperationCancelActivities():
            return "RequestCancelActivityExecution", ws.RequestCancelActivityExecutionRequest(
                **one, identity=asked.identity, reason=asked.reason, request_id=request_id
            )
        case batch.BatchOperationTerminateActivities():
            return "TerminateActivityExecution", ws.TerminateActivityExecutionRequest(
                **one, identity=asked.identity, reason=asked.reason, request_id=request_id
            )
        case _:
            return "DeleteActivityExecution", ws.DeleteActivityExecutionRequest(**one)


def _chosen(
    request: Any,
    asked: Any,
    state: BatchState,
    which: common.WorkflowExecution,
    all_field: str,
    fields: Sequence[str],
) -> Message:
    """A request about those activities of one workflow that the batch is about."""
    request.namespace = state.namespace
    request.execution.CopyFrom(which)
    request.identity = asked.identity
    if asked.WhichOneof("activity") == "type":
        request.type = asked.type
    else:
        setattr(request, all_field, True)
    for field in fields:
        value = getattr(asked, field)
        if not isinstance(value, Message):
            setattr(request, field, value)
        elif asked.HasField(field):
            getattr(request, field).CopyFrom(value)
    found: Message = request
    return found
