"""What is sent over HTTP to the Nexus routes of both servers, and a worker that handles it."""

import json
import uuid
from dataclasses import dataclass, field
from typing import Any

import aiohttp
import nexusrpc
from nexusrpc.handler import (
    CancelOperationContext,
    OperationHandler,
    StartOperationContext,
    StartOperationResultAsync,
    StartOperationResultSync,
    operation_handler,
    service_handler,
    sync_operation,
)
from temporalio.client import Client
from temporalio.exceptions import ApplicationError
from temporalio.worker import Worker
from yarl import URL

QUEUE = "nexus/http queue"
"""A name that is not the same in a URL."""
A_LINK = (
    "temporal:///namespaces/n/workflows/w/r/history"
    "?eventID=1&eventType=WorkflowExecutionStarted&referenceType=EventReference"
)
A_LINK_TYPE = "temporal.api.common.v1.Link.WorkflowEvent"


@nexusrpc.service
class Desk:
    echo: nexusrpc.Operation[Any, Any]
    nothing: nexusrpc.Operation[None, None]
    linked: nexusrpc.Operation[Any, Any]
    later: nexusrpc.Operation[Any, Any]
    fails: nexusrpc.Operation[str, str]
    refuses: nexusrpc.Operation[str, str]
    breaks: nexusrpc.Operation[None, None]
    tells: nexusrpc.Operation[None, Any]


class Later(OperationHandler[Any, Any]):
    """Goes on by itself; knows one token."""

    async def start(self, ctx: StartOperationContext, input: Any) -> StartOperationResultAsync:
        ctx.outbound_links.append(nexusrpc.Link(url=A_LINK, type=A_LINK_TYPE))
        return StartOperationResultAsync("a/token")

    async def cancel(self, ctx: CancelOperationContext, token: str) -> None:
        if token != "a/token":
            kind = nexusrpc.HandlerErrorType.NOT_FOUND
            raise nexusrpc.HandlerError("no such token", type=kind)


@service_handler(service=Desk)
class DeskHandler:
    @sync_operation
    async def echo(self, ctx: StartOperationContext, value: Any) -> Any:
        return value

    @sync_operation
    async def nothing(self, ctx: StartOperationContext, value: None) -> None:
        return None

    @operation_handler
    def linked(self) -> OperationHandler[Any, Any]:
        return Linked()

    @operation_handler
    def later(self) -> OperationHandler[Any, Any]:
        return Later()

    @sync_operation
    async def fails(self, ctx: StartOperationContext, state: str) -> str:
        kind = nexusrpc.OperationErrorState(state)
        raise nexusrpc.OperationError("as asked", state=kind)

    @sync_operation
    async def refuses(self, ctx: StartOperationContext, kind: str) -> str:
        name, _, retryable = kind.partition(":")
        override = {"": None, "yes": True, "no": False}[retryable]
        raise nexusrpc.HandlerError(
            "as asked", type=nexusrpc.HandlerErrorType[name], retryable_override=override
        )

    @sync_operation
    async def breaks(self, ctx: StartOperationContext, value: None) -> None:
        raise ApplicationError("broken", "detail", type="Broken")

    @sync_operation
    async def tells(self, ctx: StartOperationContext, value: None) -> Any:
        """What of the request has reached the handler."""
        kept = ("mine", "content-type", "nexus-request-id", "authorization")
        return {
            "headers": {name: ctx.headers.get(name) for name in kept},
            "callback": ctx.callback_url,
            "callback_headers": dict(sorted(ctx.callback_headers.items())),
            "links": [[link.url, link.type] for link in ctx.inbound_links],
            "request": ctx.request_id if ctx.request_id == "rq" else "made",
        }


class Linked(OperationHandler[Any, Any]):
    async def start(self, ctx: StartOperationContext, input: Any) -> StartOperationResultSync[Any]:
        ctx.outbound_links.append(nexusrpc.Link(url=A_LINK, type=A_LINK_TYPE))
        return StartOperationResultSync(input)

    async def cancel(self, ctx: CancelOperationContext, token: str) -> None:
        raise NotImplementedError


def worker(client: Client) -> Worker:
    return Worker(client, task_queue=QUEUE, nexus_service_handlers=[DeskHandler()])


@dataclass(frozen=True)
class Request:
    path: str
    """Below the routes of the queue, if it does not begin with a slash."""
    body: bytes = b""
    headers: dict[str, str] = field(default_factory=dict)
    method: str = "POST"
    by_endpoint: bool = False


JSON = {"Content-Type": "application/json"}
WHOLE = {"Temporal-Nexus-Failure-Support": "true"}
OCTETS = {"Content-Type": "application/octet-stream"}
PROTOBUF = {"Content-Type": 'application/json; format=protobuf; message-type="a.B"'}
LINK = f'<{A_LINK}>; type="{A_LINK_TYPE}"'
NONE = str(uuid.UUID(int=0))


def _said(value: Any) -> bytes:
    return json.dumps(value).encode()


REQUESTS: dict[str, Request] = {
    "a value": Request("Desk/echo", _said({"a": [1]}), JSON),
    "a value by an endpoint": Request("Desk/echo", _said("v"), JSON, by_endpoint=True),
    "nothing": Request("Desk/nothing"),
    "octets": Request("Desk/echo", b"\x00\x01", OCTETS),
    "json of a message": Request("Desk/echo", b'"x"', PROTOBUF),
    "another kind of content": Request("Desk/nothing", b"x", {"Content-Type": "text/plain"}),
    "links back": Request("Desk/linked", _said(1), JSON),
    "goes on by itself": Request("Desk/later", _said(1), JSON),
    "goes on, by an endpoint": Request("Desk/later", _said(1), JSON, by_endpoint=True),
    "what reaches the handler": Request(
        "Desk/tells?callback=http%3A%2F%2Fa.example%2Fx%3Fy%3D1",
        b"",
        {"Mine": "yes", "Nexus-Request-Id": "rq", "Nexus-Callback-Token": "t", "Nexus-Link": LINK},
    ),
    "failed": Request("Desk/fails", _said("failed"), JSON),
    "canceled": Request("Desk/fails", _said("canceled"), JSON),
    "failed, whole": Request("Desk/fails", _said("failed"), JSON | WHOLE),
    "canceled, whole": Request("Desk/fails", _said("canceled"), JSON | WHOLE),
    "broken": Request("Desk/breaks"),
    "broken, whole": Request("Desk/breaks", b"", WHOLE),
    "no such operation": Request("Desk/none", _said(1), JSON),
    "no such operation, whole": Request("Desk/none", _said(1), JSON | WHOLE),
    "no such service": Request("None/echo", _said(1), JSON),
    "no such namespace": Request(
        "/namespaces/nowhere/task-queues/q/nexus-services/Desk/echo", _said(1), JSON
    ),
    "no such endpoint": Request(f"/nexus/endpoints/{NONE}/services/Desk/echo", _said(1), JSON),
    "no such endpoint, whole": Request(
        f"/nexus/endpoints/{NONE}/services/Desk/echo", _said(1), JSON | WHOLE
    ),
    "nobody polls": Request(
        "/namespaces/default/task-queues/nobody/nexus-services/Desk/echo",
        _said(1),
        JSON | {"Request-Timeout": "500ms"},
    ),
    "no method but POST": Request("Desk/echo", method="GET"),
    "no operation": Request("Desk"),
    "too long a path": Request("Desk/echo/more", _said(1), JSON),
    "a bad timeout": Request("Desk/echo", _said(1), JSON | {"Request-Timeout": "soon"}),
    "a bad link": Request("Desk/echo", _said(1), JSON | {"Nexus-Link": "none"}),
    "a bad payload": Request(
        "Desk/echo", b"\xff\xff", {"Content-Type": "application/x-temporal-payload"}
    ),
    "canceled by its token": Request(
        "Desk/later/cancel", b"", {"Nexus-Operation-Token": "a/token"}
    ),
    "canceled by a parameter": Request("Desk/later/cancel?token=a%2Ftoken"),
    "canceled by an endpoint": Request(
        "Desk/later/cancel", b"", {"Nexus-Operation-Token": "a/token"}, by_endpoint=True
    ),
    "cancel without a token": Request("Desk/later/cancel"),
    "cancel with another token": Request("Desk/later/cancel?token=b"),
    "cancel of what cannot be": Request("Desk/echo/cancel?token=b"),
    "cancel to nobody": Request(
        "/namespaces/default/task-queues/nobody/nexus-services/Desk/echo/cancel?token=b",
        b"",
        {"Request-Timeout": "500ms"},
    ),
    "completed without a token": Request(
        "/namespaces/default/nexus/callback", b"", {"Nexus-Operation-State": "succeeded"}
    ),
    "completed with a bad token": Request(
        "/nexus/callback",
        b"",
        {"Nexus-Operation-State": "succeeded", "Temporal-Callback-Token": "x"},
    ),
    "completed in no state": Request("/nexus/callback"),
    "completed in a strange state": Request(
        "/nexus/callback", b"", {"Nexus-Operation-State": "running"}
    ),
    "failed with no JSON": Request("/nexus/callback", b"", {"Nexus-Operation-State": "failed"}),
    "failed with bad JSON": Request(
        "/nexus/callback", b"x", JSON | {"Nexus-Operation-State": "failed"}
    ),
    "completed with a bad link": Request(
        "/nexus/callback", b"", {"Nexus-Operation-State": "succeeded", "Nexus-Link": "x"}
    ),
    "completed with a bad start": Request(
        "/nexus/callback",
        b"",
        {"Nexus-Operation-State": "succeeded", "Nexus-Operation-Start-Time": "x"},
    ),
    "completed with a bad close": Request(
        "/nexus/callback",
        b"",
        {"Nexus-Operation-State": "succeeded", "Nexus-Operation-Close-Time": "x"},
    ),
}
for _kind in nexusrpc.HandlerErrorType:
    REQUESTS[f"refused with {_kind.name}"] = Request("Desk/refuses", _said(_kind.name), JSON)
for _name in ("INTERNAL:no", "BAD_REQUEST:yes"):
    REQUESTS[f"refused with {_name}"] = Request("Desk/refuses", _said(_name), JSON | WHOLE)

COMPARED = (
    "content-type",
    "nexus-operation-state",
    "nexus-link",
    "nexus-request-retryable",
    "temporal-nexus-failure-source",
)


async def send(base: str, endpoint_id: str, request: Request) -> list[Any]:
    """[status, headers, body] of the reply."""
    path = request.path
    if request.by_endpoint:
        path = f"/nexus/endpoints/{endpoint_id}/services/{path}"
    elif not path.startswith("/"):
        queue = "nexus%2Fhttp%20queue"
        path = f"/namespaces/default/task-queues/{queue}/nexus-services/{path}"
    async with (
        aiohttp.ClientSession(skip_auto_headers=["Content-Type"]) as session,
        session.request(
            request.method,
            URL(f"http://{base}{path}", encoded=True),
            data=request.body,
            headers=request.headers,
        ) as answer,
    ):
        headers = {name: answer.headers.get(name) for name in COMPARED}
        return [answer.status, headers, _readable(await answer.read())]


def _readable(body: bytes) -> Any:
    """JSON without lines of code in it."""
    try:
        told = json.loads(body)
    except ValueError:
        return body.decode(errors="replace")
    _forget_lines(told)
    return told


def _forget_lines(told: Any) -> None:
    if isinstance(told, dict):
        told.pop("stackTrace", None)
        for value in told.values():
            _forget_lines(value)
