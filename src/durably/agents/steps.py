"""The activities of a run, in the order in which they were scheduled, with the calls they made.

Rule 1: events are taken one by one, in their order; what is held is what is pending, and the tools that
        models have asked for.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field, replace

from google.protobuf.timestamp_pb2 import Timestamp
from temporalio.api.failure.v1 import message_pb2 as failure
from temporalio.api.history.v1 import message_pb2 as history

from durably.agents.calls import Call, Json, ModelCall, Part, ToolCall
from durably.agents.decoders import decode
from durably.agents.payloads import Opaque, is_encrypted, read_all

ENDS = {
    "activity_task_completed_event_attributes": "completed",
    "activity_task_failed_event_attributes": "failed",
    "activity_task_timed_out_event_attributes": "timed out",
    "activity_task_canceled_event_attributes": "canceled",
}


@dataclass(slots=True)
class Step:
    """One activity. Times are nanoseconds since the epoch; 0: not yet, or never."""

    scheduled_event_id: int
    activity_id: str
    activity_type: str
    task_queue: str
    scheduled_ns: int
    started_ns: int = 0
    """Of its last attempt."""
    ended_ns: int = 0
    attempt: int = 1
    """The last."""
    status: str = "pending"
    """pending, completed, failed, timed out or canceled."""
    failure_type: str = ""
    is_encrypted: bool = False
    """One of its arguments is, or its result."""
    calls: list[Call] = field(default_factory=list)

    @property
    def model_calls(self) -> list[ModelCall]:
        return [call for call in self.calls if isinstance(call, ModelCall)]

    @property
    def tool_calls(self) -> list[ToolCall]:
        return [call for call in self.calls if isinstance(call, ToolCall)]


@dataclass(frozen=True, slots=True)
class Asked:
    """A call of a tool, as a model asked for it."""

    framework: str
    agent: str
    part: Part

    def fits(self, inputs: list[Json | Opaque]) -> bool:
        """Whether an activity with these arguments can be it: each of the call's is one of them."""
        given = self.part.value
        return given in inputs or (
            isinstance(given, dict) and all(value in inputs for value in given.values())
        )


@dataclass(slots=True)
class Pending:
    step: Step
    inputs: list[Json | Opaque]
    asked: Asked | None
    """The call that it may be: it has the name of a tool that a model asked for."""


class StepReader:
    """Takes the events of one run; gives each activity when it has ended."""

    def __init__(self) -> None:
        self._pending: dict[int, Pending] = {}
        self._asked: list[Asked] = []
        """The calls of tools that no activity was seen for yet."""

    def take(self, event: history.HistoryEvent) -> Step | None:
        """The activity that this event ends."""
        kind = event.WhichOneof("attributes")
        if kind == "activity_task_scheduled_event_attributes":
            self._schedule(event)
        elif kind == "activity_task_started_event_attributes":
            started = event.activity_task_started_event_attributes
            found = self._pending.get(started.scheduled_event_id)
            if found is not None:
                found.step.started_ns = nanoseconds(event.event_time)
                found.step.attempt = max(1, started.attempt)
        elif kind in ENDS:
            return self._end(event, kind)
        return None

    def pending(self) -> list[Step]:
        """The activities that have not ended, with what is known of their calls."""
        for each in self._pending.values():
            each.step.calls = self._calls(each, None)
        return [each.step for each in self._pending.values()]

    def _schedule(self, event: history.HistoryEvent) -> None:
        scheduled = event.activity_task_scheduled_event_attributes
        step = Step(
            scheduled_event_id=event.event_id,
            activity_id=scheduled.activity_id,
            activity_type=scheduled.activity_type.name,
            task_queue=scheduled.task_queue.name,
            scheduled_ns=nanoseconds(event.event_time),
        )
        inputs = read_all(scheduled.input.payloads)
        step.is_encrypted = any(map(_is_encrypted, inputs))
        self._pending[event.event_id] = Pending(step, inputs, self._claim(step, inputs))

    def _end(self, event: history.HistoryEvent, kind: str) -> Step | None:
        ended = getattr(event, kind)
        found = self._pending.pop(ended.scheduled_event_id, None)
        if found is None:
            return None
        step = found.step
        step.ended_ns = nanoseconds(event.event_time)
        step.status = ENDS[kind]
        output: Json | Opaque = None
        if step.status == "completed":
            output = next(iter(read_all(ended.result.payloads)), None)
            step.is_encrypted = step.is_encrypted or _is_encrypted(output)
        elif step.status in ("failed", "timed out"):
            step.failure_type = failure_type(ended.failure)
        step.calls = self._calls(found, output)
        for call in step.calls:
            if isinstance(call, ModelCall):
                self._asked += [Asked(call.framework, call.agent, p) for p in call.tools_asked]
        return step

    def _calls(self, pending: Pending, output: Json | Opaque) -> list[Call]:
        asked = pending.asked
        calls = decode(pending.step.activity_type, pending.inputs, output)
        if calls:
            ids = {call.id for call in calls if isinstance(call, ToolCall)}
            self._asked = [each for each in self._asked if each.part.id not in ids]
            return [_identified(call, asked) for call in calls]
        if asked is None:
            return []
        part, result = asked.part, None if isinstance(output, Opaque) else output
        return [ToolCall(asked.framework, asked.agent, part.name, part.id, part.value, result)]

    def _claim(self, step: Step, inputs: list[Json | Opaque]) -> Asked | None:
        """The call of a tool that an activity is: one of its tool, or, where nothing else says that it
        is one, of its own name. Where a model asked for a tool several times at once, the call's id
        tells them apart, else their arguments, else their order."""
        calls = decode(step.activity_type, inputs, None)
        tool = next((call for call in calls if isinstance(call, ToolCall)), None)
        if calls and tool is None:
            return None
        name = step.activity_type if tool is None else tool.name
        given = inputs if tool is None else [tool.arguments]
        same = [each for each in self._asked if each.part.name == name]
        by_id = [each for each in same if tool is not None and each.part.id == tool.id]
        found = next(iter([*by_id, *(each for each in same if each.fits(given)), *same]), None)
        if found is not None:
            self._asked.remove(found)
        return found


def _is_encrypted(value: Json | Opaque) -> bool:
    return isinstance(value, Opaque) and is_encrypted(value.encoding)


def _identified(call: Call, asked: Asked | None) -> Call:
    """With the id that the model gave it: some frameworks give the activity another, or none."""
    if asked is None or not isinstance(call, ToolCall):
        return call
    return replace(call, id=asked.part.id)


def steps(events: Iterable[history.HistoryEvent]) -> list[Step]:
    """All activities of a history."""
    reader = StepReader()
    ended = [step for event in events if (step := reader.take(event)) is not None]
    return sorted([*ended, *reader.pending()], key=lambda step: step.scheduled_event_id)


def nanoseconds(at: Timestamp) -> int:
    return at.seconds * 1_000_000_000 + at.nanos


def failure_type(found: failure.Failure) -> str:
    """What kind of failure it is: its type if it has one, else what the API calls it."""
    if found.application_failure_info.type:
        return found.application_failure_info.type
    kind = found.WhichOneof("failure_info") or "failure"
    return kind.removesuffix("_info")
