"""What all runs did together: tokens, cost, times, failures and retries, by agent, model, tool, queue and day.

Rule 1: the numbers are those of `durably query`: `tally` counts the same rows, and each table shows its SQL.
"""

import asyncio
from collections import OrderedDict
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

from starlette.requests import Request
from starlette.routing import Route

from durably.edge.console import charts, tally
from durably.edge.console.agent import money_text
from durably.edge.console.site import Site
from durably.edge.console.survey import CLOSED_MAX, Survey
from durably.edge.console.tally import Counted, Dimension, Tally
from durably.edge.console.units import SECOND_NS, duration_text
from durably.errors import InvalidArgument

KEPT_MAX = 4
PAGE_READS_S = 0.02
STREAM_READS_S = 0.5
ROWS_MAX = 30
DAYS_MAX = 60
PERIODS = (("1", "24 hours"), ("7", "7 days"), ("30", "30 days"), ("", "all time"))
PERIOD_DEFAULT = "7"


class Analytics:
    def __init__(self, site: Site) -> None:
        self._site = site
        self._surveys: OrderedDict[tuple[str, str], Survey] = OrderedDict()

    def routes(self) -> list[Route]:
        page = self._site.page(
            "analytics.html", "analytics", self._load, ("analytics",), self._wait
        )
        return [Route("/ui/{namespace:segment}/analytics", page)]

    async def _load(self, request: Request) -> dict[str, Any]:
        namespace = request.path_params["namespace"]
        query = request.query_params.get("query", "").strip()
        period = request.query_params.get("period", PERIOD_DEFAULT)
        if period not in dict(PERIODS):
            raise InvalidArgument(f"there is no period {period!r}: 1, 7 or 30 days, or none")
        where = where_of(query, period, self._site.clock())
        survey = self._survey(namespace, where)
        is_stream = "text/event-stream" in request.headers.get("accept", "")
        values = {
            "namespace": namespace,
            "query": query,
            "period": period,
            "periods": PERIODS,
            "where": where,
            "problem": "",
            "survey": survey,
            "closed_max": CLOSED_MAX,
        }
        try:
            await survey.go_on(STREAM_READS_S if is_stream else PAGE_READS_S)
        except InvalidArgument as refusal:
            return values | {"problem": refusal.message, "is_final": True}
        return values | await asyncio.to_thread(picture, survey.tally())

    def _survey(self, namespace: str, where: str) -> Survey:
        found = self._surveys.get((namespace, where))
        if found is None:
            found = self._surveys[namespace, where] = Survey(self._site, namespace, where)
        self._surveys.move_to_end((namespace, where))
        while len(self._surveys) > KEPT_MAX:
            self._surveys.popitem(last=False)
        return found

    async def _wait(self, request: Request, values: dict[str, Any]) -> None:
        """While there is more to be read, half of the time is left to others."""
        await asyncio.sleep(3.0 if values["survey"].complete else STREAM_READS_S)


def where_of(query: str, period: str, now_ns: int) -> str:
    """The List Filter for runs that began in so many days, today among them; days begin in UTC."""
    conditions = [f"({query})"] if query else []
    if period:
        today = datetime.fromtimestamp(now_ns // SECOND_NS, UTC).replace(hour=0, minute=0, second=0)
        since = today - timedelta(days=int(period) - 1)
        if period == "1":  # To the hour: what is kept of it is of use for as long.
            now = datetime.fromtimestamp(now_ns // SECOND_NS, UTC)
            since = now.replace(minute=0, second=0) - timedelta(hours=24)
        conditions.append(f"StartTime >= '{since:%Y-%m-%dT%H:%M:%SZ}'")
    return " AND ".join(conditions)


def picture(found: Tally) -> dict[str, Any]:
    """What the page shows: sums, charts, tables."""
    runs, calls, tools, activities = (
        found.total(each) for each in (tally.TYPES, tally.MODEL_DAYS, tally.TOOLS, tally.ACTIVITIES)
    )
    return {
        "runs": runs,
        "calls": calls,
        "tools": tools,
        "activities": activities,
        "cost": cost_text(calls),
        "share": share_text,
        "charts": [each for each in charts_of(found) if each["columns"]],
        "tables": [table_of(found, each) for each in tally.DIMENSIONS if found.groups[each]],
    }


def charts_of(found: Tally) -> list[dict[str, Any]]:
    models = found.ordered(tally.MODEL_DAYS)[-DAYS_MAX:]
    work = found.ordered(tally.ACTIVITY_DAYS)[-DAYS_MAX:]
    return [
        _chart("Cost by day", "$", [(d, (c.cost,)) for d, c in models], ("cost",), _money),
        _chart(
            "Tokens by day",
            "in and out",
            [(d, (c.input, c.output)) for d, c in models],
            ("in", "out"),
            _number,
        ),
        _chart(
            "Activities by day",
            "well and failed",
            [(d, (c.n - c.failed, c.failed)) for d, c in work],
            ("well", "failed"),
            _number,
        ),
    ]


def _chart(
    title: str,
    about: str,
    values: list[tuple[str, tuple[float, ...]]],
    looks: tuple[str, ...],
    written: Any,
) -> dict[str, Any]:
    highest = max((sum(numbers) for _, numbers in values), default=0)
    said = [f"{day}: {' and '.join(written(n) for n in numbers)}" for day, numbers in values]
    return {
        "title": title,
        "about": about,
        "looks": looks if len(looks) > 1 else (),
        "columns": charts.columns(values, looks) if highest else (),
        "highest": written(highest),
        "said": "; ".join(said),
    }


def table_of(found: Tally, dimension: Dimension) -> dict[str, Any]:
    ordered = found.ordered(dimension)
    if dimension.column == tally.DAY:
        ordered = ordered[::-1]
    shown = [(name, counted, counted.percentiles()) for name, counted in ordered[:ROWS_MAX]]
    longest = max((at_s[-1] for _, _, at_s in shown if at_s), default=0)
    rows = [
        {
            "name": name,
            "counted": counted,
            "cost": cost_text(counted),
            "at": [duration_text(round(each * SECOND_NS)) for each in at_s],
            "bar": charts.span(at_s, longest),
        }
        for name, counted, at_s in shown
    ]
    return {"dimension": dimension, "rows": rows, "left_out": len(ordered) - len(rows)}


def cost_text(counted: Counted) -> str:
    return money_text(Decimal(str(counted.cost))) if counted.priced else ""


def share_text(part: int, whole: int) -> str:
    """`3.2 %`; nothing for none."""
    return f"{100 * part / whole:.1f} %" if part and whole else ""


def _number(value: float) -> str:
    return f"{value:,.0f}"


def _money(value: float) -> str:
    return money_text(Decimal(str(value)))
