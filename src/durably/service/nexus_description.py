"""Nexus operations as descriptions and lists show them: pending ones of workflows, standalone ones.

Facts: PendingNexusOperationInfo in temporal/api/workflow/v1/message.proto, NexusOperationExecutionInfo in
temporal/api/nexus/v1/message.proto.
"""

from collections.abc import Iterable

from temporalio.api.common.v1 import message_pb2 as common
from temporalio.api.enums.v1 import common_pb2 as common_enums
from temporalio.api.enums.v1 import nexus_pb2 as nexus_enums
from temporalio.api.nexus.v1 import message_pb2 as nexus
from temporalio.api.sdk.v1 import user_metadata_pb2 as sdk
from temporalio.api.workflow.v1 import message_pb2 as workflow_messages
from temporalio.api.workflowservice.v1 import request_response_pb2 as ws

from durably.engine.standalone_nexus.state import StandaloneNexusState
from durably.engine.state import NexusOperation, WorkflowState
from durably.engine.times import set_duration
from durably.service import callbacks, tokens
from durably.service.breakers import OPEN, IsBlocked
from durably.service.describe import set_time
from durably.service.search_attributes import LISTED_NEXUS_STATUS
from durably.service.tokens import ChangeToken
from durably.store.store import VisibleExecution

TIMEOUTS = ("schedule_to_close_timeout", "schedule_to_start_timeout", "start_to_close_timeout")


def pending(
    state: WorkflowState, is_blocked: IsBlocked
) -> Iterable[workflow_messages.PendingNexusOperationInfo]:
    """What DescribeWorkflowExecution shows of the operations of a workflow."""
    for operation in state.nexus_operations.values():
        scheduled = operation.scheduled
        blocked = is_blocked(state.namespace_id, scheduled.endpoint)
        shown = workflow_messages.PendingNexusOperationInfo(
            endpoint=scheduled.endpoint,
            service=scheduled.service,
            operation=scheduled.operation,
            operation_id=operation.token,
            operation_token=operation.token,
            state=_state(operation, blocked),
            attempt=operation.attempt,
            last_attempt_failure=operation.last_failure,
            scheduled_event_id=operation.scheduled_event_id,
            blocked_reason=OPEN if blocked and operation.start_is_owed else "",
        )
        _show_timeouts(shown, operation)
        set_time(shown.scheduled_time, operation.scheduled_ns)
        _show_attempts(shown, operation)
        if operation.cancel is not None:
            _show_cancel(shown.cancellation_info, operation, blocked)
        yield shown


def _show_timeouts(
    shown: workflow_messages.PendingNexusOperationInfo | nexus.NexusOperationExecutionInfo,
    operation: NexusOperation,
) -> None:
    for name in TIMEOUTS:
        if operation.scheduled.HasField(name):  # type: ignore[arg-type]
            getattr(shown, name).CopyFrom(getattr(operation.scheduled, name))


def _show_attempts(
    shown: workflow_messages.PendingNexusOperationInfo | nexus.NexusOperationExecutionInfo,
    operation: NexusOperation,
) -> None:
    set_time(shown.last_attempt_complete_time, operation.last_ended_ns)
    set_time(shown.next_attempt_schedule_time, operation.retry_at_ns)


def _state(
    operation: NexusOperation, blocked: bool
) -> common_enums.PendingNexusOperationState.ValueType:
    if operation.started:
        return common_enums.PENDING_NEXUS_OPERATION_STATE_STARTED
    if operation.retry_at_ns:
        return common_enums.PENDING_NEXUS_OPERATION_STATE_BACKING_OFF
    if blocked:
        return common_enums.PENDING_NEXUS_OPERATION_STATE_BLOCKED
    return common_enums.PENDING_NEXUS_OPERATION_STATE_SCHEDULED


def _show_cancel(
    shown: workflow_messages.NexusOperationCancellationInfo
    | nexus.NexusOperationExecutionCancellationInfo,
    operation: NexusOperation,
    blocked: bool,
) -> None:
    cancel = operation.cancel
    assert cancel is not None
    shown.SetInParent()
    shown.state = operation.cancel_state
    if blocked and operation.cancel_is_owed:
        shown.state = common_enums.NEXUS_OPERATION_CANCELLATION_STATE_BLOCKED
        shown.blocked_reason = OPEN
    shown.attempt = cancel.attempt
    set_time(shown.requested_time, cancel.requested_ns)
    set_time(shown.last_attempt_complete_time, cancel.last_ended_ns)
    set_time(shown.next_attempt_schedule_time, cancel.retry_at_ns)
    if cancel.last_failure is not None:
        shown.last_attempt_failure.CopyFrom(cancel.last_failure)


# --- Standalone -------------------------------------------------------------------------------


def describe(
    state: StandaloneNexusState,
    request: ws.DescribeNexusOperationExecutionRequest,
    is_blocked: IsBlocked,
    now_ns: int,
) -> ws.DescribeNexusOperationExecutionResponse:
    response = ws.DescribeNexusOperationExecutionResponse(
        run_id=state.run_id,
        info=_info(state, is_blocked, now_ns),
        long_poll_token=tokens.encode(ChangeToken(state.run_id, state.transitions)),
    )
    if request.include_input and state.operation.scheduled.HasField("input"):
        response.input.CopyFrom(state.operation.scheduled.input)
    if request.include_outcome and state.closed:
        _show_outcome(response, state)
    for each in state.callbacks.values():
        shown = response.completion_callbacks.add()
        shown.trigger.operation_completed.SetInParent()
        shown.info.CopyFrom(callbacks.info(state, each, is_blocked))
    return response


def polled(state: StandaloneNexusState) -> ws.PollNexusOperationExecutionResponse:
    """What a caller hears that has waited for a stage."""
    response = ws.PollNexusOperationExecutionResponse(
        run_id=state.run_id,
        operation_token=state.operation.token,
        wait_stage=nexus_enums.NEXUS_OPERATION_WAIT_STAGE_STARTED,
    )
    if state.closed:
        response.wait_stage = nexus_enums.NEXUS_OPERATION_WAIT_STAGE_CLOSED
        _show_outcome(response, state)
    return response


def _show_outcome(
    response: ws.DescribeNexusOperationExecutionResponse | ws.PollNexusOperationExecutionResponse,
    state: StandaloneNexusState,
) -> None:
    if state.failure is not None:
        response.failure.CopyFrom(state.failure)
    else:
        response.result.CopyFrom(state.result or common.Payload())


def _info(
    state: StandaloneNexusState, is_blocked: IsBlocked, now_ns: int
) -> nexus.NexusOperationExecutionInfo:
    operation = state.operation
    scheduled = operation.scheduled
    blocked = is_blocked(state.namespace_id, scheduled.endpoint)
    info = nexus.NexusOperationExecutionInfo(
        operation_id=state.workflow_id,
        run_id=state.run_id,
        endpoint=scheduled.endpoint,
        service=scheduled.service,
        operation=scheduled.operation,
        status=state.status,  # type: ignore[arg-type]
        # The request under way counts already.
        attempt=operation.attempt + operation.start_is_owed,
        last_attempt_failure=operation.last_failure,
        request_id=scheduled.request_id,
        operation_token=operation.token,
        state_transition_count=state.transitions,
        state_size_bytes=state.history_size_bytes,
        search_attributes=state.search_attributes,
        nexus_header=scheduled.nexus_header,
        links=[common.Link.FromString(link) for link in state.links],
        identity=state.identity,
    )
    if state.running:
        info.state = _state(operation, blocked)
        info.blocked_reason = OPEN if blocked and operation.start_is_owed else ""
    if state.user_metadata:
        info.user_metadata.CopyFrom(sdk.UserMetadata.FromString(state.user_metadata))
    _show_timeouts(info, operation)
    _show_attempts(info, operation)
    _show_times(state, info, now_ns)
    if operation.cancel is not None:
        _show_cancel(info.cancellation_info, operation, blocked)
        if state.cancel is not None:
            info.cancellation_info.reason = state.cancel.reason
    return info


def _show_times(
    state: StandaloneNexusState, info: nexus.NexusOperationExecutionInfo, now_ns: int
) -> None:
    set_time(info.schedule_time, state.start_ns)
    timeout_ns = state.operation.scheduled.schedule_to_close_timeout.ToNanoseconds()
    if timeout_ns:
        set_time(info.expiration_time, state.start_ns + timeout_ns)
    set_time(info.close_time, state.close_ns)
    set_duration(info.execution_duration, (state.close_ns or now_ns) - state.start_ns)


STATUS_OF_ROW = {int(listed): status for status, listed in LISTED_NEXUS_STATUS.items()}


def listed(found: VisibleExecution) -> nexus.NexusOperationExecutionListInfo:
    """One row of a list."""
    row = found.row
    info = nexus.NexusOperationExecutionListInfo(
        operation_id=found.workflow_id,
        run_id=found.run_id,
        endpoint=row.task_queue,
        service=row.parent_workflow_id,
        operation=row.workflow_type,
        status=STATUS_OF_ROW[row.status],
        search_attributes=common.SearchAttributes.FromString(row.search_attributes),
    )
    set_time(info.schedule_time, row.start_ns)
    if row.close_ns:
        set_time(info.close_time, row.close_ns)
        set_duration(info.execution_duration, row.close_ns - row.start_ns)
        info.state_transition_count = row.state_transitions
        info.state_size_bytes = row.history_size_bytes
    return info
