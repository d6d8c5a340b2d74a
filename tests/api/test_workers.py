"""Workers as they describe themselves, and what their leaving does."""

import asyncio
from typing import Any

import pytest
from temporalio.api.enums.v1 import common_pb2 as enums
from temporalio.api.enums.v1 import task_queue_pb2 as queue_enums
from temporalio.api.taskqueue.v1 import message_pb2 as taskqueue
from temporalio.api.worker.v1 import message_pb2 as worker
from temporalio.api.workflowservice.v1 import request_response_pb2 as ws
from temporalio.client import Client
from temporalio.service import RPCError, RPCStatusCode

from durably import Server
from tests.conftest import eventually

QUEUE = taskqueue.TaskQueue(name="described")


def heartbeat(key: str, **fields: Any) -> worker.WorkerHeartbeat:
    made = worker.WorkerHeartbeat(
        worker_instance_key=key,
        worker_identity=f"identity of {key}",
        task_queue=QUEUE.name,
        sdk_name="by-hand",
        status=enums.WORKER_STATUS_RUNNING,
        **fields,
    )
    made.start_time.FromJsonString("2025-01-01T00:00:00Z")
    made.host_info.host_name = f"host-{key}"
    return made


async def record(client: Client, *beats: worker.WorkerHeartbeat) -> None:
    await client.workflow_service.record_worker_heartbeat(
        ws.RecordWorkerHeartbeatRequest(namespace="default", worker_heartbeat=beats)
    )


async def count(client: Client, query: str = "") -> int:
    request = ws.CountWorkersRequest(namespace="default", query=query)
    return (await client.workflow_service.count_workers(request)).count


async def test_what_workers_say_is_listed_page_by_page(client: Client) -> None:
    await record(client, heartbeat("b"), heartbeat("a"), heartbeat("c"))
    request = ws.ListWorkersRequest(namespace="default", page_size=2)
    first = await client.workflow_service.list_workers(request)
    assert [each.worker_instance_key for each in first.workers] == ["a", "b"]
    assert first.workers[0].host_name == "host-a"
    assert first.workers_info[0].worker_heartbeat == heartbeat("a")
    request.next_page_token = first.next_page_token
    second = await client.workflow_service.list_workers(request)
    assert [each.worker_instance_key for each in second.workers] == ["c"]
    assert not second.next_page_token


async def test_the_last_heartbeat_is_the_description(client: Client) -> None:
    await record(client, heartbeat("a"), heartbeat("a", total_sticky_cache_hit=3))
    request = ws.DescribeWorkerRequest(namespace="default", worker_instance_key="a")
    described = await client.workflow_service.describe_worker(request)
    assert described.worker_info.worker_heartbeat.total_sticky_cache_hit == 3
    request.worker_instance_key = "nobody"
    with pytest.raises(RPCError, match="Worker nobody not found") as refusal:
        await client.workflow_service.describe_worker(request)
    assert refusal.value.status is RPCStatusCode.NOT_FOUND


@pytest.mark.parametrize(
    ("query", "found"),
    [
        ("WorkerInstanceKey = 'a'", 1),
        ("TaskQueue = 'described' AND HostName STARTS_WITH 'host-'", 2),
        ("HostName NOT STARTS_WITH 'host-a'", 1),
        ("Status = 'Running' OR Nothing = 'x'", None),
        ("Status = 'ShuttingDown'", 1),
        ("SdkVersion IS NULL", 2),
        ("DeploymentName IS NOT NULL", 0),
        ("StartTime BETWEEN '2024-01-01T00:00:00Z' AND '2026-01-01T00:00:00Z'", 2),
        ("StartTime > '2025-01-01T00:00:00Z'", 0),
        ("HeartbeatTime IS NULL", 2),
        ("SdkName > 'a'", None),
        ("SdkName = ''", None),
        ("StartTime = 'then'", None),
        ("SdkName", None),
        ("SdkName = 'x' LIMIT 3", None),
    ],
)
async def test_workers_are_found_by_query(client: Client, query: str, found: int | None) -> None:
    leaving = heartbeat("b")
    leaving.status = enums.WORKER_STATUS_SHUTTING_DOWN
    await record(client, heartbeat("a"), leaving)
    if found is not None:
        assert await count(client, query) == found
        return
    with pytest.raises(RPCError) as refusal:
        await count(client, query)
    assert refusal.value.status is RPCStatusCode.INVALID_ARGUMENT


async def test_a_worker_that_has_shut_down_is_forgotten(client: Client) -> None:
    await record(client, heartbeat("a"), heartbeat("b"))
    last = heartbeat("a")
    last.status = enums.WORKER_STATUS_SHUTDOWN
    await client.workflow_service.shutdown_worker(
        ws.ShutdownWorkerRequest(namespace="default", worker_heartbeat=last)
    )
    assert await count(client) == 1


async def test_no_more_workers_are_kept_than_configured() -> None:
    async with Server(store="memory:", port=0, workers_max=2) as server:
        client = await Client.connect(server.address)
        await record(client, heartbeat("a"), heartbeat("b"), heartbeat("a"), heartbeat("c"))
        assert await count(client, "WorkerInstanceKey = 'b'") == 0
        assert await count(client) == 2


async def test_a_silent_worker_is_forgotten() -> None:
    now = [1_000_000_000_000_000_000]
    async with Server(store="memory:", port=0, clock=lambda: now[0]) as server:
        client = await Client.connect(server.address)
        await record(client, heartbeat("a"))
        now[0] += 300 * 10**9
        await record(client, heartbeat("b"))
        assert await count(client) == 2
        now[0] += 1
        assert await count(client) == 1


async def test_a_worker_that_shuts_down_has_its_polls_ended(client: Client) -> None:
    def poll(key: str) -> "asyncio.Task[ws.PollActivityTaskQueueResponse]":
        request = ws.PollActivityTaskQueueRequest(
            namespace="default", task_queue=QUEUE, identity=key, worker_instance_key=key
        )
        return asyncio.create_task(client.workflow_service.poll_activity_task_queue(request))

    async def pollers() -> set[str]:
        described = await client.workflow_service.describe_task_queue(
            ws.DescribeTaskQueueRequest(
                namespace="default",
                task_queue=QUEUE,
                task_queue_type=queue_enums.TASK_QUEUE_TYPE_ACTIVITY,
            )
        )
        return {each.identity for each in described.pollers}

    async def both() -> bool:
        return await pollers() == {"leaves", "stays"}

    leaving, staying = poll("leaves"), poll("stays")
    await eventually(both)
    await client.workflow_service.shutdown_worker(
        ws.ShutdownWorkerRequest(
            namespace="default",
            identity="leaves",
            worker_instance_key="leaves",
            task_queue=QUEUE.name,
        )
    )
    assert await leaving == ws.PollActivityTaskQueueResponse()
    assert await poll("leaves") == ws.PollActivityTaskQueueResponse()
    assert not staying.done()
    assert await pollers() == {"stays"}
    staying.cancel()


async def test_a_queue_has_one_partition(client: Client, server: Server) -> None:
    request = ws.ListTaskQueuePartitionsRequest(namespace="default", task_queue=QUEUE)
    found = await client.workflow_service.list_task_queue_partitions(request)
    assert list(found.activity_task_queue_partitions) == list(found.workflow_task_queue_partitions)
    (partition,) = found.activity_task_queue_partitions
    assert (partition.key, partition.owner_host_name) == (QUEUE.name, server.address)
