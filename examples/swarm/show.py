"""What a person sees of the swarm: steps as they are done, results, and a table of who did what."""

import json
from typing import Any

from contract import CODE, NAMESPACES, PLANNING, RESEARCH
from evidence import Line, Runs, read_lines, weigh
from processes import OUTSIDE, SERVER, Swarm
from rich.console import Console
from rich.markup import escape
from rich.panel import Panel
from rich.syntax import Syntax
from rich.table import Table
from temporalio.api.enums.v1 import event_type_pb2 as event_types
from temporalio.api.history.v1 import HistoryEvent
from trial import passed, trial

COLOURS = {PLANNING: "magenta", RESEARCH: "cyan", CODE: "green"}


def show_line(console: Console, line: Line) -> None:
    what = "asks the model" if line.kind == "model" else line.what
    again = f" [yellow](attempt {line.attempt})[/]" if line.attempt > 1 else ""
    console.print(f"  [{COLOURS.get(line.agent, 'blue')}]{line.agent:11}[/] {escape(what)}{again}")


def show_operation(console: Console, event: HistoryEvent, asked: dict[int, str]) -> str:
    """An event of the planner's history; what it asks for, by the event's id, is what this returns."""
    if event.event_type == event_types.EVENT_TYPE_NEXUS_OPERATION_SCHEDULED:
        scheduled = event.nexus_operation_scheduled_event_attributes
        text = json.loads(event.user_metadata.summary.data or b'""')
        asks = f"[bold]{PLANNING} → {scheduled.endpoint}[/] {scheduled.operation}"
        console.print(f"  {asks}: {escape(text)}", no_wrap=True, overflow="ellipsis")
        return f"{scheduled.endpoint} → {PLANNING}"
    if event.event_type == event_types.EVENT_TYPE_NEXUS_OPERATION_COMPLETED:
        ended = event.nexus_operation_completed_event_attributes
        result = ended.result.data.decode().replace("\\n", " ")
        told = f"[bold]{asked[ended.scheduled_event_id]}[/] {escape(result)}"
        console.print(f"  {told}", no_wrap=True, overflow="ellipsis")
    return ""


def show_results(console: Console, delivery: dict[str, Any], answers: dict[str, str]) -> None:
    code = (delivery["written"] or {}).get("code", "")
    console.print(Panel(Syntax(code, "python"), title=delivery["summary"]))
    console.print(Panel(escape(answers["mcp"]), title="who asked the research agent by MCP"))
    console.print(Panel(escape(answers["a2a"]), title="who asked the review agent by A2A"))


def summarise(
    console: Console, swarm: Swarm, runs: dict[str, Runs], delivery: dict[str, Any]
) -> int:
    """Who did what; the exit code."""
    table = Table(
        title="Who did what",
        caption="redone: cut off by a kill; repeated: had a result already",
    )
    for header in ("", "runs", "model", "tools", "tokens", "killed", "redone", "repeated"):
        table.add_column(header, justify="left" if not header else "right")
    works = {name: weigh(read_lines(swarm.folder, name), runs[name]) for name in NAMESPACES}
    for name, work in works.items():
        figures = (runs[name].workflows, work.model_calls, work.tools, work.tokens)
        kills = swarm.killed.count(name)
        table.add_row(name, *map(str, (*figures, kills, work.made_again, work.repeated)))
    for name in (SERVER, OUTSIDE):
        table.add_row(name, *[""] * 4, str(swarm.killed.count(name)), "", "")
    console.print(table)
    repeated = sum(work.repeated for work in works.values())
    planned = runs[PLANNING]
    console.print(f"operations between agents: {planned.operations}, each ended once")
    console.print(f"kills: {len(swarm.killed)}, repeated model calls and tools: {repeated}")
    faults = _faults(runs, repeated, delivery)
    for fault in faults:
        console.print(f"[bold red]not as promised:[/] {escape(fault)}")
    return 1 if faults else 0


def _faults(runs: dict[str, Runs], repeated: int, delivery: dict[str, Any]) -> list[str]:
    found = []
    if repeated:
        found.append(f"{repeated} steps were done again although their results were recorded")
    if any(each.open for each in runs.values()):
        found.append("a workflow is still open")
    if runs[PLANNING].operations != runs[PLANNING].operations_ended:
        found.append("an operation did not complete once")
    written = delivery["written"]
    if not written or not passed(trial(written["code"], written["test"])):
        found.append("the code does not pass its test")
    if not (delivery["verdict"] or {}).get("approved"):
        found.append("the code was not approved")
    return found
