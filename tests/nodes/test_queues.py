"""What servers know together of a task queue: how fast it may be, whose turn it is, which version has it."""

import asyncio
import contextlib
import uuid
from collections.abc import AsyncIterator, Callable

import pytest_asyncio
from temporalio.api.common.v1 import message_pb2 as common
from temporalio.api.deployment.v1 import message_pb2 as deployment
from temporalio.api.enums.v1 import deployment_pb2 as deployment_enums
from temporalio.api.enums.v1 import task_queue_pb2 as enums
from temporalio.api.taskqueue.v1 import message_pb2 as taskqueue
from temporalio.api.workflowservice.v1 import request_response_pb2 as ws
from temporalio.client import Client
from temporalio.service import RPCError

from durably import Server
from tests.conftest import eventually
from tests.postgres import PostgresServer

ACTIVITY, WORKFLOW = enums.TASK_QUEUE_TYPE_ACTIVITY, enums.TASK_QUEUE_TYPE_WORKFLOW
DEPLOYMENT = "shop"
RATE_PER_S, TASKS = 4, 20
LIMITED_S = 2.0
"""Two servers give 3 tasks each at once, and the other 14 at 4 a second, which is 3.5 s; at least 2.5 s
if one learns of the other a moment late. If each had the whole rate it would be 5 each at once, and the
other 10 at 8 a second: 1.25 s."""


@pytest_asyncio.fixture
async def pair(postgres: PostgresServer) -> AsyncIterator[list[Client]]:
    """Clients of two servers; the second hears nothing of what others say."""
    url, elsewhere = postgres.database(), postgres.database()
    async with contextlib.AsyncExitStack() as stack:
        found = []
        for listen in ("", elsewhere):
            server = Server(store=url, port=0, node_beat_s=0.3, postgres_listen=listen)
            found.append(await stack.enter_async_context(server))
        yield [await Client.connect(server.address) for server in found]


async def described(
    client: Client, queue: taskqueue.TaskQueue, kind: enums.TaskQueueType.ValueType
) -> ws.DescribeTaskQueueResponse:
    return await client.workflow_service.describe_task_queue(
        ws.DescribeTaskQueueRequest(namespace="default", task_queue=queue, task_queue_type=kind)
    )


async def start_activity(client: Client, queue: taskqueue.TaskQueue) -> None:
    request = ws.StartActivityExecutionRequest(
        namespace="default",
        activity_id=str(uuid.uuid4()),
        request_id=str(uuid.uuid4()),
        activity_type=common.ActivityType(name="work"),
        task_queue=queue,
    )
    request.start_to_close_timeout.seconds = 300
    await client.workflow_service.start_activity_execution(request)


async def take(client: Client, queue: taskqueue.TaskQueue, given: Callable[[], None]) -> None:
    """As a worker that asks for no more than the rate of the whole queue."""
    request = ws.PollActivityTaskQueueRequest(
        namespace="default", task_queue=queue, identity=f"w-{id(client)}"
    )
    request.task_queue_metadata.max_tasks_per_second.value = RATE_PER_S
    while True:
        if (await client.workflow_service.poll_activity_task_queue(request)).task_token:
            given()


async def test_a_rate_holds_for_all_servers_together(pair: list[Client]) -> None:
    queue = taskqueue.TaskQueue(name=f"q-{uuid.uuid4()}")
    loop, times = asyncio.get_running_loop(), list[float]()
    workers = [
        asyncio.create_task(take(client, queue, lambda: times.append(loop.time())))
        for client in pair
    ]
    try:
        for client in pair:

            async def both_are_known(asked: Client = client) -> bool:
                return len((await described(asked, queue, ACTIVITY)).pollers) == len(pair)

            await eventually(both_are_known)
        began = loop.time()
        for number in range(TASKS):
            await start_activity(pair[number % len(pair)], queue)

        async def all_are_given() -> bool:
            return len(times) == TASKS

        await eventually(all_are_given, 60)
        assert times[-1] - began >= LIMITED_S
        for client in pair:
            shown = (await described(client, queue, ACTIVITY)).effective_rate_limit
            assert shown.requests_per_second == RATE_PER_S
    finally:
        for each in workers:
            each.cancel()
        await asyncio.gather(*workers, return_exceptions=True)


def polling(
    client: Client, queue: taskqueue.TaskQueue, build_id: str
) -> "asyncio.Task[ws.PollWorkflowTaskQueueResponse]":
    request = ws.PollWorkflowTaskQueueRequest(
        namespace="default", task_queue=queue, identity=build_id
    )
    request.deployment_options.deployment_name = DEPLOYMENT
    request.deployment_options.build_id = build_id
    request.deployment_options.worker_versioning_mode = (
        deployment_enums.WORKER_VERSIONING_MODE_VERSIONED
    )
    return asyncio.create_task(client.workflow_service.poll_workflow_task_queue(request))


async def make_current(client: Client, build_id: str) -> None:
    """Refused, unless workers of the build have polled."""
    await client.workflow_service.set_worker_deployment_current_version(
        ws.SetWorkerDeploymentCurrentVersionRequest(
            namespace="default", deployment_name=DEPLOYMENT, build_id=build_id
        )
    )


async def test_routing_is_known_to_a_server_that_hears_nothing(pair: list[Client]) -> None:
    queue = taskqueue.TaskQueue(name=f"q-{uuid.uuid4()}")
    hearing, deaf = pair
    polls = [polling(hearing, queue, "1"), polling(deaf, queue, "2")]
    try:
        for asked, build_id in ((deaf, "1"), (hearing, "2")):

            async def is_made_current(client: Client = asked, build: str = build_id) -> bool:
                """Its workers poll the other server, which tells of them by and by."""
                try:
                    await make_current(client, build)
                except RPCError:
                    return False
                return True

            await eventually(is_made_current)
            for client in pair:
                wanted = deployment.WorkerDeploymentVersion(
                    deployment_name=DEPLOYMENT, build_id=build_id
                )

                async def is_known(
                    at: Client = client, to_be: deployment.WorkerDeploymentVersion = wanted
                ) -> bool:
                    info = (await described(at, queue, WORKFLOW)).versioning_info
                    return info.current_deployment_version == to_be

                await eventually(is_known)
        await hearing.start_workflow("T", id=queue.name, task_queue=queue.name)
        assert (await polls[1]).workflow_execution.workflow_id == queue.name
        assert not polls[0].done()
    finally:
        for each in polls:
            each.cancel()
        await asyncio.gather(*polls, return_exceptions=True)
