"""Nexus over HTTP, where its specification ends: how an operation stands, its result, its questions.

    GET  /namespaces/{ns}/nexus/operations                    a page of standalone operations
    GET  /namespaces/{ns}/nexus/operations/{id}               how one stands
    GET  .../{id}/result                                      how it ended; with Durably-Wait a long poll
    GET  .../{id}/output                                      what it publishes, as a stream: `nexus_output`
    POST .../{id}/questions/{key}                             the answer to what it waits for
    POST .../{id}/cancel
    GET  {base}/{service}/{operation}[/result|/output]        the same of what a worker's operation started,
    POST {base}/{service}/{operation}/questions/{key}         with the header Nexus-Operation-Token

Rule 1: nothing is decided here. Headers that the specification does not have begin with `durably-`.
Rule 2: a wait has an end, and ends when the server stops.
"""

import asyncio
import base64
import contextlib
from collections.abc import AsyncGenerator, Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import unquote

import msgspec
from temporalio.api.nexus.v1 import message_pb2 as nexus

from durably.config import Config
from durably.edge import nexus_output
from durably.edge import nexus_requests as requests
from durably.edge.nexus_output import Chunk, Stream
from durably.edge.nexus_replies import JSON, STATE, Answer, of_outcome
from durably.engine.callback import completion
from durably.engine.nexus_outcome import Succeeded
from durably.service import nexus_operations
from durably.service.durable_calls import OPERATION_ENDS, Seen
from durably.service.nexus_calls import HandlerError
from durably.service.nexus_content import rfc3339
from durably.service.nexus_dispatch import Target, WorkerTarget
from durably.service.nexus_json import compact
from durably.service.nexus_operations import NexusOperations, Standalone, Which
from durably.service.operation_output import OutputStreams, Told

WAIT = "durably-wait"
KNOWN = "durably-known-questions"
RUNNING = "running"
INPUT_REQUIRED = "input_required"


@dataclass(frozen=True, slots=True)
class Asked:
    """A request, read. `headers`: names in lower case. `whole`: its caller understands whole failures."""

    method: str
    headers: dict[str, str]
    query: Mapping[str, str]
    body: bytes
    whole: bool

    @property
    def has_token(self) -> bool:
        return bool(self.headers.get(requests.TOKEN_HEADER) or self.query.get("token"))

    @property
    def waits(self) -> bool:
        """It may take long for reasons that are not the caller's."""
        return self.method == "GET"


class OperationRoutes:
    """Answers requests about operations that there are."""

    def __init__(self, operations: NexusOperations, streams: OutputStreams, config: Config) -> None:
        self._operations = operations
        self._streams = streams
        self._config = config
        self.stopping = asyncio.Event()

    def stop(self) -> None:
        self.stopping.set()

    async def of_namespace(self, namespace: str, names: list[str], asked: Asked) -> Answer | Stream:
        """What is below `/namespaces/{ns}/nexus/operations`."""
        match asked.method, names:
            case "GET", []:
                return await self._list(namespace, asked)
            case "POST", [operation_id, "cancel"]:
                which = Standalone(namespace, operation_id, asked.query.get("runId", ""))
                await self._operations.cancel(which)
                return Answer(202)
            case _, [operation_id, *rest]:
                which = Standalone(namespace, operation_id, asked.query.get("runId", ""))
                return await self._of_one(which, rest, asked)
            case _:
                raise requests.wrong_method(asked.method)

    async def of_token(self, target: Target, names: list[str], asked: Asked) -> Answer | Stream:
        """What is below `{base}`; the token says which operation it is about."""
        assert isinstance(target, WorkerTarget)
        token = requests.token_of(asked.headers, asked.query)
        which = nexus_operations.of_token(target.namespace, token)
        if len(names) < 2:
            raise HandlerError("NOT_FOUND", "not found")
        return await self._of_one(which, names[2:], asked)

    async def _of_one(self, which: Which, rest: list[str], asked: Asked) -> Answer | Stream:
        match asked.method, rest:
            case "GET", []:
                return _standing(await self._operations.look(which), 200)
            case "GET", ["result"]:
                return await self._result(which, asked)
            case "GET", ["output"]:
                return await self._output(which, asked)
            case "POST", ["questions", key]:
                seen = await self._operations.answer(which, key, _response(asked))
                return _standing(seen, 200)
            case _, [] | ["result" | "output"] | ["questions", _]:
                raise requests.wrong_method(asked.method)
            case _:
                raise HandlerError("NOT_FOUND", "not found")

    async def _result(self, which: Which, asked: Asked) -> Answer:
        message = f"invalid {WAIT} header: write it as 30s, 500ms or 1m"
        seconds = requests.seconds_of(asked.headers, WAIT, message)
        longest_s = self._config.nexus_call_timeout_s
        seen = await self._operations.wait(
            which, min(seconds, longest_s), _known(asked), self.stopping
        )
        if seen.end is None:
            return _standing(seen, 202)
        answer = of_outcome(seen.end, asked.whole)
        return Answer(answer.status, {**answer.headers, STATE: state_of(seen)}, answer.body)

    async def _output(self, which: Which, asked: Asked) -> Answer | Stream:
        after, from_now = nexus_output.place_of(asked.headers, asked.query)
        if after is not None and after.is_end and not await self._streams.has_more(which, after):
            return Answer(204)
        chunks = _chunks(self._streams.stream(which, after, from_now=from_now))
        lines = nexus_output.LINES in asked.headers.get("accept", "")
        return Stream(await anext(chunks), chunks, lines)

    async def _list(self, namespace: str, asked: Asked) -> Answer:
        query = asked.query
        found = await self._operations.listed(
            namespace, query.get("query", ""), requests.page_size(query), requests.page(query)
        )
        shown: dict[str, Any] = {"operations": [_row(each) for each in found.operations]}
        if found.next_page_token:
            shown["nextPageToken"] = base64.urlsafe_b64encode(found.next_page_token).decode()
        return _json(200, shown)


# --- Requests ---------------------------------------------------------------------------------


def _known(asked: Asked) -> frozenset[str]:
    """The questions that the caller has seen; keys are percent-encoded."""
    named = (each.strip() for each in asked.headers.get(KNOWN, "").split(","))
    return frozenset(unquote(each) for each in named if each)


def _response(asked: Asked) -> Any:
    try:
        return msgspec.json.decode(asked.body)
    except (msgspec.MsgspecError, UnicodeError, RecursionError) as error:
        message = 'an answer is JSON: {"action": "accept", "content": {...}}; or its action is decline or cancel'
        raise HandlerError("BAD_REQUEST", message) from error


# --- Replies ----------------------------------------------------------------------------------


def state_of(seen: Seen) -> str:
    """As Nexus has it; and `input_required` of what waits for an answer."""
    if seen.end is None:
        return INPUT_REQUIRED if seen.questions else RUNNING
    if isinstance(seen.end, Succeeded):
        return completion.SUCCEEDED
    return completion.CANCELED if seen.end.canceled else completion.FAILED


def shown(seen: Seen) -> dict[str, Any]:
    """An operation as it stands, for callers."""
    told: dict[str, Any] = {"id": seen.operation_id} if seen.operation_id else {}
    told |= seen.called
    told["state"] = state_of(seen)
    if seen.created_ns:
        told["created"] = rfc3339(seen.created_ns)
    if seen.ended and seen.changed_ns:
        told["closed"] = rfc3339(seen.changed_ns)
    if seen.questions:
        told["questions"] = msgspec.to_builtins(seen.questions)
    if seen.message:
        told["message"] = seen.message
    return told


def _standing(seen: Seen, status: int) -> Answer:
    answer = _json(status, shown(seen))
    return Answer(status, {**answer.headers, STATE: state_of(seen)}, answer.body)


async def _chunks(stream: AsyncGenerator[Told, None]) -> AsyncGenerator[Chunk, None]:
    async with contextlib.aclosing(stream):
        async for told in stream:
            if told.standing is None:
                yield nexus_output.piece_of(told)
            else:
                event = "state" if told.place is None else nexus_output.END
                yield Chunk(event, shown(told.standing), told.place)


def _row(each: nexus.NexusOperationExecutionListInfo) -> dict[str, Any]:
    _, state = OPERATION_ENDS.get(each.status, ("", RUNNING))
    told = {
        "id": each.operation_id,
        "runId": each.run_id,
        "endpoint": each.endpoint,
        "service": each.service,
        "operation": each.operation,
        "state": state,
        "created": each.schedule_time.ToJsonString(),
    }
    if each.HasField("close_time"):
        told["closed"] = each.close_time.ToJsonString()
    return told


def _json(status: int, told: Mapping[str, Any]) -> Answer:
    return Answer(status, JSON, compact(told))
