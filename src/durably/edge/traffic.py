"""What is known of the calls: how many, how long, how they ended; and a line in the log for each.

Rule 1: every call is counted once, whatever becomes of it; one whose RPC is unknown as such.
Rule 2: nothing of a request is logged but names and ids: no payloads, no headers.
"""

import logging
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from time import perf_counter_ns
from typing import Any

from google.protobuf.message import Message

from durably.errors import Status
from durably.histogram import Histogram

logger = logging.getLogger(__name__)

UNKNOWN = "unknown"

Ids = Mapping[str, object]
"""What a line of the log says of whom it is about: `namespace`, `workflow_id`, `run_id` and others."""


class Operation:
    """One RPC."""

    __slots__ = ("latency", "refused")

    def __init__(self) -> None:
        self.latency = Histogram()
        self.refused: Counter[Status] = Counter()


class Exchange:
    """One call, from its first byte to its reply."""

    __slots__ = ("began_ns", "reply", "request", "rpc")

    def __init__(self) -> None:
        self.began_ns = perf_counter_ns()
        self.rpc = UNKNOWN
        self.request: Message | None = None
        self.reply: Message | None = None


class Traffic:
    """The calls of this server. `ids_of_token`: whom a task token is about, if that is known."""

    def __init__(self, rpcs: Iterable[str], ids_of_token: Callable[[bytes], Ids]) -> None:
        self.operations = {name: Operation() for name in (*rpcs, UNKNOWN)}
        self.pending = 0
        """Calls that are not answered yet; most are long polls."""
        self._ids_of_token = ids_of_token

    def begin(self) -> Exchange:
        self.pending += 1
        return Exchange()

    def end(self, exchange: Exchange, status: Status) -> None:
        """CANCELLED: the caller has gone away."""
        self.pending -= 1
        seconds = (perf_counter_ns() - exchange.began_ns) / 1e9
        operation = self.operations[exchange.rpc]
        operation.latency.observe(seconds)
        if status:
            operation.refused[status] += 1
        if logger.isEnabledFor(logging.DEBUG):
            self._log(exchange, status, seconds)

    def _log(self, exchange: Exchange, status: Status, seconds: float) -> None:
        ids: dict[str, object] = {}
        for message in (exchange.reply, exchange.request):
            if message is not None:
                ids |= ids_of(message)
        token = getattr(exchange.request, "task_token", b"")
        if token:
            ids |= self._ids_of_token(token)
        fields = {"rpc": exchange.rpc, "status": status.name, "ms": round(seconds * 1e3, 1), **ids}
        logger.debug("call", extra={"fields": fields})


NAMES = {
    "namespace": "namespace",
    "workflow_id": "workflow_id",
    "run_id": "run_id",
    "activity_id": "activity_id",
    "schedule_id": "schedule_id",
    "update_id": "update_id",
    "signal_name": "signal",
    "identity": "identity",
}
"""A field of a request or reply that is a name or an id -> what it is called in the log."""

INNER = ("workflow_execution", "execution", "meta", "update_ref", "task_queue")
"""Fields whose messages say whom a request is about."""


def ids_of(message: Message) -> dict[str, str]:
    """The names and ids in a request or reply."""
    fields: Mapping[str, Any] = message.DESCRIPTOR.fields_by_name
    found: dict[str, str] = {}
    for name in INNER:
        field = fields.get(name)
        if field is None or field.message_type is None or field.is_repeated:
            continue
        if not message.HasField(name):
            continue
        inner = getattr(message, name)
        if name == "task_queue":
            found["task_queue"] = inner.name
        else:
            found |= ids_of(inner)
    for name, shown in NAMES.items():
        if name in fields and fields[name].type == fields[name].TYPE_STRING:
            value = getattr(message, name)
            if value:
                found[shown] = value
    return found
