"""A deleted namespace goes with all that is in it, whatever happens meanwhile."""

import asyncio
import contextlib
from datetime import timedelta

import pytest
from google.protobuf.duration_pb2 import Duration
from temporalio.api.enums.v1 import namespace_pb2 as enums
from temporalio.api.operatorservice.v1 import request_response_pb2 as ops
from temporalio.api.taskqueue.v1 import message_pb2 as taskqueue
from temporalio.api.workflowservice.v1 import request_response_pb2 as ws
from temporalio.client import (
    Client,
    Schedule,
    ScheduleActionStartWorkflow,
    ScheduleIntervalSpec,
    ScheduleSpec,
)
from temporalio.service import RPCError, RPCStatusCode

from durably import Server
from tests.conftest import eventually
from tests.processes import ServerProcess
from tests.stores import dump

NAME = "short-lived"
TABLES = ("executions", "journal", "snapshots", "current_runs", "tasks", "visibility")


async def register(client: Client) -> Client:
    await client.workflow_service.register_namespace(
        ws.RegisterNamespaceRequest(
            namespace=NAME, workflow_execution_retention_period=Duration(seconds=86400)
        )
    )
    return Client(client.service_client, namespace=NAME)


async def fill(inside: Client, workflows: int) -> None:
    for number in range(workflows):
        await inside.start_workflow("Any", id=f"w-{number}", task_queue="q")
    await inside.create_schedule(
        "s",
        Schedule(
            ScheduleActionStartWorkflow("Any", id="by-schedule", task_queue="q"),
            spec=ScheduleSpec(intervals=[ScheduleIntervalSpec(timedelta(seconds=1))]),
        ),
    )


async def delete(client: Client, delay_s: int = 0) -> str:
    request = ops.DeleteNamespaceRequest(
        namespace=NAME, namespace_delete_delay=Duration(seconds=delay_s)
    )
    return (await client.operator_service.delete_namespace(request)).deleted_namespace


async def described(client: Client, name: str) -> ws.DescribeNamespaceResponse | None:
    try:
        return await client.workflow_service.describe_namespace(
            ws.DescribeNamespaceRequest(namespace=name)
        )
    except RPCError as error:
        if error.status is not RPCStatusCode.NOT_FOUND:
            raise
        return None


def rows(url: str) -> int:
    """Of all tables that hold what is in namespaces."""
    found = dump(url)
    return sum(len(found[table]) for table in TABLES if table in found)


async def test_the_namespace_and_all_in_it_go(client: Client, store_url: str) -> None:
    inside = await register(client)
    await fill(inside, 5)
    poll = ws.PollActivityTaskQueueRequest(
        namespace=NAME, task_queue=taskqueue.TaskQueue(name="other")
    )
    waiting = asyncio.create_task(client.workflow_service.poll_activity_task_queue(poll))
    name = await delete(client)
    assert name.startswith(f"{NAME}-deleted-")

    async def gone() -> bool:
        return await described(client, name) is None

    await eventually(gone)
    assert rows(store_url) == 0
    assert await described(client, NAME) is None
    with pytest.raises(RPCError, match="is not found"):
        await inside.start_workflow("Any", id="late", task_queue="q")
    await asyncio.wait_for(asyncio.gather(waiting, return_exceptions=True), 10)


async def test_while_it_is_being_deleted_it_can_only_be_described(client: Client) -> None:
    inside = await register(client)
    await fill(inside, 1)
    name = await delete(client, delay_s=1000)
    found = await described(client, name)
    assert found is not None
    assert found.namespace_info.state == enums.NAMESPACE_STATE_DELETED
    deleted = Client(client.service_client, namespace=name)
    with pytest.raises(RPCError, match="invalid state: Deleted") as refusal:
        await deleted.count_workflows()
    assert refusal.value.status is RPCStatusCode.FAILED_PRECONDITION
    assert (await (await register(client)).count_workflows()).count == 0


async def test_the_system_namespace_stays(client: Client) -> None:
    request = ops.DeleteNamespaceRequest(namespace="temporal-system")
    with pytest.raises(RPCError, match="unable to delete system namespace"):
        await client.operator_service.delete_namespace(request)


async def test_a_deletion_goes_on_after_kill_9(server_process: ServerProcess) -> None:
    server_process.start()
    client = await Client.connect(server_process.address)
    await fill(await register(client), 300)
    name = await delete(client)
    server_process.kill()
    server_process.start()
    client = await Client.connect(server_process.address)

    async def gone() -> bool:
        return await described(client, name) is None

    await eventually(gone)
    assert rows(server_process.store) == 0


async def test_the_namespace_of_the_configuration_is_made_again(store_url: str) -> None:
    store = store_url
    async with Server(store=store, port=0) as server:
        client = await Client.connect(server.address)
        await client.start_workflow("Any", id="w", task_queue="q")
        await client.operator_service.delete_namespace(
            ops.DeleteNamespaceRequest(namespace="default")
        )
    async with Server(store=store, port=0) as server:
        client = await Client.connect(server.address)
        assert (await client.count_workflows()).count == 0


async def test_a_caller_that_goes_away_leaves_the_namespace_changeable(client: Client) -> None:
    """What was written for it is what the server goes on from."""
    for _ in range(20):
        update = ws.UpdateNamespaceRequest(namespace="default")
        update.update_info.description = "changed"
        with contextlib.suppress(RPCError):
            await client.workflow_service.update_namespace(
                update, timeout=timedelta(milliseconds=1)
            )
    update.update_info.description = "in the end"
    # The last of those writes may still be under way: then the server asks to try again.
    changed = await client.workflow_service.update_namespace(update, retry=True)
    assert changed.namespace_info.description == "in the end"
