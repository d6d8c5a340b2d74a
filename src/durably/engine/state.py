"""The state of one execution: `fold(apply, journal)`.

Rule 1: only `apply/` writes to these; everything else reads.
Rule 2: nothing here grows with the length of the history; only with what is pending.
Rule 3: `outstanding(state)` is the outbox: what the execution still owes to others is derived from
        its state, so a crash between a commit and its effects loses nothing.

Times are nanoseconds since the epoch, durations nanoseconds; 0 means "not set" for both.
"""

from enum import IntEnum
from typing import ClassVar

from msgspec import field
from temporalio.api.common.v1 import message_pb2 as common
from temporalio.api.enums.v1 import common_pb2 as common_enums
from temporalio.api.enums.v1 import workflow_pb2 as workflow_enums
from temporalio.api.failure.v1 import message_pb2 as failure
from temporalio.api.history.v1 import message_pb2 as history

from durably.engine.callback.state import Callback
from durably.engine.stored import Stored, StoredValue
from durably.engine.versioning.state import Notice, Versioning
from durably.engine.versioning.version import Version

RUNNING = workflow_enums.WORKFLOW_EXECUTION_STATUS_RUNNING
PAUSED = workflow_enums.WORKFLOW_EXECUTION_STATUS_PAUSED
OPEN = (RUNNING, PAUSED)
"""Statuses of a workflow that has not closed."""

BUFFERED_EVENT_ID = -123
"""The id of an event that waits in the buffer, as the API's own server shows it."""


class Kind(IntEnum):
    """What an execution is. Each kind has ids of its own: (namespace, kind, id) names a run."""

    WORKFLOW = 1
    ACTIVITY = 2
    """A standalone activity."""
    SCHEDULE = 3
    BATCH = 4
    NEXUS_OPERATION = 5
    """A standalone Nexus operation."""
    DEPLOYMENT = 6
    """A worker deployment, with its versions."""
    VERSION_SETS = 7
    """The sets of compatible builds of one task queue."""


class ScheduledBy(StoredValue, frozen=True):
    """The schedule that started a workflow, and which of its actions this is."""

    schedule_id: str
    run_id: str
    """Of the schedule: another one may have the same id later."""
    action: int


class BatchTarget(StoredValue, frozen=True, array_like=True):
    """One execution that a batch operation does something to: a workflow or a standalone activity."""

    id: str
    run_id: str
    """Empty: there was none when the batch came to it."""


class ExecutionState(Stored):
    """What every kind of execution has; `workflow_id` is the id its caller gave it."""

    KIND: ClassVar[Kind]

    namespace_id: str
    namespace: str
    workflow_id: str
    run_id: str
    failover_version: int = 0
    create_request_id: str = ""
    start_ns: int = 0
    status: int = 0
    """0 before its first entry; then as its kind has it (of workflows WorkflowExecutionStatus)."""
    close_ns: int = 0
    transitions: int = 0
    memo: common.Memo = field(default_factory=common.Memo)
    search_attributes: common.SearchAttributes = field(default_factory=common.SearchAttributes)
    user_metadata: bytes = b""

    @property
    def running(self) -> bool:
        return self.status == RUNNING

    @property
    def closed(self) -> bool:
        return self.status not in (0, RUNNING)


class AwaitedState(ExecutionState):
    """What calls back those who asked for it, when it has ended."""

    callbacks: dict[str, Callback] = field(default_factory=dict)
    """By their ids, in the order in which they were attached."""


class WorkflowTask(Stored):
    """The pending workflow task. Attempts after the first are transient: not in history. So is the first
    attempt of a speculative one, which is there for an update alone."""

    scheduled_event_id: int
    attempt: int
    scheduled_ns: int
    original_scheduled_ns: int
    timeout_ns: int
    queue: str = ""
    sticky: bool = False
    started_event_id: int = 0
    started_ns: int = 0
    request_id: str = ""
    identity: str = ""
    history_size_bytes: int = 0
    suggest_continue_as_new: bool = False
    worker_version: bytes = b""
    speculative: bool = False
    """If the worker only rejects what it carries, it leaves nothing in history."""
    target_changed: bool = False
    """The worker is told that its workflow would have another version if it were not pinned."""
    reasons: tuple[int, ...] = ()
    """Each a SuggestContinueAsNewReason."""

    @property
    def started(self) -> bool:
        return self.started_event_id != 0

    @property
    def transient(self) -> bool:
        return self.attempt > 1 or self.speculative


class Pause(StoredValue, frozen=True):
    """Who paused an activity or a workflow, when and why; `rule_id`: a workflow rule did."""

    at_ns: int
    identity: str
    reason: str
    request_id: str
    rule_id: str = ""


class Activity(Stored):
    """One pending activity, wherever its attempts stand."""

    scheduled_event_id: int
    scheduled: history.ActivityTaskScheduledEventAttributes
    first_scheduled_ns: int
    dispatched_ns: int
    """When the present attempt was put on its queue; schedule-to-start counts from here."""
    attempt: int = 1
    started_ns: int = 0
    identity: str = ""
    request_id: str = ""
    worker_version: bytes = b""
    retry_at_ns: int = 0
    """Not 0: the attempt has not been dispatched, and will be at this time."""
    last_failure: failure.Failure | None = None
    last_started_ns: int = 0
    last_ended_ns: int = 0
    last_identity: str = ""
    heartbeat_ns: int = 0
    heartbeats: int = 0
    """How many there were, in all attempts."""
    heartbeat_details: common.Payloads | None = None
    cancel_requested_event_id: int = 0
    stamp: int = 1
    """Which dispatch is the valid one: it grows whenever tasks on their way become stale."""
    pause: Pause | None = None
    reset_pending: bool = False
    """Attempts count from the running one again: a reset came while it ran."""
    reset_heartbeat_pending: bool = False
    start_delay_ns: int = 0
    """The first attempt, and with it schedule-to-close, waits so long."""
    original_options: bytes = b""
    """The activity.v1.ActivityOptions before the first change of them; empty: never changed."""
    last_version: Version | None = None
    """The version of the worker that had the last attempt."""

    @property
    def activity_id(self) -> str:
        return self.scheduled.activity_id

    @property
    def started(self) -> bool:
        return self.started_ns != 0

    @property
    def cancel_requested(self) -> bool:
        return self.cancel_requested_event_id != 0


WATCHED = "durably-watch:"
"""Prefix of the tokens of operations whose handlers do not call back: they are asked how it stands."""


class NexusCancel(Stored):
    """A request to cancel a Nexus operation, on its way to the handler."""

    requested_event_id: int
    requested_ns: int = 0
    """When it could first be sent: not before the operation started."""
    attempt: int = 0
    """How many attempts to send it have ended."""
    retry_at_ns: int = 0
    last_ended_ns: int = 0
    last_failure: failure.Failure | None = None
    ended: int = 0
    """SUCCEEDED or FAILED, of NexusOperationCancellationState; 0: it is still to be sent."""


class NexusOperation(Stored):
    """One Nexus operation between its scheduling and its end."""

    scheduled_event_id: int
    scheduled: history.NexusOperationScheduledEventAttributes
    scheduled_ns: int
    attempt: int = 0
    """How many requests to start it have ended."""
    retry_at_ns: int = 0
    """Not 0: the next request is made at this time."""
    last_ended_ns: int = 0
    last_failure: failure.Failure | None = None
    started_ns: int = 0
    token: str = ""
    cancel: NexusCancel | None = None
    closed: bool = False
    """Of a standalone operation, which stays after its end."""

    @property
    def request_id(self) -> str:
        return self.scheduled.request_id

    @property
    def started(self) -> bool:
        return self.started_ns != 0

    @property
    def start_is_owed(self) -> bool:
        """Whether its handler is to be asked now to start it."""
        return not (self.started or self.retry_at_ns or self.closed)

    @property
    def is_watched(self) -> bool:
        """Whether its handler is to be asked, again and again, how it stands."""
        return self.started and not self.closed and self.token.startswith(WATCHED)

    @property
    def cancel_is_owed(self) -> bool:
        """Whether its handler is to be asked now to cancel it."""
        return self.cancel_state == common_enums.NEXUS_OPERATION_CANCELLATION_STATE_SCHEDULED

    @property
    def cancel_state(self) -> common_enums.NexusOperationCancellationState.ValueType:
        cancel = self.cancel
        if cancel is None:
            return common_enums.NEXUS_OPERATION_CANCELLATION_STATE_UNSPECIFIED
        if cancel.ended:
            return cancel.ended  # type: ignore[return-value]
        if not self.started or self.closed:
            return common_enums.NEXUS_OPERATION_CANCELLATION_STATE_UNSPECIFIED
        if cancel.retry_at_ns:
            return common_enums.NEXUS_OPERATION_CANCELLATION_STATE_BACKING_OFF
        return common_enums.NEXUS_OPERATION_CANCELLATION_STATE_SCHEDULED


class Timer(Stored):
    timer_id: str
    started_event_id: int
    fire_at_ns: int


class Child(Stored):
    """A child workflow between its initiation and the record of its end."""

    initiated_event_id: int
    initiated: history.StartChildWorkflowExecutionInitiatedEventAttributes
    user_metadata: bytes = b""
    started_event_id: int = 0
    run_id: str = ""

    @property
    def started(self) -> bool:
        return self.started_event_id != 0


class ExternalSignal(Stored):
    initiated_event_id: int
    initiated: history.SignalExternalWorkflowExecutionInitiatedEventAttributes


class ExternalCancel(Stored):
    initiated_event_id: int
    initiated: history.RequestCancelExternalWorkflowExecutionInitiatedEventAttributes


class Update(Stored):
    """An update between its admission and its end."""

    update_id: str
    request: bytes
    """A serialized update.v1.Request."""
    sent: bool = False
    """The workflow task in flight carries it."""
    accepted_event_id: int = 0
    admitted_event_id: int = 0
    """Not 0: a reset brought it along, and its request is in history already."""
    attached: list[tuple[str, bytes]] = field(default_factory=list)
    """Later requests for the same update that brought callbacks: their ids, and the serialized
    options that go into history once it is accepted."""


class ResetPoint(Stored):
    """The first workflow task that a build completed: where a reset by build would go."""

    build_id: str
    binary_checksum: str
    first_workflow_task_completed_event_id: int
    created_ns: int


class RequestEvent(StoredValue, frozen=True, array_like=True):
    """The event that a request has made."""

    event_type: int
    event_id: int


class HistoryState(AwaitedState):
    """What has a history of events, with activities and Nexus operations in it."""

    next_event_id: int = 1
    history_size_bytes: int = 0
    last_event_ns: int = 0
    workflow_task: WorkflowTask | None = None
    buffered: list[history.HistoryEvent] = field(default_factory=list)
    """Events that wait for the end of the workflow task in flight, and have no id yet."""
    flushing: int = 0
    activities: dict[int, Activity] = field(default_factory=dict)
    """Pending, by the id of the event that scheduled them."""
    activity_ids: dict[str, int] = field(default_factory=dict)
    nexus_operations: dict[int, NexusOperation] = field(default_factory=dict)
    """Pending, by the id of the event that scheduled them."""

    @property
    def held(self) -> bool:
        """Whether tasks that no worker has yet stay where they are."""
        return False


class WorkflowState(HistoryState, tag="workflow"):
    """Everything that the next decision about a workflow execution may depend on."""

    KIND = Kind.WORKFLOW

    # What it was started with. `started` is the first event's attributes, whole.
    started: history.WorkflowExecutionStartedEventAttributes = field(
        default_factory=history.WorkflowExecutionStartedEventAttributes
    )
    execution_ns: int = 0
    """When the first workflow task is due: start plus delay or backoff."""
    execution_expires_ns: int = 0
    run_expires_ns: int = 0
    backoff_pending: bool = False

    started_by: str = ""
    """The request that started it, where `create_request_id` is another: it is a reset's."""

    # Where it stands
    close_event_id: int = 0
    successor_run_id: str = ""
    """The run that follows this one: continued as new, retried, or by cron."""
    reset_run_id: str = ""
    """The run that went on from a point of this one's history."""
    base_run_id: str = ""
    """The run whose history this one took over when it was reset."""
    original_start_ns: int = 0
    """When that history began; 0: this run's own start."""
    first_completion_event_id: int = 0
    cancel_requested: bool = False
    pause: Pause | None = None
    """The present pause, or the one in which the run closed."""
    signals: int = 0
    sdk_name: str = ""
    sdk_version: str = ""
    reset_points: list[ResetPoint] = field(default_factory=list)
    worker_version: bytes = b""
    build_ids: list[str] = field(default_factory=list)
    """What the search attribute BuildIds shows: which builds have worked on it."""
    versioning: Versioning | None = None
    """None: no worker with versioning, and no override, has ever had to do with it."""
    deployment: str = ""
    """The deployment of the worker that completed the last task, or that an override names."""
    used_versions: list[str] = field(default_factory=list)
    notified: Notice | None = None
    """The version that a pinned workflow was last told of."""
    declined: Notice | None = None
    """The version that the run before was told of, and did not want."""
    priority: common.Priority | None = None
    """Not None: it was changed, and is no longer that of the first event."""

    # Workflow task
    workflow_task_attempt: int = 1
    """Attempt of the next workflow task to be scheduled."""
    workflow_task_failures: int = 0
    """How often a workflow task failed or timed out since one was completed."""
    reported_problems: list[str] = field(default_factory=list)
    """What the search attribute TemporalReportedProblems shows, of a worker that fails all the time."""
    last_started_event_id: int = 0
    """Started event of the last completed workflow task: what a worker's cache has seen."""
    last_completed_event_id: int = 0
    sticky_queue: str = ""
    sticky_timeout_ns: int = 0

    # Pending, by the id of the event that opened them
    timers: dict[str, Timer] = field(default_factory=dict)
    children: dict[int, Child] = field(default_factory=dict)
    external_signals: dict[int, ExternalSignal] = field(default_factory=dict)
    external_cancels: dict[int, ExternalCancel] = field(default_factory=dict)
    updates: dict[str, Update] = field(default_factory=dict)
    updates_completed: dict[str, int] = field(default_factory=dict)
    """Update id -> its completed event; bounded, see `apply`."""
    updates_total: int = 0
    requests_seen: dict[str, int] = field(default_factory=dict)
    """Request ids of the latest signals -> their events, and of the latest cancels -> 0; bounded, see
    `apply`."""
    requests: dict[str, RequestEvent] = field(default_factory=dict)
    """Other requests that changed the run, by their ids: starts, updates."""

    # What is owed to others after the close
    parent_reported: bool = False
    scheduled_by: ScheduledBy | None = None
    schedule_reported: bool = False
    policies_due: dict[int, int] = field(default_factory=dict)
    """Children whose parent close policy is to be carried out: initiated event id -> policy."""

    @property
    def running(self) -> bool:
        return self.status in OPEN

    @property
    def closed(self) -> bool:
        return self.status != 0 and self.status not in OPEN

    @property
    def held(self) -> bool:
        return self.status == PAUSED

    @property
    def root(self) -> common.WorkflowExecution:
        """The execution at the top of the tree of parents; without a parent, this one."""
        if self.started.HasField("root_workflow_execution"):
            return self.started.root_workflow_execution
        return common.WorkflowExecution(workflow_id=self.workflow_id, run_id=self.run_id)

    @property
    def task_queue(self) -> str:
        return self.started.task_queue.name

    @property
    def workflow_type(self) -> str:
        return self.started.workflow_type.name

    @property
    def has_parent(self) -> bool:
        return bool(self.started.parent_workflow_execution.workflow_id)
