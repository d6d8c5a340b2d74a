"""The machine of a standalone activity: the activity machine, and what an execution adds to it.

    state     input                          to
    -------   ----------------------------   ------------------------------------------------
    none      start                          running, dispatched now or after its start delay
    running   what workers and time do       see `engine/activity.py`; its end closes this
    running   attach                         running, with more callbacks and links
    running   request_cancel                 running until the worker obeys; closed if no worker has it
    running   terminate                      closed
    running   pause, unpause, reset,         see `engine/activity_control.py`
              update_options

Rule 1: the same request id again changes nothing, also after the end.
Rule 2: refusals of the callers' commands are FAILED_PRECONDITION and name the stage.

Facts: temporal/api/activity/v1/message.proto and the messages of StartActivityExecution and its kin.
"""

from collections.abc import Sequence

from temporalio.api.activity.v1 import message_pb2 as activities
from temporalio.api.common.v1 import message_pb2 as common
from temporalio.api.enums.v1 import activity_pb2 as activity_enums
from temporalio.api.history.v1 import message_pb2 as history
from temporalio.api.workflowservice.v1 import request_response_pb2 as ws

from durably.config import Config
from durably.engine import activity, activity_control
from durably.engine.activity_control import Jitter
from durably.engine.apply.activity import options_of
from durably.engine.callback import machine as callback
from durably.engine.journal import Created
from durably.engine.retry import with_defaults
from durably.engine.standalone import records as r
from durably.engine.standalone.state import SCHEDULED_EVENT_ID, StandaloneActivityState
from durably.engine.times import nanoseconds, set_duration
from durably.engine.transition import DispatchActivity, Transition
from durably.engine.workflow import normal_queue
from durably.errors import FailedPrecondition, InvalidArgument

StandaloneTransition = Transition[StandaloneActivityState]


def start(
    t: StandaloneTransition, request: ws.StartActivityExecutionRequest, config: Config
) -> None:
    """A well-formed request becomes an execution; see `service/standalone_activities.py`."""
    t.note(Created(request.namespace, request.request_id))
    attach(t, request.request_id, request.completion_callbacks, request.links, config)
    t.note(
        r.StandaloneOpened(
            nanoseconds(request.start_delay), request.search_attributes.SerializeToString()
        )
    )
    t.record(_scheduled(request), user_metadata=request.user_metadata)
    pending = t.state.activity
    if not pending.retry_at_ns:
        queue = pending.scheduled.task_queue.name
        t.emit(DispatchActivity(queue, SCHEDULED_EVENT_ID, pending.stamp))
    t.attend(activity.next_deadline(pending))
    t.visible = True


def _scheduled(
    request: ws.StartActivityExecutionRequest,
) -> history.ActivityTaskScheduledEventAttributes:
    event = history.ActivityTaskScheduledEventAttributes(
        activity_id=request.activity_id,
        activity_type=request.activity_type,
        task_queue=normal_queue(request.task_queue.name),
        retry_policy=with_defaults(request.retry_policy),
    )
    for field in ("header", "input", "priority"):
        if request.HasField(field):
            getattr(event, field).CopyFrom(getattr(request, field))
    activity.fill_timeouts(event, request, limit_ns=0)
    return event


def attach(
    t: StandaloneTransition,
    request_id: str,
    callbacks: Sequence[common.Callback],
    links: Sequence[common.Link],
    config: Config,
) -> None:
    """Callbacks and links of a start request; those of one request id are taken once."""
    if not (callbacks or links) or t.state.attached_by(request_id):
        return
    if t.state.closed:
        raise FailedPrecondition("cannot attach callbacks or links to a closed activity")
    callback.check_room(t.state, len(callbacks), config.callbacks_max, "an activity")
    t.note(
        r.StandaloneAttached(
            request_id,
            t.now_ns,
            tuple(each.SerializeToString() for each in callbacks),
            tuple(each.SerializeToString() for each in links),
        )
    )


# --- Cancel and terminate ---------------------------------------------------------------------


def request_cancel(t: StandaloneTransition, identity: str, reason: str, request_id: str) -> None:
    """RequestCancelActivityExecution. One that no worker has is canceled at once."""
    state = t.state
    if state.cancel is not None and request_id and state.cancel.request_id == request_id:
        return
    if not state.running:
        raise FailedPrecondition(f"activity is in terminal state {state.stage}")
    if state.cancel is not None:
        raise FailedPrecondition(
            f"cancellation already requested with request ID {state.cancel.request_id}"
        )
    t.note(r.StandaloneCancelAsked(identity, reason, request_id))
    activity.ask_cancel(t, state.activity, completed_event_id=0)


def terminate(t: StandaloneTransition, identity: str, reason: str, request_id: str) -> None:
    """TerminateActivityExecution. A worker that has it hears NOT_FOUND from now on."""
    state = t.state
    if state.status == activity_enums.ACTIVITY_EXECUTION_STATUS_TERMINATED:
        if state.terminate_request_id == request_id:
            return
        raise FailedPrecondition(f"already terminated with request ID {state.terminate_request_id}")
    if not state.running:
        raise FailedPrecondition(f"invalid transition from {state.stage}")
    t.note(r.StandaloneTerminated(t.now_ns, identity, reason, request_id))
    callback.invoke_due(t)
    t.visible = True


# --- Operators --------------------------------------------------------------------------------


def _repeated(t: StandaloneTransition, command: str, request_id: str) -> bool:
    return bool(request_id) and t.state.requests_seen.get(command) == request_id


def _done(t: StandaloneTransition, command: str, request_id: str) -> None:
    if request_id:
        t.note(r.StandaloneRequestSeen(command, request_id))
    t.visible = True


def pause(t: StandaloneTransition, identity: str, reason: str, request_id: str) -> None:
    """PauseActivityExecution."""
    if _repeated(t, "pause", request_id):
        return
    if t.state.stage not in ("Scheduled", "Started"):
        raise FailedPrecondition(f"activity is in non-pausable state {t.state.stage}")
    activity_control.pause(t, [t.state.activity], identity, reason, request_id)
    _done(t, "pause", request_id)


def unpause(t: StandaloneTransition, request_id: str, jitter: Jitter, jitter_ns: int) -> None:
    """UnpauseActivityExecution. A backoff or start delay that is not over yet is waited for."""
    if _repeated(t, "unpause", request_id):
        return
    if not t.state.running:
        raise FailedPrecondition(f"activity is in terminal state {t.state.stage}")
    if t.state.stage not in ("Paused", "PauseRequested"):
        raise FailedPrecondition(f"activity is in non-unpausable state {t.state.stage}")
    activity_control.unpause(
        t,
        [t.state.activity],
        reset_attempts=False,
        reset_heartbeat=False,
        jitter=jitter,
        jitter_ns=jitter_ns,
        keep_backoff=True,
    )
    _done(t, "unpause", request_id)


def reset(
    t: StandaloneTransition,
    request: ws.ResetActivityExecutionRequest,
    jitter: Jitter,
) -> None:
    """ResetActivityExecution."""
    if _repeated(t, "reset", request.request_id):
        return
    match t.state.stage:
        case "CancelRequested":
            raise FailedPrecondition("cannot reset an activity with a pending cancellation")
        case "ResetRequested":
            raise FailedPrecondition("cannot reset an activity with a pending reset")
        case _ if not t.state.running:
            raise FailedPrecondition("activity execution is not running")
    activity_control.reset(
        t,
        [t.state.activity],
        reset_heartbeat=request.reset_heartbeat,
        keep_paused=request.keep_paused,
        restore_options=request.restore_original_options,
        jitter=jitter,
        jitter_ns=nanoseconds(request.jitter),
    )
    _done(t, "reset", request.request_id)


CHANGEABLE = frozenset(("Scheduled", "Started", "Paused", "PauseRequested"))


def update_options(
    t: StandaloneTransition, request: ws.UpdateActivityExecutionOptionsRequest
) -> activities.ActivityOptions:
    """UpdateActivityExecutionOptions: the options that the activity now has."""
    state = t.state
    if _repeated(t, "update_options", request.request_id):
        return options(state)
    if state.stage not in CHANGEABLE:
        raise FailedPrecondition(f"Cannot update options for activity in state {state.stage}")
    if request.restore_original:
        activity_control.restore_options(t, [state.activity])
    else:
        paths = [path for path in request.update_mask.paths if path != "start_delay"]
        if len(paths) < len(request.update_mask.paths):
            _change_delay(t, nanoseconds(request.activity_options.start_delay))
        if paths:
            activity_control.update_options(
                t, [state.activity], request.activity_options, paths, limit_ns=0
            )
    _done(t, "update_options", request.request_id)
    return options(state)


def _change_delay(t: StandaloneTransition, delay_ns: int) -> None:
    """The delay counts from the start of the execution, whenever it is changed."""
    pending = t.state.activity
    if delay_ns < 0:
        raise InvalidArgument("invalid StartDelay: negative duration")
    if pending.last_started_ns or (pending.pause is None and t.state.first_dispatch_ns <= t.now_ns):
        raise FailedPrecondition(
            "cannot update start_delay: the first activity attempt has already been dispatched"
        )
    t.note(r.StandaloneDelayed(delay_ns))
    activity_control.dispatch_when_due(t, pending)


def options(state: StandaloneActivityState) -> activities.ActivityOptions:
    shown = options_of(state.activity.scheduled)
    if state.start_delay_ns:
        set_duration(shown.start_delay, state.start_delay_ns)
    return shown
