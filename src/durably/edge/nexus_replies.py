"""Replies of Nexus over HTTP: statuses, headers, and failures as JSON.

Facts: https://github.com/nexus-rpc/api/blob/main/SPEC.md.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field

from temporalio.api.nexus.v1 import message_pb2 as nexus

from durably.edge.calls import Send
from durably.engine import nexus_outcome
from durably.engine.nexus_outcome import Refused, Started, StartOutcome, Succeeded, Unsuccessful
from durably.errors import Refusal
from durably.service import nexus_errors, nexus_failures, nexus_json, nexus_links
from durably.service.nexus_content import links_header, to_content
from durably.service.nexus_errors import RETRYABLE_HEADER, STATUSES
from durably.service.nexus_failures import RETRY_BEHAVIORS, TEMPORAL_FAILURE

SOURCE = "temporal-nexus-failure-source"
"""Header that says that it is the worker's doing, not the server's."""
STATE = "nexus-operation-state"
UNSUCCESSFUL_STATUS = 424
JSON = {"content-type": "application/json"}


@dataclass(frozen=True, slots=True)
class Answer:
    status: int
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes = b""


def of_outcome(outcome: StartOutcome, whole: bool) -> Answer:
    match outcome:
        case Succeeded():
            content, body = to_content(outcome.payload)
            headers = {f"content-{name}": value for name, value in content.items()}
            return Answer(200, headers | linked(outcome), body)
        case Started():
            body = json.dumps({"token": outcome.token, "state": "running"}).encode()
            return Answer(201, JSON | linked(outcome), body)
        case Unsuccessful():
            return unsuccessful(outcome, whole)
        case _:
            return refused(outcome, whole, by_worker=True)


def linked(outcome: Succeeded | Started) -> dict[str, str]:
    links = [shown for link in outcome.links if (shown := nexus_links.to_nexus(link)) is not None]
    return {"nexus-link": links_header(links)} if links else {}


def unsuccessful(outcome: Unsuccessful, whole: bool) -> Answer:
    state = "canceled" if outcome.canceled else "failed"
    cause = nexus_json.to_nexus(outcome.failure)
    shown = cause
    if whole:
        shown = nexus.Failure(message="operation error", cause=cause)
        shown.metadata["type"] = nexus_failures.OPERATION_ERROR
        shown.metadata[nexus_json.UNWRAP] = "true"
        shown.details = json.dumps({"state": state}).encode()
    headers = JSON | {STATE: state, SOURCE: "worker"}
    return Answer(UNSUCCESSFUL_STATUS, headers, _json(shown))


def refused(refusal: Refused, whole: bool, *, by_worker: bool = False) -> Answer:
    reason = refusal.failure
    info = reason.nexus_handler_failure_info
    status = STATUSES.get(info.type, 500)
    headers = dict(JSON)
    for override, behavior in RETRY_BEHAVIORS.items():
        if info.retry_behavior == behavior:
            headers[RETRYABLE_HEADER] = "true" if override else "false"
    if by_worker:
        headers[SOURCE] = "worker"
    if not whole and reason.HasField("cause"):
        shown = nexus_json.whole(reason.cause)
    else:
        shown = nexus_json.to_nexus(reason)
    return Answer(status, headers, _json(shown))


def of_refusal(refusal: Refusal, whole: bool) -> Answer:
    """What one of this server's own RPCs refuses."""
    reason = nexus_outcome.refused(nexus_errors.of_refusal(refusal), refusal.message)
    return refused(reason, whole)


def _json(shown: nexus.Failure) -> bytes:
    """A failure of the API that says nothing but its message needs no details."""
    told = nexus_json.to_json(shown)
    if shown.metadata.get("type") == TEMPORAL_FAILURE and shown.details == b"{}":
        told.pop("metadata")
        told.pop("details")
    return nexus_json.compact(told)


async def send_answer(send: Send, answer: Answer) -> None:
    headers = [(name.encode(), value.encode("latin-1")) for name, value in answer.headers.items()]
    headers.append((b"x-content-type-options", b"nosniff"))
    await send({"type": "http.response.start", "status": answer.status, "headers": headers})
    await send({"type": "http.response.body", "body": answer.body, "more_body": False})
