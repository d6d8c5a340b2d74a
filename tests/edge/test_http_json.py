"""The HTTP/JSON API: the same handlers, reached with nothing but an HTTP client."""

import asyncio
import http.client
import json
import re
from collections.abc import Mapping
from typing import Any

import grpc
import pytest
from google.api import annotations_pb2
from google.protobuf import json_format
from google.protobuf.message_factory import GetMessageClass
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from openapi_spec_validator import OpenAPIV30SpecValidator
from temporalio.api.common.v1 import message_pb2 as common
from temporalio.client import Client
from temporalio.worker import UnsandboxedWorkflowRunner, Worker

from durably import Server
from durably.edge import payload_json
from durably.edge.routes import Router, routes
from durably.errors import HTTP_STATUS, Status
from durably.service import admission
from tests.api.bad_input.test_bad_input import messages
from tests.cli.test_temporal_cli import Basket

TABLE = admission.table(())
REQUESTS = sorted({route.rpc.request for route in routes(TABLE)}, key=lambda kind: kind.__name__)
WORKFLOWS = "/api/v1/namespaces/default/workflows"


async def ask(
    server: Server,
    method: str,
    path: str,
    body: Any = None,
    *,
    headers: Mapping[str, str] | None = None,
    raw: bytes | None = None,
) -> tuple[int, Any]:
    """The status, and the JSON that comes back."""

    def send() -> tuple[int, Any]:
        connection = http.client.HTTPConnection(server.address, timeout=30)
        given = {"content-type": "application/json", **(headers or {})}
        data = raw if raw is not None else json.dumps(body).encode() if body is not None else None
        connection.request(method, path, data, given)
        response = connection.getresponse()
        text = response.read().decode()
        connection.close()
        return response.status, json.loads(text) if text.startswith(("{", "[")) else text

    return await asyncio.to_thread(send)


async def test_a_workflow_is_started_signalled_queried_and_read(
    server: Server, client: Client
) -> None:
    start = {
        "workflowType": {"name": "Basket"},
        "taskQueue": {"name": "q"},
        "memo": {"fields": {"colour": "blue"}},
    }
    status, started = await ask(server, "POST", f"{WORKFLOWS}/b%2F1", start)
    assert status == 200
    assert started["started"] is True
    async with Worker(
        client,
        task_queue="q",
        workflows=[Basket],
        workflow_runner=UnsandboxedWorkflowRunner(),
    ):
        signal = {"input": ["apple"]}
        status, _ = await ask(server, "POST", f"{WORKFLOWS}/b%2F1/signal/add", signal)
        assert status == 200
        status, answer = await ask(server, "POST", f"{WORKFLOWS}/b%2F1/query/content", {})
        assert status == 200
        assert answer["queryResult"] == [["apple"]]
        await ask(server, "POST", f"{WORKFLOWS}/b%2F1/signal/close", {})
        result = await client.get_workflow_handle("b/1").result()
    assert result == ["apple"]
    status, history = await ask(server, "GET", f"{WORKFLOWS}/b%2F1/history?maximumPageSize=2")
    assert [event["eventType"] for event in history["history"]["events"]] == [
        "EVENT_TYPE_WORKFLOW_EXECUTION_STARTED",
        "EVENT_TYPE_WORKFLOW_TASK_SCHEDULED",
    ]
    assert history["nextPageToken"]
    started = history["history"]["events"][0]["workflowExecutionStartedEventAttributes"]
    assert started["memo"] == {"fields": {"colour": "blue"}}


async def test_lists_take_their_parameters_from_the_query(server: Server, client: Client) -> None:
    for number in range(3):
        await client.start_workflow("Any", id=f"w{number}", task_queue="q")
    status, found = await ask(server, "GET", f"{WORKFLOWS}?pageSize=2&query=WorkflowType%3D'Any'")
    assert status == 200
    assert len(found["executions"]) == 2
    status, counted = await ask(server, "GET", "/api/v1/namespaces/default/workflow-count?query=")
    assert (status, counted["count"]) == (200, "3")
    status, described = await ask(server, "GET", f"{WORKFLOWS}/w1")
    assert described["workflowExecutionInfo"]["execution"]["workflowId"] == "w1"


async def test_payloads_are_written_out_for_those_who_ask(server: Server) -> None:
    written = {"payloads": [{"metadata": {"encoding": "anNvbi9wbGFpbg=="}, "data": "MQ=="}]}
    body = {"workflowType": {"name": "W"}, "taskQueue": {"name": "q"}, "input": written}
    plain = {"content-type": "application/json+no-payload-shorthand"}
    status, _ = await ask(server, "POST", f"{WORKFLOWS}/w", body, headers=plain)
    assert status == 200
    path = f"{WORKFLOWS}/w/history"
    name = "workflowExecutionStartedEventAttributes"
    _, short = await ask(server, "GET", path)
    assert short["history"]["events"][0][name]["input"] == [1]
    accept = {"accept": "application/json+no-payload-shorthand"}
    _, long = await ask(server, "GET", path, headers=accept)
    assert long["history"]["events"][0][name]["input"] == written


@pytest.mark.parametrize(
    ("method", "path", "raw", "code", "said"),
    [
        ("POST", f"{WORKFLOWS}/w", b"{", 400, "not JSON"),
        ("POST", f"{WORKFLOWS}/w", b"[]", 400, "not a JSON object"),
        ("POST", f"{WORKFLOWS}/w", b'{"noSuchField": 1}', 400, "noSuchField"),
        ("POST", f"{WORKFLOWS}/w", b'{"workflowType": 5}', 400, "workflowType"),
        ("POST", f"{WORKFLOWS}/w", b"{}", 400, "not set"),
        ("GET", f"{WORKFLOWS}?noSuch=1", None, 400, "noSuch"),
        ("GET", f"{WORKFLOWS}?pageSize=many", None, 400, "page"),
        ("GET", f"{WORKFLOWS}/nobody", None, 404, "nobody"),
        ("GET", "/api/v1/namespaces/nowhere/workflows", None, 404, "nowhere"),
        ("PUT", f"{WORKFLOWS}/w", b"{}", 405, "GET or POST"),
    ],
)
async def test_a_mistake_is_told(
    server: Server, method: str, path: str, raw: bytes | None, code: int, said: str
) -> None:
    status, answer = await ask(server, method, path, raw=raw)
    assert status == code
    assert said.lower() in answer["message"].lower()


async def test_no_other_site_can_change_anything(server: Server, client: Client) -> None:
    start = {"workflowType": {"name": "W"}, "taskQueue": {"name": "q"}}
    for headers in (
        {"content-type": "text/plain"},
        {"content-type": "application/x-www-form-urlencoded"},
        {"origin": "http://evil.example"},
    ):
        status, _ = await ask(server, "POST", f"{WORKFLOWS}/w", start, headers=headers)
        assert status in (400, 403)
    assert (await client.count_workflows()).count == 0
    own = {"origin": f"http://{server.address}"}
    assert (await ask(server, "POST", f"{WORKFLOWS}/w", start, headers=own))[0] == 200


async def test_a_body_over_the_limit_is_refused() -> None:
    async with Server(store="memory:", port=0, message_bytes_max=10_000) as server:
        status, answer = await ask(server, "POST", f"{WORKFLOWS}/w", raw=b" " * 10_001)
    assert status == 429
    assert "message_bytes_max" in answer["message"]


async def test_what_is_not_built_says_so(server: Server) -> None:
    status, answer = await ask(server, "GET", "/api/v1/namespaces/default/deployments")
    assert (status, answer["code"]) == (501, 12)


async def test_the_document_is_valid_and_names_every_route(server: Server) -> None:
    status, document = await ask(server, "GET", "/openapi.json")
    assert status == 200
    OpenAPIV30SpecValidator(document).validate()
    named = {
        (path, method.upper())
        for path, operations in document["paths"].items()
        for method in operations
    }
    assert named == {(route.path, route.method) for route in routes(TABLE)}


def test_every_route_is_found_by_its_path() -> None:
    router = Router(routes(TABLE))
    for route in routes(TABLE):
        path = "/".join("x%2Fy" if s.startswith("{") else s for s in route.segments)
        found, values = router.find("/" + path)
        assert found[route.method].rpc == route.rpc
        assert values == ["x/y"] * len(values)
    assert router.find("/api/v1/no/such/path") == ({}, [])
    assert router.find("/") == ({}, [])


@pytest.mark.parametrize("kind", REQUESTS, ids=lambda kind: kind.__name__)
@settings(max_examples=8, deadline=None, suppress_health_check=list(HealthCheck))
@given(data=st.data(), shorthand=st.booleans())
def test_what_is_written_is_read_again(kind: Any, data: st.DataObject, shorthand: bool) -> None:
    try:
        message = data.draw(messages(kind))
        written = payload_json.write(message, shorthand=shorthand, pretty=False)
    except (json_format.SerializeToJsonError, ValueError):
        return  # A time or a duration that JSON cannot say.
    again = GetMessageClass(kind.DESCRIPTOR)()
    payload_json.read(written.encode(), again, shorthand=shorthand)
    # Messages differ where JSON cannot tell them apart: what is not a number, a mask of no name.
    assert payload_json.write(again, shorthand=shorthand, pretty=False) == written


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


@given(value=VALUES)
def test_any_json_is_a_payload_and_comes_back(value: Any) -> None:
    found = common.Payloads()
    payload_json.fill([value], found, shorthand=True)  # type: ignore[arg-type]
    assert json.loads(payload_json.write(found, shorthand=True, pretty=False)) == [value]


def annotated() -> list[tuple[str, str, str]]:
    """RPC, HTTP method and path of every binding in the API's own descriptors."""
    found = []
    for service in admission.SERVICES:
        for method in service.methods:
            rule = method.GetOptions().Extensions[annotations_pb2.http]
            for each in (rule, *rule.additional_bindings):
                verb = each.WhichOneof("pattern")
                if verb is not None:
                    path = f"/{service.full_name}/{method.name}"
                    found.append((path, verb.upper(), getattr(each, verb)))
    return found


async def test_every_annotated_rpc_is_answered_as_over_grpc(server: Server) -> None:
    """The same request, with nothing but the variables of its path, hears the same either way."""
    bindings = annotated()
    assert len({rpc for rpc, _, _ in bindings}) > 100
    async with grpc.aio.insecure_channel(server.address) as channel:
        for rpc, method, template in bindings:
            row = TABLE[rpc]
            variables = re.findall(r"{([^}=]+)[^}]*}", template)
            values = {name: "default" if name == "namespace" else "none-such" for name in variables}
            path = re.sub(r"{([^}=]+)[^}]*}", lambda found: values[found[1]], template)  # noqa: B023
            request = row.request()
            for name, value in values.items():
                *outer, last = name.split(".")
                owner = request
                for part in outer:
                    owner = getattr(owner, part)
                kind = owner.DESCRIPTOR.fields_by_name[last].enum_type
                if kind is None:
                    setattr(owner, last, value)
                else:
                    setattr(owner, last, kind.values[1].number)
                    path = path.replace(value, kind.values[1].name)
            call = channel.unary_unary(
                rpc,
                request_serializer=lambda m: m.SerializeToString(),
                response_deserializer=row.response.FromString,
            )
            try:
                await call(request, timeout=20)
                expected = (200, None)
                path = path.replace(
                    "none-such", "none-other"
                )  # What it may have made is there now.
            except grpc.aio.AioRpcError as error:
                code = Status(error.code().value[0])
                expected = (HTTP_STATUS[code], error.details())
            body = {} if method in ("POST", "PUT", "PATCH") else None
            status, answer = await ask(server, method, path, body)
            said = answer.get("message") if status != 200 else None
            assert (status, said) == expected, f"{method} {path}"
