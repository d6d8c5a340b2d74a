"""The spans of one run, from its journal: pure.

    invoke_agent researcher            the run
    ├─ activity agent__…__model_request    from its scheduling to its end, waiting and retries in it
    │  ├─ chat gpt-4.1-mini                  one attempt, which failed
    │  └─ chat gpt-4.1-mini                  the next
    ├─ timer
    └─ child workflow Report                 the run of the child hangs below it

Rule 1: a span's id is a digest of run, event and attempt: the same journal gives the same spans, however
        often and by whichever server it is read.
Rule 2: nothing of a payload is in a span unless `content` is asked for; failures say their type.
"""

import hashlib
import json
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from temporalio.api.common.v1 import message_pb2 as common
from temporalio.api.enums.v1 import failed_cause_pb2 as causes
from temporalio.api.failure.v1 import message_pb2 as failure
from temporalio.api.history.v1 import message_pb2 as history

from durably.agents.calls import ModelCall, Tokens
from durably.agents.steps import Step, StepReader, failure_type, nanoseconds
from durably.engine import records as r
from durably.engine.journal import Record
from durably.engine.standalone.records import StandaloneTerminated
from durably.traces import semconv
from durably.traces.semconv import Attributes

TRACER_DATA = "_tracer-data"
"""The header in which the SDKs' tracing interceptors pass their context on."""
TRACEPARENT = re.compile(r"[0-9a-f]{2}-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})(-.*)?")

RUN_EVENT = 1


@dataclass(frozen=True, slots=True)
class Parent:
    """Where the span of a run hangs. `span_id` 0: at the root of the trace."""

    trace_id: int
    span_id: int = 0
    sampled: bool = True


@dataclass(slots=True)
class Span:
    """Times are nanoseconds since the epoch."""

    name: str
    span_id: int
    parent_id: int
    start_ns: int
    end_ns: int
    attributes: Attributes = field(default_factory=dict)
    error: str = ""
    """What kind of failure it ended with; empty: none."""
    events: list[tuple[str, int, Attributes]] = field(default_factory=list)


def trace_id(namespace_id: str, workflow_id: str, run_id: str) -> int:
    """Of the trace that begins with this run."""
    return _digest(16, "trace", namespace_id, workflow_id, run_id)


def span_id(run_id: str, event_id: int, attempt: int = 0, call: int = 0) -> int:
    return _digest(8, "span", run_id, str(event_id), str(attempt), str(call))


def _digest(size: int, *parts: str) -> int:
    text = "\0".join(parts)
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:size], "big") or 1


def caller(header: common.Header) -> Parent | None:
    """The span that the caller's interceptor was in, if it can be read."""
    payload = header.fields.get(TRACER_DATA)
    if payload is None or payload.metadata.get("encoding") != b"json/plain":
        return None
    try:
        carrier = json.loads(payload.data)
    except (ValueError, RecursionError):
        return None
    found = carrier.get("traceparent") if isinstance(carrier, dict) else None
    match = TRACEPARENT.fullmatch(found) if isinstance(found, str) else None
    if match is None or not int(match[1], 16) or not int(match[2], 16):
        return None
    return Parent(int(match[1], 16), int(match[2], 16), bool(int(match[3], 16) & 1))


# What begins with one event and ends with another -------------------------------------------------

BEGINNINGS: dict[str, Callable[[Any], str]] = {
    "timer_started_event_attributes": lambda a: "timer",
    "start_child_workflow_execution_initiated_event_attributes": lambda a: (
        f"child workflow {a.workflow_type.name}"
    ),
    "signal_external_workflow_execution_initiated_event_attributes": lambda a: (
        f"signal external {a.signal_name}"
    ),
    "request_cancel_external_workflow_execution_initiated_event_attributes": lambda a: (
        "cancel external"
    ),
    "workflow_execution_update_accepted_event_attributes": lambda a: (
        f"update {a.accepted_request.input.name}"
    ),
    "nexus_operation_scheduled_event_attributes": lambda a: f"nexus {a.service}/{a.operation}",
}
"""Attributes of an event -> the name of the span that begins with it."""

ENDS = {
    "timer_fired": ("started_event_id", ""),
    "timer_canceled": ("started_event_id", "canceled"),
    "child_workflow_execution_completed": ("initiated_event_id", ""),
    "child_workflow_execution_failed": ("initiated_event_id", "failed"),
    "child_workflow_execution_canceled": ("initiated_event_id", "canceled"),
    "child_workflow_execution_timed_out": ("initiated_event_id", "timed_out"),
    "child_workflow_execution_terminated": ("initiated_event_id", "terminated"),
    "start_child_workflow_execution_failed": ("initiated_event_id", "not_started"),
    "external_workflow_execution_signaled": ("initiated_event_id", ""),
    "signal_external_workflow_execution_failed": ("initiated_event_id", "failed"),
    "external_workflow_execution_cancel_requested": ("initiated_event_id", ""),
    "request_cancel_external_workflow_execution_failed": ("initiated_event_id", "failed"),
    "workflow_execution_update_completed": ("accepted_event_id", ""),
    "nexus_operation_completed": ("scheduled_event_id", ""),
    "nexus_operation_failed": ("scheduled_event_id", "failed"),
    "nexus_operation_canceled": ("scheduled_event_id", "canceled"),
    "nexus_operation_timed_out": ("scheduled_event_id", "timed_out"),
}
"""An event -> its field that names the beginning, and how what began has ended (empty: well)."""

RUN_ENDS = {
    "workflow_execution_completed": "",
    "workflow_execution_failed": "failed",
    "workflow_execution_timed_out": "timed_out",
    "workflow_execution_canceled": "canceled",
    "workflow_execution_terminated": "terminated",
    "workflow_execution_continued_as_new": "",
}
NO_ERROR = frozenset(("", "canceled", "pending", "completed"))
SUFFIX = "_event_attributes"


class RunSpans:
    """Takes the journal of one run, entry by entry; `finished` has all its spans, but those that were
    given out before as having `ended`."""

    def __init__(
        self, run_id: str, namespace: str, *, content: bool, standalone: bool = False
    ) -> None:
        """`standalone`: it is the run of an activity that belongs to no workflow."""
        self._run_id = run_id
        self._standalone = standalone
        self._terminated = False
        self._content = content
        self._steps = StepReader()
        self._spans: list[Span] = []
        self._open: dict[int, Span] = {}
        """By the event that it began with."""
        self._attempts: dict[int, tuple[int, int]] = {}
        """Scheduled event of an activity -> its last attempt, and when that was started."""
        self._failed: dict[int, list[Span]] = {}
        """Scheduled event of an activity -> its attempts that were followed by another."""
        self._agents: set[str] = set()
        self._tokens = Tokens()
        self._run = Span("workflow", span_id(run_id, RUN_EVENT), 0, 0, 0)
        self._run.attributes = {semconv.NAMESPACE: namespace, semconv.RUN_ID: run_id}

    def take(self, entry: history.HistoryEvent | Record) -> None:
        if isinstance(entry, history.HistoryEvent):
            self._take_event(entry)
        elif isinstance(entry, r.ActivityStarted):
            self._attempts[entry.scheduled_event_id] = (entry.attempt, entry.at_ns)
        elif isinstance(entry, r.ActivityRetryScheduled):
            self._attempt_failed(entry)
        elif isinstance(entry, StandaloneTerminated):
            self._terminated = True
        elif isinstance(entry, r.ResetFrom):
            # All until now happened in another run, which has its own spans.
            self._spans, self._failed, self._tokens = [], {}, Tokens()
            self._run.start_ns, self._run.events = entry.at_ns, []

    def ended(self) -> list[Span]:
        """What has ended since the last time, while the run goes on. Nothing of an activity that is a run
        itself: it is one span, which ends last."""
        if self._standalone:
            return []
        found, self._spans = self._spans, []
        return found

    def finished(self, parent: Parent, close_ns: int) -> list[Span]:
        """The spans of the run, which closed then; what was pending ends with it."""
        self._run.end_ns = self._run.end_ns or close_ns
        for step in self._steps.pending():
            step.status = "terminated" if self._terminated else step.status
            self._activity(step, self._run.end_ns)
        if self._standalone:
            return self._of_activity(parent)
        for span in self._open.values():
            self._close(span, self._run.end_ns, "pending")
        self._run.parent_id = parent.span_id
        if self._agents:
            agent = next(iter(self._agents)) if len(self._agents) == 1 else ""
            self._run.name, about = semconv.agent_run(agent, self._tokens)
            self._run.attributes |= about
        return [self._run, *self._spans]

    def _of_activity(self, parent: Parent) -> list[Span]:
        """The span of the activity itself is the run's."""
        for span in self._spans:
            if span.span_id == self._run.span_id:
                span.parent_id = parent.span_id
                span.attributes |= self._run.attributes
        return self._spans

    # --- Events -------------------------------------------------------------------------------

    def _take_event(self, event: history.HistoryEvent) -> None:
        step = self._steps.take(event)
        if step is not None:
            self._activity(step, step.ended_ns)
        kind = event.WhichOneof("attributes") or ""
        attributes: Any = getattr(event, kind, None)
        name = kind.removesuffix(SUFFIX)
        at_ns = nanoseconds(event.event_time)
        if name == "workflow_execution_started":
            self._begin_run(attributes, at_ns)
        elif kind in BEGINNINGS:
            self._open[event.event_id] = self._begin(
                event.event_id, BEGINNINGS[kind](attributes), at_ns
            )
        elif name in ENDS:
            of, how = ENDS[name]
            span = self._open.pop(getattr(attributes, of), None)
            if span is not None:
                self._close(span, at_ns, how, getattr(attributes, "failure", None))
        elif name in RUN_ENDS:
            self._end_run(attributes, at_ns, RUN_ENDS[name])
        else:
            self._note(name, attributes, at_ns)

    def _begin_run(
        self, started: history.WorkflowExecutionStartedEventAttributes, at_ns: int
    ) -> None:
        self._run.name = f"workflow {started.workflow_type.name}"
        self._run.start_ns = at_ns
        self._run.attributes |= {
            semconv.WORKFLOW_ID: started.workflow_id,
            semconv.WORKFLOW_TYPE: started.workflow_type.name,
            semconv.TASK_QUEUE: started.task_queue.name,
            semconv.ATTEMPT: max(1, started.attempt),
        }

    def _end_run(self, ended: Any, at_ns: int, how: str) -> None:
        self._run.end_ns = at_ns
        self._run.attributes[semconv.STATUS] = how or "completed"
        if how not in NO_ERROR:
            found = getattr(ended, "failure", None)
            self._run.error = failure_type(found) if found is not None else how

    def _note(self, name: str, attributes: Any, at_ns: int) -> None:
        """Moments in the life of the run."""
        if name == "workflow_execution_signaled":
            self._run.events.append((f"signal {attributes.signal_name}", at_ns, {}))
        elif name == "workflow_execution_cancel_requested":
            self._run.events.append(("cancel requested", at_ns, {}))
        elif name == "workflow_task_failed":
            cause = causes.WorkflowTaskFailedCause.Name(attributes.cause)
            short = cause.removeprefix("WORKFLOW_TASK_FAILED_CAUSE_").lower()
            self._run.events.append(("workflow task failed", at_ns, {semconv.ERROR_TYPE: short}))
        elif name == "workflow_task_timed_out":
            self._run.events.append(("workflow task timed out", at_ns, {}))

    # --- Spans --------------------------------------------------------------------------------

    def _begin(self, event_id: int, name: str, at_ns: int) -> Span:
        span = Span(name, span_id(self._run_id, event_id), self._run.span_id, at_ns, at_ns)
        span.attributes[semconv.EVENT_ID] = event_id
        return span

    def _close(self, span: Span, at_ns: int, how: str, why: failure.Failure | None = None) -> None:
        span.end_ns = max(span.start_ns, at_ns)
        span.attributes[semconv.STATUS] = how or "completed"
        if how not in NO_ERROR:
            span.error = failure_type(why) if why is not None else how
        self._spans.append(span)

    def _attempt_failed(self, entry: r.ActivityRetryScheduled) -> None:
        """`entry.attempt` is the next; the one that ended was started before."""
        attempt, started_ns = self._attempts.pop(
            entry.scheduled_event_id, (max(1, entry.attempt - 1), entry.ended_ns)
        )
        why = failure_type(failure.Failure.FromString(entry.failure))
        span = self._attempt(entry.scheduled_event_id, attempt, started_ns, entry.ended_ns)
        span.error = why
        self._failed.setdefault(entry.scheduled_event_id, []).append(span)

    def _attempt(self, event_id: int, attempt: int, start_ns: int, end_ns: int) -> Span:
        return Span(
            "attempt",
            span_id(self._run_id, event_id, attempt),
            span_id(self._run_id, event_id),
            start_ns,
            max(start_ns, end_ns),
            {semconv.ATTEMPT: attempt, semconv.EVENT_ID: event_id},
        )

    def _activity(self, step: Step, end_ns: int) -> None:
        """An activity, its attempts, and what they called."""
        event_id = step.scheduled_event_id
        span = self._begin(event_id, f"activity {step.activity_type}", step.scheduled_ns)
        span.attributes |= {
            semconv.ACTIVITY_ID: step.activity_id,
            semconv.ACTIVITY_TYPE: step.activity_type,
            semconv.TASK_QUEUE: step.task_queue,
        }
        how = step.status.replace(" ", "_")
        self._close(span, end_ns, how)
        attempts = self._failed.pop(event_id, [])
        attempt, started_ns = self._attempts.pop(event_id, (step.attempt, step.started_ns))
        if started_ns:
            last = self._attempt(event_id, attempt, started_ns, end_ns)
            attempts.append(last)
            if span.error:
                span.error = last.error = step.failure_type or span.error
        for each in attempts:
            self._name(each, step, event_id)
        self._spans += attempts

    def _name(self, attempt: Span, step: Step, event_id: int) -> None:
        """An attempt that is one call is that call; several calls hang below it."""
        calls = step.calls
        for call in calls:
            if isinstance(call, ModelCall):
                self._agents.add(call.agent)
        ended_well = not attempt.error
        if ended_well:
            for call in step.model_calls:
                self._tokens += call.tokens or Tokens()
        described = [
            semconv.model_call(call, content=self._content and ended_well)
            if isinstance(call, ModelCall)
            else semconv.tool_call(call, content=self._content and ended_well)
            for call in calls
        ]
        if len(described) == 1:
            attempt.name, about = described[0]
            kept = about if ended_well else _of_request(about)
            attempt.attributes |= kept
            return
        attempt.name = f"attempt {step.activity_type}"
        if not ended_well:
            return
        number = int(attempt.attributes[semconv.ATTEMPT])
        for index, (name, about) in enumerate(described, start=1):
            identity = span_id(self._run_id, event_id, number, index)
            self._spans.append(
                Span(name, identity, attempt.span_id, attempt.start_ns, attempt.end_ns, about)
            )


def _of_request(about: Attributes) -> Attributes:
    """What was so of an attempt that failed too: it had no reply, and used no tokens that we know of."""
    return {
        name: value
        for name, value in about.items()
        if not name.startswith(("gen_ai.usage.", "gen_ai.response."))
    }
