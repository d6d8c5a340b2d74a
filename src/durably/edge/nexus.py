"""Nexus over HTTP: operations are started and canceled, and completed by those who handle them.

    POST /namespaces/{ns}/task-queues/{tq}/nexus-services/{service}/{operation}
    POST /nexus/endpoints/{id}/services/{service}/{operation}
    POST .../{operation}/cancel                 with the header Nexus-Operation-Token, or ?token=
    POST /namespaces/{ns}/nexus/callback        with the header Temporal-Callback-Token
    POST /nexus/callback                        the token says which namespace

Rule 1: nothing is decided here: a request is read, one function is called, its outcome is written.
Rule 2: the token by which a caller is known here is not passed on to the worker.

Facts: https://github.com/nexus-rpc/api/blob/main/SPEC.md; the paths are those of Temporal's server.
"""

import json
import logging
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime
from email.utils import parsedate_to_datetime
from urllib.parse import parse_qs, unquote

from temporalio.api.nexus.v1 import message_pb2 as nexus

from durably.config import Config
from durably.edge.calls import (
    ClientGone,
    Receive,
    Scope,
    Send,
    as_sent,
    read_body,
    unless_gone,
)
from durably.engine.nexus_outcome import (
    Ended,
    Refused,
    Started,
    StartOutcome,
    Succeeded,
    Unsuccessful,
    refused,
)
from durably.errors import Refusal
from durably.service import nexus_failures, nexus_json, nexus_links
from durably.service.access import CALLER, CHALLENGE
from durably.service.callback_tokens import HEADER as TOKEN_HEADER
from durably.service.nexus_calls import HandlerError, NexusCalls
from durably.service.nexus_completions import Completion
from durably.service.nexus_content import (
    from_content,
    is_json,
    links_header,
    links_of_headers,
    to_content,
)
from durably.service.nexus_dispatch import Target
from durably.service.nexus_errors import RETRYABLE_HEADER, STATUSES, of_refusal
from durably.service.nexus_failures import RETRY_BEHAVIORS, TEMPORAL_FAILURE

logger = logging.getLogger(__name__)

QUEUES = re.compile(r"/namespaces/([^/]+)/task-queues/([^/]+)/nexus-services/(.*)")
ENDPOINTS = re.compile(r"/nexus/endpoints/([^/]+)/services/(.*)")
CALLBACK = re.compile(r"/namespaces/([^/]+)/nexus/callback|/nexus/callback")
TIMEOUT = re.compile(r"(\d+(?:\.\d+)?)(ms|s|m)")
UNITS_S = {"ms": 0.001, "s": 1.0, "m": 60.0}

FAILURE_SUPPORT = "temporal-nexus-failure-support"
"""Header of callers that understand whole failures; others get the cause alone."""
SOURCE = "temporal-nexus-failure-source"
"""Header that says that it is the worker's doing, not the server's."""
UNSUCCESSFUL_STATUS = 424


@dataclass(frozen=True, slots=True)
class Answer:
    status: int
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes = b""


class Nexus:
    """Answers requests whose path is one of those above."""

    def __init__(self, calls: NexusCalls, config: Config) -> None:
        self._calls = calls
        self._bytes_max = config.message_bytes_max

    def serves(self, scope: Scope) -> bool:
        path = as_sent(scope)
        return any(each.fullmatch(path) for each in (QUEUES, ENDPOINTS, CALLBACK))

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        send = unless_gone(send)
        headers = _headers(scope)
        whole = headers.get(FAILURE_SUPPORT) == "true"
        try:
            try:
                body = await read_body(receive, self._bytes_max)
                answer = await self._answer(scope, headers, body, whole)
            except HandlerError as error:
                answer = _refused(error.refused, whole)
            except Refusal as refusal:
                answer = _refused(refused(of_refusal(refusal), refusal.message), whole)
            except ClientGone:
                raise
            except Exception:
                logger.exception("%s failed", scope["path"])
                answer = _refused(refused("INTERNAL", "internal error"), whole)
            await _send(send, answer)
        except ClientGone:
            pass

    async def refuse(self, send: Send, refusal: Refusal) -> None:
        """What is refused before it is read, in the words of Nexus."""
        answer = _refused(refused(of_refusal(refusal), refusal.message), True)
        if answer.status == 401:
            answer = replace(answer, headers={**answer.headers, "www-authenticate": CHALLENGE})
        await _send(send, answer)

    async def _answer(
        self, scope: Scope, headers: dict[str, str], body: bytes, whole: bool
    ) -> Answer:
        path = as_sent(scope)
        callback = CALLBACK.fullmatch(path)
        if callback is not None:
            namespace = unquote(callback[1]) if callback[1] else None
            return await self._complete(scope, namespace, headers, body)
        queue, endpoint = QUEUES.fullmatch(path), ENDPOINTS.fullmatch(path)
        if queue is not None:
            target, rest = self._calls.of_queue(unquote(queue[1]), unquote(queue[2])), queue[3]
        else:
            assert endpoint is not None
            target, rest = await self._calls.of_endpoint(unquote(endpoint[1])), endpoint[2]
        if scope["method"] != "POST":
            method = scope["method"]
            message = f'invalid request method: expected POST, got "{method}"'
            raise HandlerError("BAD_REQUEST", message)
        query = {name: values[0] for name, values in parse_qs(_query(scope)).items()}
        names = [unquote(part) for part in rest.split("/")]
        match names:
            case [service, operation]:
                return await self._start(target, service, operation, query, headers, body, whole)
            case [service, operation, "cancel"]:
                return await self._cancel(target, service, operation, query, headers, whole)
            case _:
                raise HandlerError("NOT_FOUND", "not found")

    async def _start(
        self,
        target: Target,
        service: str,
        operation: str,
        query: Mapping[str, str],
        headers: dict[str, str],
        body: bytes,
        whole: bool,
    ) -> Answer:
        links = _links(headers, 'invalid "nexus-link" header')
        timeout_s = _timeout_s(headers)
        try:
            payload = from_content(_stripped(headers, "content-"), body)
        except ValueError as error:
            raise HandlerError("BAD_REQUEST", "invalid input") from error
        request = nexus.StartOperationRequest(
            service=service,
            operation=operation,
            request_id=headers.get("nexus-request-id", ""),
            callback=query.get("callback", ""),
            callback_header=_stripped(headers, "nexus-callback-"),
            payload=payload,
            links=links,
        )
        passed = _passed_on(_without(headers, "content-", "nexus-callback-"))
        outcome = await self._calls.start(target, request, passed, timeout_s, failures=whole)
        return _outcome(outcome, whole)

    async def _cancel(
        self,
        target: Target,
        service: str,
        operation: str,
        query: Mapping[str, str],
        headers: dict[str, str],
        whole: bool,
    ) -> Answer:
        token = headers.pop("nexus-operation-token", "") or query.get("token", "")
        if not token:
            raise HandlerError("BAD_REQUEST", "missing operation token")
        request = nexus.CancelOperationRequest(
            service=service, operation=operation, operation_token=token, operation_id=token
        )
        timeout_s = _timeout_s(headers)
        found = await self._calls.cancel(target, request, _passed_on(headers), timeout_s)
        return Answer(202) if found is None else _refused(found, whole, by_worker=True)

    async def _complete(
        self, scope: Scope, namespace: str | None, headers: Mapping[str, str], body: bytes
    ) -> Answer:
        started = headers.get("nexus-operation-start-time", "")
        closed = headers.get("nexus-operation-close-time", "")
        started_ns = _date_ns(started)
        _check_time(closed)
        links = _links(headers, "failed to decode links from request headers")
        completion = Completion(
            _ended(headers, body),
            operation_token=headers.get("nexus-operation-token", ""),
            started_ns=started_ns,
            links=nexus_links.from_nexus(links),
        )
        await self._calls.complete(namespace, headers.get(TOKEN_HEADER, ""), completion)
        return Answer(200)


# --- Requests ---------------------------------------------------------------------------------


def _query(scope: Scope) -> str:
    return bytes(scope.get("query_string", b"")).decode("latin-1")


def _headers(scope: Scope) -> dict[str, str]:
    """Names in lower case; of those that are repeated, links are joined and else the first counts."""
    found: dict[str, str] = {}
    for raw_name, raw_value in scope["headers"]:
        name, value = raw_name.decode("latin-1").lower(), raw_value.decode("latin-1")
        if name == "nexus-link" and name in found:
            found[name] += "," + value
        else:
            found.setdefault(name, value)
    return found


def _stripped(headers: Mapping[str, str], prefix: str) -> dict[str, str]:
    return {name.removeprefix(prefix): v for name, v in headers.items() if name.startswith(prefix)}


def _without(headers: Mapping[str, str], *prefixes: str) -> dict[str, str]:
    return {name: value for name, value in headers.items() if not name.startswith(prefixes)}


def _passed_on(headers: dict[str, str]) -> dict[str, str]:
    """Where tokens are asked for, `authorization` is for this server alone."""
    return headers if CALLER.get() is None else _without(headers, "authorization")


def _links(headers: Mapping[str, str], message: str) -> list[nexus.Link]:
    try:
        return links_of_headers([headers["nexus-link"]]) if "nexus-link" in headers else []
    except ValueError as error:
        raise HandlerError("BAD_REQUEST", message) from error


def _timeout_s(headers: Mapping[str, str]) -> float:
    """0: none is asked for."""
    text = headers.get("request-timeout", "")
    if not text:
        return 0.0
    found = TIMEOUT.fullmatch(text)
    if found is None:
        raise HandlerError("BAD_REQUEST", "invalid request timeout header")
    return float(found[1]) * UNITS_S[found[2]]


def _date_ns(text: str) -> int:
    if not text:
        return 0
    try:
        return int(parsedate_to_datetime(text).timestamp()) * 1_000_000_000
    except ValueError as error:
        message = "failed to parse operation start time header"
        raise HandlerError("BAD_REQUEST", message) from error


def _check_time(text: str) -> None:
    if not text:
        return
    try:
        datetime.fromisoformat(re.sub(r"(\.\d{6})\d+", r"\1", text.replace("Z", "+00:00")))
    except ValueError as error:
        message = "failed to parse operation close time header"
        raise HandlerError("BAD_REQUEST", message) from error


def _ended(headers: Mapping[str, str], body: bytes) -> Ended:
    state = headers.get("nexus-operation-state", "")
    if state == "succeeded":
        try:
            return Succeeded(from_content(_stripped(headers, "content-"), body))
        except ValueError as error:
            raise HandlerError("BAD_REQUEST", "invalid result content") from error
    if state not in ("failed", "canceled"):
        raise HandlerError("BAD_REQUEST", f'invalid request operation state: "{state}"')
    content_type = headers.get("content-type", "")
    if not is_json(content_type):
        raise HandlerError("BAD_REQUEST", f'invalid request content type: "{content_type}"')
    try:
        shown = nexus_json.unwrapped(nexus_json.from_json(json.loads(body)))
        reason = nexus_failures.from_nexus(shown)
    except (ValueError, AttributeError) as error:
        message = "failed to decode Failure from request body"
        raise HandlerError("BAD_REQUEST", message) from error
    if state == "canceled" and not reason.HasField("canceled_failure_info"):
        reason = nexus_failures.canceled(reason)
    return Unsuccessful(reason)


# --- Replies ----------------------------------------------------------------------------------


def _outcome(outcome: StartOutcome, whole: bool) -> Answer:
    match outcome:
        case Succeeded():
            content, body = to_content(outcome.payload)
            headers = {f"content-{name}": value for name, value in content.items()}
            return Answer(200, headers | _linked(outcome), body)
        case Started():
            body = json.dumps({"token": outcome.token, "state": "running"}).encode()
            return Answer(201, {"content-type": "application/json"} | _linked(outcome), body)
        case Unsuccessful():
            return _unsuccessful(outcome, whole)
        case _:
            return _refused(outcome, whole, by_worker=True)


def _linked(outcome: Succeeded | Started) -> dict[str, str]:
    links = [shown for link in outcome.links if (shown := nexus_links.to_nexus(link)) is not None]
    return {"nexus-link": links_header(links)} if links else {}


def _unsuccessful(outcome: Unsuccessful, whole: bool) -> Answer:
    state = "canceled" if outcome.canceled else "failed"
    cause = nexus_json.to_nexus(outcome.failure)
    shown = cause
    if whole:
        shown = nexus.Failure(message="operation error", cause=cause)
        shown.metadata["type"] = nexus_failures.OPERATION_ERROR
        shown.metadata[nexus_json.UNWRAP] = "true"
        shown.details = json.dumps({"state": state}).encode()
    headers = {
        "content-type": "application/json",
        "nexus-operation-state": state,
        SOURCE: "worker",
    }
    return Answer(UNSUCCESSFUL_STATUS, headers, _json(shown))


def _refused(refusal: Refused, whole: bool, *, by_worker: bool = False) -> Answer:
    reason = refusal.failure
    info = reason.nexus_handler_failure_info
    status = STATUSES.get(info.type, 500)
    headers = {"content-type": "application/json"}
    for override, behavior in RETRY_BEHAVIORS.items():
        if info.retry_behavior == behavior:
            headers[RETRYABLE_HEADER] = "true" if override else "false"
    if by_worker:
        headers[SOURCE] = "worker"
    if not whole and reason.HasField("cause"):
        shown = nexus_json.whole(reason.cause)
    else:
        shown = nexus_json.to_nexus(reason)
    return Answer(status, headers, _json(shown))


def _json(shown: nexus.Failure) -> bytes:
    """A failure of the API that says nothing but its message needs no details."""
    told = nexus_json.to_json(shown)
    if shown.metadata.get("type") == TEMPORAL_FAILURE and shown.details == b"{}":
        told.pop("metadata")
        told.pop("details")
    return json.dumps(told, separators=(",", ":"), ensure_ascii=False).encode()


async def _send(send: Send, answer: Answer) -> None:
    headers = [(name.encode(), value.encode("latin-1")) for name, value in answer.headers.items()]
    headers.append((b"x-content-type-options", b"nosniff"))
    await send({"type": "http.response.start", "status": answer.status, "headers": headers})
    await send({"type": "http.response.body", "body": answer.body, "more_body": False})
