"""Task queues: whose turn it is, how fast they are, and what is said of them; also after a kill."""

import asyncio
from typing import Any

from temporalio.api.command.v1 import message_pb2 as command
from temporalio.api.common.v1 import message_pb2 as common
from temporalio.api.enums.v1 import command_type_pb2 as command_types
from temporalio.api.enums.v1 import task_queue_pb2 as enums
from temporalio.api.taskqueue.v1 import message_pb2 as taskqueue
from temporalio.api.workflowservice.v1 import request_response_pb2 as ws
from temporalio.client import Client
from temporalio.common import Priority

from durably import Server
from tests.conftest import eventually
from tests.processes import ServerProcess

QUEUE = taskqueue.TaskQueue(name="turns")


async def start(client: Client, workflow_id: str, **priority: Any) -> None:
    await client.start_workflow(
        "Any", id=workflow_id, task_queue=QUEUE.name, priority=Priority(**priority)
    )


async def workflow_task(client: Client, who: str = "w") -> ws.PollWorkflowTaskQueueResponse:
    poll = ws.PollWorkflowTaskQueueRequest(namespace="default", task_queue=QUEUE, identity=who)
    return await client.workflow_service.poll_workflow_task_queue(poll)


async def order(client: Client, count: int) -> list[str]:
    return [(await workflow_task(client)).workflow_execution.workflow_id for _ in range(count)]


async def schedule(client: Client, *commands: Any) -> None:
    """Complete the next workflow task with these activities or children."""
    task = await workflow_task(client)
    made = []
    for each in commands:
        if isinstance(each, command.ScheduleActivityTaskCommandAttributes):
            each.activity_type.name = "Any"
            each.start_to_close_timeout.seconds = 100
            made.append(
                command.Command(
                    command_type=command_types.COMMAND_TYPE_SCHEDULE_ACTIVITY_TASK,
                    schedule_activity_task_command_attributes=each,
                )
            )
        else:
            made.append(
                command.Command(
                    command_type=command_types.COMMAND_TYPE_START_CHILD_WORKFLOW_EXECUTION,
                    start_child_workflow_execution_command_attributes=each,
                )
            )
    await client.workflow_service.respond_workflow_task_completed(
        ws.RespondWorkflowTaskCompletedRequest(
            namespace="default", task_token=task.task_token, commands=made
        )
    )


def activity(activity_id: str, **priority: Any) -> command.ScheduleActivityTaskCommandAttributes:
    return command.ScheduleActivityTaskCommandAttributes(
        activity_id=activity_id, priority=common.Priority(**priority)
    )


def activity_poll(
    client: Client, **fields: Any
) -> "asyncio.Task[ws.PollActivityTaskQueueResponse]":
    poll = ws.PollActivityTaskQueueRequest(
        namespace="default", task_queue=QUEUE, identity="w", **fields
    )
    return asyncio.create_task(client.workflow_service.poll_activity_task_queue(poll))


async def configure(client: Client, **fields: Any) -> taskqueue.TaskQueueConfig:
    request = ws.UpdateTaskQueueConfigRequest(
        namespace="default",
        task_queue=QUEUE.name,
        task_queue_type=enums.TASK_QUEUE_TYPE_ACTIVITY,
        identity="operator",
        **fields,
    )
    return (await client.workflow_service.update_task_queue_config(request)).config


def rate(per_s: float | None) -> ws.UpdateTaskQueueConfigRequest.RateLimitUpdate:
    limit = None if per_s is None else taskqueue.RateLimit(requests_per_second=per_s)
    return ws.UpdateTaskQueueConfigRequest.RateLimitUpdate(rate_limit=limit, reason="why")


async def describe(
    client: Client, kind: enums.TaskQueueType.ValueType = enums.TASK_QUEUE_TYPE_ACTIVITY
) -> ws.DescribeTaskQueueResponse:
    return await client.workflow_service.describe_task_queue(
        ws.DescribeTaskQueueRequest(
            namespace="default",
            task_queue=QUEUE,
            task_queue_type=kind,
            report_config=True,
            report_stats=True,
        )
    )


async def test_tasks_go_by_priority_and_keys_take_turns(client: Client) -> None:
    await start(client, "low", priority_key=5)
    for number in range(3):
        await start(client, f"a{number}", fairness_key="a")
    await start(client, "b0", fairness_key="b")
    await start(client, "high", priority_key=1)
    assert await order(client, 6) == ["high", "a0", "b0", "a1", "a2", "low"]


async def test_the_order_is_kept_through_kill_9(server_process: ServerProcess) -> None:
    server_process.start()
    client = await Client.connect(server_process.address)
    for number in range(4):
        await start(client, f"a{number}", fairness_key="a", priority_key=2)
    await start(client, "b0", fairness_key="b", priority_key=2)
    await start(client, "default")
    server_process.kill()
    server_process.start()
    client = await Client.connect(server_process.address)
    await start(client, "c0", fairness_key="c", priority_key=2)
    await start(client, "a4", fairness_key="a", priority_key=2)
    stats = (await describe(client, enums.TASK_QUEUE_TYPE_WORKFLOW)).stats_by_priority_key
    assert {level: each.approximate_backlog_count for level, each in stats.items()} == {2: 7, 3: 1}
    given = await order(client, 8)
    assert given == ["a0", "b0", "c0", "a1", "a2", "a3", "a4", "default"]


async def test_activities_and_children_have_their_workflows_priority(client: Client) -> None:
    await start(client, "parent", priority_key=1, fairness_key="k")
    child = command.StartChildWorkflowExecutionCommandAttributes(
        workflow_id="child", priority=common.Priority(fairness_key="own")
    )
    child.workflow_type.name = "Any"
    await schedule(client, activity("plain"), activity("own", priority_key=4), child)
    tasks = [await activity_poll(client) for _ in range(2)]
    assert [(each.activity_id, each.priority) for each in tasks] == [
        ("plain", common.Priority(priority_key=1, fairness_key="k")),
        ("own", common.Priority(priority_key=4, fairness_key="k")),
    ]
    description = await client.get_workflow_handle("child").describe()
    assert description.raw_info.priority == common.Priority(priority_key=1, fairness_key="own")


async def test_a_queue_that_is_stopped_gives_nothing_until_it_goes_on(client: Client) -> None:
    config = await configure(client, update_queue_rate_limit=rate(0))
    assert config.queue_rate_limit.metadata.reason == "why"
    assert config.queue_rate_limit.metadata.update_identity == "operator"
    poll = activity_poll(client)
    await start(client, "w")
    await schedule(client, activity("held"))

    async def held() -> bool:
        found = (await describe(client)).stats
        return found.approximate_backlog_count == 1 and found.rate_limiting_active

    await eventually(held)
    assert not poll.done()
    await configure(client, update_queue_rate_limit=rate(None))
    assert (await poll).activity_id == "held"
    stats = (await describe(client)).stats
    assert stats.approximate_backlog_count == 0
    assert stats.tasks_add_rate > 0
    assert stats.tasks_dispatch_rate > 0


async def test_one_key_that_is_used_up_does_not_hold_others_up(client: Client) -> None:
    await configure(client, update_fairness_key_rate_limit_default=rate(0.0001))
    await start(client, "w")
    wanted = [activity(f"a{n}", fairness_key="a") for n in range(2)]
    await schedule(client, *wanted, activity("b", fairness_key="b"))
    given = {(await activity_poll(client)).activity_id for _ in range(2)}
    assert given == {"a0", "b"}
    waits = activity_poll(client)
    await configure(client, update_fairness_key_rate_limit_default=rate(None))
    assert (await waits).activity_id == "a1"


async def test_the_configuration_is_kept_through_kill_9(server_process: ServerProcess) -> None:
    server_process.start()
    client = await Client.connect(server_process.address)
    await configure(client, update_queue_rate_limit=rate(7.5))
    before = await configure(
        client,
        set_fairness_weight_overrides={"a": 2.5, "b": 1},
        unset_fairness_weight_overrides=["c"],
    )
    server_process.kill()
    server_process.start()
    client = await Client.connect(server_process.address)
    described = await describe(client)
    assert described.config == before
    assert described.effective_rate_limit.requests_per_second == 7.5
    assert described.effective_rate_limit.rate_limit_source == enums.RATE_LIMIT_SOURCE_API
    after = await configure(client, unset_fairness_weight_overrides=["a"])
    assert after.fairness_weight_overrides == {"b": 1}


async def test_what_a_worker_asks_for_holds_until_the_configuration_says_otherwise(
    client: Client,
) -> None:
    metadata = taskqueue.TaskQueueMetadata()
    metadata.max_tasks_per_second.value = 3
    poll = activity_poll(client, task_queue_metadata=metadata)

    async def limited() -> bool:
        found = (await describe(client)).effective_rate_limit
        return found.rate_limit_source == enums.RATE_LIMIT_SOURCE_WORKER

    await eventually(limited)
    assert (await describe(client)).effective_rate_limit.requests_per_second == 3
    await configure(client, update_queue_rate_limit=rate(9))
    assert (await describe(client)).effective_rate_limit.requests_per_second == 9
    poll.cancel()


async def test_a_rate_lets_all_tasks_through_in_time(client: Client) -> None:
    await configure(client, update_queue_rate_limit=rate(50))
    await start(client, "w")
    await schedule(client, *(activity(f"a{n}") for n in range(80)))
    given = await asyncio.gather(*(activity_poll(client) for _ in range(80)))
    assert len({each.activity_id for each in given}) == 80


async def test_workers_are_told_to_poll_more_where_tasks_wait_and_less_where_none_do() -> None:
    now = [1_000_000_000_000_000_000]
    async with Server(store="memory:", port=0, clock=lambda: now[0]) as server:
        client = await Client.connect(server.address)
        for number in range(3):
            await start(client, f"w{number}")
        now[0] += 10**9
        busy = await workflow_task(client)
        assert busy.backlog_count_hint == 2
        assert busy.poller_scaling_decision.poll_request_delta_suggestion == 1
        await order(client, 2)
        idle = asyncio.create_task(workflow_task(client, "idle"))

        async def waits() -> bool:
            seen = (await describe(client, enums.TASK_QUEUE_TYPE_WORKFLOW)).pollers
            return any(each.identity == "idle" for each in seen)

        await eventually(waits)
        now[0] += 2 * 10**9
        await start(client, "late")
        assert (await idle).poller_scaling_decision.poll_request_delta_suggestion == -1
