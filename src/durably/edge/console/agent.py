"""The agent run: what one workflow's models were asked and answered, the tools they used, what it cost."""

import asyncio
from collections.abc import Iterable
from decimal import Decimal
from typing import Any

from starlette.requests import Request
from starlette.routing import Route

from durably.edge.console import prices
from durably.edge.console.agent_frameworks import Usage
from durably.edge.console.agent_run import AgentRun, ModelCall, Step
from durably.edge.console.folds import EVENTS_PER_REFRESH_MAX, Folds, Run
from durably.edge.console.site import Site
from durably.edge.console.workflow import describe, head_of, run_of, until_changed
from durably.errors import NotFound

CALLS_PER_PAGE = 50
FAMILY_MAX = 50
"""Descendants whose calls are added up."""


class Agent:
    def __init__(self, site: Site) -> None:
        self._site = site
        self._runs = Folds(site, AgentRun)

    def routes(self) -> list[Route]:
        base = "/ui/{namespace:segment}/workflows/{workflow_id:segment}/{run_id:segment}"
        page = self._site.page("agent.html", "workflows", self._load, ("agent",), self._wait)
        return [Route(base + "/agent", page)]

    async def _load(self, request: Request) -> dict[str, Any]:
        run = run_of(request)
        description = await describe(self._site, run)
        found, complete = await self._runs.read(run, EVENTS_PER_REFRESH_MAX)
        has_prices = await asyncio.to_thread(prices.is_there)
        head = head_of(run, description, "agent", self._site.clock())
        count = len(found.calls)
        asked = request.query_params.get("from", "")
        last_page = max(0, count - 1) // CALLS_PER_PAGE * CALLS_PER_PAGE
        first = last_page if head["is_open"] else 0
        if asked.isdecimal() and len(asked) < 10:
            first = min(int(asked) // CALLS_PER_PAGE * CALLS_PER_PAGE, last_page)
        end_ns = head["row"]["close_ns"] or self._site.clock()
        return head | {
            "calls": found.calls[first : first + CALLS_PER_PAGE],
            "first": first,
            "count": count,
            "page_size": CALLS_PER_PAGE,
            "cost_of": cost_of,
            "sums": sums(found.calls, head["row"]["start_ns"], end_ns),
            "by_model": by_model(found.calls),
            "family": await self._family(run, found),
            "has_prices": has_prices,
            "events_read": found.next_event_id - 1,
            "complete": complete,
            "next_event_id": found.next_event_id,
            "is_final": complete and not head["is_open"],
        }

    async def _family(self, run: Run, found: AgentRun) -> dict[str, Any]:
        """What the children of a run, and theirs, called; and the sum of all of them with the run."""
        rows: list[dict[str, Any]] = []
        calls = list(found.calls)
        waiting = list(found.children)
        while waiting and len(rows) < FAMILY_MAX:
            child = waiting.pop(0)
            try:
                inner, _ = await self._runs.read(
                    Run(run.namespace, child.workflow_id, child.run_id)
                )
            except NotFound:  # Its retention is over, or it is in another namespace.
                continue
            waiting += inner.children
            calls += inner.calls
            rows.append({"child": child, **_summed(inner.calls)})
        rows = [row for row in rows if row["calls"]]
        return {"rows": rows, "whole": _summed(calls), "left_out": len(waiting)}

    async def _wait(self, request: Request, values: dict[str, Any]) -> None:
        if values["complete"]:
            await until_changed(self._site, run_of(request), values["next_event_id"])


def cost_of(call: ModelCall) -> str:
    return prices.money_text(prices.cost(call.usage, call.model, call.provider))


def sums(calls: list[ModelCall], begin_ns: int, end_ns: int) -> dict[str, Any]:
    """Over a whole run."""
    tools = [tool for call in calls for tool in call.tools]
    steps: list[Step] = [*calls, *tools]
    return {
        "calls": len(calls),
        "tools": len(tools),
        "usage": sum((call.usage for call in calls), Usage()),
        "cost": prices.money_text(_cost(calls)),
        "unpriced": any(_dollars(call) is None for call in calls if call.usage.taken),
        "model_ns": sum(call.lasted_ns for call in calls),
        "tool_ns": sum(tool.lasted_ns for tool in tools),
        "failed_attempts": sum(max(0, step.attempt - 1) for step in steps),
        "lost_ns": sum(step.lost_ns for step in steps),
        "outside_ns": max(0, end_ns - begin_ns - _covered(steps, end_ns)),
    }


def by_model(calls: list[ModelCall]) -> list[dict[str, Any]]:
    found: dict[str, list[ModelCall]] = {}
    for call in calls:
        found.setdefault(call.model or "unknown", []).append(call)
    return [{"model": model, **_summed(some)} for model, some in sorted(found.items())]


def _summed(calls: list[ModelCall]) -> dict[str, Any]:
    return {
        "calls": len(calls),
        "usage": sum((call.usage for call in calls), Usage()),
        "cost": prices.money_text(_cost(calls)),
    }


def _dollars(call: ModelCall) -> Decimal | None:
    return prices.cost(call.usage, call.model, call.provider)


def _cost(calls: list[ModelCall]) -> Decimal | None:
    """Of those whose price is known; None: of none."""
    known = [dollars for call in calls if (dollars := _dollars(call)) is not None]
    return sum(known, Decimal()) if known else None


def _covered(steps: Iterable[Step], now_ns: int) -> int:
    """How long at least one of them was under way."""
    covered = until = 0
    for begin, end in sorted((step.begin_ns, step.end_ns or now_ns) for step in steps):
        covered += max(0, end - max(begin, until))
        until = max(until, end)
    return covered
