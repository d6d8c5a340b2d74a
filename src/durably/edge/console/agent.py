"""The agent run: what one workflow's models were asked and answered, the tools they used, what it cost."""

import importlib.util
from collections.abc import Iterable
from decimal import Decimal
from typing import Any

from starlette.requests import Request
from starlette.routing import Route

from durably.agents.steps import Step
from durably.edge.console.agent_run import AgentRun, ChildRun, Turn, cost_of, tokens_of
from durably.edge.console.folds import Folds, Run, events_max_of
from durably.edge.console.paging import page_start
from durably.edge.console.site import Site
from durably.edge.console.workflow import describe, head_of, run_of, until_changed
from durably.errors import NotFound

CALLS_PER_PAGE = 50
FAMILY_MAX = 50
"""Descendants whose calls are added up."""


class Agent:
    def __init__(self, site: Site) -> None:
        self._site = site
        self._runs = Folds(site, AgentRun, in_thread=True)

    def routes(self) -> list[Route]:
        base = "/ui/{namespace:segment}/workflows/{workflow_id:segment}/{run_id:segment}"
        page = self._site.page("agent.html", "workflows", self._load, ("agent",), self._wait)
        return [Route(base + "/agent", page)]

    async def _load(self, request: Request) -> dict[str, Any]:
        run = run_of(request)
        description = await describe(self._site, run)
        events_max = events_max_of(request)
        found, complete = await self._runs.read(run, events_max)
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
            rows.append({"child": child, **_summed(turns)})
        rows = [row for row in rows if row["calls"]]
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

    async def _wait(self, request: Request, values: dict[str, Any]) -> None:
        if values["complete"]:
            await until_changed(self._site, run_of(request), values["next_event_id"])


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
