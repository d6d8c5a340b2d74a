"""One event as the pages show it: its name, one line of what it says, all its fields. Pure."""

import json
from collections.abc import Callable
from typing import Any

from google.protobuf import json_format
from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.duration_pb2 import Duration
from google.protobuf.message import Message
from google.protobuf.timestamp_pb2 import Timestamp
from temporalio.api.common.v1 import message_pb2 as common
from temporalio.api.enums.v1 import event_type_pb2 as event_types
from temporalio.api.enums.v1 import task_queue_pb2 as queue_enums
from temporalio.api.failure.v1 import message_pb2 as failure_messages
from temporalio.api.history.v1 import message_pb2 as history

from durably.edge.console import failures, payloads, units
from durably.edge.console.timeline import PREFIX, line_of

FIELD_CHARS_MAX = 16_000
JSON_CHARS_MAX = 4_000
"""Of one event in a page of many."""
FIELDS_DEPTH_MAX = 6
LIST_SHOWN_MAX = 50
BAD_ENDINGS = ("Failed", "TimedOut", "Terminated")


def name_of(event: history.HistoryEvent) -> str:
    """As SDKs and documentation write it: `ActivityTaskScheduled`."""
    try:
        name = event_types.EventType.Name(event.event_type).removeprefix(PREFIX)
    except ValueError:
        return f"Event of type {event.event_type}"
    return "".join(part.capitalize() for part in name.split("_"))


def group_of(name: str) -> str:
    """The class that colours an event."""
    if name.endswith(BAD_ENDINGS):
        return "failed"
    for begin, group in (
        ("ActivityTask", "activity"),
        ("Timer", "timer"),
        ("WorkflowTask", "workflow-task"),
        ("NexusOperation", "nexus"),
        ("WorkflowExecutionUpdate", "update"),
        ("WorkflowExecutionSignaled", "signal"),
        ("Marker", "marker"),
    ):
        if name.startswith(begin):
            return group
    return "child" if "Child" in name else "workflow"


def attributes_of(event: history.HistoryEvent) -> Any:
    kind = event.WhichOneof("attributes")
    return getattr(event, kind) if kind else None


def line(event: history.HistoryEvent) -> str:
    """One line that tells it from its neighbours."""
    attributes = attributes_of(event)
    if attributes is None:
        return ""
    says = LINES.get(attributes.DESCRIPTOR.name.removesuffix("EventAttributes"))
    if says is not None:
        return payloads.visible(says(attributes))[:300]
    fields = attributes.DESCRIPTOR.fields_by_name
    if "failure" in fields and attributes.HasField("failure"):
        return line_of(attributes.failure)
    if "result" in fields and isinstance(attributes.result, common.Payloads):
        return payloads.briefs(attributes.result)
    return ""


LINES: dict[str, Callable[[Any], str]] = {
    "WorkflowExecutionStarted": lambda a: f"{a.workflow_type.name}({payloads.briefs(a.input)})",
    "ActivityTaskScheduled": lambda a: f"{a.activity_type.name}({payloads.briefs(a.input)})",
    "ActivityTaskStarted": lambda a: (
        f"attempt {a.attempt} on {a.identity}"
        + (f" after {line_of(a.last_failure)}" if a.HasField("last_failure") else "")
    ),
    "TimerStarted": lambda a: (
        f"timer {a.timer_id}, {units.duration_text(units.nanoseconds(a.start_to_fire_timeout))}"
    ),
    "TimerFired": lambda a: f"timer {a.timer_id}",
    "TimerCanceled": lambda a: f"timer {a.timer_id}",
    "WorkflowTaskScheduled": lambda a: f"on {a.task_queue.name}",
    "WorkflowTaskStarted": lambda a: f"by {a.identity}",
    "WorkflowTaskCompleted": lambda a: f"by {a.identity}",
    "WorkflowExecutionSignaled": lambda a: f"{a.signal_name}({payloads.briefs(a.input)})",
    "WorkflowExecutionTerminated": lambda a: f"{a.reason} by {a.identity}",
    "WorkflowExecutionUpdateAccepted": lambda a: (
        f"{a.accepted_request.input.name}({payloads.briefs(a.accepted_request.input.args)})"
    ),
    "WorkflowExecutionUpdateCompleted": lambda a: (
        line_of(a.outcome.failure)
        if a.outcome.HasField("failure")
        else payloads.briefs(a.outcome.success)
    ),
    "MarkerRecorded": lambda a: a.marker_name,
    "StartChildWorkflowExecutionInitiated": lambda a: (
        f"{a.workflow_type.name} {a.workflow_id} ({payloads.briefs(a.input)})"
    ),
    "ChildWorkflowExecutionStarted": lambda a: a.workflow_execution.workflow_id,
    "SignalExternalWorkflowExecutionInitiated": lambda a: (
        f"{a.signal_name} to {a.workflow_execution.workflow_id}"
    ),
    "NexusOperationScheduled": lambda a: f"{a.endpoint} {a.service}.{a.operation}",
    "WorkflowExecutionPaused": lambda a: f"{a.reason} by {a.identity}",
    "WorkflowExecutionContinuedAsNew": lambda a: f"as run {a.new_execution_run_id}",
}
"""By the event's attributes; those that are not here show their failure or their result."""


def row_of(event: history.HistoryEvent) -> dict[str, Any]:
    name = name_of(event)
    return {
        "id": event.event_id,
        "name": name,
        "group": group_of(name),
        "time_ns": units.nanoseconds(event.event_time),
        "line": line(event),
        "resets_here": name == "WorkflowTaskCompleted",
    }


def json_of(event: history.HistoryEvent, indent: int | None = 2) -> str:
    """Protobuf's JSON, which the `temporal` CLI writes and SDKs replay."""
    return json_format.MessageToJson(event, indent=indent, ensure_ascii=True)


# --- All fields of a message ------------------------------------------------------------------


def fields_of(message: Message, depth: int = 0) -> list[dict[str, Any]]:
    """The fields that are set: each with a name and a text, payloads, a failure, or fields of its own.

    What people look for, payloads and failures, comes first; timeouts of nothing are left out.
    """
    found: list[dict[str, Any]] = []
    for field, value in message.ListFields():
        if not (isinstance(value, Duration) and not units.nanoseconds(value)):
            found += _field(field, value, depth)
    return sorted(found, key=lambda each: "payloads" not in each and "failure" not in each)


def _field(field: FieldDescriptor, value: Any, depth: int) -> list[dict[str, Any]]:
    name = field.name.replace("_", " ")
    if field.message_type is not None and field.message_type.GetOptions().map_entry:
        inner = [_item(str(key), value[key], depth) for key in sorted(value)[:LIST_SHOWN_MAX]]
        return [{"name": name, "fields": inner}] if inner else []
    if field.is_repeated:
        items = [_item(str(i), each, depth, field) for i, each in enumerate(value[:LIST_SHOWN_MAX])]
        return [{"name": name, "fields": items}]
    item = _item(name, value, depth, field)
    return [item] if item else []


def _queue(value: Any) -> str:
    sticky = value.kind == queue_enums.TASK_QUEUE_KIND_STICKY
    return f"{value.name} (sticky, of {value.normal_name})" if sticky else value.name


IN_ONE_LINE: dict[str, Callable[[Any], str]] = {
    "temporal.api.common.v1.ActivityType": lambda value: value.name,
    "temporal.api.common.v1.WorkflowType": lambda value: value.name,
    "temporal.api.common.v1.WorkflowExecution": lambda value: (
        f"{value.workflow_id} · run {value.run_id}" if value.run_id else value.workflow_id
    ),
    "temporal.api.taskqueue.v1.TaskQueue": _queue,
}
"""Messages that are read at a glance, by their name."""


def _item(
    name: str, value: Any, depth: int, field: FieldDescriptor | None = None
) -> dict[str, Any]:
    match value:
        case common.Payload():
            return {"name": name, "payloads": [payloads.shown(value)]}
        case common.Payloads():
            return {"name": name, "payloads": [payloads.shown(p) for p in value.payloads]}
        case failure_messages.Failure():
            return {"name": name, "failure": failures.chain(value)}
        case Timestamp():
            return {"name": name, "time_ns": units.nanoseconds(value)}
        case Duration():
            return {"name": name, "text": units.duration_text(units.nanoseconds(value))}
        case Message() if value.DESCRIPTOR.full_name in IN_ONE_LINE:
            text = IN_ONE_LINE[value.DESCRIPTOR.full_name](value)
            return {"name": name, "text": payloads.visible(text)[:FIELD_CHARS_MAX]}
        case Message():
            if depth >= FIELDS_DEPTH_MAX:
                return {"name": name, "text": "…"}
            inner = fields_of(value, depth + 1)
            return {"name": name, "fields": inner}
        case bytes():
            return {"name": name, "text": f"{len(value)} bytes: {value[:64].hex(' ')}"}
    if field is not None and field.enum_type is not None:
        known = field.enum_type.values_by_number.get(value)
        return {"name": name, "text": known.name if known else str(value)}
    return {"name": name, "text": payloads.visible(str(value))[:FIELD_CHARS_MAX]}


def document(events: list[history.HistoryEvent]) -> str:
    """Events as one JSON document, for reading: large payloads are cut out."""
    shown = []
    for event in events:
        text = json_of(event, None)
        if len(text) > JSON_CHARS_MAX:
            text = json.dumps(
                {
                    "eventId": str(event.event_id),
                    "eventType": name_of(event),
                    "leftOut": f"{len(text)} characters: download the history to read them",
                }
            )
        shown.append(json.loads(text))
    return payloads.visible(json.dumps(shown, indent=2, ensure_ascii=False))
