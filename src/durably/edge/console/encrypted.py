"""Agent runs whose payloads are encrypted: what a browser needs to decode them, and the run with the
outlines that it sends back. Pure.

Rule 1: an outline has the words, counts and names of `durably.agents.vocabulary`, and a placeholder for
        everything else: what was said stays in the browser, which puts it where the placeholders are.
Rule 2: an outline is only looked at where the history has the encrypted payload that it is of.
"""

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping

from temporalio.api.common.v1 import message_pb2 as common
from temporalio.api.failure.v1 import message_pb2 as failures
from temporalio.api.history.v1 import message_pb2 as history

from durably.edge.console.payloads import is_encrypted

FAILURES = {
    "activity_task_started_event_attributes": "last_failure",
    "activity_task_failed_event_attributes": "failure",
    "activity_task_timed_out_event_attributes": "failure",
}
CAUSES_MAX = 20


def locked(event: history.HistoryEvent) -> Iterator[common.Payload]:
    """The encrypted payloads of an event from which an agent run is read."""
    for payload in _payloads(event):
        if is_encrypted(payload):
            yield payload
    for failure in _failures(event):
        if is_encrypted(failure.encoded_attributes):
            yield failure.encoded_attributes


def key(payload: common.Payload) -> str:
    """The same for the same payload."""
    return hashlib.sha256(payload.data).hexdigest()[:32]


def outlined(
    events: Iterable[history.HistoryEvent], outlines: Mapping[str, str]
) -> Iterator[history.HistoryEvent]:
    """The events with outlines, which are JSON, for those of their payloads that have one."""
    for event in events:
        if next(locked(event), None) is None:
            yield event
            continue
        known = history.HistoryEvent()
        known.CopyFrom(event)
        for payload in _payloads(known):
            if is_encrypted(payload) and (found := outlines.get(key(payload))) is not None:
                payload.CopyFrom(_json(found))
        for failure in _failures(known):
            found = outlines.get(key(failure.encoded_attributes))
            if is_encrypted(failure.encoded_attributes) and found is not None:
                failure.message = _message(found) or failure.message
                failure.encoded_attributes.CopyFrom(_json(found))
        yield known


def _payloads(event: history.HistoryEvent) -> Iterator[common.Payload]:
    if event.HasField("activity_task_scheduled_event_attributes"):
        yield from event.activity_task_scheduled_event_attributes.input.payloads
    elif event.HasField("activity_task_completed_event_attributes"):
        yield from event.activity_task_completed_event_attributes.result.payloads


def _failures(event: history.HistoryEvent) -> Iterator[failures.Failure]:
    """The failure that an event tells of, and its causes."""
    kind = event.WhichOneof("attributes") or ""
    if kind not in FAILURES or not getattr(event, kind).HasField(FAILURES[kind]):
        return
    failure = getattr(getattr(event, kind), FAILURES[kind])
    for _ in range(CAUSES_MAX):
        yield failure
        if not failure.HasField("cause"):
            return
        failure = failure.cause


def _json(outline: str) -> common.Payload:
    data = outline.encode("utf-8", "replace")
    return common.Payload(metadata={"encoding": b"json/plain"}, data=data)


def _message(outline: str) -> str:
    try:
        found = json.loads(outline)
    except (ValueError, RecursionError):
        return ""
    message = found.get("message") if isinstance(found, dict) else None
    return message.encode("utf-8", "replace").decode() if isinstance(message, str) else ""
