"""A transition under construction: what one input does to one execution.

Rule 1: `record` and `note` are the only ways to change a state, and both go through `apply`, so that
        replaying the journal gives the state back.
Rule 2: effects are data, consumed after the commit; the list of them is closed.
Rule 3: time and ids come in from outside: `now_ns`, `new_id`.
Rule 4: a refusal raised before the first entry leaves the state untouched; one raised after it means
        that the caller must drop this state and load it again.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Generic, cast

from temporalio.api.enums.v1 import event_type_pb2 as event_types
from temporalio.api.enums.v1 import task_queue_pb2 as queue_enums
from temporalio.api.failure.v1 import message_pb2 as failure
from temporalio.api.history.v1 import message_pb2 as history
from temporalio.api.sdk.v1 import user_metadata_pb2 as sdk
from temporalio.api.taskqueue.v1 import message_pb2 as taskqueue
from typing_extensions import TypeVar

from durably.engine.apply.entries import apply_event, apply_record
from durably.engine.batch.state import BatchState
from durably.engine.callback.state import SCHEDULED
from durably.engine.deployment.state import DeploymentState
from durably.engine.records import AnyRecord, BufferFlushed, EventBuffered
from durably.engine.schedule.state import ScheduleState
from durably.engine.standalone_nexus.state import StandaloneNexusState
from durably.engine.state import (
    BUFFERED_EVENT_ID,
    Activity,
    AwaitedState,
    ExecutionState,
    HistoryState,
    WorkflowState,
    WorkflowTask,
)
from durably.engine.times import SECOND_NS

S = TypeVar("S", bound=ExecutionState, covariant=True, default=WorkflowState)

# --- Effects ----------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class DispatchWorkflowTask:
    """The workflow task waits for a worker on `queue`."""

    queue: str
    sticky: bool
    scheduled_event_id: int
    attempt: int


@dataclass(frozen=True, slots=True)
class DispatchActivity:
    """The present attempt of an activity waits for a worker on `queue`. Its stamp says whether it
    still does when one comes."""

    queue: str
    scheduled_event_id: int
    stamp: int


@dataclass(frozen=True, slots=True)
class StartChild:
    initiated_event_id: int


@dataclass(frozen=True, slots=True)
class SignalExternal:
    initiated_event_id: int


@dataclass(frozen=True, slots=True)
class CancelExternal:
    initiated_event_id: int


@dataclass(frozen=True, slots=True)
class StartNexusOperation:
    """The handler of an operation is to be asked to start it."""

    scheduled_event_id: int


@dataclass(frozen=True, slots=True)
class CancelNexusOperation:
    """The handler of an operation is to be asked to cancel it."""

    scheduled_event_id: int


@dataclass(frozen=True, slots=True)
class WatchNexusOperation:
    """The handler of an operation is to be asked how it stands, until it has ended."""

    scheduled_event_id: int


@dataclass(frozen=True, slots=True)
class ApplyParentClosePolicy:
    initiated_event_id: int


@dataclass(frozen=True, slots=True)
class ReportToParent:
    """The execution closed for good; its parent is to record how."""


@dataclass(frozen=True, slots=True)
class ReportToSchedule:
    """The execution closed for good; the schedule that started it is to record how."""


@dataclass(frozen=True, slots=True)
class InvokeCallback:
    """Somebody is to be told how the execution, or an update of it, ended."""

    callback_id: str


@dataclass(frozen=True, slots=True)
class StartScheduled:
    """The workflow of an action is to be started."""

    action: int


@dataclass(frozen=True, slots=True)
class EndScheduled:
    """The workflow of an action is to be canceled or terminated."""

    action: int


@dataclass(frozen=True, slots=True)
class CheckDrainage:
    """The open workflows that are pinned to a version are to be counted."""

    build_id: str


@dataclass(frozen=True, slots=True)
class WorkOnBatch:
    """The next page of a batch operation is to be done."""


Dispatch = DispatchWorkflowTask | DispatchActivity
WorkflowDelivery = (
    StartChild
    | SignalExternal
    | CancelExternal
    | ApplyParentClosePolicy
    | ReportToParent
    | ReportToSchedule
)
ScheduleDelivery = StartScheduled | EndScheduled
NexusDelivery = StartNexusOperation | CancelNexusOperation
Delivery = (
    WorkflowDelivery
    | ScheduleDelivery
    | NexusDelivery
    | WatchNexusOperation
    | WorkOnBatch
    | CheckDrainage
    | InvokeCallback
)
Effect = Dispatch | Delivery


def outstanding(state: ExecutionState) -> list[Delivery]:
    """What the execution owes to others now; the outbox is exactly this."""
    match state:
        case WorkflowState():
            return _workflow_owes(state)
        case ScheduleState():
            return _schedule_owes(state)
        case BatchState():
            return [WorkOnBatch()] if state.running else []
        case StandaloneNexusState():
            return [*_callbacks_due(state), *(_nexus_owes(state) if state.running else [])]
        case DeploymentState():
            checking = (v.build_id for v in state.versions.values() if v.checking)
            return [CheckDrainage(build_id) for build_id in checking] if state.running else []
        case AwaitedState():
            return _callbacks_due(state)
        case _:
            return []


def _callbacks_due(state: AwaitedState) -> list[Delivery]:
    if not state.callbacks:
        return []
    return [
        InvokeCallback(each.callback_id)
        for each in state.callbacks.values()
        if each.state == SCHEDULED
    ]


def debts(state: ExecutionState) -> list[Delivery]:
    """Of what it owes, that without which it must not be removed: a callback has had its chance when
    it has been tried."""
    return [
        each
        for each in outstanding(state)
        if not isinstance(each, InvokeCallback)
        or not cast(AwaitedState, state).callbacks[each.callback_id].attempt
    ]


def _workflow_owes(state: WorkflowState) -> list[Delivery]:
    """Asked at every commit: what a workflow has none of costs nothing."""
    owed: list[Delivery] = _callbacks_due(state)
    if state.running:
        if state.children:
            owed += [StartChild(i) for i, child in state.children.items() if not child.started]
        owed += map(SignalExternal, state.external_signals)
        owed += map(CancelExternal, state.external_cancels)
        owed += _nexus_owes(state)
        return owed
    owed += [ApplyParentClosePolicy(i) for i in state.policies_due]
    if state.closed and state.has_parent and not state.parent_reported:
        owed.append(ReportToParent())
    if state.closed and state.scheduled_by is not None and not state.schedule_reported:
        owed.append(ReportToSchedule())
    return owed


def _nexus_owes(state: HistoryState) -> list[Delivery]:
    operations = state.nexus_operations
    if not operations:
        return []
    owed: list[Delivery] = [
        StartNexusOperation(i) for i, o in operations.items() if o.start_is_owed
    ]
    owed += [CancelNexusOperation(i) for i, o in operations.items() if o.cancel_is_owed]
    owed += [WatchNexusOperation(i) for i, o in operations.items() if o.is_watched]
    return owed


def _schedule_owes(state: ScheduleState) -> list[Delivery]:
    if not state.running:
        return []
    actions = state.actions.values()
    owed: list[Delivery] = [StartScheduled(a.number) for a in actions if not a.run_id]
    owed += [EndScheduled(a.number) for a in actions if a.run_id and a.end and not a.end_sent]
    return owed


# --- Rules ------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class PausingRule:
    """A rule of a namespace that pauses an activity, who made it and why."""

    rule_id: str
    identity: str
    reason: str


RuleFor = Callable[[WorkflowState, Activity, int], PausingRule | None]
"""(workflow, activity that is about to start, now in nanoseconds) -> the rule that pauses it."""


# --- Events -----------------------------------------------------------------------------------


def _event_fields() -> dict[str, tuple[int, str]]:
    """Attributes message name -> (event type, field of HistoryEvent)."""
    fields: dict[str, tuple[int, str]] = {}
    for field in history.HistoryEvent.DESCRIPTOR.oneofs_by_name["attributes"].fields:
        type_name = "EVENT_TYPE_" + field.name.removesuffix("_event_attributes").upper()
        assert field.message_type is not None
        fields[field.message_type.name] = (
            event_types.EventType.Value(type_name),
            field.name,
        )
    return fields


EVENT_FIELDS = _event_fields()

NEVER_BUFFERED = frozenset(
    event_types.EventType.Value("EVENT_TYPE_" + name)
    for name in (
        "WORKFLOW_EXECUTION_STARTED",
        "WORKFLOW_EXECUTION_COMPLETED",
        "WORKFLOW_EXECUTION_FAILED",
        "WORKFLOW_EXECUTION_TIMED_OUT",
        "WORKFLOW_EXECUTION_TERMINATED",
        "WORKFLOW_EXECUTION_CONTINUED_AS_NEW",
        "WORKFLOW_EXECUTION_CANCELED",
        "WORKFLOW_TASK_SCHEDULED",
        "WORKFLOW_TASK_STARTED",
        "WORKFLOW_TASK_COMPLETED",
        "WORKFLOW_TASK_FAILED",
        "WORKFLOW_TASK_TIMED_OUT",
        "ACTIVITY_TASK_SCHEDULED",
        "ACTIVITY_TASK_CANCEL_REQUESTED",
        "TIMER_STARTED",
        "TIMER_CANCELED",
        "MARKER_RECORDED",
        "START_CHILD_WORKFLOW_EXECUTION_INITIATED",
        "SIGNAL_EXTERNAL_WORKFLOW_EXECUTION_INITIATED",
        "REQUEST_CANCEL_EXTERNAL_WORKFLOW_EXECUTION_INITIATED",
        "UPSERT_WORKFLOW_SEARCH_ATTRIBUTES",
        "WORKFLOW_PROPERTIES_MODIFIED",
        "WORKFLOW_EXECUTION_UPDATE_ADMITTED",
        "WORKFLOW_EXECUTION_UPDATE_ACCEPTED",
        "WORKFLOW_EXECUTION_UPDATE_COMPLETED",
        "NEXUS_OPERATION_SCHEDULED",
        "NEXUS_OPERATION_CANCEL_REQUESTED",
    )
)
"""Written at once even while a workflow task is in flight: what the task's own completion causes."""

WITHOUT_TASK = frozenset(
    event_types.EventType.Value("EVENT_TYPE_" + name)
    for name in (
        "WORKFLOW_EXECUTION_TIMED_OUT",
        "WORKFLOW_EXECUTION_TERMINATED",
        "WORKFLOW_TASK_SCHEDULED",
        "WORKFLOW_TASK_STARTED",
        "WORKFLOW_TASK_TIMED_OUT",
    )
)
"""Before these a speculative workflow task need not be in history."""

FLUSHED_LAST = frozenset(
    event_types.EventType.Value("EVENT_TYPE_" + name)
    for name in (
        "ACTIVITY_TASK_COMPLETED",
        "ACTIVITY_TASK_FAILED",
        "ACTIVITY_TASK_CANCELED",
        "ACTIVITY_TASK_TIMED_OUT",
        "CHILD_WORKFLOW_EXECUTION_COMPLETED",
        "CHILD_WORKFLOW_EXECUTION_FAILED",
        "CHILD_WORKFLOW_EXECUTION_CANCELED",
        "CHILD_WORKFLOW_EXECUTION_TIMED_OUT",
        "CHILD_WORKFLOW_EXECUTION_TERMINATED",
        "NEXUS_OPERATION_COMPLETED",
        "NEXUS_OPERATION_FAILED",
        "NEXUS_OPERATION_CANCELED",
        "NEXUS_OPERATION_TIMED_OUT",
    )
)
"""Out of the buffer these follow all others, so that an end never precedes its start."""


def workflow_task_scheduled(
    state: HistoryState, attempt: int, sticky_queue: str, timeout_ns: int
) -> history.WorkflowTaskScheduledEventAttributes:
    """What history says of a workflow task that waits on this sticky queue, or else on the normal one."""
    assert isinstance(state, WorkflowState)
    queue = taskqueue.TaskQueue(name=state.task_queue, kind=queue_enums.TASK_QUEUE_KIND_NORMAL)
    if sticky_queue:
        queue = taskqueue.TaskQueue(
            name=sticky_queue,
            kind=queue_enums.TASK_QUEUE_KIND_STICKY,
            normal_name=state.task_queue,
        )
    attributes = history.WorkflowTaskScheduledEventAttributes(task_queue=queue, attempt=attempt)
    seconds, nanos = divmod(timeout_ns, SECOND_NS)
    attributes.start_to_close_timeout.seconds = seconds
    attributes.start_to_close_timeout.nanos = nanos
    return attributes


def stamp_event(event: history.HistoryEvent, at_ns: int) -> None:
    event.event_time.seconds, event.event_time.nanos = divmod(at_ns, SECOND_NS)


class Transition(Generic[S]):
    """One execution's next step.

    `events`, `encoded` (the same, serialized) and `records` (position among the events, record) are
    the new journal entries; `effects` is what follows from them; `deadline_ns` is the earliest new
    moment at which the execution wants attention (0: none new).
    """

    __slots__ = (
        "abandoned",
        "completing",
        "deadline_ns",
        "effects",
        "encoded",
        "events",
        "heartbeats",
        "new_id",
        "now_ns",
        "records",
        "rejected",
        "reschedule",
        "rule_for",
        "state",
        "successor",
        "task_wanted",
        "visible",
    )

    def __init__(self, state: S, now_ns: int, new_id: Callable[[], str]) -> None:
        self.state = state
        self.now_ns = now_ns
        self.new_id = new_id
        self.events: list[history.HistoryEvent] = []
        self.encoded: list[bytes] = []
        self.records: list[tuple[int, AnyRecord]] = []
        self.effects: list[Effect] = []
        self.heartbeats: list[int] = []
        """Scheduled event ids of activities whose heartbeat row changes."""
        self.deadline_ns = 0
        self.reschedule = False
        """Replace the stored deadline by `deadline_ns` instead of taking the earlier of the two."""
        self.visible = False
        """Whether the visibility row changes."""
        self.completing = False
        """A workflow task is being completed: another is scheduled at the end, if `task_wanted`."""
        self.task_wanted = False
        self.rejected: dict[str, failure.Failure] = {}
        """Updates that the worker rejected, by id: for their callers; not in history."""
        self.abandoned: list[str] = []
        """Updates whose worker answered nonsense: for their callers; not in history."""
        self.rule_for: RuleFor | None = None
        """The rules of the namespace; None: there are none."""
        self.successor: Transition | None = None
        """The first transition of the run that follows this one, committed with it."""

    @property
    def changed(self) -> bool:
        return bool(
            self.events or self.records or self.heartbeats or self.successor or self.reschedule
        )

    def record(
        self: "Transition[HistoryState]",
        attributes: object,
        *,
        user_metadata: sdk.UserMetadata | None = None,
        at_ns: int = 0,
        **extra: object,
    ) -> int:
        """Append one event; its id, or BUFFERED_EVENT_ID while a workflow task is in flight.

        `attributes` is an `...EventAttributes` message; `extra` sets other fields of HistoryEvent.
        """
        event_type, field = EVENT_FIELDS[type(attributes).__name__]
        event = history.HistoryEvent(
            event_type=event_type,  # type: ignore[arg-type]
            version=self.state.failover_version,
            **{field: attributes},  # type: ignore[arg-type]
            **extra,  # type: ignore[arg-type]
        )
        stamp_event(event, at_ns or self.now_ns)
        if user_metadata is not None and user_metadata.ByteSize():
            event.user_metadata.CopyFrom(user_metadata)
        return self._append_or_buffer(event)

    def _append_or_buffer(self: "Transition[HistoryState]", event: history.HistoryEvent) -> int:
        task = self.state.workflow_task
        if task is not None and task.started and event.event_type not in NEVER_BUFFERED:
            event.event_id = BUFFERED_EVENT_ID
            self.note(EventBuffered(event.SerializeToString()))
            return BUFFERED_EVENT_ID
        if task is not None and task.speculative and not task.started:
            self._write_down(task, event)
        return self._append(event)

    def _write_down(
        self: "Transition[HistoryState]", task: WorkflowTask, before: history.HistoryEvent
    ) -> None:
        """A speculative workflow task was there before this event, and has its place in history."""
        if before.event_type in WITHOUT_TASK:
            return
        queue = task.queue if task.sticky else ""
        attributes = workflow_task_scheduled(self.state, task.attempt, queue, task.timeout_ns)
        self.record(attributes, at_ns=task.scheduled_ns)

    def _append(self: "Transition[HistoryState]", event: history.HistoryEvent) -> int:
        event.event_id = self.state.next_event_id
        encoded = event.SerializeToString()
        self.events.append(event)
        self.encoded.append(encoded)
        apply_event(self.state, event, len(encoded))
        return event.event_id

    def adopt(self: "Transition[HistoryState]", event: history.HistoryEvent) -> None:
        """Append an event of another run's history as it is."""
        self._append(event)

    def note(self, record: AnyRecord) -> None:
        """Append one internal record."""
        self.records.append((len(self.events), record))
        apply_record(self.state, record)

    def flush_buffered(self: "Transition[HistoryState]") -> bool:
        """Give the buffered events their ids, now that no workflow task is in flight."""
        waiting = self.state.buffered
        if not waiting:
            return False
        ordered = [e for e in waiting if e.event_type not in FLUSHED_LAST]
        ordered += [e for e in waiting if e.event_type in FLUSHED_LAST]
        self.note(BufferFlushed(len(ordered)))
        started: dict[int, int] = {}
        for event in ordered:
            _wire_started(event, started)
            event_id = self._append(event)
            _remember_started(event, event_id, started)
        return True

    def emit(self, effect: Effect) -> None:
        self.effects.append(effect)

    def withdraw(self, scheduled_event_id: int) -> None:
        """An activity that was dispatched in this very transition is not to be worked on after all."""
        self.effects = [
            effect
            for effect in self.effects
            if not isinstance(effect, DispatchActivity)
            or effect.scheduled_event_id != scheduled_event_id
        ]

    def attend(self, at_ns: int) -> None:
        """Ask to be woken at `at_ns`, if nothing earlier has been asked for."""
        if at_ns and (not self.deadline_ns or at_ns < self.deadline_ns):
            self.deadline_ns = at_ns


def _remember_started(event: history.HistoryEvent, event_id: int, started: dict[int, int]) -> None:
    kind = event.WhichOneof("attributes")
    if kind == "activity_task_started_event_attributes":
        started[event.activity_task_started_event_attributes.scheduled_event_id] = event_id
    elif kind == "child_workflow_execution_started_event_attributes":
        attributes = event.child_workflow_execution_started_event_attributes
        started[attributes.initiated_event_id] = event_id


def _wire_started(event: history.HistoryEvent, started: dict[int, int]) -> None:
    """An end that was buffered together with its start names the id that the start now has."""
    if event.event_type not in FLUSHED_LAST:
        return
    attributes = getattr(event, event.WhichOneof("attributes") or "")
    if getattr(attributes, "started_event_id", 0) != BUFFERED_EVENT_ID:
        return
    opened = getattr(attributes, "scheduled_event_id", 0) or attributes.initiated_event_id
    attributes.started_event_id = started[opened]
