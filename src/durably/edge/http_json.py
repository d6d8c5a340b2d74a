"""The HTTP/JSON API: every RPC that has a route, answered by the same handlers as over gRPC.

    GET  /api/v1/namespaces/default/workflows?query=...
    POST /api/v1/namespaces/default/workflows/ID   {"workflowType": {"name": "W"}, ...}

Rule 1: nothing is decided here: a request becomes the RPC's own message, and its reply JSON.
Rule 2: a browser on another site cannot change anything: a body must be declared to be JSON, which such
        a site may not do without asking first.
"""

import json
import re
from collections.abc import Mapping
from http import HTTPStatus
from typing import Any, cast
from urllib.parse import parse_qsl

from google.protobuf import any_pb2, json_format
from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.rpc import status_pb2

from durably.config import Config
from durably.edge import payload_json
from durably.edge.calls import (
    ClientGone,
    Clock,
    Headers,
    Receive,
    Scope,
    Send,
    answer,
    as_sent,
    read_body,
    unless_gone,
)
from durably.edge.grpc import timeout_ns
from durably.edge.openapi import document
from durably.edge.routes import Router, routes
from durably.edge.traffic import Exchange, Traffic
from durably.errors import (
    HTTP_STATUS,
    InvalidArgument,
    Refusal,
    Status,
)
from durably.service.access import CALLER
from durably.service.admission import Call, Rpc
from durably.version import VERSION

OPENAPI_PATH = "/openapi.json"
JSON_TYPE = re.compile(r"application/json(\+[a-z+-]+)?\s*(;.*)?$", re.IGNORECASE)
HEADERS = [(b"content-type", b"application/json"), (b"x-content-type-options", b"nosniff")]


class HttpJson:
    """Answers requests whose path is a route of the API."""

    def __init__(
        self, table: Mapping[str, Rpc], clock: Clock, config: Config, traffic: Traffic
    ) -> None:
        found = routes(table)
        self._router = Router(found)
        self._routes = found
        self._clock = clock
        self._bytes_max = config.message_bytes_max
        self._traffic = traffic
        self._openapi = b""

    def serves(self, scope: Scope) -> bool:
        path = as_sent(scope)
        return path == OPENAPI_PATH or bool(self._router.find(path)[0])

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        send = unless_gone(send)
        headers = Headers(scope["headers"])
        pretty = _is_pretty(scope, headers)
        exchange = self._traffic.begin()
        ended = Status.CANCELLED
        try:
            allowed = self._methods(scope)
            if scope["method"] not in allowed:
                ended = Status.UNIMPLEMENTED
                return await _not_allowed(send, allowed)
            outcome = Status.OK
            try:
                status, body = 200, await self._answer(exchange, scope, headers, receive, pretty)
            except Refusal as refusal:
                outcome = refusal.status
                status, body = _refused(refusal, pretty)
            await send({"type": "http.response.start", "status": status, "headers": HEADERS})
            await send({"type": "http.response.body", "body": body, "more_body": False})
            ended = outcome
        except ClientGone:
            pass
        finally:
            self._traffic.end(exchange, ended)
        return None

    def _methods(self, scope: Scope) -> list[str]:
        path = as_sent(scope)
        return ["GET"] if path == OPENAPI_PATH else sorted(self._router.find(path)[0])

    async def _answer(
        self,
        exchange: Exchange,
        scope: Scope,
        headers: Headers,
        receive: Receive,
        pretty: bool,
    ) -> bytes:
        path = as_sent(scope)
        body = await read_body(receive, self._bytes_max)
        if path == OPENAPI_PATH:
            return self._document()
        by_method, values = self._router.find(path)
        route = by_method[scope["method"]]
        exchange.rpc = route.rpc.name
        shorthand = "no-payload-shorthand" not in headers.get("content-type", "")
        request = exchange.request = route.rpc.request()
        if route.has_body:
            _check_declared(headers, body)
            payload_json.read(body or b"{}", request, shorthand=shorthand)
        else:
            payload_json.fill(
                _query(scope, cast(Descriptor, request.DESCRIPTOR)), request, shorthand=shorthand
            )
        for name, value in zip(route.variables, values, strict=True):
            _set(request, name, value)
        limit_ns = timeout_ns(headers)
        deadline_ns = self._clock() + limit_ns if limit_ns else 0
        call = Call(route.rpc.name, headers, deadline_ns, CALLER.get())
        reply = exchange.reply = await answer(route.rpc, request, call, limit_ns, receive)
        accepted = headers.get("accept", "")
        shorthand = "no-payload-shorthand" not in accepted
        return payload_json.write(reply, shorthand=shorthand, pretty=pretty).encode()

    def _document(self) -> bytes:
        """Made when it is first asked for: few are."""
        if not self._openapi:
            self._openapi = json.dumps(document(self._routes, VERSION)).encode()
        return self._openapi


# --- Requests ---------------------------------------------------------------------------------


def _is_pretty(scope: Scope, headers: Headers) -> bool:
    asked = dict(parse_qsl(scope["query_string"].decode("latin-1"), keep_blank_values=True))
    return "pretty" in asked or "pretty" in headers.get("accept", "")


def _check_declared(headers: Headers, body: bytes) -> None:
    kind = headers.get("content-type", "")
    if not JSON_TYPE.match(kind):
        raise InvalidArgument("send the header `content-type: application/json`")


def _query(scope: Scope, kind: Descriptor) -> dict[str, Any]:
    """The parameters of a query as the JSON of a message; names of inner fields have dots."""
    found: dict[str, Any] = {}
    pairs = parse_qsl(scope["query_string"].decode("latin-1"), keep_blank_values=True)
    for name, text in pairs:
        if name == "pretty":
            continue
        _put(found, kind, name, text)
    return found


def _put(found: dict[str, Any], kind: Descriptor, name: str, text: str) -> None:
    node = found
    *outer, last = name.split(".")
    for part in outer:
        field = _field(kind, part, name)
        if field.message_type is None or field.is_repeated:
            raise InvalidArgument(f"{name}: {part} has no fields")
        node = node.setdefault(field.json_name, {})
        kind = field.message_type
    field = _field(kind, last, name)
    value = _scalar(field, text, name)
    if field.is_repeated:
        node.setdefault(field.json_name, []).append(value)
    else:
        node[field.json_name] = value


def _field(kind: Descriptor, part: str, name: str) -> FieldDescriptor:
    for field in kind.fields:
        if part in (field.name, field.json_name):
            return field
    raise InvalidArgument(
        f"there is no parameter {name[:200]!r}: {kind.name} has no field {part!r}"
    )


def _scalar(field: FieldDescriptor, text: str, name: str) -> Any:
    """A parameter's text as the JSON of its field."""
    if field.cpp_type == FieldDescriptor.CPPTYPE_BOOL:
        if text not in ("true", "false"):
            raise InvalidArgument(f"{name}: write true or false")
        return text == "true"
    if field.cpp_type == FieldDescriptor.CPPTYPE_ENUM and re.fullmatch(r"-?\d{1,10}", text):
        return int(text)
    if field.message_type is not None and field.message_type.GetOptions().map_entry:
        raise InvalidArgument(f"{name}: a map cannot be given in a query")
    return text


def _set(request: Any, name: str, value: str) -> None:
    """A variable of the path; it goes before what the body says."""
    *outer, last = name.split(".")
    for part in outer:
        request = getattr(request, part)
    setattr(request, last, value)


# --- Replies ----------------------------------------------------------------------------------


async def _not_allowed(send: Send, allowed: list[str]) -> None:
    body = json.dumps({"code": 12, "message": f"use {' or '.join(allowed)} for this path"})
    headers = [*HEADERS, (b"allow", ", ".join(allowed).encode())]
    await send({"type": "http.response.start", "status": 405, "headers": headers})
    await send({"type": "http.response.body", "body": body.encode(), "more_body": False})


def _refused(refusal: Refusal, pretty: bool) -> tuple[int, bytes]:
    """A refusal as google.rpc.Status, with the HTTP status that goes with it."""
    status = status_pb2.Status(code=int(refusal.status), message=refusal.message)
    if refusal.detail is not None:
        detail = any_pb2.Any()
        detail.Pack(refusal.detail)
        status.details.append(detail)
    body = payload_json.text_of(json_format.MessageToDict(status), pretty=pretty)
    code = HTTP_STATUS.get(refusal.status, int(HTTPStatus.INTERNAL_SERVER_ERROR))
    return code, body.encode()
