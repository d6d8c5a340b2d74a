"""`python -m bench.console`: how long the console's pages take over a hundred thousand executions.

Rule 1: the executions are copies of runs that a worker has made, written into the file through durably's own
        store while the server is stopped: each has its history, and is opened like any other.
Rule 2: a page of one workflow is asked for with another workflow each time: nothing of it is in memory yet.
Rule 3: the clock runs from the request to the last byte of the page, over a connection that is kept.
"""

import asyncio
import tempfile
import time
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import timedelta
from itertools import islice
from pathlib import Path
from typing import Annotated, Any

import httpx
import msgspec
import typer
from rich.console import Console
from rich.table import Table
from temporalio import activity, workflow
from temporalio.api.history.v1 import History
from temporalio.api.workflow.v1 import WorkflowExecutionInfo
from temporalio.api.workflowservice.v1 import DescribeNamespaceRequest
from temporalio.client import Client
from temporalio.worker import UnsandboxedWorkflowRunner, Worker

from bench.measure import percentile
from bench.servers import COMMANDS, BenchServer
from durably.edge.console.site import MENU
from durably.engine.state import Kind
from durably.store.sqlite import SqliteStore
from durably.store.store import Commit, ExecutionWrite, VisibilityRow

EXECUTIONS = 100_000
ASKED = 30
AIM_MS = 100.0
WRITTEN_AT_ONCE = 1000
QUEUE = "bench-console"
LIMIT = timedelta(minutes=5)
LONG_ROUNDS, LONG_WIDTH = 33, 100
FIRST_COPY = 1_000_000
"""Execution ids of copies: beyond those that the server has given out."""
SPAN_NS = 7 * 24 * 3600 * 10**9
"""The copies began within the last week, evenly."""
OF_AGENTS = 10
"""One in so many is a copy of the agent's run, as many sleep, the others made one call of a tool."""
EVENTS_WHEN_WAITING = 4
out = Console(highlight=False)


# --- The runs that are copied ---------------------------------------------------------------------


@activity.defn
async def look_up(words: str) -> list[str]:
    return [words, "found"]


@activity.defn
async def call_model(messages: list[dict[str, Any]]) -> dict[str, Any]:
    """Answers as a provider's API does: asks for a tool until it has been told something."""
    message: dict[str, Any] = {"role": "assistant", "content": "Otters eat urchins. " * 20}
    if messages[-1]["role"] == "user":
        function = {"name": "look_up", "arguments": '{"words": "otters"}'}
        call = {"id": "call_1", "type": "function", "function": function}
        message = {"role": "assistant", "content": None, "tool_calls": [call]}
    usage = {"prompt_tokens": 1000 * len(messages), "completion_tokens": 120}
    choices = [{"message": message, "finish_reason": "stop"}]
    return {
        "object": "chat.completion",
        "model": "gpt-4.1-mini",
        "choices": choices,
        "usage": usage,
    }


@workflow.defn
class Agent:
    @workflow.run
    async def run(self, question: str) -> str:
        said: list[dict[str, Any]] = [
            {"role": "system", "content": "Answer from what you find."},
            {"role": "user", "content": question},
        ]
        first = await workflow.execute_activity(call_model, said, start_to_close_timeout=LIMIT)
        found = await workflow.execute_activity(look_up, "otters", start_to_close_timeout=LIMIT)
        said.append(first["choices"][0]["message"])
        said.append({"role": "tool", "tool_call_id": "call_1", "content": str(found)})
        last = await workflow.execute_activity(call_model, said, start_to_close_timeout=LIMIT)
        text: str = last["choices"][0]["message"]["content"]
        return text


@workflow.defn
class Lookup:
    @workflow.run
    async def run(self, words: str) -> list[str]:
        return await workflow.execute_activity(look_up, words, start_to_close_timeout=LIMIT)


@workflow.defn
class Waits:
    @workflow.run
    async def run(self) -> None:
        await workflow.wait_condition(lambda: False)


@workflow.defn
class Long:
    """A history of tens of thousands of events."""

    @workflow.run
    async def run(self) -> None:
        for _ in range(LONG_ROUNDS):
            await asyncio.gather(
                *(
                    workflow.execute_activity(look_up, "otters", start_to_close_timeout=LIMIT)
                    for _ in range(LONG_WIDTH)
                )
            )


@dataclass(frozen=True, slots=True)
class Template:
    """A run that was made: its whole journal as one entry, and what lists show of it."""

    history: History
    records: bytes
    info: WorkflowExecutionInfo
    next_event_id: int


async def make_runs(client: Client) -> list[WorkflowExecutionInfo]:
    """The runs that are copied: of an agent, of a tool, one that waits. And a long one, looked at itself."""
    async with Worker(
        client,
        task_queue=QUEUE,
        workflows=[Agent, Lookup, Waits, Long],
        activities=[look_up, call_model],
        workflow_runner=UnsandboxedWorkflowRunner(),
    ):
        waits = await client.start_workflow(Waits.run, id="waits", task_queue=QUEUE)
        await client.execute_workflow(Agent.run, "otters", id="agent", task_queue=QUEUE)
        await client.execute_workflow(Lookup.run, "otters", id="lookup", task_queue=QUEUE)
        await client.execute_workflow(Long.run, id="long", task_queue=QUEUE)
        while (await waits.describe()).history_length < EVENTS_WHEN_WAITING:  # noqa: ASYNC110
            await asyncio.sleep(0.1)
    described = [
        await client.get_workflow_handle(name).describe() for name in ("agent", "lookup", "waits")
    ]
    return [each.raw_description.workflow_execution_info for each in described]


async def template(store: SqliteStore, namespace_id: str, info: WorkflowExecutionInfo) -> Template:
    run = await store.current_run(Kind.WORKFLOW, namespace_id, info.execution.workflow_id)
    assert run is not None
    whole = History()
    records: list[tuple[int, msgspec.Raw]] = []
    for row in await store.read_journal(run.execution_id, 0, 2**30):
        if row.records:
            of_row = msgspec.msgpack.decode(row.records, type=list[tuple[int, msgspec.Raw]])
            records += [(len(whole.events) + before, record) for before, record in of_row]
        whole.MergeFromString(row.events)
    return Template(whole, msgspec.msgpack.encode(records), info, len(whole.events) + 1)


# --- The copies -----------------------------------------------------------------------------------


def copies(templates: list[Template], namespace_id: str, count: int) -> Iterator[ExecutionWrite]:
    now_ns = time.time_ns()
    agent, lookup, waits = templates
    for number in range(count):
        made = {0: agent, 1: waits}.get(number % OF_AGENTS, lookup)
        start_ns = now_ns - SPAN_NS + SPAN_NS * number // count
        yield copy(made, namespace_id, number, start_ns)


def copy(made: Template, namespace_id: str, number: int, start_ns: int) -> ExecutionWrite:
    info = made.info
    workflow_id, run_id = f"{info.type.name.lower()}-{number}", str(uuid.uuid4())
    first_ns = info.start_time.ToNanoseconds()
    events = History()
    events.CopyFrom(made.history)
    for event in events.events:
        event.event_time.FromNanoseconds(event.event_time.ToNanoseconds() - first_ns + start_ns)
    started = events.events[0].workflow_execution_started_event_attributes
    started.workflow_id = workflow_id
    started.first_execution_run_id = started.original_execution_run_id = run_id
    close_ns = info.close_time.ToNanoseconds()
    return ExecutionWrite(
        execution_id=FIRST_COPY + number,
        expected_version=0,
        kind=Kind.WORKFLOW,
        namespace_id=namespace_id,
        workflow_id=workflow_id,
        run_id=run_id,
        status=info.status,
        next_event_id=made.next_event_id,
        next_deadline_ns=0,
        first_event_id=1,
        events=events.SerializeToString(),
        records=made.records,
        replaces_current=0,
        visibility=VisibilityRow(
            workflow_type=info.type.name,
            task_queue=info.task_queue,
            status=info.status,
            start_ns=start_ns,
            execution_ns=start_ns,
            close_ns=close_ns - first_ns + start_ns if close_ns else 0,
            history_length=info.history_length,
            history_size_bytes=info.history_size_bytes,
            state_transitions=info.state_transition_count,
            parent_workflow_id="",
            parent_run_id="",
            root_workflow_id=workflow_id,
            root_run_id=run_id,
            memo=b"",
            search_attributes=b"",
            search_values={},
        ),
    )


async def fill(
    file: Path, namespace_id: str, made: list[WorkflowExecutionInfo], count: int
) -> None:
    store = SqliteStore.open(f"sqlite:///{file}")
    templates = [await template(store, namespace_id, info) for info in made]
    made_of = copies(templates, namespace_id, count)
    while batch := list(islice(made_of, WRITTEN_AT_ONCE)):
        await store.commit(Commit(batch))
    await store.close()


# --- The pages ------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Place:
    """A page. `of`: the type of the workflows that take turns in its address; none: it is always the same."""

    title: str
    path: str
    of: str = ""


AGENTS = "/workflows/{id}/{run}"
PLACES = (
    Place("workflows", "/workflows"),
    Place("workflows, failed", "/workflows?query=ExecutionStatus%3D%27Failed%27"),
    Place("workflows, of a type", "/workflows?query=WorkflowType%3D%27Agent%27"),
    *(Place(title.lower(), f"/{place}") for place, title in MENU[1:]),
    Place("one task queue", f"/task-queues/{QUEUE}"),
    Place("start a workflow", "/start"),
    Place("one workflow", AGENTS, "Agent"),
    Place("one workflow, open", AGENTS, "Waits"),
    Place("agent run", AGENTS + "/agent", "Agent"),
    Place("history", AGENTS + "/history", "Agent"),
    Place("history, full", AGENTS + "/history?view=full", "Agent"),
    Place("history, JSON", AGENTS + "/history?view=json", "Agent"),
    Place("relations", AGENTS + "/relations", "Agent"),
    Place("queries", AGENTS + "/queries", "Agent"),
    Place("a long workflow", AGENTS, "Long"),
    Place("a long workflow: agent run", AGENTS + "/agent", "Long"),
    Place("a long workflow: history", AGENTS + "/history", "Long"),
    Place("a long workflow: history, JSON", AGENTS + "/history?view=json", "Long"),
)


@dataclass(frozen=True, slots=True)
class Timing:
    first_s: float
    p50_s: float
    p95_s: float
    size_bytes: int


async def runs_of(client: Client, workflow_type: str, count: int) -> list[tuple[str, str]]:
    """Workflow and run ids, newest first."""
    found = client.list_workflows(f"WorkflowType = '{workflow_type}'", limit=count)
    return [(each.id, each.run_id) async for each in found]


async def ask(http: httpx.AsyncClient, place: Place, runs: list[tuple[str, str]]) -> Timing:
    latencies, size_bytes = [], 0
    for number in range(ASKED + 1):
        path = f"/ui/default{place.path}"
        if place.of:
            workflow_id, run_id = runs[number % len(runs)]
            path = path.replace("{id}", workflow_id).replace("{run}", run_id)
        began = time.perf_counter()
        answer = await http.get(path)
        latencies.append(time.perf_counter() - began)
        answer.raise_for_status()
        size_bytes = len(answer.content)
    rest = latencies[1:]
    return Timing(latencies[0], percentile(rest, 50), percentile(rest, 95), size_bytes)


async def measure(count: int, only: str) -> dict[str, Timing]:
    with tempfile.TemporaryDirectory(prefix="bench-") as folder:
        file = Path(folder) / "store.db"
        server = BenchServer(COMMANDS["durably"], file)
        try:
            client = await server.answer()
            described = await client.workflow_service.describe_namespace(
                DescribeNamespaceRequest(namespace="default")
            )
            with out.status("making runs"):
                made = await make_runs(client)
            server.process.stop()
            with out.status(f"writing {count:,} copies"):
                await fill(file, described.namespace_info.id, made, count)
            server.relaunch()
            client = await server.answer()
            runs = {
                each.of: await runs_of(client, each.of, ASKED + 1) for each in PLACES if each.of
            }
            timings = {}
            async with httpx.AsyncClient(base_url=f"http://{server.address}", timeout=60) as http:
                for place in PLACES:
                    if only in place.title:
                        with out.status(place.title):
                            timings[place.title] = await ask(http, place, runs.get(place.of, []))
            return timings
        finally:
            server.process.stop()


def table(timings: dict[str, Timing]) -> Table:
    found = Table("page", "first, ms", "median, ms", "95th, ms", "kB", f"under {AIM_MS:.0f} ms")
    for title, timing in timings.items():
        times = (timing.first_s, timing.p50_s, timing.p95_s)
        met = "yes" if timing.p95_s * 1000 < AIM_MS else "no"
        found.add_row(
            title, *(f"{1000 * each:.1f}" for each in times), f"{timing.size_bytes / 1e3:.0f}", met
        )
    return found


def run(
    executions: Annotated[int, typer.Option(min=100, help="How many.")] = EXECUTIONS,
    only: Annotated[str, typer.Option(help="Only pages whose title has this in it.")] = "",
) -> None:
    """Every page of the console over many executions: the first time, the median and the 95th percentile."""
    out.print(table(asyncio.run(measure(executions, only))))


if __name__ == "__main__":
    typer.run(run)
