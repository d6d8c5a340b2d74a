"""Journal entries that the API keeps out of history.

Rule 1: a change of state is either a `HistoryEvent` or one of these records; there is no third way.
Rule 2: a record carries all that `apply` needs; applying it never asks the clock or the world.
Rule 3: records are stored, and grow as `stored.py` says; a tag is never used again. A record is written with
        all its fields, so one that has more of them than are known here is read if those are empty.

Times are nanoseconds since the epoch. Bytes fields hold serialized API messages.
"""

from typing import Any, get_args

import msgspec

from durably.engine.state import BatchTarget, ScheduledBy
from durably.engine.stored import StoredValue
from durably.engine.versioning.state import Notice
from durably.engine.versioning.version import Version
from durably.errors import WrittenByNewer


class Record(StoredValue, frozen=True, tag=True, tag_field="t", array_like=True):
    """Base of all records."""


class Created(Record, frozen=True, tag="cr"):
    """The first entry of every journal: what the first event does not say."""

    namespace: str
    request_id: str
    attached_request_ids: tuple[str, ...] = ()
    scheduled_by: ScheduledBy | None = None
    started_by: str = ""
    """The request that started the first event, where that is another: of a run that was reset."""


class ActivityStarted(Record, frozen=True, tag="as"):
    """A worker took an attempt; the ActivityTaskStarted event is written when the attempt ends."""

    scheduled_event_id: int
    attempt: int
    at_ns: int
    identity: str
    request_id: str
    worker_version: bytes = b""
    version: Version | None = None


class ActivityRetryScheduled(Record, frozen=True, tag="ar"):
    """An attempt ended and another will follow at `retry_at_ns`."""

    scheduled_event_id: int
    attempt: int
    retry_at_ns: int
    failure: bytes
    ended_ns: int


class ActivityRetryDispatched(Record, frozen=True, tag="ad"):
    """The backoff of a retried attempt is over: its task is on its queue since `at_ns`."""

    scheduled_event_id: int
    attempt: int
    at_ns: int


class ActivityPaused(Record, frozen=True, tag="ap"):
    """No further attempt is dispatched, and no timeout runs, until the activity is unpaused."""

    scheduled_event_id: int
    at_ns: int
    identity: str
    reason: str
    request_id: str
    rule_id: str = ""


class ActivityUnpaused(Record, frozen=True, tag="au"):
    """`dispatch_at_ns` 0: an attempt is running, and goes on."""

    scheduled_event_id: int
    dispatch_at_ns: int
    reset_attempts: bool = False
    reset_heartbeat: bool = False


class ActivityReset(Record, frozen=True, tag="ax"):
    """The attempts count from one again. `dispatch_at_ns` 0: not now, but when the running attempt
    ends, or when the activity is unpaused."""

    scheduled_event_id: int
    dispatch_at_ns: int
    reset_heartbeat: bool = False
    unpause: bool = False


class ActivityOptionsUpdated(Record, frozen=True, tag="ao"):
    """`options` is a serialized activity.v1.ActivityOptions, whole. `dispatch_at_ns` as above."""

    scheduled_event_id: int
    options: bytes
    dispatch_at_ns: int


class WorkflowTaskAttemptScheduled(Record, frozen=True, tag="ws"):
    """A transient workflow task: scheduled without an event in history."""

    scheduled_event_id: int
    attempt: int
    at_ns: int
    timeout_ns: int
    speculative: bool = False
    """A first attempt, for an update alone; it may wait on the sticky queue."""


class WorkflowTaskDispatched(Record, frozen=True, tag="wd"):
    """The queue on which the pending workflow task waits: its sticky queue or its normal one."""

    queue: str
    sticky: bool


class WorkflowTaskAttemptStarted(Record, frozen=True, tag="wt"):
    """What history does not say of a started task; for a transient one, also that it started."""

    scheduled_event_id: int
    started_event_id: int
    attempt: int
    at_ns: int
    request_id: str
    identity: str
    history_size_bytes: int
    suggest_continue_as_new: bool = False
    worker_version: bytes = b""
    target_changed: bool = False
    reasons: tuple[int, ...] = ()


class WorkflowTaskAttemptEnded(Record, frozen=True, tag="we"):
    """A transient workflow task failed or timed out: no event in history."""

    increment_attempt: bool
    problem: tuple[str, ...] = ()
    """What is said of it if that goes on."""


class WorkflowTaskDropped(Record, frozen=True, tag="wx"):
    """A speculative workflow task came to nothing: its worker is as it was before, and so is history."""


class WorkflowTaskBackoffEnded(Record, frozen=True, tag="wb"):
    """The delay before the first workflow task is over (start delay, retry backoff or cron)."""


class StickySet(Record, frozen=True, tag="ss"):
    """The worker that completed a task keeps the workflow in its cache and polls this queue for it."""

    queue: str
    schedule_to_start_timeout_ns: int


class StickyCleared(Record, frozen=True, tag="sc"):
    pass


class MoveStarted(Record, frozen=True, tag="vm"):
    """A worker of another version has taken a task of a workflow that is not pinned."""

    version: Version | None
    revision: int = 0


class ActivitiesRerouted(Record, frozen=True, tag="va"):
    """The workflow has another version: tasks of activities that no worker has taken are stale."""


class TargetNoticed(Record, frozen=True, tag="vn"):
    """What a pinned workflow knows of the version that it would have if it upgraded."""

    notified: Notice | None = None
    declined: Notice | None = None


class EventBuffered(Record, frozen=True, tag="eb"):
    """Something happened while a workflow task was in flight; its event gets its id when that ends."""

    event: bytes


class BufferFlushed(Record, frozen=True, tag="bf"):
    """The next `count` events of the journal come out of the buffer, and are applied already."""

    count: int


class BufferedTimerDropped(Record, frozen=True, tag="bd"):
    """A timer that had fired into the buffer was canceled before its event was written."""

    timer_id: str


class RequestSeen(Record, frozen=True, tag="rq"):
    """A signal or cancel with this request id was accepted, and must not apply twice."""

    request_id: str


class UpdateAdmitted(Record, frozen=True, tag="ua"):
    """An update that waits for the worker's word. `request` is a serialized update.v1.Request."""

    update_id: str
    request: bytes


class UpdateAttached(Record, frozen=True, tag="uc"):
    """Another request for an update that waits for the worker's word brought callbacks. `options`: the
    serialized WorkflowUpdateOptionsUpdate that goes into history when it is accepted."""

    update_id: str
    request_id: str
    options: bytes


class UpdateDropped(Record, frozen=True, tag="ud"):
    """An admitted update was rejected: it leaves no trace in history. `outcome`: what its callbacks
    say, a serialized Outcome; empty: it has none. `failure`: a serialized Failure, for callers that
    wait for it at another server."""

    update_id: str
    outcome: bytes = b""
    at_ns: int = 0
    failure: bytes = b""


class ResetTo(Record, frozen=True, tag="rt"):
    """The run was reset: another goes on from a point of its history, under this run id."""

    run_id: str


class ResetFrom(Record, frozen=True, tag="rf"):
    """All events before this record were taken over from another run; the run begins here."""

    base_run_id: str
    at_ns: int


class ParentReported(Record, frozen=True, tag="pr"):
    """The parent has recorded how this execution ended, or no longer wants to know."""


class ScheduleReported(Record, frozen=True, tag="sr"):
    """The schedule has recorded how this execution ended, or is gone."""


class ParentClosePolicyApplied(Record, frozen=True, tag="pc"):
    """The parent close policy of one child has been carried out."""

    initiated_event_id: int


# --- Nexus operations -------------------------------------------------------------------------


class NexusAttemptFailed(Record, frozen=True, tag="nf"):
    """A request to start an operation failed, and another is made at `retry_at_ns`."""

    scheduled_event_id: int
    retry_at_ns: int
    failure: bytes
    ended_ns: int


class NexusRetryDue(Record, frozen=True, tag="nd"):
    """The backoff before the next request to start an operation is over."""

    scheduled_event_id: int


class NexusCancelAttemptFailed(Record, frozen=True, tag="ng"):
    """A request to cancel an operation failed, and another is made at `retry_at_ns`."""

    scheduled_event_id: int
    retry_at_ns: int
    failure: bytes
    ended_ns: int


class NexusCancelRetryDue(Record, frozen=True, tag="ne"):
    """The backoff before the next request to cancel an operation is over."""

    scheduled_event_id: int


# --- Completion callbacks ---------------------------------------------------------------------


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


# --- Batch operations -------------------------------------------------------------------------


class BatchStarted(Record, frozen=True, tag="bs"):
    """`request`: the StartBatchOperationRequest; `total`: how many executions it is about."""

    request: bytes
    total: int
    at_ns: int


class BatchPageTaken(Record, frozen=True, tag="bg"):
    """What is done next, to which executions; the next page begins at `cursor` (empty: none does)."""

    targets: tuple[BatchTarget, ...]
    cursor: bytes = b""


class BatchPageDone(Record, frozen=True, tag="bw"):
    """It was tried with every execution of the page."""

    completed: int
    failed: int


class BatchEnded(Record, frozen=True, tag="be"):
    """The last page is done."""

    at_ns: int


class BatchFailed(Record, frozen=True, tag="bz"):
    """Its executions cannot be found any more."""

    reason: str
    at_ns: int


class BatchStopped(Record, frozen=True, tag="bh"):
    """An operator stopped it."""

    identity: str
    reason: str
    at_ns: int


# --- Schedules --------------------------------------------------------------------------------


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


# --- Worker deployments -----------------------------------------------------------------------


class DeploymentOpened(Record, frozen=True, tag="do"):
    """A deployment exists: made by its first poller (`request_id` empty), or by a client."""

    at_ns: int
    identity: str = ""
    request_id: str = ""


class VersionAdded(Record, frozen=True, tag="dv"):
    build_id: str
    at_ns: int
    status: int
    identity: str = ""
    request_id: str = ""


class VersionPolled(Record, frozen=True, tag="dp"):
    """A worker of this version polls a task queue for the first time."""

    build_id: str
    queue: str
    kind: int


class RoutingSet(Record, frozen=True, tag="dr"):
    """How traffic is divided from now on, whole. `ramping` and `unversioned_ramp` exclude each other."""

    at_ns: int
    identity: str
    current: str
    """A build id; empty: workers without versioning."""
    ramping: str
    unversioned_ramp: bool
    percentage: float
    current_changed: bool
    ramping_changed: bool
    check_at_ns: int = 0
    """When versions that drain from now on are to be looked at."""


class DeploymentTouched(Record, frozen=True, tag="dt"):
    """Somebody else set what was set already."""

    at_ns: int
    identity: str


class ManagerSet(Record, frozen=True, tag="dm"):
    at_ns: int
    identity: str
    manager: str


class VersionMetadataSet(Record, frozen=True, tag="de"):
    """`metadata`: a serialized VersionMetadata, whole."""

    build_id: str
    metadata: bytes
    identity: str


class VersionReactivated(Record, frozen=True, tag="da"):
    """A workflow was pinned to a version that gets no new ones: it drains again."""

    build_id: str
    at_ns: int
    check_at_ns: int = 0


class DrainageDue(Record, frozen=True, tag="dd"):
    """It is time to count the workflows that are pinned to a version."""

    build_id: str


class DrainageChecked(Record, frozen=True, tag="dk"):
    build_id: str
    drained: bool
    at_ns: int
    check_at_ns: int = 0
    """When to look again, if it is not drained."""


class VersionRemoved(Record, frozen=True, tag="dx"):
    build_id: str
    at_ns: int
    identity: str = ""
    """Empty: the server removed it, to make room."""


class DeploymentRemoved(Record, frozen=True, tag="dz"):
    at_ns: int


# --- Sets of compatible builds ----------------------------------------------------------------


class VersionSetsSet(Record, frozen=True, tag="bv"):
    """The sets of a task queue, whole: of each its id, then its builds, the default last."""

    at_ns: int
    sets: tuple[tuple[str, tuple[str, ...]], ...]


# --- Standalone activities --------------------------------------------------------------------


class StandaloneOpened(Record, frozen=True, tag="xo"):
    """What a start asked for beside the activity; the event that schedules it follows."""

    start_delay_ns: int
    search_attributes: bytes


class StandaloneAttached(Record, frozen=True, tag="xa"):
    """Callbacks and links that came with a start request: serialized Callbacks and Links."""

    request_id: str
    at_ns: int
    callbacks: tuple[bytes, ...]
    links: tuple[bytes, ...]


class StandaloneCancelAsked(Record, frozen=True, tag="xc"):
    """Who wants it canceled; the event of the request follows."""

    identity: str
    reason: str
    request_id: str


class StandaloneTerminated(Record, frozen=True, tag="xt"):
    at_ns: int
    identity: str
    reason: str
    request_id: str


class StandaloneRequestSeen(Record, frozen=True, tag="xr"):
    """An operator's command with this request id was carried out, and must not be again."""

    command: str
    request_id: str


class StandaloneDelayed(Record, frozen=True, tag="xd"):
    """The first attempt waits for another time than was asked for at the start."""

    start_delay_ns: int


# --- Standalone Nexus operations --------------------------------------------------------------


class NexusOpened(Record, frozen=True, tag="no"):
    """What a start asked for beside the operation; the event that schedules it follows."""

    identity: str
    search_attributes: bytes


class NexusAttached(Record, frozen=True, tag="na"):
    """The completion callbacks of a start request, serialized."""

    request_id: str
    at_ns: int
    callbacks: tuple[bytes, ...]


class NexusCancelAsked(Record, frozen=True, tag="nc"):
    """Who wants it canceled; the event of the request follows."""

    identity: str
    reason: str
    request_id: str


class NexusTerminated(Record, frozen=True, tag="nt"):
    at_ns: int
    identity: str
    reason: str
    request_id: str


ActivityRecord = (
    ActivityStarted
    | ActivityRetryScheduled
    | ActivityRetryDispatched
    | ActivityPaused
    | ActivityUnpaused
    | ActivityReset
    | ActivityOptionsUpdated
)
"""Of whatever has activities."""

NexusRecord = NexusAttemptFailed | NexusRetryDue | NexusCancelAttemptFailed | NexusCancelRetryDue
"""Of whatever has Nexus operations."""

CallbackRecord = (
    CallbackSucceeded | CallbackAttemptFailed | CallbackRescheduled | CallbackTold | CallbackRemoved
)
"""Of whatever calls back when it has ended."""

WorkflowTaskRecord = (
    WorkflowTaskAttemptScheduled
    | WorkflowTaskDispatched
    | WorkflowTaskAttemptStarted
    | WorkflowTaskAttemptEnded
    | WorkflowTaskDropped
    | WorkflowTaskBackoffEnded
    | StickySet
    | StickyCleared
)

BufferRecord = EventBuffered | BufferFlushed | BufferedTimerDropped

UpdateRecord = UpdateAdmitted | UpdateAttached | UpdateDropped

RunRecord = RequestSeen | ResetTo | ResetFrom | ParentReported | ScheduleReported

WorkflowRecord = (
    WorkflowTaskRecord
    | BufferRecord
    | UpdateRecord
    | RunRecord
    | MoveStarted
    | ActivitiesRerouted
    | TargetNoticed
    | ParentClosePolicyApplied
)
"""Of workflows alone."""

BatchRecord = (
    BatchStarted | BatchPageTaken | BatchPageDone | BatchEnded | BatchFailed | BatchStopped
)

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
"""Of schedules alone."""

StandaloneRecord = (
    StandaloneOpened
    | StandaloneAttached
    | StandaloneCancelAsked
    | StandaloneTerminated
    | StandaloneRequestSeen
    | StandaloneDelayed
)
"""Of standalone activities alone."""

DeploymentRecord = (
    DeploymentOpened
    | VersionAdded
    | VersionPolled
    | RoutingSet
    | DeploymentTouched
    | ManagerSet
    | VersionMetadataSet
    | VersionReactivated
    | DrainageDue
    | DrainageChecked
    | VersionRemoved
    | DeploymentRemoved
)
"""Of worker deployments alone."""

StandaloneNexusRecord = NexusOpened | NexusAttached | NexusCancelAsked | NexusTerminated
"""Of standalone Nexus operations alone."""

AnyRecord = (
    Created
    | ActivityRecord
    | NexusRecord
    | WorkflowRecord
    | ScheduleRecord
    | StandaloneRecord
    | StandaloneNexusRecord
    | CallbackRecord
    | BatchRecord
    | DeploymentRecord
    | VersionSetsSet
)

# --- In the journal ---------------------------------------------------------------------------

_decoder = msgspec.msgpack.Decoder(list[tuple[int, AnyRecord]])
_FIELDS: dict[str, int] = {
    kind.__struct_config__.tag: len(kind.__struct_fields__) for kind in get_args(AnyRecord)
}
"""Tag -> how many fields its record has here."""


def decode_records(encoded: bytes) -> list[tuple[int, AnyRecord]]:
    """The records of one commit, each with the number of the event before which it stands. Raises
    WrittenByNewer."""
    if not encoded:
        return []
    try:
        return _decoder.decode(encoded)
    except msgspec.ValidationError:
        return _without_what_is_empty(encoded)


def _without_what_is_empty(encoded: bytes) -> list[tuple[int, AnyRecord]]:
    entries: list[tuple[int, list[Any]]] = msgspec.msgpack.decode(encoded)
    for _, parts in entries:
        known = 1 + _FIELDS.get(parts[0], len(parts))
        while len(parts) > known and not parts[-1]:
            parts.pop()
    try:
        return msgspec.convert(entries, list[tuple[int, AnyRecord]])
    except msgspec.ValidationError as error:
        raise WrittenByNewer(f"a record of this execution ({error})") from error
