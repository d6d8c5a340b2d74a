"""Workflow tasks, as events and records change them. Rules: see `entries.py`."""

from collections.abc import Callable
from typing import assert_never, get_args

from temporalio.api.enums.v1 import event_type_pb2 as event_types
from temporalio.api.enums.v1 import failed_cause_pb2 as causes
from temporalio.api.enums.v1 import task_queue_pb2 as queue_enums
from temporalio.api.enums.v1 import workflow_pb2 as workflow_enums
from temporalio.api.history.v1 import message_pb2 as history

from durably.engine import records as r
from durably.engine.journal import Changes
from durably.engine.state import ResetPoint, WorkflowState, WorkflowTask
from durably.engine.times import nanoseconds
from durably.engine.versioning import apply as versioning

RESET_POINTS_MAX = 100
PROBLEMS_REPORTED_AFTER = 5
"""Failures and timeouts of workflow tasks, one after the other."""


def _scheduled(state: WorkflowState, event: history.HistoryEvent) -> None:
    pending = state.workflow_task
    if pending is not None and pending.started:
        # It is in flight already, and gets its place in history now.
        pending.speculative = False
        return
    attributes = event.workflow_task_scheduled_event_attributes
    at_ns = nanoseconds(event.event_time)
    queue = attributes.task_queue
    state.workflow_task_attempt = attributes.attempt
    state.workflow_task = WorkflowTask(
        scheduled_event_id=event.event_id,
        attempt=attributes.attempt,
        scheduled_ns=at_ns,
        original_scheduled_ns=at_ns,
        timeout_ns=nanoseconds(attributes.start_to_close_timeout),
        queue=queue.name,
        sticky=queue.kind == queue_enums.TASK_QUEUE_KIND_STICKY,
    )


def _started(state: WorkflowState, event: history.HistoryEvent) -> None:
    attributes = event.workflow_task_started_event_attributes
    task = state.workflow_task
    assert task is not None
    if task.started:
        return
    task.started_event_id = event.event_id
    task.started_ns = nanoseconds(event.event_time)
    task.request_id = attributes.request_id
    task.identity = attributes.identity
    task.history_size_bytes = attributes.history_size_bytes
    task.suggest_continue_as_new = attributes.suggest_continue_as_new
    task.reasons = tuple(attributes.suggest_continue_as_new_reasons)
    task.target_changed = attributes.target_worker_deployment_version_changed
    task.worker_version = attributes.worker_version.SerializeToString()
    _send_updates(state)


def _send_updates(state: WorkflowState) -> None:
    """The workflow task that starts carries every update that waits."""
    for update in state.updates.values():
        update.sent = not update.accepted_event_id


def _unsend_updates(state: WorkflowState) -> None:
    for update in state.updates.values():
        update.sent = False


def _completed(state: WorkflowState, event: history.HistoryEvent) -> None:
    attributes = event.workflow_task_completed_event_attributes
    state.workflow_task = None
    state.workflow_task_attempt = 1
    state.workflow_task_failures = 0
    state.reported_problems = []
    state.last_started_event_id = attributes.started_event_id
    state.last_completed_event_id = event.event_id
    sdk = attributes.sdk_metadata
    if sdk.sdk_name:
        state.sdk_name, state.sdk_version = sdk.sdk_name, sdk.sdk_version
    if attributes.HasField("worker_version"):
        state.worker_version = attributes.worker_version.SerializeToString()
    versioning.task_completed(state, attributes)
    _note_reset_point(state, event)


def _note_reset_point(state: WorkflowState, event: history.HistoryEvent) -> None:
    attributes = event.workflow_task_completed_event_attributes
    version = attributes.deployment_version.build_id or attributes.worker_version.build_id
    build_id = version or attributes.binary_checksum
    if not build_id or any(
        build_id in (point.build_id, point.binary_checksum) for point in state.reset_points
    ):
        return
    state.reset_points.append(
        ResetPoint(
            build_id=version,
            binary_checksum=attributes.binary_checksum,
            first_workflow_task_completed_event_id=event.event_id,
            created_ns=nanoseconds(event.event_time),
        )
    )
    del state.reset_points[:-RESET_POINTS_MAX]


def failed_problem(cause: causes.WorkflowTaskFailedCause.ValueType) -> tuple[str, ...]:
    """What TemporalReportedProblems says of a workflow task that failed."""
    name = causes.WorkflowTaskFailedCause.Name(cause).removeprefix("WORKFLOW_TASK_FAILED_CAUSE_")
    cause_name = name.title().replace("_", "")
    return "category=WorkflowTaskFailed", f"cause=WorkflowTaskFailedCause{cause_name}"


def timed_out_problem(kind: workflow_enums.TimeoutType.ValueType) -> tuple[str, ...]:
    """The same of one that timed out."""
    name = workflow_enums.TimeoutType.Name(kind).removeprefix("TIMEOUT_TYPE_")
    cause_name = name.title().replace("_", "")
    return "category=WorkflowTaskTimedOut", f"cause=WorkflowTaskTimedOutCause{cause_name}"


def _end(state: WorkflowState, increment_attempt: bool, problem: tuple[str, ...]) -> None:
    """A task on the sticky queue is no proof against the workflow: it is a first attempt again, on the
    normal queue."""
    state.workflow_task = None
    counts = increment_attempt and not state.sticky_queue
    state.sticky_queue = ""
    _unsend_updates(state)
    if not counts:
        return
    state.workflow_task_attempt += 1
    state.workflow_task_failures += 1
    if problem and state.workflow_task_failures >= PROBLEMS_REPORTED_AFTER:
        state.reported_problems = list(problem)


def _failed(state: WorkflowState, event: history.HistoryEvent) -> None:
    cause = event.workflow_task_failed_event_attributes.cause
    reset = cause == causes.WORKFLOW_TASK_FAILED_CAUSE_RESET_WORKFLOW
    _end(state, not reset, failed_problem(cause))
    if reset:
        state.workflow_task_attempt = 1


def _timed_out(state: WorkflowState, event: history.HistoryEvent) -> None:
    kind = event.workflow_task_timed_out_event_attributes.timeout_type
    # A sticky worker that does not come for its task is not a failed attempt.
    counts = kind != workflow_enums.TIMEOUT_TYPE_SCHEDULE_TO_START
    _end(state, counts, timed_out_problem(kind))


def _apply(state: WorkflowState, record: r.WorkflowTaskRecord) -> None:
    match record:
        case r.WorkflowTaskAttemptScheduled():
            state.workflow_task = WorkflowTask(
                scheduled_event_id=record.scheduled_event_id,
                attempt=record.attempt,
                scheduled_ns=record.at_ns,
                original_scheduled_ns=record.at_ns,
                timeout_ns=record.timeout_ns,
                queue=state.task_queue,
                speculative=record.speculative,
            )
            if record.speculative and state.sticky_queue:
                state.workflow_task.queue = state.sticky_queue
                state.workflow_task.sticky = True
        case r.WorkflowTaskDispatched():
            assert state.workflow_task is not None
            state.workflow_task.queue = record.queue
            state.workflow_task.sticky = record.sticky
        case r.WorkflowTaskAttemptStarted():
            task = state.workflow_task
            assert task is not None
            task.started_event_id = record.started_event_id
            task.started_ns = record.at_ns
            task.request_id = record.request_id
            task.identity = record.identity
            task.history_size_bytes = record.history_size_bytes
            task.suggest_continue_as_new = record.suggest_continue_as_new
            task.target_changed = record.target_changed
            task.reasons = record.reasons
            task.worker_version = record.worker_version
            _send_updates(state)
        case r.WorkflowTaskAttemptEnded():
            _end(state, record.increment_attempt, record.problem)
        case r.WorkflowTaskDropped():
            state.workflow_task = None
        case r.WorkflowTaskBackoffEnded():
            state.backoff_pending = False
        case r.StickySet():
            state.sticky_queue = record.queue
            state.sticky_timeout_ns = record.schedule_to_start_timeout_ns
        case r.StickyCleared():
            state.sticky_queue = ""
        case _:
            assert_never(record)


EVENTS: dict[int, Callable[[WorkflowState, history.HistoryEvent], None]] = {
    event_types.EVENT_TYPE_WORKFLOW_TASK_SCHEDULED: _scheduled,
    event_types.EVENT_TYPE_WORKFLOW_TASK_STARTED: _started,
    event_types.EVENT_TYPE_WORKFLOW_TASK_COMPLETED: _completed,
    event_types.EVENT_TYPE_WORKFLOW_TASK_FAILED: _failed,
    event_types.EVENT_TYPE_WORKFLOW_TASK_TIMED_OUT: _timed_out,
}
RECORDS: Changes = dict.fromkeys(get_args(r.WorkflowTaskRecord), _apply)
