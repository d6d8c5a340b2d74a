"""Failures of the API as Nexus carries them over HTTP: JSON of a message, metadata and details.

A failure of the API travels in the details, under its own type, so that it comes back as it was
(`nexus_failures.from_nexus`).

Facts: Failure in the Nexus specification (nexus-rpc/api, SPEC.md) and in temporal/api/nexus/v1.
"""

import base64
import json
from typing import Any

from google.protobuf import json_format
from temporalio.api.failure.v1 import message_pb2 as failure
from temporalio.api.nexus.v1 import message_pb2 as nexus

from durably.service.nexus_failures import HANDLER_ERROR, RETRY_BEHAVIORS, TEMPORAL_FAILURE

UNWRAP = "unwrap-error"
"""Metadata of an error that is only there to carry its cause."""


def to_nexus(reason: failure.Failure) -> nexus.Failure:
    """A failure as Nexus carries it."""
    shown = whole(reason)
    if reason.HasField("cause"):
        shown.cause.CopyFrom(to_nexus(reason.cause))
    if reason.HasField("nexus_handler_failure_info"):
        shown.metadata["type"] = HANDLER_ERROR
        shown.details = compact(_handler_details(reason))
    return shown


def whole(reason: failure.Failure) -> nexus.Failure:
    """A failure of whatever kind as one of the API, its causes in the details."""
    shown = nexus.Failure(message=reason.message, stack_trace=reason.stack_trace)
    rest = failure.Failure()
    rest.CopyFrom(reason)
    rest.ClearField("message")
    rest.ClearField("stack_trace")
    shown.metadata["type"] = TEMPORAL_FAILURE
    shown.details = compact(json_format.MessageToDict(rest))
    return shown


def _handler_details(reason: failure.Failure) -> dict[str, Any]:
    info = reason.nexus_handler_failure_info
    details: dict[str, Any] = {"type": info.type} if info.type else {}
    for override, behavior in RETRY_BEHAVIORS.items():
        if info.retry_behavior == behavior:
            details["retryableOverride"] = override
    if reason.HasField("encoded_attributes"):
        encoded = compact(json_format.MessageToDict(reason.encoded_attributes))
        details["encodedAttributes"] = base64.urlsafe_b64encode(encoded).decode().rstrip("=")
    return details


def compact(value: Any) -> bytes:
    """Without spaces, in UTF-8."""
    return json.dumps(value, separators=(",", ":"), ensure_ascii=False).encode()


def to_json(shown: nexus.Failure) -> dict[str, Any]:
    """The JSON form; fields that are empty are left out, but for the message."""
    told: dict[str, Any] = {"message": shown.message}
    if shown.stack_trace:
        told["stackTrace"] = shown.stack_trace
    if shown.metadata:
        told["metadata"] = dict(shown.metadata)
    if shown.details:
        told["details"] = json.loads(shown.details)
    if shown.HasField("cause"):
        told["cause"] = to_json(shown.cause)
    return told


def encoded(reason: failure.Failure) -> bytes:
    """A failure as the body of a request or a reply."""
    return compact(to_json(to_nexus(reason)))


def from_json(told: Any) -> nexus.Failure:
    """Raises ValueError for what is no failure."""
    if not isinstance(told, dict):
        raise ValueError("a failure is a JSON object")
    metadata = told.get("metadata") or {}
    if not isinstance(metadata, dict):
        raise ValueError("the metadata of a failure is a JSON object")
    texts = (told.get("message") or "", told.get("stackTrace") or "", *metadata.values())
    if not all(isinstance(each, str) for each in texts):
        raise ValueError("the message, the stackTrace and the metadata of a failure are texts")
    shown = nexus.Failure(message=texts[0], stack_trace=texts[1], metadata=metadata)
    if told.get("details") is not None:
        shown.details = compact(told["details"])
    if told.get("cause") is not None:
        shown.cause.CopyFrom(from_json(told["cause"]))
    return shown


def unwrapped(shown: nexus.Failure) -> nexus.Failure:
    """What was meant by an error that only carries its cause."""
    if shown.metadata.get(UNWRAP) == "true" and shown.HasField("cause"):
        return shown.cause
    return shown
