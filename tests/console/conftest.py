"""A server with real runs for each file of the console's tests, and one real browser for all of them.

What one file starts, no other sees: the order in which files run changes nothing. A test gets a page
of its own; what the browser complained of (scripts, the content security policy)
fails the test.
"""

import shutil
from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

import pytest
import pytest_asyncio
from playwright.async_api import Browser, Page, async_playwright, expect
from temporalio.client import (
    Client,
    Schedule,
    ScheduleActionStartWorkflow,
    ScheduleIntervalSpec,
    ScheduleSpec,
)
from temporalio.runtime import Runtime, TelemetryConfig
from temporalio.worker import UnsandboxedWorkflowRunner, Worker

from durably import Server
from tests.conftest import eventually
from tests.console import runs

WAIT_MS = 30_000
expect.set_options(timeout=WAIT_MS)
FLAGS = (
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)


def chromium() -> str:
    found = shutil.which("chromium") or shutil.which("chromium-browser")
    if found is None:
        pytest.fail("these tests need a browser: apt-get install chromium (or `make browser`)")
    return found


@dataclass(frozen=True, slots=True)
class World:
    """A server, a client of it, and the runs that are there."""

    server: Server
    client: Client
    base: str

    def place(self, path: str) -> str:
        return f"{self.base}/ui/default{path}"

    async def workflow_place(self, workflow_id: str, more: str = "") -> str:
        found = await self.client.get_workflow_handle(workflow_id).describe()
        return self.place(f"/workflows/{workflow_id}/{found.run_id}{more}")


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def world(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[World]:
    folder: Path = tmp_path_factory.mktemp("console")
    async with Server(store=f"sqlite:///{folder}/store.db", port=0) as server:
        runtime = Runtime(
            telemetry=TelemetryConfig(), worker_heartbeat_interval=timedelta(seconds=1)
        )
        client = await Client.connect(server.address, runtime=runtime)
        async with Worker(
            client,
            task_queue=runs.QUEUE,
            workflows=runs.WORKFLOWS,
            activities=runs.ACTIVITIES,
            workflow_runner=UnsandboxedWorkflowRunner(),
        ):
            await start_all(client)
            yield World(server, client, f"http://{server.address}")


async def start_all(client: Client) -> None:
    await client.start_workflow(runs.Stuck.run, id="stuck", task_queue=runs.QUEUE)
    failing = await client.start_workflow(runs.Fails.run, id="failing", task_queue=runs.QUEUE)
    chain = await client.start_workflow(runs.Chain.run, 1, id="chain", task_queue=runs.QUEUE)
    done = await client.start_workflow(
        runs.Research.run,
        "otters",
        id="research",
        task_queue=runs.QUEUE,
        memo={"team": "ocean"},
        static_summary="What do otters eat?",
    )
    await done.execute_update(runs.Research.note, "ask the harbour")
    await done.signal(runs.Research.approve, "Ada")
    await done.result()
    await chain.result()
    action = ScheduleActionStartWorkflow(runs.Child.run, "hi", id="nightly", task_queue=runs.QUEUE)
    spec = ScheduleSpec(intervals=[ScheduleIntervalSpec(every=timedelta(hours=1))])
    await client.create_schedule("nightly", Schedule(action=action, spec=spec))
    await client.start_activity(
        runs.search,
        "alone",
        id="alone",
        task_queue=runs.QUEUE,
        start_to_close_timeout=timedelta(seconds=30),
    )

    async def failed() -> bool:
        stuck = await client.get_workflow_handle("stuck").describe()
        pending = stuck.raw_description.pending_activities
        closed = (await failing.describe()).close_time is not None
        return closed and bool(pending) and pending[0].HasField("last_failure")

    await eventually(failed)


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def browser() -> AsyncIterator[Browser]:
    async with async_playwright() as playwright:
        found = await playwright.chromium.launch(executable_path=chromium(), args=list(FLAGS))
        yield found
        await found.close()


@pytest_asyncio.fixture(loop_scope="session")
async def page(browser: Browser) -> AsyncIterator[Page]:
    """A page whose scripts and policies must not have complained when the test is over."""
    context = await browser.new_context(viewport={"width": 1280, "height": 900})
    context.set_default_timeout(WAIT_MS)
    opened = await context.new_page()
    complaints: list[str] = []
    opened.on("pageerror", lambda error: complaints.append(str(error)))
    opened.on(
        "console",
        lambda message: complaints.append(message.text) if message.type == "error" else None,
    )
    yield opened
    await context.close()
    # A refused form is an HTTP status that the browser reports, too.
    assert [text for text in complaints if "Failed to load resource" not in text] == []
