"""What every page of the console has: whom it asks, its templates, its frame, and staying live.

Rule 1: a live page is the same page asked for as `text/event-stream`: its parts are sent when they change.
Rule 2: a stream ends when the server stops, so that it does not hold that up.
"""

import asyncio
import contextlib
import hashlib
import json
import secrets
from collections import OrderedDict
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, quote, urlencode

import jinja2
from google.protobuf.message import Message
from starlette.requests import Request
from starlette.responses import (
    HTMLResponse,
    PlainTextResponse,
    RedirectResponse,
    Response,
    StreamingResponse,
)
from temporalio.api.workflowservice.v1 import request_response_pb2 as ws

from durably.config import Config
from durably.edge.console import payloads, units
from durably.errors import InvalidArgument, Refusal
from durably.service.access import CALLER
from durably.version import VERSION
from durably.waits import first_done

Ask = Callable[[str, Message], Awaitable[Any]]
Endpoint = Callable[[Request], Awaitable[Response]]
Load = Callable[[Request], Awaitable[dict[str, Any]]]
Wait = Callable[[Request, dict[str, Any]], Awaitable[None]]

FOLDER = Path(__file__).parent
REFRESH_S = 2.0
NOTICES_MAX = 200
FORM_BYTES_MAX = 4 * 1024 * 1024
IDENTITY = "durably console"
WAITING = "DurablyWaitsFor = 'answer'"
"""The filter of what is in the inbox."""
MENU = (
    ("workflows", "Workflows"),
    ("inbox", "Inbox"),
    ("analytics", "Analytics"),
    ("schedules", "Schedules"),
    ("batches", "Batches"),
    ("activities", "Activities"),
    ("task-queues", "Task queues"),
    ("workers", "Workers"),
    ("deployments", "Deployments"),
    ("nexus", "Nexus"),
    ("namespaces", "Namespaces"),
)


class Site:
    """Shared by all page groups."""

    def __init__(self, ask: Ask, config: Config, clock: Callable[[], int]) -> None:
        self.ask = ask
        self.config = config
        self.clock = clock
        self.stopping = asyncio.Event()
        self.files = _static_files()
        self._notices: OrderedDict[str, str] = OrderedDict()
        self._templates = self._environment()

    def _environment(self) -> jinja2.Environment:
        found = jinja2.Environment(
            loader=jinja2.FileSystemLoader(FOLDER / "templates"),
            autoescape=True,
            undefined=jinja2.StrictUndefined,
            trim_blocks=True,
            lstrip_blocks=True,
        )
        found.filters.update(
            duration=units.duration_text,
            bytes=units.bytes_text,
            iso=units.iso_text,
            clock=units.clock_text,
            ns=units.nanoseconds,
            visible=payloads.visible,
            shown=payloads.shown,
        )
        versions = {name: digest(body.decode("latin-1")) for name, body in self.files.items()}
        found.globals.update(
            version=VERSION,
            codec=self.config.console_codec_endpoint,
            menu=MENU,
            at=at,
            workflow_at=workflow_at,
            static=lambda name: f"/static/{name}?v={versions[name]}",
        )
        return found

    def render(self, template: str, values: Mapping[str, Any]) -> str:
        return self._templates.get_template(template).render(values)

    async def frame(self, request: Request, chosen: str) -> dict[str, Any]:
        """What the frame of a page shows: the menu, the namespaces."""
        answer = await self.ask("ListNamespaces", ws.ListNamespacesRequest(page_size=200))
        namespace = request.path_params.get("namespace", self.config.namespaces[0])
        return {
            "namespace": namespace,
            "namespaces": sorted(each.namespace_info.name for each in answer.namespaces),
            "chosen": chosen,
            "waiting": await self._waiting(namespace),
            "path": request.url.path,
            "notice": self._notices.pop(request.query_params.get("notice", ""), ""),
            "now_ns": self.clock(),
            "caller": caller.name if (caller := CALLER.get()) is not None else "",
        }

    async def _waiting(self, namespace: str) -> int:
        """How many workflows of the namespace wait for somebody's answer; 0 for who may not know."""
        count = ws.CountWorkflowExecutionsRequest(namespace=namespace, query=WAITING)
        with contextlib.suppress(Refusal):
            return int((await self.ask("CountWorkflowExecutions", count)).count)
        return 0

    def done(self, request: Request, place: str, notice: str) -> Response:
        """After a form: on to the page that shows what came of it, and says so once.

        The address carries a number, not the words: nobody can make a link that says something else.
        A form that was sent by script is told the address, since to follow it would be to see the page.
        """
        number = secrets.token_urlsafe(9)
        self._notices[number] = notice
        while len(self._notices) > NOTICES_MAX:
            self._notices.popitem(last=False)
        address = f"{place}?{urlencode({'notice': number})}"
        if "text/plain" in request.headers.get("accept", ""):
            return PlainTextResponse(address)
        return RedirectResponse(address, status_code=303)

    def page(
        self,
        template: str,
        chosen: str,
        load: Load,
        parts: Iterable[str] = (),
        wait: Wait | None = None,
    ) -> Endpoint:
        """A page of a template; its `parts` are templates of their own, and are kept up to date."""
        names = tuple(parts)

        async def endpoint(request: Request) -> Response:
            if "text/event-stream" in request.headers.get("accept", ""):
                stream = self._stream(request, load, names, wait)
                return StreamingResponse(stream, media_type="text/event-stream")
            values = await self.frame(request, chosen) | await load(request)
            values["parts"] = {name: self.part(name, values) for name in names}
            return HTMLResponse(self.render(template, values))

        return endpoint

    def part(self, name: str, values: Mapping[str, Any]) -> dict[str, str]:
        html = self.render(f"parts/{name}.html", values)
        return {"id": name, "html": html, "digest": digest(html)}

    async def _stream(
        self, request: Request, load: Load, names: tuple[str, ...], wait: Wait | None
    ) -> AsyncIterator[str]:
        """The parts that changed, each as one event; ends when nothing will change any more."""
        sent: dict[str, str] = {}
        frame = await self.frame(request, "") | {"notice": ""}
        yield "retry: 2000\n\n"
        while not self.stopping.is_set():
            try:
                values = frame | {"now_ns": self.clock()} | await load(request)
                for name in names:
                    part = self.part(name, values)
                    if sent.get(name) != part["digest"]:
                        sent[name] = part["digest"]
                        yield f"event: part\ndata: {json.dumps(part)}\n\n"
            except Refusal as refusal:
                yield f"event: gone\ndata: {json.dumps(refusal.message)}\n\n"
                return
            if values.get("is_final"):
                yield "event: final\ndata: {}\n\n"
                return
            yield ": still there\n\n"
            await first_done((wait or _pause)(request, values), self.stopping.wait())


async def _pause(request: Request, values: dict[str, Any]) -> None:
    await asyncio.sleep(REFRESH_S)


def _static_files() -> dict[str, bytes]:
    folder = FOLDER / "static"
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir()) if path.is_file()}


def digest(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:16]


# --- Places -----------------------------------------------------------------------------------


def at(*segments: str, **query: str) -> str:
    """The address of a page; segments may be any text."""
    path = "/ui/" + "/".join(quote(each, safe="") for each in segments)
    return f"{path}?{urlencode(query)}" if query else path


def workflow_at(
    namespace: str, workflow_id: str, run_id: str = "", *more: str, **query: str
) -> str:
    run = (run_id,) if run_id else ()
    return at(namespace, "workflows", workflow_id, *run, *more, **query)


# --- Forms ------------------------------------------------------------------------------------


async def form_of(request: Request) -> dict[str, str]:
    """The fields of a form; of several with one name the last. See `fields_of` for all of them."""
    return dict(await fields_of(request))


async def fields_of(request: Request) -> list[tuple[str, str]]:
    body = await body_of(request, FORM_BYTES_MAX)
    try:
        return parse_qsl(body.decode("ascii"), keep_blank_values=True, errors="strict")
    except ValueError as error:
        raise InvalidArgument("the form is not URL-encoded UTF-8") from error


async def body_of(request: Request, bytes_max: int) -> bytes:
    """What was sent. InvalidArgument for more than that."""
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > bytes_max:
            raise InvalidArgument(f"what was sent has more than {bytes_max} bytes")
    return bytes(body)


def arguments(text: str) -> list[Any]:
    """The arguments that somebody wrote as a JSON array; nothing written: none."""
    if not text.strip():
        return []
    try:
        found = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise InvalidArgument(f"the arguments are not JSON: {error}") from error
    if not isinstance(found, list):
        raise InvalidArgument('write the arguments as a JSON array: [1, "two"]')
    return found
