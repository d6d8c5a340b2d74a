"""The workflow task machine: one task at a time asks a worker what the workflow does next.

    state       input            to          journal
    ---------   --------------   ---------   ---------------------------------------------------
    none        schedule         scheduled   WorkflowTaskScheduled, or a record if transient
    none        update comes     scheduled   record: speculative, not in history
    scheduled   start            started     WorkflowTaskStarted, or a record if transient
    scheduled   sticky timeout   scheduled   WorkflowTaskTimedOut, scheduled on the normal queue
    started     complete         none        WorkflowTaskCompleted, then the buffered events
    started     drop             none        record: a speculative one that came to nothing
    started     fail, timeout    scheduled   WorkflowTaskFailed / TimedOut (first attempt only)
    scheduled   pause            none        WorkflowTaskFailed (first attempt only)

Rule 1: at most one task is in flight. While one is started, events that it did not cause are
        buffered, and get their ids when it ends.
Rule 2: attempts after the first are transient: a worker that fails again and again does not make
        history grow. A transient task enters history only when it completes, or when new events
        come before it starts, which makes it a first attempt again.
Rule 3: a speculative task enters history with the first event that follows it, or when it ends in
        anything but the rejection of all updates that it carries.
Rule 4: while the workflow is paused none is scheduled; unpausing schedules one.
Rule 5: with worker versioning, a task goes to workers of the workflow's version only, or moves the
        workflow to theirs: see `versioning/machine.py`.
"""

from dataclasses import dataclass, field

from temporalio.api.common.v1 import message_pb2 as common
from temporalio.api.enums.v1 import event_type_pb2 as event_types
from temporalio.api.enums.v1 import failed_cause_pb2 as causes
from temporalio.api.enums.v1 import workflow_pb2 as workflow_enums
from temporalio.api.failure.v1 import message_pb2 as failure
from temporalio.api.history.v1 import message_pb2 as history
from temporalio.api.sdk.v1 import task_complete_metadata_pb2 as sdk

from durably.config import Config
from durably.engine import records as r
from durably.engine.apply.workflow_task import failed_problem, timed_out_problem
from durably.engine.state import WorkflowState, WorkflowTask
from durably.engine.times import SECOND_NS, nanoseconds
from durably.engine.transition import (
    DispatchWorkflowTask,
    Transition,
    stamp_event,
    workflow_task_scheduled,
)
from durably.engine.versioning import machine as versioning
from durably.engine.versioning.state import Notice
from durably.engine.versioning.version import UNSPECIFIED, Version, Worker
from durably.errors import NotFound

BACKOFF_AFTER_ATTEMPT = 3
BACKOFF_INITIAL_NS = 5 * SECOND_NS
BACKOFF_MAX_NS = 600 * SECOND_NS

TASK_NOT_FOUND = "Workflow task not found."

Reasons = tuple["workflow_enums.SuggestContinueAsNewReason.ValueType", ...]


@dataclass(slots=True)
class WorkflowTaskGrant:
    """What a poller is told of the workflow task it has started."""

    scheduled_event_id: int
    started_event_id: int
    attempt: int
    previous_started_event_id: int
    scheduled_ns: int
    started_ns: int
    sticky: bool
    """Polled from the sticky queue: history from previous_started_event_id + 1 on is enough."""
    last_event_id: int
    """History in the reply ends here; newer events belong to the next task."""
    transient_events: list[history.HistoryEvent] = field(default_factory=list)
    """Scheduled and started events of a transient task: shown, but not in history."""


@dataclass(frozen=True, slots=True)
class TaskReference:
    """What a task token says of the workflow task it belongs to."""

    scheduled_event_id: int
    started_event_id: int
    attempt: int


# --- Schedule ---------------------------------------------------------------------------------


def schedule_if_none(t: Transition) -> None:
    """Make sure that a worker will look at the new events.

    Nothing happens while a task is pending already, or while the first task is delayed. During the
    completion of a task it is only remembered: the completion schedules at its end.
    """
    state = t.state
    if t.completing:
        t.task_wanted = True
    elif state.running and state.workflow_task is None and not state.backoff_pending:
        schedule(t)


def schedule_for_update(t: Transition) -> None:
    """The same for an update, of which history is to say nothing as long as it is not accepted."""
    state = t.state
    if not t.completing and state.workflow_task is None and not state.backoff_pending:
        # The first task is never a speculative one: what it brings is the start.
        schedule(t, speculative=bool(state.last_completed_event_id))


def schedule(t: Transition, *, dispatch: bool = True, speculative: bool = False) -> None:
    """Schedule a workflow task, unless the workflow is paused: then events only leave the buffer.

    `dispatch` False: the caller starts it in the same transition. `speculative`: it is there for an
    update alone, unless events come out of the buffer.
    """
    state = t.state
    flushed = t.flush_buffered()
    if state.held:
        return
    attempt = 1 if flushed else state.workflow_task_attempt
    if attempt > 1 or (speculative and not flushed):
        _note_attempt(t, attempt)
    else:
        _record_scheduled(t, attempt, state.sticky_queue)
    task = state.workflow_task
    assert task is not None
    if dispatch:
        dispatch_task(t, task)


def redispatch(t: Transition) -> None:
    """The workflow goes to other workers: a task that none has taken waits for those now, on the
    normal queue; without any task, one is scheduled."""
    task = t.state.workflow_task
    if task is None:
        schedule_if_none(t)
    elif not task.started:
        if task.sticky:
            t.note(r.WorkflowTaskDispatched(t.state.task_queue, sticky=False))
        dispatch_task(t, task)


def dispatch_task(t: Transition, task: WorkflowTask) -> None:
    t.emit(DispatchWorkflowTask(task.queue, task.sticky, task.scheduled_event_id, task.attempt))
    if task.sticky:
        t.attend(t.now_ns + t.state.sticky_timeout_ns)


def _record_scheduled(
    t: Transition, attempt: int, sticky_queue: str, at_ns: int = 0, timeout_ns: int = 0
) -> None:
    timeout_ns = timeout_ns or _timeout_ns(t.state, attempt)
    t.record(workflow_task_scheduled(t.state, attempt, sticky_queue, timeout_ns), at_ns=at_ns)


def _note_attempt(t: Transition, attempt: int) -> None:
    t.note(
        r.WorkflowTaskAttemptScheduled(
            scheduled_event_id=t.state.next_event_id,
            attempt=attempt,
            at_ns=t.now_ns,
            timeout_ns=_timeout_ns(t.state, attempt),
            speculative=attempt == 1,
        )
    )


def _timeout_ns(state: WorkflowState, attempt: int) -> int:
    """Start-to-close timeout of an attempt; from the fourth on it grows, to slow down a worker that
    fails at the same place over and over."""
    timeout = state.started.workflow_task_timeout
    base_ns = nanoseconds(timeout)
    if attempt <= BACKOFF_AFTER_ATTEMPT:
        return base_ns
    doublings = min(attempt - BACKOFF_AFTER_ATTEMPT - 1, 20)
    return base_ns + min(BACKOFF_INITIAL_NS << doublings, BACKOFF_MAX_NS)


def end_backoff(t: Transition) -> None:
    """The delay before the first task is over."""
    t.note(r.WorkflowTaskBackoffEnded())
    schedule_if_none(t)


def move_to_normal_queue(t: Transition) -> DispatchWorkflowTask:
    """No worker polls the sticky queue any more: the pending task goes to the normal queue."""
    task = t.state.workflow_task
    assert task is not None
    assert not task.started
    t.note(r.StickyCleared())
    t.note(r.WorkflowTaskDispatched(t.state.task_queue, sticky=False))
    return DispatchWorkflowTask(task.queue, False, task.scheduled_event_id, task.attempt)


def reset_sticky(t: Transition) -> None:
    """ResetStickyTaskQueue: the next task goes to the normal queue."""
    if t.state.sticky_queue:
        t.note(r.StickyCleared())


# --- Start ------------------------------------------------------------------------------------


def start(
    t: Transition,
    scheduled_event_id: int,
    attempt: int,
    identity: str,
    request_id: str,
    config: Config,
    *,
    worker: Worker | None = None,
    target: Notice | None = None,
) -> WorkflowTaskGrant:
    """A worker takes the task. NotFound if it is not there for taking any more, or not by this one.

    `worker`: what it says of itself beside its identity; `target`: where the workflow's tasks go now
    if it upgrades.
    """
    task = t.state.workflow_task
    if (
        task is None
        or task.scheduled_event_id != scheduled_event_id
        or task.attempt != attempt
        or (task.started and task.request_id != request_id)
    ):
        raise NotFound(TASK_NOT_FOUND)
    if not task.started:
        worker = worker or Worker(identity)
        if not versioning.is_for(t.state, worker):
            raise NotFound(TASK_NOT_FOUND)
        previous = t.state.last_started_event_id
        task = _start(t, task, worker, request_id, config, target)
        versioning.task_started(t, worker, target)
        t.attend(t.now_ns + task.timeout_ns)
        return _grant(t.state, task, previous)
    return _grant(t.state, task, t.state.last_started_event_id)


def _start(
    t: Transition,
    task: WorkflowTask,
    worker: Worker,
    request_id: str,
    config: Config,
    target: Notice | None,
) -> WorkflowTask:
    state = t.state
    told = versioning.task_starts(t, target)
    # A build among compatible ones is said when the task is completed.
    stamp = b"" if versioning.compatible_build(worker.stamp) else worker.stamp
    if task.transient and task.scheduled_event_id != state.next_event_id:
        # New events came after it was scheduled: it is a first attempt at those.
        _record_scheduled(t, 1, "", task.scheduled_ns)
        assert state.workflow_task is not None
        task = state.workflow_task
    reasons = _reasons_to_continue_as_new(state, config)
    if task.transient:
        t.note(
            r.WorkflowTaskAttemptStarted(
                scheduled_event_id=task.scheduled_event_id,
                started_event_id=task.scheduled_event_id + 1,
                attempt=task.attempt,
                at_ns=t.now_ns,
                request_id=request_id,
                identity=worker.identity,
                history_size_bytes=state.history_size_bytes,
                suggest_continue_as_new=bool(reasons),
                worker_version=stamp,
                target_changed=told,
                reasons=reasons,
            )
        )
    else:
        t.record(
            history.WorkflowTaskStartedEventAttributes(
                scheduled_event_id=task.scheduled_event_id,
                identity=worker.identity,
                request_id=request_id,
                suggest_continue_as_new=bool(reasons),
                suggest_continue_as_new_reasons=reasons,
                history_size_bytes=state.history_size_bytes,
                worker_version=_stamp(stamp),
                target_worker_deployment_version_changed=told,
            )
        )
    assert state.workflow_task is not None
    return state.workflow_task


def _stamp(encoded: bytes) -> common.WorkerVersionStamp | None:
    return common.WorkerVersionStamp.FromString(encoded) if encoded else None


def _reasons_to_continue_as_new(state: WorkflowState, config: Config) -> Reasons:
    """Why the workflow should begin anew; empty: it need not."""
    reasons: list[workflow_enums.SuggestContinueAsNewReason.ValueType] = []
    if state.history_size_bytes >= config.history_bytes_suggest_continue_as_new:
        reasons.append(workflow_enums.SUGGEST_CONTINUE_AS_NEW_REASON_HISTORY_SIZE_TOO_LARGE)
    if state.next_event_id > config.history_events_suggest_continue_as_new:
        reasons.append(workflow_enums.SUGGEST_CONTINUE_AS_NEW_REASON_TOO_MANY_HISTORY_EVENTS)
    return tuple(reasons)


def _grant(state: WorkflowState, task: WorkflowTask, previous: int) -> WorkflowTaskGrant:
    return WorkflowTaskGrant(
        scheduled_event_id=task.scheduled_event_id,
        started_event_id=task.started_event_id,
        attempt=task.attempt,
        previous_started_event_id=previous,
        scheduled_ns=task.scheduled_ns,
        started_ns=task.started_ns,
        sticky=task.sticky,
        last_event_id=min(task.started_event_id, state.next_event_id - 1),
        transient_events=transient_events(state) if task.transient else [],
    )


def transient_events(state: WorkflowState) -> list[history.HistoryEvent]:
    """The events of a transient task as a worker is shown them; empty for any other task."""
    task = state.workflow_task
    if task is None or not task.transient:
        return []
    scheduled = history.HistoryEvent(
        event_id=task.scheduled_event_id,
        event_type=event_types.EVENT_TYPE_WORKFLOW_TASK_SCHEDULED,
        version=state.failover_version,
        workflow_task_scheduled_event_attributes=workflow_task_scheduled(
            state, task.attempt, task.queue if task.sticky else "", task.timeout_ns
        ),
    )
    stamp_event(scheduled, task.scheduled_ns)
    if not task.started:
        return [scheduled]
    started = history.HistoryEvent(
        event_id=task.started_event_id,
        event_type=event_types.EVENT_TYPE_WORKFLOW_TASK_STARTED,
        version=state.failover_version,
        workflow_task_started_event_attributes=_started_attributes(task),
    )
    stamp_event(started, task.started_ns)
    return [scheduled, started]


def _started_attributes(
    task: WorkflowTask,
) -> history.WorkflowTaskStartedEventAttributes:
    return history.WorkflowTaskStartedEventAttributes(
        scheduled_event_id=task.scheduled_event_id,
        identity=task.identity,
        request_id=task.request_id,
        suggest_continue_as_new=task.suggest_continue_as_new,
        suggest_continue_as_new_reasons=task.reasons,  # type: ignore[arg-type]
        history_size_bytes=task.history_size_bytes,
        worker_version=_stamp(task.worker_version),
        target_worker_deployment_version_changed=task.target_changed,
    )


# --- End --------------------------------------------------------------------------------------


def in_flight(state: WorkflowState, reference: TaskReference) -> WorkflowTask:
    """The started task that a token refers to; NotFound if it has ended or was replaced."""
    task = state.workflow_task
    if (
        not state.running
        or task is None
        or not task.started
        or task.scheduled_event_id != reference.scheduled_event_id
        or task.started_event_id != reference.started_event_id
        or task.attempt != reference.attempt
    ):
        raise NotFound(TASK_NOT_FOUND)
    return task


@dataclass(frozen=True, slots=True)
class Completion:
    """What a worker says of itself and its build when it completes or fails a task."""

    identity: str
    binary_checksum: str = ""
    worker_version: common.WorkerVersionStamp | None = None
    sdk_metadata: sdk.WorkflowTaskCompletedMetadata | None = None
    metering_metadata: common.MeteringMetadata | None = None
    deployment: str = ""
    """The worker's deployment; it may have one without versioning."""
    version: Version | None = None
    behavior: workflow_enums.VersioningBehavior.ValueType = UNSPECIFIED


def record_completed(t: Transition, reference: TaskReference, completion: Completion) -> int:
    """The task is done; id of its completed event. The caller applies the commands next."""
    task = in_flight(t.state, reference)
    scheduled_event_id, started_event_id = (
        task.scheduled_event_id,
        task.started_event_id,
    )
    if task.transient:
        scheduled_event_id, started_event_id = _record_transient(t, task)
    attributes = history.WorkflowTaskCompletedEventAttributes(
        scheduled_event_id=scheduled_event_id,
        started_event_id=started_event_id,
        identity=completion.identity,
        binary_checksum=completion.binary_checksum,
        worker_deployment_name=completion.deployment,
        versioning_behavior=completion.behavior,
    )
    if completion.version is not None:
        attributes.deployment_version.CopyFrom(completion.version.message)
    if completion.worker_version is not None:
        attributes.worker_version.CopyFrom(completion.worker_version)
    if completion.sdk_metadata is not None:
        attributes.sdk_metadata.CopyFrom(completion.sdk_metadata)
    if completion.metering_metadata is not None:
        attributes.metering_metadata.CopyFrom(completion.metering_metadata)
    shown = _shown(t.state)
    event_id = t.record(attributes)
    t.visible |= _shown(t.state) != shown
    return event_id


def _shown(state: WorkflowState) -> tuple[object, ...]:
    """What lists show of the workers that have worked on it, and of what kept them from it."""
    said = [*state.build_ids, *state.reported_problems]
    found = state.versioning
    if found is None:
        return (said,)
    return (
        said,
        state.used_versions,
        found.shown_behavior,
        found.shown_version,
    )


def _record_transient(t: Transition, task: WorkflowTask) -> tuple[int, int]:
    """A transient task that completes enters history, with the times it really had."""
    sticky_queue = task.queue if task.sticky else ""
    _record_scheduled(t, task.attempt, sticky_queue, task.scheduled_ns, task.timeout_ns)
    started_event_id = t.record(_started_attributes(task), at_ns=task.started_ns)
    return task.scheduled_event_id, started_event_id


def _write_down(t: Transition, task: WorkflowTask) -> WorkflowTask:
    """A speculative task ends in a way that history tells of."""
    if not task.speculative:
        return task
    if task.started:
        _record_transient(t, task)
    else:
        _record_scheduled(t, 1, task.queue if task.sticky else "", task.scheduled_ns)
    assert t.state.workflow_task is not None
    return t.state.workflow_task


def drop(t: Transition, reference: TaskReference) -> int:
    """A speculative task came to nothing; the event up to which its worker knows the history again."""
    in_flight(t.state, reference)
    t.note(r.WorkflowTaskDropped())
    return t.state.last_started_event_id


def fail(
    t: Transition,
    reference: TaskReference,
    cause: causes.WorkflowTaskFailedCause.ValueType,
    reason: failure.Failure | None,
    completion: Completion,
) -> None:
    """The worker could not complete the task, or what it asked for is wrong: it is tried again."""
    task = _write_down(t, in_flight(t.state, reference))
    problems = t.state.reported_problems
    if task.transient:
        t.note(r.WorkflowTaskAttemptEnded(True, failed_problem(cause)))
    else:
        attributes = history.WorkflowTaskFailedEventAttributes(
            scheduled_event_id=task.scheduled_event_id,
            started_event_id=task.started_event_id,
            cause=cause,
            identity=completion.identity,
            binary_checksum=completion.binary_checksum,
        )
        if reason is not None:
            attributes.failure.CopyFrom(reason)
        if completion.worker_version is not None:
            attributes.worker_version.CopyFrom(completion.worker_version)
        t.record(attributes)
    t.visible |= t.state.reported_problems != problems
    schedule(t)


def recall(t: Transition) -> None:
    """End a task that no worker has taken, because the workflow is about to be paused."""
    task = t.state.workflow_task
    if task is None or task.started:
        return
    if task.transient:
        t.note(r.WorkflowTaskAttemptEnded(increment_attempt=False))
    else:
        t.record(
            history.WorkflowTaskFailedEventAttributes(
                scheduled_event_id=task.scheduled_event_id,
                cause=causes.WORKFLOW_TASK_FAILED_CAUSE_WORKFLOW_PAUSE_REQUESTED_BEFORE_TASK_STARTED,
                identity="history-service",
            )
        )


def abandon(t: Transition) -> None:
    """End a task that is in flight because the execution is about to be closed from outside.

    The failure is in history, as in the API's own server, so that every started task has an end.
    """
    task = t.state.workflow_task
    if task is None or not task.started:
        return
    task = _write_down(t, task)
    if task.transient:
        t.note(r.WorkflowTaskAttemptEnded(increment_attempt=False))
    else:
        t.record(
            history.WorkflowTaskFailedEventAttributes(
                scheduled_event_id=task.scheduled_event_id,
                started_event_id=task.started_event_id,
                cause=causes.WORKFLOW_TASK_FAILED_CAUSE_FORCE_CLOSE_COMMAND,
                identity="history-service",
            )
        )
    t.flush_buffered()


# --- Deadlines --------------------------------------------------------------------------------


def next_deadline(state: WorkflowState) -> int:
    """When the pending task times out; 0: never."""
    task = state.workflow_task
    if task is None:
        return 0
    if task.started:
        return task.started_ns + task.timeout_ns
    return task.scheduled_ns + state.sticky_timeout_ns if task.sticky else 0


def fire_due(t: Transition) -> None:
    task = t.state.workflow_task
    due_ns = next_deadline(t.state)
    if task is None or not due_ns or due_ns > t.now_ns:
        return
    kind = (
        workflow_enums.TIMEOUT_TYPE_START_TO_CLOSE
        if task.started
        else workflow_enums.TIMEOUT_TYPE_SCHEDULE_TO_START
    )
    task = _write_down(t, task)
    problems = t.state.reported_problems
    if task.transient:
        t.note(r.WorkflowTaskAttemptEnded(True, timed_out_problem(kind)))
    else:
        t.record(
            history.WorkflowTaskTimedOutEventAttributes(
                scheduled_event_id=task.scheduled_event_id,
                started_event_id=task.started_event_id,
                timeout_type=kind,
            )
        )
    t.visible |= t.state.reported_problems != problems
    schedule(t)
