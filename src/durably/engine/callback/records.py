"""Records of completion callbacks: of whatever calls back when it has ended. Rules: see `engine/journal.py`."""

from durably.engine.journal import Record


class CallbackSucceeded(Record, frozen=True, tag="ks"):
    """The receiver has taken the call."""

    callback_id: str
    at_ns: int


class CallbackAttemptFailed(Record, frozen=True, tag="kf"):
    """`failure`: a serialized Failure. `next_attempt_ns` 0: there is no other attempt."""

    callback_id: str
    at_ns: int
    failure: bytes
    next_attempt_ns: int = 0


class CallbackRescheduled(Record, frozen=True, tag="kr"):
    """The backoff is over."""

    callback_id: str


class CallbackTold(Record, frozen=True, tag="kt"):
    """One that follows has been told of the events up to `event_id`. `failure`, a serialized Failure: it was
    not, for the receiver has refused it for good; empty: it has taken it."""

    callback_id: str
    event_id: int
    at_ns: int
    failure: bytes = b""


class CallbackRemoved(Record, frozen=True, tag="kx"):
    """Nobody is to be told any more."""

    callback_id: str


CallbackRecord = (
    CallbackSucceeded | CallbackAttemptFailed | CallbackRescheduled | CallbackTold | CallbackRemoved
)
