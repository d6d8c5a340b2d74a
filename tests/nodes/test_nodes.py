"""Several servers on one PostgreSQL: any of them answers anything, and sees what another acknowledged."""

import asyncio
import contextlib
import uuid
from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path

import asyncpg
import pytest
import pytest_asyncio
from temporalio import activity, workflow
from temporalio.api.command.v1 import message_pb2 as command
from temporalio.api.common.v1 import message_pb2 as common
from temporalio.api.enums.v1 import command_type_pb2 as command_types
from temporalio.api.enums.v1 import query_pb2 as query_enums
from temporalio.api.enums.v1 import task_queue_pb2 as enums
from temporalio.api.nexus.v1 import message_pb2 as nexus
from temporalio.api.operatorservice.v1 import request_response_pb2 as ops
from temporalio.api.taskqueue.v1 import message_pb2 as taskqueue
from temporalio.api.workflowservice.v1 import request_response_pb2 as ws
from temporalio.client import (
    Client,
    Schedule,
    ScheduleActionStartWorkflow,
    ScheduleSpec,
    WorkflowUpdateFailedError,
)
from temporalio.exceptions import ApplicationError
from temporalio.service import RPCError
from temporalio.worker import UnsandboxedWorkflowRunner, Worker

from durably import Server
from tests.conftest import eventually
from tests.postgres import PostgresServer
from tests.processes import ServerProcess

NODES = 3
TRUE = common.Payload(metadata={"encoding": b"json/plain"}, data=b"true")
WORDS_OF_A_LATER_VERSION = (
    """[1000000,[["no such word",1],["w","","kind"],["s","","a worker",""]]]"""
)
"""What a server says: the last of it means that a worker ends."""


@activity.defn
async def shout(text: str) -> str:
    return text.upper()


@workflow.defn
class Listener:
    def __init__(self) -> None:
        self.heard: list[str] = []
        self.done = False

    @workflow.run
    async def run(self) -> list[str]:
        await workflow.wait_condition(lambda: self.done)
        return self.heard

    @workflow.signal
    def hear(self, text: str) -> None:
        self.heard.append(text)

    @workflow.signal
    def finish(self) -> None:
        self.done = True

    @workflow.query
    def all(self) -> list[str]:
        return self.heard

    @workflow.update
    async def say(self, text: str) -> str:
        if text == "no":
            raise ApplicationError("never")
        said = await workflow.execute_activity(
            shout, text, start_to_close_timeout=timedelta(seconds=20)
        )
        self.heard.append(said)
        return said

    @say.validator
    def check(self, text: str) -> None:
        if text == "bad":
            raise ApplicationError("not that")


@pytest.fixture
def url(postgres: PostgresServer) -> str:
    return postgres.database()


@pytest_asyncio.fixture
async def servers(url: str) -> AsyncIterator[list[Server]]:
    async with contextlib.AsyncExitStack() as stack:
        found = [await stack.enter_async_context(Server(store=url, port=0, node_beat_s=0.3))]
        more = (
            stack.enter_async_context(Server(store=url, port=0, node_beat_s=0.3))
            for _ in range(NODES - 1)
        )
        yield [*found, *(await asyncio.gather(*more))]


@pytest_asyncio.fixture
async def clients(servers: list[Server]) -> list[Client]:
    return [await Client.connect(server.address) for server in servers]


def worker(
    client: Client, queue: str, *, workflows: bool = True, activities: bool = True
) -> Worker:
    return Worker(
        client,
        task_queue=queue,
        workflows=[Listener] if workflows else [],
        activities=[shout] if activities else [],
        workflow_runner=UnsandboxedWorkflowRunner(),
    )


def of_activities(queue: str) -> ws.DescribeTaskQueueRequest:
    return ws.DescribeTaskQueueRequest(
        namespace="default",
        task_queue=taskqueue.TaskQueue(name=queue),
        task_queue_type=enums.TASK_QUEUE_TYPE_ACTIVITY,
        report_stats=True,
    )


async def test_everything_works_wherever_it_is_asked(clients: list[Client]) -> None:
    """Workflows are worked on at one server, activities at another, asked for at a third."""
    one, two, three = clients
    queue = f"q-{uuid.uuid4()}"
    async with worker(two, queue, activities=False), worker(three, queue, workflows=False):
        handle = await one.start_workflow(Listener.run, id=queue, task_queue=queue)
        for number, client in enumerate((*clients, *clients)):
            there = client.get_workflow_handle_for(Listener.run, queue)
            await there.signal(Listener.hear, f"s{number}")
            assert await there.execute_update(Listener.say, f"u{number}") == f"U{number}"
        wanted = [each for n in range(6) for each in (f"s{n}", f"U{n}")]
        for client in clients:
            assert await client.get_workflow_handle_for(Listener.run, queue).query("all") == wanted
        with pytest.raises(WorkflowUpdateFailedError):
            await one.get_workflow_handle(queue).execute_update("say", "bad")
        with pytest.raises(WorkflowUpdateFailedError):
            await three.get_workflow_handle(queue).execute_update("say", "no")
        results = [
            asyncio.create_task(client.get_workflow_handle(queue).result()) for client in clients
        ]
        await two.get_workflow_handle(queue).signal("finish")
        assert await asyncio.gather(*results) == [wanted] * NODES
        assert (await handle.describe()).status is not None


async def test_what_one_acknowledged_all_know(clients: list[Client]) -> None:
    """Each step is asked for at the next server, and sees the one before."""
    queue = f"q-{uuid.uuid4()}"
    for round_ in range(20):
        name = f"{queue}-{round_}"
        first, second, third = (clients[(round_ + n) % NODES] for n in range(NODES))
        started = await first.start_workflow("Listener", id=name, task_queue=queue)
        described = await second.get_workflow_handle(name).describe()
        assert described.run_id == started.result_run_id
        for n in range(3):
            await clients[n].get_workflow_handle(name).signal("hear", str(n))
            history = await clients[n - 1].get_workflow_handle(name).fetch_history()
            signals = [
                e
                for e in history.events
                if e.HasField("workflow_execution_signaled_event_attributes")
            ]
            assert len(signals) == n + 1
        await third.get_workflow_handle(name).terminate()
        again = await first.start_workflow("Listener", id=name, task_queue=queue)
        assert again.result_run_id != started.result_run_id
        current = await second.get_workflow_handle(name).describe()
        assert current.run_id == again.result_run_id
        await second.get_workflow_handle(name).terminate()


async def test_a_queue_is_described_as_a_whole(clients: list[Client]) -> None:
    """Workers wait at two servers, tasks were committed at a third."""
    queue = f"q-{uuid.uuid4()}"
    request = of_activities(queue)
    polls = []
    for number, client in enumerate(clients[:2]):
        poll = ws.PollActivityTaskQueueRequest(
            namespace="default",
            task_queue=taskqueue.TaskQueue(name=queue),
            identity=f"worker-{number}",
        )
        polls.append(asyncio.create_task(client.workflow_service.poll_activity_task_queue(poll)))
    for client in clients:

        async def both_are_known(asked: Client = client) -> bool:
            found = await asked.workflow_service.describe_task_queue(request)
            return {each.identity for each in found.pollers} == {"worker-0", "worker-1"}

        await eventually(both_are_known)
    for poll in polls:
        poll.cancel()
    request.task_queue_type = enums.TASK_QUEUE_TYPE_WORKFLOW
    for number in range(5):
        await clients[2].start_workflow("T", id=f"{queue}-{number}", task_queue=queue)
    for client in clients:
        found = await client.workflow_service.describe_task_queue(request)
        assert found.stats.approximate_backlog_count == 5


async def start_idle(client: Client, queue: str) -> ws.PollWorkflowTaskQueueRequest:
    """A workflow that has done its first task; how its worker polls."""
    poll = ws.PollWorkflowTaskQueueRequest(
        namespace="default", task_queue=taskqueue.TaskQueue(name=queue), identity="w"
    )
    await client.start_workflow("T", id=queue, task_queue=queue)
    task = await client.workflow_service.poll_workflow_task_queue(poll)
    await client.workflow_service.respond_workflow_task_completed(
        ws.RespondWorkflowTaskCompletedRequest(namespace="default", task_token=task.task_token)
    )
    return poll


async def answer_true(client: Client, task: ws.PollWorkflowTaskQueueResponse) -> None:
    await client.workflow_service.respond_query_task_completed(
        ws.RespondQueryTaskCompletedRequest(
            namespace="default",
            task_token=task.task_token,
            completed_type=query_enums.QUERY_RESULT_TYPE_ANSWERED,
            query_result=common.Payloads(payloads=[TRUE]),
        )
    )


async def test_a_query_finds_a_worker_that_polls_another_server_each_time(
    clients: list[Client],
) -> None:
    """As behind a balancer that divides calls. The server that is asked has seen the worker poll, and
    waits for it in vain."""
    queue = f"q-{uuid.uuid4()}"
    one, two, three = clients
    poll = await start_idle(one, queue)
    turns = ((one, three), (one, two), (three, one), (two, three))
    for number, (asked, polled) in enumerate(turns):
        answer = asyncio.create_task(asked.get_workflow_handle(queue).query(f"how {number}"))
        task = await polled.workflow_service.poll_workflow_task_queue(poll)
        assert task.query.query_type == f"how {number}"
        await answer_true(two, task)
        assert await answer is True


async def test_a_query_goes_to_one_worker(clients: list[Client]) -> None:
    """Workers wait at two servers, and a third is asked, which saw one of them a moment ago."""
    queue = f"q-{uuid.uuid4()}"
    one, *others = clients
    poll = await start_idle(one, queue)
    for number in range(5):
        polls = {
            asyncio.create_task(client.workflow_service.poll_workflow_task_queue(poll))
            for client in others
        }
        answer = asyncio.create_task(one.get_workflow_handle(queue).query("how"))
        done, idle = await asyncio.wait(polls, return_when=asyncio.FIRST_COMPLETED)
        await answer_true(one, done.pop().result())
        assert await answer is True
        await one.start_workflow("T", id=f"{queue}-{number}", task_queue=queue)
        task = await (done or idle).pop()
        assert task.workflow_execution.workflow_id == f"{queue}-{number}"


async def test_who_saw_a_workflow_end_triggers_the_next(clients: list[Client]) -> None:
    """Its schedule, which starts none while one runs, knows by then that it has ended."""
    queue = f"q-{uuid.uuid4()}"
    action = ScheduleActionStartWorkflow("T", id=queue, task_queue=queue)
    await clients[0].create_schedule(queue, Schedule(action=action, spec=ScheduleSpec()))
    poll = ws.PollWorkflowTaskQueueRequest(
        namespace="default", task_queue=taskqueue.TaskQueue(name=queue), identity="w"
    )
    ending = command.Command(command_type=command_types.COMMAND_TYPE_COMPLETE_WORKFLOW_EXECUTION)
    ending.complete_workflow_execution_command_attributes.SetInParent()
    for round_ in range(10):
        here, there, works = (clients[(round_ + n) % NODES] for n in range(NODES))
        await here.get_schedule_handle(queue).trigger()
        task = await works.workflow_service.poll_workflow_task_queue(poll)
        run = task.workflow_execution
        result = asyncio.create_task(
            there.get_workflow_handle(run.workflow_id, run_id=run.run_id).result()
        )
        await works.workflow_service.respond_workflow_task_completed(
            ws.RespondWorkflowTaskCompletedRequest(
                namespace="default", task_token=task.task_token, commands=[ending]
            )
        )
        await result


async def test_a_namespace_is_known_at_once(clients: list[Client], servers: list[Server]) -> None:
    request = ws.RegisterNamespaceRequest(namespace="fresh")
    request.workflow_execution_retention_period.FromTimedelta(timedelta(days=1))
    await clients[0].workflow_service.register_namespace(request)
    for server in servers[1:]:
        there = await Client.connect(server.address, namespace="fresh")
        await there.start_workflow("T", id=str(uuid.uuid4()), task_queue="q")


async def test_what_was_changed_is_known_wherever_the_next_call_goes(clients: list[Client]) -> None:
    """What servers keep in memory: Nexus endpoints, sets of builds, configurations
    of task queues. Each is changed at one server, and asked for at the next without waiting."""
    queue = f"q-{uuid.uuid4()}"
    for round_ in range(2 * NODES):
        here, there = (clients[(round_ + n) % NODES] for n in range(2))
        spec = nexus.EndpointSpec(name=f"e{round_}")
        spec.target.worker.namespace, spec.target.worker.task_queue = "default", queue
        made = await here.operator_service.create_nexus_endpoint(
            ops.CreateNexusEndpointRequest(spec=spec)
        )
        listed = await there.operator_service.list_nexus_endpoints(
            ops.ListNexusEndpointsRequest(name=spec.name)
        )
        assert [each.id for each in listed.endpoints] == [made.endpoint.id]
        await here.operator_service.delete_nexus_endpoint(
            ops.DeleteNexusEndpointRequest(id=made.endpoint.id, version=1)
        )
        with pytest.raises(RPCError, match="not found"):
            await there.operator_service.get_nexus_endpoint(
                ops.GetNexusEndpointRequest(id=made.endpoint.id)
            )

        build = f"b{round_}"
        compatible = ws.UpdateWorkerBuildIdCompatibilityRequest(
            namespace="default", task_queue=queue, add_new_build_id_in_new_default_set=build
        )
        await here.workflow_service.update_worker_build_id_compatibility(compatible)
        sets = await there.workflow_service.get_worker_build_id_compatibility(
            ws.GetWorkerBuildIdCompatibilityRequest(namespace="default", task_queue=queue)
        )
        assert len(sets.major_version_sets) == round_ + 1
        assert list(sets.major_version_sets[-1].build_ids) == [build]

        await there.workflow_service.describe_task_queue(of_activities(queue))
        change = ws.UpdateTaskQueueConfigRequest(
            namespace="default", task_queue=queue, task_queue_type=enums.TASK_QUEUE_TYPE_ACTIVITY
        )
        change.update_queue_rate_limit.rate_limit.requests_per_second = round_ + 1
        await here.workflow_service.update_task_queue_config(change)
        found = await there.workflow_service.describe_task_queue(of_activities(queue))
        assert found.effective_rate_limit.requests_per_second == round_ + 1


async def test_a_change_is_acknowledged_although_a_server_sleeps(url: str, tmp_path: Path) -> None:
    """It is waited for a moment, and no longer; when it wakes it learns of the change."""
    spec = nexus.EndpointSpec(name="endpoint")
    spec.target.worker.namespace, spec.target.worker.task_queue = "default", "q"
    request = ops.CreateNexusEndpointRequest(spec=spec)
    sleeper = ServerProcess(url, "--set", "node_beat_s=0.3", folder=tmp_path)
    try:
        async with Server(store=url, port=0, node_beat_s=0.3) as server:
            client = await Client.connect(server.address)
            there = await Client.connect(sleeper.start().address)
            sleeper.stop()
            async with asyncio.timeout(60):
                await client.operator_service.create_nexus_endpoint(request)
            sleeper.go_on()

            async def is_known() -> bool:
                listed = await there.operator_service.list_nexus_endpoints(
                    ops.ListNexusEndpointsRequest()
                )
                return [each.spec.name for each in listed.endpoints] == ["endpoint"]

            await eventually(is_known, 60)
    finally:
        sleeper.kill()


async def test_a_poll_gets_what_another_server_commits(clients: list[Client]) -> None:
    """A worker that waits at one server gets a task that was committed at another, not a second later
    than by a look at the store."""
    queue = f"q-{uuid.uuid4()}"
    poll = ws.PollWorkflowTaskQueueRequest(
        namespace="default", task_queue=taskqueue.TaskQueue(name=queue), identity="w"
    )
    for round_ in range(20):
        waiting = asyncio.create_task(
            clients[round_ % NODES].workflow_service.poll_workflow_task_queue(poll)
        )
        await asyncio.sleep(0.05)
        await clients[(round_ + 1) % NODES].start_workflow(
            "T", id=f"{queue}-{round_}", task_queue=queue
        )
        assert (await waiting).workflow_execution.workflow_id == f"{queue}-{round_}"


async def test_a_server_that_is_behind_lets_others_have_its_tasks(clients: list[Client]) -> None:
    """What it keeps for a worker that polled it, and does not come again."""
    queue = f"q-{uuid.uuid4()}"
    poll = ws.PollWorkflowTaskQueueRequest(
        namespace="default", task_queue=taskqueue.TaskQueue(name=queue), identity="w"
    )
    names = [f"{queue}-{number}" for number in range(4)]
    got = []

    async def take(client: Client) -> None:
        reply = await client.workflow_service.poll_workflow_task_queue(poll)
        got.append(reply.workflow_execution.workflow_id)

    await clients[0].start_workflow("T", id=names[0], task_queue=queue)
    await take(clients[0])
    for name in names[1:]:
        await clients[0].start_workflow("T", id=name, task_queue=queue)
    for client in (clients[1], clients[2], clients[1]):
        await take(client)
    assert sorted(got) == names


async def test_one_word_that_is_not_understood_hides_no_other(
    clients: list[Client], url: str
) -> None:
    poll = ws.PollWorkflowTaskQueueRequest(
        namespace="default",
        task_queue=taskqueue.TaskQueue(name=f"q-{uuid.uuid4()}"),
        identity="w",
        worker_instance_key="a worker",
    )
    waiting = asyncio.create_task(clients[0].workflow_service.poll_workflow_task_queue(poll))
    connection = await asyncpg.connect(url)
    try:

        async def is_answered() -> bool:
            await connection.execute("SELECT pg_notify('durably', $1)", WORDS_OF_A_LATER_VERSION)
            return waiting.done()

        await eventually(is_answered, 60)
    finally:
        await connection.close()
    assert not (await waiting).task_token
