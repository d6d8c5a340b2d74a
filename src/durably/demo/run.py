"""Conducts the demo: starts the processes, shows the run as it goes, kills, and adds up.

What is shown comes from the workflow's history and from the logs that the processes leave; nothing is
known in advance.
"""

import asyncio
import contextlib
import json
import os
import socket
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markdown import Markdown
from rich.panel import Panel
from rich.table import Table
from temporalio.api.enums.v1 import event_type_pb2 as event_types
from temporalio.api.history.v1 import message_pb2 as history
from temporalio.client import Client, WorkflowHandle
from temporalio.service import RPCError

from durably.demo import corpus
from durably.demo.agent import TASK_QUEUE, Desk, Research
from durably.demo.worker import connect

QUESTION = "How does one write an asynchronous test with a timeout?"
KILL_WORKER_AFTER_STEPS = 3
KILL_SERVER_AFTER_STEPS = 6
APPROVAL_PAUSE_S = 3.0

console = Console(highlight=False)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class Process:
    """One of the demo's processes."""

    def __init__(self, name: str, log: Path, environment: dict[str, str], *command: str) -> None:
        self.name = name
        self._log, self._environment, self._command = log, environment, command
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", *self._command],
                stdout=log,
                stderr=subprocess.STDOUT,
                env={**os.environ, **self._environment},
            )

    def kill(self) -> None:
        """SIGKILL: the process can save nothing."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()


@dataclass
class Stage:
    """Everything the demo runs on, in one temporary folder."""

    folder: Path
    kill: bool
    address: str = ""
    server: Process = field(init=False)
    worker: Process = field(init=False)
    model: Process | None = None
    kills: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        port = free_port()
        self.address = f"127.0.0.1:{port}"
        environment: dict[str, str] = {}
        if not (os.environ.get("OPENAI_API_KEY") or os.environ.get("OPENAI_BASE_URL")):
            model_port = free_port()
            self.model = Process(
                "model",
                self.folder / "model.out",
                {},
                "durably.demo.model",
                str(model_port),
            )
            environment = {
                "OPENAI_BASE_URL": f"http://127.0.0.1:{model_port}/v1",
                "OPENAI_API_KEY": "none",
                "OPENAI_MODEL": "SmolLM2-135M-Instruct",
            }
        store = f"sqlite:///{self.folder}/store.db"
        serve = ("durably.cli", "serve", "--store", store, "--port", str(port))
        self.server = Process("server", self.folder / "server.out", {}, *serve)
        work = ("durably.demo.worker", self.address, str(self.worker_log))
        self.worker = Process("worker", self.folder / "worker.out", environment, *work)

    @property
    def worker_log(self) -> Path:
        return self.folder / "worker.jsonl"

    def restart(self, process: Process) -> None:
        process.kill()
        self.kills.append(process.name)
        console.print(f"  [bold red]SIGKILL[/] the {process.name} is dead; starting another")
        process.start()


@contextlib.asynccontextmanager
async def staged(folder: Path, kill: bool) -> AsyncIterator[Stage]:
    stage = Stage(folder, kill)
    processes = [p for p in (stage.model, stage.server, stage.worker) if p is not None]
    try:
        for process in processes:
            process.start()
        yield stage
    finally:
        for process in processes:
            process.kill()


def main(documents: Path | None, question: str | None, kill: bool) -> int:
    """Run the demo; the exit code."""
    if not (os.environ.get("OPENAI_API_KEY") or os.environ.get("OPENAI_BASE_URL")):
        from durably.demo import weights

        weights.path()
    folder = Path(tempfile.mkdtemp(prefix="durably-demo-"))
    chosen = (documents or corpus.default_folder()).resolve()
    return asyncio.run(_run(folder, chosen, question or QUESTION, kill))


async def _run(folder: Path, documents: Path, question: str, kill: bool) -> int:
    began = time.monotonic()
    desk = Desk(documents=str(documents), folder=str(folder))
    count = await asyncio.to_thread(corpus.build_index, documents, desk.index)
    if not count:
        console.print(f"no text or Markdown file to read in {documents}: name another with --docs")
        return 2
    console.print(Panel(f"[bold]{question}[/]\n{count} documents in {documents}", title="research"))
    async with staged(folder, kill) as stage:
        client = await connect(stage.address)
        handle = await _start(client, question, desk)
        events = await follow(handle, stage)
        await asyncio.sleep(0.1)
    return _summarise(desk, stage, events, time.monotonic() - began)


async def _start(client: Client, question: str, desk: Desk) -> WorkflowHandle[Research, str]:
    return await client.start_workflow(
        Research.run, args=[question, desk], id="research", task_queue=TASK_QUEUE
    )


async def follow(handle: WorkflowHandle[Research, str], stage: Stage) -> list[history.HistoryEvent]:
    """Show each step when it is in history, and kill after some of them; the whole history."""
    seen: dict[int, history.HistoryEvent] = {}
    approving = asyncio.create_task(_approve(handle))
    while True:
        try:
            async for event in handle.fetch_history_events(wait_new_event=True):
                if event.event_id not in seen:
                    seen[event.event_id] = event
                    _show(event, seen)
                    _kill_if_due(stage, seen)
            break
        except RPCError:
            await asyncio.sleep(0.2)  # The server was killed; it comes back.
    approving.cancel()
    return list(seen.values())


def _show(event: history.HistoryEvent, seen: dict[int, history.HistoryEvent]) -> None:
    if event.event_type != event_types.EVENT_TYPE_ACTIVITY_TASK_COMPLETED:
        return
    scheduled = seen[event.activity_task_completed_event_attributes.scheduled_event_id]
    started = seen[event.activity_task_completed_event_attributes.started_event_id]
    attempt = started.activity_task_started_event_attributes.attempt
    again = f" [yellow](attempt {attempt})[/]" if attempt > 1 else ""
    console.print(f"  [green]done[/] {_steps(seen):2}  {step_name(scheduled)}{again}")


def step_name(scheduled: history.HistoryEvent) -> str:
    """What a step is, from its activity's type and input."""
    attributes = scheduled.activity_task_scheduled_event_attributes
    if attributes.activity_type.name.endswith("model_request"):
        return "model call"
    for payload in attributes.input.payloads:
        with contextlib.suppress(ValueError, TypeError, AttributeError):
            data = json.loads(payload.data)
            if data.get("name"):
                return f"{data['name']} {json.dumps(data.get('tool_args', {}))}"
    return attributes.activity_type.name.removeprefix("agent__researcher__")


def _steps(seen: dict[int, history.HistoryEvent]) -> int:
    completed = event_types.EVENT_TYPE_ACTIVITY_TASK_COMPLETED
    return sum(event.event_type == completed for event in seen.values())


def _kill_if_due(stage: Stage, seen: dict[int, history.HistoryEvent]) -> None:
    if not stage.kill:
        return
    if _steps(seen) >= KILL_WORKER_AFTER_STEPS and "worker" not in stage.kills:
        stage.restart(stage.worker)
    elif _steps(seen) >= KILL_SERVER_AFTER_STEPS and "server" not in stage.kills:
        stage.restart(stage.server)


async def _approve(handle: WorkflowHandle[Research, str]) -> None:
    """When the workflow asks for approval: ask the person, or say yes after a pause if none is there."""
    while True:
        await asyncio.sleep(0.5)
        try:
            waiting = await handle.query(Research.waiting_for)
        except RPCError:
            continue
        if not waiting:
            continue
        granted = await asyncio.to_thread(_ask, waiting)
        with contextlib.suppress(RPCError):
            await handle.signal(Research.approve, granted)
            return


def _ask(waiting: str) -> bool:
    console.print(f"  [bold yellow]approval[/] the agent wants to: {waiting}")
    if sys.stdin.isatty():
        return console.input("  publish? [Y/n] ").strip().lower() in ("", "y", "yes")
    console.print(f"  no terminal: approved by itself after {APPROVAL_PAUSE_S:.0f} seconds")
    time.sleep(APPROVAL_PAUSE_S)
    return True


# --- Adding up --------------------------------------------------------------------------------


@dataclass(frozen=True)
class Citation:
    """A quotation of the report, and whether the file really says so there."""

    place: str
    true: bool


def citations(desk: Desk) -> list[Citation]:
    """Check every quotation of the report against the file and line it names."""
    found: list[Citation] = []
    quoted: list[str] = []
    for line in desk.report.read_text().splitlines() if desk.report.exists() else ():
        if line.startswith(">"):
            quoted.append(line.removeprefix("> ").removeprefix(">"))
        elif line.startswith("— "):
            path, _, number = line.removeprefix("— ").rpartition(":")
            text = (Path(desk.documents) / path).read_text(encoding="utf-8", errors="replace")
            begin = int(number) - 1
            rows = text.splitlines()[begin : begin + len(quoted)]
            found.append(Citation(f"{path}:{number}", rows == quoted))
            quoted = []
    return found


@dataclass(frozen=True)
class Evidence:
    """What the history has, beside what the workers' log says was really run.

    `retried` steps were in flight at a kill and were tried again. `repeated` executions are of a step
    that history had completed already: there must be none.
    """

    steps: int
    retried: int
    repeated: int
    model_steps: int
    model_calls: int
    model_tokens: int


def weigh(events: list[history.HistoryEvent], log: list[dict[str, Any]]) -> Evidence:
    """Compare history and log; every attempt has a line when it begins and one when it is done."""
    scheduled: dict[str, history.HistoryEvent] = {}
    by_event_id = {event.event_id: event for event in events}
    completed: dict[str, int] = {}
    for event in events:
        if event.event_type == event_types.EVENT_TYPE_ACTIVITY_TASK_SCHEDULED:
            scheduled[event.activity_task_scheduled_event_attributes.activity_id] = event
        elif event.event_type == event_types.EVENT_TYPE_ACTIVITY_TASK_STARTED:
            started = event.activity_task_started_event_attributes
            step = by_event_id[started.scheduled_event_id].activity_task_scheduled_event_attributes
            completed[step.activity_id] = started.attempt
    models = {id for id, event in scheduled.items() if step_name(event) == "model call"}
    attempts = Counter((line["activity_id"], line["attempt"]) for line in log if _began(line))
    return Evidence(
        steps=len(scheduled),
        retried=sum(attempt > 1 for attempt in completed.values()),
        repeated=sum(
            count if attempt > completed.get(id, attempt) else count - 1
            for (id, attempt), count in attempts.items()
        ),
        model_steps=len(models),
        model_calls=sum(count for (id, _), count in attempts.items() if id in models),
        model_tokens=sum(line.get("tokens", 0) for line in log if line["activity_id"] in models),
    )


def _began(line: dict[str, Any]) -> bool:
    return bool(line["event"] == "began")


def _lines(log: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in log.read_text().splitlines()] if log.exists() else []


def _summarise(desk: Desk, stage: Stage, events: list[history.HistoryEvent], seconds: float) -> int:
    closed = events[-1]
    if closed.event_type != event_types.EVENT_TYPE_WORKFLOW_EXECUTION_COMPLETED:
        console.print(f"[bold red]the run did not complete:[/] {closed}")
        return 1
    found = weigh(events, _lines(stage.worker_log))
    checked = citations(desk)
    good = sum(c.true for c in checked)
    if desk.report.exists():
        console.print(Panel(Markdown(desk.report.read_text()), title=str(desk.report)))
    table = Table(title="What happened", show_header=False)
    table.add_row("killed with SIGKILL", ", ".join(stage.kills) or "nothing")
    table.add_row("steps in history", f"{found.steps}, of which {found.model_steps} model calls")
    table.add_row("steps in flight at a kill, tried again", str(found.retried))
    table.add_row("completed steps that ran again", str(found.repeated))
    table.add_row("model calls made", str(found.model_calls))
    table.add_row("model calls repeated", str(found.model_calls - found.model_steps))
    table.add_row("tokens spent", str(found.model_tokens))
    table.add_row("quotations found at their file and line", f"{good} of {len(checked)}")
    table.add_row("time", f"{seconds:.1f} s")
    console.print(table)
    lost = [c.place for c in checked if not c.true]
    if found.repeated or lost or not checked:
        console.print(
            f"[bold red]not as promised:[/] repeated {found.repeated}, not found {lost},"
            f" quotations {len(checked)}"
        )
        return 1
    return 0
