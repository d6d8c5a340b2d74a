"""What must not do harm: payloads and names made to break a page, requests from elsewhere, long histories."""

import asyncio
import base64
import json
import threading
import uuid
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, ClassVar

import httpx
import pytest
from playwright.async_api import Page, expect
from temporalio.api.command.v1 import Command
from temporalio.api.common.v1 import Payload
from temporalio.api.enums.v1 import CommandType
from temporalio.api.workflowservice.v1 import (
    PollWorkflowTaskQueueRequest,
    RespondWorkflowTaskCompletedRequest,
)
from temporalio.client import Client, WorkflowHistory
from temporalio.common import RawValue
from temporalio.worker import Replayer, UnsandboxedWorkflowRunner

from durably import Server
from tests.console import runs
from tests.console.conftest import World

pytestmark = pytest.mark.asyncio(loop_scope="session")

SCRIPT = "</pre><script>window.broken=1</script><img src=x onerror=window.broken=1>\"'>{{7*7}}"
TURNED = "invoice\u202efdp.exe\x1b[2J\x00\x07"
LARGE_BYTES = 5 * 1024 * 1024


def payload(encoding: str, data: bytes, **metadata: bytes) -> RawValue:
    return RawValue(Payload(metadata={"encoding": encoding.encode(), **metadata}, data=data))


HOSTILE = [
    payload("json/plain", json.dumps({"html": SCRIPT, SCRIPT: SCRIPT}).encode()),
    payload("json/plain", json.dumps(TURNED, ensure_ascii=False).encode()),
    payload("json/plain", b'"\xff\xfe not UTF-8"'),
    payload("json/plain", b'"\\ud800 half of a character"'),
    payload("json/plain", b"[" * 100_000),
    payload("json/plain", json.dumps("x" * LARGE_BYTES).encode()),
    payload("text/<script>", SCRIPT.encode()),
    payload("binary/plain", bytes(range(256)) * 40),
    payload("binary/encrypted", b"\x00\x01secret", **{"encryption-key-id": b"k"}),
    payload("binary/protobuf", b"\x08\x01", messageType=SCRIPT.encode()),
    payload("", b""),
]


async def test_hostile_payloads_are_shown_and_do_nothing(world: World, page: Page) -> None:
    handle = await world.client.start_workflow(
        SCRIPT, args=HOSTILE, id=f"hostile {SCRIPT} {TURNED}/..", task_queue="nobody <b>polls</b>"
    )
    await page.goto(world.place("/workflows?query=TaskQueue STARTS_WITH 'nobody'"))
    link = page.locator("a[data-open]")
    await expect(link).to_contain_text("invoice⟨U+202E⟩fdp.exe␛[2J␀␇/..")
    await link.click()
    data = page.locator("#workflow_data .payload")
    await expect(data).to_have_count(len(HOSTILE))
    await expect(data.nth(0)).to_contain_text("<script>window.broken=1</script>")
    await expect(data.nth(0)).to_contain_text("{{7*7}}")
    await expect(data.nth(1)).to_contain_text("⟨U+202E⟩")
    await expect(data.nth(2)).to_contain_text("not valid JSON")
    await expect(data.nth(2)).to_contain_text("22 ff fe 20")
    await expect(data.nth(3)).to_contain_text("⟨U+D800⟩ half")
    await expect(data.nth(4)).to_contain_text("only its beginning is shown")
    await expect(data.nth(5)).to_contain_text("5.24 MB")
    await expect(data.nth(7)).to_contain_text("10.2 kB")
    await expect(data.nth(8)).to_contain_text("Encrypted")
    await expect(page.locator("#workflow_head")).to_contain_text("No worker has taken")
    assert len(await page.content()) < 200_000
    await page.get_by_role("link", name="History", exact=True).click()
    await page.locator("#event-1 summary").click()
    await expect(page.locator("#event-1 .payload")).to_have_count(len(HOSTILE))
    save = page.get_by_role("link", name="Save input.payloads[5]")
    async with page.expect_download() as downloading:
        await save.click()
    saved = await (await downloading.value).path()
    assert saved.stat().st_size == LARGE_BYTES + 2
    assert await page.evaluate("window.broken") is None
    await handle.terminate(reason=SCRIPT)
    await page.goto(world.place(f"/batches/{SCRIPT.replace('/', '%2F')}".replace("?", "%3F")))
    await expect(page.get_by_role("heading", level=1)).to_have_text("Not found")
    assert await page.evaluate("window.broken") is None


# --- Encrypted payloads -----------------------------------------------------------------------


class Codec(BaseHTTPRequestHandler):
    """A codec server: what is encrypted is turned around."""

    asked: ClassVar[list[dict[str, Any]]] = []

    def do_OPTIONS(self) -> None:
        self._answer(b"")

    def do_POST(self) -> None:
        given = json.loads(self.rfile.read(int(self.headers["content-length"])))
        self.asked.append({"path": self.path, "namespace": self.headers["x-namespace"]})
        payloads = [
            {
                "metadata": {"encoding": base64.b64encode(b"json/plain").decode()},
                "data": base64.b64encode(base64.b64decode(each["data"])[::-1]).decode(),
            }
            for each in given["payloads"]
        ]
        self._answer(json.dumps({"payloads": payloads}).encode())

    def _answer(self, body: bytes) -> None:
        self.send_response(200)
        self.send_header("access-control-allow-origin", self.headers["origin"])
        self.send_header("access-control-allow-headers", "content-type, x-namespace")
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def codec() -> Iterator[str]:
    with ThreadingHTTPServer(("127.0.0.1", 0), Codec) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_address[1]}"
        server.shutdown()
        thread.join()


async def test_the_browser_asks_the_codec_server(codec: str, page: Page) -> None:
    plain = json.dumps({"secret": "<img src=x onerror=window.broken=1>"}).encode()
    async with Server(store="memory:", port=0, console_codec_endpoint=codec) as server:
        client = await Client.connect(server.address)
        handle = await client.start_workflow(
            "W", payload("binary/encrypted", plain[::-1]), id="w", task_queue="q"
        )
        run_id = handle.first_execution_run_id
        await page.goto(f"http://{server.address}/ui/default/workflows/w/{run_id}")
        await expect(page.locator("#workflow_data .payload")).to_contain_text(
            '"secret": "<img src=x onerror=window.broken=1>"'
        )
        assert await page.evaluate("window.broken") is None
        assert Codec.asked == [{"path": "/decode", "namespace": "default"}]
        await page.goto("about:blank")


# --- A long history ---------------------------------------------------------------------------

TIMERS = 10_000


async def long_run(world: World) -> str:
    """A run whose one workflow task started 10,000 timers and canceled them: 20,003 events."""
    queue = str(uuid.uuid4())
    handle = await world.client.start_workflow("Long", id="long", task_queue=queue)
    service = world.client.workflow_service
    poll = PollWorkflowTaskQueueRequest(namespace="default", identity="by hand")
    poll.task_queue.name = queue
    task = await service.poll_workflow_task_queue(poll)
    done = RespondWorkflowTaskCompletedRequest(namespace="default", task_token=task.task_token)
    for number in range(TIMERS):
        start = Command(command_type=CommandType.COMMAND_TYPE_START_TIMER)
        start.start_timer_command_attributes.timer_id = str(number)
        start.start_timer_command_attributes.start_to_fire_timeout.seconds = 86_400
        cancel = Command(command_type=CommandType.COMMAND_TYPE_CANCEL_TIMER)
        cancel.cancel_timer_command_attributes.timer_id = str(number)
        done.commands.extend((start, cancel))
    await service.respond_workflow_task_completed(done)
    return handle.first_execution_run_id or ""


async def test_a_long_history_is_read_bit_by_bit(world: World, page: Page) -> None:
    run_id = await long_run(world)
    place = world.place(f"/workflows/long/{run_id}")
    answer = await page.goto(place)
    assert answer is not None
    first = await answer.text()
    assert len(first) < 300_000
    assert "500 of 20,004 events read" in first
    await expect(page.locator(".timeline")).to_contain_text("10,000 timers")
    await expect(page.locator(".timeline .row")).to_have_count(100)
    await expect(page.locator(".timeline .pager")).to_contain_text("9,901 to 10,000 of 10,000")
    await page.get_by_label("Parts of the timeline").get_by_text("First", exact=True).click()
    await expect(page.locator(".timeline .row").first).to_contain_text("Timer 0")

    answer = await page.goto(f"{place}/history")
    assert answer is not None
    assert len(await answer.text()) < 300_000
    await expect(page.locator(".events > li")).to_have_count(100)
    await page.get_by_label("Pages of the history").get_by_text("Last", exact=True).click()
    await expect(page.locator(".events > li").last).to_contain_text("Timer")
    await expect(page.locator("#event-20004")).to_have_count(1)
    await page.goto(f"{place}/history?view=compact&from=9999")
    await expect(page.locator(".compact li").last).to_contain_text("Timer 9999")


# --- Requests from elsewhere ------------------------------------------------------------------


async def ask(world: World, method: str, path: str, **headers: str) -> httpx.Response:
    async with httpx.AsyncClient() as client:
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        return await client.request(method, world.place(path), headers=named)


async def test_a_form_of_another_site_changes_nothing(world: World) -> None:
    handle = await world.client.start_workflow(runs.Waits.run, id="kept", task_queue=runs.QUEUE)
    act = f"/workflows/kept/{handle.first_execution_run_id}/actions/terminate"
    for headers in (
        {},
        {"origin": "https://evil.example"},
        {"origin": "null"},
        {"sec_fetch_site": "cross-site"},
        {"origin": world.base.replace("http:", "http:") + ".evil.example"},
    ):
        answer = await ask(world, "POST", act, **headers)
        assert answer.status_code == 403, headers
    assert (await handle.describe()).close_time is None
    answer = await ask(world, "POST", act, origin=world.base)
    assert answer.status_code == 303
    assert (await handle.describe()).close_time is not None


async def test_a_name_that_somebody_pointed_here_is_not_answered(world: World) -> None:
    port = world.server.address.rpartition(":")[2]
    for host, status in (
        (f"rebound.example:{port}", 403),
        (f"localhost:{port}", 200),
        (f"[::1]:{port}", 200),
        ("10.1.2.3", 200),
    ):
        answer = await ask(world, "GET", "/workflows", host=host)
        assert answer.status_code == status, host
    assert "host_names" in (await ask(world, "GET", "/workflows", host="proxy.example")).text


async def test_pages_allow_no_foreign_script_and_are_in_no_frame(world: World) -> None:
    for path in ("/workflows", "/nothing/here", "/workflows?query=wrong"):
        answer = await ask(world, "GET", path)
        policy = answer.headers["content-security-policy"]
        assert "default-src 'none'" in policy
        assert "script-src 'self'" in policy
        assert "frame-ancestors 'none'" in policy
        assert "unsafe" not in policy
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert answer.headers["cache-control"] == "no-store"
        assert "style=" not in answer.text
        assert " onclick=" not in answer.text


async def test_what_is_asked_for_wrongly_is_refused(world: World) -> None:
    run = await world.workflow_place("research")
    path = run.removeprefix(world.place(""))
    for wrong, status in (
        ("/workflows?page=%21", 400),
        (f"{path}/history?view=upside-down", 400),
        (f"{path}/events/99999", 404),
        (f"{path}/events/1/payloads/99", 404),
        (f"{path}/spans/2", 404),
        ("/workflows/research/not-a-run", 400),
        ("/workflows/nobody", 404),
        ("/schedules/nothing", 404),
        ("/batches/nothing", 404),
        ("/workers/nothing", 404),
        ("/activities/nothing/nothing", 400),
    ):
        answer = await ask(world, "GET", wrong)
        assert answer.status_code == status, (wrong, answer.text[-600:])
    answer = await ask(world, "GET", "/workflows")
    assert answer.status_code == 200
    for form, status in (("actions/dance", 400), ("actions/reset", 400), ("actions/signal", 400)):
        answer = await ask(world, "POST", f"{path}/{form}", origin=world.base, accept="text/plain")
        assert answer.status_code == status, answer.text
        assert "<" not in answer.text


async def test_an_unknown_namespace_is_refused(world: World) -> None:
    async with httpx.AsyncClient() as client:
        for page in ("workflows", "schedules", "task-queues", "namespaces", "start"):
            answer = await client.get(f"{world.base}/ui/nowhere/{page}")
            assert answer.status_code in (404, 200 if page == "start" else 404), page


# --- Downloads, streams, the setting ----------------------------------------------------------


async def test_a_downloaded_history_replays(world: World) -> None:
    found = await ask(world, "GET", "/workflows/research")
    run = found.headers["location"].removeprefix("/ui/default")
    answer = await ask(world, "GET", f"{run}/history.json")
    assert "attachment" in answer.headers["content-disposition"]
    replayer = Replayer(workflows=[runs.Research], workflow_runner=UnsandboxedWorkflowRunner())
    history = WorkflowHistory.from_json("research", answer.text)
    assert (await replayer.replay_workflow(history)).replay_failure is None


async def test_a_server_stops_while_a_page_is_followed() -> None:
    async with Server(store="memory:", port=0) as server, httpx.AsyncClient() as client:
        headers = {"accept": "text/event-stream"}
        place = f"http://{server.address}/ui/default/workflows"
        events: list[Any] = []
        async with client.stream("GET", place, headers=headers, timeout=60) as stream:
            lines = stream.aiter_lines()
            async for line in lines:
                if line.startswith("data:"):
                    events.append(json.loads(line.removeprefix("data:")))
                if len(events) == 2:
                    break
            assert {each["id"] for each in events} == {"counts", "workflow_rows"}
            stopping = asyncio.ensure_future(server.__aexit__(None, None, None))
            async for _ in lines:
                pass
            await stopping


async def test_a_codec_endpoint_that_is_no_address_is_refused_at_the_start() -> None:
    with pytest.raises(ValueError, match="console_codec_endpoint"):
        await Server(store="memory:", port=0, console_codec_endpoint="codec").__aenter__()


async def test_without_the_console_its_pages_are_not_there() -> None:
    async with (
        Server(store="memory:", port=0, console=False) as server,
        httpx.AsyncClient() as client,
    ):
        for path in ("/ui", "/ui/default/workflows", "/static/page.js"):
            assert (await client.get(f"http://{server.address}{path}")).status_code == 404
        root = await client.get(f"http://{server.address}/", headers={"accept": "text/html"})
        assert root.headers["content-type"].startswith("text/plain")
        assert "/ui" not in root.text
