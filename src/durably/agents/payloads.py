"""Payloads as JSON, where they are JSON.

Rule 1: what cannot be read is an `Opaque` that says so; nothing raises.
"""

import json
from collections.abc import Iterable
from dataclasses import dataclass

from temporalio.api.common.v1 import message_pb2 as common

from durably.agents.calls import Json


@dataclass(frozen=True, slots=True)
class Opaque:
    """A payload that is no JSON: binary, or encrypted by a codec of the SDK."""

    encoding: str
    size_bytes: int


def is_encrypted(encoding: str) -> bool:
    """By what codecs call their encoding; `binary/encrypted` is what the SDKs' examples say."""
    return "encrypt" in encoding.lower()


def read(payload: common.Payload) -> Json | Opaque:
    encoding = payload.metadata.get("encoding", b"").decode("utf-8", "replace")
    if encoding == "binary/null":
        return None
    if encoding in ("json/plain", "json/protobuf"):
        try:
            return json.loads(payload.data)
        except (ValueError, RecursionError):
            pass
    return Opaque(encoding, len(payload.data))


def read_all(payloads: Iterable[common.Payload]) -> list[Json | Opaque]:
    return [read(payload) for payload in payloads]


# --- Looking into JSON whose shape is not certain --------------------------------------------------


def get(value: Json, *path: str | int) -> Json:
    """The value at a path of keys and indexes; None if there is none."""
    for key in path:
        if isinstance(key, str):
            value = value.get(key) if isinstance(value, dict) else None
        else:
            value = (
                value[key] if isinstance(value, list) and -len(value) <= key < len(value) else None
            )
    return value


def text(value: Json) -> str:
    return value if isinstance(value, str) else ""


def count(value: Json) -> int:
    """A number of tokens; what is none, or negative, is 0."""
    number = isinstance(value, int | float) and not isinstance(value, bool)
    return max(0, int(value)) if number and value == value and abs(value) < 2**53 else 0


def entries(value: Json) -> list[Json]:
    return value if isinstance(value, list) else []


def objects(value: Json) -> list[dict[str, Json]]:
    return [each for each in entries(value) if isinstance(each, dict)]


def arguments(value: Json) -> Json:
    """Arguments of a tool: often JSON inside a string."""
    if isinstance(value, str):
        try:
            return json.loads(value)
        except (ValueError, RecursionError):
            return value
    return value
