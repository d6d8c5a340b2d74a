"""Nexus over HTTP: operations are started and canceled, and completed by those who handle them.

    POST /namespaces/{ns}/task-queues/{tq}/nexus-services/{service}/{operation}
    POST /nexus/endpoints/{id}/services/{service}/{operation}
    POST .../{operation}/cancel                 with the header Nexus-Operation-Token, or ?token=
    GET  .../{operation}[/result|/output]       with the token of an operation that goes on: `nexus_operations`
    POST /namespaces/{ns}/nexus/callback        with the header Temporal-Callback-Token
    POST /nexus/callback                        the token says which namespace
    GET  /namespaces/{ns}/nexus/operations      standalone operations: `nexus_operations`
    GET  /namespaces/{ns}/nexus/services        what there is to call: `nexus_services`

Rule 1: nothing is decided here: a request is read, one function is called, its outcome is written.
Rule 2: the token by which a caller is known here is not passed on to the worker.

Facts: https://github.com/nexus-rpc/api/blob/main/SPEC.md; the paths are those of Temporal's server.
"""

import asyncio
import logging
import re
from collections.abc import Awaitable
from dataclasses import replace
from urllib.parse import unquote

from temporalio.api.nexus.v1 import message_pb2 as nexus

from durably.config import Config
from durably.edge import nexus_requests as requests
from durably.edge.calls import (
    ClientGone,
    Receive,
    Scope,
    Send,
    as_sent,
    disconnected,
    read_body,
    unless_gone,
)
from durably.edge.nexus_operations import Asked, OperationRoutes
from durably.edge.nexus_output import Stream, send_stream
from durably.edge.nexus_replies import Answer, of_outcome, of_refusal, refused, send_answer
from durably.edge.nexus_services import ServiceRoutes
from durably.engine import nexus_outcome
from durably.errors import Refusal
from durably.service import nexus_links
from durably.service.access import CHALLENGE
from durably.service.callback_tokens import HEADER as CALLBACK_TOKEN
from durably.service.nexus_calls import HandlerError, NexusCalls
from durably.service.nexus_completions import Completion
from durably.service.nexus_content import from_content
from durably.service.nexus_dispatch import Target

logger = logging.getLogger(__name__)

QUEUES = re.compile(r"/namespaces/([^/]+)/task-queues/([^/]+)/nexus-services/(.*)")
ENDPOINTS = re.compile(r"/nexus/endpoints/([^/]+)/services/(.*)")
CALLBACK = re.compile(r"/namespaces/([^/]+)/nexus/callback|/nexus/callback")
OPERATIONS = re.compile(r"/namespaces/([^/]+)/nexus/operations(/.*)?")
SERVICES = re.compile(r"/namespaces/([^/]+)/nexus/services(/.*)?")
PATHS = (QUEUES, ENDPOINTS, CALLBACK, OPERATIONS, SERVICES)

FAILURE_SUPPORT = "temporal-nexus-failure-support"
"""Header of callers that understand whole failures; others get the cause alone."""


class Nexus:
    """Answers requests whose path is one of those above."""

    def __init__(
        self,
        calls: NexusCalls,
        operations: OperationRoutes,
        services: ServiceRoutes,
        config: Config,
    ) -> None:
        self._calls = calls
        self._operations = operations
        self._services = services
        self._bytes_max = config.message_bytes_max

    def serves(self, scope: Scope) -> bool:
        path = as_sent(scope)
        return any(each.fullmatch(path) for each in PATHS)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        send = unless_gone(send)
        headers = requests.headers_of(scope)
        whole = headers.get(FAILURE_SUPPORT) == "true"
        gone: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        try:
            try:
                body = await read_body(receive, self._bytes_max)
                asked = Asked(scope["method"], headers, requests.query_of(scope), body, whole)
                answering = self._answer(as_sent(scope), asked)
                if asked.waits:
                    gone = asyncio.ensure_future(disconnected(receive))
                    answer = await _unless(gone, answering)
                else:
                    answer = await answering
            except HandlerError as error:
                answer = refused(error.refused, whole)
            except Refusal as refusal:
                answer = of_refusal(refusal, whole)
            except ClientGone:
                raise
            except Exception:
                logger.exception("%s failed", scope["path"])
                answer = refused(nexus_outcome.refused("INTERNAL", "internal error"), whole)
            if isinstance(answer, Stream):
                await send_stream(send, gone, answer, self._operations.stopping)
            else:
                await send_answer(send, answer)
        except ClientGone:
            pass
        finally:
            gone.cancel()

    async def refuse(self, send: Send, refusal: Refusal) -> None:
        """What is refused before it is read, in the words of Nexus."""
        answer = of_refusal(refusal, True)
        if answer.status == 401:
            answer = replace(answer, headers={**answer.headers, "www-authenticate": CHALLENGE})
        await send_answer(send, answer)

    def stop(self) -> None:
        """Who waits is told how things stand, and does not hold up the end of the server."""
        self._operations.stop()

    async def _answer(self, path: str, asked: Asked) -> Answer | Stream:
        callback, operations = CALLBACK.fullmatch(path), OPERATIONS.fullmatch(path)
        if callback is not None:
            namespace = unquote(callback[1]) if callback[1] else None
            return await self._complete(namespace, asked)
        if operations is not None:
            return await self._operations.of_namespace(
                unquote(operations[1]), _names(operations[2] or ""), asked
            )
        services = SERVICES.fullmatch(path)
        if services is not None:
            return await self._services.of_namespace(
                unquote(services[1]), _names(services[2] or ""), asked
            )
        queue, endpoint = QUEUES.fullmatch(path), ENDPOINTS.fullmatch(path)
        reads = asked.method == "GET" and asked.has_token
        if queue is not None:
            place = (unquote(queue[1]), unquote(queue[2]))
            target = await self._calls.of_queue(*place, reads=reads)
            names = _names(queue[3])
        else:
            assert endpoint is not None
            target = await self._calls.of_endpoint(unquote(endpoint[1]), reads=reads)
            names = _names(endpoint[2])
        if reads:
            return await self._operations.of_token(target, names, asked)
        if asked.method != "POST":
            message = f'invalid request method: expected POST, got "{asked.method}"'
            raise HandlerError("BAD_REQUEST", message)
        match names:
            case [service, operation]:
                return await self._start(target, service, operation, asked)
            case [service, operation, "cancel"]:
                return await self._cancel(target, service, operation, asked)
            case [_, _, "questions", _]:
                return await self._operations.of_token(target, names, asked)
            case _:
                raise HandlerError("NOT_FOUND", "not found")

    async def _start(self, target: Target, service: str, operation: str, asked: Asked) -> Answer:
        headers = asked.headers
        links = requests.links_of(headers, 'invalid "nexus-link" header')
        timeout_s = requests.timeout_s(headers)
        try:
            payload = from_content(requests.stripped(headers, "content-"), asked.body)
        except ValueError as error:
            raise HandlerError("BAD_REQUEST", "invalid input") from error
        request = nexus.StartOperationRequest(
            service=service,
            operation=operation,
            request_id=headers.get("nexus-request-id", ""),
            callback=asked.query.get("callback", ""),
            callback_header=requests.stripped(headers, "nexus-callback-"),
            payload=payload,
            links=links,
        )
        passed = requests.passed_on(requests.without(headers, "content-", "nexus-callback-"))
        outcome = await self._calls.start(target, request, passed, timeout_s, failures=asked.whole)
        return of_outcome(outcome, asked.whole)

    async def _cancel(self, target: Target, service: str, operation: str, asked: Asked) -> Answer:
        token = requests.token_of(asked.headers, asked.query)
        request = nexus.CancelOperationRequest(
            service=service, operation=operation, operation_token=token, operation_id=token
        )
        timeout_s = requests.timeout_s(asked.headers)
        passed = requests.passed_on(asked.headers)
        found = await self._calls.cancel(target, request, passed, timeout_s)
        return Answer(202) if found is None else refused(found, asked.whole, by_worker=True)

    async def _complete(self, namespace: str | None, asked: Asked) -> Answer:
        headers = asked.headers
        started = headers.get("nexus-operation-start-time", "")
        closed = headers.get("nexus-operation-close-time", "")
        started_ns = requests.date_ns(started)
        requests.check_time(closed)
        links = requests.links_of(headers, "failed to decode links from request headers")
        completion = Completion(
            requests.ended(headers, asked.body),
            operation_token=headers.get(requests.TOKEN_HEADER, ""),
            started_ns=started_ns,
            links=nexus_links.from_nexus(links),
        )
        await self._calls.complete(namespace, headers.get(CALLBACK_TOKEN, ""), completion)
        return Answer(200)


def _names(rest: str) -> list[str]:
    """The segments of the rest of a path."""
    return [unquote(part) for part in rest.removeprefix("/").split("/")] if rest else []


async def _unless(
    gone: "asyncio.Future[None]", answering: Awaitable[Answer | Stream]
) -> Answer | Stream:
    """The answer, unless the caller goes away first."""
    handling = asyncio.ensure_future(answering)
    try:
        await asyncio.wait((handling, gone), return_when=asyncio.FIRST_COMPLETED)
        if not handling.done():
            raise ClientGone
        return handling.result()
    finally:
        handling.cancel()
