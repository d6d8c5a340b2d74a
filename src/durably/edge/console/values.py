"""What people write into forms, as payloads. Pure."""

import json
from collections.abc import Iterable
from typing import Any

from temporalio.api.common.v1 import message_pb2 as common

from durably.edge.console import payloads


def encoded(values: Iterable[Any]) -> common.Payloads:
    """Each value as JSON, as every SDK's default converter reads it."""
    return common.Payloads(
        payloads=[
            common.Payload(metadata={"encoding": b"json/plain"}, data=json.dumps(each).encode())
            for each in values
        ]
    )


def written(inputs: common.Payloads, chars_max: int) -> str | None:
    """Payloads as the JSON array that a form holds; None if they cannot be written so."""
    found = []
    for each in inputs.payloads:
        if each.metadata.get("encoding") == b"binary/null":
            found.append("null")
            continue
        shown = payloads.shown(each, chars_max)
        if shown.kind != "json" or shown.is_cut or set(each.metadata) != {"encoding"}:
            return None
        found.append(json.dumps(json.loads(each.data), ensure_ascii=False))
    text = "[" + ", ".join(found) + "]"
    return text if len(text) <= chars_max and payloads.visible(text) == text else None
