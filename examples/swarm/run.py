"""A swarm of agents that survives the death of each of its processes.

python examples/swarm/run.py                    # with a scripted model, if no key is set
python examples/swarm/run.py --kill             # kills everybody, in a random order
OPENAI_API_KEY=... python examples/swarm/run.py "Write a function that ..."
"""

import argparse
import asyncio
import contextlib
import functools
import json
import os
import random
import sys
import tempfile
from collections.abc import AsyncIterator
from pathlib import Path

import scripted_model
from contract import NAMESPACES, PLANNING, TASK_QUEUE
from evidence import Line, Runs, read_lines, read_runs
from processes import OUTSIDE, SERVER, Swarm, victims
from rich.console import Console
from show import show_line, show_operation, show_results, summarise
from temporalio.api.nexus.v1 import EndpointSpec
from temporalio.api.operatorservice.v1 import CreateNexusEndpointRequest
from temporalio.client import Client, WorkflowHandle
from temporalio.runtime import LoggingConfig, Runtime, TelemetryConfig, TelemetryFilter
from temporalio.service import RPCError

STEPS_BETWEEN_KILLS_MAX = 5
LOOK_INTERVAL_S = 0.1

console = Console(highlight=False)


async def connected(swarm: Swarm, namespace: str) -> Client:
    """The server may be down just now, which the SDK need not warn of: each kill is shown."""
    while True:
        try:
            return await Client.connect(swarm.address, namespace=namespace, runtime=quiet())
        except (RuntimeError, RPCError):
            await asyncio.sleep(LOOK_INTERVAL_S)


@functools.cache
def quiet() -> Runtime:
    errors = TelemetryFilter(core_level="ERROR", other_level="ERROR")
    return Runtime(telemetry=TelemetryConfig(logging=LoggingConfig(filter=errors)))


async def make_endpoints(client: Client) -> None:
    """An endpoint for each agent that is called: its name leads to a namespace and a task queue."""
    for name in NAMESPACES:
        if name != PLANNING:
            spec = EndpointSpec(name=name)
            spec.target.worker.namespace, spec.target.worker.task_queue = name, TASK_QUEUE
            await client.operator_service.create_nexus_endpoint(
                CreateNexusEndpointRequest(spec=spec)
            )


async def new_lines(folder: Path) -> AsyncIterator[Line]:
    """What the workers write down, as they do."""
    seen = dict.fromkeys(NAMESPACES, 0)
    while True:
        for name in NAMESPACES:
            lines = read_lines(folder, name)
            for line in lines[seen[name] :]:
                yield line
            seen[name] = len(lines)
        await asyncio.sleep(LOOK_INTERVAL_S)


async def watch(swarm: Swarm, kills: int, chance: random.Random) -> None:
    """Shows each step when it is done; after some that have begun, kills somebody in the middle of it."""
    order = victims(swarm.names, chance)
    patience = chance.randint(1, STEPS_BETWEEN_KILLS_MAX)
    async for line in new_lines(swarm.folder):
        if line.event == "done":
            show_line(console, line)
            continue
        patience -= 1
        if patience <= 0 and len(swarm.killed) < kills:
            name = next(order)
            swarm.kill(name)
            swarm.killed.append(name)
            console.print(f"  [bold red]SIGKILL[/]     {name} is dead; another is started")
            swarm.start(name)
            patience = chance.randint(1, STEPS_BETWEEN_KILLS_MAX)


async def follow(handle: WorkflowHandle[object, object]) -> None:
    """Shows what the planner has asked of the others, from its history, until it closes."""
    seen: dict[int, str] = {}
    while True:
        try:
            async for event in handle.fetch_history_events(wait_new_event=True):
                if event.event_id not in seen:
                    seen[event.event_id] = show_operation(console, event, seen)
            return
        except RPCError:
            await asyncio.sleep(LOOK_INTERVAL_S)  # The server was killed; it comes back.


async def until_answered(folder: Path) -> dict[str, str]:
    answers = folder / "answers.json"
    while not answers.exists():  # noqa: ASYNC110  it is written by another process
        await asyncio.sleep(LOOK_INTERVAL_S)
    return dict(json.loads(answers.read_text()))


async def perform(swarm: Swarm, task: str, kills: int, seed: int | None) -> int:
    """The exit code: 0 if all was done, and nothing twice."""
    swarm.start(SERVER)
    client = await connected(swarm, PLANNING)
    await make_endpoints(client)
    for name in (*NAMESPACES, OUTSIDE):
        swarm.start(name)
    handle = await client.start_workflow("Plan", task, id="plan", task_queue=TASK_QUEUE)
    watching = asyncio.create_task(watch(swarm, kills, random.Random(seed)))
    await follow(handle)
    answers = await until_answered(swarm.folder)
    watching.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await watching
    delivery = await handle.result()
    runs: dict[str, Runs] = {}
    for name in NAMESPACES:
        runs[name] = await read_runs(await connected(swarm, name))
    show_results(console, delivery, answers)
    return summarise(console, swarm, runs, delivery)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("task", nargs="?", default=scripted_model.TASK)
    parser.add_argument(
        "--kill", nargs="?", type=int, const=6, default=0, help="how many processes; without: 6"
    )
    parser.add_argument("--seed", type=int, help="of who is killed, and when")
    options = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="swarm-"))
    console.print(f"[bold]{options.task}[/]\nlogs and store: {folder}\n")
    with contextlib.ExitStack() as stack:
        environment: dict[str, str] = {}
        if not (os.environ.get("OPENAI_API_KEY") or os.environ.get("OPENAI_BASE_URL")):
            served = stack.enter_context(scripted_model.serving())
            environment = {"OPENAI_BASE_URL": served.url, "OPENAI_API_KEY": "none"}
        swarm = Swarm(folder, environment)
        stack.callback(swarm.stop)
        return asyncio.run(perform(swarm, options.task, options.kill, options.seed))


if __name__ == "__main__":
    sys.exit(main())
