"""Messages as JSON and back, with payloads written as the values they carry.

Facts: https://protobuf.dev/programming-guides/json/ and, for the shorthand of payloads, the HTTP API of
Temporal's server: a Payload of JSON is its value, a list of them is a list of values. What is not JSON
stays an object of `metadata` and `data`.

Rule 1: reading what was written gives the same message, but for the spelling of a payload's JSON.
"""

import base64
import binascii
import json
from collections.abc import Callable
from typing import Any, cast

from google.protobuf import json_format
from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.protobuf.message import Message
from temporalio.api.common.v1 import message_pb2 as common

from durably.errors import InvalidArgument

PAYLOAD = common.Payload.DESCRIPTOR.full_name
PAYLOADS = common.Payloads.DESCRIPTOR.full_name
MESSAGE_TYPE = "_protoMessageType"
JSON_PLAIN, JSON_PROTOBUF, NULL = b"json/plain", b"json/protobuf", b"binary/null"

Change = Callable[[str, Any], Any]
"""(full name of a payload message, its JSON) -> other JSON."""


def write(message: Message, *, shorthand: bool, pretty: bool) -> str:
    """The message as JSON text."""
    value = json_format.MessageToDict(message)
    if shorthand:
        value = _walk(cast(Descriptor, message.DESCRIPTOR), value, _shortened)
    return text_of(value, pretty=pretty)


def text_of(value: Any, *, pretty: bool) -> str:
    """JSON as it is sent: compact, or indented for people."""
    if pretty:
        return json.dumps(value, indent=2, ensure_ascii=False) + "\n"
    return json.dumps(value, separators=(",", ":"), ensure_ascii=False)


def read(text: bytes, message: Message, *, shorthand: bool) -> None:
    """Fill the message from JSON text. Raises InvalidArgument with what is wrong, and where."""
    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise InvalidArgument(f"the body is not JSON: {error}") from error
    if not isinstance(value, dict):
        raise InvalidArgument("the body is not a JSON object")
    fill(value, message, shorthand=shorthand)


def fill(value: dict[str, Any], message: Message, *, shorthand: bool) -> None:
    """The same, from JSON that is parsed already."""
    if shorthand:
        value = _walk(cast(Descriptor, message.DESCRIPTOR), value, _lengthened)
    try:
        json_format.ParseDict(value, message)
    except (json_format.ParseError, ValueError, TypeError, RecursionError) as error:
        raise InvalidArgument(f"{message.DESCRIPTOR.name}: {error}") from error


def _walk(kind: Descriptor, value: Any, change: Change) -> Any:
    """The JSON of a message of this kind, its payloads changed. What does not fit is left alone."""
    if kind.full_name in (PAYLOAD, PAYLOADS):
        return change(kind.full_name, value)
    if not isinstance(value, dict):
        return value
    fields = {name: f for f in kind.fields for name in (f.json_name, f.name)}
    return {key: _walk_field(fields.get(key), inner, change) for key, inner in value.items()}


def _walk_field(field: FieldDescriptor | None, value: Any, change: Change) -> Any:
    if field is None or field.message_type is None:
        return value
    kind = field.message_type
    if kind.GetOptions().map_entry:
        inner = kind.fields_by_name["value"].message_type
        if inner is None or not isinstance(value, dict):
            return value
        return {key: _walk(inner, each, change) for key, each in value.items()}
    if field.is_repeated:
        if not isinstance(value, list):
            return value
        return [_walk(kind, each, change) for each in value]
    return _walk(kind, value, change)


# --- Writing ----------------------------------------------------------------------------------


def _shortened(kind: str, value: Any) -> Any:
    if kind == PAYLOADS:
        return [_shortened(PAYLOAD, each) for each in value.get("payloads", [])]
    value = {"metadata": {}, **value}  # What is left as it is must be known as a payload again.
    metadata = value.get("metadata", {})
    encoding = base64.b64decode(metadata.get("encoding", ""))
    data = base64.b64decode(value.get("data", ""))
    if encoding == NULL and not data and set(metadata) == {"encoding"}:
        return None
    typed = set(metadata) == {"encoding", "messageType"}
    if encoding == JSON_PLAIN and set(metadata) == {"encoding"}:
        found = _parsed(data)
        ambiguous = isinstance(found, dict) and ({"metadata", MESSAGE_TYPE} & set(found))
        return value if found is _NOT_JSON or found is None or ambiguous else found
    if encoding == JSON_PROTOBUF and typed:
        found = _parsed(data)
        if isinstance(found, dict) and MESSAGE_TYPE not in found:
            name = base64.b64decode(metadata["messageType"]).decode(errors="replace")
            return {MESSAGE_TYPE: name, **found}
    return value


_NOT_JSON = object()


def _parsed(data: bytes) -> Any:
    try:
        return json.loads(data)
    except (ValueError, RecursionError):
        return _NOT_JSON


# --- Reading ----------------------------------------------------------------------------------


def _lengthened(kind: str, value: Any) -> Any:
    if kind == PAYLOADS:
        if isinstance(value, list):
            return {"payloads": [_lengthened(PAYLOAD, each) for each in value]}
        return value
    if value is None:
        return {"metadata": {"encoding": _base64(NULL)}}
    if isinstance(value, dict):
        if _is_payload(value):
            return value
        if isinstance(value.get(MESSAGE_TYPE), str):
            rest = {key: each for key, each in value.items() if key != MESSAGE_TYPE}
            name = value[MESSAGE_TYPE].encode()
            metadata = {"encoding": _base64(JSON_PROTOBUF), "messageType": _base64(name)}
            return {"metadata": metadata, "data": _base64(_json(rest))}
    return {"metadata": {"encoding": _base64(JSON_PLAIN)}, "data": _base64(_json(value))}


def _is_payload(value: dict[str, Any]) -> bool:
    """Whether an object is a payload written out: metadata of bytes in base64, and perhaps data."""
    metadata = value.get("metadata")
    if not isinstance(metadata, dict) or set(value) - {"metadata", "data", "externalPayloads"}:
        return False
    return all(isinstance(each, str) and _is_base64(each) for each in metadata.values())


def _is_base64(text: str) -> bool:
    try:
        base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        return False
    return True


def _base64(data: bytes) -> str:
    return base64.b64encode(data).decode()


def _json(value: Any) -> bytes:
    return text_of(value, pretty=False).encode()
