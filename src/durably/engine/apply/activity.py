"""Activities, of workflows and on their own, as events, records and heartbeats change them.

Rules: see `entries.py`. One exception: `apply_heartbeat`. Of heartbeats only the last matters, so they are
a row that is overwritten instead of journal entries.
"""

from collections.abc import Callable
from typing import assert_never, get_args

from temporalio.api.activity.v1 import message_pb2 as activities
from temporalio.api.common.v1 import message_pb2 as common
from temporalio.api.enums.v1 import event_type_pb2 as event_types
from temporalio.api.failure.v1 import message_pb2 as failure
from temporalio.api.history.v1 import message_pb2 as history

from durably.engine import records as r
from durably.engine.journal import Changes
from durably.engine.standalone.apply import activity_ended, activity_opened
from durably.engine.standalone.state import StandaloneActivityState
from durably.engine.state import Activity, HistoryState, Pause, WorkflowState
from durably.engine.times import nanoseconds


def _scheduled(state: HistoryState, event: history.HistoryEvent) -> None:
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


def _cancel_requested(state: HistoryState, event: history.HistoryEvent) -> None:
    attributes = event.activity_task_cancel_requested_event_attributes
    activity = state.activities.get(attributes.scheduled_event_id)
    if activity is not None:
        activity.cancel_requested_event_id = event.event_id


def _ended(state: HistoryState, event: history.HistoryEvent) -> None:
    if isinstance(state, StandaloneActivityState):
        activity_ended(state, event, nanoseconds(event.event_time))
        return
    attributes = getattr(event, event.WhichOneof("attributes") or "")
    activity = state.activities.pop(attributes.scheduled_event_id, None)
    if activity is not None:
        state.activity_ids.pop(activity.activity_id, None)


def recall_activities(state: WorkflowState) -> None:
    """Tasks of activities that no worker has taken are stale."""
    for activity in state.activities.values():
        if not activity.started:
            activity.stamp += 1


def _rerouted(state: WorkflowState, record: r.ActivitiesRerouted) -> None:
    recall_activities(state)


def _apply(state: HistoryState, record: r.ActivityRecord) -> None:
    activity = state.activities[record.scheduled_event_id]
    match record:
        case r.ActivityStarted():
            _attempt_started(activity, record)
        case r.ActivityRetryScheduled():
            _retry_scheduled(activity, record)
        case r.ActivityRetryDispatched():
            activity.retry_at_ns = 0
            activity.dispatched_ns = record.at_ns
        case r.ActivityPaused():
            _paused(activity, record)
        case r.ActivityUnpaused():
            activity.pause = None
            if record.reset_attempts:
                _reset_attempts(activity)
            if record.reset_heartbeat:
                _forget_heartbeat(activity)
            _dispatch_again(activity, record.dispatch_at_ns)
        case r.ActivityReset():
            _reset(activity, record)
        case r.ActivityOptionsUpdated():
            _options_updated(activity, record)
        case _:
            assert_never(record)


def _attempt_started(activity: Activity, record: r.ActivityStarted) -> None:
    activity.attempt = record.attempt
    activity.retry_at_ns = 0
    activity.started_ns = record.at_ns
    activity.last_started_ns = record.at_ns
    activity.identity = record.identity
    activity.last_identity = record.identity
    activity.request_id = record.request_id
    activity.worker_version = record.worker_version
    activity.last_version = record.version


def _retry_scheduled(activity: Activity, record: r.ActivityRetryScheduled) -> None:
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


def _paused(activity: Activity, record: r.ActivityPaused) -> None:
    activity.pause = Pause(
        record.at_ns, record.identity, record.reason, record.request_id, record.rule_id
    )
    if not activity.started:
        activity.stamp += 1


def _reset(activity: Activity, record: r.ActivityReset) -> None:
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


def _options_updated(activity: Activity, record: r.ActivityOptionsUpdated) -> None:
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


EVENTS: dict[int, Callable[[HistoryState, history.HistoryEvent], None]] = {
    event_types.EVENT_TYPE_ACTIVITY_TASK_SCHEDULED: _scheduled,
    event_types.EVENT_TYPE_ACTIVITY_TASK_CANCEL_REQUESTED: _cancel_requested,
    event_types.EVENT_TYPE_ACTIVITY_TASK_COMPLETED: _ended,
    event_types.EVENT_TYPE_ACTIVITY_TASK_FAILED: _ended,
    event_types.EVENT_TYPE_ACTIVITY_TASK_TIMED_OUT: _ended,
    event_types.EVENT_TYPE_ACTIVITY_TASK_CANCELED: _ended,
}
RECORDS: Changes = {
    r.ActivitiesRerouted: _rerouted,
    **dict.fromkeys(get_args(r.ActivityRecord), _apply),
}
