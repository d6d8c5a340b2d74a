"""Two runs beside each other, in a real browser."""

import re
from urllib.parse import quote

import pytest
from playwright.async_api import Page, expect

from durably.edge.console import compare
from tests.console import runs
from tests.console.conftest import World
from tests.console.test_pages import assert_accessible, assert_fits

pytestmark = pytest.mark.asyncio(loop_scope="session")
NOBODY = "00000000-0000-4000-8000-000000000000"


async def ran(world: World, workflow_id: str, question: str) -> str:
    """WORKFLOW_ID/RUN_ID of an agent's run that has ended."""
    handle = await world.client.start_workflow(
        runs.Agentic.run, question, id=workflow_id, task_queue=runs.QUEUE, start_signal="agree"
    )
    await handle.result()
    return f"{workflow_id}/{handle.first_execution_run_id}"


async def test_two_runs_of_an_agent(world: World, page: Page) -> None:
    left = await ran(world, "compared/a", "What do otters eat?")
    right = await ran(world, "compared-b", "What do seals eat?")
    await page.goto(world.place("/workflows?query=" + quote("WorkflowId STARTS_WITH 'compared'")))
    for each in (left, right):
        await page.get_by_label(f"Select {each.rpartition('/')[0]}").check()
    await page.get_by_role("button", name="Compare").click()
    heads = page.locator(".versus thead th")
    await expect(heads.first).to_contain_text("compared")
    facts = page.locator(".versus tbody tr")
    await expect(facts.filter(has_text="Model calls")).to_contain_text("2")
    await expect(facts.filter(has_text="Tokens in")).to_contain_text("6,000")
    steps = page.locator(".pairs > li")
    await expect(steps).to_have_count(6)  # Input, signal, model, tool, model, end.
    await expect(steps.nth(0)).to_contain_text("Input of the run")
    call, tool = steps.nth(2), steps.nth(3)
    await expect(call.locator(".chip.differs")).to_have_text(["prompt"])
    await expect(tool.locator(".differences")).to_have_text(re.compile("same"))
    await call.locator("summary").click()
    await expect(call.locator("del")).to_have_count(1)
    await expect(call.locator("ins")).to_have_count(1)
    await expect(call).to_contain_text("Answer from what you find.")
    await tool.locator("summary").click()
    await expect(tool.locator("pre").first).to_contain_text("otters")
    await assert_accessible(page)
    await page.set_viewport_size({"width": 390, "height": 800})
    await assert_fits(page)
    await page.get_by_role("link", name="What differs").click()
    await expect(steps).to_have_count(3)
    await page.get_by_role("link", name="Swap").click()
    await expect(steps).to_have_count(6)


async def test_ordinary_workflows_and_one_that_goes_on(world: World, page: Page) -> None:
    """The other run is chosen among those of the type; what happens meanwhile comes in."""
    handle = await world.client.start_workflow(
        runs.Research.run, "seals", id="research-2", task_queue=runs.QUEUE
    )
    await page.goto(await world.workflow_place("research-2"))
    await page.get_by_role("link", name="Compare").click()
    await assert_accessible(page)
    await page.get_by_role("link", name="research", exact=True).click()
    end = page.locator(".pairs > li").filter(has_text="End of the run")
    await expect(end).to_contain_text("not there")
    await handle.signal(runs.Research.approve, "Grace")
    await handle.result()
    await expect(end.locator(".chip.differs")).to_have_text(["output"])
    await expect(page.locator("#live")).to_have_text("Ended")
    flaky = page.locator(".pairs > li").filter(has_text="flaky")
    await expect(flaky).to_contain_text("same")
    await expect(page.locator(".pairs > li").filter(has_text="note")).to_contain_text("only right")


async def test_a_comparison_comes_in_pages(
    world: World, page: Page, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(compare, "PAIRS_PER_PAGE", 3)
    left = await ran(world, "paged-a", "a")
    right = await ran(world, "paged-b", "b")
    await page.goto(world.place(f"/compare?left={left}&right={right}"))
    steps = page.locator(".pairs > li")
    await expect(steps).to_have_count(3)
    await page.get_by_role("link", name="Later").click()
    await expect(steps.last).to_contain_text("End of the run")
    await page.get_by_role("link", name="Earlier").click()
    await expect(steps.first).to_contain_text("Input of the run")


async def test_the_other_run_may_be_an_old_one(
    world: World, page: Page, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(compare, "CANDIDATES_PER_PAGE", 1)
    await ran(world, "oldest", "a")
    await ran(world, "between", "a")
    left = await ran(world, "newest", "a")
    await page.goto(world.place(f"/compare?left={left}"))
    await page.get_by_role("link", name="Next page").click()
    await expect(page.get_by_role("link", name="between", exact=True)).to_be_visible()
    await page.get_by_role("link", name="Next page").click()
    await page.get_by_role("link", name="oldest", exact=True).click()
    await expect(page.locator(".pairs > li").first).to_contain_text("Input of the run")


@pytest.mark.parametrize(
    ("query", "status", "says"),
    [
        ("left=a", 400, "WORKFLOW_ID/RUN_ID"),
        (f"left=a/{NOBODY}&right=c/{NOBODY}", 404, "There is no workflow"),
    ],
)
async def test_what_is_not_there(
    world: World, page: Page, query: str, status: int, says: str
) -> None:
    answer = await page.goto(world.place(f"/compare?{query}"))
    assert answer is not None
    assert answer.status == status
    await expect(page.locator("main")).to_contain_text(says)
