"""Two runs side by side: what each did, and in what they differ.

Rule 1: what is read and what is shown is bounded: steps in pages, what is in a step when it is opened.
"""

import asyncio
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from markupsafe import Markup, escape
from starlette.requests import Request
from starlette.responses import HTMLResponse, Response
from starlette.routing import Route
from temporalio.api.workflowservice.v1 import request_response_pb2 as ws

from durably.edge.console import agent, events, payloads
from durably.edge.console.agent_run import Turn, cost_of, tokens_of
from durably.edge.console.alignment import ASIDE, Deeds, Did, Pair, align, marked
from durably.edge.console.folds import Folds, Run, events_from, events_max_of
from durably.edge.console.paging import page_start
from durably.edge.console.rows import workflow_row
from durably.edge.console.site import Site
from durably.edge.console.timeline import line_of
from durably.edge.console.units import duration_text
from durably.edge.console.workflow import OPEN_STATUSES, describe
from durably.edge.console.workflow_list import page_of, token_of
from durably.errors import InvalidArgument, NotFound

PAIRS_PER_PAGE = 100
CANDIDATES_PER_PAGE = 30
EVENTS_COMPARED_MAX = 20_000
"""Of each run: what comes after that is not compared."""
KEPT_MAX = 8
TEXT_CHARS_MAX = 12_000
"""Of what is marked word by word."""


@dataclass(slots=True)
class Side:
    """One of the two runs, as far as it was read."""

    run: Run
    row: dict[str, Any]
    deeds: Deeds
    complete: bool

    @property
    def is_open(self) -> bool:
        return self.row["status"] in OPEN_STATUSES

    @property
    def is_cut(self) -> bool:
        return not self.complete and self.deeds.next_event_id > EVENTS_COMPARED_MAX


class Compare:
    def __init__(self, site: Site) -> None:
        self._site = site
        self._runs: Folds[Deeds] = Folds(site, Deeds, in_thread=True)
        self._aligned: OrderedDict[tuple[Run, int, Run, int], list[Pair]] = OrderedDict()

    def routes(self) -> list[Route]:
        base = "/ui/{namespace:segment}/compare"
        page = self._site.page("compare.html", "workflows", self._load, ("comparison",))
        return [Route(base, page), Route(base + "/step", self._step)]

    async def _load(self, request: Request) -> dict[str, Any]:
        namespace = request.path_params["namespace"]
        asked = request.query_params
        left = run_named(namespace, asked.get("left", ""))
        if not asked.get("right"):
            return await self._candidates(namespace, left, asked.get("page", ""))
        right = run_named(namespace, asked["right"])
        sides = [await self._side(run, events_max_of(request)) for run in (left, right)]
        pairs = await self._pairs(*sides)
        only = asked.get("only") == "differences"
        shown = [pair for pair in pairs if not (only and pair.is_same)]
        first = page_start(asked.get("from", ""), len(shown), PAIRS_PER_PAGE)
        return {
            "namespace": namespace,
            "candidates": None,
            "left": sides[0],
            "right": sides[1],
            "names": [side_name(side.run) for side in sides],
            "facts": facts(*sides),
            "pairs": shown[first : first + PAIRS_PER_PAGE],
            "first": first,
            "count": len(shown),
            "page_size": PAIRS_PER_PAGE,
            "only": only,
            "differing": sum(not pair.is_same for pair in pairs),
            "all_count": len(pairs),
            "complete": all(side.complete or side.is_cut for side in sides),
            "compared_max": EVENTS_COMPARED_MAX,
            "money": agent.money_text,
            "changes": changes,
            "is_final": all(s.is_cut or (s.complete and not s.is_open) for s in sides),
        }

    async def _candidates(self, namespace: str, left: Run, page: str) -> dict[str, Any]:
        """Runs that one may want to compare with: of the same type, the newest first."""
        info = (await describe(self._site, left)).workflow_execution_info
        name = info.type.name.replace("\\", "\\\\").replace("'", "\\'")
        answer = await self._site.ask(
            "ListWorkflowExecutions",
            ws.ListWorkflowExecutionsRequest(
                namespace=namespace,
                query=f"WorkflowType = '{name}'",
                page_size=CANDIDATES_PER_PAGE,
                next_page_token=token_of(page),
            ),
        )
        rows = [workflow_row(each) for each in answer.executions]
        return {
            "namespace": namespace,
            "candidates": [r for r in rows if r["run_id"] != info.execution.run_id],
            "row": workflow_row(info),
            "page": page,
            "next_page": page_of(answer.next_page_token),
            "is_final": True,
        }

    async def _side(self, run: Run, events_max: int) -> Side:
        info = (await describe(self._site, run)).workflow_execution_info
        run = Run(run.namespace, run.workflow_id, info.execution.run_id)
        known = self._runs.known(run)
        read = known.next_event_id - 1 if known else 0
        if known is not None and read >= EVENTS_COMPARED_MAX:
            return Side(run, workflow_row(info), known, read >= info.history_length)
        deeds, complete = await self._runs.read(run, events_max)
        return Side(run, workflow_row(info), deeds, complete)

    async def _pairs(self, left: Side, right: Side) -> list[Pair]:
        key = (left.run, left.deeds.next_event_id, right.run, right.deeds.next_event_id)
        found = self._aligned.get(key)
        if found is None:
            found = await asyncio.to_thread(_aligned, left.deeds, right.deeds)
            self._aligned[key] = found
            while len(self._aligned) > KEPT_MAX:
                self._aligned.popitem(last=False)
        self._aligned.move_to_end(key)
        return found

    # --- One step -----------------------------------------------------------------------------

    async def _step(self, request: Request) -> Response:
        """What went in and came out of a step on both sides, the words that differ marked."""
        namespace = request.path_params["namespace"]
        runs = [run_named(namespace, request.query_params.get(n, "")) for n in ("left", "right")]
        asked = [request.query_params.get(name, "") for name in ("l", "r")]
        steps = [self._known(*each) for each in zip(runs, asked, strict=True)]
        # A call of a model beside one that failed has no reply to be read: then both are shown as they are.
        # What is encrypted is shown as payloads, which the browser's codec decodes.
        as_calls = all(
            step.turns and not any(turn.unreadable for turn in step.turns) for step in steps if step
        )
        sides = [
            await self._content(run, step, as_calls) if step else None
            for run, step in zip(runs, steps, strict=True)
        ]
        texts = await asyncio.to_thread(_side_by_side, *sides)
        values = {"sides": sides, "texts": texts, "namespace": namespace}
        return HTMLResponse(self._site.render("parts/compared_step.html", values))

    def _known(self, run: Run, event_id: str) -> Did | None:
        """The step that begins with an event; none is asked for: None."""
        if not event_id:
            return None
        deeds = self._runs.known(run)
        for step in deeds.steps() if deeds else []:
            if str(step.event_ids[0]) == event_id:
                return step
        raise NotFound("There is no such step: load the page again.")

    async def _content(self, run: Run, step: Did, as_calls: bool) -> "Content":
        if as_calls:
            return Content(run, step, _told(step.turns), _replied(step.turns), as_calls=True)
        first, last = step.event_ids[0], step.event_ids[-1]
        content = Content(run, step)
        if step.kind != "end":
            content.given, locked = _read(await self._event(run, first))
            content.locked += locked
        if last != first or step.kind == "end":
            content.came, locked = _read(await self._event(run, last))
            content.locked += locked
        return content

    async def _event(self, run: Run, event_id: int) -> Any:
        page = await events_from(self._site, run, event_id, 1)
        if not page.history.events:
            raise NotFound(f"the run has no event {event_id}")
        return events.attributes_of(page.history.events[0])


@dataclass(slots=True)
class Content:
    """What is in a step, for reading. `locked`: payloads that only the browser's codec can read."""

    run: Run
    step: Did
    given: str = ""
    came: str = ""
    locked: list[payloads.Shown] = field(default_factory=list)
    as_calls: bool = False
    """As calls of a model: only what is new in their prompts."""


def _read(attributes: Any) -> tuple[str, list[payloads.Shown]]:
    texts, locked = [], []
    for place, payload in payloads.all_payloads(attributes):
        if not place.startswith(ASIDE):
            shown = payloads.shown(payload)
            if shown.kind in ("encrypted", "external"):
                locked.append(shown)
            else:
                texts.append(shown.text)
    if "failure" in attributes.DESCRIPTOR.fields_by_name and attributes.HasField("failure"):
        texts.append(line_of(attributes.failure))
    return "\n".join(texts), locked


def _told(turns: tuple[Turn, ...]) -> str:
    return "\n\n".join(f"{said.role}: {said.text}" for turn in turns for said in turn.new)


def _replied(turns: tuple[Turn, ...]) -> str:
    texts = []
    for turn in turns:
        texts += [text for text in (turn.unreadable, turn.text) if text]
        texts += [f"{wanted.name} {wanted.arguments}" for wanted in turn.wanted]
    return "\n".join(texts)


def _side_by_side(left: Content | None, right: Content | None) -> list[tuple[str, list[Markup]]]:
    """(title, left and right) of what went in and of what came out."""
    one = left or right
    if one is None:
        raise InvalidArgument(
            "write a step of the left run as l=EVENT, one of the right as r=EVENT"
        )
    titles = ("New in the prompt", "Reply") if one.as_calls else ("Input", "Output")
    if one.step.kind == "end":
        titles = ("", "How it ended")
    found = []
    for title, name in zip(titles, ("given", "came"), strict=True):
        texts = [getattr(each, name)[:TEXT_CHARS_MAX] if each else "" for each in (left, right)]
        if any(texts):
            both = left is not None and right is not None
            found.append((title, list(marked(*texts) if both else map(escape, texts))))
    return found


# --- What the page says of the two ----------------------------------------------------------------


def _aligned(left: Deeds, right: Deeds) -> list[Pair]:
    return align(left.steps(), right.steps())


def facts(left: Side, right: Side) -> list[dict[str, str]]:
    """Each with what it is on both sides, and by how much the right one differs."""
    rows = (left.row, right.row)
    calls = [side.deeds.agent.turns() for side in (left, right)]
    tokens = [tokens_of(some) for some in calls]
    found = [
        {"name": "Status", "left": rows[0]["status"], "right": rows[1]["status"], "by": ""},
        _fact("Lasted", [row["duration_ns"] for row in rows], _lasted),
        _fact("Events", [row["history_length"] for row in rows], _number),
    ]
    if any(calls):
        uses = [sum(len(turn.tools) for turn in some) for some in calls]
        costs = [cost_of(some) for some in calls]
        found += [
            _fact("Model calls", [len(some) for some in calls], _number),
            _fact("Tool calls", uses, _number),
            _fact("Tokens in", [each.input for each in tokens], _number),
            _fact("Tokens out", [each.output for each in tokens], _number),
            _fact("Cost", costs, agent.money_text),
        ]
    return found


def _fact(name: str, values: list[Any], written: Callable[[Any], str]) -> dict[str, str]:
    left, right = values
    return {
        "name": name,
        "left": written(left) or "–",
        "right": written(right) or "–",
        "by": by(left, right, written) if written(left) and written(right) else "",
    }


def by(left: Any, right: Any, written: Callable[[Any], str]) -> str:
    """By how much the right one is more, or less; nothing: they are the same."""
    if left == right or left is None or right is None:
        return ""
    return f"+{written(right - left)}" if right > left else f"−{written(left - right)}"


def changes(pair: Pair) -> list[str]:
    """By how much the right step is more, or less."""
    left, right = pair.left, pair.right
    if left is None or right is None:
        return []
    tokens = by(
        left.tokens.input + left.tokens.output, right.tokens.input + right.tokens.output, _number
    )
    cost = by(left.cost, right.cost, agent.money_text)
    return [text for text in (tokens and f"{tokens} tokens", cost) if text]


def _number(value: int) -> str:
    return f"{value:,}"


def _lasted(ns: int) -> str:
    return duration_text(ns) if ns else ""


def run_named(namespace: str, text: str) -> Run:
    """`WORKFLOW_ID/RUN_ID`; workflow ids may hold slashes, run ids do not."""
    workflow_id, slash, run_id = text.rpartition("/")
    if not (slash and workflow_id):
        raise InvalidArgument("write each of the two runs as WORKFLOW_ID/RUN_ID")
    return Run(namespace, workflow_id, run_id)


def side_name(run: Run) -> str:
    return f"{run.workflow_id}/{run.run_id}"
