"""The life of one workflow run: how it starts, what reaches it from outside, how it ends.

    state     input                        to
    -------   --------------------------   -----------------------------------------------
    none      start                        running
    running   signal, request_cancel       running, with a workflow task to tell the worker
    running   attach                       running; others hear of its end too
    running   complete, fail, cancel,      closed; a failed or timed-out run with a retry
              terminate, time out          policy is followed by another run, a completed,
                                           failed or timed-out one with a cron schedule too
    running   continue_as_new              closed, followed by another run

Rule 1: a run that is followed by another closes and starts its successor in one transition.
Rule 2: no event comes after the one that closes the run.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from temporalio.api.command.v1 import message_pb2 as command
from temporalio.api.common.v1 import message_pb2 as common
from temporalio.api.enums.v1 import failed_cause_pb2 as causes
from temporalio.api.enums.v1 import task_queue_pb2 as queue_enums
from temporalio.api.enums.v1 import workflow_pb2 as workflow_enums
from temporalio.api.failure.v1 import message_pb2 as failure
from temporalio.api.history.v1 import message_pb2 as history
from temporalio.api.sdk.v1 import user_metadata_pb2 as sdk
from temporalio.api.taskqueue.v1 import message_pb2 as taskqueue
from temporalio.api.workflowservice.v1 import request_response_pb2 as ws

from durably.config import Config
from durably.engine import cron, workflow_task
from durably.engine import records as r
from durably.engine.journal import Created
from durably.engine.refusals import BadCommand
from durably.engine.retry import next_retry
from durably.engine.state import ExecutionState, ScheduledBy, WorkflowState
from durably.engine.times import SECOND_NS, nanoseconds, set_duration
from durably.engine.transition import ReportToParent, ReportToSchedule, Transition, outstanding
from durably.engine.versioning import machine as versioning
from durably.engine.versioning.machine import NOTHING_INHERITED, Inherited
from durably.engine.versioning.version import Version, present_form
from durably.errors import InvalidArgument, NotFound, ResourceExhausted

ALREADY_COMPLETED = "workflow execution already completed"


# --- Start ------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Parent:
    """The execution that starts a child, and the root of the tree both belong to."""

    namespace: str
    namespace_id: str
    workflow_id: str
    run_id: str
    initiated_event_id: int
    root_workflow_id: str
    root_run_id: str
    inherited: Inherited = NOTHING_INHERITED
    """What the child has from its parent's version."""


def started_attributes(
    request: ws.StartWorkflowExecutionRequest,
    run_id: str,
    now_ns: int,
    config: Config,
    parent: Parent | None = None,
) -> history.WorkflowExecutionStartedEventAttributes:
    """The first event of a run, from the request that asks for it; timeouts defaulted and capped."""
    attributes = history.WorkflowExecutionStartedEventAttributes(
        workflow_type=request.workflow_type,
        task_queue=normal_queue(request.task_queue.name),
        input=request.input if request.HasField("input") else None,
        original_execution_run_id=run_id,
        first_execution_run_id=run_id,
        identity=request.identity,
        attempt=1,
        cron_schedule=request.cron_schedule,
        workflow_id=request.workflow_id,
        header=request.header if request.HasField("header") else None,
        completion_callbacks=request.completion_callbacks,
    )
    for field in (
        "memo",
        "search_attributes",
        "retry_policy",
        "priority",
        "last_completion_result",
        "continued_failure",
    ):
        if request.HasField(field):
            getattr(attributes, field).CopyFrom(getattr(request, field))
    if request.HasField("versioning_override"):
        attributes.versioning_override.CopyFrom(present_form(request.versioning_override))
    delay_ns = nanoseconds(request.workflow_start_delay)
    if request.cron_schedule:
        attributes.initiator = workflow_enums.CONTINUE_AS_NEW_INITIATOR_CRON_SCHEDULE
        delay_ns = cron.delay_ns(request.cron_schedule, now_ns, now_ns) or 0
    set_duration(attributes.first_workflow_task_backoff, delay_ns)
    _set_timeouts(attributes, request, now_ns + delay_ns, config)
    _set_parent(attributes, parent)
    return attributes


def _set_timeouts(
    attributes: history.WorkflowExecutionStartedEventAttributes,
    request: ws.StartWorkflowExecutionRequest,
    begins_ns: int,
    config: Config,
) -> None:
    execution_ns = nanoseconds(request.workflow_execution_timeout)
    run_ns = cap(nanoseconds(request.workflow_run_timeout), execution_ns)
    task_ns = task_timeout_ns(nanoseconds(request.workflow_task_timeout), run_ns, config)
    if run_ns:
        set_duration(attributes.workflow_run_timeout, run_ns)
    set_duration(attributes.workflow_task_timeout, task_ns)
    if execution_ns:
        set_duration(attributes.workflow_execution_timeout, execution_ns)
        set_duration(attributes.workflow_execution_expiration_time, begins_ns + execution_ns)


def _set_parent(
    attributes: history.WorkflowExecutionStartedEventAttributes, parent: Parent | None
) -> None:
    if parent is None:
        return
    attributes.parent_workflow_namespace = parent.namespace
    attributes.parent_workflow_namespace_id = parent.namespace_id
    attributes.parent_workflow_execution.workflow_id = parent.workflow_id
    attributes.parent_workflow_execution.run_id = parent.run_id
    attributes.parent_initiated_event_id = parent.initiated_event_id
    attributes.root_workflow_execution.workflow_id = parent.root_workflow_id
    attributes.root_workflow_execution.run_id = parent.root_run_id
    parent.inherited.set(attributes)


def cap(timeout_ns: int, limit_ns: int) -> int:
    """A timeout no longer than `limit_ns`; 0 means none for both."""
    if not limit_ns:
        return timeout_ns
    return min(timeout_ns or limit_ns, limit_ns)


def task_timeout_ns(asked_ns: int, run_ns: int, config: Config) -> int:
    default_ns = int(config.workflow_task_timeout_default_s * SECOND_NS)
    longest_ns = int(config.workflow_task_timeout_max_s * SECOND_NS)
    return cap(min(asked_ns or default_ns, longest_ns), run_ns)


def normal_queue(name: str) -> taskqueue.TaskQueue:
    return taskqueue.TaskQueue(name=name, kind=queue_enums.TASK_QUEUE_KIND_NORMAL)


def start(
    t: Transition,
    attributes: history.WorkflowExecutionStartedEventAttributes,
    *,
    namespace: str,
    request_id: str,
    user_metadata: sdk.UserMetadata | None = None,
    links: Iterable[common.Link] = (),
    schedule: bool = True,
    scheduled_by: ScheduledBy | None = None,
) -> None:
    """Start a run: the first event, and the first workflow task unless it is delayed.

    `schedule` False: the caller goes on in the same transition (signal with start).
    """
    t.note(Created(namespace=namespace, request_id=request_id, scheduled_by=scheduled_by))
    t.record(attributes, user_metadata=user_metadata, links=links)
    t.visible = True
    state = t.state
    if state.backoff_pending:
        t.attend(state.execution_ns)
    elif schedule:
        workflow_task.schedule_if_none(t)
    t.attend(state.run_expires_ns)
    t.attend(state.execution_expires_ns)


# --- From outside -----------------------------------------------------------------------------


def ensure_running(state: ExecutionState) -> None:
    if not state.running:
        raise NotFound(ALREADY_COMPLETED)


def signal(
    t: Transition,
    attributes: history.WorkflowExecutionSignaledEventAttributes,
    config: Config,
    links: Iterable[common.Link] = (),
) -> None:
    """Record a signal once: a request id that was accepted before changes nothing."""
    state = t.state
    ensure_running(state)
    if attributes.request_id and attributes.request_id in state.requests_seen:
        return
    if state.signals >= config.signals_max:
        raise InvalidArgument(
            f"exceeded limit of {config.signals_max} signals for one execution; continue as new"
        )
    if len(state.buffered) >= config.buffered_events_max:
        raise ResourceExhausted("too many events wait for the workflow task in flight; try again")
    t.record(attributes, links=links)
    workflow_task.schedule_if_none(t)


def request_cancel(
    t: Transition,
    attributes: history.WorkflowExecutionCancelRequestedEventAttributes,
    request_id: str = "",
    links: Iterable[common.Link] = (),
) -> None:
    """Ask the workflow to cancel itself. Asked again, nothing changes."""
    ensure_running(t.state)
    if t.state.cancel_requested:
        return
    if request_id:
        t.note(r.RequestSeen(request_id))
    t.record(attributes, links=links)
    workflow_task.schedule_if_none(t)


def terminate(
    t: Transition,
    reason: str,
    details: common.Payloads | None,
    identity: str,
    links: Iterable[common.Link] = (),
) -> None:
    ensure_running(t.state)
    workflow_task.abandon(t)
    attributes = history.WorkflowExecutionTerminatedEventAttributes(
        reason=reason, identity=identity, details=details
    )
    t.record(attributes, links=links)
    _closed(t)


# --- Ends that a worker asks for --------------------------------------------------------------


def complete(
    t: Transition,
    attributes: command.CompleteWorkflowExecutionCommandAttributes,
    completed_event_id: int,
    user_metadata: sdk.UserMetadata | None,
) -> None:
    result = attributes.result if attributes.HasField("result") else None
    following = _by_cron(t)
    t.record(
        history.WorkflowExecutionCompletedEventAttributes(
            result=result,
            workflow_task_completed_event_id=completed_event_id,
            new_execution_run_id=following.run_id if following else "",
        ),
        user_metadata=user_metadata,
    )
    if following is not None:
        _begin_successor(t, _after_completion(t, following, result))
    _closed(t)


def fail(
    t: Transition,
    attributes: command.FailWorkflowExecutionCommandAttributes,
    completed_event_id: int,
    user_metadata: sdk.UserMetadata | None,
) -> None:
    if not attributes.HasField("failure"):
        raise BadCommand(
            causes.WORKFLOW_TASK_FAILED_CAUSE_BAD_FAIL_WORKFLOW_EXECUTION_ATTRIBUTES,
            "Failure is not set on FailWorkflowExecutionCommand.",
        )
    retry_state, following = _after_failure(t, attributes.failure)
    event = history.WorkflowExecutionFailedEventAttributes(
        failure=attributes.failure,
        retry_state=retry_state,
        workflow_task_completed_event_id=completed_event_id,
        new_execution_run_id=following.run_id if following else "",
    )
    t.record(event, user_metadata=user_metadata)
    _follow_failure(t, following, attributes.failure)
    _closed(t)


def cancel(
    t: Transition,
    attributes: command.CancelWorkflowExecutionCommandAttributes,
    completed_event_id: int,
    user_metadata: sdk.UserMetadata | None,
) -> None:
    t.record(
        history.WorkflowExecutionCanceledEventAttributes(
            workflow_task_completed_event_id=completed_event_id,
            details=attributes.details if attributes.HasField("details") else None,
        ),
        user_metadata=user_metadata,
    )
    _closed(t)


# --- Another run ------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Following:
    """The run that a closing one is followed by."""

    run_id: str
    delay_ns: int
    initiator: workflow_enums.ContinueAsNewInitiator.ValueType
    attempt: int


def _after_failure(
    t: Transition, reason: failure.Failure
) -> tuple[workflow_enums.RetryState.ValueType, _Following | None]:
    """Whether a run that ends like this is tried again, or else follows its cron schedule."""
    state = t.state
    if not state.started.HasField("retry_policy"):
        return workflow_enums.RETRY_STATE_RETRY_POLICY_NOT_SET, _by_cron(t)
    decision = next_retry(
        state.started.retry_policy,
        attempt=state.started.attempt,
        failure=reason,
        now_ns=t.now_ns,
        expires_ns=state.execution_expires_ns,
    )
    if decision.state != workflow_enums.RETRY_STATE_IN_PROGRESS:
        return decision.state, _by_cron(t)
    return decision.state, _Following(
        t.new_id(),
        decision.delay_ns,
        workflow_enums.CONTINUE_AS_NEW_INITIATOR_RETRY,
        state.started.attempt + 1,
    )


def _by_cron(t: Transition) -> _Following | None:
    """The next run of a cron schedule, if the workflow has one that has another time."""
    state = t.state
    delay_ns = cron.delay_ns(state.started.cron_schedule, state.execution_ns, t.now_ns)
    if delay_ns is None:
        return None
    return _Following(
        t.new_id(), delay_ns, workflow_enums.CONTINUE_AS_NEW_INITIATOR_CRON_SCHEDULE, 1
    )


def _follow_failure(t: Transition, following: _Following | None, reason: failure.Failure) -> None:
    if following is None:
        return
    attributes = _following_attributes(t, following)
    attributes.continued_failure.CopyFrom(reason)
    _begin_successor(t, attributes)


def _after_completion(
    t: Transition, following: _Following, result: common.Payloads | None
) -> history.WorkflowExecutionStartedEventAttributes:
    """The next run of a cron schedule is told the result of the one before."""
    attributes = _following_attributes(t, following)
    attributes.ClearField("last_completion_result")
    if result is not None:
        attributes.last_completion_result.CopyFrom(result)
    return attributes


def _following_attributes(
    t: Transition, following: _Following
) -> history.WorkflowExecutionStartedEventAttributes:
    attributes = _successor_attributes(t.state, following.run_id, t.now_ns)
    attributes.initiator = following.initiator
    attributes.attempt = following.attempt
    if following.initiator == workflow_enums.CONTINUE_AS_NEW_INITIATOR_CRON_SCHEDULE:
        attributes.ClearField("completion_callbacks")  # The run that ends has called them.
    set_duration(attributes.first_workflow_task_backoff, following.delay_ns)
    if following.initiator == workflow_enums.CONTINUE_AS_NEW_INITIATOR_RETRY:
        versioning.retry_from(t.state, attributes)
    else:
        versioning.cron_from(t.state, attributes)
    return attributes


def _successor_attributes(
    state: WorkflowState, run_id: str, now_ns: int
) -> history.WorkflowExecutionStartedEventAttributes:
    """The first event of the next run in the chain, as far as it is like the present one."""
    attributes = history.WorkflowExecutionStartedEventAttributes()
    attributes.CopyFrom(state.started)
    attributes.continued_execution_run_id = state.run_id
    attributes.original_execution_run_id = run_id
    attributes.ClearField("first_workflow_task_backoff")
    attributes.ClearField("continued_failure")
    attributes.ClearField("eager_execution_accepted")
    attributes.ClearField("completion_callbacks")
    attributes.completion_callbacks.extend(
        common.Callback.FromString(each.callback)
        for each in state.callbacks.values()
        if not each.update_id
    )
    attributes.memo.CopyFrom(state.memo)
    attributes.search_attributes.CopyFrom(state.search_attributes)
    if not state.memo.fields:
        attributes.ClearField("memo")
    if not state.search_attributes.indexed_fields:
        attributes.ClearField("search_attributes")
    return attributes


def _begin_successor(
    t: Transition, attributes: history.WorkflowExecutionStartedEventAttributes
) -> None:
    state = t.state
    following = WorkflowState(
        namespace_id=state.namespace_id,
        namespace=state.namespace,
        workflow_id=state.workflow_id,
        run_id=attributes.original_execution_run_id,
        failover_version=state.failover_version,
    )
    metadata = sdk.UserMetadata.FromString(state.user_metadata)
    t.successor = Transition(following, t.now_ns, t.new_id)
    start(
        t.successor,
        attributes,
        namespace=state.namespace,
        request_id=t.new_id(),
        user_metadata=metadata,
        scheduled_by=state.scheduled_by,
    )


def continue_as_new(
    t: Transition,
    attributes: command.ContinueAsNewWorkflowExecutionCommandAttributes,
    completed_event_id: int,
    user_metadata: sdk.UserMetadata | None,
    config: Config,
    in_version: Callable[[str, str, Version], bool],
) -> None:
    """Close this run and start the next with new input, in one transition."""
    state = t.state
    run_id = t.new_id()
    following = _successor_attributes(state, run_id, t.now_ns)
    following.initiator = attributes.initiator or workflow_enums.CONTINUE_AS_NEW_INITIATOR_WORKFLOW
    following.attempt = 1
    if attributes.workflow_type.name:
        following.workflow_type.CopyFrom(attributes.workflow_type)
    if attributes.task_queue.name:
        following.task_queue.CopyFrom(normal_queue(attributes.task_queue.name))
    _replace(
        following,
        attributes,
        ("input", "header", "retry_policy", "last_completion_result"),
    )
    if attributes.HasField("memo"):
        following.memo.CopyFrom(attributes.memo)
    if attributes.HasField("search_attributes"):
        following.search_attributes.CopyFrom(attributes.search_attributes)
    if attributes.HasField("failure"):
        following.continued_failure.CopyFrom(attributes.failure)
    following.cron_schedule = attributes.cron_schedule
    set_duration(
        following.first_workflow_task_backoff,
        nanoseconds(attributes.backoff_start_interval),
    )
    _continue_timeouts(following, attributes, config)
    if state.priority is not None:
        following.priority.CopyFrom(state.priority)
    versioning.continue_from(
        state,
        following,
        attributes.initial_versioning_behavior,
        attributes.inherit_build_id,
        lambda queue, version: in_version(state.namespace_id, queue, version),
    )
    event = _continued_event(following, run_id, completed_event_id)
    event.initiator = attributes.initiator
    event.inherit_build_id = attributes.inherit_build_id
    t.record(event, user_metadata=user_metadata)
    _begin_successor(t, following)
    _closed(t)


def _replace(into: object, source: object, fields: tuple[str, ...]) -> None:
    """Take these message fields from `source`, set or not."""
    for field in fields:
        if source.HasField(field):  # type: ignore[attr-defined]
            getattr(into, field).CopyFrom(getattr(source, field))
        else:
            into.ClearField(field)  # type: ignore[attr-defined]


def _continue_timeouts(
    following: history.WorkflowExecutionStartedEventAttributes,
    attributes: command.ContinueAsNewWorkflowExecutionCommandAttributes,
    config: Config,
) -> None:
    asked_run_ns = nanoseconds(attributes.workflow_run_timeout)
    asked_task_ns = nanoseconds(attributes.workflow_task_timeout)
    run_ns = cap(
        asked_run_ns or nanoseconds(following.workflow_run_timeout),
        nanoseconds(following.workflow_execution_timeout),
    )
    task_ns = task_timeout_ns(
        asked_task_ns or nanoseconds(following.workflow_task_timeout), run_ns, config
    )
    if run_ns:
        set_duration(following.workflow_run_timeout, run_ns)
    set_duration(following.workflow_task_timeout, task_ns)


def _continued_event(
    following: history.WorkflowExecutionStartedEventAttributes,
    run_id: str,
    completed_event_id: int,
) -> history.WorkflowExecutionContinuedAsNewEventAttributes:
    event = history.WorkflowExecutionContinuedAsNewEventAttributes(
        new_execution_run_id=run_id,
        workflow_type=following.workflow_type,
        task_queue=following.task_queue,
        workflow_run_timeout=following.workflow_run_timeout,
        workflow_task_timeout=following.workflow_task_timeout,
        workflow_task_completed_event_id=completed_event_id,
        backoff_start_interval=following.first_workflow_task_backoff,
    )
    for source, target in (
        ("input", "input"),
        ("header", "header"),
        ("memo", "memo"),
        ("search_attributes", "search_attributes"),
        ("last_completion_result", "last_completion_result"),
        ("continued_failure", "failure"),
    ):
        if following.HasField(source):  # type: ignore[arg-type]
            getattr(event, target).CopyFrom(getattr(following, source))
    return event


# --- Closing ----------------------------------------------------------------------------------


def _closed(t: Transition) -> None:
    """After the closing event: what others are owed, and the last visibility row. What was to follow
    from earlier commands of the same task does not follow any more."""
    t.visible = True
    t.effects.clear()
    for delivery in outstanding(t.state):
        t.emit(delivery)


def parent_reported(t: Transition) -> None:
    """The parent knows how this execution ended."""
    if ReportToParent() in outstanding(t.state):
        t.note(r.ParentReported())


def schedule_reported(t: Transition) -> None:
    """The schedule that started this execution knows how it ended."""
    if ReportToSchedule() in outstanding(t.state):
        t.note(r.ScheduleReported())


# --- Deadlines --------------------------------------------------------------------------------


def next_deadline(state: WorkflowState) -> int:
    """The earliest of: the first task's delay, the run's timeout, the execution's; 0: never."""
    moments = [state.run_expires_ns, state.execution_expires_ns]
    if state.backoff_pending:
        moments.append(state.execution_ns)
    return min((m for m in moments if m), default=0)


def fire_due(t: Transition) -> None:
    state = t.state
    execution_expired = 0 < state.execution_expires_ns <= t.now_ns
    if execution_expired or 0 < state.run_expires_ns <= t.now_ns:
        _time_out(t, execution_expired)
    elif state.backoff_pending and state.execution_ns <= t.now_ns:
        workflow_task.end_backoff(t)


def timeout_failure() -> failure.Failure:
    """What whoever waits for a run hears when it took too long."""
    return failure.Failure(
        message="workflow timeout",
        source="Server",
        timeout_failure_info=failure.TimeoutFailureInfo(
            timeout_type=workflow_enums.TIMEOUT_TYPE_START_TO_CLOSE
        ),
    )


def _time_out(t: Transition, execution_expired: bool) -> None:
    """The run, or the whole execution, took too long. Only the former is followed by another."""
    reason = timeout_failure()
    retry_state, following = workflow_enums.RETRY_STATE_TIMEOUT, None
    if not execution_expired:
        retry_state, following = _after_failure(t, reason)
    workflow_task.abandon(t)
    t.record(
        history.WorkflowExecutionTimedOutEventAttributes(
            retry_state=retry_state, new_execution_run_id=following.run_id if following else ""
        )
    )
    _follow_failure(t, following, reason)
    _closed(t)
