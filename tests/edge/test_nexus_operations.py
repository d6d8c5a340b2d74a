"""Operations over HTTP: how they stand, their results, their questions."""

import asyncio
import re
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import pytest_asyncio
from temporalio.api.workflowservice.v1 import request_response_pb2 as ws
from temporalio.client import Client

from durably import Server
from durably.service.nexus_tokens import for_workflow
from tests import desk
from tests.callers import Asking
from tests.conftest import eventually
from tests.stores import dump

HERE = "/namespaces/default/nexus/operations"
BASE = f"/namespaces/default/task-queues/{desk.QUEUE}/nexus-services"
WAITS = {"Durably-Wait": "60s"}
ACCEPT = {"action": "accept", "content": {"colour": "red"}}


@pytest.fixture
def store(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path}/store.db"


@pytest_asyncio.fixture
async def server(store: str) -> AsyncIterator[Server]:
    async with Server(store=store, port=0) as running:
        yield running


@pytest_asyncio.fixture
async def client(server: Server) -> AsyncIterator[Client]:
    async with desk.beside_worker(server.address) as found:
        yield found


@pytest_asyncio.fixture
async def ask(server: Server) -> AsyncIterator[Asking]:
    async with aiohttp.ClientSession() as session:
        yield Asking(server.address, session)


async def test_standalone_operations_are_listed_and_polled(client: Client, ask: Asking) -> None:
    await desk.start(client, "one", "waits one")
    await desk.start(client, "two", "hi", "echo")
    status, said, body = await ask("GET", f"{HERE}/two/result", **WAITS)
    assert (status, said["nexus-operation-state"], body) == (200, "succeeded", "hi, hi")
    assert said["content-type"] == "application/json"
    status, said, told = await ask("GET", f"{HERE}/one")
    assert (status, said["nexus-operation-state"], told["state"]) == (200, "running", "running")
    assert {**told, "runId": "", "created": "", "message": ""} == {
        "id": "one",
        "runId": "",
        "endpoint": "desk",
        "service": "Desk",
        "operation": "carry",
        "state": "running",
        "created": "",
        "message": "",
    }
    assert (await ask("GET", f"{HERE}/one/result"))[0] == 202
    waiting = asyncio.create_task(ask("GET", f"{HERE}/one/result", **WAITS))
    await desk.tell(client, "waits one", "go")
    assert (await waiting)[::2] == (200, "waits one: go")
    status, _, first = await ask("GET", f"{HERE}?pageSize=1")
    _, _, second = await ask("GET", f"{HERE}?pageSize=1&nextPageToken={first['nextPageToken']}")
    rows = first["operations"] + second["operations"]
    assert sorted((each["id"], each["state"], "closed" in each) for each in rows) == [
        ("one", "succeeded", True),
        ("two", "succeeded", True),
    ]
    _, _, found = await ask("GET", f"{HERE}?query=Operation%3D%22carry%22")
    assert [each["id"] for each in found["operations"]] == ["one"]


async def test_the_result_of_what_a_worker_started_is_had_by_its_token(
    client: Client, ask: Asking
) -> None:
    token = await ask.started("waits token")
    named = {"Nexus-Operation-Token": token}
    status, said, told = await ask("GET", f"{BASE}/Desk/carry", **named)
    assert (status, told["state"]) == (200, "running")
    waiting = asyncio.create_task(ask("GET", f"{BASE}/Desk/carry/result", **named, **WAITS))
    await desk.tell(client, "waits token", "go")
    status, said, body = await waiting
    assert (status, said["nexus-operation-state"]) == (200, "succeeded")
    assert body == "waits token: go"
    by_query = await ask("GET", f"{BASE}/Desk/carry/result?token={token}")
    assert by_query[0] == 200


async def test_an_operation_that_did_not_succeed_says_why(client: Client, ask: Asking) -> None:
    """As its completion callback would."""
    handles = {kind: client.get_workflow_handle(f"work-waits {kind}") for kind in "ct"}
    tokens = {kind: await ask.started(f"waits {kind}") for kind in "ct"}
    tokens |= {kind: await ask.started(kind) for kind in ("fails", "times-out")}
    await handles["c"].cancel()
    await handles["t"].terminate()
    expected = {
        "c": ("canceled", "operation canceled"),
        "t": ("failed", "operation terminated"),
        "fails": ("failed", "as expected"),
        "times-out": ("failed", "operation exceeded internal timeout"),
    }
    for kind, (state, message) in expected.items():
        named = {"Nexus-Operation-Token": tokens[kind]}
        status, said, told = await ask("GET", f"{BASE}/Desk/carry/result", **named, **WAITS)
        assert (status, said["nexus-operation-state"]) == (424, state)
        assert told["message"] == message
        named["Temporal-Nexus-Failure-Support"] = "true"
        _, _, told = await ask("GET", f"{BASE}/Desk/carry/result", **named)
        assert told["cause"]["message"] == message
        assert told["details"] == {"state": state}
    await desk.start(client, "failing", "fails")
    status, said, told = await ask("GET", f"{HERE}/failing/result", **WAITS)
    assert (status, said["nexus-operation-state"]) == (424, "failed")


async def test_what_waits_for_a_person_says_so_and_is_answered(client: Client, ask: Asking) -> None:
    token = {"Nexus-Operation-Token": await ask.started("asks token")}
    await desk.start(client, "asking", "asks standalone")
    for path, named in ((f"{BASE}/Desk/carry", token), (f"{HERE}/asking", {})):
        status, said, told = await ask("GET", f"{path}/result", **named, **WAITS)
        assert (status, said["nexus-operation-state"]) == (202, "input_required")
        assert told["state"] == "input_required"
        asked = told["questions"]["the colour"]
        assert asked["params"]["message"] == "Which colour?"
        assert asked["params"]["requestedSchema"] == desk.COLOUR
        known = {**named, **WAITS, "Durably-Known-Questions": "other, the%20colour"}
        waiting = asyncio.create_task(ask("GET", f"{path}/result", **known))
        refused = await ask("POST", f"{path}/questions/the%20colour", {"wrong": 1}, **named)
        assert (refused[0], refused[2]["details"]["type"]) == (400, "BAD_REQUEST")
        assert "action" in refused[2]["message"]
        answered = await ask("POST", f"{path}/questions/the%20colour", ACCEPT, **named)
        assert answered[0] == 200
        assert (await waiting)[::2] == (200, "painted red")
        again = await ask("POST", f"{path}/questions/the%20colour", ACCEPT, **named)
        assert (again[0], again[2]["details"]["type"]) == (409, "CONFLICT")


async def test_a_standalone_operation_is_canceled(client: Client, ask: Asking) -> None:
    await desk.start(client, "long", "waits long")
    for _ in range(2):
        assert (await ask("POST", f"{HERE}/long/cancel"))[0] == 202
    status, said, _ = await ask("GET", f"{HERE}/long/result", **WAITS)
    assert (status, said["nexus-operation-state"]) == (424, "canceled")


async def test_a_wait_ends_when_the_server_stops() -> None:
    async with Server(store="memory:", port=0) as server, aiohttp.ClientSession() as session:
        client = await Client.connect(server.address)
        await client.start_workflow("Nobody", id="w", task_queue="q")
        token = {"Nexus-Operation-Token": for_workflow("default", "w")}
        ask = Asking(server.address, session)
        waiting = asyncio.create_task(ask("GET", f"{BASE}/s/o/result", **token, **WAITS))
        await eventually(is_waiting)
        await server.__aexit__(None, None, None)
        status, said, _ = await waiting
    assert (status, said["nexus-operation-state"]) == (202, "running")


async def is_waiting() -> bool:
    """Whether the server, which is in this process, waits for news of a call."""
    return any("wait_for_news" in repr(task.get_coro()) for task in asyncio.all_tasks())


# --- Bad input --------------------------------------------------------------------------------

TOKENS = {
    "of nobody": for_workflow("default", "nobody"),
    "of another namespace": for_workflow("other", "w"),
    "of an activity": "eyJ0IjoyLCJucyI6ImRlZmF1bHQiLCJhaWQiOiJhIn0",
    "none": "not a token",
    "deep": "W1tb" * 1500,
    "a number": "MQ",
    "without a workflow": "eyJ0IjoxLCJucyI6ImRlZmF1bHQifQ",
}
FAULTS: list[tuple[str, str, dict[str, str], Any, int, str]] = [
    ("GET", f"{HERE}/nobody", {}, None, 404, "operation not found for ID: nobody"),
    ("GET", f"{HERE}/nobody/result", {}, None, 404, "operation not found for ID: nobody"),
    ("GET", f"{HERE}/{'x' * 1001}", {}, None, 400, "operation_id exceeds length limit"),
    ("GET", f"{HERE}/one?runId=1", {}, None, 400, "run_id is not a valid UUID"),
    ("GET", f"{HERE}/one/nothing", {}, None, 404, "not found"),
    ("GET", f"{HERE}/one/result/more", {}, None, 404, "not found"),
    ("GET", f"{HERE}/", {}, None, 400, "operation_id is required"),
    ("POST", HERE, {}, None, 400, "invalid request method"),
    ("POST", f"{HERE}/one", {}, None, 400, "invalid request method"),
    ("POST", f"{HERE}/one/result", {}, None, 400, "invalid request method"),
    ("DELETE", f"{HERE}/one/cancel", {}, None, 404, "not found"),
    ("GET", f"{HERE}/one/questions/k", {}, None, 400, "invalid request method"),
    ("GET", "/namespaces/nowhere/nexus/operations", {}, None, 404, "Namespace nowhere"),
    ("GET", "/namespaces/nowhere/nexus/operations/one", {}, None, 404, "Namespace nowhere"),
    ("GET", f"{HERE}?query=%3D%3D", {}, None, 400, "invalid query"),
    ("GET", f"{HERE}?pageSize=many", {}, None, 400, "pageSize is a number"),
    ("GET", f"{HERE}?pageSize=-1", {}, None, 400, "pageSize is a number"),
    ("GET", f"{HERE}?nextPageToken=%C3%A9", {}, None, 400, "nextPageToken"),
    ("GET", f"{HERE}?nextPageToken=AAAA", {}, None, 400, "(?i)token"),
    ("GET", f"{HERE}/one/result", {"Durably-Wait": "long"}, None, 400, "write it as 30s"),
    ("GET", f"{HERE}/one/result", {"Durably-Wait": "-1s"}, None, 400, "write it as 30s"),
    ("POST", f"{HERE}/one/questions/k", {}, ACCEPT, 409, "'k' is not asked; waiting for: nothing"),
    ("POST", f"{HERE}/one/questions/k", {}, b"{", 400, "an answer is JSON"),
    ("POST", f"{HERE}/one/questions/k", {}, b'"\\ud800"', 400, "an answer is JSON"),
    ("POST", f"{HERE}/one/questions/k", {}, b"[" * 9000, 400, "an answer is JSON"),
    ("POST", f"{HERE}/nobody/questions/k", {}, ACCEPT, 404, "operation not found"),
    ("POST", f"{HERE}/nobody/cancel", {}, None, 404, "operation not found"),
    ("GET", f"{BASE}/Desk/carry", {}, None, 400, "expected POST"),
    ("GET", f"{BASE}/Desk", {"token": "of nobody"}, None, 404, "not found"),
    ("GET", f"{BASE}/Desk/carry", {"token": "of nobody"}, None, 404, "(?i)workflow.*not found"),
    ("GET", f"{BASE}/Desk/carry", {"token": "of another namespace"}, None, 404, "namespace"),
    ("GET", f"{BASE}/Desk/carry", {"token": "of an activity"}, None, 404, "activity not found for ID: a"),
    ("GET", f"{BASE}/Desk/carry", {"token": "none"}, None, 501, "completion callback"),
    ("GET", f"{BASE}/Desk/carry", {"token": "deep"}, None, 501, "completion callback"),
    ("GET", f"{BASE}/Desk/carry", {"token": "a number"}, None, 501, "completion callback"),
    ("GET", f"{BASE}/Desk/carry", {"token": "without a workflow"}, None, 501, "completion callback"),
    ("POST", f"{BASE}/Desk/carry/questions/k", {}, ACCEPT, 400, "missing operation token"),
    ("POST", f"{BASE}/Desk/carry/questions/k", {"token": "of nobody"}, ACCEPT, 404, "not found"),
]  # fmt: skip


async def test_a_fault_is_named_and_nothing_changes(
    server: Server, store: str, ask: Asking
) -> None:
    client = await Client.connect(server.address)
    await desk.make_endpoint(client)
    await desk.start(client, "one", "waits for no worker")

    async def is_on_disk() -> bool:
        """Its first request waits for a worker."""
        described = await client.workflow_service.describe_nexus_operation_execution(
            ws.DescribeNexusOperationExecutionRequest(namespace="default", operation_id="one")
        )
        return described.info.attempt == 1

    await eventually(is_on_disk)
    before = dump(store)
    for method, path, headers, body, expected, message in FAULTS:
        sent = dict(headers)
        if "token" in sent:
            sent = {"Nexus-Operation-Token": TOKENS[sent["token"]]}
        status, _, told = await ask(method, path, body, **sent)
        assert status == expected, (path, told)
        assert told["details"]["type"], path
        assert re.search(message, told["message"]), (path, told)
    assert dump(store) == before
