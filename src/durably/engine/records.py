"""Records of workflows, of activities and of Nexus operations; and which records there are at all.

Rules: see `engine/journal.py`.
"""

from typing import Any, get_args

import msgspec

from durably.engine.batch.records import BatchRecord
from durably.engine.callback.records import CallbackRecord
from durably.engine.deployment.records import DeploymentRecord
from durably.engine.journal import Created, Record
from durably.engine.schedule.records import ScheduleRecord
from durably.engine.standalone.records import StandaloneRecord
from durably.engine.standalone_nexus.records import StandaloneNexusRecord
from durably.engine.version_sets.records import VersionSetsSet
from durably.engine.versioning.state import Notice
from durably.engine.versioning.version import Version
from durably.errors import WrittenByNewer

# --- Activities --------------------------------------------------------------------------------


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


# --- Workflow tasks ----------------------------------------------------------------------------


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


# --- Runs --------------------------------------------------------------------------------------


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


# --- Nexus operations --------------------------------------------------------------------------


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


# --- All ---------------------------------------------------------------------------------------

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
