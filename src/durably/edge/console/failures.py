"""Failures as chains of causes, the outermost first. Pure. Facts: temporal/api/failure/v1/message.proto."""

from typing import Any

from temporalio.api.common.v1 import message_pb2 as common
from temporalio.api.enums.v1 import workflow_pb2 as workflow_enums
from temporalio.api.failure.v1 import message_pb2 as failures

from durably.edge.console import payloads
from durably.edge.console.rows import words

DEPTH_MAX = 20
STACK_CHARS_MAX = 8_000


def chain(failure: failures.Failure) -> list[dict[str, Any]]:
    """One entry per failure in the chain of causes."""
    found: list[dict[str, Any]] = []
    while len(found) < DEPTH_MAX:
        found.append(_one(failure))
        if not failure.HasField("cause"):
            break
        failure = failure.cause
    return found


def _one(failure: failures.Failure) -> dict[str, Any]:
    info = failure.WhichOneof("failure_info") or "failure"
    return {
        "kind": _kind(failure, info),
        "message": payloads.visible(failure.message)[:STACK_CHARS_MAX],
        "stack": payloads.visible(failure.stack_trace.strip())[:STACK_CHARS_MAX],
        "facts": _facts(failure, info),
        "details": [payloads.shown(each) for each in _details(failure, info)],
        "encoded": payloads.shown(failure.encoded_attributes)
        if failure.HasField("encoded_attributes")
        else None,
    }


def _kind(failure: failures.Failure, info: str) -> str:
    if info == "application_failure_info":
        return payloads.visible(failure.application_failure_info.type) or "Application failure"
    return info.removesuffix("_info").replace("_", " ").capitalize()


def _facts(failure: failures.Failure, info: str) -> list[str]:
    match info:
        case "application_failure_info":
            said = ["not retryable"] if failure.application_failure_info.non_retryable else []
        case "activity_failure_info":
            activity = failure.activity_failure_info
            said = [
                f"activity {activity.activity_type.name} {activity.activity_id}",
                words(workflow_enums.RetryState, activity.retry_state, "RETRY_STATE_").lower(),
            ]
        case "timeout_failure_info":
            kind = failure.timeout_failure_info.timeout_type
            said = [words(workflow_enums.TimeoutType, kind, "TIMEOUT_TYPE_").lower()]
        case "child_workflow_execution_failure_info":
            child = failure.child_workflow_execution_failure_info
            said = [f"child {child.workflow_type.name} {child.workflow_execution.workflow_id}"]
        case _:
            said = []
    return [
        payloads.visible(each)
        for each in [*said, failure.source and f"from {failure.source}"]
        if each
    ]


def _details(failure: failures.Failure, info: str) -> list[common.Payload]:
    match info:
        case "application_failure_info":
            return list(failure.application_failure_info.details.payloads)
        case "canceled_failure_info":
            return list(failure.canceled_failure_info.details.payloads)
        case "timeout_failure_info":
            return list(failure.timeout_failure_info.last_heartbeat_details.payloads)
        case _:
            return []
