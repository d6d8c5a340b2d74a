"""What happens to each framework: it asks for three tools at once, its worker is killed in the middle of one
of them, and another worker goes on.

The truth is what the scripted endpoint served: to the model's clients, and to the tools.
"""

import asyncio
import threading
from pathlib import Path
from typing import Any

from temporalio.client import Client, WorkflowHandle

from tests.agents.endpoint import scripted
from tests.frameworks.workers import FrameworkWorker

FRAMEWORKS = ("pydantic-ai", "openai-agents", "langgraph", "google-adk", "strands", "deepagents")
QUESTION = "Oslo or Bergen this weekend?"
HELD = "weather/Oslo"
"""The tool that the model asked for first is the one that is cut off: the others end before it."""

CALLS = [ask for asks in scripted.TRIP for ask in asks]


def result_of(ask: Any) -> str:
    what = {"get_weather": "weather", "find_sights": "sights"}[ask.tool]
    city = ask.arguments["city"]
    return f"{what} of {city}: {scripted.CITIES[what][city]}"


ANSWER = "; ".join(result_of(ask) for ask in CALLS)

Workflow = WorkflowHandle[Any, Any]


class Gate:
    """Holds the first look-up of the weather in Oslo until it is opened."""

    def __init__(self) -> None:
        self.reached = asyncio.Event()
        self._opened = threading.Event()
        self._loop = asyncio.get_running_loop()

    def __call__(self, wanted: str) -> None:
        """In a thread of the endpoint."""
        if wanted == HELD and not self._opened.is_set():
            self._loop.call_soon_threadsafe(self.reached.set)
            self._opened.wait()

    def open(self) -> None:
        self._opened.set()


async def through_kill_9(
    name: str, client: Client, address: str, logs: Path
) -> tuple[Workflow, str, Any]:
    """The run, its answer, and the endpoint with all that it served."""
    gate = Gate()
    with scripted.endpoint(scripted.Endpoint(before_look_up=gate)) as served:
        run = await client.start_workflow("Trip", QUESTION, id=name, task_queue=name)
        try:
            async with FrameworkWorker(name, address, served, logs / "1.log") as first:
                await first.until(gate.reached.wait())
                await first.until(recorded(run, 3))
        finally:
            gate.open()
        async with FrameworkWorker(name, address, served, logs / "2.log") as second:
            return run, await second.until(run.result()), served


async def recorded(run: Workflow, activities: int) -> None:
    """Until so many activities of a run have completed, and its workflow knows it."""
    async for event in run.fetch_history_events(wait_new_event=True):
        activities -= event.HasField("activity_task_completed_event_attributes")
        if activities <= 0 and event.HasField("workflow_task_completed_event_attributes"):
            return
