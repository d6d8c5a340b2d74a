"""The console as one ASGI application: its routes, what goes before each request, what a refusal shows.

Rule 1: a path is matched as it was sent, and its variables are decoded after that: an id may hold a slash.
"""

import contextlib
import logging
from collections.abc import Callable, MutableMapping
from http import HTTPStatus
from typing import Any
from urllib.parse import unquote

from starlette.applications import Starlette
from starlette.convertors import Convertor, register_url_convertor
from starlette.exceptions import HTTPException
from starlette.middleware.gzip import GZipMiddleware
from starlette.requests import ClientDisconnect, Request
from starlette.responses import HTMLResponse, PlainTextResponse, RedirectResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send

from durably.config import Config
from durably.edge.calls import as_sent
from durably.edge.console import guard
from durably.edge.console.activities import Activities
from durably.edge.console.agent import Agent
from durably.edge.console.analytics import Analytics
from durably.edge.console.batches import Batches
from durably.edge.console.compare import Compare
from durably.edge.console.deployments import Deployments
from durably.edge.console.folds import Folds
from durably.edge.console.inbox import Inbox
from durably.edge.console.login import Login
from durably.edge.console.namespaces import Namespaces
from durably.edge.console.nexus import Nexus
from durably.edge.console.schedules import Schedules
from durably.edge.console.site import Ask, Site, at
from durably.edge.console.start import Start
from durably.edge.console.task_queues import TaskQueues
from durably.edge.console.timeline import Timeline
from durably.edge.console.workers import Workers
from durably.edge.console.workflow import Workflow
from durably.edge.console.workflow_actions import WorkflowActions
from durably.edge.console.workflow_history import WorkflowHistory
from durably.edge.console.workflow_list import WorkflowList
from durably.edge.console.workflow_queries import WorkflowQueries
from durably.errors import HTTP_STATUS, Refusal, Unimplemented
from durably.service.access import CALLER, Access

logger = logging.getLogger(__name__)

COMPRESSED_BYTES_MIN = 1024
MEDIA_TYPES = {"css": "text/css", "js": "text/javascript", "svg": "image/svg+xml"}


class Segment(Convertor[str]):
    """One segment of a path, percent-encoded as it was sent."""

    regex = "[^/]+"

    def convert(self, value: str) -> str:
        return unquote(value)

    def to_string(self, value: str) -> str:
        raise NotImplementedError("addresses are written by site.at")


register_url_convertor("segment", Segment())


class WebConsole:
    """Answers requests under /ui and /static."""

    def __init__(
        self, ask: Ask, config: Config, clock: Callable[[], int], access: Access | None
    ) -> None:
        """`ask` asks as whoever looks at the page."""
        self._config = config
        self._access = access
        self._site = Site(ask, config, clock)
        self._app = self._guarded(self._starlette())

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        with contextlib.suppress(ClientDisconnect):  # Nobody is there to be answered.
            await self._app(scope, receive, send)

    def stop(self) -> None:
        """Ends the streams of live pages."""
        self._site.stopping.set()

    def routes(self) -> list[Route]:
        """Every page, form and file."""
        site = self._site
        timelines = Folds(site, Timeline)
        groups = (
            WorkflowList(site),
            Workflow(site, timelines),
            WorkflowHistory(site, timelines),
            Agent(site),
            Compare(site),
            Analytics(site),
            WorkflowQueries(site),
            WorkflowActions(site),
            Inbox(site),
            Start(site),
            Schedules(site),
            Batches(site),
            Activities(site),
            TaskQueues(site),
            Workers(site),
            Deployments(site),
            Nexus(site),
            Namespaces(site),
        )
        routes = [
            Route("/", self._home),
            Route("/ui", self._home),
            Route("/ui/", self._home),
            Route("/static/{name:segment}", self._file),
            Route("/ui/{namespace:segment}", self._namespace),
        ]
        for group in groups:
            routes += group.routes()
        if self._access is not None:
            routes[:0] = Login(site, self._access).routes()
        return routes

    def _starlette(self) -> ASGIApp:
        handlers: dict[Any, Any] = {
            Refusal: self._refused,
            HTTPException: self._not_there,
            Exception: self._broken,
        }
        app = Starlette(routes=self.routes(), exception_handlers=handlers)
        return GZipMiddleware(app, minimum_size=COMPRESSED_BYTES_MIN, compresslevel=4)

    def _guarded(self, app: ASGIApp) -> ASGIApp:
        extra = [
            (name.encode(), value.encode()) for name, value in guard.headers(self._config).items()
        ]

        async def guarded(scope: Scope, receive: Receive, send: Send) -> None:
            async def with_headers(message: MutableMapping[str, Any]) -> None:
                if message["type"] == "http.response.start":
                    given = list(message.get("headers", ()))
                    names = {name for name, _ in given}
                    message["headers"] = given + [each for each in extra if each[0] not in names]
                await send(message)

            request = Request(scope)
            reason = guard.refusal(scope["method"], request.headers)
            if reason:
                status = HTTPStatus.FORBIDDEN
                refused = PlainTextResponse(reason + "\n", status_code=status)
                await refused(scope, receive, with_headers)
            else:
                await app({**scope, "path": as_sent(scope)}, receive, with_headers)

        return guarded

    async def _home(self, request: Request) -> Response:
        names = self._config.namespaces
        return RedirectResponse(at(names[0] if names else "default", "workflows"), 303)

    async def _namespace(self, request: Request) -> Response:
        return RedirectResponse(at(request.path_params["namespace"], "workflows"), 303)

    async def _file(self, request: Request) -> Response:
        name = request.path_params["name"]
        body = self._site.files.get(name)
        if body is None:
            raise HTTPException(404)
        media_type = MEDIA_TYPES[name.rpartition(".")[2]]
        headers = {"cache-control": "public, max-age=31536000, immutable"}
        return Response(body, media_type=media_type, headers=headers)

    # --- What went wrong ----------------------------------------------------------------------

    async def _refused(self, request: Request, refusal: Refusal) -> Response:
        status = HTTP_STATUS.get(refusal.status, 500)
        if isinstance(refusal, Unimplemented):
            title = "This server does not have that"
        else:
            title = refusal.status.name.replace("_", " ").capitalize()
        return await self._failure(request, status, title, refusal.message)

    async def _not_there(self, request: Request, error: HTTPException) -> Response:
        return await self._failure(request, error.status_code, error.detail, "")

    async def _broken(self, request: Request, error: Exception) -> Response:
        logger.error("the console failed on %s", request.url.path, exc_info=error)
        message = "The console failed: see the server's log."
        return await self._failure(request, 500, "Internal error", message)

    async def _failure(self, request: Request, status: int, title: str, message: str) -> Response:
        """Forms that are sent by script get the bare message, to be shown beside the form; so does who is not
        logged in, since the frame of a page shows the namespaces."""
        nobody = self._access is not None and CALLER.get() is None
        if nobody or "text/plain" in request.headers.get("accept", ""):
            return PlainTextResponse(message or title, status_code=status)
        values = await self._site.frame(request, "") | {"title": title, "message": message}
        return HTMLResponse(self._site.render("failure.html", values), status_code=status)
