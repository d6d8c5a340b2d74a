"""The machine of a completion callback.

    state         input                   to            journal
    -----------   ---------------------   -----------   ------------------------------------
    none          attach                  standby       the event or record that brings it
    standby       the end it waits for    scheduled     the event that is this end
    scheduled     succeeded               succeeded     record CallbackSucceeded
    scheduled     failed, to be retried   backing off   record CallbackAttemptFailed
    scheduled     failed for good         failed        record CallbackAttemptFailed
    backing off   due                     scheduled     record CallbackRescheduled
    any           removed                 none          record CallbackRemoved

Of one that follows:

    standby       a change of the memo    scheduled     the event that changes it
    scheduled     told of these changes   standby       record CallbackTold
    scheduled     the same, after the     scheduled     record CallbackTold
                  end or with more news

Rule 1: a callback that is scheduled is an entry of the outbox; nothing else is.
Rule 2: an answer to another attempt than the present one changes nothing.
Rule 3: a run that continues as new or is retried hands its callbacks to the next; only the last calls.
Rule 4: one that follows is told of what happened in its order: of the end last. What its receiver refuses for
        good is left out, and what comes after it is told.

Facts: CallbackInfo in temporal/api/workflow/v1/message.proto. Attempts are made at intervals that
double, from a second to an hour, without an end.
"""

from temporalio.api.failure.v1 import message_pb2 as failure

from durably.engine.callback import records as r
from durably.engine.callback.state import BACKING_OFF, SCHEDULED, Callback
from durably.engine.state import AwaitedState, ExecutionState
from durably.engine.times import SECOND_NS
from durably.engine.transition import InvokeCallback, Transition
from durably.errors import FailedPrecondition

INTERVAL_NS = SECOND_NS
INTERVAL_MAX_NS = 3600 * SECOND_NS


def check_room(
    state: AwaitedState, wanted: int, callbacks_max: int, what: str = "a workflow"
) -> None:
    """Raises FailedPrecondition if so many more are too many for one execution."""
    there = len(state.callbacks)
    if wanted + there > callbacks_max:
        raise FailedPrecondition(
            f"cannot attach more than {callbacks_max} callbacks to {what}"
            f" ({there} callbacks already attached)"
        )


def invoke_due(t: Transition[AwaitedState]) -> None:
    """After an end that callbacks may have waited for: have them called."""
    for callback in t.state.callbacks.values():
        if callback.state == SCHEDULED and not callback.attempt:
            t.emit(InvokeCallback(callback.callback_id))


def _tried(state: AwaitedState, callback_id: str, attempt: int) -> Callback | None:
    """The callback, if this attempt is the one that it waits for; `attempt` counts from 1."""
    callback = state.callbacks.get(callback_id)
    if callback is None or callback.state != SCHEDULED or callback.attempt + 1 != attempt:
        return None
    return callback


def succeeded(t: Transition[AwaitedState], callback_id: str, attempt: int) -> None:
    """The receiver has taken it."""
    if _tried(t.state, callback_id, attempt) is not None:
        t.note(r.CallbackSucceeded(callback_id, t.now_ns))


def told(
    t: Transition[AwaitedState], callback_id: str, attempt: int, event_id: int, refused: str = ""
) -> None:
    """The receiver has taken all news up to this event; or the last of them it refuses for good."""
    if _tried(t.state, callback_id, attempt) is None:
        return
    reason = _failure(refused, retryable=False) if refused else b""
    t.note(r.CallbackTold(callback_id, event_id, t.now_ns, reason))
    if t.state.callbacks[callback_id].state == SCHEDULED:
        t.emit(InvokeCallback(callback_id))


def removed(t: Transition[AwaitedState], callback_id: str) -> None:
    """Who asked for it does not want it any more. Nothing happens if it is not there."""
    if callback_id in t.state.callbacks:
        t.note(r.CallbackRemoved(callback_id))


def failed(
    t: Transition[AwaitedState], callback_id: str, attempt: int, message: str, *, retryable: bool
) -> None:
    """The attempt failed; another follows if it may. News that are refused for good are `told`."""
    if _tried(t.state, callback_id, attempt) is None:
        return
    next_ns = t.now_ns + interval_ns(attempt) if retryable else 0
    reason = _failure(message, retryable=retryable)
    t.note(r.CallbackAttemptFailed(callback_id, t.now_ns, reason, next_ns))
    t.attend(next_ns)


def _failure(message: str, *, retryable: bool) -> bytes:
    return failure.Failure(
        message=message,
        application_failure_info=failure.ApplicationFailureInfo(non_retryable=not retryable),
    ).SerializeToString()


def interval_ns(attempt: int) -> int:
    """How long after this attempt the next one is made, in nanoseconds."""
    return min(INTERVAL_NS << min(attempt - 1, 32), INTERVAL_MAX_NS)


def next_deadline(state: ExecutionState) -> int:
    """When the first backoff is over; 0: there is none."""
    if not isinstance(state, AwaitedState):
        return 0
    moments = (each.next_attempt_ns for each in state.callbacks.values())
    return min((moment for moment in moments if moment), default=0)


def fire_due(t: Transition[AwaitedState]) -> None:
    """Call again what has waited for long enough."""
    for callback in t.state.callbacks.values():
        if callback.state == BACKING_OFF and callback.next_attempt_ns <= t.now_ns:
            t.note(r.CallbackRescheduled(callback.callback_id))
            t.emit(InvokeCallback(callback.callback_id))
