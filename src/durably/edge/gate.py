"""What goes before every request: is it meant for this server, does a page of another site send it, who calls.

Rule 1: one place for all ways in; what may be asked for without a token is the list `OPEN` and nothing else.
Rule 2: a name that somebody else may point at this machine is not answered, where it can be told:
        otherwise a page on that name could call (DNS rebinding). Browsers call over HTTP/1.1, or over TLS,
        where the certificate names the server: gRPC over HTTP/2 is not looked at.
Rule 3: what a browser sends for another site is refused, whatever it asks for.
Rule 4: a cookie counts for the pages of the console alone.
"""

import ipaddress
import re
from collections.abc import Mapping
from http.cookies import CookieError, SimpleCookie
from urllib.parse import urlsplit

from durably.addresses import is_loopback
from durably.config import Config
from durably.edge.calls import Headers, Scope, as_sent
from durably.errors import PermissionDenied, Unauthenticated
from durably.service.access import MISSING, Access, Caller

SESSION_COOKIE = "durably_session"
LOGIN_PATH = "/ui/login"
OPEN = re.compile(
    r"/healthz"
    r"|/grpc\.health\.v1\.Health/\w+"
    r"|/nexus/callback|/namespaces/[^/]+/nexus/callback"  # Their token says what they may.
    rf"|{LOGIN_PATH}|/static/[^/]+"
)
OF_CONSOLE = re.compile(r"/|/ui(?:/.*)?", re.DOTALL)


class Gate:
    """Lets requests in."""

    def __init__(self, config: Config, access: Access | None) -> None:
        """`access` None: no tokens are asked for."""
        self._config = config
        self.access = access

    def admit(self, scope: Scope, *, grpc: bool) -> Caller | None:
        """Who calls, if that is asked. Raises PermissionDenied, Unauthenticated."""
        if not (grpc and scope["http_version"] == "2"):
            self._check_site(Headers(scope["headers"]), scope["path"])
        if self.access is None:
            return None
        path = as_sent(scope)
        if OPEN.fullmatch(path):
            return None
        headers = Headers(scope["headers"])
        token = bearer(headers.get("authorization", ""))
        if token:
            return self.access.caller(token)
        if OF_CONSOLE.fullmatch(path):
            session = session_of(headers.get("cookie", ""))
            if session:
                return self.access.caller_of_session(session)
        raise Unauthenticated(MISSING)

    def _check_site(self, headers: Mapping[str, str], path: str) -> None:
        host = headers.get("host", "")
        if path != "/healthz" and not known_host(host, self._config):
            raise PermissionDenied(
                f"this server does not answer to the name {host[:100]!r}:"
                " add it to the setting host_names if it is this server's"
            )
        if headers.get("origin", "") and not same_origin(headers):
            raise PermissionDenied(
                f"requests from the site {headers['origin'][:200]} are not served"
            )


def bearer(authorization: str) -> str:
    """The token; empty: there is none."""
    scheme, _, token = authorization.partition(" ")
    return token.strip() if scheme.lower() == "bearer" else ""


def session_of(cookie: str) -> str:
    """What the console's cookie says; empty: there is none."""
    try:
        found = SimpleCookie(cookie).get(SESSION_COOKIE)
    except CookieError:
        return ""
    return found.value if found is not None else ""


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
    if name in _own_names(config):
        return True
    return not config.host_names and not is_loopback(config.host)


def _own_names(config: Config) -> set[str]:
    public = urlsplit(config.public_url).hostname or ""
    return {each.lower() for each in (config.host, public, *config.host_names)}


def same_origin(headers: Mapping[str, str]) -> bool:
    """Whether the page that sends the request is of this server."""
    return urlsplit(headers["origin"]).netloc.lower() == headers.get("host", "").lower()


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True
