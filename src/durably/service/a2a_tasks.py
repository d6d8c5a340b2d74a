"""Calls as tasks of A2A: the shapes of its JSON, from what is known of an execution.

Facts: https://a2a-protocol.org/v1.0.0/specification.
"""

import json
from collections.abc import Iterable, Iterator, Mapping
from datetime import UTC, datetime
from typing import Any

from temporalio.api.common.v1 import message_pb2 as common
from temporalio.api.failure.v1 import message_pb2 as failures
from temporalio.api.history.v1 import message_pb2 as history

from durably.agents.convention import MEMO_OUTPUT, MEMO_QUESTIONS, Piece
from durably.engine.callback.completion import Completion
from durably.engine.callback.state import FOLLOWS_HEADER
from durably.errors import InvalidArgument
from durably.service.durable_calls import (
    CANCELED,
    COMPLETED,
    FAILED,
    INPUT_REQUIRED,
    TIMED_OUT,
    WORKING,
    Seen,
    questions_of,
    value_of,
)
from durably.service.run_history import piece_of, upserted

BY = "a2a"
PUSH_HEADER = "durably-a2a-task"
"""Header of a callback that is a push notification: the ids of its task as JSON. It is not sent."""
PUSH_IDS = ("id", "contextId", "configId")
OWN_HEADERS = (PUSH_HEADER, FOLLOWS_HEADER)
"""Headers of a callback that are for this server, and are not sent."""
TOKEN_HEADER = "x-a2a-notification-token"
RESULT = "result"
"""The id of the artifact that is the result."""

STATES = {
    WORKING: "TASK_STATE_WORKING",
    INPUT_REQUIRED: "TASK_STATE_INPUT_REQUIRED",
    COMPLETED: "TASK_STATE_COMPLETED",
    FAILED: "TASK_STATE_FAILED",
    TIMED_OUT: "TASK_STATE_FAILED",
    CANCELED: "TASK_STATE_CANCELED",
}

Json = dict[str, Any]


def task(seen: Seen, pieces: Iterable[Piece], history_length: int | None = None) -> Json:
    """`pieces`: what it published, in order. `history_length` None: all messages."""
    shown = _bare(seen.begun, seen.call_id)
    shown["status"] = status(seen)
    artifacts = artifacts_of(pieces)
    if seen.phase == COMPLETED:
        artifacts.append(_result(seen.result))
    if artifacts:
        shown["artifacts"] = artifacts
    if history_length != 0 and seen.begun.get("message"):
        shown["history"] = [seen.begun["message"]]
    return shown


def _bare(begun: Mapping[str, Any], call_id: str) -> Json:
    return {"id": call_id, "contextId": str(begun.get("context", ""))}


def status(seen: Seen) -> Json:
    shown: Json = {"state": STATES[seen.phase], "timestamp": _time(seen.changed_ns)}
    text = seen.message
    if seen.failure is not None:
        text = _innermost(seen.failure)
    elif seen.phase == TIMED_OUT:
        text = "it timed out"
    if text:
        shown["message"] = message(seen.begun, seen.call_id, seen.phase, text)
        if seen.questions:
            asked = {key: each.params for key, each in seen.questions.items()}
            shown["message"]["metadata"] = {"durably.questions": asked}
    return shown


def message(begun: Mapping[str, Any], call_id: str, name: str, text: str) -> Json:
    """What the agent says. Its id is the same whenever it is told."""
    return {
        "messageId": f"{call_id}-{name}",
        "taskId": call_id,
        "contextId": str(begun.get("context", "")),
        "role": "ROLE_AGENT",
        "parts": [{"text": text}],
    }


def status_update(begun: Mapping[str, Any], call_id: str, shown: Json) -> Json:
    """A TaskStatusUpdateEvent."""
    return {"taskId": call_id, "contextId": str(begun.get("context", "")), "status": shown}


def artifact_update(
    begun: Mapping[str, Any], call_id: str, shown: Json, *, append: bool = False
) -> Json:
    """A TaskArtifactUpdateEvent."""
    ids = {"taskId": call_id, "contextId": str(begun.get("context", ""))}
    return {**ids, "artifact": shown, "append": append}


def piece_update(begun: Mapping[str, Any], call_id: str, piece: Piece, name: str) -> Json:
    """A StreamResponse that tells a piece of output. `name` is the same whenever it is told."""
    if piece.kind == "artifact":
        shown = artifact_update(begun, call_id, artifact(piece), append=piece.append)
        return {"artifactUpdate": shown}
    text = piece.value if isinstance(piece.value, str) else json.dumps(piece.value)
    said = {"state": STATES[WORKING], "message": message(begun, call_id, name, text)}
    return {"statusUpdate": status_update(begun, call_id, said)}


def artifacts_of(pieces: Iterable[Piece]) -> list[Json]:
    """Pieces of the same name are one artifact."""
    found: dict[str, Json] = {}
    for piece in pieces:
        if piece.kind != "artifact":
            continue
        made = artifact(piece)
        before = found.get(made["artifactId"])
        if before is not None and piece.append:
            before["parts"] += made["parts"]
        else:
            found[made["artifactId"]] = made
    return list(found.values())


def artifact(piece: Piece) -> Json:
    name = piece.name or "output"
    return {"artifactId": name, "name": name, "parts": [part(piece.value)]}


def _result(value: Any) -> Json:
    return {"artifactId": RESULT, "name": RESULT, "parts": [part(value)]}


def result_artifact(seen: Seen) -> Json:
    return _result(seen.result)


def part(value: Any) -> Json:
    return {"text": value} if isinstance(value, str) else {"data": value}


def _innermost(failure: failures.Failure) -> str:
    while failure.HasField("cause"):
        failure = failure.cause
    return str(failure.message)


def _time(nanoseconds: int) -> str:
    moment = datetime.fromtimestamp(nanoseconds / 1e9, UTC)
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")


# --- Push notifications -----------------------------------------------------------------------


def push_callback(
    seen_id: str, context_id: str, url: str, config_id: str, token: str, authorization: str
) -> common.Callback:
    """The callback that tells `url` of what becomes of a task, and of its end."""
    ids = dict(zip(PUSH_IDS, (seen_id, context_id, config_id), strict=True))
    header = {
        PUSH_HEADER: json.dumps(ids, separators=(",", ":")),
        FOLLOWS_HEADER: f"{MEMO_QUESTIONS},{MEMO_OUTPUT}",
    }
    if token:
        header[TOKEN_HEADER] = token
    if authorization:
        header["authorization"] = authorization
    return common.Callback(nexus=common.Callback.Nexus(url=url, header=header))


def check_push(url: str, ids: str) -> None:
    """Raises InvalidArgument for what no push notification can be made of."""
    if not url.startswith(("http://", "https://")):
        raise InvalidArgument("push notifications go to an http or https URL")
    try:
        known = json.loads(ids)
    except ValueError:
        known = None
    if not isinstance(known, dict) or not all(isinstance(known.get(i), str) for i in PUSH_IDS):
        raise InvalidArgument(
            f"invalid header: {PUSH_HEADER} is a JSON object with the texts {', '.join(PUSH_IDS)}"
        )


def push_config(callback: common.Callback) -> Json | None:
    """The TaskPushNotificationConfig that a callback was made for; None: it is none."""
    header = callback.nexus.header
    if PUSH_HEADER not in header:
        return None
    known = json.loads(header[PUSH_HEADER])
    shown: Json = {"id": known["configId"], "taskId": known["id"], "url": callback.nexus.url}
    if header.get(TOKEN_HEADER):
        shown["token"] = header[TOKEN_HEADER]
    if header.get("authorization"):
        scheme, _, credentials = header["authorization"].partition(" ")
        shown["authentication"] = {"scheme": scheme, "credentials": credentials}
    return shown


def push_request(ids: str, completion: Completion) -> tuple[dict[str, str], bytes]:
    """(headers, body) of the notification of an end: a StreamResponse with the task."""
    known = json.loads(ids)
    phase = {"succeeded": COMPLETED, "failed": FAILED}.get(completion.state, CANCELED)
    seen = Seen(
        known["id"],
        {"context": known["contextId"]},
        phase,
        completion.start_ns,
        completion.close_ns,
        result=value_of(completion.result) if completion.result is not None else None,
        failure=completion.failure if phase == FAILED else None,
    )
    return _push({"task": task(seen, ())})


def push_updates(
    ids: str, run_id: str, event: history.HistoryEvent
) -> Iterator[tuple[dict[str, str], bytes]]:
    """(headers, body) of each notification of what this event says: questions that are asked or were
    answered, status texts, artifacts. Most events say nothing."""
    if not upserted(event):
        return
    known = json.loads(ids)
    begun = {"context": known["contextId"]}
    memo = event.workflow_properties_modified_event_attributes.upserted_memo
    if MEMO_QUESTIONS in memo.fields:
        questions = questions_of(memo)
        seen = Seen(
            known["id"],
            begun,
            INPUT_REQUIRED if questions else WORKING,
            created_ns=0,
            changed_ns=event.event_time.ToNanoseconds(),
            questions=questions,
            message=next((each.message for each in questions.values()), ""),
        )
        yield _push({"statusUpdate": status_update(begun, known["id"], status(seen))})
    piece = piece_of(event)
    if piece is not None and piece.kind in ("status", "artifact"):
        name = f"{run_id}-{event.event_id}"
        yield _push(piece_update(begun, known["id"], piece, name))


def _push(response: Json) -> tuple[dict[str, str], bytes]:
    body = json.dumps(response, ensure_ascii=False).encode()
    return {"user-agent": "durably", "content-type": "application/json"}, body
