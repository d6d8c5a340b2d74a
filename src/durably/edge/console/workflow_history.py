"""The history of one workflow: compact, event by event, as JSON; its parts, and the download of all.

Rule 1: a page holds a bounded number of events; their fields are read when somebody opens one.
"""

from collections.abc import AsyncIterator
from typing import Any

from starlette.requests import Request
from starlette.responses import HTMLResponse, Response, StreamingResponse
from starlette.routing import Route

from durably.edge.console import drawing, events, payloads
from durably.edge.console.folds import Folds, Run, events_from, events_max_of
from durably.edge.console.site import Site
from durably.edge.console.timeline import Timeline
from durably.edge.console.workflow import describe, head_of, run_of
from durably.errors import InvalidArgument, NotFound

EVENTS_PER_PAGE = 100
EVENTS_PER_DOWNLOAD_READ = 250
VIEWS = ("compact", "full", "json")
SPAN_EVENTS_MAX = 12


class WorkflowHistory:
    def __init__(self, site: Site, timelines: Folds[Timeline]) -> None:
        self._site = site
        self._timelines = timelines

    def routes(self) -> list[Route]:
        base = "/ui/{namespace:segment}/workflows/{workflow_id:segment}/{run_id:segment}"
        page = self._site.page("history.html", "workflows", self._load, ("history_rows",))
        return [
            Route(base + "/history", page),
            Route(base + "/history.json", self._download),
            Route(base + "/events/{event_id:int}", self._event),
            Route(base + "/events/{event_id:int}/payloads/{number:int}", self._payload),
            Route(base + "/spans/{event_id:int}", self._span),
        ]

    async def _load(self, request: Request) -> dict[str, Any]:
        run = run_of(request)
        asked = request.query_params
        view = asked.get("view", "full")
        if view not in VIEWS:
            raise InvalidArgument(f"there is no view {view!r}: {', '.join(VIEWS)}")
        description = await describe(self._site, run)
        head = head_of(run, description, "history", self._site.clock())
        values = head | {
            "view": view,
            "first": 1,
            "last": 0,
            "count": description.workflow_execution_info.history_length,
            "rows": [],
            "spans": [],
            "complete": True,
            "text": "",
            "page_size": EVENTS_PER_PAGE,
            "look_of": drawing.look_of,
        }
        if view == "compact":
            values |= await self._compact(
                run, _number(asked.get("from", "")), events_max_of(request)
            )
        else:
            values |= await self._events(run, _number(asked.get("from", "")) or 1, view)
        at_end = values["last"] >= values["count"]
        return values | {"is_final": values["complete"] and not (head["is_open"] and at_end)}

    async def _compact(self, run: Run, first: int, events_max: int) -> dict[str, Any]:
        timeline, complete = await self._timelines.read(run, events_max)
        count = len(timeline.spans)
        begin = max(0, min(first, count) - 1) // EVENTS_PER_PAGE * EVENTS_PER_PAGE
        shown = timeline.spans[begin : begin + EVENTS_PER_PAGE]
        return {
            "spans": shown,
            "first": begin + 1,
            "last": begin + len(shown),
            "count": count,
            "complete": complete,
        }

    async def _events(self, run: Run, first: int, view: str) -> dict[str, Any]:
        page = await events_from(self._site, run, first, EVENTS_PER_PAGE)
        found = list(page.history.events)
        return {
            "rows": [events.row_of(each) for each in found] if view == "full" else [],
            "text": payloads.highlighted(events.document(found)) if view == "json" else "",
            "first": first,
            "last": found[-1].event_id if found else first - 1,
        }

    async def _event(self, request: Request) -> Response:
        run = run_of(request)
        event = await self._one(run, request.path_params["event_id"])
        return HTMLResponse(self._site.render("parts/event.html", _fields(run, event)))

    async def _one(self, run: Run, event_id: int) -> Any:
        page = await events_from(self._site, run, event_id, 1) if event_id < 2**40 else None
        if page is None or not page.history.events:
            raise NotFound(f"the run has no event {event_id}")
        return page.history.events[0]

    async def _span(self, request: Request) -> Response:
        """All events of one span, for the panel beside the timeline."""
        run = run_of(request)
        timeline, _ = await self._timelines.read(run)
        span = timeline.find(request.path_params["event_id"])
        if span is None:
            raise NotFound(f"nothing begins with event {request.path_params['event_id']}")
        found = [await self._one(run, event_id) for event_id in span.event_ids[:SPAN_EVENTS_MAX]]
        values = {
            "run": run,
            "span": span,
            "look": drawing.look_of(span),
            "now_ns": self._site.clock(),
            "events": [_fields(run, each) for each in found],
        }
        return HTMLResponse(self._site.render("parts/span.html", values))

    async def _payload(self, request: Request) -> Response:
        """One payload as it is, to be saved: never shown by the browser as a page."""
        run = run_of(request)
        event = await self._one(run, request.path_params["event_id"])
        found = list(payloads.all_payloads(events.attributes_of(event)))
        number = request.path_params["number"]
        if number >= len(found):
            raise NotFound(f"event {event.event_id} has no payload {number}")
        name = f"event-{event.event_id}-payload-{number}.bin"
        headers = {"content-disposition": f'attachment; filename="{name}"'}
        data = found[number][1].data
        return Response(data, media_type="application/octet-stream", headers=headers)

    async def _download(self, request: Request) -> Response:
        run = run_of(request)
        await describe(
            self._site, run
        )  # Refused before the download begins, if there is no such run.
        headers = {"content-disposition": f'attachment; filename="history-{run.run_id}.json"'}
        return StreamingResponse(
            self._document(run), media_type="application/json", headers=headers
        )

    async def _document(self, run: Run) -> AsyncIterator[str]:
        """`{"events": [...]}`, a page of events at a time."""
        yield '{"events": ['
        first = 1
        while True:
            page = await events_from(self._site, run, first, EVENTS_PER_DOWNLOAD_READ)
            found = page.history.events
            separator = ",\n" if first > 1 and found else ""
            yield separator + ",\n".join(events.json_of(each, None) for each in found)
            if not page.next_page_token or not found:
                break
            first = found[-1].event_id + 1
        yield "]}\n"


def _number(text: str) -> int:
    return int(text) if text.isdecimal() and len(text) < 12 else 0


def _fields(run: Run, event: Any) -> dict[str, Any]:
    attributes = events.attributes_of(event)
    places = [
        {"number": number, "place": place, "size_bytes": len(each.data)}
        for number, (place, each) in enumerate(payloads.all_payloads(attributes))
    ]
    return {
        "run": run,
        "event": events.row_of(event),
        "fields": events.fields_of(attributes) if attributes is not None else [],
        "places": places,
    }
