"""Executions and statuses as rows of lists show them. Pure."""

from typing import Any

from temporalio.api.enums.v1 import activity_pb2 as activity_enums
from temporalio.api.enums.v1 import workflow_pb2 as workflow_enums
from temporalio.api.workflow.v1 import message_pb2 as workflow_messages

from durably.edge.console import payloads
from durably.edge.console.units import enum_words, nanoseconds

STATUSES = (
    "Running",
    "Paused",
    "Completed",
    "Failed",
    "TimedOut",
    "Canceled",
    "Terminated",
    "ContinuedAsNew",
)
"""The order in which statuses are shown, named as a List Filter names them."""


def status_of(status: int) -> str:
    """As a List Filter names it: `TimedOut`."""
    try:
        name = workflow_enums.WorkflowExecutionStatus.Name(status)  # type: ignore[arg-type]
    except ValueError:
        return "Unknown"
    return _camel(name.removeprefix("WORKFLOW_EXECUTION_STATUS_"))


def activity_status_of(status: int) -> str:
    try:
        name = activity_enums.ActivityExecutionStatus.Name(status)  # type: ignore[arg-type]
    except ValueError:
        return "Unknown"
    return _camel(name.removeprefix("ACTIVITY_EXECUTION_STATUS_"))


def _camel(name: str) -> str:
    return "".join(part.capitalize() for part in name.split("_"))


def workflow_row(info: workflow_messages.WorkflowExecutionInfo) -> dict[str, Any]:
    begin_ns, end_ns = nanoseconds(info.start_time), nanoseconds(info.close_time)
    return {
        "status": status_of(info.status),
        "workflow_id": info.execution.workflow_id,
        "run_id": info.execution.run_id,
        "type": info.type.name,
        "task_queue": info.task_queue,
        "start_ns": begin_ns,
        "close_ns": end_ns,
        "duration_ns": end_ns - begin_ns if end_ns else 0,
        "history_length": info.history_length,
        "history_bytes": info.history_size_bytes,
        "attributes": {
            name: payloads.plain(each)
            for name, each in sorted(info.search_attributes.indexed_fields.items())
        },
    }


def words(enum: Any, value: int, prefix: str) -> str:
    """A value of one of the API's enumerations, in words."""
    try:
        return enum_words(enum.Name(value), prefix)
    except ValueError:
        return f"unknown ({value})"
