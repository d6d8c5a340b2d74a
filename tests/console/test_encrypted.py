"""Agent runs with encrypted payloads: a real codec, a real codec server, a real browser that decodes."""

import base64
import json
import re
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, replace
from datetime import timedelta
from pathlib import Path
from urllib.parse import urlsplit

import httpx
import pytest
import pytest_asyncio
from playwright.async_api import Page, Request, expect
from temporalio import activity, workflow
from temporalio.api.common.v1 import Payload
from temporalio.client import Client, WorkflowFailureError, WorkflowHistory
from temporalio.common import RawValue
from temporalio.converter import DataConverter, DefaultFailureConverterWithEncodedAttributes
from temporalio.exceptions import ApplicationError
from temporalio.worker import UnsandboxedWorkflowRunner, Worker

from durably import Server
from durably.edge.console.agent_run import ENCRYPTED
from tests.console import runs
from tests.console.codec import Encryption, codec_server, encrypted
from tests.console.test_pages import assert_accessible, assert_fits

pytestmark = pytest.mark.asyncio(loop_scope="session")

HISTORIES = sorted((Path(__file__).parent.parent / "agents" / "histories").glob("*.json"))
LIMIT = timedelta(seconds=30)
CONVERTER = DataConverter(
    payload_codec=Encryption(), failure_converter_class=DefaultFailureConverterWithEncodedAttributes
)
QUESTION = 'What do <b>otters</b> eat? "⟦0⟧" {"a": 1} \u202e'


@dataclass(frozen=True, slots=True)
class Done:
    """What an activity of a recorded run was given, and what it returned: payloads in base64."""

    activity_type: str
    activity_id: str
    given: list[str]


RETURNED: dict[str, Payload] = {}
"""By the id of the activity."""


@activity.defn(dynamic=True)
async def as_recorded(_: Sequence[RawValue]) -> RawValue:
    found = RETURNED.get(activity.info().activity_id)
    if found is None:
        raise ApplicationError("nothing is recorded of it", type="Unrecorded", non_retryable=True)
    return RawValue(found)


@workflow.defn
class AsRecorded:
    """Does again what a recorded agent did."""

    @workflow.run
    async def run(self, all_done: list[Done]) -> None:
        for done in all_done:
            given = [RawValue(Payload.FromString(base64.b64decode(each))) for each in done.given]
            await workflow.execute_activity(
                done.activity_type,
                args=given,
                activity_id=done.activity_id,
                result_type=RawValue,
                start_to_close_timeout=LIMIT,
            )


def recorded(path: Path) -> list[Done]:
    found = json.loads(path.read_text())["history"]
    events = list(WorkflowHistory.from_json("any", found).events)
    came = {
        e.activity_task_completed_event_attributes.scheduled_event_id: (
            e.activity_task_completed_event_attributes.result.payloads[0]
        )
        for e in events
        if e.HasField("activity_task_completed_event_attributes")
    }
    all_done = []
    for event in events:
        if event.HasField("activity_task_scheduled_event_attributes"):
            scheduled = event.activity_task_scheduled_event_attributes
            name = f"{path.stem}-{event.event_id}"
            RETURNED[name] = came[event.event_id]
            given = [
                base64.b64encode(p.SerializeToString()).decode() for p in scheduled.input.payloads
            ]
            all_done.append(Done(scheduled.activity_type.name, name, given))
    return all_done


@dataclass(frozen=True, slots=True)
class Secret:
    """A server, and two clients of it, of which one encrypts."""

    plain: Client
    client: Client
    base: str

    async def place(self, workflow_id: str) -> str:
        found = await self.plain.get_workflow_handle(workflow_id).describe()
        return f"{self.base}/workflows/{workflow_id}/{found.run_id}/agent"


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def secret(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Secret]:
    store = f"sqlite:///{tmp_path_factory.mktemp('encrypted')}/store.db"
    with codec_server() as codec:
        async with Server(store=store, port=0, console_codec_endpoint=codec) as server:
            plain = await Client.connect(server.address)
            client = await Client.connect(server.address, data_converter=CONVERTER)
            async with worker(plain, "plain"), worker(client, runs.QUEUE):
                yield Secret(plain, client, f"http://{server.address}/ui/default")


def worker(client: Client, queue: str) -> Worker:
    return Worker(
        client,
        task_queue=queue,
        workflows=[*runs.WORKFLOWS, AsRecorded],
        activities=[*runs.ACTIVITIES, as_recorded],
        workflow_runner=UnsandboxedWorkflowRunner(),
    )


def sent_to(page: Page, base: str) -> list[Request]:
    """What a page sends to the server, its addresses and bodies."""
    found: list[Request] = []
    origin = urlsplit(base).netloc
    page.on("request", lambda r: found.append(r) if urlsplit(r.url).netloc == origin else None)
    return found


def told(requests: list[Request]) -> str:
    return "\n".join(f"{each.url}\n{each.post_data or ''}" for each in requests)


async def conversation(page: Page) -> str:
    """What the page says was said, called and used, without times and the spaces between JSON's words."""
    return re.sub(
        r"\s+",
        "",
        await page.evaluate(
            """() => {
                const turns = document.querySelector(".turns").cloneNode(true);
                for (const each of turns.querySelectorAll(".length")) each.remove();
                const sums = [...document.querySelectorAll(".sums > div")].slice(0, 5);
                return [...sums, turns].map((each) => each.textContent).join(" ");
            }"""
        ),
    )


@pytest.mark.parametrize("path", HISTORIES, ids=lambda path: path.stem)
async def test_what_the_browser_decodes_reads_as_if_it_had_not_been_encrypted(
    path: Path, secret: Secret, page: Page
) -> None:
    all_done = recorded(path)
    shown = []
    for client, queue in ((secret.plain, "plain"), (secret.client, runs.QUEUE)):
        name = f"{path.stem}-{queue}"
        await client.execute_workflow(AsRecorded.run, all_done, id=name, task_queue=queue)
        sent = sent_to(page, secret.base)
        await page.goto(await secret.place(name))
        if client is secret.client:
            await expect(page.locator("#agent > .locked")).to_contain_text("Decoded in this")
            # The names of tools that are no activities, and whatever was said, are nobody else's.
            said = ("Oslo", "rain", "weather in", "Be brief", "forecaster")
            assert [word for word in said if word in told(sent)] == []
        await expect(page.locator(".turn")).to_have_count(2)
        shown.append(await conversation(page))
    assert shown[1] == shown[0]
    assert "raininOslo" in shown[0]


async def test_a_run_is_decoded_while_it_goes_on(secret: Secret, page: Page) -> None:
    handle = await secret.client.start_workflow(
        runs.Agentic.run, QUESTION, id="live", task_queue=runs.QUEUE
    )
    sent = sent_to(page, secret.base)
    await page.goto(await secret.place("live"))
    turns = page.locator(".turn")
    await expect(turns).to_have_count(1)
    shown = QUESTION.replace("\u202e", "⟨U+202E⟩")
    await expect(turns.first).to_contain_text(shown)
    await expect(turns.first.locator(".tools li")).to_contain_text(['search {"words": "otters"}'])
    await expect(turns.first.locator(".tools pre")).to_have_text('["otters", "found"]')
    await handle.signal(runs.Agentic.agree)
    await expect(turns).to_have_count(2)
    await expect(turns.nth(1)).to_contain_text("Otters eat urchins.")
    await expect(turns.first).to_contain_text(shown)
    await expect(page.locator(".sums")).to_contain_text("6,000")
    await expect(page.locator(".sums")).to_contain_text("$0.0024")
    await expect(page.locator("#live")).to_have_text("Ended")
    assert "otters" not in told(sent)
    assert "urchins" not in told(sent)
    await assert_accessible(page)
    await page.set_viewport_size({"width": 390, "height": 800})
    await assert_fits(page)


async def test_without_a_codec_server_the_page_says_that_it_is_encrypted(page: Page) -> None:
    async with Server(store="memory:", port=0) as server:
        plain = await Client.connect(server.address)
        client = await Client.connect(server.address, data_converter=CONVERTER)
        secret = Secret(plain, client, f"http://{server.address}/ui/default")
        async with worker(client, runs.QUEUE):
            await client.execute_workflow(
                AsRecorded.run, recorded(HISTORIES[-2]), id="w", task_queue=runs.QUEUE
            )
        await page.goto(await secret.place("w"))
        notice = page.locator("#agent > .locked")
        await expect(notice).to_contain_text("Encrypted: 9 payloads")
        await expect(notice).to_contain_text("console_codec_endpoint")
        await expect(page.locator(".turn .locked").first).to_have_text(ENCRYPTED)
        await assert_accessible(page)
        await page.goto("about:blank")


async def test_what_another_key_encrypted_is_said_not_to_be_decoded(
    secret: Secret, page: Page
) -> None:
    """A payload of another key keeps no other from being decoded."""
    foreign = Done("other", "foreign", [])
    RETURNED["foreign"] = encrypted(Payload(), bytes(32))
    mixed = [foreign]
    for done in recorded(HISTORIES[-1]):
        mixed.append(replace(done, activity_id=f"mixed-{done.activity_id}"))
        RETURNED[f"mixed-{done.activity_id}"] = encrypted(RETURNED[done.activity_id])
    for name, some in (("mixed", mixed), ("foreign", [foreign])):
        await secret.plain.execute_workflow(AsRecorded.run, some, id=name, task_queue="plain")
    await page.goto(await secret.place("mixed"))
    notice = page.locator("#agent > .locked")
    await expect(notice).to_contain_text("1 payload could not be decoded")
    await expect(page.locator(".turn").first.locator(".tools pre")).to_have_text("rain in Oslo")
    await page.goto(await secret.place("foreign"))
    await expect(notice).to_contain_text(
        "Encrypted, and not decoded: the codec server answered 400"
    )


async def fails(secret: Secret, workflow_id: str, unrecorded: str) -> None:
    """An encrypted run that ends by a call of which nothing is recorded."""
    failing = [Done("agent__a__model_request", unrecorded, [])]
    handle = await secret.client.start_workflow(
        AsRecorded.run, failing, id=workflow_id, task_queue=runs.QUEUE
    )
    with pytest.raises(WorkflowFailureError):
        await handle.result()


async def test_an_encrypted_failure_is_decoded(secret: Secret, page: Page) -> None:
    await fails(secret, "failing", "nothing")
    await page.goto(await secret.place("failing"))
    note = page.locator(".turn .note")
    await expect(note).to_have_text("Unrecorded: nothing is recorded of it")


async def test_the_page_of_an_encrypted_child_is_decoded(secret: Secret, page: Page) -> None:
    await secret.client.execute_workflow(runs.Team.run, QUESTION, id="team", task_queue=runs.QUEUE)
    await page.goto(await secret.place("team"))
    await expect(page.locator(".turn")).to_have_count(1)
    family = page.locator("section", has=page.get_by_role("heading", name="With its children"))
    await expect(family.locator("tbody tr").first).to_contain_text("encrypted")
    await family.get_by_role("link").click()
    await expect(page.locator(".turn")).to_have_count(2)
    await expect(page.locator(".sums")).to_contain_text("6,000")


async def test_two_encrypted_runs_are_compared_by_what_the_browser_decodes(
    secret: Secret, page: Page
) -> None:
    places = []
    for name in ("left", "right"):
        handle = await secret.client.start_workflow(
            runs.Team.run, f"Why {name}?", id=name, task_queue=runs.QUEUE
        )
        await handle.result()
        places.append(f"{name}/{handle.first_execution_run_id}")
    await page.goto(f"{secret.base}/compare?left={places[0]}&right={places[1]}")
    await page.locator("details[data-src] summary").first.click()
    await expect(page.locator(".inside").first).to_contain_text("Why left?")
    await expect(page.locator(".inside").first).to_contain_text("Why right?")


async def test_outlines_that_are_none_are_refused(secret: Secret) -> None:
    await secret.plain.start_workflow("W", id="nobody", task_queue="nobody")
    place = await secret.place("nobody")
    origin = {"origin": secret.base.removesuffix("/ui/default")}
    async with httpx.AsyncClient(headers=origin) as client:
        for body in (
            b"",
            b"{}",
            b"[]",
            b'{"outlines": []}',
            b'{"outlines": {"k": 1}}',
            b"[" * 10_000,
        ):
            answer = await client.post(f"{place}/decoded", content=body)
            assert (answer.status_code, "expected JSON" in answer.text) == (400, True)
        for first in ("0", "-1", "x", "9" * 20):
            assert (await client.get(f"{place}/locked?from={first}")).status_code == 400
        elsewhere = {"origin": "https://elsewhere.example"}
        refused = await client.post(
            f"{place}/decoded", content=b'{"outlines": {}}', headers=elsewhere
        )
        assert refused.status_code == 403
        answer = await client.post(f"{place}/decoded", content=b'{"outlines": {"k": "[[["}}')
        assert answer.status_code == 200
        locked = (await client.get(f"{place}/locked?from=2")).json()
        assert locked == {"payloads": {}, "types": [], "next": 3, "complete": True}


async def test_a_codec_server_that_is_not_reached_is_said_so(secret: Secret, page: Page) -> None:
    await fails(secret, "unreached", "none")
    await page.route("**/decode", lambda route: route.abort())
    await page.goto(await secret.place("unreached"))
    notice = page.locator("#agent > .locked")
    await expect(notice).to_contain_text(
        "Encrypted, and not decoded: the codec server is not reached"
    )
