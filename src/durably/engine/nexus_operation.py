"""The machine of a Nexus operation: a request to a handler elsewhere, and what comes of it.

    state       input                  to          journal
    ---------   --------------------   ---------   -----------------------------------------------
    none        schedule               scheduled   NexusOperationScheduled
    scheduled   answered: done         none        NexusOperationCompleted / Failed / Canceled
    scheduled   answered: started      started     NexusOperationStarted
    scheduled   refused for now        backoff     record NexusAttemptFailed
    scheduled   refused for good       none        NexusOperationFailed
    backoff     due                    scheduled   record NexusRetryDue
    any         completed (callback)   none        NexusOperationStarted if it is not there yet, and
                                                   NexusOperationCompleted / Failed / Canceled
    any         time out               none        NexusOperationTimedOut
    any         request cancel         the same    NexusOperationCancelRequested

A cancel that was requested has a life of its own inside: it waits until the operation has started, and
is then sent to the handler in the same way (NexusOperationCancelRequestCompleted / Failed; records
NexusCancelAttemptFailed, NexusCancelRetryDue).

Rule 1: what is `scheduled`, and a cancel that is, is the outbox (`transition.outstanding`). Each start
        carries the request id of the scheduling event, so that a repeated one finds the first.
Rule 2: an answer names the attempt it belongs to; a late one changes nothing.
Rule 3: an operation ends once. A completion of one that is not there any more is refused.
Rule 4: an operation whose token begins with `state.WATCHED` is watched: its handler does not call back,
        and is asked how it stands until it has ended. That is owed for as long as it is started.
Rule 5: operations of workflows and standalone ones are the same here, but for what follows their end:
        `_ended`.

Facts: temporal/api/history/v1/message.proto, temporal/api/command/v1/message.proto.
"""

from collections.abc import Iterable
from typing import assert_never, cast

from google.protobuf.duration_pb2 import Duration
from temporalio.api.command.v1 import message_pb2 as command
from temporalio.api.common.v1 import message_pb2 as common
from temporalio.api.enums.v1 import event_type_pb2 as event_types
from temporalio.api.enums.v1 import failed_cause_pb2 as causes
from temporalio.api.enums.v1 import workflow_pb2 as workflow_enums
from temporalio.api.failure.v1 import message_pb2 as failure
from temporalio.api.history.v1 import message_pb2 as history
from temporalio.api.sdk.v1 import user_metadata_pb2 as sdk
from temporalio.api.workflowservice.v1 import request_response_pb2 as ws

from durably.config import Config
from durably.engine import records as r
from durably.engine import workflow_task
from durably.engine.callback import machine as callback
from durably.engine.nexus_outcome import (
    Ended,
    Refused,
    Started,
    StartOutcome,
    Succeeded,
    Unsuccessful,
)
from durably.engine.refusals import BadCommand
from durably.engine.retry import backoff_ns
from durably.engine.state import HistoryState, NexusCancel, NexusOperation, WorkflowState
from durably.engine.times import SECOND_NS, nanoseconds, set_duration
from durably.engine.transition import (
    CancelNexusOperation,
    StartNexusOperation,
    Transition,
    WatchNexusOperation,
)
from durably.engine.workflow import cap, ensure_running
from durably.errors import InvalidArgument, NotFound

BAD_SCHEDULE = causes.WORKFLOW_TASK_FAILED_CAUSE_BAD_SCHEDULE_NEXUS_OPERATION_ATTRIBUTES
BAD_CANCEL = causes.WORKFLOW_TASK_FAILED_CAUSE_BAD_REQUEST_CANCEL_NEXUS_OPERATION_ATTRIBUTES

SYSTEM_ENDPOINT = "__temporal_system"
"""Operations that the server itself carries out."""

RESERVED_HEADERS = frozenset(
    (
        "request-timeout",
        "xdc-redirection-api",
        "xdc-redirection-source-cell",
        "xdc-redirection",
        "caller-name",
        "caller-type",
        "call-initiation",
        "temporal-principal-type",
        "temporal-principal-name",
    )
)
"""What servers say to each other; callers may not."""

TIMEOUT_NS_MAX = 100 * 365 * 24 * 3600 * SECOND_NS
"""Longer is for ever, and no time that could be stored."""

TIMEOUTS = ("schedule_to_close_timeout", "schedule_to_start_timeout", "start_to_close_timeout")

Asked = command.ScheduleNexusOperationCommandAttributes | ws.StartNexusOperationExecutionRequest


# --- Schedule ---------------------------------------------------------------------------------


def schedule(
    t: Transition,
    attributes: command.ScheduleNexusOperationCommandAttributes,
    completed_event_id: int,
    user_metadata: sdk.UserMetadata | None,
    endpoint_id: str,
    config: Config,
) -> None:
    """Command: schedule an operation on the endpoint with this id."""
    _validate(t.state, attributes, config)
    run_timeout_ns = nanoseconds(t.state.started.workflow_run_timeout)
    event = scheduled_attributes(attributes, endpoint_id, t.new_id(), run_timeout_ns)
    event.workflow_task_completed_event_id = completed_event_id
    begin(t, event, user_metadata)


def scheduled_attributes(
    asked: Asked, endpoint_id: str, request_id: str, limit_ns: int
) -> history.NexusOperationScheduledEventAttributes:
    """The event of a well-formed request; no timeout is longer than `limit_ns` (0: no limit)."""
    event = history.NexusOperationScheduledEventAttributes(
        endpoint=asked.endpoint,
        endpoint_id=endpoint_id,
        service=asked.service,
        operation=asked.operation,
        input=asked.input if asked.HasField("input") else None,
        nexus_header={name.lower(): value for name, value in asked.nexus_header.items()},
        request_id=request_id,
    )
    close_ns = cap(_asked_ns(asked.schedule_to_close_timeout), limit_ns)
    if close_ns:
        set_duration(event.schedule_to_close_timeout, close_ns)
    for field in ("schedule_to_start_timeout", "start_to_close_timeout"):
        asked_ns = _asked_ns(getattr(asked, field))
        if asked_ns:
            set_duration(getattr(event, field), cap(asked_ns, close_ns))
    return event


def _asked_ns(timeout: Duration) -> int:
    return min(nanoseconds(timeout), TIMEOUT_NS_MAX)


def begin(
    t: Transition[HistoryState],
    event: history.NexusOperationScheduledEventAttributes,
    user_metadata: sdk.UserMetadata | None,
) -> None:
    """The operation exists, and its first request is owed."""
    event_id = t.record(event, user_metadata=user_metadata)
    t.emit(StartNexusOperation(event_id))
    t.attend(next_deadline(t.state.nexus_operations[event_id]))


def _validate(
    state: WorkflowState,
    attributes: command.ScheduleNexusOperationCommandAttributes,
    config: Config,
) -> None:
    try:
        check(attributes, "ScheduleNexusOperationCommandAttributes", config)
    except InvalidArgument as error:
        raise bad_schedule(error.message) from error
    pending = len(state.nexus_operations)
    if pending >= config.nexus_operations_pending_max:
        raise BadCommand(
            causes.WORKFLOW_TASK_FAILED_CAUSE_PENDING_NEXUS_OPERATIONS_LIMIT_EXCEEDED,
            "PendingNexusOperationsLimitExceeded: the number of pending Nexus operations,"
            f" {pending}, has reached the limit of {config.nexus_operations_pending_max}"
            " (nexus_operations_pending_max)",
        )


def check(asked: Asked, where: str, config: Config) -> None:
    """Raises InvalidArgument for what no operation can have. `where` is the command whose fields are
    named then; empty: a request, whose fields are called as they are written."""
    for field in ("service", "operation"):
        if len(getattr(asked, field)) > config.identifier_chars_max:
            limit = config.identifier_chars_max
            raise InvalidArgument(f"{_named(where, field)} exceeds length limit of {limit}")
    for field in TIMEOUTS:
        if nanoseconds(getattr(asked, field)) < 0:
            raise InvalidArgument(f"{_named(where, field)} is invalid: negative duration")
    if asked.input.ByteSize() > config.payload_bytes_max:
        raise InvalidArgument(
            f"{_named(where, 'input')} exceeds size limit of {config.payload_bytes_max} bytes"
            " (payload_bytes_max)"
        )
    header = _named(where, "nexus_header")
    for name in asked.nexus_header:
        if name.lower() in RESERVED_HEADERS:
            raise InvalidArgument(f'{header} contains a disallowed header key: "{name}"')
    size_bytes = sum(len(name) + len(value) for name, value in asked.nexus_header.items())
    if size_bytes > config.nexus_header_bytes_max:
        raise InvalidArgument(f"{header} exceeds size limit")


def _named(where: str, field: str) -> str:
    return f"{where}.{field.title().replace('_', '')}" if where else field


def bad_schedule(message: str) -> BadCommand:
    return BadCommand(BAD_SCHEDULE, f"BadScheduleNexusOperationAttributes: {message}")


# --- Requests to the handler ------------------------------------------------------------------


def start_answered(
    t: Transition[HistoryState],
    scheduled_event_id: int,
    attempt: int,
    outcome: StartOutcome,
    config: Config,
) -> None:
    """The handler answered a start, or could not be asked. `attempt`: how many had ended before it."""
    operation = t.state.nexus_operations.get(scheduled_event_id)
    if not t.state.running or operation is None or not operation.start_is_owed:
        return
    if operation.attempt != attempt:
        return
    match outcome:
        case Succeeded() | Unsuccessful():
            _end(t, operation, outcome)
        case Started(token, links):
            _start(t, operation, token, links)
            if operation.is_watched:
                t.emit(WatchNexusOperation(scheduled_event_id))
            if operation.cancel_is_owed:
                t.emit(CancelNexusOperation(scheduled_event_id))
        case Refused(reason, retryable):
            if retryable:
                _back_off(t, operation, reason, config)
            else:
                _fail(t, operation, reason)
        case _:
            assert_never(outcome)


def _start(
    t: Transition[HistoryState],
    operation: NexusOperation,
    token: str,
    links: Iterable[common.Link],
    at_ns: int = 0,
) -> None:
    t.record(
        history.NexusOperationStartedEventAttributes(
            scheduled_event_id=operation.scheduled_event_id,
            operation_token=token,
            operation_id=token,
            request_id=operation.request_id,
        ),
        at_ns=at_ns,
        links=links,
    )
    _told(t)
    t.attend(next_deadline(operation))


def _back_off(
    t: Transition[HistoryState], operation: NexusOperation, reason: failure.Failure, config: Config
) -> None:
    retry_at_ns = t.now_ns + backoff_ns(_policy(config), operation.attempt + 1)
    t.note(
        r.NexusAttemptFailed(
            operation.scheduled_event_id, retry_at_ns, reason.SerializeToString(), t.now_ns
        )
    )
    t.attend(next_deadline(operation))


def _policy(config: Config) -> common.RetryPolicy:
    policy = common.RetryPolicy(backoff_coefficient=2)
    set_duration(policy.initial_interval, int(config.nexus_retry_initial_interval_s * SECOND_NS))
    set_duration(policy.maximum_interval, int(config.nexus_retry_maximum_interval_s * SECOND_NS))
    return policy


# --- Ends -------------------------------------------------------------------------------------


def complete(
    t: Transition[HistoryState],
    scheduled_event_id: int,
    request_id: str,
    ended: Ended,
    *,
    token: str = "",
    started_ns: int = 0,
    links: Iterable[common.Link] = (),
) -> None:
    """The callback of an operation was called; NotFound if it is not there for ending any more.

    One whose start was never answered has started at `started_ns`, under `token` and with `links`.
    """
    ensure_running(t.state)
    operation = t.state.nexus_operations.get(scheduled_event_id)
    if operation is None or operation.request_id != request_id:
        raise NotFound("operation not found")
    if not operation.started:
        _start(t, operation, token, links, at_ns=started_ns)
    _end(t, operation, ended)


def _end(t: Transition[HistoryState], operation: NexusOperation, ended: Ended) -> None:
    if isinstance(ended, Succeeded):
        t.record(
            history.NexusOperationCompletedEventAttributes(
                scheduled_event_id=operation.scheduled_event_id,
                result=ended.payload,
                request_id=operation.request_id,
            ),
            links=ended.links,
        )
        _told(t)
    elif ended.canceled:
        t.record(
            history.NexusOperationCanceledEventAttributes(
                scheduled_event_id=operation.scheduled_event_id,
                failure=_failure(operation, ended.failure),
                request_id=operation.request_id,
            )
        )
        _told(t)
    else:
        _fail(t, operation, ended.failure)


def _fail(t: Transition[HistoryState], operation: NexusOperation, cause: failure.Failure) -> None:
    t.record(
        history.NexusOperationFailedEventAttributes(
            scheduled_event_id=operation.scheduled_event_id,
            failure=_failure(operation, cause),
            request_id=operation.request_id,
        )
    )
    _told(t)


def _time_out(
    t: Transition[HistoryState],
    operation: NexusOperation,
    timeout: workflow_enums.TimeoutType.ValueType,
) -> None:
    cause = failure.Failure(
        message="operation timed out",
        timeout_failure_info=failure.TimeoutFailureInfo(timeout_type=timeout),
    )
    t.record(
        history.NexusOperationTimedOutEventAttributes(
            scheduled_event_id=operation.scheduled_event_id,
            failure=_failure(operation, cause),
            request_id=operation.request_id,
        )
    )
    _told(t)


def _failure(operation: NexusOperation, cause: failure.Failure) -> failure.Failure:
    scheduled = operation.scheduled
    return failure.Failure(
        message="nexus operation completed unsuccessfully",
        nexus_operation_execution_failure_info=failure.NexusOperationFailureInfo(
            scheduled_event_id=operation.scheduled_event_id,
            endpoint=scheduled.endpoint,
            service=scheduled.service,
            operation=scheduled.operation,
            operation_id=operation.token,
            operation_token=operation.token,
        ),
        cause=cause,
    )


def _told(t: Transition[HistoryState]) -> None:
    """A workflow is to look at the news of its operation; of a standalone one lists may change."""
    if isinstance(t.state, WorkflowState):
        workflow_task.schedule_if_none(cast(Transition, t))
    else:
        t.visible = True
        callback.invoke_due(t)


# --- Cancel -----------------------------------------------------------------------------------


ENDS = frozenset(
    event_types.EventType.Value("EVENT_TYPE_NEXUS_OPERATION_" + name)
    for name in ("COMPLETED", "FAILED", "CANCELED", "TIMED_OUT")
)


def request_cancel(
    t: Transition,
    attributes: command.RequestCancelNexusOperationCommandAttributes,
    completed_event_id: int,
    user_metadata: sdk.UserMetadata | None,
) -> None:
    """Command: ask the handler to cancel an operation. One whose end the worker could not see yet may
    be asked for too: that changes nothing."""
    scheduled_event_id = attributes.scheduled_event_id
    operation = t.state.nexus_operations.get(scheduled_event_id)
    if operation is None and not _ended_in_buffer(t.state, scheduled_event_id):
        raise _bad_cancel(
            "requested cancelation for a non-existing or already completed operation with"
            f" scheduled event ID of {scheduled_event_id}"
        )
    if operation is not None and operation.cancel is not None:
        raise _bad_cancel(
            "cancelation was already requested for an operation with scheduled event ID"
            f" {scheduled_event_id}"
        )
    ask_cancel(t, scheduled_event_id, completed_event_id, user_metadata)


def _bad_cancel(message: str) -> BadCommand:
    return BadCommand(BAD_CANCEL, f"BadRequestCancelNexusOperationAttributes: {message}")


def _ended_in_buffer(state: WorkflowState, scheduled_event_id: int) -> bool:
    for event in state.buffered:
        if event.event_type in ENDS:
            attributes = getattr(event, event.WhichOneof("attributes") or "")
            if attributes.scheduled_event_id == scheduled_event_id:
                return True
    return False


def ask_cancel(
    t: Transition[HistoryState],
    scheduled_event_id: int,
    completed_event_id: int,
    user_metadata: sdk.UserMetadata | None = None,
) -> None:
    """Record the request; the handler hears of it once it has started the operation."""
    t.record(
        history.NexusOperationCancelRequestedEventAttributes(
            scheduled_event_id=scheduled_event_id,
            workflow_task_completed_event_id=completed_event_id,
        ),
        user_metadata=user_metadata,
    )
    operation = t.state.nexus_operations.get(scheduled_event_id)
    if operation is not None and operation.cancel_is_owed:
        t.emit(CancelNexusOperation(scheduled_event_id))


def cancel_answered(
    t: Transition[HistoryState],
    scheduled_event_id: int,
    attempt: int,
    refused: Refused | None,
    config: Config,
) -> None:
    """The handler took a cancel (`refused` None), or did not. What becomes of the operation comes by
    its callback."""
    operation = t.state.nexus_operations.get(scheduled_event_id)
    if not t.state.running or operation is None or not operation.cancel_is_owed:
        return
    cancel = cast(NexusCancel, operation.cancel)
    if cancel.attempt != attempt:
        return
    if refused is None:
        t.record(
            history.NexusOperationCancelRequestCompletedEventAttributes(
                requested_event_id=cancel.requested_event_id,
                scheduled_event_id=scheduled_event_id,
            ),
            worker_may_ignore=True,
        )
        _told(t)
    elif refused.retryable:
        reason = refused.failure.SerializeToString()
        retry_at_ns = t.now_ns + backoff_ns(_policy(config), attempt + 1)
        t.note(r.NexusCancelAttemptFailed(scheduled_event_id, retry_at_ns, reason, t.now_ns))
        t.attend(next_deadline(operation))
    else:
        t.record(
            history.NexusOperationCancelRequestFailedEventAttributes(
                requested_event_id=cancel.requested_event_id,
                scheduled_event_id=scheduled_event_id,
                failure=refused.failure,
            ),
            worker_may_ignore=True,
        )
        _told(t)


# --- Deadlines --------------------------------------------------------------------------------


def timeouts(operation: NexusOperation) -> list[tuple[int, workflow_enums.TimeoutType.ValueType]]:
    """(when, which) of the timeouts that run now."""
    scheduled = operation.scheduled
    close_ns = nanoseconds(scheduled.schedule_to_close_timeout)
    found = [(operation.scheduled_ns, close_ns, workflow_enums.TIMEOUT_TYPE_SCHEDULE_TO_CLOSE)]
    if operation.started:
        timeout_ns = nanoseconds(scheduled.start_to_close_timeout)
        kind = workflow_enums.TIMEOUT_TYPE_START_TO_CLOSE
        found.append((operation.started_ns, timeout_ns, kind))
    else:
        timeout_ns = nanoseconds(scheduled.schedule_to_start_timeout)
        kind = workflow_enums.TIMEOUT_TYPE_SCHEDULE_TO_START
        found.append((operation.scheduled_ns, timeout_ns, kind))
    return [(from_ns + each_ns, which) for from_ns, each_ns, which in found if each_ns]


def next_deadline(operation: NexusOperation) -> int:
    """The earliest timeout or retry of this operation; 0: never."""
    moments = [at_ns for at_ns, _ in timeouts(operation)]
    moments.append(operation.retry_at_ns)
    if operation.cancel is not None:
        moments.append(operation.cancel.retry_at_ns)
    return min((m for m in moments if m), default=0)


def fire_due(t: Transition[HistoryState]) -> None:
    """Operations that took too long, and requests whose backoff is over."""
    for operation in list(t.state.nexus_operations.values()):
        due_ns = next_deadline(operation)
        if not due_ns or due_ns > t.now_ns:
            continue
        passed = sorted(each for each in timeouts(operation) if each[0] <= t.now_ns)
        if passed:
            _time_out(t, operation, passed[0][1])
            continue
        if 0 < operation.retry_at_ns <= t.now_ns:
            t.note(r.NexusRetryDue(operation.scheduled_event_id))
            t.emit(StartNexusOperation(operation.scheduled_event_id))
        cancel = operation.cancel
        if cancel is not None and 0 < cancel.retry_at_ns <= t.now_ns:
            t.note(r.NexusCancelRetryDue(operation.scheduled_event_id))
            t.emit(CancelNexusOperation(operation.scheduled_event_id))
