"""Makes the pictures of the console in docs/images, from real runs: `make pictures`.

    uv run --with pillow python scripts/screenshots.py [NAME ...]

Rule 1: everything that a picture shows was done by workers on a server of durably; only the model is scripted.
Rule 2: the runs of two weeks are made on a server whose time is skipped; all others take the time they take.
Rule 3: each picture is there in light and in dark colours: NAME.png and NAME-dark.png.
"""

import asyncio
import json
import logging
import random
import shutil
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any
from urllib.parse import quote

from PIL import Image
from playwright.async_api import Browser, FloatRect, Page, async_playwright, expect
from temporalio import activity, workflow
from temporalio.client import Client, WorkflowHandle
from temporalio.common import RetryPolicy
from temporalio.exceptions import ApplicationError
from temporalio.service import RPCError, RPCStatusCode
from temporalio.worker import UnsandboxedWorkflowRunner, Worker

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))

from durably import Server  # noqa: E402
from durably.testing import WorkflowEnvironment  # noqa: E402
from tests import desk  # noqa: E402

IMAGES = ROOT / "docs" / "images"
QUEUE = "agents"
LIMIT = timedelta(seconds=30)
DAYS = 14
RUNS_A_DAY = 6
BAD_DAY = 9
OVERLOADED = 0.15
"""Of all runs, those in which a call of the model fails once."""
WIDTH = 1200
PHONE = (390, 800)
SEED = 7
COLORS = 200
MARGIN = 16
expect.set_options(timeout=60_000)
# What the scripts let fail is no news.
logging.getLogger("temporalio").setLevel(logging.CRITICAL)

KELP = "Sea otters eat urchins, which keeps kelp forests alive."
LONG_ANSWER = " Where otters came back, kelp came back within ten years, and with it the fish that hide in it."


# --- What runs ------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Script:
    """What the model does in one run: `overload`: how often its second call fails; `broken`: its first search."""

    searches: tuple[str, ...]
    answer: str = KELP
    model: str = "gpt-4.1-mini"
    model_s: float = 0.7
    search_s: float = 0.4
    overload: int = 0
    broken: bool = False


SCRIPTS: dict[str, Script] = {}
"""By workflow id."""


@activity.defn
async def call_model(messages: list[dict[str, Any]]) -> dict[str, Any]:
    """Answers as a provider's API does: asks for searches, and then with what was found."""
    info = activity.info()
    script = SCRIPTS[info.workflow_id or ""]
    told = messages[-1]["role"] == "tool"
    await asyncio.sleep(script.model_s * (1.4 if told else 1.0))
    if told and info.attempt <= script.overload:
        raise ApplicationError("529 the model is overloaded", type="Overloaded")
    message: dict[str, Any] = {"role": "assistant", "content": script.answer}
    if not told:
        calls = [
            {
                "id": f"call_{number}",
                "type": "function",
                "function": {"name": "search", "arguments": json.dumps({"query": words})},
            }
            for number, words in enumerate(script.searches, start=1)
        ]
        message = {"role": "assistant", "content": None, "tool_calls": calls}
    return {
        "object": "chat.completion",
        "model": script.model,
        "choices": [{"message": message, "finish_reason": "stop" if told else "tool_calls"}],
        "usage": {
            "prompt_tokens": 380 + len(json.dumps(messages)) // 3,
            "completion_tokens": 24 + len(json.dumps(message)) // 4,
            "prompt_tokens_details": {"cached_tokens": 256 if told else 0},
        },
    }


@activity.defn
async def search(query: str) -> str:
    script = SCRIPTS.get(activity.info().workflow_id or "", Script(searches=()))
    await asyncio.sleep(script.search_s * (1 + len(query) / 40))
    if script.broken and query == script.searches[0]:
        raise ApplicationError("the index is being rebuilt", type="Unavailable")
    return f"{len(query) % 5 + 2} passages about {query}"


@activity.defn
async def embed(document: str) -> int:
    await asyncio.sleep(0.05)
    return len(document)


@activity.defn
async def publish(answer: str) -> str:
    await asyncio.sleep(0.3)
    return "https://example.com/otters"


@workflow.defn
class FactCheck:
    @workflow.run
    async def run(self, claim: str) -> bool:
        return bool(await workflow.execute_activity(search, claim, start_to_close_timeout=LIMIT))


async def converse(question: str) -> str:
    """A plain agent: the searches that the model asks for, and its answer."""
    said: list[dict[str, Any]] = [
        {"role": "system", "content": "Answer from what you find."},
        {"role": "user", "content": question},
    ]
    first = await _model(said)
    said.append(first["choices"][0]["message"])
    calls = said[-1]["tool_calls"]
    found = await asyncio.gather(*(_searched(call) for call in calls))
    for call, text in zip(calls, found, strict=True):
        said.append({"role": "tool", "tool_call_id": call["id"], "content": text})
    answer: str = (await _model(said))["choices"][0]["message"]["content"]
    return answer


async def _model(messages: list[dict[str, Any]]) -> dict[str, Any]:
    retry = RetryPolicy(initial_interval=timedelta(milliseconds=400), maximum_attempts=4)
    return await workflow.execute_activity(
        call_model, messages, start_to_close_timeout=LIMIT, retry_policy=retry
    )


async def _searched(call: dict[str, Any]) -> str:
    retry = RetryPolicy(initial_interval=timedelta(milliseconds=50), maximum_attempts=2)
    words = json.loads(call["function"]["arguments"])["query"]
    return await workflow.execute_activity(
        search, words, start_to_close_timeout=LIMIT, retry_policy=retry
    )


@workflow.defn
class Answer:
    @workflow.run
    async def run(self, question: str) -> str:
        return await converse(question)


@workflow.defn
class ResearchAgent:
    """An answer, a check of it, a person who agrees."""

    def __init__(self) -> None:
        self.approved_by = ""

    @workflow.signal(description="A person agrees.")
    def approve(self, by: str) -> None:
        self.approved_by = by

    @workflow.run
    async def run(self, question: str) -> dict[str, Any]:
        answer = await converse(question)
        facts = f"{workflow.info().workflow_id}/facts"
        checked = await workflow.execute_child_workflow(FactCheck.run, answer[:40], id=facts)
        await workflow.wait_condition(lambda: bool(self.approved_by))
        place = await workflow.execute_activity(publish, answer, start_to_close_timeout=LIMIT)
        return {"answer": answer, "checked": checked, "by": self.approved_by, "published": place}


@workflow.defn
class Embed:
    @workflow.run
    async def run(self, document: str) -> int:
        return await workflow.execute_activity(embed, document, start_to_close_timeout=LIMIT)


@workflow.defn
class Monitor:
    @workflow.run
    async def run(self, place: str) -> None:
        await workflow.sleep(timedelta(days=30))


def worker(client: Client) -> Worker:
    return Worker(
        client,
        task_queue=QUEUE,
        workflows=[Answer, ResearchAgent, FactCheck, Embed, Monitor],
        activities=[call_model, search, embed, publish],
        workflow_runner=UnsandboxedWorkflowRunner(),
    )


# --- The worlds -----------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class World:
    client: Client
    base: str

    async def run(self, workflow_id: str, more: str = "") -> str:
        """The address of a page of a workflow."""
        found = await self.client.get_workflow_handle(workflow_id).describe()
        name = quote(workflow_id, safe="")
        return f"{self.base}/workflows/{name}/{found.run_id}{more}"


async def _ask(
    client: Client, kind: type[Answer | ResearchAgent], workflow_id: str, question: str, to: Script
) -> WorkflowHandle[Any, Any]:
    SCRIPTS[workflow_id] = to
    return await client.start_workflow(kind.__name__, question, id=workflow_id, task_queue=QUEUE)


async def _done(client: Client, workflow_id: str) -> None:
    """Waits until a run has closed that may not be there yet."""
    async with asyncio.timeout(60):
        while True:
            try:
                if (await client.get_workflow_handle(workflow_id).describe()).close_time:
                    return
            except RPCError as error:
                if error.status is not RPCStatusCode.NOT_FOUND:
                    raise
            await asyncio.sleep(0.05)


@asynccontextmanager
async def today() -> AsyncIterator[World]:
    """Runs of agents and of others, open and closed."""
    async with Server(store="memory:", port=0) as server:
        client = await Client.connect(server.address)
        async with worker(client):
            for place in ("harbour", "lighthouse"):
                name = f"monitor-{place}"
                await client.start_workflow(Monitor.run, place, id=name, task_queue=QUEUE)
            documents = [f"doc-{number:03}" for number in range(12)]
            await asyncio.gather(
                *(
                    client.execute_workflow(Embed.run, each, id=f"embed-{each}", task_queue=QUEUE)
                    for each in documents
                )
            )
            await _research(client)
            yield World(client, f"http://{server.address}/ui/default")


async def _research(client: Client) -> None:
    """Three agents of which one waits for a person, and one that fails."""
    searches = ("otter diet", "kelp forests", "sea urchins")
    why = "What do sea otters eat, and why does it matter?"
    scripts = (
        ("research-otters", why, Script(searches, overload=2)),
        ("research-otters-2", why, Script(searches, KELP + LONG_ANSWER, "gpt-4.1", 1.1)),
        ("research-tides", "Why are there tides?", Script(("tides",), "The moon pulls the sea.")),
    )
    agents = [await _ask(client, ResearchAgent, *each) for each in scripts]
    broken = Script(("herring",), broken=True)
    await _ask(client, Answer, "answer-herring", "Where do herring spawn?", broken)
    for agent in agents:
        await _done(client, f"{agent.id}/facts")
    await asyncio.sleep(8)  # People take their time, and the timeline leaves most of it out.
    for agent, person in zip(agents, ("Ada", "Grace"), strict=False):
        await agent.signal(ResearchAgent.approve, person)
        await agent.result()
    await _done(client, "answer-herring")


@asynccontextmanager
async def exchange() -> AsyncIterator[World]:
    """An endpoint, and operations that are done, under way, and failed."""
    async with Server(store="memory:", port=0) as server:
        client = await Client.connect(server.address)
        async with desk.worker(client):
            await desk.make_endpoint(client)
            for number in range(3):
                await desk.start(client, f"quote-{number}", "otters", operation="echo")
            await desk.start(client, "paint-the-boat", "waits")
            await desk.start(client, "repair-the-net", "fails")
            await _done(client, "work-fails")
            yield World(client, f"http://{server.address}/ui/default")


@asynccontextmanager
async def two_weeks() -> AsyncIterator[World]:
    """Days of agents, of which more and more are asked; on one day much fails."""
    chance = random.Random(SEED)
    async with await WorkflowEnvironment.start_time_skipping() as env, worker(env.client):
        for day in range(DAYS):
            runs = []
            for number in range(RUNS_A_DAY + day // 2 + chance.randrange(3)):
                asked = _some_script(chance, fails=0.5 if day == BAD_DAY else 0.05)
                name = f"day-{day}-{number}"
                runs.append(await _ask(env.client, Answer, name, "What do otters eat?", asked))
            for each in runs:
                await _done(env.client, each.id)
            if day < DAYS - 1:
                await env.sleep(timedelta(days=1))
        address = env.client.service_client.config.target_host
        yield World(env.client, f"http://{address}/ui/default")


def _some_script(chance: random.Random, fails: float) -> Script:
    model = chance.choice(("gpt-4.1-mini", "gpt-4.1-mini", "gpt-4.1", "gpt-4o-mini"))
    slowness = 3 if model == "gpt-4.1" else 1
    return Script(
        searches=("otter diet", "kelp forests"),
        answer=KELP + LONG_ANSWER * chance.randrange(8),
        model=model,
        model_s=0.02 + slowness * chance.expovariate(12),
        search_s=chance.expovariate(40),
        overload=1 if chance.random() < OVERLOADED else 0,
        broken=chance.random() < fails,
    )


# --- The pictures ---------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Picture:
    """`ready` waits until the page shows what the picture is of; `part`: of one element alone."""

    name: str
    place: Callable[[World], Awaitable[str]]
    ready: Callable[[Page], Awaitable[None]]
    height: int = 760
    width: int = WIDTH
    part: str = ""


def _shows(selector: str, text: str) -> Callable[[Page], Awaitable[None]]:
    async def ready(page: Page) -> None:
        await expect(page.locator(selector).filter(has_text=text).first).to_be_visible()

    return ready


async def _counted(page: Page) -> None:
    about = page.locator("[data-read]")
    await expect(about).to_contain_text("runs")
    await expect(about).not_to_contain_text("Counting")


def _of_run(workflow_id: str, more: str = "") -> Callable[[World], Awaitable[str]]:
    async def place(world: World) -> str:
        return await world.run(workflow_id, more)

    return place


def _at(path: str) -> Callable[[World], Awaitable[str]]:
    async def place(world: World) -> str:
        return world.base + path

    return place


async def _two_runs(world: World) -> str:
    ids = []
    for name in ("research-otters", "research-otters-2"):
        found = await world.client.get_workflow_handle(name).describe()
        ids.append(f"{name}/{found.run_id}")
    return f"{world.base}/compare?left={quote(ids[0])}&right={quote(ids[1])}"


async def _difference(page: Page) -> None:
    step = page.locator(".pairs > li").filter(has_text="gpt-4.1").last
    await step.locator("summary").first.click()
    await expect(step.locator("ins").first).to_be_visible()


TODAY = (
    Picture("console-workflows", _at("/workflows"), _shows("tbody tr", "monitor-harbour"), 640),
    Picture(
        "console-workflow", _of_run("research-otters"), _shows("#timeline, main", "publish"), 900
    ),
    Picture(
        "console-timeline",
        _of_run("research-otters"),
        _shows("main", "publish"),
        900,
        part=".timeline",
    ),
    Picture(
        "console-agent",
        _of_run("research-otters", "/agent"),
        _shows(".turns", "kelp forests alive"),
        900,
    ),
    Picture("console-compare", _two_runs, _difference, 1100),
    Picture(
        "console-phone", _of_run("research-otters"), _shows("main", "publish"), PHONE[1], PHONE[0]
    ),
)
EXCHANGE = (Picture("console-nexus", _at("/nexus"), _shows("tbody tr", "paint-the-boat"), 480),)
LONG_AGO = (Picture("console-analytics", _at("/analytics?period="), _counted, 1500),)


async def take(browser: Browser, world: World, picture: Picture) -> None:
    for scheme, suffix in (("light", ""), ("dark", "-dark")):
        context = await browser.new_context(
            viewport={"width": picture.width, "height": picture.height},
            color_scheme="dark" if scheme == "dark" else "light",
        )
        page = await context.new_page()
        await page.goto(await picture.place(world))
        await picture.ready(page)
        path = IMAGES / f"{picture.name}{suffix}.png"
        clip = await _around(page, picture.part) if picture.part else None
        await page.screenshot(path=path, clip=clip)
        await context.close()
        _shrink(path)
        print(path.relative_to(ROOT), path.stat().st_size // 1024, "kB")


async def _around(page: Page, part: str) -> FloatRect:
    """An element with some room around it."""
    box = await page.locator(part).first.bounding_box()
    assert box is not None
    return {
        "x": box["x"] - MARGIN,
        "y": box["y"] - MARGIN,
        "width": box["width"] + 2 * MARGIN,
        "height": box["height"] + 2 * MARGIN,
    }


def _shrink(path: Path) -> None:
    """To a palette: a third of the size, and nothing is seen of it."""
    with Image.open(path) as picture:
        small = picture.convert("RGB").quantize(COLORS, dither=Image.Dither.NONE)
    small.save(path, optimize=True)


async def main(names: set[str]) -> None:
    chromium = shutil.which("chromium") or shutil.which("chromium-browser")
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(
            executable_path=chromium, args=["--no-sandbox", "--disable-gpu"]
        )
        worlds = ((today, TODAY), (exchange, EXCHANGE), (two_weeks, LONG_AGO))
        for made, pictures in worlds:
            wanted = [each for each in pictures if not names or each.name in names]
            if wanted:
                async with made() as world:
                    for each in wanted:
                        await take(browser, world, each)
        await browser.close()


if __name__ == "__main__":
    asyncio.run(main(set(sys.argv[1:])))
