"""Bad input gets a status that says so, and changes nothing.

Rule 1: "nothing" is every row of every table of the store.
"""

import re
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import pytest
import pytest_asyncio
from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.json_format import ParseDict
from google.protobuf.message import DecodeError, Message
from google.protobuf.message_factory import GetMessageClass
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from temporalio.client import Client

from durably import Server
from tests.api.bad_input.cases import WITHOUT_FAULT, Case, generated, written
from tests.api.bad_input.wire import call, implemented
from tests.conftest import new_store
from tests.stores import dump

CASES = [*written(), *generated(implemented())]
PATHS = {rpc.name: path for path, rpc in implemented().items()}
LOST = (grpc.StatusCode.INTERNAL, grpc.StatusCode.UNKNOWN)
UNDECIDED = (grpc.StatusCode.OK, grpc.StatusCode.DEADLINE_EXCEEDED)
"""What may have changed something: it was done, or the caller did not wait for the answer."""

pytestmark = pytest.mark.asyncio(loop_scope="module")


@dataclass
class Target:
    channel: grpc.aio.Channel
    store: str

    def dump(self) -> dict[str, list[Any]]:
        """Every row of the store."""
        return dump(self.store)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def target(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[Target]:
    """A server that holds one open workflow, so that there is something to be spoilt."""
    store = new_store(request, tmp_path_factory.mktemp("bad_input"))
    async with Server(store=store, port=0) as server:
        client = await Client.connect(server.address)
        await client.start_workflow("Any", id="somebody", task_queue="q")
        async with grpc.aio.insecure_channel(server.address) as channel:
            yield Target(channel, store)


async def test_every_implemented_rpc_has_a_case() -> None:
    assert {case.rpc for case in CASES} | WITHOUT_FAULT == set(PATHS)
    page = Path(__file__).parents[3] / "docs/api.md"
    assert set(PATHS) == set(re.findall(r"^\| `(\w+)` \| yes \|$", page.read_text(), re.MULTILINE))


@pytest.mark.parametrize("case", CASES, ids=str)
async def test_a_fault_is_named_and_nothing_changes(target: Target, case: Case) -> None:
    path = PATHS[case.rpc]
    request = ParseDict(dict(case.request), implemented()[path].request())
    before = target.dump()
    status, message = await call(target.channel, path, request.SerializeToString())
    assert (status, bool(re.search(case.message, message))) == (case.status, True), message
    assert target.dump() == before


def _scalars(field: FieldDescriptor) -> st.SearchStrategy[Any]:
    kind = field.cpp_type
    if kind == FieldDescriptor.CPPTYPE_STRING:
        known = st.sampled_from(("default", "somebody", "q", "", "x" * 1001))
        return known | st.text(max_size=8).filter(_encodable)
    if kind == FieldDescriptor.CPPTYPE_BOOL:
        return st.booleans()
    if kind in (FieldDescriptor.CPPTYPE_FLOAT, FieldDescriptor.CPPTYPE_DOUBLE):
        return st.floats(width=32)
    if kind == FieldDescriptor.CPPTYPE_ENUM:
        return st.integers(-1, 40)
    bits = 64 if kind in (FieldDescriptor.CPPTYPE_INT64, FieldDescriptor.CPPTYPE_UINT64) else 32
    if kind in (FieldDescriptor.CPPTYPE_UINT32, FieldDescriptor.CPPTYPE_UINT64):
        return st.integers(0, 3) | st.integers(0, 2**bits - 1)
    return st.integers(-1, 3) | st.integers(-(2 ** (bits - 1)), 2 ** (bits - 1) - 1)


def _encodable(text: str) -> bool:
    return not any("\ud800" <= each <= "\udfff" for each in text)


def _value(draw: st.DrawFn, field: FieldDescriptor, depth: int) -> Any:
    if field.message_type is not None:
        return draw_message(draw, field.message_type, depth - 1)
    if field.type == FieldDescriptor.TYPE_BYTES:
        return draw(st.binary(max_size=12))
    return draw(_scalars(field))


def draw_message(draw: st.DrawFn, kind: Any, depth: int) -> Message:
    """A message with some of its fields set to anything their types allow."""
    message = GetMessageClass(kind)()
    for field in kind.fields:
        if field.message_type is not None and (depth <= 0 or draw(st.booleans())):
            continue
        if field.name != "namespace" and draw(st.integers(0, 2)) == 0:
            continue
        if field.message_type is not None and field.message_type.GetOptions().map_entry:
            continue
        if field.name == "namespace" and field.message_type is None:
            setattr(message, field.name, draw(st.sampled_from(("default",) * 4 + ("nowhere", ""))))
        elif field.is_repeated:
            getattr(message, field.name).append(_value(draw, field, depth))
        elif field.message_type is not None:
            getattr(message, field.name).CopyFrom(_value(draw, field, depth))
        else:
            setattr(message, field.name, _value(draw, field, depth))
    return message


@st.composite
def messages(draw: st.DrawFn, kind: type[Message]) -> Message:
    return draw_message(draw, kind.DESCRIPTOR, 3)


# A namespace that is deleted would be missing in all that follows.
@pytest.mark.parametrize("rpc", sorted(PATHS.keys() - {"DeleteNamespace"}))
@settings(
    max_examples=15,
    deadline=None,
    database=None,
    suppress_health_check=list(HealthCheck),
)
@given(data=st.data())
async def test_any_request_is_answered_or_refused(
    target: Target, rpc: str, data: st.DataObject
) -> None:
    kind = implemented()[PATHS[rpc]].request
    request = data.draw(messages(kind))
    before = target.dump()
    status, message = await call(target.channel, PATHS[rpc], request.SerializeToString(), 0.15)
    assert status not in LOST, message
    assert status in UNDECIDED or target.dump() == before


@settings(max_examples=150, deadline=None, database=None, suppress_health_check=list(HealthCheck))
@given(rpc=st.sampled_from(sorted(PATHS)), body=st.binary(max_size=80))
async def test_random_bytes_are_refused(target: Target, rpc: str, body: bytes) -> None:
    before = target.dump()
    status, message = await call(target.channel, PATHS[rpc], body, 0.15)
    assert (status is grpc.StatusCode.INTERNAL) == _undecodable(rpc, body), message
    assert status in UNDECIDED or target.dump() == before


def _undecodable(rpc: str, body: bytes) -> bool:
    try:
        implemented()[PATHS[rpc]].request.FromString(body)
    except DecodeError:
        return True
    return False


async def test_a_message_over_the_limit_is_refused(store_url: str) -> None:
    async with (
        Server(store=store_url, port=0, message_bytes_max=10_000) as server,
        grpc.aio.insecure_channel(server.address) as channel,
    ):
        target = Target(channel, store_url)
        before = target.dump()
        for rpc in sorted(PATHS):
            status, message = await call(channel, PATHS[rpc], b"\x00" * 10_001)
            assert status is grpc.StatusCode.RESOURCE_EXHAUSTED, (rpc, message)
            assert "message_bytes_max" in message
        assert target.dump() == before


@pytest.mark.parametrize("rpc", ["ListOpenWorkflowExecutions", "ListClosedWorkflowExecutions"])
@pytest.mark.parametrize("seconds", [2**62, -(2**62), 253402300800])
async def test_a_time_beyond_the_calendar_is_refused(
    target: Target, rpc: str, seconds: int
) -> None:
    request: Any = implemented()[PATHS[rpc]].request(namespace="default")
    request.start_time_filter.earliest_time.seconds = seconds
    status, message = await call(target.channel, PATHS[rpc], request.SerializeToString())
    assert status is grpc.StatusCode.INVALID_ARGUMENT
    assert "StartTimeFilter" in message
