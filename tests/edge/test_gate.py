"""What goes before every request: whose name is called, which site sends it, who calls."""

import asyncio
import http.client
import json
import os
import re
import signal
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import grpc
import msgspec
import pytest
import pytest_asyncio
from google.protobuf.empty_pb2 import Empty
from temporalio.api.operatorservice.v1 import request_response_pb2 as ops
from temporalio.api.workflowservice.v1 import request_response_pb2 as ws
from temporalio.client import Client
from temporalio.service import RPCError, RPCStatusCode
from temporalio.worker import UnsandboxedWorkflowRunner, Worker

from durably import Server
from durably.agents.convention import Exposed
from durably.agents.interaction import expose
from durably.config import Config
from durably.edge.console.app import WebConsole
from durably.edge.gate import OPEN, known_host
from durably.edge.health import NAME as HEALTH
from durably.edge.reflection import Reflection
from durably.edge.routes import routes
from durably.service import admission, tokens
from durably.service.access import Access, Role, add_entry, needed
from durably.service.nexus_tokens import for_workflow
from tests import desk
from tests.agents_outside import Greet
from tests.conftest import eventually
from tests.processes import ServerProcess

ROWS = admission.table(())
BOTH = ("application/json", "text/html")


@pytest.mark.parametrize(
    ("host", "listens_on", "names", "known"),
    [
        ("localhost:7233", "127.0.0.1", (), True),
        ("app.localhost", "127.0.0.1", (), True),
        ("127.0.0.1:7233", "127.0.0.1", (), True),
        ("[::1]:7233", "::1", (), True),
        ("evil.example", "127.0.0.1", (), False),
        ("localhost.evil.example", "127.0.0.1", (), False),
        ("Durably.Example:443", "127.0.0.1", ("durably.example",), True),
        ("durably.example.", "127.0.0.1", ("durably.example",), True),
        ("any.example", "0.0.0.0", (), True),
        ("any.example", "0.0.0.0", ("durably.example",), False),
        ("box.local", "box.local", ("durably.example",), True),
        ("evil.example", "localhost", (), False),
        ("", "0.0.0.0", (), False),
        ("[", "0.0.0.0", (), False),
    ],
)
def test_which_names_are_answered(
    host: str, listens_on: str, names: tuple[str, ...], known: bool
) -> None:
    assert known_host(host, Config(host=listens_on, host_names=names)) is known


# --- With tokens ------------------------------------------------------------------------------


class Guarded:
    """A server that asks for tokens, and some tokens."""

    def __init__(self, server: Server, file: Path, tokens: dict[str, str]) -> None:
        self.server = server
        self.file = file
        self.tokens = tokens

    async def client(self, name: str, namespace: str = "default") -> Client:
        token = self.tokens[name]
        return await Client.connect(
            self.server.address, namespace=namespace, api_key=token, tls=False
        )

    async def ask(
        self, method: str, path: str, token: str = "", body: bytes = b"", **headers: str
    ) -> tuple[int, dict[str, str], str]:
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        if token:
            named["authorization"] = f"Bearer {self.tokens.get(token, token)}"
        return await asyncio.to_thread(_ask, self.server.address, method, path, named, body)


def _ask(
    address: str, method: str, path: str, headers: dict[str, str], body: bytes
) -> tuple[int, dict[str, str], str]:
    host, _, port = address.rpartition(":")
    connection = http.client.HTTPConnection(host, int(port), timeout=30)
    try:
        connection.request(method, path, body, headers)
        reply = connection.getresponse()
        names = {name.lower(): value for name, value in reply.getheaders()}
        return reply.status, names, reply.read().decode()
    finally:
        connection.close()


def make_tokens(file: Path) -> dict[str, str]:
    return {
        "reader": add_entry(file, "reader", "read", ("*",)),
        "team": add_entry(file, "team", "write", ("team-*",)),
        "writer": add_entry(file, "writer", "write", ("default",)),
        "admin": add_entry(file, "admin", "admin", ("*",)),
    }


@pytest_asyncio.fixture
async def guarded(tmp_path: Path) -> AsyncIterator[Guarded]:
    file = tmp_path / "tokens.toml"
    tokens = make_tokens(file)
    names = ("default", "team-a", "other")
    async with Server(store="memory:", port=0, namespaces=names, auth_tokens=str(file)) as server:
        yield Guarded(server, file, tokens)


async def test_no_rpc_is_answered_without_a_token(guarded: Guarded) -> None:
    streams = Reflection(frozenset()).streams()
    paths = [path for path in (*ROWS, *streams) if not path.startswith(f"/{HEALTH}/")]
    assert len(paths) > 120
    async with grpc.aio.insecure_channel(guarded.server.address) as channel:
        for metadata, said in (
            ((), "api_key"),
            ((("authorization", "Bearer durably_wrong"),), "not known"),
            ((("authorization", "Basic abc"),), "api_key"),
        ):
            for path in paths:
                call = channel.unary_unary(
                    path, request_serializer=Empty.SerializeToString, response_deserializer=bytes
                )
                with pytest.raises(grpc.aio.AioRpcError) as refused:
                    await call(Empty(), metadata=metadata, timeout=30)
                assert refused.value.code() == grpc.StatusCode.UNAUTHENTICATED, path
                assert said in (refused.value.details() or "")


def every_route() -> list[tuple[str, str]]:
    """(method, path) of all that is served over HTTP."""
    found = [(route.method, re.sub(r"\{[^}]*\}", "x", route.path)) for route in routes(ROWS)]
    access = Access.__new__(Access)
    console = WebConsole(lambda *_: pytest.fail("asked"), Config(), time.time_ns, access)
    for page in console.routes():
        path = re.sub(r"\{[^}]*\}", "x", page.path)
        found += [(method, path) for method in (page.methods or {"GET"}) - {"HEAD"}]
    by_queue = "/namespaces/default/task-queues/q/nexus-services/s/o"
    by_endpoint = "/nexus/endpoints/e/services/s/o"
    for base in (by_queue, by_endpoint):
        found += [("POST", base), ("POST", f"{base}/cancel")]
    nexus = "/namespaces/default/nexus"
    found += [("GET", f"{nexus}/{path}") for path in ("operations", "services", "services/x")]
    found += [("POST", "/mcp/default"), ("GET", "/mcp/default")]
    card = "/a2a/default/agent/.well-known/agent-card.json"
    found += [
        ("GET", card),
        ("POST", "/a2a/default/agent/"),
        ("GET", "/a2a/default/agent/v1/tasks"),
    ]
    found += [("GET", "/metrics"), ("GET", "/openapi.json"), ("GET", "/nothing"), ("GET", "/")]
    return found


async def test_no_path_is_answered_without_a_token(guarded: Guarded) -> None:
    everything = every_route()
    assert len(everything) > 200
    opened = set()
    for method, path in everything:
        if OPEN.fullmatch(path):
            opened.add(path)
            continue
        for headers in ({}, {"authorization": "Bearer durably_wrong"}):
            status, said, body = await asyncio.to_thread(
                _ask, guarded.server.address, method, path, headers, b""
            )
            assert status == 401, (method, path)
            assert said["www-authenticate"].startswith("Bearer"), path
            assert "token" in body
    assert opened == {"/ui/login", "/static/x"}
    for path, status in (("/healthz", 200), ("/nexus/callback", 400), ("/static/x", 404)):
        method = "POST" if path.endswith("callback") else "GET"
        found, _, body = await guarded.ask(method, path)
        assert found == status
        assert "team-a" not in body


@pytest.mark.parametrize(
    "path", ["/ui%2Flogin", "/ui/login/", "//ui/login", "/ui/login%00", "/healthz/"]
)
async def test_what_looks_like_an_open_path_is_not_open(guarded: Guarded, path: str) -> None:
    assert (await guarded.ask("GET", path))[0] == 401


async def test_the_roles_are_those_of_every_rpc() -> None:
    by_role: dict[Role, set[str]] = {role: set() for role in Role}
    for row in ROWS.values():
        by_role[needed(row.name)].add(row.name)
    assert by_role[Role.ADMIN] == {
        "AddOrUpdateRemoteCluster", "AddSearchAttributes", "CreateNexusEndpoint", "DeleteNamespace",
        "DeleteNexusEndpoint", "DeprecateNamespace", "RegisterNamespace", "RemoveRemoteCluster",
        "RemoveSearchAttributes", "UpdateNamespace", "UpdateNexusEndpoint",
    }  # fmt: skip
    changing = re.compile(
        r"(Start|Signal|Terminate|Delete|Reset|Request|Respond|Record|Create|Update|Patch|Set|Pause"
        r"|Unpause|Execute|Stop|Shutdown|Trigger|Poll\w+TaskQueue)"
    )
    assert {name for name in by_role[Role.WRITE] if not changing.match(name)} == set()
    assert {name for name in by_role[Role.READ] if changing.match(name)} == set()


async def test_a_role_may_what_it_says(guarded: Guarded) -> None:
    writer, reader = await guarded.client("writer"), await guarded.client("reader")
    async with Worker(
        writer, task_queue="q", workflows=[Greet], workflow_runner=UnsandboxedWorkflowRunner()
    ):
        done = await writer.execute_workflow(Greet.run, {"name": "Ada"}, id="a", task_queue="q")
    assert done == "Hello, Ada!"
    assert await reader.get_workflow_handle("a").result() == "Hello, Ada!"
    with pytest.raises(RPCError, match="needs the role write in the namespace default") as refused:
        await reader.start_workflow(Greet.run, {}, id="b", task_queue="q")
    assert refused.value.status == RPCStatusCode.PERMISSION_DENIED
    for client, request in (
        (writer, ws.RegisterNamespaceRequest(namespace="default")),
        (await guarded.client("team", "team-a"), ws.RegisterNamespaceRequest(namespace="new")),
    ):
        with pytest.raises(RPCError) as refused:
            await client.workflow_service.register_namespace(request)
        assert refused.value.status == RPCStatusCode.PERMISSION_DENIED


async def test_a_token_counts_in_its_namespaces_alone(guarded: Guarded) -> None:
    team = await guarded.client("team", "team-a")
    assert await team.count_workflows() is not None
    names = await team.workflow_service.list_namespaces(ws.ListNamespacesRequest())
    assert [each.namespace_info.name for each in names.namespaces] == ["team-a"]
    admin = await guarded.client("admin")
    other = await admin.workflow_service.describe_namespace(
        ws.DescribeNamespaceRequest(namespace="other")
    )
    asked: list[Any] = [
        (team.workflow_service.describe_namespace, ws.DescribeNamespaceRequest(namespace="other")),
        (
            team.workflow_service.describe_namespace,
            ws.DescribeNamespaceRequest(namespace="team-a", id=other.namespace_info.id),
        ),
        (
            team.workflow_service.list_workflow_executions,
            ws.ListWorkflowExecutionsRequest(namespace="other"),
        ),
    ]
    for call, request in asked:
        with pytest.raises(RPCError) as refused:
            await call(request)
        assert refused.value.status == RPCStatusCode.PERMISSION_DENIED


async def test_many_callers_at_once_are_not_mixed_up(guarded: Guarded) -> None:
    reader, writer = await guarded.client("reader"), await guarded.client("writer")

    async def start(number: int) -> None:
        if number % 2:
            await writer.start_workflow(Greet.run, {}, id=f"w-{number}", task_queue="q")
            return
        with pytest.raises(RPCError) as refused:
            await reader.start_workflow(Greet.run, {}, id=f"r-{number}", task_queue="q")
        assert refused.value.status == RPCStatusCode.PERMISSION_DENIED

    await asyncio.gather(*(start(number) for number in range(60)))
    assert (await reader.count_workflows()).count == 30


async def test_http_ways_in_know_the_caller(guarded: Guarded) -> None:
    json_type = {"content_type": "application/json"}
    start = b'{"workflowType": {"name": "W"}, "taskQueue": {"name": "q"}}'
    place = "/api/v1/namespaces/default/workflows/h"
    status, _, said = await guarded.ask("POST", place, "reader", start, **json_type)
    assert (status, json.loads(said)["code"]) == (403, 7)
    assert (await guarded.ask("POST", place, "writer", start, **json_type))[0] == 200
    by_queue = "/namespaces/default/task-queues/q/nexus-services/s/o"
    for token, expected in (("team", 403), ("reader", 403)):
        status, _, said = await guarded.ask("POST", by_queue, token)
        assert (status, json.loads(said)["details"]["type"]) == (expected, "UNAUTHORIZED")
    status, _, said = await guarded.ask("POST", by_queue)
    assert (status, json.loads(said)["details"]["type"]) == (401, "UNAUTHENTICATED")
    assert (await guarded.ask("POST", "/mcp/default", "team"))[0] == 403
    assert (await guarded.ask("GET", "/metrics", "team"))[0] == 403
    assert (await guarded.ask("GET", "/metrics", "reader"))[0] == 200


async def test_operations_need_a_role(guarded: Guarded) -> None:
    admin = await guarded.client("admin")
    await admin.start_workflow(Greet.run, {}, id="w", task_queue="q")
    one = {"nexus_operation_token": for_workflow("default", "w")}
    by_token = "/namespaces/default/task-queues/q/nexus-services/s/o"
    listed = "/namespaces/default/nexus/operations"
    assert (await guarded.ask("GET", f"{by_token}/output", "team", **one))[0] == 403
    assert (await guarded.ask("GET", f"{by_token}/output", **one))[0] == 401
    assert (await guarded.ask("GET", f"{listed}/a/output", "team"))[0] == 403
    assert (await guarded.ask("GET", f"{listed}/a/output", "reader"))[0] == 404
    for path in (by_token, f"{by_token}/result"):
        for token, expected in (("reader", (200, 202)), ("writer", (200, 202)), ("team", (403,))):
            assert (await guarded.ask("GET", path, token, **one))[0] in expected, (path, token)
        assert (await guarded.ask("GET", path, **one))[0] == 401
    for token, expected in (("reader", 200), ("team", 403), ("", 401)):
        assert (await guarded.ask("GET", listed, token))[0] == expected
    for path in (f"{listed}/a", f"{listed}/a/result"):
        for token, expected in (("reader", 404), ("team", 403), ("", 401)):
            assert (await guarded.ask("GET", path, token))[0] == expected
    for token, expected in (("writer", 404), ("reader", 403), ("team", 403), ("", 401)):
        assert (await guarded.ask("POST", f"{listed}/a/cancel", token))[0] == expected
    for path in (f"{listed}/a/questions/k", f"{by_token}/questions/k"):
        for token, expected in (("writer", (404, 409)), ("reader", (403,)), ("team", (403,))):
            status, _, said = await guarded.ask("POST", path, token, b"{}", **one)
            assert status in expected, (path, token, said)


async def test_services_need_a_role(guarded: Guarded) -> None:
    """Who may only read has nobody outside asked."""
    admin = await guarded.client("admin")
    request = ops.CreateNexusEndpointRequest()
    request.spec.name = "tools"
    request.spec.target.external.url = "mcp+https://tools.example/mcp"
    await admin.operator_service.create_nexus_endpoint(request)
    listed = "/namespaces/default/nexus/services"
    for token, expected in (("reader", 200), ("writer", 200), ("team", 403), ("", 401)):
        assert (await guarded.ask("GET", listed, token))[0] == expected
    for token, expected in (("reader", 403), ("team", 403), ("", 401)):
        assert (await guarded.ask("GET", f"{listed}/tools", token))[0] == expected


async def test_push_configs_need_a_role(guarded: Guarded) -> None:
    admin = await guarded.client("admin")
    greeter = Exposed(workflow="Greet", task_queue="q", agent=True)
    await expose(admin, "greeter", greeter)
    json_type = {"content_type": "application/json", "a2a_version": "1.0"}
    place = "/a2a/default/greeter/v1"
    said = {"messageId": "m", "role": "ROLE_USER", "parts": [{"text": "hi"}]}
    begin = {"message": said, "configuration": {"returnImmediately": True}}
    status, _, shown = await guarded.ask(
        "POST", f"{place}/message:send", "writer", json.dumps(begin).encode(), **json_type
    )
    assert status == 200, shown
    configs = f"{place}/tasks/{json.loads(shown)['task']['id']}/pushNotificationConfigs"
    body = json.dumps({"id": "c", "url": "https://a.example/x"}).encode()
    for token in ("reader", "team", ""):
        status, _, shown = await guarded.ask("POST", configs, token, body, **json_type)
        assert status >= 400, (token, shown)
    assert (await guarded.ask("POST", configs, "writer", body, **json_type))[0] == 200
    for token in ("reader", "team", ""):
        status, _, shown = await guarded.ask("DELETE", f"{configs}/c", token, **json_type)
        assert status >= 400, (token, shown)
    status, _, shown = await guarded.ask("GET", configs, "reader", **json_type)
    assert (status, [each["id"] for each in json.loads(shown)["configs"]]) == (200, ["c"])
    assert (await guarded.ask("GET", configs, "team", **json_type))[0] == 403


async def test_a_stream_is_told_nothing_once_its_token_is_revoked(guarded: Guarded) -> None:
    admin = await guarded.client("admin")
    await admin.start_workflow(
        desk.Work.run, "publishes p", id="work-publishes p", task_queue="desk"
    )
    place = "/namespaces/default/task-queues/desk/nexus-services/s/o/output"
    headers = {
        "authorization": f"Bearer {guarded.tokens['writer']}",
        "nexus-operation-token": for_workflow("default", "work-publishes p"),
    }
    url = f"http://{guarded.server.address}{place}"
    async with (
        desk.worker(admin),
        aiohttp.ClientSession() as session,
        session.get(url, headers=headers) as reply,
    ):
        while b"begun" not in await reply.content.readline():
            pass
        text = guarded.file.read_text()
        entry = next(each for each in text.split("\n\n") if '"writer"' in each)
        guarded.file.write_text(text.replace(entry, ""))
        guarded.server.reload_tokens()
        await desk.tell(admin, "publishes p", "secret")
        rest = (await reply.content.read()).decode()
    assert "event: refused" in rest
    assert "UNAUTHENTICATED" in rest
    assert "secret" not in rest


async def test_a_browser_logs_in_and_out(guarded: Guarded) -> None:
    page = {"accept": "text/html"}
    status, said, _ = await guarded.ask("GET", "/ui/default/workflows", **page)
    assert (status, said["location"]) == (303, "/ui/login?next=%2Fui%2Fdefault%2Fworkflows")
    status, _, form = await guarded.ask("GET", said["location"], **page)
    assert status == 200
    assert 'value="/ui/default/workflows"' in form
    own = {"origin": f"http://{guarded.server.address}"}
    kind = {"content_type": "application/x-www-form-urlencoded"}
    wrong = await guarded.ask("POST", "/ui/login", body=b"token=nothing", **own, **kind)
    assert wrong[0] == 401
    assert "set-cookie" not in wrong[1]
    body = f"token={guarded.tokens['reader']}&next=//evil.example".encode()
    status, said, _ = await guarded.ask("POST", "/ui/login", body=body, **own, **kind)
    assert (status, said["location"]) == (303, "/ui")
    cookie = said["set-cookie"]
    assert "HttpOnly" in cookie
    assert "samesite=strict" in cookie.lower()
    assert guarded.tokens["reader"] not in cookie
    session = {"cookie": cookie.partition(";")[0]}
    status, _, shown = await guarded.ask("GET", "/ui/default/workflows", **page, **session)
    assert status == 200
    assert "reader" in shown
    # The cookie is the console's alone, and cannot be changed into another's.
    assert (await guarded.ask("GET", "/api/v1/namespaces", **session))[0] == 401
    forged = session["cookie"].replace(b"reader".hex(), b"admin".hex())
    assert (await guarded.ask("GET", "/ui/default/workflows", cookie=forged))[0] == 401
    status, said, _ = await guarded.ask("POST", "/ui/logout", **own, **session)
    assert status == 303
    assert "Max-Age=0" in said["set-cookie"]


async def test_who_is_taken_out_of_the_file_is_refused_at_once(guarded: Guarded) -> None:
    writer, admin = await guarded.client("writer"), await guarded.client("admin")
    waiting = asyncio.create_task(
        writer.workflow_service.poll_workflow_task_queue(
            ws.PollWorkflowTaskQueueRequest(namespace="default")
        )
    )
    text = guarded.file.read_text()
    entry = next(each for each in text.split("\n\n") if '"writer"' in each)
    guarded.file.write_text(text.replace(entry, ""))
    guarded.server.reload_tokens()
    with pytest.raises(RPCError) as refused:
        await writer.count_workflows()
    assert refused.value.status == RPCStatusCode.UNAUTHENTICATED
    assert (await admin.count_workflows()).count == 0
    # A file that cannot be used changes nothing.
    guarded.file.write_text("[[token]]\nname = 3\n")
    guarded.server.reload_tokens()
    assert (await admin.count_workflows()).count == 0
    waiting.cancel()


def test_tokens_are_made_reloaded_and_in_no_log(tmp_path: Path) -> None:
    file = tmp_path / "tokens.toml"
    tokens = make_tokens(file)
    assert file.stat().st_mode & 0o777 == 0o600
    assert not any(token in file.read_text() for token in tokens.values())
    server = ServerProcess(
        tmp_path / "store.db", "--auth-tokens", str(file), "--log-level", "debug"
    )

    async def use() -> None:
        for token in tokens.values():
            client = await Client.connect(server.address, api_key=token, tls=False)
            await client.workflow_service.get_cluster_info(ws.GetClusterInfoRequest())
            headers = {"authorization": f"Bearer {token}"}
            _ask(server.address, "GET", "/openapi.json", headers, b"")
            _ask(server.address, "GET", "/mcp/default", {**headers, "accept": "text/html"}, b"")
        added = add_entry(file, "late", "read", ("default",))
        client = await Client.connect(server.address, api_key=tokens["admin"], tls=False)
        assert server.process is not None
        os.kill(server.process.pid, signal.SIGHUP)

        async def known() -> bool:
            headers = {"authorization": f"Bearer {added}"}
            return _ask(server.address, "GET", "/openapi.json", headers, b"")[0] == 200

        await eventually(known)
        tokens["late"] = added

    try:
        server.start()
        asyncio.run(use())
    finally:
        server.kill()
    log = server.log.read_text()
    assert "rpc=GetClusterInfo" in log
    assert not any(token in log for token in tokens.values())
    assert not any(token.removeprefix("durably_")[:20] in log for token in tokens.values())


async def test_a_task_token_of_another_namespace_cannot_be_made(guarded: Guarded) -> None:
    """Task tokens are not signed: one that names this namespace, and an execution of another, is refused."""
    admin = await guarded.client("admin", "other")
    await admin.start_workflow(Greet.run, {}, id="theirs", task_queue="q")
    request = ws.PollWorkflowTaskQueueRequest(namespace="other", identity="w")
    request.task_queue.name = "q"
    task = await admin.workflow_service.poll_workflow_task_queue(request)
    writer = await guarded.client("writer")
    own = await writer.workflow_service.describe_namespace(
        ws.DescribeNamespaceRequest(namespace="default")
    )
    read = tokens.read_task(task.task_token)
    forged = tokens.encode(msgspec.structs.replace(read, namespace_id=own.namespace_info.id))
    with pytest.raises(RPCError, match="different namespace"):
        await writer.workflow_service.respond_workflow_task_completed(
            ws.RespondWorkflowTaskCompletedRequest(namespace="default", task_token=forged)
        )
    with pytest.raises(RPCError, match="different namespace"):
        await writer.workflow_service.respond_workflow_task_failed(
            ws.RespondWorkflowTaskFailedRequest(namespace="default", task_token=forged)
        )
    await admin.workflow_service.respond_workflow_task_completed(
        ws.RespondWorkflowTaskCompletedRequest(namespace="other", task_token=task.task_token)
    )
