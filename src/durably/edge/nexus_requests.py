"""What requests of Nexus over HTTP say in their headers and bodies.

Facts: https://github.com/nexus-rpc/api/blob/main/SPEC.md.
"""

import base64
import json
import re
from collections.abc import Mapping
from datetime import datetime
from email.utils import parsedate_to_datetime
from urllib.parse import parse_qs

from temporalio.api.nexus.v1 import message_pb2 as nexus

from durably.edge.calls import Scope
from durably.engine.nexus_outcome import Ended, Succeeded, Unsuccessful
from durably.service import nexus_failures, nexus_json
from durably.service.access import CALLER
from durably.service.nexus_calls import HandlerError
from durably.service.nexus_content import from_content, is_json, links_of_headers

TIMEOUT = re.compile(r"(\d+(?:\.\d+)?)(ms|s|m)")
UNITS_S = {"ms": 0.001, "s": 1.0, "m": 60.0}
TOKEN_HEADER = "nexus-operation-token"
PAGE_SIZE = 100


def headers_of(scope: Scope) -> dict[str, str]:
    """Names in lower case; of those that are repeated, links are joined and else the first counts."""
    found: dict[str, str] = {}
    for raw_name, raw_value in scope["headers"]:
        name, value = raw_name.decode("latin-1").lower(), raw_value.decode("latin-1")
        if name == "nexus-link" and name in found:
            found[name] += "," + value
        else:
            found.setdefault(name, value)
    return found


def query_of(scope: Scope) -> dict[str, str]:
    """Of a name that is repeated the first."""
    text = bytes(scope.get("query_string", b"")).decode("latin-1")
    return {name: values[0] for name, values in parse_qs(text).items()}


def page_size(query: Mapping[str, str]) -> int:
    """Of a list that is read in pages. Raises HandlerError."""
    text = query.get("pageSize", str(PAGE_SIZE))
    if not (text.isascii() and text.isdigit() and 0 < len(text) < 7):
        raise HandlerError("BAD_REQUEST", "pageSize is a number")
    return int(text) or PAGE_SIZE


def page(query: Mapping[str, str]) -> bytes:
    """Where the page begins; empty: it is the first. Raises HandlerError."""
    try:
        return base64.b64decode(query.get("nextPageToken", ""), altchars=b"-_", validate=True)
    except ValueError as error:
        raise HandlerError("BAD_REQUEST", "nextPageToken is not one of this server") from error


def wrong_method(method: str) -> HandlerError:
    return HandlerError("BAD_REQUEST", f'invalid request method: "{method}"')


def token_of(headers: dict[str, str], query: Mapping[str, str]) -> str:
    """The operation that is meant; it is taken out of the headers. Raises HandlerError."""
    token = headers.pop(TOKEN_HEADER, "") or query.get("token", "")
    if not token:
        raise HandlerError("BAD_REQUEST", "missing operation token")
    return token


def stripped(headers: Mapping[str, str], prefix: str) -> dict[str, str]:
    return {name.removeprefix(prefix): v for name, v in headers.items() if name.startswith(prefix)}


def without(headers: Mapping[str, str], *prefixes: str) -> dict[str, str]:
    return {name: value for name, value in headers.items() if not name.startswith(prefixes)}


def passed_on(headers: dict[str, str]) -> dict[str, str]:
    """Where tokens are asked for, `authorization` is for this server alone."""
    return headers if CALLER.get() is None else without(headers, "authorization")


def links_of(headers: Mapping[str, str], message: str) -> list[nexus.Link]:
    try:
        return links_of_headers([headers["nexus-link"]]) if "nexus-link" in headers else []
    except ValueError as error:
        raise HandlerError("BAD_REQUEST", message) from error


def seconds_of(headers: Mapping[str, str], name: str, message: str) -> float:
    """A header that says how long; 0: it is not there. Raises HandlerError with the message."""
    text = headers.get(name, "")
    if not text:
        return 0.0
    found = TIMEOUT.fullmatch(text)
    if found is None:
        raise HandlerError("BAD_REQUEST", message)
    return float(found[1]) * UNITS_S[found[2]]


def timeout_s(headers: Mapping[str, str]) -> float:
    return seconds_of(headers, "request-timeout", "invalid request timeout header")


def date_ns(text: str) -> int:
    if not text:
        return 0
    try:
        return int(parsedate_to_datetime(text).timestamp()) * 1_000_000_000
    except ValueError as error:
        message = "failed to parse operation start time header"
        raise HandlerError("BAD_REQUEST", message) from error


def check_time(text: str) -> None:
    if not text:
        return
    try:
        datetime.fromisoformat(re.sub(r"(\.\d{6})\d+", r"\1", text.replace("Z", "+00:00")))
    except ValueError as error:
        message = "failed to parse operation close time header"
        raise HandlerError("BAD_REQUEST", message) from error


def ended(headers: Mapping[str, str], body: bytes) -> Ended:
    """How an operation ended, as a completion says it."""
    state = headers.get("nexus-operation-state", "")
    if state == "succeeded":
        try:
            return Succeeded(from_content(stripped(headers, "content-"), body))
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
