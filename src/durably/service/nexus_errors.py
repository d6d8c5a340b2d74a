"""Handler errors of Nexus as HTTP statuses, and replies over HTTP as what they say.

Facts: "Handler errors" in the Nexus specification (nexus-rpc/api, SPEC.md): the body says it, else the
status does; a header, or the error itself, may say whether to ask again.
"""

import json
from collections.abc import Mapping
from typing import Any

from temporalio.api.failure.v1 import message_pb2 as failure
from temporalio.api.nexus.v1 import message_pb2 as nexus

from durably.engine.nexus_outcome import Refused, call_error, refused_with
from durably.errors import Refusal, Status
from durably.service import nexus_json
from durably.service.nexus_failures import HANDLER_ERROR, RETRY_BEHAVIORS, from_nexus

TYPES = {
    400: "BAD_REQUEST",
    401: "UNAUTHENTICATED",
    403: "UNAUTHORIZED",
    404: "NOT_FOUND",
    408: "REQUEST_TIMEOUT",
    409: "CONFLICT",
    429: "RESOURCE_EXHAUSTED",
    500: "INTERNAL",
    501: "NOT_IMPLEMENTED",
    503: "UNAVAILABLE",
    520: "UPSTREAM_TIMEOUT",
}
"""HTTP status -> the type of handler error that it stands for."""
STATUSES = {kind: status for status, kind in TYPES.items()}
RETRYABLE_HEADER = "nexus-request-retryable"
SAID_CHARS_MAX = 1_000

OF_REFUSALS = {
    Status.INVALID_ARGUMENT: ("BAD_REQUEST", "bad request"),
    Status.FAILED_PRECONDITION: ("BAD_REQUEST", "bad request"),
    Status.ALREADY_EXISTS: ("BAD_REQUEST", "bad request"),
    Status.OUT_OF_RANGE: ("BAD_REQUEST", "bad request"),
    Status.NOT_FOUND: ("NOT_FOUND", "not found"),
    Status.RESOURCE_EXHAUSTED: ("RESOURCE_EXHAUSTED", "resource exhausted"),
    Status.UNAVAILABLE: ("UNAVAILABLE", "service unavailable"),
    Status.ABORTED: ("UNAVAILABLE", "service unavailable"),
    Status.DEADLINE_EXCEEDED: ("UPSTREAM_TIMEOUT", "request timeout"),
    Status.UNIMPLEMENTED: ("NOT_IMPLEMENTED", "not implemented"),
    Status.PERMISSION_DENIED: ("UNAUTHORIZED", "permission denied"),
    Status.UNAUTHENTICATED: ("UNAUTHENTICATED", "authentication failed"),
}
"""gRPC status -> (type of handler error, what is said where the refusal's own words are not)."""


def of_refusal(refusal: Refusal) -> str:
    """The type of handler error that a refusal is."""
    return OF_REFUSALS.get(refusal.status, ("INTERNAL", ""))[0]


def of_reply(status: int, reason: str, headers: Mapping[str, str], body: bytes) -> Refused:
    """What a reply says that is no success. `headers`: found in lower case."""
    shown = _failure_in(body)
    if shown is not None and shown.metadata.get("type") == HANDLER_ERROR:
        made = _parsed(shown)
        if made is not None:
            return _overridden(made, headers)
    kind = TYPES.get(status)
    if kind is None:
        said = shown.message if shown is not None and shown.message else _text(body)
        text = f'unexpected response status: "{status} {reason}": {said}'
        return call_error(text, retryable=_override(headers) is not False)
    made = failure.Failure(nexus_handler_failure_info=failure.NexusHandlerFailureInfo(type=kind))
    cause = _parsed(shown) if shown is not None else None
    if cause is not None:
        made.cause.CopyFrom(cause)
    return _overridden(made, headers)


def _failure_in(body: bytes) -> nexus.Failure | None:
    try:
        return nexus_json.from_json(json.loads(body))
    except ValueError:
        return None


def _parsed(shown: nexus.Failure) -> failure.Failure | None:
    try:
        return from_nexus(shown)
    except (ValueError, AttributeError):
        return None  # Its details are not what it says they are.


def _text(body: bytes) -> str:
    return body[:SAID_CHARS_MAX].decode(errors="replace")


def _override(headers: Mapping[str, str]) -> bool | None:
    return {"true": True, "false": False}.get(headers.get(RETRYABLE_HEADER, ""))


def _overridden(made: failure.Failure, headers: Mapping[str, str]) -> Refused:
    override = _override(headers)
    info = made.nexus_handler_failure_info
    if override is not None and not info.retry_behavior:
        info.retry_behavior = RETRY_BEHAVIORS[override]
    return refused_with(made)


def told(refusal: Refused) -> str:
    """In one line, for people."""
    reason: Any = refusal.failure
    if not reason.HasField("nexus_handler_failure_info"):
        return str(reason.message)
    kind = reason.nexus_handler_failure_info.type
    return (
        f"handler error ({kind}): {reason.message}" if reason.message else f"handler error ({kind})"
    )
