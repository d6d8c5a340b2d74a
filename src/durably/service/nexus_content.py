"""Payloads, links and times as Nexus carries them over HTTP.

Facts: the Nexus specification (nexus-rpc/api, SPEC.md): `Content-*` headers describe a body, `Nexus-Link`
headers have the form of the HTTP `Link` header; times are RFC 3339, or HTTP dates.
"""

import re
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from email.message import Message
from email.utils import format_datetime

from google.protobuf.message import DecodeError
from google.protobuf.timestamp_pb2 import Timestamp
from temporalio.api.common.v1 import message_pb2 as common
from temporalio.api.nexus.v1 import message_pb2 as nexus

API_PAYLOAD = "application/x-temporal-payload"
"""A whole serialized Payload: for those that no plain content can be."""
FOREIGN = b"unknown/nexus-content"
"""The encoding of a payload that is the content of others, its headers in the metadata."""

# --- Payloads ---------------------------------------------------------------------------------


def to_content(payload: common.Payload | None) -> tuple[dict[str, str], bytes]:
    """(headers without their prefix `content-`, body) of a payload; None: no content."""
    if payload is None:
        return {}, b""
    metadata = payload.metadata
    if metadata.get("encoding") == FOREIGN:
        headers = {k: v.decode(errors="replace") for k, v in metadata.items() if k != "encoding"}
        return headers, payload.data
    known = _known_type(metadata)
    if known is None:
        return {"type": API_PAYLOAD}, payload.SerializeToString()
    return ({"type": known} if known else {}), payload.data


def _known_type(metadata: Mapping[str, bytes]) -> str | None:
    """The content type that says all that the metadata say; empty: there is no value; None: none does."""
    message_type = metadata.get("messageType", b"").decode(errors="replace")
    match metadata.get("encoding"), len(metadata):
        case b"json/plain", 1:
            return "application/json"
        case b"binary/plain", 1:
            return "application/octet-stream"
        case b"binary/null", 1:
            return ""
        case b"json/protobuf", 2 if message_type:
            return f'application/json; format=protobuf; message-type="{message_type}"'
        case b"binary/protobuf", 2 if message_type:
            return f'application/x-protobuf; message-type="{message_type}"'
        case _:
            return None


def from_content(headers: Mapping[str, str], body: bytes) -> common.Payload:
    """The payload of a content; `headers` without their prefix. Raises ValueError for a payload that
    cannot be read."""
    said = {k: v for k, v in headers.items() if k not in ("encoding", "length")}
    content_type = said.get("type", "")
    if len(said) > 1 or not content_type:
        if not said and not body:
            return common.Payload(metadata={"encoding": b"binary/null"})
        return _foreign(said, body)
    media_type, parameters = _media_type(content_type)
    if media_type == API_PAYLOAD:
        try:
            return common.Payload.FromString(body)
        except DecodeError as error:
            raise ValueError("the body is no serialized Payload") from error
    metadata = _known_metadata(media_type, parameters)
    if metadata is None:
        return _foreign(said, body)
    return common.Payload(metadata=metadata, data=body)


def _known_metadata(media_type: str, parameters: dict[str, str]) -> dict[str, bytes] | None:
    message_type = parameters.get("message-type", "").encode()
    match media_type, len(parameters):
        case "application/json", 0:
            return {"encoding": b"json/plain"}
        case "application/json", 2 if message_type and parameters.get("format") == "protobuf":
            return {"encoding": b"json/protobuf", "messageType": message_type}
        case "application/x-protobuf", 1 if message_type:
            return {"encoding": b"binary/protobuf", "messageType": message_type}
        case "application/octet-stream", 0:
            return {"encoding": b"binary/plain"}
        case _:
            return None


def _foreign(said: Mapping[str, str], body: bytes) -> common.Payload:
    metadata = {name: value.encode() for name, value in said.items()} | {"encoding": FOREIGN}
    return common.Payload(metadata=metadata, data=body)


def _media_type(text: str) -> tuple[str, dict[str, str]]:
    parsed = Message()
    parsed["content-type"] = text
    parameters = parsed.get_params(failobj=[], header="content-type")
    return parsed.get_content_type(), {str(k): str(v) for k, v in parameters[1:]}


def is_json(content_type: str) -> bool:
    return bool(content_type) and _media_type(content_type)[0] == "application/json"


# --- Links ------------------------------------------------------------------------------------

_HEADER = re.compile(r'\s*<([^>]+)>\s*((?:;\s*[^;=,\s]+\s*=\s*(?:"[^"]*"|[^",;\s]+)\s*)+)')
_TYPE = re.compile(r"[A-Za-z0-9_./]+")


def links_header(links: Iterable[nexus.Link]) -> str:
    """The value of one `Nexus-Link` header for all links."""
    return ", ".join(f'<{link.url}>; type="{link.type}"' for link in links)


def links_of_headers(values: Iterable[str]) -> list[nexus.Link]:
    """The links in `Nexus-Link` headers. Raises ValueError for what is none."""
    found: list[nexus.Link] = []
    text = ",".join(values)
    position = 0
    while position < len(text):
        match = _HEADER.match(text, position)
        if match is None:
            raise ValueError(f"no link: {text[position:]}")
        found.append(nexus.Link(url=match[1].strip(), type=_link_type(match[2])))
        position = match.end()
        if position < len(text) and text[position] != ",":
            raise ValueError(f"no link: {text[position:]}")
        position += 1
    return found


def _link_type(parameters: str) -> str:
    for parameter in parameters.split(";")[1:]:
        name, _, value = parameter.partition("=")
        if name.strip() == "type":
            kind = value.strip().strip('"')
            if _TYPE.fullmatch(kind):
                return kind
    raise ValueError("a link has a type of letters, digits, '_', '.' and '/'")


# --- Times ------------------------------------------------------------------------------------


def http_date(ns: int) -> str:
    return format_datetime(datetime.fromtimestamp(ns // 1_000_000_000, UTC), usegmt=True)


def rfc3339(ns: int) -> str:
    moment = Timestamp()
    moment.FromNanoseconds(ns)
    return moment.ToJsonString()
