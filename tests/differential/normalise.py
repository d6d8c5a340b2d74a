"""What two servers may say differently without differing, taken out of what they say.

Rule 1: each omission is named here, with its reason; everything else is compared.
"""

import base64
import contextlib
import json
import re
from collections.abc import Sequence
from typing import Any

from google.protobuf.json_format import MessageToDict
from google.protobuf.message import Message

OMITTED = {
    # When it happened, and where it is kept.
    "eventTime": "time",
    "taskId": "a place in the server's own log",
    "version": "a counter of data centres",
    "historySizeBytes": "how the server encodes",
    "lastHeartbeatTime": "time",
    "lastAttemptCompleteTime": "time",
    "lastStartedTime": "time",
    "scheduledTime": "time",
    "startTime": "time",
    "closeTime": "time",
    "executionTime": "time",
    "executionDuration": "time",
    "expirationTime": "time",
    "workflowExecutionExpirationTime": "time",
    "createTime": "time",
    "routingChangedTime": "time",
    "routingUpdateTime": "time",
    "currentSinceTime": "time",
    "rampingSinceTime": "time",
    "firstActivationTime": "time",
    "lastCurrentTime": "time",
    "lastDeactivationTime": "time",
    "currentVersionChangedTime": "time",
    "rampingVersionChangedTime": "time",
    "rampingVersionPercentageChangedTime": "time",
    "lastChangedTime": "time",
    "lastCheckedTime": "time",
    "stateTransitionCount": "how the server works",
    "stateSizeBytes": "how the server encodes",
    # Who it was: a process has other names on each server.
    "identity": "the worker's process",
    "lastWorkerIdentity": "the worker's process",
    "requestId": "made by chance",
    "sdkMetadata": "sent by the worker, of its own state",
    "meteringMetadata": "sent by the worker",
    "stackTrace": "line numbers",
    "complete_time": "time, in a marker of the SDK's",
    "original_schedule_time": "the same",
    "originalStartTime": "time",
    "temporal-callback-token": "each server has tokens of its own",
    "operationToken": "made by the handler, of names that it made by chance",
    "operationId": "the same",
    "nexus-operation-token": "the same",
    # What only one of them has, as docs/compatibility.md says.
    "prevAutoResetPoints": "reset points of binaries are not kept",
    "autoResetPoints": "the same",
    "firstWorkflowTaskBackoff": "the peer has a run last a second at least",
    "backoffStartInterval": "the same",
    "runExpirationTime": "none is written as the year 1 there",
    "eventGroupMarkers": "events are not grouped",
    "principal": "there are no callers with names",
    "timeSkippingInfo": "time is skipped for the whole server",
    "conflictToken": "made by the server",
}

OMITTED_IN = {
    # It is known there only if the worker itself said how the activity ended.
    "activityTaskStartedEventAttributes": "workerVersion",
}

NONE: tuple[Any, ...] = ("0s", {}, [])
"""No time and nothing at all are the same as none."""

UUID = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}")


def without(value: dict[str, Any], key: str) -> dict[str, Any]:
    return {k: v for k, v in value.items() if k != key}


class Normaliser:
    """Ids become the names that the program gave them, or numbers in the order of their mention."""

    def __init__(self, names: dict[str, str]) -> None:
        self._names = names
        self._seen: dict[str, str] = {}

    def message(self, message: Message) -> Any:
        return self.value(MessageToDict(message))

    def history(self, events: Sequence[Message]) -> list[Any]:
        return [self.message(event) for event in events]

    def value(self, value: Any) -> Any:
        if isinstance(value, dict):
            if value.get("kind") == "TASK_QUEUE_KIND_STICKY":
                value = {**value, "name": "<sticky>"}
            if isinstance(value.get("metadata"), dict):
                value = self._payload(value)
            for part, omitted in OMITTED_IN.items():
                if part in value:
                    value = {**value, part: without(value[part], omitted)}
            kept = {k: v for k, v in sorted(value.items()) if k not in OMITTED}
            told = {self.text(k): self.value(v) for k, v in kept.items()}
            return {k: v for k, v in told.items() if v not in NONE}
        if isinstance(value, list | tuple):
            return [self.value(each) for each in value]
        return self.text(value) if isinstance(value, str) else value

    def _payload(self, value: dict[str, Any]) -> dict[str, Any]:
        """A payload with its data readable; the type of a search attribute is left out.

        It does not look like a payload afterwards, so that it is not read a second time.
        """
        metadata = without(value["metadata"], "type")
        rest = without(value, "metadata")
        if not isinstance(value.get("data"), str):
            return {**rest, "said": metadata}
        data = base64.b64decode(value["data"]).decode(errors="replace")
        with contextlib.suppress(ValueError):
            data = json.loads(data)
        return {**rest, "said": metadata, "data": data}

    def text(self, text: str) -> str:
        for name, label in self._names.items():
            text = text.replace(name, label)
        return UUID.sub(self._number, text)

    def _number(self, found: "re.Match[str]") -> str:
        return self._seen.setdefault(found[0], f"<id {len(self._seen) + 1}>")
