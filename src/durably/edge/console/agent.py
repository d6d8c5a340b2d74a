"""The agent run: what one workflow's models were asked and answered, the tools they used, what it cost.

Rule 1: what is encrypted, the browser decodes by the codec server, if there is one: it takes the encrypted
        payloads from here, and sends outlines back (`encrypted`), with which the page is drawn for it
        alone. Of these nothing is kept.
"""

import asyncio
import importlib.util
import json
from collections.abc import Iterable
from decimal import Decimal
from typing import Any

from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, Response
from starlette.routing import Route

from durably.agents import vocabulary
from durably.agents.steps import Step
from durably.edge.console import encrypted
from durably.edge.console.agent_run import AgentRun, ChildRun, Turn, cost_of, tokens_of
from durably.edge.console.folds import EVENTS_PER_READ, Folds, Run, events_from, events_max_of
from durably.edge.console.paging import page_start
from durably.edge.console.payloads import for_codec
from durably.edge.console.site import Site, body_of
from durably.edge.console.workflow import describe, head_of, run_of, until_changed
from durably.errors import InvalidArgument, NotFound

CALLS_PER_PAGE = 50
FAMILY_MAX = 50
"""Descendants whose calls are added up."""
DECODED_EVENTS_MAX = 5_000
"""Of a run with encrypted payloads: what comes after that, browsers do not decode."""
LOCKED_BYTES_PER_ANSWER = 2 * 1024 * 1024
"""A browser is given so many encrypted bytes at once, and the last payload whole."""
OUTLINES_BYTES_MAX = 8 * 1024 * 1024
WORDS = json.dumps(
    {
        "words": sorted(vocabulary.WORDS),
        "counts": sorted(vocabulary.COUNTS),
        "names": sorted(vocabulary.NAMES),
        "flags": sorted(vocabulary.FLAGS),
        "content": sorted(vocabulary.CONTENT),
    }
)
"""What a browser may say of what it decoded."""


class Agent:
    def __init__(self, site: Site) -> None:
        self._site = site
        self._runs = Folds(site, AgentRun, in_thread=True)

    def routes(self) -> list[Route]:
        base = "/ui/{namespace:segment}/workflows/{workflow_id:segment}/{run_id:segment}"
        page = self._site.page("agent.html", "workflows", self._load, ("agent",), self._wait)
        return [
            Route(base + "/agent", page),
            Route(base + "/agent/locked", self._locked),
            Route(base + "/agent/decoded", self._decoded, methods=["POST"]),
        ]

    async def _load(self, request: Request) -> dict[str, Any]:
        found, complete = await self._runs.read(run_of(request), events_max_of(request))
        return await self._values(request, found, complete)

    async def _values(self, request: Request, found: AgentRun, complete: bool) -> dict[str, Any]:
        run = run_of(request)
        description = await describe(self._site, run)
        events_max = events_max_of(request)
        calls = found.turns()
        family = await self._family(run, found, calls, events_max)
        head = head_of(run, description, "agent", self._site.clock())
        count = len(calls)
        asked = request.query_params.get("from", "")
        first = page_start(asked, count, CALLS_PER_PAGE, at_end=head["is_open"])
        end_ns = head["row"]["close_ns"] or self._site.clock()
        return head | {
            "calls": calls[first : first + CALLS_PER_PAGE],
            "first": first,
            "count": count,
            "page_size": CALLS_PER_PAGE,
            "money": money_text,
            "lasted_ns": lasted_ns,
            "sums": sums(calls, head["row"]["start_ns"], end_ns),
            "by_model": by_model(calls),
            "family": family,
            "has_prices": importlib.util.find_spec("genai_prices") is not None,
            "events_read": found.next_event_id - 1,
            "complete": complete,
            "next_event_id": found.next_event_id,
            "locked": found.locked,
            "decoded": 0,
            "words": WORDS,
            "decoded_max": DECODED_EVENTS_MAX,
            "is_final": complete and family["complete"] and not head["is_open"],
        }

    async def _family(
        self, run: Run, found: AgentRun, own: list[Turn], events_max: int
    ) -> dict[str, Any]:
        """What the children of a run, and theirs, called; and the sum of all of them with the run.

        Of all of them together no more events are waited for than `events_max`.
        """
        rows: list[dict[str, Any]] = []
        calls = list(own)
        waiting, seen, all_read = list(found.children), 0, True
        while waiting and seen < FAMILY_MAX and events_max > 0:
            child, seen = waiting.pop(0), seen + 1
            try:
                inner, new, complete = await self._read_child(run, child, events_max)
            except NotFound:  # Its retention is over, or it is in another namespace.
                continue
            events_max -= new
            all_read = all_read and complete
            waiting += inner.children
            turns = inner.turns()
            calls += turns
            rows.append({"child": child, "locked": inner.locked, **_summed(turns)})
        rows = [row for row in rows if row["calls"] or row["locked"]]
        return {
            "rows": rows,
            "whole": _summed(calls),
            "left_out": len(waiting),
            "complete": all_read and (not waiting or seen >= FAMILY_MAX),
        }

    async def _read_child(
        self, run: Run, child: ChildRun, events_max: int
    ) -> tuple[AgentRun, int, bool]:
        """A child as far as it was read, how many events that took, and whether that is all."""
        place = Run(run.namespace, child.workflow_id, child.run_id)
        known = self._runs.known(place)
        before = known.next_event_id if known else 1
        inner, complete = await self._runs.read(place, events_max)
        return inner, max(1, inner.next_event_id - before), complete

    # --- What is encrypted --------------------------------------------------------------------

    async def _locked(self, request: Request) -> Response:
        """The encrypted payloads of some events, from one on, as a codec server takes them; and the types of
        the activities, which a model may call as its tools."""
        asked = request.query_params.get("from", "1")
        if not (asked.isascii() and asked.isdigit()) or not 0 < int(asked) < 2**31:
            raise InvalidArgument("write the first event as a number: ?from=1")
        first, size = int(asked), 0
        page = await events_from(self._site, run_of(request), first, EVENTS_PER_READ)
        found: dict[str, Any] = {}
        types: set[str] = set()
        for event in page.history.events:
            if size >= LOCKED_BYTES_PER_ANSWER or event.event_id > DECODED_EVENTS_MAX:
                break
            first = event.event_id + 1
            types.add(event.activity_task_scheduled_event_attributes.activity_type.name)
            for payload in encrypted.locked(event):
                size += len(payload.data)
                found[encrypted.key(payload)] = for_codec(payload)
        is_all = not page.next_page_token and first > page.history.events[-1].event_id
        complete = is_all or first > DECODED_EVENTS_MAX
        types.discard("")
        answer = {"payloads": found, "types": sorted(types), "next": first, "complete": complete}
        return JSONResponse(answer)

    async def _decoded(self, request: Request) -> Response:
        """The conversation as it is with outlines of what was encrypted."""
        outlines = outlines_of(await body_of(request, OUTLINES_BYTES_MAX))
        run, found, complete = run_of(request), AgentRun(), False
        while not complete and found.next_event_id <= DECODED_EVENTS_MAX:
            page = await events_from(self._site, run, found.next_event_id, EVENTS_PER_READ)
            events = encrypted.outlined(page.history.events, outlines)
            await asyncio.to_thread(found.add, events)
            complete = not page.next_page_token
        frame = {"namespace": run.namespace, "now_ns": self._site.clock()}
        values = frame | await self._values(request, found, complete) | {"decoded": len(outlines)}
        return HTMLResponse(self._site.part("agent", values)["html"])

    async def _wait(self, request: Request, values: dict[str, Any]) -> None:
        if values["complete"]:
            await until_changed(self._site, run_of(request), values["next_event_id"])


def outlines_of(body: bytes) -> dict[str, str]:
    """By the key of the payload that each is of."""
    try:
        found = json.loads(body)["outlines"]
    except (ValueError, RecursionError, KeyError, TypeError):
        found = None
    if not isinstance(found, dict) or not all(isinstance(each, str) for each in found.values()):
        raise InvalidArgument('expected JSON: {"outlines": {KEY: TEXT}}')
    return found


def lasted_ns(step: Step) -> int:
    """How long its last attempt took."""
    return step.ended_ns - (step.started_ns or step.scheduled_ns) if step.ended_ns else 0


def sums(calls: list[Turn], begin_ns: int, end_ns: int) -> dict[str, Any]:
    """Over a whole run. An activity in which several calls were made counts its time once."""
    models = {call.step.scheduled_event_id: call.step for call in calls}
    uses = [tool for call in calls for tool in call.tools]
    tools = {tool.step.scheduled_event_id: tool.step for tool in uses}
    steps = list((tools | models).values())
    retried = [step for step in steps if step.attempt > 1]
    return _summed(calls) | {
        "tools": len(uses),
        "unpriced": any(call.cost is None for call in calls if call.tokens.input),
        "model_ns": sum(lasted_ns(step) for step in models.values()),
        "tool_ns": sum(lasted_ns(step) for number, step in tools.items() if number not in models),
        "failed_attempts": sum(step.attempt - 1 for step in retried),
        "lost_ns": sum(max(0, step.started_ns - step.scheduled_ns) for step in retried),
        "outside_ns": max(0, end_ns - begin_ns - _covered(steps, end_ns)),
    }


def by_model(calls: list[Turn]) -> list[dict[str, Any]]:
    found: dict[str, list[Turn]] = {}
    for call in calls:
        found.setdefault(call.model or "unknown", []).append(call)
    return [{"model": model, **_summed(some)} for model, some in sorted(found.items())]


def _summed(calls: list[Turn]) -> dict[str, Any]:
    return {
        "calls": len(calls),
        "tokens": tokens_of(calls),
        "cost": money_text(cost_of(calls)),
    }


def money_text(dollars: Decimal | None) -> str:
    """Two digits that matter: `$0.0012`, `$3.40`; nothing for a cost that is not known."""
    if dollars is None:
        return ""
    if dollars >= 1:
        return f"${dollars:,.2f}"
    return f"${dollars:.2g}" if dollars >= Decimal("0.0001") else f"${dollars:.6f}".rstrip("0")


def _covered(steps: Iterable[Step], now_ns: int) -> int:
    """How long at least one of them was under way."""
    covered = until = 0
    for begin, end in sorted((step.scheduled_ns, step.ended_ns or now_ns) for step in steps):
        covered += max(0, end - max(begin, until))
        until = max(until, end)
    return covered
