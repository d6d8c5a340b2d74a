"""apply(state, entry): the only writer of state.

Rule 1: live running, recovery and replication all change a state here and nowhere else.
Rule 2: an entry that is in the journal was valid when it was written; nothing is refused here.
Rule 3: what applying does depends on the state and the entry alone.

One exception: `apply_heartbeat`. Of heartbeats only the last matters, so they are a row that is
overwritten instead of journal entries.
"""

from collections.abc import Callable
from typing import Any, assert_never, get_args

from temporalio.api.activity.v1 import message_pb2 as activities
from temporalio.api.common.v1 import message_pb2 as common
from temporalio.api.enums.v1 import common_pb2 as common_enums
from temporalio.api.enums.v1 import event_type_pb2 as event_types
from temporalio.api.enums.v1 import failed_cause_pb2 as causes
from temporalio.api.enums.v1 import task_queue_pb2 as queue_enums
from temporalio.api.enums.v1 import workflow_pb2 as workflow_enums
from temporalio.api.failure.v1 import message_pb2 as failure
from temporalio.api.history.v1 import message_pb2 as history
from temporalio.api.update.v1 import message_pb2 as update_messages

from durably.engine import records as r
from durably.engine.batch.apply import apply_batch
from durably.engine.callback.apply import (
    apply_callback,
    attach,
    execution_closed,
    memo_changed,
    taken_over,
    update_ended,
)
from durably.engine.deployment.apply import apply_deployment
from durably.engine.schedule.apply import apply_schedule
from durably.engine.standalone.apply import activity_ended, activity_opened, apply_standalone
from durably.engine.standalone.state import StandaloneActivityState
from durably.engine.standalone_nexus.apply import (
    apply_standalone_nexus,
    operation_ended,
    operation_opened,
)
from durably.engine.standalone_nexus.state import StandaloneNexusState
from durably.engine.state import (
    BUFFERED_EVENT_ID,
    PAUSED,
    RUNNING,
    Activity,
    Child,
    ExecutionState,
    ExternalCancel,
    ExternalSignal,
    HistoryState,
    NexusCancel,
    NexusOperation,
    Pause,
    RequestEvent,
    ResetPoint,
    Timer,
    Update,
    WorkflowState,
    WorkflowTask,
)
from durably.engine.version_sets.state import apply_version_sets
from durably.engine.versioning import apply as versioning

RESET_POINTS_MAX = 100
REQUESTS_SEEN_MAX = 10_000
REQUESTS_MAX = 10_000
UPDATES_COMPLETED_MAX = 10_000

SECOND_NS = 1_000_000_000


def nanoseconds(value: Any) -> int:
    """A Timestamp or Duration message in nanoseconds; 0 when it is not set."""
    return int(value.seconds) * SECOND_NS + int(value.nanos)


# --- Events -----------------------------------------------------------------------------------


def apply_event(state: HistoryState, event: history.HistoryEvent, size_bytes: int) -> None:
    """Append one event. Its `event_id` is the state's next, unless it comes out of the buffer."""
    state.next_event_id = event.event_id + 1
    state.history_size_bytes += size_bytes
    state.last_event_ns = nanoseconds(event.event_time)
    if state.flushing:
        state.flushing -= 1
        _take_id_from_buffer(state, event)
        return
    _change(state, event)


def _change(state: HistoryState, event: history.HistoryEvent) -> None:
    change = _CHANGES.get(event.event_type)
    if change is not None:
        change(state, event)


def _take_id_from_buffer(state: HistoryState, event: history.HistoryEvent) -> None:
    """The event was applied when it was buffered; what remembers its id learns it now."""
    assert isinstance(state, WorkflowState)  # Nothing else has workflow tasks to wait for.
    match event.event_type:
        case event_types.EVENT_TYPE_CHILD_WORKFLOW_EXECUTION_STARTED:
            attributes = event.child_workflow_execution_started_event_attributes
            child = state.children.get(attributes.initiated_event_id)
            if child is not None:
                child.started_event_id = event.event_id
        case event_types.EVENT_TYPE_WORKFLOW_EXECUTION_SIGNALED:
            request_id = event.workflow_execution_signaled_event_attributes.request_id
            if request_id in state.requests_seen:
                state.requests_seen[request_id] = event.event_id
        case event_types.EVENT_TYPE_WORKFLOW_EXECUTION_OPTIONS_UPDATED:
            for request_id in _attached_requests(event):
                _note_request(state, request_id, event)


def _workflow_started(state: WorkflowState, event: history.HistoryEvent) -> None:
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
    _note_request(state, request_id, event)
    attach(state, request_id, attributes.completion_callbacks, state.start_ns)


def _options_updated(state: WorkflowState, event: history.HistoryEvent) -> None:
    attributes = event.workflow_execution_options_updated_event_attributes
    versioning.options_updated(state, attributes)
    at_ns = nanoseconds(event.event_time)
    for request_id in _attached_requests(event):
        _note_request(state, request_id, event)
    attach(state, attributes.attached_request_id, attributes.attached_completion_callbacks, at_ns)
    for options in attributes.workflow_update_options:
        attach(
            state,
            options.attached_request_id,
            options.attached_completion_callbacks,
            at_ns,
            options.update_id,
        )


def _attached_requests(event: history.HistoryEvent) -> list[str]:
    attributes = event.workflow_execution_options_updated_event_attributes
    found = [attributes.attached_request_id]
    return found + [each.attached_request_id for each in attributes.workflow_update_options]


def _note_request(state: WorkflowState, request_id: str, event: history.HistoryEvent) -> None:
    """Remember which event a request has made. Of too many the oldest is forgotten, but for the one
    that started the run."""
    if not request_id:
        return
    state.requests[request_id] = RequestEvent(event.event_type, event.event_id)
    if len(state.requests) > REQUESTS_MAX:
        started = event_types.EVENT_TYPE_WORKFLOW_EXECUTION_STARTED
        oldest = (i for i, made in state.requests.items() if made.event_type != started)
        del state.requests[next(oldest)]


def _signaled(state: WorkflowState, event: history.HistoryEvent) -> None:
    state.signals += 1
    request_id = event.workflow_execution_signaled_event_attributes.request_id
    if request_id:
        _see_request(state, request_id, event.event_id)


def _see_request(state: WorkflowState, request_id: str, event_id: int = 0) -> None:
    """Remember a request id; the oldest is forgotten, for a retry comes within minutes."""
    state.requests_seen[request_id] = event_id
    if len(state.requests_seen) > REQUESTS_SEEN_MAX:
        del state.requests_seen[next(iter(state.requests_seen))]


def _cancel_requested(state: WorkflowState, event: history.HistoryEvent) -> None:
    state.cancel_requested = True


def _paused(state: WorkflowState, event: history.HistoryEvent) -> None:
    attributes = event.workflow_execution_paused_event_attributes
    at_ns = nanoseconds(event.event_time)
    state.status = PAUSED
    state.pause = Pause(at_ns, attributes.identity, attributes.reason, attributes.request_id)
    _recall_activities(state)


def _unpaused(state: WorkflowState, event: history.HistoryEvent) -> None:
    state.status = RUNNING
    state.pause = None
    # However often a task failed before: the next one brings new events to the worker.
    state.workflow_task_attempt = 1
    _recall_activities(state)


def _recall_activities(state: WorkflowState) -> None:
    """Tasks of activities that no worker has taken are stale."""
    for activity in state.activities.values():
        if not activity.started:
            activity.stamp += 1


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


# Workflow task


def _workflow_task_scheduled(state: WorkflowState, event: history.HistoryEvent) -> None:
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


def _workflow_task_started(state: WorkflowState, event: history.HistoryEvent) -> None:
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


def _workflow_task_completed(state: WorkflowState, event: history.HistoryEvent) -> None:
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


PROBLEMS_REPORTED_AFTER = 5
"""Failures and timeouts of workflow tasks, one after the other."""


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


def _end_workflow_task(
    state: WorkflowState, increment_attempt: bool, problem: tuple[str, ...]
) -> None:
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


def _workflow_task_failed(state: WorkflowState, event: history.HistoryEvent) -> None:
    cause = event.workflow_task_failed_event_attributes.cause
    reset = cause == causes.WORKFLOW_TASK_FAILED_CAUSE_RESET_WORKFLOW
    _end_workflow_task(state, not reset, failed_problem(cause))
    if reset:
        state.workflow_task_attempt = 1


def _workflow_task_timed_out(state: WorkflowState, event: history.HistoryEvent) -> None:
    kind = event.workflow_task_timed_out_event_attributes.timeout_type
    # A sticky worker that does not come for its task is not a failed attempt.
    counts = kind != workflow_enums.TIMEOUT_TYPE_SCHEDULE_TO_START
    _end_workflow_task(state, counts, timed_out_problem(kind))


# Activities


def _activity_scheduled(state: HistoryState, event: history.HistoryEvent) -> None:
    attributes = event.activity_task_scheduled_event_attributes
    at_ns = nanoseconds(event.event_time)
    scheduled = history.ActivityTaskScheduledEventAttributes()
    scheduled.CopyFrom(attributes)
    state.activities[event.event_id] = Activity(
        scheduled_event_id=event.event_id,
        scheduled=scheduled,
        first_scheduled_ns=at_ns,
        dispatched_ns=at_ns,
    )
    state.activity_ids[attributes.activity_id] = event.event_id
    if isinstance(state, StandaloneActivityState):
        activity_opened(state, event, at_ns)


def _activity_cancel_requested(state: HistoryState, event: history.HistoryEvent) -> None:
    attributes = event.activity_task_cancel_requested_event_attributes
    activity = state.activities.get(attributes.scheduled_event_id)
    if activity is not None:
        activity.cancel_requested_event_id = event.event_id


def _activity_ended(state: HistoryState, event: history.HistoryEvent) -> None:
    if isinstance(state, StandaloneActivityState):
        activity_ended(state, event, nanoseconds(event.event_time))
        return
    attributes = getattr(event, event.WhichOneof("attributes") or "")
    activity = state.activities.pop(attributes.scheduled_event_id, None)
    if activity is not None:
        state.activity_ids.pop(activity.activity_id, None)


# Timers


def _timer_started(state: WorkflowState, event: history.HistoryEvent) -> None:
    attributes = event.timer_started_event_attributes
    fire_at_ns = nanoseconds(event.event_time) + nanoseconds(attributes.start_to_fire_timeout)
    state.timers[attributes.timer_id] = Timer(attributes.timer_id, event.event_id, fire_at_ns)


def _timer_fired(state: WorkflowState, event: history.HistoryEvent) -> None:
    state.timers.pop(event.timer_fired_event_attributes.timer_id, None)


def _timer_canceled(state: WorkflowState, event: history.HistoryEvent) -> None:
    state.timers.pop(event.timer_canceled_event_attributes.timer_id, None)


# Children and external workflows


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


def _external_signal_initiated(state: WorkflowState, event: history.HistoryEvent) -> None:
    initiated = history.SignalExternalWorkflowExecutionInitiatedEventAttributes()
    initiated.CopyFrom(event.signal_external_workflow_execution_initiated_event_attributes)
    state.external_signals[event.event_id] = ExternalSignal(event.event_id, initiated)


def _external_signal_ended(state: WorkflowState, event: history.HistoryEvent) -> None:
    attributes = getattr(event, event.WhichOneof("attributes") or "")
    state.external_signals.pop(attributes.initiated_event_id, None)


def _external_cancel_initiated(state: WorkflowState, event: history.HistoryEvent) -> None:
    initiated = history.RequestCancelExternalWorkflowExecutionInitiatedEventAttributes()
    initiated.CopyFrom(event.request_cancel_external_workflow_execution_initiated_event_attributes)
    state.external_cancels[event.event_id] = ExternalCancel(event.event_id, initiated)


def _external_cancel_ended(state: WorkflowState, event: history.HistoryEvent) -> None:
    attributes = getattr(event, event.WhichOneof("attributes") or "")
    state.external_cancels.pop(attributes.initiated_event_id, None)


# Nexus operations


def _nexus_scheduled(state: HistoryState, event: history.HistoryEvent) -> None:
    scheduled = history.NexusOperationScheduledEventAttributes()
    scheduled.CopyFrom(event.nexus_operation_scheduled_event_attributes)
    at_ns = nanoseconds(event.event_time)
    state.nexus_operations[event.event_id] = NexusOperation(event.event_id, scheduled, at_ns)
    if isinstance(state, StandaloneNexusState):
        operation_opened(state, event, at_ns)


def _nexus_started(state: HistoryState, event: history.HistoryEvent) -> None:
    attributes = event.nexus_operation_started_event_attributes
    operation = state.nexus_operations[attributes.scheduled_event_id]
    operation.started_ns = nanoseconds(event.event_time)
    operation.token = attributes.operation_token
    operation.attempt += 1
    operation.retry_at_ns = 0
    operation.last_ended_ns = operation.started_ns
    operation.last_failure = None
    if operation.cancel is not None and not operation.cancel.requested_ns:
        operation.cancel.requested_ns = operation.started_ns
    if isinstance(state, StandaloneNexusState):
        state.links.extend(link.SerializeToString() for link in event.links)


def _nexus_ended(state: HistoryState, event: history.HistoryEvent) -> None:
    if isinstance(state, StandaloneNexusState):
        operation_ended(state, event, nanoseconds(event.event_time))
        return
    attributes = getattr(event, event.WhichOneof("attributes") or "")
    state.nexus_operations.pop(attributes.scheduled_event_id, None)


def _nexus_cancel_requested(state: HistoryState, event: history.HistoryEvent) -> None:
    attributes = event.nexus_operation_cancel_requested_event_attributes
    operation = state.nexus_operations.get(attributes.scheduled_event_id)
    if operation is not None:
        at_ns = nanoseconds(event.event_time) if operation.started else 0
        operation.cancel = NexusCancel(event.event_id, at_ns)


def _nexus_cancel_ended(state: HistoryState, event: history.HistoryEvent) -> None:
    attributes = getattr(event, event.WhichOneof("attributes") or "")
    cancel = state.nexus_operations[attributes.scheduled_event_id].cancel
    assert cancel is not None
    cancel.attempt += 1
    cancel.last_ended_ns = nanoseconds(event.event_time)
    if event.event_type == event_types.EVENT_TYPE_NEXUS_OPERATION_CANCEL_REQUEST_COMPLETED:
        cancel.last_failure = None
        cancel.ended = common_enums.NEXUS_OPERATION_CANCELLATION_STATE_SUCCEEDED
    else:
        cancel.last_failure = failure.Failure()
        cancel.last_failure.CopyFrom(attributes.failure)
        cancel.ended = common_enums.NEXUS_OPERATION_CANCELLATION_STATE_FAILED


# Updates


def _update_admitted(state: WorkflowState, event: history.HistoryEvent) -> None:
    request = event.workflow_execution_update_admitted_event_attributes.request
    update_id = request.meta.update_id
    state.updates[update_id] = Update(
        update_id, request.SerializeToString(), admitted_event_id=event.event_id
    )
    state.updates_total += 1
    _update_requested(state, update_id, request, event)


def _update_requested(
    state: WorkflowState,
    update_id: str,
    request: update_messages.Request,
    event: history.HistoryEvent,
) -> None:
    """What the request of an update brings along, when it has come into history."""
    _note_request(state, request.request_id, event)
    at_ns = nanoseconds(event.event_time)
    attach(state, request.request_id, request.completion_callbacks, at_ns, update_id)


def _update_accepted(state: WorkflowState, event: history.HistoryEvent) -> None:
    attributes = event.workflow_execution_update_accepted_event_attributes
    update = state.updates.get(attributes.protocol_instance_id)
    if update is None:
        update = Update(attributes.protocol_instance_id, b"")
        state.updates[update.update_id] = update
    update.accepted_event_id = event.event_id
    update.request = b""
    update.sent = False
    update.attached = []
    if attributes.HasField("accepted_request"):
        update_id = attributes.protocol_instance_id
        _update_requested(state, update_id, attributes.accepted_request, event)


def _update_completed(state: WorkflowState, event: history.HistoryEvent) -> None:
    update_id = event.workflow_execution_update_completed_event_attributes.meta.update_id
    state.updates.pop(update_id, None)
    state.updates_completed[update_id] = event.event_id
    update_ended(state, update_id, event.event_id)
    if len(state.updates_completed) > UPDATES_COMPLETED_MAX:
        del state.updates_completed[next(iter(state.updates_completed))]


_Change = Callable[[Any, history.HistoryEvent], None]


def _event(name: str) -> int:
    return event_types.EventType.Value("EVENT_TYPE_" + name)


_CHANGES: dict[int, _Change] = {
    _event("WORKFLOW_EXECUTION_STARTED"): _workflow_started,
    _event("WORKFLOW_EXECUTION_SIGNALED"): _signaled,
    _event("WORKFLOW_EXECUTION_CANCEL_REQUESTED"): _cancel_requested,
    _event("WORKFLOW_EXECUTION_OPTIONS_UPDATED"): _options_updated,
    _event("WORKFLOW_EXECUTION_PAUSED"): _paused,
    _event("WORKFLOW_EXECUTION_UNPAUSED"): _unpaused,
    _event("WORKFLOW_EXECUTION_COMPLETED"): _closed(
        workflow_enums.WORKFLOW_EXECUTION_STATUS_COMPLETED
    ),
    _event("WORKFLOW_EXECUTION_FAILED"): _closed(workflow_enums.WORKFLOW_EXECUTION_STATUS_FAILED),
    _event("WORKFLOW_EXECUTION_TIMED_OUT"): _closed(
        workflow_enums.WORKFLOW_EXECUTION_STATUS_TIMED_OUT
    ),
    _event("WORKFLOW_EXECUTION_CANCELED"): _closed(
        workflow_enums.WORKFLOW_EXECUTION_STATUS_CANCELED
    ),
    _event("WORKFLOW_EXECUTION_TERMINATED"): _closed(
        workflow_enums.WORKFLOW_EXECUTION_STATUS_TERMINATED
    ),
    _event("WORKFLOW_EXECUTION_CONTINUED_AS_NEW"): _closed(
        workflow_enums.WORKFLOW_EXECUTION_STATUS_CONTINUED_AS_NEW
    ),
    _event("UPSERT_WORKFLOW_SEARCH_ATTRIBUTES"): _search_attributes_upserted,
    _event("WORKFLOW_PROPERTIES_MODIFIED"): _properties_modified,
    _event("WORKFLOW_TASK_SCHEDULED"): _workflow_task_scheduled,
    _event("WORKFLOW_TASK_STARTED"): _workflow_task_started,
    _event("WORKFLOW_TASK_COMPLETED"): _workflow_task_completed,
    _event("WORKFLOW_TASK_FAILED"): _workflow_task_failed,
    _event("WORKFLOW_TASK_TIMED_OUT"): _workflow_task_timed_out,
    _event("ACTIVITY_TASK_SCHEDULED"): _activity_scheduled,
    _event("ACTIVITY_TASK_CANCEL_REQUESTED"): _activity_cancel_requested,
    _event("ACTIVITY_TASK_COMPLETED"): _activity_ended,
    _event("ACTIVITY_TASK_FAILED"): _activity_ended,
    _event("ACTIVITY_TASK_TIMED_OUT"): _activity_ended,
    _event("ACTIVITY_TASK_CANCELED"): _activity_ended,
    _event("TIMER_STARTED"): _timer_started,
    _event("TIMER_FIRED"): _timer_fired,
    _event("TIMER_CANCELED"): _timer_canceled,
    _event("START_CHILD_WORKFLOW_EXECUTION_INITIATED"): _child_initiated,
    _event("CHILD_WORKFLOW_EXECUTION_STARTED"): _child_started,
    _event("START_CHILD_WORKFLOW_EXECUTION_FAILED"): _child_ended,
    _event("CHILD_WORKFLOW_EXECUTION_COMPLETED"): _child_ended,
    _event("CHILD_WORKFLOW_EXECUTION_FAILED"): _child_ended,
    _event("CHILD_WORKFLOW_EXECUTION_CANCELED"): _child_ended,
    _event("CHILD_WORKFLOW_EXECUTION_TIMED_OUT"): _child_ended,
    _event("CHILD_WORKFLOW_EXECUTION_TERMINATED"): _child_ended,
    _event("WORKFLOW_EXECUTION_UPDATE_ADMITTED"): _update_admitted,
    _event("WORKFLOW_EXECUTION_UPDATE_ACCEPTED"): _update_accepted,
    _event("WORKFLOW_EXECUTION_UPDATE_COMPLETED"): _update_completed,
    _event("SIGNAL_EXTERNAL_WORKFLOW_EXECUTION_INITIATED"): _external_signal_initiated,
    _event("EXTERNAL_WORKFLOW_EXECUTION_SIGNALED"): _external_signal_ended,
    _event("SIGNAL_EXTERNAL_WORKFLOW_EXECUTION_FAILED"): _external_signal_ended,
    _event("REQUEST_CANCEL_EXTERNAL_WORKFLOW_EXECUTION_INITIATED"): _external_cancel_initiated,
    _event("EXTERNAL_WORKFLOW_EXECUTION_CANCEL_REQUESTED"): _external_cancel_ended,
    _event("REQUEST_CANCEL_EXTERNAL_WORKFLOW_EXECUTION_FAILED"): _external_cancel_ended,
    _event("NEXUS_OPERATION_SCHEDULED"): _nexus_scheduled,
    _event("NEXUS_OPERATION_STARTED"): _nexus_started,
    _event("NEXUS_OPERATION_COMPLETED"): _nexus_ended,
    _event("NEXUS_OPERATION_FAILED"): _nexus_ended,
    _event("NEXUS_OPERATION_CANCELED"): _nexus_ended,
    _event("NEXUS_OPERATION_TIMED_OUT"): _nexus_ended,
    _event("NEXUS_OPERATION_CANCEL_REQUESTED"): _nexus_cancel_requested,
    _event("NEXUS_OPERATION_CANCEL_REQUEST_COMPLETED"): _nexus_cancel_ended,
    _event("NEXUS_OPERATION_CANCEL_REQUEST_FAILED"): _nexus_cancel_ended,
}
"""Event type -> what it changes. Types that are not here only take their place in history."""


# --- Records ----------------------------------------------------------------------------------


def apply_record(state: ExecutionState, record: r.AnyRecord) -> None:
    """Apply one internal record."""
    RECORDS[type(record)](state, record)


def _created(state: ExecutionState, record: r.Created) -> None:
    state.namespace = record.namespace
    state.create_request_id = record.request_id
    if isinstance(state, WorkflowState):
        state.scheduled_by = record.scheduled_by
        state.started_by = record.started_by


def _apply_activity(state: HistoryState, record: r.ActivityRecord) -> None:
    activity = state.activities[record.scheduled_event_id]
    match record:
        case r.ActivityStarted():
            _activity_attempt_started(activity, record)
        case r.ActivityRetryScheduled():
            _activity_retry_scheduled(activity, record)
        case r.ActivityRetryDispatched():
            activity.retry_at_ns = 0
            activity.dispatched_ns = record.at_ns
        case r.ActivityPaused():
            _activity_paused(activity, record)
        case r.ActivityUnpaused():
            activity.pause = None
            if record.reset_attempts:
                _reset_attempts(activity)
            if record.reset_heartbeat:
                _forget_heartbeat(activity)
            _dispatch_again(activity, record.dispatch_at_ns)
        case r.ActivityReset():
            _activity_reset(activity, record)
        case r.ActivityOptionsUpdated():
            _activity_options_updated(activity, record)
        case _:
            assert_never(record)


def _apply_nexus(state: HistoryState, record: r.NexusRecord) -> None:
    operation = state.nexus_operations[record.scheduled_event_id]
    match record:
        case r.NexusAttemptFailed():
            operation.attempt += 1
            operation.retry_at_ns = record.retry_at_ns
            operation.last_ended_ns = record.ended_ns
            operation.last_failure = failure.Failure.FromString(record.failure)
        case r.NexusRetryDue():
            operation.retry_at_ns = 0
        case r.NexusCancelAttemptFailed():
            assert operation.cancel is not None
            operation.cancel.attempt += 1
            operation.cancel.retry_at_ns = record.retry_at_ns
            operation.cancel.last_ended_ns = record.ended_ns
            operation.cancel.last_failure = failure.Failure.FromString(record.failure)
        case r.NexusCancelRetryDue():
            assert operation.cancel is not None
            operation.cancel.retry_at_ns = 0
        case _:
            assert_never(record)


def _apply_run(state: WorkflowState, record: r.RunRecord) -> None:
    match record:
        case r.RequestSeen():
            _see_request(state, record.request_id)
        case r.UpdateAdmitted():
            state.updates[record.update_id] = Update(record.update_id, record.request)
            state.updates_total += 1
        case r.UpdateAttached():
            waiting = state.updates[record.update_id]
            waiting.attached.append((record.request_id, record.options))
        case r.UpdateDropped():
            state.updates.pop(record.update_id, None)
            if record.outcome:
                update_ended(state, record.update_id, 0, record.outcome, record.at_ns)
        case r.ResetTo():
            state.reset_run_id = record.run_id
        case r.ResetFrom():
            _reset_from(state, record)
        case r.MoveStarted():
            versioning.apply_move(state, record)
        case r.ActivitiesRerouted():
            _recall_activities(state)
        case r.TargetNoticed():
            versioning.apply_notice(state, record)
        case r.ParentReported():
            state.parent_reported = True
        case r.ScheduleReported():
            state.schedule_reported = True
        case r.ParentClosePolicyApplied():
            state.policies_due.pop(record.initiated_event_id, None)
            state.children.pop(record.initiated_event_id, None)
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


def _apply_buffer(state: WorkflowState, record: r.BufferRecord) -> None:
    match record:
        case r.EventBuffered():
            event = history.HistoryEvent.FromString(record.event)
            event.event_id = BUFFERED_EVENT_ID
            state.buffered.append(event)
            _change(state, event)
        case r.BufferFlushed():
            state.buffered.clear()
            state.flushing = record.count
        case r.BufferedTimerDropped():
            state.buffered = [
                e
                for e in state.buffered
                if e.timer_fired_event_attributes.timer_id != record.timer_id
                or e.event_type != event_types.EVENT_TYPE_TIMER_FIRED
            ]
        case _:
            assert_never(record)


def _apply_workflow_task(state: WorkflowState, record: r.WorkflowTaskRecord) -> None:
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
            _end_workflow_task(state, record.increment_attempt, record.problem)
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


def _activity_attempt_started(activity: Activity, record: r.ActivityStarted) -> None:
    activity.attempt = record.attempt
    activity.retry_at_ns = 0
    activity.started_ns = record.at_ns
    activity.last_started_ns = record.at_ns
    activity.identity = record.identity
    activity.last_identity = record.identity
    activity.request_id = record.request_id
    activity.worker_version = record.worker_version
    activity.last_version = record.version


def _activity_retry_scheduled(activity: Activity, record: r.ActivityRetryScheduled) -> None:
    activity.attempt = record.attempt
    activity.stamp += 1
    activity.retry_at_ns = record.retry_at_ns
    activity.dispatched_ns = record.retry_at_ns
    activity.started_ns = 0
    activity.identity = ""
    activity.request_id = ""
    activity.last_ended_ns = record.ended_ns
    activity.last_failure = failure.Failure.FromString(record.failure)
    activity.reset_pending = False
    if activity.reset_heartbeat_pending:
        _forget_heartbeat(activity)


def _activity_paused(activity: Activity, record: r.ActivityPaused) -> None:
    activity.pause = Pause(
        record.at_ns, record.identity, record.reason, record.request_id, record.rule_id
    )
    if not activity.started:
        activity.stamp += 1


def _activity_reset(activity: Activity, record: r.ActivityReset) -> None:
    _reset_attempts(activity)
    if record.unpause:
        activity.pause = None
    if record.reset_heartbeat and activity.started:
        activity.reset_heartbeat_pending = True
    elif record.reset_heartbeat:
        _forget_heartbeat(activity)
    _dispatch_again(activity, record.dispatch_at_ns)


def _reset_attempts(activity: Activity) -> None:
    """A running attempt keeps its number, by which its worker is known."""
    if activity.started:
        activity.reset_pending = True
    else:
        activity.attempt = 1


def _forget_heartbeat(activity: Activity) -> None:
    activity.heartbeat_ns = 0
    activity.heartbeat_details = None
    activity.reset_heartbeat_pending = False


def _dispatch_again(activity: Activity, at_ns: int) -> None:
    """The attempt that waits is dispatched at this time instead; what was dispatched is stale."""
    if at_ns:
        activity.stamp += 1
        activity.retry_at_ns = at_ns
        activity.dispatched_ns = at_ns


def _activity_options_updated(activity: Activity, record: r.ActivityOptionsUpdated) -> None:
    """The attributes are replaced, not changed: what was granted before holds the old ones."""
    if not activity.original_options:
        activity.original_options = options_of(activity.scheduled).SerializeToString()
    options = activities.ActivityOptions.FromString(record.options)
    changed = history.ActivityTaskScheduledEventAttributes()
    changed.CopyFrom(activity.scheduled)
    for name in OPTION_FIELDS:
        if options.HasField(name):  # type: ignore[arg-type]
            getattr(changed, name).CopyFrom(getattr(options, name))
        else:
            changed.ClearField(name)  # type: ignore[arg-type]
    activity.scheduled = changed
    if not activity.started and activity.pause is None:
        _dispatch_again(activity, record.dispatch_at_ns)


OPTION_FIELDS = (
    "task_queue",
    "schedule_to_close_timeout",
    "schedule_to_start_timeout",
    "start_to_close_timeout",
    "heartbeat_timeout",
    "retry_policy",
    "priority",
)


def options_of(
    scheduled: history.ActivityTaskScheduledEventAttributes,
) -> activities.ActivityOptions:
    """Those attributes of an activity that can be changed while it is pending."""
    options = activities.ActivityOptions()
    for name in OPTION_FIELDS:
        if scheduled.HasField(name):  # type: ignore[arg-type]
            getattr(options, name).CopyFrom(getattr(scheduled, name))
    return options


def apply_heartbeat(
    state: HistoryState,
    scheduled_event_id: int,
    at_ns: int,
    details: common.Payloads | None,
) -> None:
    """Keep the last heartbeat of an attempt; details are kept when a heartbeat brings none."""
    activity = state.activities[scheduled_event_id]
    activity.heartbeat_ns = at_ns
    activity.heartbeats += 1
    if details is not None and details.payloads:
        activity.heartbeat_details = details


RECORDS: dict[type[r.Record], Callable[[Any, Any], None]] = {
    r.Created: _created,
    r.VersionSetsSet: apply_version_sets,
    **dict.fromkeys(get_args(r.WorkflowTaskRecord), _apply_workflow_task),
    **dict.fromkeys(get_args(r.BufferRecord), _apply_buffer),
    **dict.fromkeys(get_args(r.RunRecord), _apply_run),
    **dict.fromkeys(get_args(r.ActivityRecord), _apply_activity),
    **dict.fromkeys(get_args(r.NexusRecord), _apply_nexus),
    **dict.fromkeys(get_args(r.CallbackRecord), apply_callback),
    **dict.fromkeys(get_args(r.ScheduleRecord), apply_schedule),
    **dict.fromkeys(get_args(r.BatchRecord), apply_batch),
    **dict.fromkeys(get_args(r.DeploymentRecord), apply_deployment),
    **dict.fromkeys(get_args(r.StandaloneRecord), apply_standalone),
    **dict.fromkeys(get_args(r.StandaloneNexusRecord), apply_standalone_nexus),
}
"""Record -> what it changes. Looked up, not matched one after the other: each commit has some."""
