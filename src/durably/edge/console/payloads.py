"""What a payload is, and how it is shown. Pure.

Rule 1: whatever the bytes are, the result is text that can be shown: control characters, those that
        change the direction of writing and lone surrogates are made visible.
Rule 2: no more than a limit is parsed, and no more than a limit is shown; the size is always told.
"""

import base64
import html
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from google.protobuf.message import Message
from markupsafe import Markup, escape
from temporalio.api.common.v1 import message_pb2 as common

from durably.agents.payloads import is_encrypted as is_of_a_codec

PARSED_BYTES_MAX = 256 * 1024
"""A larger payload is not parsed to be indented: that would hold up the server."""
DECODED_BYTES_MAX = 256 * 1024
"""A larger encrypted payload is not put into the page for the browser's codec."""
SHOWN_CHARS_MAX = 16 * 1024
HEX_BYTES_MAX = 256
HEX_ROW_BYTES = 16

INVISIBLE = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200b\u200e\u200f\u202a-\u202e\u2060-\u2069\ufeff\ud800-\udfff]"
)
JSON_TOKEN = re.compile(
    r'(?P<key>"(?:[^"\\\n]|\\.)*"(?=\s*:))|(?P<string>"(?:[^"\\\n]|\\.)*")'
    r"|(?P<number>-?\b\d+(?:\.\d+)?(?:[eE][+-]?\d+)?\b)|(?P<word>\b(?:true|false|null)\b)"
)


@dataclass(frozen=True, slots=True)
class Shown:
    """A payload as it is shown. `kind`: json, text, nothing, bytes, encrypted or external."""

    kind: str
    text: str
    size_bytes: int
    encoding: str
    note: str = ""
    is_cut: bool = False
    encrypted: str = ""
    """The payload as the JSON that a codec server takes; nothing if it is not encrypted, or large."""

    @property
    def markup(self) -> Markup:
        return highlighted(self.text) if self.kind == "json" else escape(self.text)


def shown(payload: common.Payload, chars_max: int = SHOWN_CHARS_MAX) -> Shown:
    encoding = payload.metadata.get("encoding", b"").decode("ascii", "replace")
    encoding = visible(encoding)[:100]
    data = payload.data
    size = len(data)
    if payload.external_payloads:
        outside = sum(each.size_bytes for each in payload.external_payloads)
        return Shown("external", "", outside, encoding, "kept outside of the history")
    if encoding == "binary/null" or (not payload.metadata and not data):
        return Shown("nothing", "null", size, encoding, "null")
    if is_encrypted(payload):
        note = "encrypted: only its codec can read it"
        return Shown("encrypted", "", size, encoding, note, encrypted=_for_codec(payload))
    if encoding in ("json/plain", "json/protobuf"):
        return _json(data, encoding, chars_max)
    if encoding in ("binary/plain", "binary/protobuf"):
        name = payload.metadata.get("messageType", b"").decode("utf-8", "replace")
        return _bytes(data, encoding, visible(name)[:200] or "bytes")
    return _text_or_bytes(data, encoding, chars_max)


def is_encrypted(payload: common.Payload) -> bool:
    return is_of_a_codec(payload.metadata.get("encoding", b"").decode("ascii", "replace"))


def _for_codec(payload: common.Payload) -> str:
    return "" if len(payload.data) > DECODED_BYTES_MAX else json.dumps(for_codec(payload))


def for_codec(payload: common.Payload) -> dict[str, Any]:
    """As the JSON that a codec server takes."""
    metadata = {name: base64.b64encode(each).decode() for name, each in payload.metadata.items()}
    return {"metadata": metadata, "data": base64.b64encode(payload.data).decode()}


def _json(data: bytes, encoding: str, chars_max: int) -> Shown:
    if len(data) <= PARSED_BYTES_MAX:
        try:
            text = json.dumps(json.loads(data), indent=2, ensure_ascii=False)
        except (ValueError, RecursionError):
            return _text_or_bytes(data, encoding, chars_max, "not valid JSON")
        return _cut(text, "json", len(data), encoding, chars_max)
    # The head of it: a character that is cut in two at the end is dropped.
    head = data[: chars_max * 4].decode("utf-8", "ignore")
    return _cut(head, "json", len(data), encoding, chars_max)


def _text_or_bytes(data: bytes, encoding: str, chars_max: int, note: str = "") -> Shown:
    head = data[: chars_max * 4]
    try:
        text = head.decode()
    except UnicodeDecodeError as error:
        if len(head) == len(data) or error.start < len(head) - 4:
            return _bytes(data, encoding, note or "not UTF-8")
        text = head[: error.start].decode()
    found = _cut(text, "text", len(data), encoding, chars_max)
    return Shown("text", found.text, len(data), encoding, note, found.is_cut)


def _cut(text: str, kind: str, size: int, encoding: str, chars_max: int) -> Shown:
    is_cut = len(text) > chars_max
    return Shown(kind, visible(text[:chars_max]), size, encoding, "", is_cut)


def _bytes(data: bytes, encoding: str, note: str) -> Shown:
    rows = []
    for at in range(0, min(len(data), HEX_BYTES_MAX), HEX_ROW_BYTES):
        row = data[at : at + HEX_ROW_BYTES]
        letters = "".join(chr(b) if 32 <= b < 127 else "·" for b in row)
        rows.append(f"{at:06x}  {row.hex(' '):<{HEX_ROW_BYTES * 3 - 1}}  {letters}")
    return Shown("bytes", "\n".join(rows), len(data), encoding, note, len(data) > HEX_BYTES_MAX)


def visible(text: str) -> str:
    """The text, with what would not be seen, or would hide what follows, written out."""
    return INVISIBLE.sub(lambda found: _written_out(found[0]), text)


def _written_out(character: str) -> str:
    code = ord(character)
    if code < 0x20:
        return chr(0x2400 + code)
    return "␡" if code == 0x7F else f"⟨U+{code:04X}⟩"


def highlighted(text: str) -> Markup:
    """JSON with its keys, strings, numbers and words marked.

    It is escaped first, whole: then marks are all that is put between. Quotes need no escape in a text.
    """
    return Markup(JSON_TOKEN.sub(_marked, html.escape(text, quote=False)))


def _marked(found: re.Match[str]) -> str:
    return f'<span class="j-{found.lastgroup}">{found[0]}</span>'


def all_payloads(message: Message, place: str = "") -> Iterator[tuple[str, common.Payload]]:
    """Every payload in a message with the path of its field, in the order of the fields."""
    if isinstance(message, common.Payload):
        yield place, message
        return
    for field, value in message.ListFields():
        name = f"{place}.{field.name}" if place else field.name
        if field.message_type is None:
            continue
        if field.message_type.GetOptions().map_entry:
            yield from _of_map(value, name)
        elif field.is_repeated:
            for index, each in enumerate(value):
                yield from all_payloads(each, f"{name}[{index}]")
        else:
            yield from all_payloads(value, name)


def _of_map(values: Any, name: str) -> Iterator[tuple[str, common.Payload]]:
    for key in sorted(values):
        if isinstance(values[key], Message):
            yield from all_payloads(values[key], f"{name}[{key}]")


def brief(payload: common.Payload, chars_max: int = 120) -> str:
    """One short line, made of the payload's beginning; nothing is parsed."""
    head = payload.data[: chars_max * 4]
    encoding = payload.metadata.get("encoding", b"")
    if not encoding.startswith(b"json/"):
        found = shown(common.Payload(metadata=payload.metadata, data=head), chars_max)
        if found.kind != "text":
            return found.note or found.kind
    text = visible(re.sub(r"\s+", " ", head.decode("utf-8", "replace")).strip())
    return text if len(text) <= chars_max else text[: chars_max - 1] + "…"


def briefs(found: common.Payloads, chars_max: int = 120) -> str:
    """The first few of several, in one short line."""
    text = ", ".join(brief(each, chars_max) for each in found.payloads[:5])
    return text if len(text) <= chars_max else text[: chars_max - 1] + "…"


def plain(payload: common.Payload) -> str:
    """A value that stands alone, such as a search attribute's: text without its quotes."""
    value = decoded(payload)
    if isinstance(value, list):
        return visible(", ".join(str(each) for each in value))[:300]
    return visible(value)[:300] if isinstance(value, str) else brief(payload, 300)


def decoded(payload: common.Payload) -> Any:
    """The value of a small JSON payload; None for anything else."""
    encoding = payload.metadata.get("encoding")
    if encoding not in (b"json/plain", b"json/protobuf") or len(payload.data) > PARSED_BYTES_MAX:
        return None
    try:
        return json.loads(payload.data)
    except (ValueError, RecursionError):
        return None
