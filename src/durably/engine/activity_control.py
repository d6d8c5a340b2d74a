"""What operators do to a pending activity: pause, unpause, reset, change its options.

    input      attempt waits or backs off          attempt is running
    --------   ---------------------------------   --------------------------------------------
    pause      not dispatched any more             goes on; its next heartbeat says `paused`
    unpause    dispatched now (plus jitter)        goes on
    reset      dispatched now, as attempt one      goes on as attempt one; heartbeat says `reset`
    options    dispatched by the new options       goes on; the next attempt has them

Rule 1: a running attempt keeps its token; nothing here takes work away from a worker that does it.
Rule 2: tasks on their way are made stale by the activity's stamp, not hunted down.
Rule 3: who unpauses or resets an activity of a paused workflow wants it worked on: it is dispatched.

Facts: PauseActivity, UnpauseActivity, ResetActivity and UpdateActivityOptions in
temporal/api/workflowservice/v1/request_response.proto.
"""

from collections.abc import Callable, Iterable

from temporalio.api.activity.v1 import message_pb2 as activities

from durably.engine import records as r
from durably.engine.activity import NOT_FOUND, dispatch_retry, next_deadline
from durably.engine.apply.activity import options_of
from durably.engine.retry import backoff_ns, validate_policy, with_defaults
from durably.engine.state import Activity, HistoryState
from durably.engine.times import nanoseconds, set_duration
from durably.engine.transition import Transition
from durably.engine.workflow import cap, ensure_running
from durably.errors import FailedPrecondition, InvalidArgument, NotFound

Jitter = Callable[[int], int]
"""Longest delay in nanoseconds -> the delay of one activity."""


def select(
    state: HistoryState, *, activity_id: str = "", kind: str = "", everything: bool = False
) -> list[Activity]:
    """The pending activities with this id, of this type, or all; NotFound if there are none."""
    found = [
        a
        for a in state.activities.values()
        if everything
        or (activity_id and a.activity_id == activity_id)
        or (kind and a.scheduled.activity_type.name == kind)
    ]
    if not found:
        raise NotFound(NOT_FOUND)
    return found


def pause(
    t: Transition[HistoryState],
    chosen: Iterable[Activity],
    identity: str,
    reason: str,
    request_id: str,
) -> None:
    """PauseActivity. The same request id again changes nothing; another is refused."""
    ensure_running(t.state)
    waiting = []
    for activity in chosen:
        if activity.pause is None:
            waiting.append(activity)
        elif not request_id or activity.pause.request_id != request_id:
            raise FailedPrecondition("activity is already paused")
    for activity in waiting:
        t.note(
            r.ActivityPaused(activity.scheduled_event_id, t.now_ns, identity, reason, request_id)
        )
        t.visible = True


def unpause(
    t: Transition[HistoryState],
    chosen: Iterable[Activity],
    *,
    reset_attempts: bool,
    reset_heartbeat: bool,
    jitter: Jitter,
    jitter_ns: int,
    keep_backoff: bool = False,
) -> None:
    """UnpauseActivity. One that is not paused is left as it is. `keep_backoff`: the retry that it was
    waiting for does not come earlier."""
    ensure_running(t.state)
    for activity in [a for a in chosen if a.pause is not None]:
        at_ns = 0 if activity.started else _from(activity, t.now_ns + jitter(jitter_ns))
        if at_ns and keep_backoff:
            at_ns = max(at_ns, activity.retry_at_ns)
        t.note(
            r.ActivityUnpaused(activity.scheduled_event_id, at_ns, reset_attempts, reset_heartbeat)
        )
        t.visible = True
        if reset_heartbeat:
            t.heartbeats.append(activity.scheduled_event_id)
        dispatch_when_due(t, activity)


def reset(
    t: Transition[HistoryState],
    chosen: Iterable[Activity],
    *,
    reset_heartbeat: bool,
    keep_paused: bool,
    restore_options: bool,
    jitter: Jitter,
    jitter_ns: int,
) -> None:
    """ResetActivity: attempts count from one again."""
    ensure_running(t.state)
    for activity in list(chosen):
        if restore_options and activity.original_options:
            t.note(
                r.ActivityOptionsUpdated(activity.scheduled_event_id, activity.original_options, 0)
            )
        stays_paused = activity.pause is not None and keep_paused
        at_ns = _from(activity, t.now_ns + jitter(jitter_ns))
        at_ns = 0 if activity.started or stays_paused else at_ns
        t.note(
            r.ActivityReset(
                activity.scheduled_event_id, at_ns, reset_heartbeat, unpause=not keep_paused
            )
        )
        t.visible = True
        if reset_heartbeat and not activity.started:
            t.heartbeats.append(activity.scheduled_event_id)
        dispatch_when_due(t, activity)


def _from(activity: Activity, at_ns: int) -> int:
    """Not before its start delay is over."""
    if activity.last_started_ns:
        return at_ns
    return max(at_ns, activity.first_scheduled_ns + activity.start_delay_ns)


def dispatch_when_due(t: Transition[HistoryState], activity: Activity) -> None:
    """Put the attempt that waits on its queue, or ask to be woken when its time has come."""
    if activity.retry_at_ns and activity.pause is None and activity.retry_at_ns <= t.now_ns:
        dispatch_retry(t, activity)
    t.attend(next_deadline(activity))


# --- Options ----------------------------------------------------------------------------------


def update_options(
    t: Transition[HistoryState],
    chosen: Iterable[Activity],
    options: activities.ActivityOptions,
    paths: list[str],
    limit_ns: int,
) -> activities.ActivityOptions:
    """UpdateActivityOptions: the fields named by `paths` (a FieldMask's) take new values.

    `limit_ns`: no timeout is longer, 0: no limit. Returns the options that the last of them now has.
    """
    ensure_running(t.state)
    changed = options
    for activity in list(chosen):
        changed = options_of(activity.scheduled)
        for path in paths:
            _merge(changed, options, path)
        _validate(changed, limit_ns)
        _change_options(t, activity, changed)
    return changed


def restore_options(
    t: Transition[HistoryState], chosen: Iterable[Activity]
) -> activities.ActivityOptions:
    """The options that the activities were scheduled with."""
    ensure_running(t.state)
    original = activities.ActivityOptions()
    for activity in list(chosen):
        original = options_of(activity.scheduled)
        if activity.original_options:
            original = activities.ActivityOptions.FromString(activity.original_options)
        _change_options(t, activity, original)
    return original


def _change_options(
    t: Transition[HistoryState], activity: Activity, options: activities.ActivityOptions
) -> None:
    at_ns = activity.dispatched_ns
    if activity.attempt > 1:
        at_ns = activity.last_ended_ns + backoff_ns(options.retry_policy, activity.attempt - 1)
    t.note(
        r.ActivityOptionsUpdated(
            activity.scheduled_event_id, options.SerializeToString(), max(at_ns, 1)
        )
    )
    if t.state.held:
        t.attend(next_deadline(activity, held=True))
    else:
        dispatch_when_due(t, activity)


def _merge(into: activities.ActivityOptions, source: activities.ActivityOptions, path: str) -> None:
    """Take one field, or one field of the retry policy or task queue."""
    name, _, inner = path.partition(".")
    if name not in into.DESCRIPTOR.fields_by_name:
        raise InvalidArgument(f"UpdateMask names {path!r}, which activity options do not have")
    if not inner:
        into.ClearField(name)  # type: ignore[arg-type]
        if source.HasField(name):  # type: ignore[arg-type]
            getattr(into, name).CopyFrom(getattr(source, name))
        return
    target, given = getattr(into, name), getattr(source, name)
    field = target.DESCRIPTOR.fields_by_name.get(inner)
    if field is None:
        raise InvalidArgument(f"UpdateMask names {path!r}, which activity options do not have")
    if field.message_type is None:
        setattr(target, inner, getattr(given, inner))
    else:
        getattr(target, inner).CopyFrom(getattr(given, inner))


def _validate(options: activities.ActivityOptions, limit_ns: int) -> None:
    """Raises InvalidArgument; fills what follows from the other timeouts, as scheduling does."""
    validate_policy(options.retry_policy)
    options.retry_policy.CopyFrom(with_defaults(options.retry_policy))
    if not options.task_queue.name:
        raise InvalidArgument("TaskQueue is not set on ActivityOptions.")
    timeouts = (
        options.schedule_to_close_timeout,
        options.schedule_to_start_timeout,
        options.start_to_close_timeout,
        options.heartbeat_timeout,
    )
    to_close, to_start, start_to_close, heartbeat = (nanoseconds(each) for each in timeouts)
    if min(to_close, to_start, start_to_close, heartbeat) < 0:
        raise InvalidArgument("a timeout of an activity cannot be negative.")
    if not to_close and not start_to_close:
        raise InvalidArgument(
            "A valid StartToClose or ScheduleToCloseTimeout is not set on ActivityOptions."
        )
    limit_ns = cap(to_close, limit_ns)
    start_to_close = cap(start_to_close, limit_ns)
    set_duration(options.schedule_to_close_timeout, limit_ns)
    set_duration(options.schedule_to_start_timeout, cap(to_start, limit_ns))
    set_duration(options.start_to_close_timeout, start_to_close)
    set_duration(options.heartbeat_timeout, min(heartbeat, start_to_close))
