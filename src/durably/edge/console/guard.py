"""Which forms are taken, and what a browser may do with a page. Pure.

Rule 1: no script and no style but the console's own files; no page of it inside another site's.
Rule 2: what changes something comes from a page of the console itself.
"""

import re
from collections.abc import Mapping

from durably.config import Config
from durably.edge.gate import same_origin

HEADERS = {
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    "referrer-policy": "same-origin",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "permissions-policy": "camera=(), geolocation=(), microphone=()",
    "cache-control": "no-store",
}
ORIGIN = re.compile(r"https?://[\w.-]+(:\d+)?|https?://\[[0-9a-f:.]+\](:\d+)?")
SAFE_METHODS = ("GET", "HEAD")


def headers(config: Config) -> dict[str, str]:
    """What every answer carries. ValueError for a codec endpoint that is no address."""
    codec = _codec_origin(config.console_codec_endpoint)
    policy = (
        "default-src 'none'",
        "script-src 'self'",
        "style-src 'self'",
        "img-src 'self'",
        f"connect-src 'self' {codec}".strip(),
        "form-action 'self'",
        "base-uri 'none'",
        "frame-ancestors 'none'",
    )
    return {**HEADERS, "content-security-policy": "; ".join(policy)}


def _codec_origin(endpoint: str) -> str:
    if not endpoint:
        return ""
    found = ORIGIN.match(endpoint.lower())
    if found is None or endpoint[found.end() :][:1] not in ("", "/"):
        raise ValueError(
            f"console_codec_endpoint={endpoint}: expected http://HOST/PATH or https://"
        )
    return found[0]


def refusal(method: str, headers: Mapping[str, str]) -> str:
    """Why the request is not answered; nothing: it is."""
    if method not in SAFE_METHODS and not from_own_page(headers):
        return "this form was not sent from a page of this console"
    return ""


def from_own_page(headers: Mapping[str, str]) -> bool:
    """Browsers say where a form comes from; a request without that is none of a browser's forms."""
    if headers.get("origin", ""):
        return same_origin(headers)
    return headers.get("sec-fetch-site", "") == "same-origin"
