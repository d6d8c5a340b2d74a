"""Streams of what operations publish: server-sent events, or lines of JSON.

    GET /namespaces/{ns}/nexus/operations/{id}/output
    GET {base}/{service}/{operation}/output                   with the header Nexus-Operation-Token

Rule 1: `id: RUN/EVENT` of a piece, given back as `Last-Event-ID`, is where the stream goes on. `RUN/end` of an
        operation that has ended gets 204, by which a browser knows that there is no more.
Rule 2: a reader who is slow is waited for; nothing is kept for him meanwhile.
Rule 3: a stream ends when its reader goes away, and when the server stops.

Facts: https://html.spec.whatwg.org/multipage/server-sent-events.html.
"""

import asyncio
import json
from collections.abc import AsyncGenerator, Mapping
from dataclasses import dataclass
from typing import Any

import msgspec

from durably.edge.calls import ClientGone, Send
from durably.edge.nexus_replies import of_refusal
from durably.errors import Refusal
from durably.service.nexus_calls import HandlerError
from durably.service.nexus_json import compact
from durably.service.operation_output import Place, Told

LAST_EVENT_ID = "last-event-id"
NOW = "now"
LINES = "application/x-ndjson"
EVENTS = "text/event-stream; charset=utf-8"
STILL_THERE_S = 5.0
"""So often something is written: over HTTP/1.1 a reader who has gone is noticed by that alone."""
STILL_THERE = {LINES: b"\n", EVENTS: b": still there\n\n"}
END = "end"


@dataclass(frozen=True, slots=True)
class Chunk:
    """One event of a stream."""

    event: str
    data: Mapping[str, Any]
    place: Place | None = None

    def encoded(self, lines: bool) -> bytes:
        named = text_of(self.place) if self.place is not None else ""
        if lines:
            told = ({"id": named} if named else {}) | {"event": self.event, "data": self.data}
            return compact(told) + b"\n"
        head = f"id: {named}\n" if named else ""
        return f"{head}event: {self.event}\ndata: ".encode() + compact(self.data) + b"\n\n"


@dataclass(frozen=True, slots=True)
class Stream:
    """A reply that goes on. `first` is there already: what is refused is refused before."""

    first: Chunk
    rest: AsyncGenerator[Chunk, None]
    lines: bool

    @property
    def kind(self) -> str:
        return LINES if self.lines else EVENTS


def place_of(headers: Mapping[str, str], query: Mapping[str, str]) -> tuple[Place | None, bool]:
    """(where to go on, whether from now on). Raises HandlerError."""
    text = headers.get(LAST_EVENT_ID, "") or query.get("after", "")
    if text in ("", NOW):
        return None, text == NOW
    run_id, _, event = text.rpartition("/")
    if run_id and event == END:
        return Place(run_id, is_end=True), False
    if not run_id or not (event.isascii() and event.isdigit() and len(event) < 16):
        raise HandlerError(
            "BAD_REQUEST",
            "where a stream goes on is the id of one of its events, RUN/EVENT, or now",
        )
    return Place(run_id, int(event)), False


def text_of(place: Place) -> str:
    return f"{place.run_id}/{END if place.is_end else place.event_id}"


def piece_of(told: Told) -> Chunk:
    return Chunk("output", msgspec.to_builtins(told.piece), told.place)


async def send_stream(
    send: Send, gone: "asyncio.Future[None]", stream: Stream, stopping: asyncio.Event
) -> None:
    """Until it ends, its reader has gone, or the server stops."""
    headers = [
        (b"content-type", stream.kind.encode()),
        (b"cache-control", b"no-store"),
        (b"x-accel-buffering", b"no"),
        (b"x-content-type-options", b"nosniff"),
    ]
    start = {"type": "http.response.start", "status": 200, "headers": headers}
    sending = asyncio.ensure_future(_pump(send, start, stream))
    stop = asyncio.ensure_future(stopping.wait())
    try:
        await asyncio.wait((sending, gone, stop), return_when=asyncio.FIRST_COMPLETED)
        if gone.done() and not sending.done():
            raise ClientGone
        if sending.done():
            sending.result()
    finally:
        for each in (sending, stop):
            each.cancel()
        await asyncio.wait((sending,))
    await send({"type": "http.response.body", "body": b"", "more_body": False})


async def _pump(send: Send, start: dict[str, Any], stream: Stream) -> None:
    """One event after the other; a sign of life now and then."""

    async def write(chunk: Chunk) -> None:
        body = chunk.encoded(stream.lines)
        await send({"type": "http.response.body", "body": body, "more_body": True})

    rest, alive = stream.rest, STILL_THERE[stream.kind]
    following: asyncio.Future[Chunk] | None = None
    try:
        await send(start)
        await write(stream.first)
        while True:
            following = following or asyncio.ensure_future(anext(rest))
            done, _ = await asyncio.wait((following,), timeout=STILL_THERE_S)
            if done:
                chunk, following = following.result(), None
                await write(chunk)
            else:
                sign = {"type": "http.response.body", "body": alive, "more_body": True}
                await send(sign)
    except StopAsyncIteration:
        pass
    except Refusal as refusal:
        await write(Chunk("refused", _refused(refusal)))
    finally:
        if following is not None:
            following.cancel()
            await asyncio.wait((following,))
        await rest.aclose()


def _refused(refusal: Refusal) -> Mapping[str, Any]:
    shown: Mapping[str, Any] = json.loads(of_refusal(refusal, True).body)
    return shown
