"""What an agent did in a run, as a conversation: calls of models with what is new in each, and their tools. Pure.

Rule 1: what an activity is, and what is in its payloads, `durably.agents` says; here it is only put in order.
Rule 2: a fold over the events of a history, as the timeline is; what was read is not read again.
Rule 3: a call shows what is new in it: the conversation that it repeats was shown by the calls before it.
"""

import bisect
import json
from collections.abc import Iterable
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any

from temporalio.api.history.v1 import message_pb2 as history

from durably.agents.calls import Message, ModelCall, Part, Tokens, ToolCall
from durably.agents.prices import cost_usd
from durably.agents.steps import Step, StepReader
from durably.edge.console import encrypted
from durably.edge.console.payloads import visible
from durably.edge.console.timeline import line_of

TEXT_CHARS_MAX = 8_000
SEEN_BEFORE = ("assistant",)
"""Roles whose messages were shown as the replies of earlier calls."""
ENCRYPTED = "Encrypted: only its codec can read it."
UNREADABLE = "It cannot be read: it is of a shape that is not known."


@dataclass(frozen=True, slots=True)
class Said:
    role: str
    text: str


@dataclass(frozen=True, slots=True)
class Wanted:
    """A call of a tool that a model asks for."""

    name: str
    arguments: str
    id: str


@dataclass(slots=True)
class Used:
    """A call of a tool."""

    step: Step
    name: str
    arguments: str
    id: str
    result: str
    note: str = ""


@dataclass(slots=True)
class Turn:
    """A call of a model. `note`: why it failed, or its attempts before the last."""

    step: Step
    agent: str
    model: str
    new: list[Said]
    text: str
    thought: str
    wanted: list[Wanted]
    tokens: Tokens
    cost: Decimal | None
    note: str = ""
    unreadable: str = ""
    tools: list[Used] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class ChildRun:
    """The first run of a child workflow."""

    workflow_id: str
    run_id: str
    workflow_type: str


@dataclass(slots=True)
class AgentRun:
    """The calls of a run, as far as its events were added."""

    children: list[ChildRun] = field(default_factory=list)
    next_event_id: int = 1
    locked: int = 0
    """How many payloads of its activities are encrypted."""
    _reader: StepReader = field(default_factory=StepReader)
    _turns: list[Turn] = field(default_factory=list)
    _used: list[Used] = field(default_factory=list)
    _told: dict[tuple[str, str], tuple[Message, ...]] = field(default_factory=dict)
    """By framework and agent: what its model was told last."""
    _notes: dict[int, str] = field(default_factory=dict)
    """By the event that scheduled an activity that is pending: its last failure."""

    def add(self, events: Iterable[history.HistoryEvent]) -> None:
        for event in events:
            self.next_event_id = event.event_id + 1
            self.locked += sum(1 for _ in encrypted.locked(event))
            self._note(event)
            step = self._reader.take(event)
            if step is not None:
                note = self._notes.pop(step.scheduled_event_id, "")
                for call in step.calls:
                    self._keep(step, call, note)

    def turns(self) -> list[Turn]:
        """All calls of models in their order, each with the tools that it asked for."""
        turns, used = list(self._turns), list(self._used)
        for step in self._reader.pending():
            note = self._notes.get(step.scheduled_event_id, "")
            for call in step.calls:
                if isinstance(call, ModelCall):
                    turns.append(self._turn(step, call, note))
                else:
                    used.append(_used(step, call, note))
        turns.sort(key=lambda turn: turn.step.scheduled_event_id)
        for turn in turns:
            turn.tools = []
        askers = Askers(turns)
        for tool in sorted(used, key=lambda each: each.step.scheduled_event_id):
            asked_by = askers.of(tool)
            if asked_by is not None:
                asked_by.tools.append(tool)
        return turns

    def _note(self, event: history.HistoryEvent) -> None:
        kind = event.WhichOneof("attributes") or ""
        attributes: Any = getattr(event, kind) if kind else None
        match kind:
            case "child_workflow_execution_started_event_attributes":
                child = attributes.workflow_execution
                self.children.append(
                    ChildRun(child.workflow_id, child.run_id, attributes.workflow_type.name)
                )
            case "activity_task_started_event_attributes" if attributes.HasField("last_failure"):
                self._notes[attributes.scheduled_event_id] = line_of(attributes.last_failure)
            case (
                "activity_task_failed_event_attributes" | "activity_task_timed_out_event_attributes"
            ):
                self._notes[attributes.scheduled_event_id] = line_of(attributes.failure)

    def _keep(self, step: Step, call: ModelCall | ToolCall, note: str) -> None:
        if isinstance(call, ModelCall):
            self._turns.append(self._turn(step, call, note))
            self._told[call.framework, call.agent] = call.prompt
        else:
            self._used.append(_used(step, call, note))

    def _turn(self, step: Step, call: ModelCall, note: str) -> Turn:
        parts = call.reply.parts if call.reply else ()
        known = call.prompt or call.reply or step.status != "completed"
        return Turn(
            step,
            agent=visible(call.agent)[:200],
            model=visible(call.model)[:200],
            new=self._new(call),
            text="\n".join(_text(part) for part in parts if part.kind not in ASIDE),
            thought="\n".join(_text(part) for part in parts if part.kind == "reasoning"),
            wanted=[
                Wanted(visible(part.name)[:200], shown(part.value), part.id)
                for part in call.tools_asked
            ],
            tokens=call.tokens or Tokens(),
            cost=cost_usd(call, step.scheduled_ns),
            note=note,
            unreadable="" if known else ENCRYPTED if step.is_encrypted else UNREADABLE,
        )

    def _new(self, call: ModelCall) -> list[Said]:
        before = self._told.get((call.framework, call.agent))
        same = 0
        for now, then in zip(call.prompt, before or (), strict=False):
            if now != then:
                break
            same += 1
        answered = {tool.id for tool in self._used if tool.id}
        return [
            Said(message.role, _text(part))
            for message in call.prompt[same:]
            if before is None or message.role not in SEEN_BEFORE
            for part in message.parts
            if not (part.kind == "tool_call_response" and part.id in answered)
        ]


ASIDE = ("reasoning", "tool_call")
"""Parts of a reply that are not its text."""


def _used(step: Step, call: ToolCall, note: str) -> Used:
    done = step.status == "completed"
    result = shown(call.result) if done else ""
    return Used(step, visible(call.name)[:200], shown(call.arguments), call.id, result, note)


def tokens_of(turns: Iterable[Turn]) -> Tokens:
    return sum((turn.tokens for turn in turns), Tokens())


def cost_of(turns: Iterable[Turn]) -> Decimal | None:
    """In dollars, of those whose price is known; None if it is of none."""
    known = [turn.cost for turn in turns if turn.cost is not None]
    return sum(known, Decimal()) if known else None


class Askers:
    """Which call of a model asked for a tool. `turns` are in their order."""

    def __init__(self, turns: list[Turn]) -> None:
        self._all = turns
        self._by_id: dict[str, list[Turn]] = {}
        self._by_name: dict[str, list[Turn]] = {}
        for turn in turns:
            for wanted in turn.wanted:
                self._by_id.setdefault(wanted.id, []).append(turn)
                self._by_name.setdefault(wanted.name, []).append(turn)

    def of(self, tool: Used) -> Turn | None:
        """By its id, else the last before it that names it, else the last before it."""
        by_id = self._by_id.get(tool.id, []) if tool.id else []
        for some in (by_id, self._by_name.get(tool.name, []), self._all):
            at = bisect.bisect_right(some, tool.step.scheduled_event_id, key=_scheduled)
            if at:
                return some[at - 1]
        return None


def _scheduled(turn: Turn) -> int:
    return turn.step.scheduled_event_id


def _text(part: Part) -> str:
    if part.kind == "tool_call":
        return visible(f"{part.name} {shown(part.value)}")
    if part.text:
        return visible(part.text)[:TEXT_CHARS_MAX]
    return shown(part.value) if part.kind == "tool_call_response" else visible(f"[{part.kind}]")


def shown(value: Any) -> str:
    """A value of JSON for reading: text as it is."""
    if value is None:
        return ""
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return visible(text)[:TEXT_CHARS_MAX]
