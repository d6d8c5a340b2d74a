"""apply(state, entry) for completion callbacks. Rules: see `engine/apply/entries.py`."""

from collections.abc import Collection, Iterable
from typing import TYPE_CHECKING, assert_never, get_args

from temporalio.api.common.v1 import message_pb2 as common

from durably.engine.callback import records as r
from durably.engine.callback.state import (
    BACKING_OFF,
    FAILED,
    FOLLOWS_HEADER,
    SCHEDULED,
    STANDBY,
    SUCCEEDED,
    Callback,
    callback_id,
)
from durably.engine.journal import Changes

if TYPE_CHECKING:
    from durably.engine.state import AwaitedState


def attach(
    state: "AwaitedState",
    request_id: str,
    callbacks: Iterable[common.Callback],
    at_ns: int,
    update_id: str = "",
) -> None:
    """The callbacks of one request; those of a request that brought them before are known."""
    for index, each in enumerate(callbacks):
        known = callback_id(request_id, index, update_id)
        if known not in state.callbacks:
            state.callbacks[known] = Callback(
                known,
                each.SerializeToString(),
                request_id,
                at_ns,
                update_id,
                follows=() if update_id else _followed(each),
            )


def _followed(callback: common.Callback) -> tuple[str, ...]:
    header = callback.nexus.header
    return tuple(header[FOLLOWS_HEADER].split(",")) if FOLLOWS_HEADER in header else ()


def memo_changed(state: "AwaitedState", event_id: int, changed: Collection[str]) -> None:
    """News for those who follow one of the fields. What is being told comes first."""
    for callback in state.callbacks.values():
        if not any(name in changed for name in callback.follows):
            continue
        if not callback.has_news:
            callback.told_event_id = event_id - 1
        callback.news_event_id = event_id
        if callback.state == STANDBY:
            callback.state = SCHEDULED


def taken_over(state: "AwaitedState") -> None:
    """By the run that a reset made: what was due before is owed by the run that was reset. Whoever
    follows has heard from that run what there was until now, or will."""
    state.callbacks = {
        i: each for i, each in state.callbacks.items() if each.state == STANDBY or each.follows
    }
    for callback in state.callbacks.values():
        callback.state = STANDBY
        callback.told_event_id = callback.news_event_id


def execution_closed(state: "AwaitedState", event_id: int, *, goes_on: bool) -> None:
    """What waits for the close is due, unless another run goes on; what waits for an update is due
    in any case, for the update ended with its run."""
    for callback in state.callbacks.values():
        if callback.update_id:
            if callback.state == STANDBY:
                callback.state = SCHEDULED
        elif not goes_on:
            callback.outcome_event_id = event_id
            if callback.state == STANDBY:
                callback.state = SCHEDULED


def update_ended(
    state: "AwaitedState", update_id: str, event_id: int, outcome: bytes = b"", at_ns: int = 0
) -> None:
    """What waits for this update is due. `event_id` 0: `outcome`, at this time, has no event."""
    for callback in state.callbacks.values():
        if callback.update_id == update_id and callback.state == STANDBY:
            callback.state = SCHEDULED
            callback.outcome_event_id = event_id
            callback.outcome = outcome
            callback.outcome_ns = at_ns


def _apply(state: "AwaitedState", record: r.CallbackRecord) -> None:
    callback = state.callbacks[record.callback_id]
    match record:
        case r.CallbackTold():
            callback.told_event_id = record.event_id
            callback.attempt = 0
            callback.last_attempt_ns = record.at_ns
            callback.last_failure = record.failure
            if not callback.has_news and not callback.outcome_event_id:
                callback.state = STANDBY
        case r.CallbackRemoved():
            del state.callbacks[record.callback_id]
        case r.CallbackSucceeded():
            callback.state = SUCCEEDED
            callback.attempt += 1
            callback.last_attempt_ns = record.at_ns
            callback.last_failure = b""
        case r.CallbackAttemptFailed():
            callback.state = BACKING_OFF if record.next_attempt_ns else FAILED
            callback.attempt += 1
            callback.last_attempt_ns = record.at_ns
            callback.last_failure = record.failure
            callback.next_attempt_ns = record.next_attempt_ns
        case r.CallbackRescheduled():
            callback.state = SCHEDULED
            callback.next_attempt_ns = 0
        case _:
            assert_never(record)


RECORDS: Changes = dict.fromkeys(get_args(r.CallbackRecord), _apply)
