"""What there is to call, over HTTP: services, operations, schemas; who has no workers is asked."""

import json
import re
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import pytest_asyncio
from temporalio.api.operatorservice.v1 import request_response_pb2 as ops
from temporalio.client import Client

from durably import Server
from durably.agents.convention import Exposed
from durably.agents.interaction import expose
from tests import desk
from tests.processes import free_port, listening
from tests.stores import dump

HERE = "/namespaces/default/nexus/services"
WORD = {"type": "object", "properties": {"word": {"type": "string"}}, "required": ["word"]}
ECHO = Exposed(
    endpoint="desk", service="Desk", operation="echo", description="Says it twice", tool=True
)
GREETER = Exposed(
    workflow="Greet",
    task_queue="q",
    title="Greeter",
    input_schema=WORD,
    output_schema={"type": "string"},
    tags=["words"],
    agent=True,
    tasks="always",
)


@pytest_asyncio.fixture
async def server(tmp_path: Path) -> AsyncIterator[Server]:
    store = f"sqlite:///{tmp_path}/store.db"
    names = ("default", "other")
    async with Server(
        store=store,
        port=0,
        namespaces=names,
        private_networks_allowed=("127.0.0.0/8",),
        agent_call_timeout_s=20,
    ) as running:
        yield running


@pytest_asyncio.fixture
async def client(server: Server) -> Client:
    found = await Client.connect(server.address)
    await desk.make_endpoint(found)
    return found


@pytest.fixture
def elsewhere(tmp_path: Path) -> Iterator[str]:
    """Host and port of an MCP server and an A2A agent of the SDKs' own."""
    with listening("tests.agents_elsewhere", tmp_path / "log") as address:
        yield address


async def ask(server: Server, path: str, method: str = "GET") -> tuple[int, Any]:
    async with (
        aiohttp.ClientSession() as session,
        session.request(method, f"http://{server.address}{path}") as reply,
    ):
        return reply.status, json.loads(await reply.read() or b"null")


async def lead_to(client: Client, name: str, url: str) -> None:
    request = ops.CreateNexusEndpointRequest()
    request.spec.name = name
    request.spec.target.external.url = url
    await client.operator_service.create_nexus_endpoint(request)


async def test_what_is_exposed_is_told_with_its_schemas(server: Server, client: Client) -> None:
    status, told = await ask(server, HERE)
    (unknown,) = told["services"]
    assert (status, unknown["endpoint"], unknown["kind"]) == (200, "desk", "worker")
    assert "operations" not in unknown
    await expose(client, "twice", ECHO)
    await expose(client, "greeter", GREETER)
    _, told = await ask(server, HERE)
    workflows, of_desk = told["services"]
    assert workflows == {
        "service": "durably.workflows",
        "kind": "workflows",
        "operations": [
            {
                "name": "greeter",
                "title": "Greeter",
                "tags": ["words"],
                "inputSchema": WORD,
                "outputSchema": {"type": "string"},
                "tool": {"server": "/mcp/default", "name": "greeter", "tasks": "always"},
                "agent": "/a2a/default/greeter",
            }
        ],
    }
    path = of_desk.pop("path")
    assert of_desk == {
        "service": "Desk",
        "endpoint": "desk",
        "kind": "worker",
        "operations": [
            {
                "name": "echo",
                "description": "Says it twice",
                "tool": {"server": "/mcp/default", "name": "twice", "tasks": "auto"},
            }
        ],
    }
    assert (await ask(server, f"{HERE}/desk"))[1]["services"] == [{**of_desk, "path": path}]
    assert (await ask(server, f"{HERE}/durably.workflows"))[1]["services"] == [workflows]
    async with desk.worker(client), aiohttp.ClientSession() as session:
        said = await session.post(f"http://{server.address}{path}/echo", json="hi")
        assert (said.status, await said.json()) == (200, "hi, hi")


async def test_each_namespace_has_its_own(server: Server, client: Client) -> None:
    """Endpoints that lead outside are everybody's; those of other namespaces, what is exposed of them."""
    await expose(client, "greeter", GREETER)
    await lead_to(client, "elsewhere", "https://handlers.example/nexus")
    there = "/namespaces/other/nexus/services"
    assert (await ask(server, there))[1]["services"] == [{"endpoint": "elsewhere", "kind": "nexus"}]
    other = await Client.connect(server.address, namespace="other")
    await expose(other, "twice", ECHO)
    await expose(other, "far", Exposed(endpoint="elsewhere", service="Far", operation="walk"))
    found = (await ask(server, there))[1]["services"]
    assert [(each["service"], each["operations"][0]["name"]) for each in found] == [
        ("Desk", "echo"),
        ("Far", "walk"),
    ]


async def test_services_are_read_in_pages(server: Server, client: Client) -> None:
    for name in ("a", "b", "c"):
        await lead_to(client, f"{name}-elsewhere", f"https://{name}.example/nexus")
    found: list[str] = []
    path = f"{HERE}?pageSize=3"
    while path:
        _, told = await ask(server, path)
        found += [each["endpoint"] for each in told["services"]]
        token = told.get("nextPageToken", "")
        path = f"{HERE}?pageSize=3&nextPageToken={token}" if token else ""
    assert found == ["a-elsewhere", "b-elsewhere", "c-elsewhere", "desk"]


async def test_who_has_no_workers_is_asked(server: Server, client: Client, elsewhere: str) -> None:
    await lead_to(client, "tools", f"mcp+http://{elsewhere}/mcp/")
    await lead_to(client, "writer", f"a2a+http://{elsewhere}/agent")
    _, told = await ask(server, HERE)
    listed = {each["endpoint"]: each for each in told["services"]}
    assert listed["tools"] == {
        "endpoint": "tools",
        "kind": "mcp",
        "operationsAt": f"{HERE}/tools",
    }
    status, told = await ask(server, listed["tools"]["operationsAt"])
    (tools,) = told["services"]
    schemas = {each["name"]: each.get("inputSchema") for each in tools["operations"]}
    assert (status, set(schemas["add"]["properties"])) == (200, {"a", "b"})
    (writer,) = (await ask(server, listed["writer"]["operationsAt"]))[1]["services"]
    (send,) = writer["operations"]
    assert (send["name"], "Writes it" in send["description"]) == ("send", True)


async def test_who_does_not_answer_is_named(server: Server, client: Client) -> None:
    await lead_to(client, "tools", f"mcp+http://127.0.0.1:{free_port()}/mcp/")
    status, told = await ask(server, f"{HERE}/tools")
    assert (status, told["details"]["type"]) == (503, "UNAVAILABLE"), told
    assert "tools does not say what it offers: Cannot connect" in told["message"]


FAULTS: list[tuple[str, str, int, str]] = [
    ("GET", f"{HERE}/nobody", 404, "no service or endpoint 'nobody'"),
    ("GET", f"{HERE}/desk/Desk", 404, "not found"),
    ("GET", f"{HERE}/", 404, "no service or endpoint ''"),
    ("POST", HERE, 400, "invalid request method"),
    ("DELETE", f"{HERE}/desk", 400, "invalid request method"),
    ("GET", "/namespaces/nowhere/nexus/services", 404, "Namespace nowhere"),
    ("GET", f"{HERE}?pageSize=many", 400, "pageSize is a number"),
    ("GET", f"{HERE}?nextPageToken=%C3%A9", 400, "nextPageToken"),
]


async def test_a_fault_is_named_and_nothing_changes(
    server: Server, client: Client, tmp_path: Path
) -> None:
    store = f"sqlite:///{tmp_path}/store.db"
    before = dump(store)
    for method, path, expected, message in FAULTS:
        status, told = await ask(server, path, method)
        assert status == expected, (path, told)
        assert re.search(message, told["message"]), (path, told)
    assert dump(store) == before
