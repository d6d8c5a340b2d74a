"""What every way of calling shares: reading a body, and answering while the caller is there.

Rule 1: a handler is cancelled when its caller goes away, so that a long poll leaves its queue.
"""

import asyncio
import logging
from collections.abc import (
    Awaitable,
    Callable,
    Coroutine,
    Iterable,
    Iterator,
    Mapping,
    MutableMapping,
)
from typing import Any

from google.protobuf.message import Message

from durably.edge.traffic import ids_of
from durably.errors import (
    DeadlineExceeded,
    Internal,
    Refusal,
    ResourceExhausted,
)
from durably.service.admission import Call, Rpc

logger = logging.getLogger(__name__)

Scope = MutableMapping[str, Any]
AsgiMessage = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[AsgiMessage]]
Send = Callable[[AsgiMessage], Awaitable[None]]
Clock = Callable[[], int]


class ClientGone(Exception):
    """The caller has cancelled or disconnected; there is nobody to answer."""


class Headers(Mapping[str, str]):
    """The headers of a call, decoded when they are asked for: few are."""

    def __init__(self, raw: Iterable[tuple[bytes, bytes]]) -> None:
        self._raw = dict(raw)

    def __getitem__(self, name: str) -> str:
        return self._raw[name.encode("latin-1")].decode("latin-1")

    def get(self, name: str, default: Any = None) -> Any:
        """As of any mapping; that one raises and catches KeyError for what is not there."""
        found = self._raw.get(name.encode("latin-1"))
        return default if found is None else found.decode("latin-1")

    def __iter__(self) -> Iterator[str]:
        return (name.decode("latin-1") for name in self._raw)

    def __len__(self) -> int:
        return len(self._raw)


def as_sent(scope: Scope) -> str:
    """The path of a request, percent-encoded as it was sent: `%2F` is part of a name."""
    raw = scope.get("raw_path") or scope["path"].encode()
    return bytes(raw).decode("latin-1").partition("?")[0]


def unless_gone(send: Send) -> Send:
    """`send`, raising ClientGone where the server finds the stream closed."""

    async def sending(message: AsgiMessage) -> None:
        try:
            await send(message)
        except (OSError, RuntimeError) as error:
            raise ClientGone from error

    return sending


async def read_body(receive: Receive, bytes_max: int) -> bytes:
    """The whole body. Raises ResourceExhausted over the limit, ClientGone if it ends too early."""
    parts: list[bytes] = []
    size = 0
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise ClientGone
        chunk = message.get("body", b"")
        size += len(chunk)
        if size > bytes_max:
            raise too_large(size, bytes_max)
        parts.append(chunk)
        if not message.get("more_body", False):
            return parts[0] if len(parts) == 1 else b"".join(parts)


def too_large(size: int, bytes_max: int) -> ResourceExhausted:
    return ResourceExhausted(
        f"a message of {size} bytes or more exceeds the limit of {bytes_max} bytes"
        " (message_bytes_max)"
    )


async def disconnected(receive: Receive) -> None:
    """Until the caller has gone."""
    while (await receive())["type"] != "http.disconnect":
        pass


def answer(
    rpc: Rpc, request: Message, call: Call, timeout_ns: int, receive: Receive
) -> Awaitable[Message]:
    """Answer; a long poll within its deadline, and unless the caller goes away first."""
    answering = _refuse_bugs(rpc, request, call)
    return _while_there(answering, timeout_ns, receive) if rpc.waits else answering


async def _while_there(
    answering: Coroutine[Any, Any, Message], timeout_ns: int, receive: Receive
) -> Message:
    """Raises DeadlineExceeded, and ClientGone when the caller has gone."""
    handling = asyncio.ensure_future(answering)
    watching = asyncio.ensure_future(disconnected(receive))
    try:
        timeout_s = timeout_ns / 1e9 if timeout_ns else None
        done, _ = await asyncio.wait(
            (handling, watching), timeout=timeout_s, return_when=asyncio.FIRST_COMPLETED
        )
        if handling in done:
            return handling.result()
        if not done:
            raise DeadlineExceeded("context deadline exceeded")
        raise ClientGone
    finally:
        watching.cancel()
        if not handling.done():
            handling.cancel()


async def _refuse_bugs(rpc: Rpc, request: Message, call: Call) -> Message:
    try:
        return await rpc.answer(request, call)
    except Refusal:
        raise
    except Exception as error:
        logger.exception("%s failed", rpc.name, extra={"fields": ids_of(request)})
        raise Internal(f"{rpc.name} failed inside the server: see its log") from error
