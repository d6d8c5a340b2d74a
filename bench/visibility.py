"""`python -m bench.visibility`: lists and counts over a million executions.

Rule 1: both servers have the same executions, written into their files while they are stopped: durably's
        through its own store, Temporal's as rows of the table that its lists read.
Rule 2: every query is asked several times, and first once unmeasured; the slowest counts too.
"""

import asyncio
import json
import sqlite3
import tempfile
import time
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from temporalio.api.common.v1 import Payload, SearchAttributes
from temporalio.api.enums.v1 import IndexedValueType
from temporalio.api.operatorservice.v1 import AddSearchAttributesRequest
from temporalio.api.workflowservice.v1 import (
    CountWorkflowExecutionsRequest,
    DescribeNamespaceRequest,
    ListWorkflowExecutionsRequest,
)
from temporalio.client import Client
from temporalio.service import RPCError

from bench import machine, report
from bench.measure import percentile
from bench.servers import COMMANDS, ROOT, BenchServer
from durably.store.sqlite import SqliteStore
from durably.store.store import Commit, ExecutionWrite, VisibilityRow

EXECUTIONS = 1_000_000
ASKED = 9
PAGE = 100
WRITTEN_AT_ONCE = 1000
TYPES = ["Order", "Payment", "Shipment", "Agent", "Report"]
CUSTOMERS = 10_000
CUSTOMER = "Customer"
TIER = "Tier"
TIERS = ["free", "team", "company"]
WORKFLOW_KIND = 1
RUNNING, COMPLETED, FAILED, TIMED_OUT = 1, 2, 3, 7
FIRST_START = datetime(2026, 1, 1, tzinfo=UTC)
SPAN = timedelta(days=30)
RESULTS = ROOT / "bench" / "RESULTS-VISIBILITY.md"
out = Console(highlight=False)


@dataclass(frozen=True, slots=True)
class Made:
    """One execution that is written into both files."""

    number: int
    workflow_id: str
    run_id: str
    workflow_type: str
    status: int
    start_ns: int
    close_ns: int
    customer: str
    tier: str


def executions(count: int) -> Iterator[Made]:
    """One in ten runs, one in a hundred has failed, one in a thousand timed out."""
    first_ns = int(FIRST_START.timestamp()) * 10**9
    step_ns = int(SPAN.total_seconds() * 10**9) // count
    for number in range(1, count + 1):
        status = COMPLETED
        if number % 10 == 0:
            status = RUNNING
        elif number % 100 == 1:
            status = FAILED
        elif number % 1000 == 2:
            status = TIMED_OUT
        start_ns = first_ns + number * step_ns
        took_ns = (1 + number * 7919 % 3600) * 10**9
        yield Made(
            number,
            f"order-{number}",
            str(uuid.UUID(int=number, version=4)),
            TYPES[number * 31 % 101 % len(TYPES)],
            status,
            start_ns,
            0 if status == RUNNING else start_ns + took_ns,
            f"customer-{number * 7907 % CUSTOMERS}",
            TIERS[number * 17 % 103 % len(TIERS)],
        )


# --- Filling the files ----------------------------------------------------------------------------


def _keyword(value: str) -> Payload:
    return Payload(
        metadata={"encoding": b"json/plain", "type": b"Keyword"}, data=json.dumps(value).encode()
    )


def _write(made: Made, namespace_id: str) -> ExecutionWrite:
    values: dict[str, object] = {CUSTOMER: made.customer, TIER: made.tier}
    shown = SearchAttributes()
    for name, value in values.items():
        shown.indexed_fields[name].CopyFrom(_keyword(str(value)))
    return ExecutionWrite(
        execution_id=made.number,
        expected_version=0,
        kind=WORKFLOW_KIND,
        namespace_id=namespace_id,
        workflow_id=made.workflow_id,
        run_id=made.run_id,
        status=made.status,
        next_event_id=6,
        next_deadline_ns=0,
        replaces_current=0,
        visibility=VisibilityRow(
            workflow_type=made.workflow_type,
            task_queue="orders",
            status=made.status,
            start_ns=made.start_ns,
            execution_ns=made.start_ns,
            close_ns=made.close_ns,
            history_length=5,
            history_size_bytes=1500,
            state_transitions=5,
            parent_workflow_id="",
            parent_run_id="",
            root_workflow_id=made.workflow_id,
            root_run_id=made.run_id,
            memo=b"",
            search_attributes=shown.SerializeToString(),
            search_values=values,
        ),
    )


async def fill_durably(file: Path, namespace_id: str, count: int) -> None:
    store = SqliteStore.open(f"sqlite:///{file}")
    batch: list[ExecutionWrite] = []
    for made in executions(count):
        batch.append(_write(made, namespace_id))
        if len(batch) == WRITTEN_AT_ONCE or made.number == count:
            await store.commit(Commit(batch))
            batch = []
    await store.close()


FILL = """INSERT INTO executions_visibility (namespace_id, run_id, start_time, execution_time,
    workflow_id, workflow_type_name, status, close_time, history_length, history_size_bytes,
    execution_duration, state_transition_count, encoding, task_queue, search_attributes,
    root_workflow_id, root_run_id) VALUES (?, ?, ?, ?, ?, ?, ?, ?, 5, 1500, ?, 5, '', 'orders', ?, ?, ?)"""


def _moment(ns: int) -> str:
    moment = datetime.fromtimestamp(ns // 10**9, UTC) + timedelta(microseconds=ns % 10**9 // 1000)
    return moment.strftime("%Y-%m-%d %H:%M:%S.%f+00:00")


def fill_temporal(file: Path, namespace_id: str, count: int, columns: dict[str, str]) -> None:
    """`columns`: attribute -> the column that stands for it in this namespace."""

    def row(made: Made) -> tuple[object, ...]:
        found = {columns[CUSTOMER]: made.customer, columns[TIER]: made.tier}
        return (
            namespace_id,
            made.run_id,
            _moment(made.start_ns),
            _moment(made.start_ns),
            made.workflow_id,
            made.workflow_type,
            made.status,
            _moment(made.close_ns) if made.close_ns else None,
            made.close_ns - made.start_ns if made.close_ns else None,
            json.dumps(found),
            made.workflow_id,
            made.run_id,
        )

    with sqlite3.connect(file) as connection:
        connection.executemany(FILL, map(row, executions(count)))
    connection.close()


async def _register(client: Client) -> None:
    keyword = IndexedValueType.INDEXED_VALUE_TYPE_KEYWORD
    await client.operator_service.add_search_attributes(
        AddSearchAttributesRequest(
            namespace="default", search_attributes={CUSTOMER: keyword, TIER: keyword}
        )
    )


async def prepare(server: BenchServer, name: str, file: Path, count: int) -> Client:
    """The server on its file with `count` executions, warm."""
    client = await server.answer()
    await _register(client)
    described = await client.workflow_service.describe_namespace(
        DescribeNamespaceRequest(namespace="default")
    )
    server.process.stop()
    namespace_id = described.namespace_info.id
    if name == "durably":
        await fill_durably(file, namespace_id, count)
    else:
        aliases = described.config.custom_search_attribute_aliases
        fill_temporal(file, namespace_id, count, {alias: key for key, alias in aliases.items()})
    server.relaunch()
    client = await server.answer()
    while (await _count(client, "")) != count:  # noqa: ASYNC110  it may still be starting
        await asyncio.sleep(0.1)
    return client


# --- Asking ---------------------------------------------------------------------------------------

_MIDDLE = FIRST_START + SPAN / 2 + timedelta(seconds=1)
"""No execution begins or ends just then: servers need not agree on what an end of an interval is."""
_FROM = _MIDDLE.strftime("%Y-%m-%dT%H:%M:%SZ")
_TO = (_MIDDLE + timedelta(hours=1)).strftime("%Y-%m-%dT%H:%M:%SZ")
FILTERS = {
    "no filter": "",
    "running": "ExecutionStatus = 'Running'",
    "timed out (1 in 1,000)": "ExecutionStatus = 'TimedOut'",
    "by type": "WorkflowType = 'Payment'",
    "by type and status": "WorkflowType = 'Payment' AND ExecutionStatus = 'Failed'",
    "by workflow id": "WorkflowId = 'order-123456'",
    "ids that begin so": "WorkflowId STARTS_WITH 'order-12345'",
    "by custom keyword (1 in 10,000)": f"{CUSTOMER} = 'customer-77'",
    "by custom keyword (1 in 3)": f"{TIER} = 'team'",
    "by custom keyword and status": f"{TIER} = 'team' AND ExecutionStatus = 'Failed'",
    "started within an hour": f"StartTime BETWEEN '{_FROM}' AND '{_TO}'",
    "started since the middle, running": (f"StartTime > '{_FROM}' AND ExecutionStatus = 'Running'"),
    "closed within an hour": f"CloseTime BETWEEN '{_FROM}' AND '{_TO}'",
}
GROUPED = {
    "count by status": "GROUP BY ExecutionStatus",
    "count by status, of a type": "WorkflowType = 'Payment' GROUP BY ExecutionStatus",
    "count by status, of a custom keyword (1 in 10,000)": (
        f"{CUSTOMER} = 'customer-77' GROUP BY ExecutionStatus"
    ),
}


async def _count(client: Client, query: str) -> int:
    response = await client.workflow_service.count_workflow_executions(
        CountWorkflowExecutionsRequest(namespace="default", query=query), timeout=WAIT
    )
    return response.count


async def _page(client: Client, query: str, token: bytes = b"") -> tuple[int, bytes]:
    response = await client.workflow_service.list_workflow_executions(
        ListWorkflowExecutionsRequest(
            namespace="default", query=query, page_size=PAGE, next_page_token=token
        ),
        timeout=WAIT,
    )
    return len(response.executions), response.next_page_token


WAIT = timedelta(seconds=60)


@dataclass(frozen=True, slots=True)
class Timing:
    p50_s: float
    worst_s: float
    found: int


async def ask(client: Client, query: str, *, count: bool) -> Timing | None:
    """How long the answer takes; None if it is refused, or not there within WAIT."""
    latencies = []
    found = 0
    for _ in range(ASKED + 1):
        began = time.perf_counter()
        try:
            found = await _count(client, query) if count else (await _page(client, query))[0]
        except RPCError:
            return None
        latencies.append(time.perf_counter() - began)
        if sum(latencies) > WAIT.total_seconds():
            break
    measured = latencies[1:] or latencies
    return Timing(percentile(measured, 50), max(measured), found)


async def later_page(client: Client, pages: int) -> Timing:
    """The page after `pages` others, of all executions."""
    token = b""
    for _ in range(pages):
        _, token = await _page(client, "", token)
    latencies = []
    for _ in range(ASKED):
        began = time.perf_counter()
        await _page(client, "", token)
        latencies.append(time.perf_counter() - began)
    return Timing(percentile(latencies, 50), max(latencies), PAGE)


Timings = dict[str, Timing | None]


async def measure(name: str, count: int) -> tuple[Timings, int]:
    """What is asked -> how long it takes; and the server's memory in bytes afterwards."""
    with tempfile.TemporaryDirectory(prefix="bench-") as folder:
        file = Path(folder) / "store.db"
        server = BenchServer(COMMANDS[name], file)
        try:
            client = await prepare(server, name, file, count)
            timings: Timings = {}
            for title, query in FILTERS.items():
                timings[f"list, {title}"] = await ask(client, query, count=False)
            timings["list, the 100th page"] = await later_page(client, 99)
            for title, query in FILTERS.items():
                timings[f"count, {title}"] = await ask(client, query, count=True)
            for title, query in GROUPED.items():
                timings[title] = await ask(client, query, count=True)
            return timings, server.process.usage().rss_bytes
        finally:
            server.process.stop()


def rows(ours: Timings, theirs: Timings, count: int) -> list[report.Row]:
    """Medians, then the worst of ours over all."""
    load = f"{count:,} executions"
    found = []
    for title, timing in ours.items():
        other = theirs.get(title)
        values = [1000 * each.p50_s if each else None for each in (timing, other)]
        found.append(report.Row(load, f"{title}: p50, ms", values[0], values[1], 1, None))
        if timing and other:
            assert timing.found == other.found, f"{title}: {timing.found} and {other.found}"
    return found


def markdown(
    found: dict[str, Timings], memory_mib: dict[str, float], count: int, facts: dict[str, str]
) -> str:
    """The whole of bench/RESULTS-VISIBILITY.md."""
    lines = [
        "# Results: lists and counts",
        "",
        "Written by `python -m bench.visibility --write`; do not edit.",
        "",
        f"{count:,} executions in the store of each server; a page has {PAGE}. Each query is asked {ASKED} times after"
        " once unmeasured. A dash: the server refuses it, or does not answer within a minute.",
        "",
        "| query | found | durably p50, ms | durably worst, ms | temporal p50, ms | temporal worst, ms |",
        "| --- | ---: | ---: | ---: | ---: | ---: |",
    ]
    for title, timing in found["durably"].items():
        other = found["temporal"].get(title)
        number = f"{timing.found:,}" if timing else "–"
        cells = [*_cells(timing), *_cells(other)]
        lines.append(f"| {title} | {number} | {' | '.join(cells)} |")
    lines += [
        "",
        *[f"- {name}: memory {mib:.0f} MiB afterwards" for name, mib in memory_mib.items()],
    ]
    lines += ["", "## Machine", "", *[f"- {name}: {value}" for name, value in facts.items()]]
    return "\n".join(lines) + "\n"


def _cells(timing: Timing | None) -> list[str]:
    if timing is None:
        return ["–", "–"]
    return [f"{1000 * each:,.1f}" for each in (timing.p50_s, timing.worst_s)]


def run(
    executions: Annotated[int, typer.Option(min=1000, help="How many.")] = EXECUTIONS,
    write: Annotated[bool, typer.Option(help="Write bench/RESULTS-VISIBILITY.md.")] = False,
    only: Annotated[str | None, typer.Option(help="durably or temporal.")] = None,
) -> None:
    """Lists and counts on durably and Temporal's dev server, in turn."""
    facts = machine.facts()
    found: dict[str, Timings] = {"durably": {}, "temporal": {}}
    memory_mib: dict[str, float] = {}
    for name in [each for each in found if only in (None, each)]:
        found[name], rss_bytes = asyncio.run(measure(name, executions))
        memory_mib[name] = rss_bytes / 2**20
        out.print(f"{name}: memory {memory_mib[name]:.0f} MiB", style="dim")
    if only:
        for title, timing in found[only].items():
            out.print(f"{title}: {timing and (timing.p50_s * 1000, timing.found)}")
        return
    table = rows(found["durably"], found["temporal"], executions)
    out.print(report.table(table))
    if write:
        RESULTS.write_text(markdown(found, memory_mib, executions, facts))
        out.print(f"Written: {RESULTS}")


if __name__ == "__main__":
    typer.run(run)
