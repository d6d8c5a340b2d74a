"""gRPC over ASGI: framing, compression, deadlines, cancellation, status and details.

Rule 1: whatever arrives is answered with a gRPC status; nothing that a client sends ends the server.
Rule 2: replies are not compressed; requests may be (the SDKs send gzip).

The wire: https://github.com/grpc/grpc/blob/master/doc/PROTOCOL-HTTP2.md. The HTTP/2 server answers a
client's cancel or disconnect with an `http.disconnect` message.
"""

import asyncio
import base64
import logging
import zlib
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from urllib.parse import quote

from google.protobuf.message import DecodeError, Message
from google.rpc import status_pb2

from durably.config import Config
from durably.edge.calls import (
    ClientGone,
    Clock,
    Headers,
    Receive,
    Scope,
    Send,
    answer,
    disconnected,
    too_large,
    unless_gone,
)
from durably.edge.traffic import Exchange, Traffic
from durably.errors import Internal, Refusal, Status, Unimplemented
from durably.service.access import CALLER
from durably.service.admission import Call, Rpc

logger = logging.getLogger(__name__)

HEADERS = [(b"content-type", b"application/grpc"), (b"grpc-accept-encoding", b"identity,gzip")]
PREFIX_BYTES = 5
STREAM_MESSAGES_WAITING_MAX = 100
TIMEOUT_UNITS_NS = {
    "H": 3600 * 10**9,
    "M": 60 * 10**9,
    "S": 10**9,
    "m": 10**6,
    "u": 10**3,
    "n": 1,
}


@dataclass(frozen=True, slots=True)
class Stream:
    """An RPC whose requests and replies may be many; it ends when its `replies` do."""

    name: str
    request: type[Message]
    replies: Callable[[AsyncIterator[Message]], AsyncIterator[Message]]


class GrpcApp:
    """Answers every call from a table of RPCs and one of streams, by path."""

    def __init__(
        self,
        table: Mapping[str, Rpc],
        streams: Mapping[str, Stream],
        clock: Clock,
        config: Config,
        traffic: Traffic,
    ) -> None:
        self._table = dict(table)
        self._streams = dict(streams)
        self._clock = clock
        self._message_bytes_max = config.message_bytes_max
        self._traffic = traffic

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        stream = self._streams.get(scope["path"])
        exchange = self._traffic.begin()
        status = Status.CANCELLED
        try:
            if stream is not None:
                exchange.rpc = stream.name
                await self._converse(stream, scope, receive, unless_gone(send))
                status = Status.OK
                return
            try:
                reply = await self._answer(exchange, scope, receive)
            except Refusal as refusal:
                status = refusal.status
                await send_refusal(unless_gone(send), refusal)
            else:
                await _send_reply(send, reply)
                status = Status.OK
        except ClientGone:
            return
        finally:
            self._traffic.end(exchange, status)

    async def _converse(self, stream: Stream, scope: Scope, receive: Receive, send: Send) -> None:
        """Read and answer side by side, until the answers end or the caller goes away."""
        asked: asyncio.Queue[Message | Refusal | None] = asyncio.Queue(STREAM_MESSAGES_WAITING_MAX)
        reading = asyncio.ensure_future(
            self._read(stream, Headers(scope["headers"]), receive, asked)
        )
        answering = asyncio.ensure_future(_answer_stream(stream, asked, send))
        try:
            await asyncio.wait((reading, answering), return_when=asyncio.FIRST_COMPLETED)
            if answering.done():
                answering.result()
        finally:
            reading.cancel()
            answering.cancel()

    async def _read(
        self,
        stream: Stream,
        metadata: Mapping[str, str],
        receive: Receive,
        asked: "asyncio.Queue[Message | Refusal | None]",
    ) -> None:
        """Put what is asked in the queue, then None; goes on until the caller has gone."""
        waiting = b""
        while (message := await receive())["type"] != "http.disconnect":
            waiting += message.get("body", b"")
            try:
                while (size := self._frame_bytes(waiting)) <= len(waiting):
                    await asked.put(self._request(stream, waiting[:size], metadata))
                    waiting = waiting[size:]
            except Refusal as refusal:
                await asked.put(refusal)
                return await disconnected(receive)
            if not message.get("more_body", False):
                await asked.put(
                    Internal("the last gRPC message ends too early") if waiting else None
                )
                return await disconnected(receive)
        return None

    def _frame_bytes(self, data: bytes | bytearray) -> int:
        """How long the first frame is, prefix included; raises ResourceExhausted."""
        length = int.from_bytes(data[1:PREFIX_BYTES], "big") if len(data) >= PREFIX_BYTES else 0
        if length > self._message_bytes_max:
            raise too_large(length, self._message_bytes_max)
        return PREFIX_BYTES + length

    async def _answer(self, exchange: Exchange, scope: Scope, receive: Receive) -> bytes:
        path: str = scope["path"]
        rpc = self._table.get(path)
        metadata = Headers(scope["headers"])
        if rpc is not None:
            exchange.rpc = rpc.name
        body = await self._message(receive)
        if rpc is None:
            raise Unimplemented(f"unknown method {path}")
        request = exchange.request = self._request(rpc, body, metadata)
        limit_ns = timeout_ns(metadata)
        deadline_ns = self._clock() + limit_ns if limit_ns else 0
        call = Call(rpc.name, metadata, deadline_ns, CALLER.get())
        reply = exchange.reply = await answer(rpc, request, call, limit_ns, receive)
        return reply.SerializeToString()

    async def _message(self, receive: Receive) -> bytes:
        """The one message of a call, as soon as it is whole: its end of stream is not waited for, which would
        cost as much again. Raises ResourceExhausted, and ClientGone if it ends too early."""
        body = bytearray()
        while True:
            message = await receive()
            if message["type"] == "http.disconnect":
                raise ClientGone
            body += message.get("body", b"")
            whole = len(body) >= PREFIX_BYTES and len(body) >= self._frame_bytes(body)
            if whole or not message.get("more_body", False):
                return bytes(body)

    def _request(self, rpc: Rpc | Stream, body: bytes, metadata: Mapping[str, str]) -> Message:
        if len(body) < PREFIX_BYTES:
            raise Internal("the request has no complete gRPC message")
        length = int.from_bytes(body[1:PREFIX_BYTES], "big")
        if len(body) != PREFIX_BYTES + length:
            raise Internal("the length of the gRPC message is not what its prefix says")
        data = body[PREFIX_BYTES:]
        if body[0] == 1:
            data = self._inflate(data, metadata.get("grpc-encoding", ""))
        elif body[0] != 0:
            raise Internal("unknown flags in the prefix of the gRPC message")
        try:
            return rpc.request.FromString(data)
        except DecodeError as error:
            raise Internal(f"the request is not a {rpc.request.DESCRIPTOR.full_name}") from error

    def _inflate(self, data: bytes, encoding: str) -> bytes:
        if encoding != "gzip":
            raise Unimplemented(
                f"grpc-encoding {encoding!r} is not supported: use gzip or identity"
            )
        inflater = zlib.decompressobj(wbits=31)
        try:
            inflated = inflater.decompress(data, self._message_bytes_max + 1)
        except zlib.error as error:
            raise Internal("the request is not valid gzip") from error
        if len(inflated) > self._message_bytes_max:
            raise too_large(len(inflated), self._message_bytes_max)
        if not inflater.eof:
            raise Internal("the request is not valid gzip: it ends too early")
        return inflated


async def _answer_stream(
    stream: Stream, asked: "asyncio.Queue[Message | Refusal | None]", send: Send
) -> None:
    """Send each reply as it comes, then the status."""
    await send({"type": "http.response.start", "status": 200, "headers": HEADERS, "trailers": True})
    ended = [(b"grpc-status", b"0")]
    try:
        async for reply in stream.replies(_requests(asked)):
            frame = _frame(reply.SerializeToString())
            await send({"type": "http.response.body", "body": frame, "more_body": True})
    except Refusal as refusal:
        ended = status_headers(refusal)
    except ClientGone:
        raise
    except Exception:
        logger.exception("%s failed", stream.name)
        ended = status_headers(Internal(f"{stream.name} failed inside the server: see its log"))
    await send({"type": "http.response.body", "body": b"", "more_body": False})
    await send({"type": "http.response.trailers", "headers": ended})


async def _requests(
    asked: "asyncio.Queue[Message | Refusal | None]",
) -> AsyncIterator[Message]:
    while (request := await asked.get()) is not None:
        if isinstance(request, Refusal):
            raise request
        yield request


def timeout_ns(metadata: Mapping[str, str]) -> int:
    """`grpc-timeout` in nanoseconds; 0: none."""
    text = metadata.get("grpc-timeout")
    return _nanoseconds(text) if text else 0


@lru_cache(256)
def _nanoseconds(timeout: str) -> int:
    """Clients say the same few all the time."""
    unit = TIMEOUT_UNITS_NS.get(timeout[-1])
    if unit is None or not timeout[:-1].isdigit() or len(timeout) > 9:
        raise Internal(f"malformed grpc-timeout {timeout[:20]!r}")
    return max(1, int(timeout[:-1]) * unit)


async def _send_reply(send: Send, reply: bytes) -> None:
    """Raises ClientGone as `unless_gone` does, without another coroutine for each message."""
    try:
        await send(
            {"type": "http.response.start", "status": 200, "headers": HEADERS, "trailers": True}
        )
        await send({"type": "http.response.body", "body": _frame(reply), "more_body": False})
        await send({"type": "http.response.trailers", "headers": [(b"grpc-status", b"0")]})
    except (OSError, RuntimeError) as error:
        raise ClientGone from error


def _frame(message: bytes) -> bytes:
    return b"\x00" + len(message).to_bytes(4, "big") + message


async def send_refusal(send: Send, refusal: Refusal) -> None:
    """A response without a body: its status is in its headers (gRPC's Trailers-Only)."""
    headers = [*HEADERS, *status_headers(refusal)]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": b"", "more_body": False})


def status_headers(refusal: Refusal) -> list[tuple[bytes, bytes]]:
    """grpc-status, grpc-message and, with a detail, grpc-status-details-bin."""
    # A header may not end with a space.
    shown = quote(refusal.message[:4096].strip(), safe=" !\"#$&'()*+,/:;<=>?@[\\]^_`{|}~-.")
    headers = [
        (b"grpc-status", str(int(refusal.status)).encode()),
        (b"grpc-message", shown.encode("ascii")),
    ]
    if refusal.detail is not None:
        status = status_pb2.Status(code=int(refusal.status), message=refusal.message)
        status.details.add().Pack(refusal.detail)
        headers.append((b"grpc-status-details-bin", _base64(status.SerializeToString())))
    return headers


def _base64(data: bytes) -> bytes:
    return base64.b64encode(data).rstrip(b"=")
