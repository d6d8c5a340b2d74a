"""What a server of another version says and writes: what is not known here is passed over where nothing rests
on it, and refused where something would be lost."""

import asyncio
import uuid
from collections.abc import AsyncIterator, Callable
from typing import Any

import asyncpg
import msgspec
import pytest
import pytest_asyncio
from temporalio.api.common.v1 import message_pb2 as common
from temporalio.api.history.v1 import message_pb2 as history
from temporalio.api.namespace.v1 import message_pb2 as namespace_messages
from temporalio.api.nexus.v1 import message_pb2 as nexus_messages
from temporalio.api.operatorservice.v1 import request_response_pb2 as operator
from temporalio.api.taskqueue.v1 import message_pb2 as taskqueue
from temporalio.api.workflowservice.v1 import request_response_pb2 as ws
from temporalio.client import Client
from temporalio.service import RPCError, RPCStatusCode

from durably import Server
from tests.conftest import eventually
from tests.postgres import PostgresServer

BEAT_S = 0.2
ANOTHER = 10**9
"""The number of a server that these tests are."""
WORDS = (
    "no words at all",
    f'[{ANOTHER},[["no such word",1],{{"of":"another kind"}}]]',
    f'[{ANOTHER},[["c",7,8,"and more"],["j","and more"],["l",0,1,2]]]',
)

Row = tuple[bytes, bytes]
"""Events and records of a journal row."""


@pytest.fixture
def url(postgres: PostgresServer) -> str:
    return postgres.database()


@pytest_asyncio.fixture
async def database(url: str) -> AsyncIterator[Any]:
    """A connection, with the tables made."""
    async with Server(store=url, port=0):
        pass
    connection = await asyncpg.connect(url)
    yield connection
    await connection.close()


def poll(queue: str) -> ws.PollWorkflowTaskQueueRequest:
    return ws.PollWorkflowTaskQueueRequest(
        namespace="default", task_queue=taskqueue.TaskQueue(name=queue), identity="w"
    )


async def start(client: Client, workflow_id: str, queue: str) -> None:
    request = ws.StartWorkflowExecutionRequest(
        namespace="default",
        workflow_id=workflow_id,
        workflow_type=common.WorkflowType(name="Any"),
        request_id=str(uuid.uuid4()),
    )
    request.task_queue.name = queue
    await client.workflow_service.start_workflow_execution(request)


async def signal(client: Client, workflow_id: str) -> None:
    await client.workflow_service.signal_workflow_execution(
        ws.SignalWorkflowExecutionRequest(
            namespace="default",
            workflow_execution=common.WorkflowExecution(workflow_id=workflow_id),
            signal_name="s",
            request_id=str(uuid.uuid4()),
        )
    )


async def describe(client: Client, workflow_id: str) -> None:
    await client.workflow_service.describe_workflow_execution(
        ws.DescribeWorkflowExecutionRequest(
            namespace="default", execution=common.WorkflowExecution(workflow_id=workflow_id)
        )
    )


# --- Words --------------------------------------------------------------------------------------


async def test_words_rows_and_letters_that_are_not_known_are_passed_over(
    url: str, database: Any
) -> None:
    """Beside a server that says them all the time, this one goes on working, and hears the words it knows."""
    async with Server(store=url, port=0, node_beat_s=BEAT_S) as server:
        client = await Client.connect(server.address)
        await database.execute(
            "INSERT INTO nodes VALUES ($1, '{\"level\": 9}', now() + interval '1 hour')", ANOTHER
        )
        nodes = {row[0] for row in await database.fetch("SELECT node FROM nodes")}

        async def speak() -> None:
            for word in WORDS:
                await database.execute("SELECT pg_notify('durably', $1)", word)
            for node in nodes:
                await database.execute(
                    "INSERT INTO letters (node, body) VALUES ($1, 'no letter')", node
                )
                letters = f'[{ANOTHER},[["l",{node},"and more"]]]'
                await database.execute("SELECT pg_notify('durably', $1)", letters)

        for number in range(3):
            await speak()
            await start(client, f"w{number}", "q")
            found = await client.workflow_service.poll_workflow_task_queue(poll("q"))
            assert found.workflow_execution.workflow_id == f"w{number}"

        async def are_taken() -> bool:
            left = await database.fetchval("SELECT count(*) FROM letters WHERE node <> $1", ANOTHER)
            return bool(left == 0)

        await eventually(are_taken, 60)


# --- Executions ---------------------------------------------------------------------------------


def with_field(value: object) -> Callable[[Row], Row]:
    """The last record has one field more."""

    def changed(row: Row) -> Row:
        records = msgspec.msgpack.decode(row[1])
        records[-1][1].append(value)
        return row[0], msgspec.msgpack.encode(records)

    return changed


def with_record(row: Row) -> Row:
    return row[0], msgspec.msgpack.encode([*msgspec.msgpack.decode(row[1]), [0, ["later", 1]]])


def with_event(row: Row) -> Row:
    events = history.History.FromString(row[0])
    events.events.add(event_id=len(events.events) + 1, event_type=9999)  # type: ignore[arg-type]
    return events.SerializeToString(), row[1]


def with_buffered_event(row: Row) -> Row:
    event = history.HistoryEvent(event_type=9999)  # type: ignore[arg-type]
    records = [*msgspec.msgpack.decode(row[1]), [0, ["eb", event.SerializeToString()]]]
    return row[0], msgspec.msgpack.encode(records)


NEW = {
    "field": with_field(1),
    "record": with_record,
    "event": with_event,
    "buffered": with_buffered_event,
}
JOURNAL_OF = """SELECT j.execution_id, j.events, j.records FROM journal j JOIN executions e
    USING (shard, execution_id) WHERE e.workflow_id = $1 AND e.kind = 1 AND j.version = 1"""
PUT_JOURNAL = "UPDATE journal SET events = $2, records = $3 WHERE execution_id = $1 AND version = 1"
VERSIONS = "SELECT workflow_id, version FROM executions WHERE kind = 1 ORDER BY 1"


async def change(database: Any, workflow_id: str, changed: Callable[[Row], Row]) -> Row:
    """What its first commit has written is another thing from now on; what it was."""
    execution_id, events, records = await database.fetchrow(JOURNAL_OF, workflow_id)
    await database.execute(PUT_JOURNAL, execution_id, *changed((events, records)))
    return events, records


async def refused(call: Any) -> None:
    with pytest.raises(RPCError, match="was written by a newer version of durably") as caught:
        await call
    assert caught.value.status == RPCStatusCode.UNAVAILABLE


async def test_nothing_is_decided_on_what_is_not_known(url: str, database: Any) -> None:
    """It is refused, unless it is empty; nothing of it changes, and its task waits for a server that knows."""
    async with Server(store=url, port=0) as server:
        client = await Client.connect(server.address)
        for name in (*NEW, "empty", "plain"):
            await start(client, name, name)
    before = {name: await change(database, name, changed) for name, changed in NEW.items()}
    await change(database, "empty", with_field(0))
    versions = await database.fetch(VERSIONS)
    async with Server(store=url, port=0, node_beat_s=BEAT_S) as server:
        client = await Client.connect(server.address)
        for name in NEW:
            await refused(signal(client, name))
            await refused(describe(client, name))
            await refused(client.workflow_service.poll_workflow_task_queue(poll(name)))
        assert await database.fetch(VERSIONS) == versions
        for name in ("empty", "plain"):
            await signal(client, name)
            found = await client.workflow_service.poll_workflow_task_queue(poll(name))
            assert found.workflow_execution.workflow_id == name
        for name, row in before.items():
            await change(database, name, lambda _, row=row: row)  # type: ignore[misc]
            await signal(client, name)
        polls = (client.workflow_service.poll_workflow_task_queue(poll(name)) for name in NEW)
        found_again = await asyncio.gather(*polls)
        assert [each.workflow_execution.workflow_id for each in found_again] == list(NEW)


# --- Namespaces and endpoints -------------------------------------------------------------------


async def test_namespaces_and_endpoints_are_not_written_without_what_is_not_known(
    url: str, database: Any
) -> None:
    async with Server(store=url, port=0) as server:
        client = await Client.connect(server.address)
        spec = nexus_messages.EndpointSpec(name="desk")
        spec.target.worker.namespace, spec.target.worker.task_queue = "default", "q"
        made = await client.operator_service.create_nexus_endpoint(
            operator.CreateNexusEndpointRequest(spec=spec)
        )
    tables = ("namespaces", "nexus_endpoints")
    for table in tables:
        for key, record in await database.fetch(f"SELECT name, record FROM {table}"):
            later = msgspec.msgpack.encode({**msgspec.msgpack.decode(record), "tier": 1})
            await database.execute(f"UPDATE {table} SET record = $2 WHERE name = $1", key, later)
    before = [await database.fetch(f"SELECT * FROM {table}") for table in tables]
    async with Server(store=url, port=0) as server:
        client = await Client.connect(server.address)
        await start(client, "w", "q")
        update = namespace_messages.UpdateNamespaceInfo(description="d")
        await refused(
            client.workflow_service.update_namespace(
                ws.UpdateNamespaceRequest(namespace="default", update_info=update)
            )
        )
        endpoint = made.endpoint
        await refused(
            client.operator_service.update_nexus_endpoint(
                operator.UpdateNexusEndpointRequest(
                    id=endpoint.id, version=endpoint.version, spec=spec
                )
            )
        )
        listed = await client.operator_service.list_nexus_endpoints(
            operator.ListNexusEndpointsRequest()
        )
        assert [each.spec.name for each in listed.endpoints] == ["desk"]
    assert [await database.fetch(f"SELECT * FROM {table}") for table in tables] == before
