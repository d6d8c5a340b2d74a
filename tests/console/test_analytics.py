"""The analytics page: the same numbers as `durably query`, as the raw histories, as the page shows."""

import re
from typing import Any

import duckdb
import pyarrow as pa
import pytest
from playwright.async_api import Page, expect

from durably.analytics.gather import batches
from durably.analytics.tables import SCHEMAS
from durably.config import Config
from durably.edge.console import survey, tally
from durably.edge.console.site import Site
from durably.edge.console.survey import Survey
from tests.console import runs
from tests.console.conftest import World
from tests.console.test_pages import assert_accessible, assert_fits

pytestmark = pytest.mark.asyncio(loop_scope="session")

WHERE = "WorkflowId STARTS_WITH 'counted-'"


async def ran(world: World) -> None:
    """Agents, steps that are tried again, one that fails, one that goes on: counted once, and waited for."""
    starts: list[tuple[Any, list[Any]]] = [
        (runs.Agentic.run, ["What do otters eat?"]),
        (runs.Agentic.run, ["What do seals eat?"]),
        (runs.Fails.run, []),
        (runs.Research.run, ["otters"]),
        (runs.Stuck.run, []),
    ]
    handles = []
    for number, (run, arguments) in enumerate(starts):
        signal = {runs.Agentic.run: ("agree", []), runs.Research.run: ("approve", ["Ada"])}.get(run)
        more = {"start_signal": signal[0], "start_signal_args": signal[1]} if signal else {}
        handles.append(
            await world.client.start_workflow(
                run, args=arguments, id=f"counted-{number}", task_queue=runs.QUEUE, **more
            )
        )
    for handle in handles[:4]:
        await world.client.workflow_service.get_workflow_execution_history(
            closing(handle.id, handle.first_execution_run_id or "")
        )


def closing(workflow_id: str, run_id: str) -> Any:
    """The request that is answered when the run has closed."""
    from temporalio.api.common.v1 import WorkflowExecution
    from temporalio.api.enums.v1 import HistoryEventFilterType
    from temporalio.api.workflowservice.v1 import GetWorkflowExecutionHistoryRequest

    return GetWorkflowExecutionHistoryRequest(
        namespace="default",
        execution=WorkflowExecution(workflow_id=workflow_id, run_id=run_id),
        wait_new_event=True,
        history_event_filter_type=HistoryEventFilterType.HISTORY_EVENT_FILTER_TYPE_CLOSE_EVENT,
    )


def site(world: World) -> Site:
    async def ask(name: str, request: Any) -> Any:
        snake = re.sub(r"(?<!^)(?=[A-Z])", "_", name).lower()
        return await getattr(world.client.workflow_service, snake)(request)

    return Site(ask, Config(), lambda: 0)


async def counted(world: World, where: str) -> tuple[Survey, tally.Tally]:
    found = Survey(site(world), "default", where)
    while not found.complete:
        await found.go_on(0.2)
    return found, found.tally()


async def test_console_query_and_histories_agree(world: World, page: Page) -> None:
    await ran(world)
    found, numbers = await counted(world, WHERE)
    assert (found.runs, found.open_runs, found.found) == (4, 1, 5)

    # The SQL beside each table gives the table.
    read: dict[str, list[pa.RecordBatch]] = {name: [] for name in SCHEMAS}
    async for name, batch in batches(world.client, WHERE, SCHEMAS):
        read[name].append(batch)
    with duckdb.connect() as database:
        database.execute("SET TimeZone = 'UTC'")
        for name, schema in SCHEMAS.items():
            database.register(name, pa.Table.from_batches(read[name], schema))
        for dimension in tally.DIMENSIONS:
            answer = database.sql(dimension.sql)
            said = {
                row[0] or tally.NAMELESS: dict(zip(answer.columns, row, strict=True))
                for row in answer.fetchall()
            }
            assert said.keys() == numbers.groups[dimension].keys(), dimension
            assert said
            for name, group in numbers.groups[dimension].items():
                row = said[name]
                assert (group.n, group.failed) == (row["n"], row["failed"])
                assert group.retries == (row.get("retries") or 0)
                if dimension.of_models:
                    assert (group.input, group.output) == (row["input"], row["output"])
                    assert group.cost == pytest.approx(row["cost"])
                assert list(group.percentiles()) == pytest.approx(row["seconds"] or [])

    # So do the raw histories.
    kinds: dict[str, int] = {}
    attempts = 0
    async for run in world.client.list_workflows(WHERE):
        handle = world.client.get_workflow_handle(run.id, run_id=run.run_id)
        async for event in handle.fetch_history_events():
            kind = event.WhichOneof("attributes") or ""
            kinds[kind] = kinds.get(kind, 0) + 1
            attempts += event.activity_task_started_event_attributes.attempt
    activities = numbers.total(tally.ACTIVITIES)
    assert activities.n == kinds["activity_task_scheduled_event_attributes"]
    assert activities.failed == kinds["activity_task_failed_event_attributes"]
    assert activities.retries == attempts - kinds["activity_task_started_event_attributes"]
    assert numbers.total(tally.MODELS).n == 4
    assert numbers.total(tally.MODELS).input == 2 * (2000 + 4000)

    # And that is what the page shows.
    await page.goto(world.place(f"/analytics?period=&query={WHERE.replace(' ', '+')}"))
    facts = page.locator(".facts > div")
    await expect(facts.filter(has_text="Tokens in")).to_contain_text("12,000")
    await expect(facts.filter(has_text="Activities")).to_contain_text(f"{activities.n}")
    models = page.get_by_role("region", name="Models").locator("tbody tr")
    await expect(models).to_have_count(1)
    await expect(models).to_contain_text("gpt-4.1-mini")
    await expect(page.locator(".chart rect").first).to_be_visible()
    await page.locator(".sql summary").first.click()
    await expect(page.locator(".sql pre").first).to_contain_text("FROM workflows")
    await assert_accessible(page)
    # A table with all of its columns is whole on a small laptop.
    await page.set_viewport_size({"width": 1200, "height": 800})
    hidden = "tables => Math.max(...tables.map(each => each.scrollWidth - each.clientWidth))"
    assert await page.locator(".scroll:has(.tally)").evaluate_all(hidden) <= 0
    await page.set_viewport_size({"width": 390, "height": 800})
    await assert_fits(page)


async def test_a_page_that_is_open_goes_on_counting(world: World, page: Page) -> None:
    await page.goto(world.place("/analytics?query=WorkflowId+STARTS_WITH+'late-'"))
    await expect(page.locator("main")).to_contain_text("No run began in this time")
    await world.client.execute_workflow(runs.Chain.run, 0, id="late-1", task_queue=runs.QUEUE)
    await expect(page.get_by_role("region", name="Workflows").locator("tbody tr")).to_have_count(1)


async def test_a_wrong_filter_is_said(world: World, page: Page) -> None:
    await page.goto(world.place("/analytics?query=Nothing+is"))
    await expect(page.get_by_role("alert")).to_be_visible()
    answer = await page.goto(world.place("/analytics?period=9"))
    assert answer is not None
    assert answer.status == 400


async def test_no_more_runs_are_read_than_the_limit(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(survey, "CLOSED_MAX", 2)
    found, numbers = await counted(world, "CloseTime IS NOT NULL")
    assert found.runs == numbers.total(tally.TYPES).n == 2
    assert found.found > 2
