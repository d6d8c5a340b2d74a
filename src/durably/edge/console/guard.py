"""Which requests of browsers are answered, and what a browser may do with an answer. Pure.

Rule 1: no script and no style but the console's own files; no page of it inside another site's.
Rule 2: what changes something comes from a page of the console itself.
Rule 3: a name that somebody else may point at this machine is not answered, where it can be told:
        otherwise a page on that name could read the console (DNS rebinding).
"""

import ipaddress
import re
from collections.abc import Mapping
from urllib.parse import urlsplit

from durably.config import Config

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


def refusal(method: str, headers: Mapping[str, str], config: Config) -> str:
    """Why the request is not answered; nothing: it is."""
    host = headers.get("host", "")
    if not known_host(host, config):
        return (
            f"the console does not answer to the name {host[:100]!r}:"
            " add it to the setting console_hosts if it is this server's"
        )
    if method not in SAFE_METHODS and not same_origin(headers):
        return "this form was not sent from a page of this console"
    return ""


def known_host(host: str, config: Config) -> bool:
    """Whether a request with this Host header is meant for this server.

    An address is: nobody can point it elsewhere. A name is if the configuration has it, or if the server
    listens to other machines and no names are configured.
    """
    try:
        name = (urlsplit(f"//{host}").hostname or "").rstrip(".")
    except ValueError:
        return False
    if not name:
        return False
    if name == "localhost" or name.endswith(".localhost") or _is_address(name):
        return True
    if name == config.host.lower() or name in (each.lower() for each in config.console_hosts):
        return True
    return not config.console_hosts and not _is_loopback(config.host)


def same_origin(headers: Mapping[str, str]) -> bool:
    """Browsers say where a form comes from; a request without that is none of a browser's forms."""
    origin = headers.get("origin", "")
    if origin:
        return urlsplit(origin).netloc.lower() == headers.get("host", "").lower()
    return headers.get("sec-fetch-site", "") == "same-origin"


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
