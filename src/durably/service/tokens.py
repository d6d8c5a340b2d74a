"""Opaque tokens: what a worker or a client hands back to us unread.

A token says where to look; whether that is still so is decided by the execution.
"""

import msgspec
from msgspec import Struct

from durably.engine.workflow_task import TaskReference
from durably.errors import InvalidArgument

INVALID_TASK_TOKEN = "Error deserializing task token."
OTHER_NAMESPACE = "Operation requested with a token from a different namespace."


class TaskToken(Struct, frozen=True, array_like=True):
    """Of a workflow task or an activity attempt."""

    namespace_id: str
    execution_id: int
    scheduled_event_id: int
    started_event_id: int
    attempt: int

    @property
    def reference(self) -> TaskReference:
        return TaskReference(self.scheduled_event_id, self.started_event_id, self.attempt)


class QueryToken(Struct, frozen=True, array_like=True, tag="q"):
    """Of a query that was sent to a worker by itself, outside any workflow task."""

    namespace_id: str
    query_id: str


class HistoryPageToken(Struct, frozen=True, array_like=True):
    """Where the next page of a history begins; the run is pinned."""

    run_id: str
    next_event_id: int
    last_event_id: int = 0
    """Not 0: the page ends here."""
    transient: bool = False
    """The events of the transient workflow task follow the last page."""


class ChangeToken(Struct, frozen=True, array_like=True, tag="c"):
    """What a client has seen of an execution: a long poll waits for anything newer."""

    run_id: str
    transitions: int


class NexusTaskToken(Struct, frozen=True, array_like=True, tag="n"):
    """Of a request to a worker that handles a Nexus operation."""

    namespace_id: str
    task_id: str


_encoder = msgspec.msgpack.Encoder()
_task_decoder = msgspec.msgpack.Decoder(TaskToken)
_query_decoder = msgspec.msgpack.Decoder(QueryToken)
_page_decoder = msgspec.msgpack.Decoder(HistoryPageToken)
_nexus_task_decoder = msgspec.msgpack.Decoder(NexusTaskToken)


_change_decoder = msgspec.msgpack.Decoder(ChangeToken)


def encode(
    token: TaskToken | QueryToken | HistoryPageToken | ChangeToken | NexusTaskToken,
) -> bytes:
    return _encoder.encode(token)


def decode_task(data: bytes, namespace_id: str) -> TaskToken:
    """Raises InvalidArgument for anything that is not a task token of this namespace."""
    if not data:
        raise InvalidArgument("Task token not set on request.")
    token = read_task(data)
    if token.namespace_id != namespace_id:
        raise InvalidArgument(OTHER_NAMESPACE)
    return token


def read_task(data: bytes) -> TaskToken:
    """Of any namespace. Raises InvalidArgument for what is not a task token."""
    try:
        return _task_decoder.decode(data)
    except (msgspec.MsgspecError, ValueError) as error:
        raise InvalidArgument(INVALID_TASK_TOKEN) from error


def decode_query(data: bytes, namespace_id: str) -> QueryToken:
    try:
        token = _query_decoder.decode(data)
    except (msgspec.MsgspecError, ValueError) as error:
        raise InvalidArgument("Invalid TaskToken.") from error
    if token.namespace_id != namespace_id:
        raise InvalidArgument(OTHER_NAMESPACE)
    return token


def decode_nexus_task(data: bytes, namespace_id: str) -> NexusTaskToken:
    """Raises InvalidArgument for anything that is not a Nexus task token of this namespace."""
    if not data:
        raise InvalidArgument("Task token not set on request.")
    try:
        token = _nexus_task_decoder.decode(data)
    except (msgspec.MsgspecError, ValueError) as error:
        raise InvalidArgument(INVALID_TASK_TOKEN) from error
    if token.namespace_id != namespace_id:
        raise InvalidArgument(OTHER_NAMESPACE)
    return token


def decode_page(data: bytes) -> HistoryPageToken:
    try:
        return _page_decoder.decode(data)
    except (msgspec.MsgspecError, ValueError) as error:
        raise InvalidArgument("Invalid NextPageToken.") from error


def decode_change(data: bytes, run_id: str) -> ChangeToken:
    try:
        token = _change_decoder.decode(data)
    except msgspec.MsgspecError as error:
        raise InvalidArgument("invalid long poll token") from error
    if token.run_id != run_id:
        raise InvalidArgument("long poll token does not match execution")
    return token
