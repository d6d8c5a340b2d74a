"""JSON-RPC over HTTP, as MCP servers and A2A agents speak it: one request, one reply.

Rule 1: a reply may be JSON or a stream of events, which is read until the reply to the request is in it.
Rule 2: what goes wrong becomes a handler error of Nexus that says whether the same request may be made
        again.

Facts: https://www.jsonrpc.org/specification; server-sent events in the HTML standard; the transports of
MCP (revision 2026-07-28) and A2A 1.0.
"""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from durably.background.outbound_http import REPLY_BYTES_MAX, CallFailed, OutboundHttp, Reply
from durably.engine.nexus_outcome import Refused, call_error, refused
from durably.service.nexus_errors import TYPES

REQUEST_ID = 1
"""Each request has a connection's turn of its own: one id is enough."""
EVENTS = "text/event-stream"
SAID_CHARS_MAX = 1_000
BY_STATUS = frozenset((401, 403, 408, 429, 502, 503, 504))
"""Statuses that say more than an error in their body: that of a proxy, or of a server that is not well."""

KINDS = {
    -32700: "BAD_REQUEST",
    -32600: "BAD_REQUEST",
    -32601: "NOT_IMPLEMENTED",
    -32602: "BAD_REQUEST",
    -32603: "INTERNAL",
}
"""Codes of JSON-RPC itself, as types of handler errors."""


@dataclass(frozen=True, slots=True)
class Answered:
    """The request succeeded. `headers`: found in any case of their names."""

    result: Any
    headers: Mapping[str, str]


class RpcFailed(Exception):
    """The request failed; `status` is HTTP's, `code` that of an error in the body, 0: there was none."""

    def __init__(self, status: int, code: int, message: str, data: Any = None) -> None:
        super().__init__(message[:SAID_CHARS_MAX])
        self.status = status
        self.code = code
        self.data = data


async def call(
    http: OutboundHttp,
    url: str,
    method: str,
    params: Mapping[str, Any],
    headers: Mapping[str, str],
    timeout_s: float,
) -> Answered:
    """Raises RpcFailed, and CallFailed if no reply comes."""
    asked = {"jsonrpc": "2.0", "id": REQUEST_ID, "method": method, "params": params}
    body = json.dumps(asked, separators=(",", ":"), ensure_ascii=False).encode()
    sent = {
        "user-agent": "durably",
        "content-type": "application/json",
        "accept": f"application/json, {EVENTS}",
        **headers,
    }
    reply = await http.request("POST", url, sent, body, timeout_s, _has_reply)
    found = _reply(reply)
    if found is None:
        raise RpcFailed(reply.status, 0, _told(reply))
    error = found.get("error")
    if isinstance(error, dict):
        code = error.get("code")
        said = str(error.get("message", ""))
        raise RpcFailed(
            reply.status, code if isinstance(code, int) else -32603, said, error.get("data")
        )
    return Answered(found["result"], reply.headers)


def _reply(reply: Reply) -> dict[str, Any] | None:
    """The message that answers the request; None: there is none in it."""
    content_type = reply.headers.get("content-type", "").partition(";")[0].strip().lower()
    texts = _events(reply.body) if content_type == EVENTS else [reply.body]
    return next((found for each in texts if (found := _answer(each)) is not None), None)


def _answer(text: bytes) -> dict[str, Any] | None:
    try:
        found = json.loads(text)
    except ValueError:
        return None
    if not isinstance(found, dict):
        return None
    failed = isinstance(found.get("error"), dict) and found.get("id") in (REQUEST_ID, None)
    done = "result" in found and found.get("id") == REQUEST_ID
    return found if failed or done else None


def _events(body: bytes) -> list[bytes]:
    """The data of each event that is there whole."""
    blocks = re.split(rb"\r\n\r\n|\n\n|\r\r", body)
    found = []
    for block in blocks:
        lines = [line for line in re.split(rb"\r\n|\n|\r", block) if line.startswith(b"data:")]
        if lines:
            found.append(b"\n".join(line[5:].removeprefix(b" ") for line in lines))
    return found


def _has_reply(content_type: str, body: bytes) -> bool:
    if content_type != EVENTS or not body.endswith((b"\n\n", b"\r\n\r\n", b"\r\r")):
        return False
    return any(_answer(each) is not None for each in _events(body))


def _told(reply: Reply) -> str:
    if len(reply.body) >= REPLY_BYTES_MAX:
        return f"the reply is larger than {REPLY_BYTES_MAX} bytes"
    said = reply.body[:SAID_CHARS_MAX].decode(errors="replace")
    return f'unexpected reply: "{reply.status} {reply.reason}": {said}'


def refusal(
    error: RpcFailed | CallFailed, kinds: Mapping[int, str], *, unknown: str = "INTERNAL"
) -> Refused:
    """`kinds`: codes of the protocol, as types of handler errors; any other code is `unknown`."""
    if isinstance(error, CallFailed):
        return call_error(str(error), retryable=True)
    if error.code and error.status not in BY_STATUS:
        kind = kinds.get(error.code) or KINDS.get(error.code) or unknown
        return refused(kind, f"{error} (JSON-RPC error {error.code})")
    kind = TYPES.get(error.status, "")
    if kind:
        return refused(kind, str(error))
    # Other 3xx and 4xx find fault with the request, and the same would be found again.
    return call_error(str(error), retryable=not 300 <= error.status < 500)
