"""The state of one completion callback.

Rule 1: only `apply.py` beside this file writes.
Rule 2: BLOCKED is no state: it is SCHEDULED, seen while its destination gets no calls.

Rule 3: one that follows is scheduled before the end, too, while there is news of which it was not told.

Times are nanoseconds since the epoch; 0 means "not set".
"""

from temporalio.api.enums.v1 import common_pb2 as common_enums

from durably.engine.stored import Stored

STANDBY = common_enums.CALLBACK_STATE_STANDBY
SCHEDULED = common_enums.CALLBACK_STATE_SCHEDULED
BACKING_OFF = common_enums.CALLBACK_STATE_BACKING_OFF
FAILED = common_enums.CALLBACK_STATE_FAILED
SUCCEEDED = common_enums.CALLBACK_STATE_SUCCEEDED

FOLLOWS_HEADER = "durably-follows"
"""Header of a callback that is told of changes before the end, too: of which fields of the memo, with
commas between them."""


class Callback(Stored):
    """A call that somebody asked for, to be made when an execution, or an update of it, has ended."""

    callback_id: str
    callback: bytes
    """A serialized common.v1.Callback."""
    request_id: str
    """Of the request that brought it."""
    registered_ns: int
    update_id: str = ""
    """Not empty: it waits for this update; else for the close of the execution."""
    state: int = STANDBY
    attempt: int = 0
    """How many attempts have ended."""
    last_attempt_ns: int = 0
    last_failure: bytes = b""
    """A serialized Failure; empty: the last attempt did not fail."""
    next_attempt_ns: int = 0
    """When the present backoff is over."""
    outcome_event_id: int = 0
    """The event that says how it ended; 0: see `outcome`, or the execution closed before it did."""
    outcome: bytes = b""
    """A serialized update.v1.Outcome that no event has: the update was rejected."""
    outcome_ns: int = 0
    """When it was."""
    follows: tuple[str, ...] = ()
    """Fields of the memo: of each event that changes one of them it is told, and then of the end."""
    news_event_id: int = 0
    """The last such event."""
    told_event_id: int = 0
    """Of the events up to this one it has been told, as far as they are news."""

    @property
    def has_news(self) -> bool:
        """Before it is told of the end, it is told of these."""
        return self.news_event_id > self.told_event_id


def callback_id(request_id: str, index: int, update_id: str) -> str:
    """The same for the same callback of the same request, so that it is attached once."""
    return f"{request_id}-{index}-{update_id}" if update_id else f"{request_id}-{index}"
