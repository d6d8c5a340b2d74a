"""Every page of the console in a real browser, with real runs behind it."""

import json
from pathlib import Path

import pytest
from axe_playwright_python.async_playwright import Axe
from playwright.async_api import Page, expect
from temporalio.client import WorkflowExecutionStatus

from durably import Server
from durably.service.access import add_entry
from tests.conftest import eventually
from tests.console import runs
from tests.console.conftest import World

pytestmark = pytest.mark.asyncio(loop_scope="session")

PAGES = {
    "/workflows": "Workflows",
    "/start": "Start a workflow",
    "/analytics": "Analytics",
    "/schedules": "Schedules",
    "/schedules/nightly": "nightly",
    "/batches": "Batches",
    "/activities": "Standalone activities",
    "/task-queues": "Task queues",
    "/task-queues/agents": "agents",
    "/workers": "Workers",
    "/deployments": "Worker deployments",
    "/nexus": "Nexus",
    "/namespaces": "Namespaces",
}
RUN_PAGES = (
    "",
    "/history",
    "/history?view=compact",
    "/history?view=json",
    "/queries",
    "/relations",
)
GRAVE = ("serious", "critical")


async def assert_accessible(page: Page) -> None:
    found = await Axe().run(page)
    grave = [
        (violation["id"], [node["html"][:200] for node in violation["nodes"]][:3])
        for violation in found.response["violations"]
        if violation["impact"] in GRAVE
    ]
    assert grave == []


async def assert_fits(page: Page) -> None:
    width = await page.evaluate("document.documentElement.scrollWidth - innerWidth")
    assert width <= 0


@pytest.mark.parametrize("path", PAGES)
async def test_every_page_is_there_and_accessible(world: World, page: Page, path: str) -> None:
    answer = await page.goto(world.place(path))
    assert answer is not None
    assert answer.status == 200
    await expect(page.get_by_role("heading", level=1)).to_have_text(PAGES[path])
    await assert_accessible(page)
    await page.set_viewport_size({"width": 390, "height": 800})
    await assert_fits(page)


async def test_the_login_is_a_page_like_the_others(tmp_path: Path, page: Page) -> None:
    file = tmp_path / "tokens.toml"
    token = add_entry(file, "ada", "read", ("*",))
    async with Server(store="memory:", port=0, auth_tokens=str(file)) as server:
        await page.goto(f"http://{server.address}/ui/default/schedules")
        await expect(page).to_have_title("Log in · durably")
        await assert_accessible(page)
        await page.set_viewport_size({"width": 390, "height": 800})
        await assert_fits(page)
        await page.get_by_label("Token").fill("nothing")
        await page.get_by_role("button", name="Log in").click()
        await expect(page.get_by_role("alert")).to_be_visible()
        await page.get_by_label("Token").fill(token)
        await page.get_by_role("button", name="Log in").click()
        await expect(page).to_have_title("Schedules · durably")
        await page.goto("about:blank")


async def test_the_dark_colours_have_contrast_too(world: World, page: Page) -> None:
    await page.emulate_media(color_scheme="dark")
    for place in (world.place("/workflows"), await world.workflow_place("failing")):
        await page.goto(place)
        await assert_accessible(page)


@pytest.mark.parametrize(
    ("workflow_id", "more"),
    [*(("research", more) for more in RUN_PAGES), ("stuck", ""), ("failing", "")],
)
async def test_every_page_of_a_workflow_is_there_and_accessible(
    world: World, page: Page, workflow_id: str, more: str
) -> None:
    answer = await page.goto(await world.workflow_place(workflow_id, more))
    assert answer is not None
    assert answer.status == 200
    await expect(page.get_by_role("heading", level=1)).to_have_text(workflow_id)
    if not more.endswith("json"):  # A page of many small pieces, which axe is slow on.
        await assert_accessible(page)
    await page.set_viewport_size({"width": 390, "height": 800})
    await assert_fits(page)


# --- The list of workflows --------------------------------------------------------------------


async def test_the_root_leads_to_the_workflows(world: World, page: Page) -> None:
    await page.goto(world.base)
    assert page.url == world.place("/workflows")


async def test_a_filter_finds_and_says_what_is_wrong_with_it(world: World, page: Page) -> None:
    await page.goto(world.place("/workflows"))
    box = page.get_by_label("List Filter")
    await page.keyboard.press("/")
    await expect(box).to_be_focused()
    await box.fill("WorkflowType = 'Fails'")
    await box.press("Enter")
    await expect(page.locator("a[data-open]")).to_have_text(["failing"])
    await page.get_by_role("link", name="1 Failed").click()
    await expect(page.get_by_label("List Filter")).to_have_value(
        "WorkflowType = 'Fails' AND ExecutionStatus = 'Failed'"
    )
    await page.get_by_label("List Filter").fill("WorkflowTyp = 'Fails'")
    await page.get_by_role("button", name="Filter").click()
    await expect(page.get_by_role("alert")).to_contain_text("WorkflowTyp")


async def test_the_list_is_kept_up_to_date(world: World, page: Page) -> None:
    await page.goto(world.place("/workflows?query=WorkflowId STARTS_WITH 'later-'"))
    await expect(page.locator("#live")).to_have_text("Live")
    await expect(page.locator("a[data-open]")).to_have_count(0)
    later = await world.client.start_workflow(runs.Waits.run, id="later-1", task_queue=runs.QUEUE)
    await expect(page.locator("a[data-open]")).to_have_text(["later-1"])
    await expect(page.locator("tbody .status")).to_have_text(["Running"])
    await later.terminate()
    await expect(page.locator("tbody .status")).to_have_text(["Terminated"])


async def test_columns_and_views_are_kept(world: World, page: Page) -> None:
    await page.goto(world.place("/workflows?query=WorkflowType = 'Chain'"))
    await page.get_by_role("button", name="Columns").click()
    await page.get_by_label("Events", exact=True).check()
    await page.get_by_label("Task queue").uncheck()
    await page.get_by_role("button", name="Show").click()
    heads = page.locator("thead th")
    await expect(heads.filter(has_text="Events")).to_have_count(1)
    await expect(heads.filter(has_text="Task queue")).to_have_count(0)
    await page.get_by_role("button", name="Views").click()
    await page.get_by_label("Save the present one as").fill("Chains")
    await page.get_by_role("button", name="Save", exact=True).click()
    await page.goto(world.place("/workflows"))
    await page.get_by_role("button", name="Views").click()
    await page.get_by_role("link", name="Chains").click()
    await expect(page.get_by_label("List Filter")).to_have_value("WorkflowType = 'Chain'")
    await expect(page.locator("thead th").filter(has_text="Events")).to_have_count(1)


async def test_keys_walk_through_the_rows(world: World, page: Page) -> None:
    await page.goto(world.place("/workflows"))
    await page.keyboard.press("j")
    await expect(page.locator("a[data-open]").nth(0)).to_be_focused()
    await page.keyboard.press("j")
    await expect(page.locator("a[data-open]").nth(1)).to_be_focused()
    await page.keyboard.press("x")
    await expect(page.locator("[data-check]").nth(1)).to_be_checked()
    await page.keyboard.press("?")
    await expect(page.get_by_role("dialog", name="Keys")).to_be_visible()
    await page.keyboard.press("Escape")
    await page.keyboard.press("g")
    await page.keyboard.press("s")
    await page.wait_for_url(world.place("/schedules"))


async def test_selected_workflows_are_terminated_as_a_batch(world: World, page: Page) -> None:
    for number in range(3):
        await world.client.start_workflow(
            runs.Waits.run, id=f"batched-{number}", task_queue=runs.QUEUE
        )
    await page.goto(world.place("/workflows?query=WorkflowId STARTS_WITH 'batched-'"))
    for name in ("batched-0", "batched-2"):
        await page.get_by_label(f"Select {name}").check()
    bar = page.get_by_label("What to do with the selected workflows")
    await bar.get_by_role("button", name="Terminate").click()
    dialog = page.get_by_role("dialog", name="Terminate workflows")
    await expect(dialog).to_contain_text("This concerns 2 workflows.")
    await dialog.get_by_role("button", name="Terminate").click()
    await expect(page.locator(".s-completed")).to_have_text("Completed")
    await expect(page.locator("#batch")).to_contain_text("2 done, 0 failed, of 2")
    statuses = [
        (await world.client.get_workflow_handle(f"batched-{n}").describe()).status for n in range(3)
    ]
    ended, running = WorkflowExecutionStatus.TERMINATED, WorkflowExecutionStatus.RUNNING
    assert statuses == [ended, running, ended]


async def test_all_that_a_filter_finds_gets_a_signal(world: World, page: Page) -> None:
    handles = [
        await world.client.start_workflow(
            runs.Research.run, "tides", id=f"many-{number}", task_queue=runs.QUEUE
        )
        for number in range(55)
    ]
    await page.goto(world.place("/workflows?query=WorkflowId STARTS_WITH 'many-'"))
    await page.get_by_label("Select all rows").check()
    await page.get_by_role("button", name="Select all that the filter finds").click()
    bar = page.get_by_label("What to do with the selected workflows")
    await bar.get_by_role("button", name="Signal").click()
    dialog = page.get_by_role("dialog", name="Send a signal to workflows")
    await expect(dialog).to_contain_text("This concerns 55 workflows.")
    await dialog.get_by_label("Name of the signal").fill("approve")
    await dialog.get_by_label("Arguments").fill('["Grace"]')
    await dialog.get_by_role("button", name="Send the signal").click()
    await expect(page.locator("#batch")).to_contain_text("55 done, 0 failed, of 55")
    for handle in handles:
        assert (await handle.result())["by"] == "Grace"


# --- One workflow -----------------------------------------------------------------------------


async def test_the_timeline_shows_attempts_children_updates_and_signals(
    world: World, page: Page
) -> None:
    await page.goto(await world.workflow_place("research"))
    rows = page.locator(".timeline .row")
    await expect(rows.filter(has_text="search")).to_have_count(2)
    await expect(rows.filter(has_text="flaky")).to_contain_text("×3")
    await expect(rows.filter(has_text="flaky")).to_contain_text("RateLimited: model overloaded")
    await expect(rows.filter(has_text="flaky").locator(".b-retries")).to_have_count(1)
    for name in ("Child", "note", "approve"):
        await expect(rows.filter(has_text=name)).to_have_count(1)
    await expect(page.locator("#workflow_data")).to_contain_text('"by": "Ada"')
    await expect(page.locator("#live")).to_have_text("Ended")
    await page.get_by_role("link", name="Child").click()
    panel = page.get_by_label("Details", exact=True)
    await expect(panel).to_contain_text("StartChildWorkflowExecutionInitiated")
    await expect(panel).to_contain_text("OTTERS")
    await page.keyboard.press("Escape")
    await expect(panel).to_be_hidden()
    await expect(page.get_by_role("link", name="Child")).to_be_focused()


async def test_pending_activities_show_their_failure_and_heartbeat(
    world: World, page: Page
) -> None:
    await page.goto(await world.workflow_place("stuck"))
    pending = page.locator("#pending")
    await expect(pending).to_contain_text("attempt 2")
    await expect(pending).to_contain_text("tool server unreachable")
    await expect(pending).to_contain_text('"done": 12')
    await pending.get_by_role("button", name="Pause").click()
    await expect(page.locator("#pending")).to_contain_text("Paused")
    await page.locator("#pending").get_by_role("button", name="Go on").click()
    await expect(page.locator("#pending").get_by_role("button", name="Pause")).to_be_visible()


async def test_a_failure_shows_its_causes(world: World, page: Page) -> None:
    await page.goto(await world.workflow_place("failing"))
    shown = page.locator("#workflow_data")
    await expect(shown.locator(".failure-head")).to_contain_text(
        ["PlanFailed", "Activity failure", "ConnectionRefused"]
    )
    await expect(shown).to_contain_text('"step": 3')


async def test_a_workflow_is_followed_and_acted_on(world: World, page: Page) -> None:
    handle = await world.client.start_workflow(
        runs.Research.run, "tides", id="acted on/1", task_queue=runs.QUEUE
    )
    run_id = handle.first_execution_run_id
    await page.goto(world.place(f"/workflows/acted%20on%2F1/{run_id}"))
    await expect(page.locator("#live")).to_have_text("Live")
    await expect(page.locator(".timeline .row").filter(has_text="Child")).to_have_count(1)

    await page.get_by_role("button", name="Update").click()
    dialog = page.get_by_role("dialog", name="Send an update")
    await dialog.get_by_label("Name").fill("note")
    await dialog.get_by_label("Arguments").fill("not JSON")
    await dialog.get_by_role("button", name="Send").click()
    await expect(dialog.get_by_role("alert")).to_contain_text("the arguments are not JSON")
    await dialog.get_by_label("Arguments").fill('[""]')
    await dialog.get_by_role("button", name="Send").click()
    await expect(dialog.get_by_role("alert")).to_contain_text("a note has text")
    await dialog.get_by_label("Arguments").fill('["from the console"]')
    await dialog.get_by_role("button", name="Send").click()
    await expect(page.locator(".notice")).to_have_text("The update answered: 1")

    await page.get_by_role("button", name="Pause").click()
    dialog = page.get_by_role("dialog", name="Pause it")
    await dialog.get_by_label("Reason").fill("lunch")
    await dialog.get_by_role("button", name="Pause").click()
    await expect(page.locator("#workflow_head")).to_contain_text("Paused by durably console: lunch")
    await page.get_by_role("button", name="Go on").click()
    await (
        page.get_by_role("dialog", name="Let it go on").get_by_role("button", name="Go on").click()
    )
    await expect(page.locator("#workflow_head .status")).to_have_text("Running")

    await page.get_by_role("button", name="Signal").click()
    dialog = page.get_by_role("dialog", name="Send a signal")
    await dialog.get_by_label("Name").fill("approve")
    await dialog.get_by_label("Arguments").fill('["Ada"]')
    await dialog.get_by_role("button", name="Send").click()
    await expect(page.locator("#workflow_head .status")).to_have_text("Completed")
    await expect(page.locator("#workflow_data")).to_contain_text('"from the console"')
    await expect(page.locator("#live")).to_have_text("Ended")


async def test_what_others_do_is_seen_without_a_reload(world: World, page: Page) -> None:
    handle = await world.client.start_workflow(
        runs.Research.run, "dunes", id="watched", task_queue=runs.QUEUE
    )
    await page.goto(await world.workflow_place("watched"))
    await expect(page.locator("#workflow_data")).to_contain_text("It has not ended yet.")
    await expect(page.locator(".waits")).to_contain_text("it waits for a signal or an update")
    await page.evaluate("window.same = true")
    await handle.signal(runs.Research.approve, "Grace")
    await expect(page.locator("#workflow_data")).to_contain_text('"by": "Grace"')
    await expect(page.locator(".timeline .row").filter(has_text="approve")).to_have_count(1)
    assert await page.evaluate("window.same")


async def test_cancel_terminate_reset_and_start_again(world: World, page: Page) -> None:
    first = await world.client.start_workflow(runs.Waits.run, id="ended", task_queue=runs.QUEUE)
    await page.goto(await world.workflow_place("ended"))
    await expect(page.locator(".timeline .row")).to_have_count(1)
    await page.get_by_role("button", name="Terminate").click()
    dialog = page.get_by_role("dialog", name="Terminate it")
    await dialog.get_by_label("Reason").fill("by mistake")
    await dialog.get_by_role("button", name="Terminate").click()
    await expect(page.locator("#workflow_data")).to_contain_text(
        "Terminated by durably console: by mistake"
    )
    await page.get_by_role("button", name="Reset").click()
    dialog = page.get_by_role("dialog", name="Reset it")
    await dialog.get_by_role("button", name="Reset").click()
    await expect(page.locator(".notice")).to_contain_text("This is the new run")
    await expect(page.locator("#workflow_head .status")).to_have_text("Running")
    again = await world.client.get_workflow_handle("ended").describe()
    assert again.run_id != first.first_execution_run_id

    await page.get_by_role("button", name="Cancel").click()
    dialog = page.get_by_role("dialog", name="Request its cancellation")
    await dialog.get_by_role("button", name="Request cancellation").click()
    await expect(page.locator("#workflow_head .status")).to_have_text("Canceled")

    await page.goto(await world.workflow_place("chain"))
    await page.get_by_role("link", name="Start like this").click()
    await expect(page.get_by_label("Type")).to_have_value("Chain")
    await expect(page.get_by_label("Arguments")).to_have_value("[0]")
    await page.get_by_label("Workflow id").fill("chain-2")
    await page.get_by_role("button", name="Start", exact=True).click()
    await expect(page.locator("#workflow_head .status")).to_have_text("Completed")
    assert await world.client.get_workflow_handle("chain-2").result() == 0


async def test_a_run_is_deleted(world: World, page: Page) -> None:
    handle = await world.client.start_workflow(runs.Chain.run, 0, id="gone", task_queue=runs.QUEUE)
    await handle.result()
    await page.goto(await world.workflow_place("gone"))
    await page.get_by_role("button", name="Delete").click()
    dialog = page.get_by_role("dialog", name="Delete this run")
    await dialog.get_by_role("button", name="Delete").click()
    await expect(page.locator(".notice")).to_have_text("The run was deleted.")
    answer = await page.goto(world.place(f"/workflows/gone/{handle.first_execution_run_id}"))
    assert answer is not None
    assert answer.status == 404
    await expect(page.locator("main")).to_contain_text("There is no workflow 'gone'")


async def test_a_worker_is_asked_for_the_call_stack_and_queries(world: World, page: Page) -> None:
    await world.client.start_workflow(runs.Research.run, "caves", id="asked", task_queue=runs.QUEUE)
    await page.goto(await world.workflow_place("asked", "/queries"))
    await page.get_by_role("button", name="Call stack").click()
    answer = page.locator("section", has=page.get_by_role("heading", name="Answer"))
    form = page.locator("section", has=page.get_by_role("heading", name="Ask its worker"))
    await expect(answer).to_contain_text("(workflow: Research, id: asked,")
    await page.get_by_role("button", name="What it offers").click()
    await expect(answer).to_contain_text("approve")
    await expect(answer).to_contain_text("A person agrees.")
    await form.get_by_label("Query").fill("state")
    await form.get_by_label("Arguments").fill("[2]")
    await form.get_by_role("button", name="Ask").click()
    await expect(answer).to_contain_text("waiting waiting")
    await form.get_by_label("Query").fill("unknown")
    await form.get_by_role("button", name="Ask").click()
    await expect(answer.get_by_role("alert")).to_contain_text("unknown")


async def test_relations_lead_to_children_parents_and_other_runs(world: World, page: Page) -> None:
    await page.goto(await world.workflow_place("research", "/relations"))
    children = page.locator("section", has=page.get_by_role("heading", name="Children"))
    await children.get_by_role("link").first.click()
    await expect(page.locator("#workflow_data")).to_contain_text("OTTERS")
    await page.get_by_role("link", name="Relations").click()
    family = page.locator("section", has=page.get_by_role("heading", name="Where it comes from"))
    await family.get_by_role("link", name="research").first.click()
    await expect(page.get_by_role("heading", level=1)).to_have_text("research")
    await page.goto(await world.workflow_place("chain", "/relations"))
    await expect(page.locator("main")).to_contain_text("continues")
    runs_of_id = page.locator("section", has=page.get_by_role("heading", name="Runs of this id"))
    await expect(runs_of_id.locator(".status")).to_have_text(["Completed", "ContinuedAsNew"])


async def test_the_history_is_read_event_by_event(world: World, page: Page) -> None:
    await page.goto(await world.workflow_place("research", "/history"))
    event = page.locator("#event-1")
    await event.locator("summary").click()
    await expect(event).to_contain_text("first execution run id")
    await expect(event.locator(".payload").first).to_contain_text('"otters"')
    await page.get_by_role("link", name="JSON", exact=True).click()
    shown = json.loads(await page.locator(".document").inner_text())
    assert shown[0]["eventType"] == "EVENT_TYPE_WORKFLOW_EXECUTION_STARTED"
    await page.get_by_role("link", name="Compact").click()
    await expect(page.locator(".compact li").filter(has_text="flaky")).to_contain_text("3 attempts")


async def test_a_history_tells_where_to_reset_to(world: World, page: Page) -> None:
    await page.goto(await world.workflow_place("chain", "/history"))
    completed = page.locator(".events li").filter(has_text="WorkflowTaskCompleted")
    await completed.locator("summary").click()
    await completed.get_by_role("button", name="Reset to here").click()
    dialog = page.get_by_role("dialog", name="Reset it")
    await expect(dialog.get_by_label("Event number")).to_have_value("4")
    await dialog.get_by_label("Reason").fill("once more")
    await dialog.get_by_role("button", name="Reset").click()
    await expect(page.locator(".notice")).to_contain_text("This is the new run")
    assert await world.client.get_workflow_handle("chain").result() == 0


# --- The agent run ------------------------------------------------------------------------------


async def test_an_agents_run_is_a_conversation_with_its_tools_and_tokens(
    world: World, page: Page
) -> None:
    handle = await world.client.start_workflow(
        runs.Agentic.run, "What do <b>otters</b> eat?", id="agentic", task_queue=runs.QUEUE
    )
    await page.goto(await world.workflow_place("agentic", "/agent"))
    turns = page.locator(".turn")
    await expect(turns).to_have_count(1)
    await expect(turns.first).to_contain_text("What do <b>otters</b> eat?")
    await expect(turns.first.locator(".tools li")).to_contain_text(['search {"words": "otters"}'])
    await expect(turns.first.locator(".tools pre")).to_have_text('["otters", "found"]')
    await handle.signal(runs.Agentic.agree)
    await expect(turns).to_have_count(2)
    await expect(turns.nth(1).locator(".said")).to_have_count(1)
    await expect(turns.nth(1)).to_contain_text("Otters eat urchins.")
    sums = page.locator(".sums")
    await expect(sums).to_contain_text("6,000")
    await expect(sums).to_contain_text("$0.0024")
    await expect(page.locator("#live")).to_have_text("Ended")
    await assert_accessible(page)
    await page.set_viewport_size({"width": 390, "height": 800})
    await assert_fits(page)


async def test_what_children_called_is_added_up(world: World, page: Page) -> None:
    await world.client.execute_workflow(runs.Team.run, "Why?", id="team", task_queue=runs.QUEUE)
    await page.goto(await world.workflow_place("team", "/agent"))
    family = page.locator("section", has=page.get_by_role("heading", name="With its children"))
    await expect(family.locator("tbody tr").first).to_contain_text("6,000")
    await expect(family.locator(".whole")).to_contain_text("7,000")
    await family.get_by_role("link").click()
    await expect(page.locator(".turn")).to_have_count(2)


# --- Schedules, activities, queues, workers -----------------------------------------------------


async def test_a_schedule_is_paused_and_started_by_hand(world: World, page: Page) -> None:
    await page.goto(world.place("/schedules"))
    await page.get_by_role("link", name="nightly").click()
    await expect(page.locator("#schedule")).to_contain_text("every 1 h")
    await page.get_by_role("button", name="Start now").click()
    await page.get_by_role("dialog").get_by_role("button", name="Start now").click()
    await expect(page.locator("#schedule").get_by_role("link", name="nightly-")).to_have_count(1)
    await page.get_by_role("button", name="Pause").click()
    await page.get_by_role("dialog").get_by_role("button", name="Pause").click()
    await expect(page.locator("#schedule .status").first).to_have_text("Paused")
    await page.get_by_role("button", name="Go on").click()
    await page.get_by_role("dialog").get_by_role("button", name="Go on").click()
    await expect(page.locator("#schedule .status").first).to_have_text("Active")


async def test_a_standalone_activity_is_shown(world: World, page: Page) -> None:
    await page.goto(world.place("/activities"))
    await page.get_by_role("link", name="alone").click()
    await expect(page.locator("#activity .status")).to_have_text("Completed")
    await expect(page.locator("#activity")).to_contain_text('"found"')


async def test_queues_and_workers_are_shown(world: World, page: Page) -> None:
    await page.goto(world.place("/task-queues"))
    await page.get_by_role("link", name="agents").click()
    await expect(page.locator("#queue")).to_contain_text("Workflow tasks")
    await expect(page.locator("#queue")).to_contain_text("last poll")

    async def listed() -> bool:
        await page.goto(world.place("/workers"))
        return await page.locator("a[data-open]").count() > 0

    await eventually(listed)
    await page.locator("a[data-open]").first.click()
    await expect(page.locator("#worker")).to_contain_text("temporal-python")
    await expect(page.locator("#worker")).to_contain_text("Slots")
