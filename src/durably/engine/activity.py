"""The activity machine.

    state       input              to          journal
    ---------   ----------------   ---------   --------------------------------------------------
    none        schedule           scheduled   ActivityTaskScheduled
    scheduled   start              started     record ActivityStarted
    started     complete           none        ActivityTaskStarted, ActivityTaskCompleted
    started     fail, time out     backoff     record ActivityRetryScheduled, if a retry follows
    started     fail, time out     none        ActivityTaskStarted, ActivityTaskFailed / TimedOut
    started     cancel confirmed   none        ActivityTaskStarted, ActivityTaskCanceled
    backoff     due                scheduled   record ActivityRetryDispatched
    any         request cancel     the same    ActivityTaskCancelRequested; not started: Canceled

Rule 1: an attempt's end is accepted once: what comes from another attempt, late, is refused. A worker
        that has started one names it by its attempt number; a task that waits on a queue names it by
        the stamp, which also changes when an operator makes the waiting task stale.
Rule 2: an attempt enters history when the activity ends; retries leave no events.
Rule 3: activities of workflows and standalone ones are the same here, but for what follows their end:
        `_ended`.
"""

from dataclasses import dataclass
from typing import cast

from temporalio.api.command.v1 import message_pb2 as command
from temporalio.api.common.v1 import message_pb2 as common
from temporalio.api.enums.v1 import failed_cause_pb2 as causes
from temporalio.api.enums.v1 import workflow_pb2 as workflow_enums
from temporalio.api.failure.v1 import message_pb2 as failure
from temporalio.api.history.v1 import message_pb2 as history
from temporalio.api.sdk.v1 import user_metadata_pb2 as sdk
from temporalio.api.workflowservice.v1 import request_response_pb2 as ws

from durably.config import Config
from durably.engine import priority, workflow_rule, workflow_task
from durably.engine import records as r
from durably.engine.apply.activity import apply_heartbeat
from durably.engine.callback import machine as callback
from durably.engine.refusals import BadCommand
from durably.engine.retry import (
    RetryDecision,
    next_retry,
    validate_policy,
    with_defaults,
)
from durably.engine.standalone.state import StandaloneActivityState
from durably.engine.state import Activity, HistoryState, WorkflowState
from durably.engine.times import nanoseconds, set_duration
from durably.engine.transition import DispatchActivity, Transition
from durably.engine.versioning import machine as versioning
from durably.engine.versioning.state import Notice
from durably.engine.versioning.version import Worker
from durably.engine.workflow import cap, ensure_running, normal_queue
from durably.errors import InvalidArgument, NotFound

BAD_SCHEDULE = causes.WORKFLOW_TASK_FAILED_CAUSE_BAD_SCHEDULE_ACTIVITY_ATTRIBUTES
BAD_CANCEL = causes.WORKFLOW_TASK_FAILED_CAUSE_BAD_REQUEST_CANCEL_ACTIVITY_ATTRIBUTES

NOT_FOUND = "invalid activityID or activity already timed out or invoking workflow is completed"


@dataclass(slots=True)
class ActivityGrant:
    """What a poller is told of the activity attempt it has started.

    Copies of what may change before the reply is built; `activity.scheduled` never changes.
    """

    activity: Activity
    attempt: int
    dispatched_ns: int
    started_ns: int
    priority: common.Priority


@dataclass(frozen=True, slots=True)
class HeartbeatAnswer:
    """What a worker hears when it heartbeats."""

    cancel_requested: bool
    paused: bool
    reset: bool


# --- Schedule ---------------------------------------------------------------------------------


def schedule(
    t: Transition,
    attributes: command.ScheduleActivityTaskCommandAttributes,
    completed_event_id: int,
    user_metadata: sdk.UserMetadata | None,
    config: Config,
    *,
    dispatch: bool = True,
) -> Activity:
    """Command: schedule an activity. `dispatch` False: the caller starts it in this transition."""
    _validate(t, attributes, config)
    event = history.ActivityTaskScheduledEventAttributes(
        activity_id=attributes.activity_id,
        activity_type=attributes.activity_type,
        task_queue=normal_queue(attributes.task_queue.name or t.state.task_queue),
        workflow_task_completed_event_id=completed_event_id,
        use_workflow_build_id=attributes.use_workflow_build_id,
    )
    for field in ("header", "input", "priority"):
        if attributes.HasField(field):
            getattr(event, field).CopyFrom(getattr(attributes, field))
    event.retry_policy.CopyFrom(with_defaults(attributes.retry_policy))
    fill_timeouts(event, attributes, nanoseconds(t.state.started.workflow_run_timeout))
    event_id = t.record(event, user_metadata=user_metadata)
    activity = t.state.activities[event_id]
    if dispatch and not t.state.held:
        put_on_queue(t, activity)
    t.attend(next_deadline(activity))
    return activity


def _validate(
    t: Transition,
    attributes: command.ScheduleActivityTaskCommandAttributes,
    config: Config,
) -> None:
    where = f"ActivityId={attributes.activity_id} ActivityType={attributes.activity_type.name}"
    if not attributes.activity_id:
        raise BadCommand(
            BAD_SCHEDULE,
            f"ActivityId is not set on ScheduleActivityTaskCommand. {where}",
        )
    if not attributes.activity_type.name:
        raise BadCommand(
            BAD_SCHEDULE,
            f"ActivityType is not set on ScheduleActivityTaskCommand. {where}",
        )
    for value in (attributes.activity_id, attributes.activity_type.name):
        if len(value) > config.identifier_chars_max:
            raise BadCommand(BAD_SCHEDULE, f"an identifier exceeds its length limit. {where}")
    if attributes.HasField("retry_policy"):
        try:
            validate_policy(attributes.retry_policy)
        except InvalidArgument as error:
            raise BadCommand(
                BAD_SCHEDULE,
                f"Invalid ActivityRetryPolicy for SDK request: {error.message} {where}",
            ) from error
    try:
        priority.check(attributes.priority)
    except InvalidArgument as error:
        raise BadCommand(BAD_SCHEDULE, f"invalid priorities: {error.message} {where}") from error
    _validate_timeouts(attributes, where)
    if attributes.activity_id in t.state.activity_ids:
        raise BadCommand(
            causes.WORKFLOW_TASK_FAILED_CAUSE_SCHEDULE_ACTIVITY_DUPLICATE_ID,
            f"an activity with this id is pending already. {where}",
        )
    if len(t.state.activities) >= config.pending_activities_max:
        raise BadCommand(
            causes.WORKFLOW_TASK_FAILED_CAUSE_PENDING_ACTIVITIES_LIMIT_EXCEEDED,
            f"the number of pending activities, {len(t.state.activities)}, has reached the limit"
            f" of {config.pending_activities_max}",
        )


def _validate_timeouts(
    attributes: command.ScheduleActivityTaskCommandAttributes, where: str
) -> None:
    for name in (
        "schedule_to_close",
        "schedule_to_start",
        "start_to_close",
        "heartbeat",
    ):
        if nanoseconds(getattr(attributes, f"{name}_timeout")) < 0:
            title = name.title().replace("_", "")
            raise BadCommand(
                BAD_SCHEDULE,
                f"Invalid {title}Timeout for activity: negative duration. {where}",
            )
    if not nanoseconds(attributes.schedule_to_close_timeout) and not nanoseconds(
        attributes.start_to_close_timeout
    ):
        raise BadCommand(
            BAD_SCHEDULE,
            f"A valid StartToClose or ScheduleToCloseTimeout is not set on ScheduleActivityTaskCommand. {where}",
        )


def fill_timeouts(
    event: history.ActivityTaskScheduledEventAttributes,
    asked: command.ScheduleActivityTaskCommandAttributes | ws.StartActivityExecutionRequest,
    limit_ns: int,
) -> None:
    """Unset timeouts follow from the others; none is longer than `limit_ns` (0: no limit)."""
    schedule_to_close_ns = cap(nanoseconds(asked.schedule_to_close_timeout), limit_ns)
    schedule_to_start_ns = nanoseconds(asked.schedule_to_start_timeout)
    start_to_close_ns = nanoseconds(asked.start_to_close_timeout)
    limit_ns = schedule_to_close_ns or limit_ns
    start_to_close_ns = cap(start_to_close_ns, limit_ns)
    schedule_to_start_ns = cap(schedule_to_start_ns, limit_ns)
    heartbeat_ns = nanoseconds(asked.heartbeat_timeout)
    if heartbeat_ns:
        heartbeat_ns = cap(heartbeat_ns, start_to_close_ns)
    set_duration(event.schedule_to_close_timeout, schedule_to_close_ns)
    set_duration(event.schedule_to_start_timeout, schedule_to_start_ns)
    set_duration(event.start_to_close_timeout, start_to_close_ns)
    set_duration(event.heartbeat_timeout, heartbeat_ns)


# --- Start ------------------------------------------------------------------------------------


def put_on_queue(t: Transition[HistoryState], activity: Activity) -> None:
    """The present attempt waits for a worker, unless a rule pauses it."""
    if not workflow_rule.pauses(t, activity):
        queue = activity.scheduled.task_queue.name
        t.emit(DispatchActivity(queue, activity.scheduled_event_id, activity.stamp))


def reroute(t: Transition) -> None:
    """The workflow has another version: what waits for a worker is put on its queue again."""
    t.note(r.ActivitiesRerouted())
    for activity in list(t.state.activities.values()):
        waits = not (activity.started or activity.retry_at_ns or activity.pause is not None)
        if waits and not t.state.held:
            put_on_queue(t, activity)


def take(
    t: Transition[HistoryState],
    scheduled_event_id: int,
    stamp: int,
    identity: str,
    request_id: str,
    *,
    worker: Worker | None = None,
    target: Notice | None = None,
) -> ActivityGrant | None:
    """A worker comes for an attempt that has waited; None if a rule pauses it by now, or if its
    workflow moves to another version first.

    `worker`: what it says of itself beside its identity; `target`: where the workflow's own tasks go.
    """
    activity = t.state.activities.get(scheduled_event_id)
    waits = activity is not None and not activity.started and activity.stamp == stamp
    if activity is not None and waits and _is_held_back(t, activity, worker, target):
        return None
    return start(t, scheduled_event_id, stamp, identity, request_id, worker=worker)


def _is_held_back(
    t: Transition[HistoryState], activity: Activity, worker: Worker | None, target: Notice | None
) -> bool:
    state = t.state
    if isinstance(state, WorkflowState) and versioning.moving(state):
        return True  # When the move is done it is put on its queue again.
    if workflow_rule.pauses(t, activity):
        return True
    if worker is None or not versioning.activity_moves(t, worker, target):
        return False
    workflow_task.redispatch(cast(Transition, t))
    return True


def start(
    t: Transition[HistoryState],
    scheduled_event_id: int,
    stamp: int,
    identity: str,
    request_id: str,
    *,
    worker: Worker | None = None,
) -> ActivityGrant:
    """A worker takes the attempt. NotFound if it is not there for taking any more."""
    activity = t.state.activities.get(scheduled_event_id)
    if not t.state.running or activity is None or activity.stamp != stamp:
        raise NotFound(NOT_FOUND)
    if activity.started and activity.request_id != request_id:
        raise NotFound(NOT_FOUND)
    if not activity.started:
        t.note(
            r.ActivityStarted(
                scheduled_event_id=scheduled_event_id,
                attempt=activity.attempt,
                at_ns=t.now_ns,
                identity=identity,
                request_id=request_id,
                worker_version=worker.stamp if worker is not None else b"",
                version=worker.version if worker is not None else None,
            )
        )
        t.attend(next_deadline(activity))
    return ActivityGrant(
        activity,
        activity.attempt,
        activity.dispatched_ns,
        activity.started_ns,
        priority.of_activity(t.state, scheduled_event_id),
    )


# --- End --------------------------------------------------------------------------------------


def _ended(t: Transition[HistoryState], activity: Activity) -> None:
    """A workflow is to look at the end of its activity; a standalone activity has closed with it."""
    if isinstance(t.state, WorkflowState):
        t.visible = t.visible or activity.pause is not None
        workflow_task.schedule_if_none(cast(Transition, t))
    else:
        t.visible = True
        callback.invoke_due(t)


def _ensure_running(state: HistoryState) -> None:
    if isinstance(state, StandaloneActivityState) and not state.running:
        raise NotFound(f"activity not found for ID: {state.workflow_id}")
    ensure_running(state)


def started_attempt(t: Transition[HistoryState], scheduled_event_id: int, attempt: int) -> Activity:
    """The attempt that a token refers to (`attempt` 0: the present one); NotFound if it is over."""
    _ensure_running(t.state)
    activity = t.state.activities.get(scheduled_event_id)
    if activity is None or not activity.started or attempt not in (0, activity.attempt):
        raise NotFound(NOT_FOUND)
    return activity


def complete(
    t: Transition[HistoryState],
    scheduled_event_id: int,
    attempt: int,
    result: common.Payloads | None,
    identity: str,
) -> None:
    """RespondActivityTaskCompleted."""
    activity = _completable(t, scheduled_event_id, attempt)
    started_event_id = _record_started(t, activity)
    t.record(
        history.ActivityTaskCompletedEventAttributes(
            result=result,
            scheduled_event_id=scheduled_event_id,
            started_event_id=started_event_id,
            identity=identity,
        )
    )
    _ended(t, activity)


def _completable(t: Transition[HistoryState], scheduled_event_id: int, attempt: int) -> Activity:
    """Completion by id (`attempt` 0) is accepted between attempts too: the work is done."""
    if attempt:
        return started_attempt(t, scheduled_event_id, attempt)
    _ensure_running(t.state)
    activity = t.state.activities.get(scheduled_event_id)
    if activity is None:
        raise NotFound(NOT_FOUND)
    return activity


def fail(
    t: Transition[HistoryState],
    scheduled_event_id: int,
    attempt: int,
    reason: failure.Failure,
    identity: str,
    last_heartbeat: common.Payloads | None = None,
) -> None:
    """RespondActivityTaskFailed: another attempt follows if the retry policy says so."""
    activity = started_attempt(t, scheduled_event_id, attempt)
    if last_heartbeat is not None and last_heartbeat.payloads:
        _beat(t, activity, last_heartbeat)
    decision = _decide_retry(t, activity, reason)
    if decision.state == workflow_enums.RETRY_STATE_IN_PROGRESS:
        _retry(t, activity, reason, decision.delay_ns)
        return
    started_event_id = _record_started(t, activity)
    t.record(
        history.ActivityTaskFailedEventAttributes(
            failure=reason,
            scheduled_event_id=scheduled_event_id,
            started_event_id=started_event_id,
            identity=identity,
            retry_state=decision.state,
        )
    )
    _ended(t, activity)


def _decide_retry(
    t: Transition[HistoryState], activity: Activity, reason: failure.Failure
) -> RetryDecision:
    if activity.cancel_requested:
        return RetryDecision(workflow_enums.RETRY_STATE_CANCEL_REQUESTED)
    paused = activity.pause is not None
    return next_retry(
        activity.scheduled.retry_policy,
        # A paused activity waits for its operator, however many attempts it has had.
        attempt=0 if paused else _counted_attempt(activity),
        failure=reason,
        now_ns=t.now_ns,
        expires_ns=0 if paused else _closes_ns(activity),
    )


def _counted_attempt(activity: Activity) -> int:
    """The running attempt's number as the retry policy counts: one again after a reset."""
    return 1 if activity.reset_pending else activity.attempt


def _retry(
    t: Transition[HistoryState], activity: Activity, reason: failure.Failure, delay_ns: int
) -> None:
    if activity.reset_heartbeat_pending:
        t.heartbeats.append(activity.scheduled_event_id)
    t.note(
        r.ActivityRetryScheduled(
            scheduled_event_id=activity.scheduled_event_id,
            attempt=_counted_attempt(activity) + 1,
            retry_at_ns=t.now_ns + delay_ns,
            failure=reason.SerializeToString(),
            ended_ns=t.now_ns,
        )
    )
    if activity.pause is not None:
        t.visible = True  # A standalone activity is listed as paused from now on.
    t.attend(next_deadline(activity))


def confirm_cancel(
    t: Transition[HistoryState],
    scheduled_event_id: int,
    attempt: int,
    details: common.Payloads | None,
    identity: str,
) -> None:
    """RespondActivityTaskCanceled: the worker obeyed a cancel request."""
    activity = started_attempt(t, scheduled_event_id, attempt)
    if not activity.cancel_requested:
        raise InvalidArgument(
            "unable to mark activity as canceled without activity being request canceled first"
        )
    started_event_id = _record_started(t, activity)
    t.record(
        history.ActivityTaskCanceledEventAttributes(
            details=details,
            latest_cancel_requested_event_id=activity.cancel_requested_event_id,
            scheduled_event_id=scheduled_event_id,
            started_event_id=started_event_id,
            identity=identity,
        )
    )
    _ended(t, activity)


def heartbeat(
    t: Transition[HistoryState],
    scheduled_event_id: int,
    attempt: int,
    details: common.Payloads | None,
) -> HeartbeatAnswer:
    """RecordActivityTaskHeartbeat: what the worker is asked to do about the activity."""
    activity = started_attempt(t, scheduled_event_id, attempt)
    _beat(t, activity, details)
    return HeartbeatAnswer(
        activity.cancel_requested, activity.pause is not None, activity.reset_pending
    )


def _beat(t: Transition[HistoryState], activity: Activity, details: common.Payloads | None) -> None:
    apply_heartbeat(t.state, activity.scheduled_event_id, t.now_ns, details)
    t.heartbeats.append(activity.scheduled_event_id)


def _record_started(t: Transition[HistoryState], activity: Activity) -> int:
    """The attempt that ends enters history; its id."""
    event = history.ActivityTaskStartedEventAttributes(
        scheduled_event_id=activity.scheduled_event_id,
        identity=activity.identity,
        request_id=activity.request_id,
        attempt=activity.attempt,
        last_failure=activity.last_failure,
    )
    if activity.worker_version:
        event.worker_version.ParseFromString(activity.worker_version)
    return t.record(event, at_ns=activity.started_ns)


# --- Cancel -----------------------------------------------------------------------------------


def request_cancel(t: Transition, scheduled_event_id: int, completed_event_id: int) -> None:
    """Command: cancel an activity. One that no worker has is canceled at once."""
    if not scheduled_event_id:
        raise BadCommand(BAD_CANCEL, "ScheduledEventId is not set on RequestCancelActivityCommand.")
    activity = t.state.activities.get(scheduled_event_id)
    if activity is None:
        if scheduled_event_id >= t.state.next_event_id:
            raise BadCommand(BAD_CANCEL, f"no activity has the id {scheduled_event_id}")
        _record_cancel_requested(t, scheduled_event_id, completed_event_id)
        return
    if activity.cancel_requested:
        return
    ask_cancel(t, activity, completed_event_id)


def ask_cancel(t: Transition[HistoryState], activity: Activity, completed_event_id: int) -> None:
    """Record the request; that is the end of an activity that no worker has."""
    event_id = _record_cancel_requested(t, activity.scheduled_event_id, completed_event_id)
    if activity.started:
        return
    t.withdraw(activity.scheduled_event_id)
    t.record(
        history.ActivityTaskCanceledEventAttributes(
            details=activity.heartbeat_details,
            latest_cancel_requested_event_id=event_id,
            scheduled_event_id=activity.scheduled_event_id,
            identity=activity.identity,
        )
    )
    _ended(t, activity)


def _record_cancel_requested(
    t: Transition[HistoryState], scheduled_event_id: int, completed_event_id: int
) -> int:
    return t.record(
        history.ActivityTaskCancelRequestedEventAttributes(
            scheduled_event_id=scheduled_event_id,
            workflow_task_completed_event_id=completed_event_id,
        )
    )


# --- Deadlines --------------------------------------------------------------------------------


def _closes_ns(activity: Activity) -> int:
    timeout_ns = nanoseconds(activity.scheduled.schedule_to_close_timeout)
    begins_ns = activity.first_scheduled_ns + activity.start_delay_ns
    return begins_ns + timeout_ns if timeout_ns else 0


def next_deadline(activity: Activity, *, held: bool = False) -> int:
    """The earliest timeout or retry of this activity; 0: never. While it is paused none runs; while
    its workflow is (`held`), there are no retries."""
    if activity.pause is not None:
        return 0
    moments = [_closes_ns(activity)]
    scheduled = activity.scheduled
    if activity.started:
        moments.append(activity.started_ns + nanoseconds(scheduled.start_to_close_timeout))
        moments.append(_heartbeat_due_ns(activity))
    elif activity.retry_at_ns:
        moments.append(0 if held else activity.retry_at_ns)
    elif nanoseconds(scheduled.schedule_to_start_timeout):
        moments.append(activity.dispatched_ns + nanoseconds(scheduled.schedule_to_start_timeout))
    return min((m for m in moments if m), default=0)


def _heartbeat_due_ns(activity: Activity) -> int:
    timeout_ns = nanoseconds(activity.scheduled.heartbeat_timeout)
    return max(activity.started_ns, activity.heartbeat_ns) + timeout_ns if timeout_ns else 0


def fire_due(t: Transition[HistoryState]) -> None:
    """Retries whose backoff is over, and attempts or activities that took too long."""
    for activity in list(t.state.activities.values()):
        due_ns = next_deadline(activity, held=t.state.held)
        if not due_ns or due_ns > t.now_ns:
            continue
        kind = _timed_out(activity, t.now_ns)
        if kind:
            _time_out(t, activity, kind)
        else:
            dispatch_retry(t, activity)


def dispatch_retry(t: Transition[HistoryState], activity: Activity) -> None:
    """The attempt that waits goes to its queue, unless a rule pauses it."""
    if workflow_rule.pauses(t, activity):
        return
    t.note(
        r.ActivityRetryDispatched(
            scheduled_event_id=activity.scheduled_event_id,
            attempt=activity.attempt,
            at_ns=t.now_ns,
        )
    )
    queue = activity.scheduled.task_queue.name
    t.emit(DispatchActivity(queue, activity.scheduled_event_id, activity.stamp))


def _timed_out(activity: Activity, now_ns: int) -> workflow_enums.TimeoutType.ValueType:
    """Which timeout has passed; UNSPECIFIED: none, a retry is due."""
    scheduled = activity.scheduled
    closes_ns = _closes_ns(activity)
    if closes_ns and closes_ns <= now_ns:
        return workflow_enums.TIMEOUT_TYPE_SCHEDULE_TO_CLOSE
    if activity.started:
        if activity.started_ns + nanoseconds(scheduled.start_to_close_timeout) <= now_ns:
            return workflow_enums.TIMEOUT_TYPE_START_TO_CLOSE
        return workflow_enums.TIMEOUT_TYPE_HEARTBEAT
    if activity.retry_at_ns:
        return workflow_enums.TIMEOUT_TYPE_UNSPECIFIED
    return workflow_enums.TIMEOUT_TYPE_SCHEDULE_TO_START


TIMEOUT_NAMES = {
    workflow_enums.TIMEOUT_TYPE_SCHEDULE_TO_CLOSE: "ScheduleToClose",
    workflow_enums.TIMEOUT_TYPE_SCHEDULE_TO_START: "ScheduleToStart",
    workflow_enums.TIMEOUT_TYPE_START_TO_CLOSE: "StartToClose",
    workflow_enums.TIMEOUT_TYPE_HEARTBEAT: "Heartbeat",
}

DEADLINES_OF_ALL = (
    workflow_enums.TIMEOUT_TYPE_SCHEDULE_TO_START,
    workflow_enums.TIMEOUT_TYPE_SCHEDULE_TO_CLOSE,
)
"""Timeouts that no attempt is to blame for: none follows, whatever the retry policy says."""

NO_TIME_FOR_RETRY = (
    "Not enough time to schedule next retry before activity ScheduleToClose timeout,"
    " giving up retrying"
)


def _time_out(
    t: Transition[HistoryState], activity: Activity, kind: workflow_enums.TimeoutType.ValueType
) -> None:
    reason = failure.Failure(
        message=f"activity {TIMEOUT_NAMES[kind]} timeout",
        source="Server",
        timeout_failure_info=failure.TimeoutFailureInfo(
            timeout_type=kind, last_heartbeat_details=activity.heartbeat_details
        ),
    )
    decision = _decide_retry(t, activity, reason)
    if activity.started and decision.state == workflow_enums.RETRY_STATE_IN_PROGRESS:
        _retry(t, activity, reason, decision.delay_ns)
        return
    if kind in DEADLINES_OF_ALL and not activity.cancel_requested:
        decision = RetryDecision(workflow_enums.RETRY_STATE_TIMEOUT)
    if (
        decision.state == workflow_enums.RETRY_STATE_TIMEOUT
        and kind != workflow_enums.TIMEOUT_TYPE_SCHEDULE_TO_START
    ):
        # What ended it is that schedule-to-close leaves no time for the attempt it would have had.
        reason.message = NO_TIME_FOR_RETRY
        reason.timeout_failure_info.timeout_type = workflow_enums.TIMEOUT_TYPE_SCHEDULE_TO_CLOSE
    if activity.last_failure is not None:
        reason.cause.CopyFrom(activity.last_failure)
    started_event_id = _record_started(t, activity) if activity.started else 0
    t.record(
        history.ActivityTaskTimedOutEventAttributes(
            failure=reason,
            scheduled_event_id=activity.scheduled_event_id,
            started_event_id=started_event_id,
            retry_state=decision.state,
        )
    )
    _ended(t, activity)
