"""What MCP servers and A2A agents say, as outcomes of Nexus operations; what is asked of them.

Rule 1: who asks for something ends the operation with a failure that says what (`agents.convention`): its
        caller goes on with another operation, `durably.answer`. Nothing waits meanwhile.
Rule 2: a token has all that is needed to ask again how a call stands: it is in the caller's history.
"""

import json
from collections.abc import Mapping
from typing import Any

from temporalio.api.common.v1 import message_pb2 as common
from temporalio.api.failure.v1 import message_pb2 as failure

from durably.agents.convention import INPUT_REQUIRED
from durably.engine.nexus_outcome import Refused, Started, Succeeded, Unsuccessful, call_error
from durably.engine.state import WATCHED
from durably.service.durable_calls import json_payload

TRACING = ("traceparent", "tracestate", "baggage")
"""Headers of an operation that are passed on."""


class Unreadable(Exception):
    """The input of an operation is not what it should be; `str()` says why."""


# --- Requests ---------------------------------------------------------------------------------


def input_of(payload: common.Payload) -> Any:
    """The value of an input; None: there is none. Raises Unreadable."""
    encoding = payload.metadata.get("encoding", b"")
    if not payload.ByteSize() or encoding == b"binary/null":
        return None
    if encoding not in (b"json/plain", b"json/protobuf"):
        said = encoding.decode(errors="replace") or "none"
        raise Unreadable(f"the input must be JSON; its encoding is {said}")
    try:
        return json.loads(payload.data)
    except ValueError as error:
        raise Unreadable(f"the input is no JSON: {error}") from error


def answer_of(value: Any) -> tuple[Mapping[str, Any], Mapping[str, Any]]:
    """(call, answers) of the input of `durably.answer`. Raises Unreadable."""
    if isinstance(value, dict):
        call, answers = value.get("call"), value.get("answers")
        if isinstance(call, dict) and isinstance(answers, dict) and answers:
            return call, answers
    raise Unreadable(
        'the input must be {"call": ..., "answers": {KEY: response}}, with the call that the failure'
        f" {INPUT_REQUIRED} had in its details"
    )


# --- Tokens -----------------------------------------------------------------------------------


def started(known: Mapping[str, Any], bytes_max: int) -> Started | Refused:
    """It goes on; `known` is what `known_of` gives back."""
    token = WATCHED + json.dumps(known, separators=(",", ":"), sort_keys=True)
    size = len(token.encode())
    if size > bytes_max:
        message = f"operation token length exceeds allowed limit ({size}/{bytes_max})"
        return call_error(message, retryable=False)
    return Started(token)


def known_of(token: str) -> Mapping[str, Any]:
    """Raises ValueError for a token that was not made here."""
    found = json.loads(token.removeprefix(WATCHED))
    if not isinstance(found, dict) or not isinstance(found.get("task"), str):
        raise ValueError("the token names no task")
    return found


# --- Ends -------------------------------------------------------------------------------------


def succeeded(value: Any) -> Succeeded:
    return Succeeded(json_payload(value))


def failed(kind: str, message: str, details: Any = None) -> Unsuccessful:
    """`kind`: the type of an application failure."""
    info = failure.ApplicationFailureInfo(type=kind, non_retryable=True)
    if details is not None:
        info.details.payloads.append(json_payload(details))
    return Unsuccessful(failure.Failure(message=message, application_failure_info=info))


def canceled(message: str) -> Unsuccessful:
    made = failure.Failure(message=message or "operation canceled")
    made.canceled_failure_info.SetInParent()
    return Unsuccessful(made)


def input_required(
    call: Mapping[str, Any], questions: Mapping[str, Any], message: str
) -> Unsuccessful:
    """`questions`: requests of MCP to its clients, by their key."""
    return failed(INPUT_REQUIRED, message, {"call": dict(call), "questions": dict(questions)})
