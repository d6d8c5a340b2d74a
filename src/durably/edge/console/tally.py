"""Runs, activities, calls of models and tools, counted by what they were: the numbers of the analytics page. Pure.

Rule 1: the rows that are counted are those of `durably query` (`agents.rows`): each table here is what the SQL
        beside it gives there.
Rule 2: values are kept, so that percentiles are exact: between two values, as `quantile_cont` has it.
"""

import math
from array import array
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime

from durably.agents.rows import Row

MICROSECOND_S = 1_000_000
FAILED = ("failed", "timed_out")
PERCENTILES = (0.5, 0.95, 0.99)
NAMELESS = "(not named)"


@dataclass(frozen=True, slots=True)
class Dimension:
    """By what rows are counted. `column`: of the table; of what has none the rows are not in it."""

    title: str
    table: str
    column: str
    seconds: str
    """The column whose percentiles are shown."""

    @property
    def of_models(self) -> bool:
        return self.table == "model_calls"

    @property
    def has_attempts(self) -> bool:
        return self.table != "workflows"

    @property
    def sql(self) -> str:
        by = DAY_SQL if self.column == DAY else self.column
        counted = ["count(*) AS n", "count(*) FILTER (status IN ('failed', 'timed_out')) AS failed"]
        if self.has_attempts:
            counted.append("sum(greatest(attempts - 1, 0)) AS retries")
        if self.of_models:
            counted += ["sum(input_tokens) AS input", "sum(output_tokens) AS output"]
            counted.append("sum(cost_usd) AS cost")
        counted.append(f"quantile_cont({self.seconds}, [0.5, 0.95, 0.99]) AS seconds")
        return f"SELECT {by} AS name, {', '.join(counted)} FROM {self.table} GROUP BY ALL ORDER BY n DESC"


DAY = "day"
DAY_SQL = "strftime(coalesce(end_time, scheduled_time), '%Y-%m-%d')"
AGENTS = Dimension("Agents", "model_calls", "agent", "run_s")
MODELS = Dimension("Models", "model_calls", "model", "run_s")
TOOLS = Dimension("Tools", "tool_calls", "tool", "run_s")
ACTIVITIES = Dimension("Activities", "activities", "activity_type", "run_s")
QUEUES = Dimension("Task queues", "activities", "task_queue", "schedule_to_start_s")
TYPES = Dimension("Workflows", "workflows", "workflow_type", "duration_s")
MODEL_DAYS = Dimension("Model calls by day", "model_calls", DAY, "run_s")
ACTIVITY_DAYS = Dimension("Activities by day", "activities", DAY, "run_s")
DIMENSIONS = (TYPES, AGENTS, MODELS, TOOLS, ACTIVITIES, QUEUES, MODEL_DAYS, ACTIVITY_DAYS)


@dataclass(slots=True)
class Counted:
    """Rows that have one thing in common."""

    n: int = 0
    failed: int = 0
    retries: int = 0
    input: int = 0
    output: int = 0
    cost: float = 0.0
    priced: int = 0
    """Of how many the cost is known."""
    seconds: "array[float]" = field(default_factory=lambda: array("d"))

    def add(self, row: Row, seconds: str) -> None:
        self.n += 1
        self.failed += row["status"] in FAILED
        self.retries += max(0, (row.get("attempts") or 1) - 1)
        self.input += row.get("input_tokens") or 0
        self.output += row.get("output_tokens") or 0
        cost = row.get("cost_usd")
        if cost is not None:
            self.cost += cost
            self.priced += 1
        value = row[seconds]
        if value is not None:
            self.seconds.append(value)

    def __add__(self, other: "Counted") -> "Counted":
        return Counted(
            self.n + other.n,
            self.failed + other.failed,
            self.retries + other.retries,
            self.input + other.input,
            self.output + other.output,
            self.cost + other.cost,
            self.priced + other.priced,
            self.seconds + other.seconds,
        )

    def percentiles(self) -> tuple[float, ...]:
        """In seconds; none if nothing has ended."""
        values = sorted(self.seconds)
        return tuple(quantile(values, each) for each in PERCENTILES) if values else ()


@dataclass(slots=True)
class Tally:
    """What has been counted."""

    groups: dict[Dimension, dict[str, Counted]] = field(
        default_factory=lambda: {each: {} for each in DIMENSIONS}
    )

    def add(self, rows: Iterable[tuple[str, Row]]) -> None:
        """(table, row), as `agents.rows` gives them."""
        for table, row in rows:
            for dimension in BY_TABLE.get(table, ()):
                name = name_in(row, dimension)
                counted = self.groups[dimension].get(name)
                if counted is None:
                    counted = self.groups[dimension][name] = Counted()
                counted.add(row, dimension.seconds)

    def __add__(self, other: "Tally") -> "Tally":
        found = Tally()
        for dimension, groups in found.groups.items():
            for name in self.groups[dimension].keys() | other.groups[dimension].keys():
                mine, theirs = (each.groups[dimension].get(name) for each in (self, other))
                groups[name] = mine + theirs if mine and theirs else mine or theirs or Counted()
        return found

    def ordered(self, dimension: Dimension) -> list[tuple[str, Counted]]:
        """Days in their order, all others by how many there are."""
        groups = self.groups[dimension]
        if dimension.column == DAY:
            return sorted(groups.items())
        return sorted(groups.items(), key=lambda each: (-each[1].n, each[0]))

    def total(self, dimension: Dimension) -> Counted:
        return sum(self.groups[dimension].values(), Counted())


BY_TABLE = {
    table: tuple(each for each in DIMENSIONS if each.table == table)
    for table in ("workflows", "activities", "model_calls", "tool_calls")
}


def name_in(row: Row, dimension: Dimension) -> str:
    if dimension.column != DAY:
        return str(row[dimension.column] or NAMELESS)
    at_us = row["end_time"] or row["scheduled_time"]
    return datetime.fromtimestamp(at_us // MICROSECOND_S, UTC).strftime("%Y-%m-%d")


def quantile(values: Sequence[float], part: float) -> float:
    """Of sorted values: on the line between the two nearest."""
    at = part * (len(values) - 1)
    below, above = math.floor(at), math.ceil(at)
    return values[below] + (values[above] - values[below]) * (at - below)
