"""What an agent did in a run: calls of models, the tools that they asked for, tokens. Pure.

Rule 1: a fold over the events of a history, as the timeline is; what was read is not read again.
Rule 2: a call shows what is new in it: the conversation that it repeats was shown by the calls before it.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from temporalio.api.common.v1 import message_pb2 as common
from temporalio.api.history.v1 import message_pb2 as history

from durably.edge.console import agent_frameworks, payloads
from durably.edge.console.agent_frameworks import (
    FRAMEWORKS,
    Answered,
    Asked,
    Framework,
    Said,
    Usage,
    Wanted,
)
from durably.edge.console.timeline import Outcome, line_of
from durably.edge.console.units import nanoseconds

UNREADABLE = "It cannot be read here: it is encrypted, too large, or not JSON."


@dataclass(slots=True)
class Step:
    """An activity of an agent. Times in nanoseconds since the epoch, 0: not yet."""

    event_id: int
    begin_ns: int
    started_ns: int = 0
    end_ns: int = 0
    attempt: int = 0
    outcome: Outcome = Outcome.OPEN
    failure: str = ""

    @property
    def lasted_ns(self) -> int:
        """Of its last attempt."""
        return self.end_ns - (self.started_ns or self.begin_ns) if self.end_ns else 0

    @property
    def lost_ns(self) -> int:
        """What went by before its last attempt, if others failed."""
        return self.started_ns - self.begin_ns if self.attempt > 1 and self.started_ns else 0


@dataclass(slots=True)
class ToolCall(Step):
    name: str = ""
    arguments: str = ""
    call_id: str = ""
    result: str = ""


@dataclass(slots=True)
class ModelCall(Step):
    framework: str = ""
    agent: str = ""
    model: str = ""
    provider: str = ""
    new: list[Said] = field(default_factory=list)
    """What the model had not been told before."""
    text: str = ""
    thought: str = ""
    wanted: list[Wanted] = field(default_factory=list)
    tools: list[ToolCall] = field(default_factory=list)
    usage: Usage = field(default_factory=Usage)
    unreadable: str = ""


@dataclass(frozen=True, slots=True)
class ChildRun:
    """The first run of a child workflow."""

    workflow_id: str
    run_id: str
    workflow_type: str


@dataclass(slots=True)
class AgentRun:
    """The calls of a run, as far as its events were added."""

    calls: list[ModelCall] = field(default_factory=list)
    children: list[ChildRun] = field(default_factory=list)
    next_event_id: int = 1
    _open: dict[int, "_Activity"] = field(default_factory=dict)
    _told: dict[str, list[int]] = field(default_factory=dict)
    """By agent: what its model was told last, as hashes."""

    def add(self, events: Iterable[history.HistoryEvent]) -> None:
        for event in events:
            self.next_event_id = event.event_id + 1
            kind = event.WhichOneof("attributes") or ""
            if kind == "child_workflow_execution_started_event_attributes":
                self._child(event.child_workflow_execution_started_event_attributes)
            if not kind.startswith("activity_task_"):
                continue
            attributes = getattr(event, kind)
            if kind == "activity_task_scheduled_event_attributes":
                self._scheduled(event, attributes)
            elif attributes.scheduled_event_id in self._open:
                self._goes_on(event, kind, attributes)

    def _child(self, a: history.ChildWorkflowExecutionStartedEventAttributes) -> None:
        child = a.workflow_execution
        self.children.append(ChildRun(child.workflow_id, child.run_id, a.workflow_type.name))

    # --- Activities ---------------------------------------------------------------------------

    def _scheduled(self, event: history.HistoryEvent, a: Any) -> None:
        name = a.activity_type.name
        at_ns = nanoseconds(event.event_time)
        for framework in FRAMEWORKS:
            if found := framework.model.fullmatch(name):
                call = ModelCall(event.event_id, at_ns, framework=framework.name)
                call.agent = payloads.visible(found.groupdict().get("agent", ""))[:200]
                self._ask(call, framework.asked(_first(a.input)), a.input)
                self.calls.append(call)
                self._open[event.event_id] = _Activity(call, framework)
                return
            if framework.tool is not None and framework.tool.fullmatch(name):
                assert framework.used is not None
                self._use(event.event_id, at_ns, framework.used(_first(a.input)))
                return
        if wanted := self._wanted(name):
            given = wanted.arguments or payloads.briefs(a.input)
            self._use(event.event_id, at_ns, Wanted(wanted.name, given, wanted.call_id))
            return
        self._open[event.event_id] = _Activity(Step(event.event_id, at_ns), None, a.input)

    def _ask(self, call: ModelCall, asked: Asked, given: common.Payloads) -> None:
        call.model = call.model or asked.model
        if not asked.said and _first(given) is None:
            call.unreadable = UNREADABLE
        told = [hash((said.role, said.text)) for said in asked.said]
        before = self._told.get(call.agent, [])
        same = next(
            (i for i, (now, then) in enumerate(zip(told, before, strict=False)) if now != then),
            min(len(told), len(before)),
        )
        self._told[call.agent] = told
        answered = {tool.call_id for tool in self._tools() if tool.call_id}
        call.new = [
            said
            for said in asked.said[same:]
            if not (said.role == "tool" and said.call_id in answered)
        ]

    def _use(self, event_id: int, at_ns: int, wanted: Wanted) -> None:
        tool = ToolCall(
            event_id,
            at_ns,
            name=wanted.name,
            arguments=wanted.arguments,
            call_id=wanted.call_id,
        )
        asked_by = next(
            (c for c in reversed(self.calls) if any(w.name == wanted.name for w in c.wanted)), None
        )
        if asked_by is not None:
            asked_by.tools.append(tool)
        self._open[event_id] = _Activity(tool, None)

    def _wanted(self, name: str) -> Wanted | None:
        """The call of a tool of this name that the last answer asks for, and no activity is yet."""
        if not self.calls:
            return None
        used = {tool.call_id for tool in self.calls[-1].tools}
        return next(
            (w for w in self.calls[-1].wanted if w.name == name and w.call_id not in used), None
        )

    def _tools(self) -> Iterable[ToolCall]:
        return (tool for call in self.calls[-2:] for tool in call.tools)

    def _goes_on(self, event: history.HistoryEvent, kind: str, a: Any) -> None:
        activity = self._open[a.scheduled_event_id]
        step = activity.step
        if kind == "activity_task_started_event_attributes":
            step.started_ns = nanoseconds(event.event_time)
            step.attempt = a.attempt
            if a.HasField("last_failure"):
                step.failure = line_of(a.last_failure)
            return
        if kind not in ENDS:
            return
        del self._open[a.scheduled_event_id]
        step.end_ns = nanoseconds(event.event_time)
        step.outcome = ENDS[kind]
        if step.outcome is Outcome.DONE:
            self._answer(activity, a.result)
        elif kind != "activity_task_canceled_event_attributes":
            step.failure = line_of(a.failure)

    def _answer(self, activity: "_Activity", result: common.Payloads) -> None:
        step, value = activity.step, _first(result)
        if isinstance(step, ToolCall):
            inner = value.get("result", value) if isinstance(value, dict) else value
            step.result = agent_frameworks.text_of(inner)
        elif isinstance(step, ModelCall):
            assert activity.framework is not None
            if value is None:
                step.unreadable = UNREADABLE
            _fill(step, activity.framework.answered(value))
        elif answered := agent_frameworks.plain_answered(value):
            call = ModelCall(
                step.event_id,
                step.begin_ns,
                step.started_ns,
                step.end_ns,
                step.attempt,
                step.outcome,
                step.failure,
                framework="a plain activity",
            )
            values = [payloads.decoded(each) for each in activity.given.payloads]
            self._ask(call, agent_frameworks.plain_asked(values), activity.given)
            _fill(call, answered)
            self.calls.append(call)


@dataclass(frozen=True, slots=True)
class _Activity:
    """One that has not ended. `given`: its input, where only its result will say what it is."""

    step: Step
    framework: Framework | None
    given: common.Payloads = field(default_factory=common.Payloads)


ENDS = {
    "activity_task_completed_event_attributes": Outcome.DONE,
    "activity_task_failed_event_attributes": Outcome.FAILED,
    "activity_task_timed_out_event_attributes": Outcome.TIMED_OUT,
    "activity_task_canceled_event_attributes": Outcome.CANCELED,
}


def _first(found: common.Payloads) -> Any:
    return payloads.decoded(found.payloads[0]) if found.payloads else None


def _fill(call: ModelCall, answered: Answered) -> None:
    call.text, call.thought = answered.text, answered.thought
    call.wanted, call.usage = answered.wanted, answered.usage
    call.model = answered.model or call.model
    call.provider = answered.provider or call.provider
