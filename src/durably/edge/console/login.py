"""Logging in to the console with a token, and out.

Rule 1: the browser keeps no token: it gets a session, in a cookie that no script can read and that no
        other site's page can make it send.
Rule 2: after logging in one is led to a page of the console, and nowhere else.
"""

from starlette.requests import Request
from starlette.responses import HTMLResponse, RedirectResponse, Response
from starlette.routing import Route

from durably.edge.console.site import Site, form_of
from durably.edge.gate import LOGIN_PATH, SESSION_COOKIE
from durably.errors import Unauthenticated
from durably.service.access import SESSION_S, Access

HOME = "/ui"


class Login:
    def __init__(self, site: Site, access: Access) -> None:
        self._site = site
        self._access = access

    def routes(self) -> list[Route]:
        return [
            Route(LOGIN_PATH, self._form, methods=["GET"]),
            Route(LOGIN_PATH, self._log_in, methods=["POST"]),
            Route("/ui/logout", self._log_out, methods=["POST"]),
        ]

    async def _form(self, request: Request) -> Response:
        return self._page(request.query_params.get("next", ""), "", 200)

    def _page(self, place: str, problem: str, status: int) -> Response:
        values = {"next": _own(place), "problem": problem}
        return HTMLResponse(self._site.render("login.html", values), status_code=status)

    async def _log_in(self, request: Request) -> Response:
        form = await form_of(request)
        place = _own(form.get("next", ""))
        try:
            caller = self._access.caller(form.get("token", "").strip())
        except Unauthenticated as refusal:
            return self._page(place, refusal.message, 401)
        answer = RedirectResponse(place, status_code=303)
        answer.set_cookie(
            SESSION_COOKIE,
            self._access.session(caller),
            max_age=SESSION_S,
            httponly=True,
            samesite="strict",
            secure=self._is_secure(request),
        )
        return answer

    def _is_secure(self, request: Request) -> bool:
        """Whether the browser came over TLS, as far as this server or a proxy before it can say."""
        proxied = request.headers.get("x-forwarded-proto", "") == "https"
        return proxied or request.url.scheme == "https"

    async def _log_out(self, request: Request) -> Response:
        answer = RedirectResponse(LOGIN_PATH, status_code=303)
        answer.delete_cookie(SESSION_COOKIE, httponly=True, samesite="strict")
        return answer


def _own(place: str) -> str:
    """A page of the console: this one, if it is."""
    return place if place.startswith("/ui/") and "\\" not in place else HOME
