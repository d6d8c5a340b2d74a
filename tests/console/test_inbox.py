"""The inbox, in a real browser: what waits for a person, and the answers that are given there."""

from typing import Any

import httpx
import pytest
from playwright.async_api import Page, expect
from temporalio.client import WorkflowHandle

from tests.console import runs
from tests.console.conftest import World
from tests.console.test_pages import assert_accessible, assert_fits

pytestmark = pytest.mark.asyncio(loop_scope="session")

HOSTILE = "<script>document.title = 'owned'</script>"


async def asking(world: World, workflow_id: str, message: str) -> WorkflowHandle[Any, Any]:
    return await world.client.start_workflow(
        runs.Asks.run, args=[message, runs.PUBLISH], id=workflow_id, task_queue=runs.QUEUE
    )


async def test_a_question_is_answered(world: World, page: Page) -> None:
    await page.goto(world.place("/inbox"))
    await expect(page.locator("main")).to_contain_text("Nothing waits for an answer")
    handle = await asking(world, "asks/1", f"Publish the report? {HOSTILE}")
    question = page.locator(".inbox > li")
    await expect(question).to_have_count(1)
    await expect(question).to_contain_text(HOSTILE)
    await page.reload()
    await expect(page.get_by_role("link", name="Inbox 1 waiting")).to_be_visible()
    await question.locator("summary").click()
    await expect(question.get_by_label("verdict").locator("option")).to_have_text(
        ["Publish", "Keep"]
    )
    await assert_accessible(page)
    await page.set_viewport_size({"width": 390, "height": 800})
    await assert_fits(page)
    await question.get_by_label("Remark").fill("well done")
    # Another question comes in meanwhile: what was written stays.
    other = await asking(world, "asks-2", "And the other one?")
    await expect(question).to_have_count(2)
    mine = question.filter(has_text="Publish the report?")
    await expect(mine.get_by_label("Remark")).to_have_value("well done")
    await mine.get_by_label("verdict").select_option("yes")
    await mine.get_by_label("Copies").fill("12")
    await mine.get_by_role("button", name="Answer").click()
    await expect(page.locator(".notice")).to_contain_text("asks/1 has its answer.")
    assert await handle.result() == {
        "verdict": "yes",
        "copies": 12,
        "notify": True,
        "remark": "well done",
    }
    await expect(question).to_have_count(1)
    await question.locator("summary").click()
    await question.get_by_role("button", name="Decline").click()
    await expect(page.locator("main")).to_contain_text("Nothing waits for an answer")
    assert await other.result() == "decline"


async def test_an_answer_that_comes_too_late_is_told_so(world: World) -> None:
    handle = await asking(world, "late", "Still there?")
    await handle.terminate()
    async with httpx.AsyncClient(headers={"origin": world.base}, timeout=60) as http:
        told = {"id": "late", "key": "question-1", "decision": "decline"}
        answer = await http.post(world.place("/inbox/answer"), data=told)
    assert answer.status_code == 404
    assert "not asked any more" in answer.text
