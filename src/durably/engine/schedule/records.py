"""Records of schedules. Rules: see `engine/journal.py`."""

from durably.engine.journal import Record


class ScheduleSet(Record, frozen=True, tag="sd"):
    """A schedule was created, or replaced as a whole. `schedule`: a Schedule in canonical form."""

    schedule: bytes
    at_ns: int


class ScheduleMemoSet(Record, frozen=True, tag="sm"):
    memo: bytes


class ScheduleSearchAttributesSet(Record, frozen=True, tag="sa"):
    search_attributes: bytes


class SchedulePaused(Record, frozen=True, tag="sp"):
    """Paused or unpaused, by a person or after a failure."""

    paused: bool
    notes: str


class ScheduleRequestSeen(Record, frozen=True, tag="sq"):
    """A change with this request id was accepted, and must not apply twice."""

    request_id: str


class ScheduleExpired(Record, frozen=True, tag="sx"):
    """The schedule has had nothing more to do for long enough."""

    at_ns: int


class TimeProcessed(Record, frozen=True, tag="tp"):
    """The spec's times up to `up_to_ns` are dealt with; the next is `next_ns` (0: none)."""

    up_to_ns: int
    next_ns: int
    missed: int = 0
    """How many of them came too late to be acted on."""


class BackfillAsked(Record, frozen=True, tag="ba"):
    after_ns: int
    end_ns: int
    overlap: int


class BackfillReached(Record, frozen=True, tag="br"):
    """The first backfill is dealt with up to `after_ns`, or wholly."""

    after_ns: int
    done: bool = False


class ActionBuffered(Record, frozen=True, tag="ab"):
    """An action is due; whether it is taken is decided next."""

    nominal_ns: int
    actual_ns: int
    overlap: int = 0
    manual: bool = False


class ActionsDropped(Record, frozen=True, tag="bx"):
    """There was no room in the buffer for so many actions."""

    count: int


class BufferKept(Record, frozen=True, tag="bk"):
    """Of the buffer these positions still wait; the others are taken, or skipped."""

    kept: tuple[int, ...]
    skipped: int = 0


class ActionTaken(Record, frozen=True, tag="at"):
    """A workflow is to be started. Its id is fixed here, so that it is started once."""

    number: int
    workflow_id: str
    nominal_ns: int
    actual_ns: int
    at_ns: int
    overlapping: bool = False
    manual: bool = False


class ActionStarted(Record, frozen=True, tag="ay"):
    """The workflow of an action started at `at_ns`."""

    number: int
    run_id: str
    at_ns: int


class ActionNotStarted(Record, frozen=True, tag="an"):
    """The workflow of an action cannot be started, or no longer in time."""

    number: int
    missed: bool = False


class ActionEndAsked(Record, frozen=True, tag="ae"):
    """A later action wants this one's workflow canceled or terminated (`how`)."""

    number: int
    how: int


class ActionEndSent(Record, frozen=True, tag="es"):
    """The workflow knows that it is to end, or has ended."""

    number: int


class ActionEnded(Record, frozen=True, tag="az"):
    """The workflow of an action ended for good. `result`: Payloads; `failure`: a Failure."""

    number: int
    status: int
    result: bytes = b""
    failure: bytes = b""


ScheduleRecord = (
    ScheduleSet
    | ScheduleMemoSet
    | ScheduleSearchAttributesSet
    | SchedulePaused
    | ScheduleRequestSeen
    | ScheduleExpired
    | TimeProcessed
    | BackfillAsked
    | BackfillReached
    | ActionBuffered
    | ActionsDropped
    | BufferKept
    | ActionTaken
    | ActionStarted
    | ActionNotStarted
    | ActionEndAsked
    | ActionEndSent
    | ActionEnded
)
