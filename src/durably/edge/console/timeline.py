"""What happened in a run, as spans: one per activity, timer, child, signal, update. Pure.

Rule 1: a timeline is a fold over the events of a history, in their order, a page at a time; nothing is
        read twice.
Rule 2: what history does not hold (attempts under way, heartbeats) comes from the run's description.
Facts: temporal/api/history/v1/message.proto.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import Any

from temporalio.api.enums.v1 import event_type_pb2 as event_types
from temporalio.api.enums.v1 import workflow_pb2 as workflow_enums
from temporalio.api.history.v1 import message_pb2 as history
from temporalio.api.workflow.v1 import message_pb2 as workflow_messages

from durably.edge.console import payloads
from durably.edge.console.units import duration_text, nanoseconds

PREFIX = "EVENT_TYPE_"


class Kind(StrEnum):
    ACTIVITY = "activity"
    LOCAL_ACTIVITY = "local activity"
    TIMER = "timer"
    CHILD = "child workflow"
    NEXUS = "nexus operation"
    SIGNAL = "signal"
    UPDATE = "update"
    EXTERNAL = "to another workflow"
    CANCEL = "cancel request"
    PAUSE = "pause"
    MARKER = "marker"
    WORKFLOW_TASK = "workflow task"


class Outcome(StrEnum):
    OPEN = "open"
    DONE = "done"
    FAILED = "failed"
    TIMED_OUT = "timed out"
    CANCELED = "canceled"
    TERMINATED = "terminated"


BAD = (Outcome.FAILED, Outcome.TIMED_OUT, Outcome.TERMINATED)
STARTED_STATES = (
    workflow_enums.PENDING_ACTIVITY_STATE_STARTED,
    workflow_enums.PENDING_ACTIVITY_STATE_CANCEL_REQUESTED,
    workflow_enums.PENDING_ACTIVITY_STATE_PAUSE_REQUESTED,
)
MOMENTS = (Kind.SIGNAL, Kind.CANCEL, Kind.MARKER, Kind.LOCAL_ACTIVITY, Kind.WORKFLOW_TASK)
"""Kinds that happen at one time."""


@dataclass(slots=True)
class Span:
    """Something that happened, or goes on. Times in nanoseconds since the epoch, 0: not yet."""

    kind: Kind
    name: str
    event_ids: list[int]
    begin_ns: int
    started_ns: int = 0
    """When its last attempt began, after it had waited for a worker or failed before."""
    end_ns: int = 0
    outcome: Outcome = Outcome.OPEN
    attempt: int = 0
    given: str = ""
    """Its input, in one short line."""
    note: str = ""
    """One line: why it failed, what it waits for."""
    activity_id: str = ""
    workflow_id: str = ""
    run_id: str = ""
    """Of a child, or of the workflow that is spoken to."""

    @property
    def first_event_id(self) -> int:
        return self.event_ids[0]

    @property
    def is_moment(self) -> bool:
        return self.kind in MOMENTS

    @property
    def is_bad(self) -> bool:
        return self.outcome in BAD

    def close(self, event: history.HistoryEvent, outcome: Outcome, note: str = "") -> None:
        self.event_ids.append(event.event_id)
        self.end_ns = nanoseconds(event.event_time)
        self.outcome = outcome
        self.note = note or self.note


@dataclass(slots=True)
class Timeline:
    """The spans of a run, as far as its events were added."""

    spans: list[Span] = field(default_factory=list)
    next_event_id: int = 1
    begin_ns: int = 0
    end_ns: int = 0
    """When the run closed; 0: it has not, as far as was read."""
    last_ns: int = 0
    close_event_id: int = 0
    first_task_completed_id: int = 0
    last_task_completed_id: int = 0
    """The events to which a run can be reset."""
    identities: dict[str, int] = field(default_factory=dict)
    """How many tasks each worker has taken."""
    _open: dict[int, Span] = field(default_factory=dict)
    _pause: Span | None = None

    def add(self, events: Iterable[history.HistoryEvent]) -> None:
        """Raises ValueError for an event out of turn."""
        for event in events:
            if event.event_id != self.next_event_id:
                raise ValueError(f"event {event.event_id} where {self.next_event_id} was expected")
            self.next_event_id += 1
            self.last_ns = nanoseconds(event.event_time)
            kind = event.WhichOneof("attributes")
            change = CHANGES.get(event.event_type)
            if change is not None and kind is not None:
                change(self, event, getattr(event, kind))

    def find(self, first_event_id: int) -> Span | None:
        return next((s for s in self.spans if s.first_event_id == first_event_id), None)

    @property
    def has_open(self) -> bool:
        """Whether something is under way: an activity, a timer, a child."""
        return bool(self._open)

    def counts(self) -> dict[Kind, int]:
        counted: dict[Kind, int] = {}
        for span in self.spans:
            counted[span.kind] = counted.get(span.kind, 0) + 1
        return counted

    # --- What events do ----------------------------------------------------------------------

    def open(self, event: history.HistoryEvent, kind: Kind, name: str, **facts: Any) -> Span:
        at_ns = nanoseconds(event.event_time)
        span = Span(kind, payloads.visible(name)[:200], [event.event_id], at_ns, **facts)
        self.spans.append(span)
        if span.is_moment:
            span.end_ns = at_ns
            if span.outcome is Outcome.OPEN:
                span.outcome = Outcome.DONE
        else:
            self._open[event.event_id] = span
        return span

    def take(self, opened_by: int) -> Span | None:
        return self._open.pop(opened_by, None)

    def look(self, opened_by: int) -> Span | None:
        return self._open.get(opened_by)

    def served_by(self, identity: str) -> None:
        self.identities[identity] = self.identities.get(identity, 0) + 1


def line_of(failure: Any) -> str:
    """The innermost reason of a failure in one line: that is what people look for."""
    depth = 0
    while failure.HasField("cause") and depth < 20:
        failure = failure.cause
        depth += 1
    kind = failure.application_failure_info.type
    text = f"{kind}: {failure.message}" if kind and failure.message else failure.message or kind
    return payloads.visible(" ".join(text.split()))[:300]


Change = Callable[[Timeline, history.HistoryEvent, Any], None]


def _started(t: Timeline, event: history.HistoryEvent, a: Any) -> None:
    t.begin_ns = nanoseconds(event.event_time)


def _closed(t: Timeline, event: history.HistoryEvent, a: Any) -> None:
    t.end_ns = nanoseconds(event.event_time)
    t.close_event_id = event.event_id
    for span in t.spans:
        if span.outcome is Outcome.OPEN and not span.end_ns:
            span.end_ns = t.end_ns
            span.note = span.note or "the run ended before it"


def _task_completed(t: Timeline, event: history.HistoryEvent, a: Any) -> None:
    t.first_task_completed_id = t.first_task_completed_id or event.event_id
    t.last_task_completed_id = event.event_id
    t.served_by(a.identity)


def _task_failed(t: Timeline, event: history.HistoryEvent, a: Any) -> None:
    t.open(
        event,
        Kind.WORKFLOW_TASK,
        "Workflow task",
        outcome=Outcome.FAILED,
        note=line_of(a.failure),
    )


def _task_timed_out(t: Timeline, event: history.HistoryEvent, a: Any) -> None:
    t.open(event, Kind.WORKFLOW_TASK, "Workflow task", outcome=Outcome.TIMED_OUT)


def _activity(t: Timeline, event: history.HistoryEvent, a: Any) -> None:
    t.open(
        event,
        Kind.ACTIVITY,
        a.activity_type.name,
        activity_id=a.activity_id,
        given=payloads.briefs(a.input),
    )


def _activity_started(t: Timeline, event: history.HistoryEvent, a: Any) -> None:
    t.served_by(a.identity)
    span = t.look(a.scheduled_event_id)
    if span is not None:
        span.event_ids.append(event.event_id)
        span.started_ns = nanoseconds(event.event_time)
        span.attempt = a.attempt
        if a.HasField("last_failure"):
            span.note = line_of(a.last_failure)


def _timer(t: Timeline, event: history.HistoryEvent, a: Any) -> None:
    lasts = duration_text(nanoseconds(a.start_to_fire_timeout))
    t.open(event, Kind.TIMER, f"Timer {a.timer_id}", given=lasts)


def _child(t: Timeline, event: history.HistoryEvent, a: Any) -> None:
    t.open(
        event,
        Kind.CHILD,
        a.workflow_type.name,
        workflow_id=a.workflow_id,
        given=payloads.briefs(a.input),
    )


def _child_started(t: Timeline, event: history.HistoryEvent, a: Any) -> None:
    span = t.look(a.initiated_event_id)
    if span is not None:
        span.event_ids.append(event.event_id)
        span.started_ns = nanoseconds(event.event_time)
        span.run_id = a.workflow_execution.run_id


def _signal_to(t: Timeline, event: history.HistoryEvent, a: Any) -> None:
    t.open(
        event,
        Kind.EXTERNAL,
        f"Signal {a.signal_name}",
        workflow_id=a.workflow_execution.workflow_id,
    )


def _cancel_of(t: Timeline, event: history.HistoryEvent, a: Any) -> None:
    t.open(event, Kind.EXTERNAL, "Cancel", workflow_id=a.workflow_execution.workflow_id)


def _signaled(t: Timeline, event: history.HistoryEvent, a: Any) -> None:
    t.open(event, Kind.SIGNAL, a.signal_name, given=payloads.briefs(a.input))


def _cancel_requested(t: Timeline, event: history.HistoryEvent, a: Any) -> None:
    t.open(event, Kind.CANCEL, "Cancel requested", note=payloads.visible(a.cause)[:200])


def _marker(t: Timeline, event: history.HistoryEvent, a: Any) -> None:
    outcome = Outcome.FAILED if a.HasField("failure") else Outcome.DONE
    note = line_of(a.failure) if a.HasField("failure") else ""
    if a.marker_name != "core_local_activity":
        t.open(event, Kind.MARKER, a.marker_name, outcome=outcome, note=note)
        return
    facts: Any = None
    for payload in a.details["data"].payloads[:1] if "data" in a.details else ():
        facts = payloads.decoded(payload)
    name = facts.get("activity_type") if isinstance(facts, dict) else None
    t.open(event, Kind.LOCAL_ACTIVITY, str(name or "local activity"), outcome=outcome, note=note)


def _update(t: Timeline, event: history.HistoryEvent, a: Any) -> None:
    inputs = a.accepted_request.input
    span = t.open(event, Kind.UPDATE, inputs.name, given=payloads.briefs(inputs.args))
    span.started_ns = span.begin_ns


def _update_completed(t: Timeline, event: history.HistoryEvent, a: Any) -> None:
    span = t.take(a.accepted_event_id)
    if span is not None:
        failed = a.outcome.HasField("failure")
        note = line_of(a.outcome.failure) if failed else ""
        span.close(event, Outcome.FAILED if failed else Outcome.DONE, note)


def _nexus(t: Timeline, event: history.HistoryEvent, a: Any) -> None:
    t.open(
        event, Kind.NEXUS, f"{a.endpoint} {a.service}.{a.operation}", given=payloads.brief(a.input)
    )


def _nexus_started(t: Timeline, event: history.HistoryEvent, a: Any) -> None:
    span = t.look(a.scheduled_event_id)
    if span is not None:
        span.event_ids.append(event.event_id)
        span.started_ns = nanoseconds(event.event_time)


def _paused(t: Timeline, event: history.HistoryEvent, a: Any) -> None:
    t._pause = t.open(event, Kind.PAUSE, "Paused", note=payloads.visible(a.reason)[:200])


def _unpaused(t: Timeline, event: history.HistoryEvent, a: Any) -> None:
    if t._pause is not None:
        t.take(t._pause.first_event_id)
        t._pause.close(event, Outcome.DONE)
        t._pause = None


def _ends(opened_by: str, outcome: Outcome) -> Change:
    """The event ends what another one began; `opened_by` is the field with that one's id."""

    def change(t: Timeline, event: history.HistoryEvent, a: Any) -> None:
        span = t.take(getattr(a, opened_by))
        if span is not None:
            fields = a.DESCRIPTOR.fields_by_name
            has_failure = "failure" in fields and a.HasField("failure")
            span.close(event, outcome, line_of(a.failure) if has_failure else "")

    return change


def _by_name(**changes: Change) -> dict[int, Change]:
    return {event_types.EventType.Value(PREFIX + name): change for name, change in changes.items()}


CHANGES: dict[int, Change] = _by_name(
    WORKFLOW_EXECUTION_STARTED=_started,
    WORKFLOW_EXECUTION_COMPLETED=_closed,
    WORKFLOW_EXECUTION_FAILED=_closed,
    WORKFLOW_EXECUTION_TIMED_OUT=_closed,
    WORKFLOW_EXECUTION_CANCELED=_closed,
    WORKFLOW_EXECUTION_TERMINATED=_closed,
    WORKFLOW_EXECUTION_CONTINUED_AS_NEW=_closed,
    WORKFLOW_TASK_COMPLETED=_task_completed,
    WORKFLOW_TASK_FAILED=_task_failed,
    WORKFLOW_TASK_TIMED_OUT=_task_timed_out,
    ACTIVITY_TASK_SCHEDULED=_activity,
    ACTIVITY_TASK_STARTED=_activity_started,
    ACTIVITY_TASK_COMPLETED=_ends("scheduled_event_id", Outcome.DONE),
    ACTIVITY_TASK_FAILED=_ends("scheduled_event_id", Outcome.FAILED),
    ACTIVITY_TASK_TIMED_OUT=_ends("scheduled_event_id", Outcome.TIMED_OUT),
    ACTIVITY_TASK_CANCELED=_ends("scheduled_event_id", Outcome.CANCELED),
    TIMER_STARTED=_timer,
    TIMER_FIRED=_ends("started_event_id", Outcome.DONE),
    TIMER_CANCELED=_ends("started_event_id", Outcome.CANCELED),
    START_CHILD_WORKFLOW_EXECUTION_INITIATED=_child,
    START_CHILD_WORKFLOW_EXECUTION_FAILED=_ends("initiated_event_id", Outcome.FAILED),
    CHILD_WORKFLOW_EXECUTION_STARTED=_child_started,
    CHILD_WORKFLOW_EXECUTION_COMPLETED=_ends("initiated_event_id", Outcome.DONE),
    CHILD_WORKFLOW_EXECUTION_FAILED=_ends("initiated_event_id", Outcome.FAILED),
    CHILD_WORKFLOW_EXECUTION_CANCELED=_ends("initiated_event_id", Outcome.CANCELED),
    CHILD_WORKFLOW_EXECUTION_TIMED_OUT=_ends("initiated_event_id", Outcome.TIMED_OUT),
    CHILD_WORKFLOW_EXECUTION_TERMINATED=_ends("initiated_event_id", Outcome.TERMINATED),
    SIGNAL_EXTERNAL_WORKFLOW_EXECUTION_INITIATED=_signal_to,
    SIGNAL_EXTERNAL_WORKFLOW_EXECUTION_FAILED=_ends("initiated_event_id", Outcome.FAILED),
    EXTERNAL_WORKFLOW_EXECUTION_SIGNALED=_ends("initiated_event_id", Outcome.DONE),
    REQUEST_CANCEL_EXTERNAL_WORKFLOW_EXECUTION_INITIATED=_cancel_of,
    REQUEST_CANCEL_EXTERNAL_WORKFLOW_EXECUTION_FAILED=_ends("initiated_event_id", Outcome.FAILED),
    EXTERNAL_WORKFLOW_EXECUTION_CANCEL_REQUESTED=_ends("initiated_event_id", Outcome.DONE),
    WORKFLOW_EXECUTION_SIGNALED=_signaled,
    WORKFLOW_EXECUTION_CANCEL_REQUESTED=_cancel_requested,
    MARKER_RECORDED=_marker,
    WORKFLOW_EXECUTION_UPDATE_ACCEPTED=_update,
    WORKFLOW_EXECUTION_UPDATE_COMPLETED=_update_completed,
    NEXUS_OPERATION_SCHEDULED=_nexus,
    NEXUS_OPERATION_STARTED=_nexus_started,
    NEXUS_OPERATION_COMPLETED=_ends("scheduled_event_id", Outcome.DONE),
    NEXUS_OPERATION_FAILED=_ends("scheduled_event_id", Outcome.FAILED),
    NEXUS_OPERATION_CANCELED=_ends("scheduled_event_id", Outcome.CANCELED),
    NEXUS_OPERATION_TIMED_OUT=_ends("scheduled_event_id", Outcome.TIMED_OUT),
    WORKFLOW_EXECUTION_PAUSED=_paused,
    WORKFLOW_EXECUTION_UNPAUSED=_unpaused,
)


def under_way(
    spans: Iterable[Span], pending: Iterable[workflow_messages.PendingActivityInfo]
) -> list[Span]:
    """The spans with what the description knows of open activities: their attempt, their last failure."""
    by_id = {each.activity_id: each for each in pending}
    return [
        _now(span, by_id[span.activity_id])
        if span.outcome is Outcome.OPEN and span.activity_id in by_id
        else span
        for span in spans
    ]


def _now(span: Span, pending: workflow_messages.PendingActivityInfo) -> Span:
    started = pending.state in STARTED_STATES
    return replace(
        span,
        started_ns=nanoseconds(pending.last_started_time) if started else 0,
        attempt=pending.attempt,
        note=_waits_for(pending, started),
    )


def _waits_for(pending: workflow_messages.PendingActivityInfo, started: bool) -> str:
    if pending.HasField("last_failure"):
        reason = line_of(pending.last_failure)
    else:
        reason = "" if started else "waits for a worker"
    return f"paused. {reason}".rstrip() if pending.paused else reason
