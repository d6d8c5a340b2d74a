"""Calls operations whose handlers are elsewhere, over Nexus on HTTP.

Rule 1: a call ends with an outcome, never with an exception.
Rule 2: credentials come from the configuration and go into the request: no history has them.

Facts: https://github.com/nexus-rpc/api/blob/main/SPEC.md.
"""

import json
from collections.abc import Callable, Mapping
from typing import Any
from urllib.parse import quote, urlencode

from temporalio.api.nexus.v1 import message_pb2 as nexus

from durably.background.outbound_http import CallFailed, OutboundHttp, Reply
from durably.config import Config
from durably.engine.nexus_outcome import (
    Refused,
    Started,
    StartOutcome,
    Succeeded,
    Unsuccessful,
    call_error,
)
from durably.service import nexus_errors, nexus_failures, nexus_json, nexus_links
from durably.service.nexus_content import from_content, links_header, links_of_headers, to_content
from durably.service.nexus_dispatch import ExternalTarget
from durably.service.nexus_tasks import duration

CALLBACK_PATH = "/nexus/callback"
UNSUCCESSFUL_STATUS = 424


class ExternalCalls:
    """Starts and cancels operations at the URLs of endpoints."""

    def __init__(self, http: OutboundHttp, config: Config, address: Callable[[], str]) -> None:
        """`address`: host and port on which this server can be called."""
        self._http = http
        self._config = config
        self._address = address

    async def start_operation(
        self,
        target: ExternalTarget,
        request: nexus.StartOperationRequest,
        header: Mapping[str, str],
        timeout_s: float,
    ) -> StartOutcome:
        content, body = to_content(request.payload if request.HasField("payload") else None)
        headers = self._headers(target, header, timeout_s)
        headers |= {f"content-{name}": value for name, value in content.items()}
        headers |= {f"nexus-callback-{k}": v for k, v in request.callback_header.items()}
        headers["nexus-request-id"] = request.request_id
        if request.links:
            headers["nexus-link"] = links_header(request.links)
        path = f"{quote(request.service, safe='')}/{quote(request.operation, safe='')}"
        query = urlencode({"callback": self._callback_url()})
        url = f"{target.url.rstrip('/')}/{path}?{query}"
        reply = await self._post(url, headers, body, timeout_s)
        return reply if isinstance(reply, Refused) else _outcome(reply)

    async def cancel_operation(
        self,
        target: ExternalTarget,
        request: nexus.CancelOperationRequest,
        header: Mapping[str, str],
        timeout_s: float,
    ) -> Refused | None:
        headers = self._headers(target, header, timeout_s)
        headers["nexus-operation-token"] = request.operation_token
        path = f"{quote(request.service, safe='')}/{quote(request.operation, safe='')}/cancel"
        reply = await self._post(f"{target.url.rstrip('/')}/{path}", headers, b"", timeout_s)
        if isinstance(reply, Refused):
            return reply
        return None if 200 <= reply.status < 300 else _refused(reply)

    async def _post(
        self, url: str, headers: dict[str, str], body: bytes, timeout_s: float
    ) -> Reply | Refused:
        try:
            return await self._http.post(url, headers, body, timeout_s)
        except CallFailed as failed:
            return call_error(str(failed), retryable=True)

    def _headers(
        self, target: ExternalTarget, header: Mapping[str, str], timeout_s: float
    ) -> dict[str, str]:
        headers = {"user-agent": "durably"} | dict(header)
        headers["temporal-nexus-failure-support"] = "true"
        headers["request-timeout"] = duration(timeout_s)
        credentials = self._config.endpoint_credentials.get(target.endpoint)
        if credentials is not None:
            headers["authorization"] = credentials
        return headers

    def _callback_url(self) -> str:
        base = self._config.public_url or f"http://{self._address()}"
        return base.rstrip("/") + CALLBACK_PATH


def _outcome(reply: Reply) -> StartOutcome:
    """What the handler has answered to a start."""
    try:
        links = nexus_links.from_nexus(links_of_headers(reply.links))
    except ValueError:
        links = ()  # Nothing depends on them.
    try:
        match reply.status:
            case 200:
                content = {
                    name.lower().removeprefix("content-"): value
                    for name, value in reply.headers.items()
                    if name.lower().startswith("content-")
                }
                return Succeeded(from_content(content, reply.body), links)
            case 201:
                told: Any = json.loads(reply.body)
                return Started(str(told.get("token") or told["id"]), links)
            case status if status == UNSUCCESSFUL_STATUS:
                return _unsuccessful(reply)
            case _:
                return _refused(reply)
    except (ValueError, KeyError, AttributeError) as error:
        return call_error(f"the reply cannot be read: {error}", retryable=True)


def _unsuccessful(reply: Reply) -> StartOutcome:
    shown = nexus_json.from_json(json.loads(reply.body))
    state = reply.headers.get("nexus-operation-state", "")
    if not state and shown.metadata.get("type") == nexus_failures.OPERATION_ERROR:
        state = str(json.loads(shown.details or b"{}").get("state", ""))
    if state not in ("failed", "canceled"):
        return call_error(f'invalid operation state: "{state}"', retryable=True)
    reason = nexus_failures.from_nexus(nexus_json.unwrapped(shown))
    if state == "canceled" and not reason.HasField("canceled_failure_info"):
        reason = nexus_failures.canceled(reason)
    return Unsuccessful(reason)


def _refused(reply: Reply) -> Refused:
    return nexus_errors.of_reply(reply.status, reply.reason, reply.headers, reply.body)
