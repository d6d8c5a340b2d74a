"""Rules of a namespace pause activities that are about to start."""

import asyncio
import uuid
from datetime import timedelta
from typing import Any

import pytest
from google.protobuf.timestamp_pb2 import Timestamp
from temporalio import activity, workflow
from temporalio.api.common.v1 import message_pb2 as common
from temporalio.api.rules.v1 import message_pb2 as rules
from temporalio.api.taskqueue.v1 import message_pb2 as taskqueue
from temporalio.api.workflow.v1 import message_pb2 as workflow_messages
from temporalio.api.workflowservice.v1 import request_response_pb2 as ws
from temporalio.client import Client, WorkflowHandle
from temporalio.common import RetryPolicy
from temporalio.exceptions import ApplicationError
from temporalio.service import RPCError, RPCStatusCode
from temporalio.worker import UnsandboxedWorkflowRunner, Worker

from tests.conftest import eventually
from tests.processes import ServerProcess


@activity.defn
async def flaky() -> int:
    """Fails twice."""
    if activity.info().attempt < 3:
        raise ApplicationError("not yet")
    return activity.info().attempt


@workflow.defn
class Calls:
    @workflow.run
    async def run(self, queue: str) -> int:
        return await workflow.execute_activity(
            flaky,
            task_queue=queue,
            start_to_close_timeout=timedelta(seconds=60),
            retry_policy=RetryPolicy(
                initial_interval=timedelta(milliseconds=20), backoff_coefficient=1
            ),
        )


def worker(client: Client) -> Worker:
    return Worker(
        client,
        task_queue="q",
        workflows=[Calls],
        activities=[flaky],
        workflow_runner=UnsandboxedWorkflowRunner(),
    )


def spec(rule_id: str, predicate: str, query: str = "") -> rules.WorkflowRuleSpec:
    made = rules.WorkflowRuleSpec(id=rule_id, visibility_query=query)
    made.activity_start.predicate = predicate
    made.actions.add().activity_pause.SetInParent()
    return made


async def create(client: Client, made: rules.WorkflowRuleSpec, request_id: str = "") -> None:
    response = await client.workflow_service.create_workflow_rule(
        ws.CreateWorkflowRuleRequest(
            namespace="default",
            spec=made,
            identity="me",
            description="too many failures",
            request_id=request_id,
        )
    )
    assert response.rule.spec == made
    assert response.rule.create_time.ToNanoseconds() > 0


async def delete(client: Client, rule_id: str) -> None:
    await client.workflow_service.delete_workflow_rule(
        ws.DeleteWorkflowRuleRequest(namespace="default", rule_id=rule_id)
    )


async def listed(client: Client) -> list[str]:
    found = await client.workflow_service.list_workflow_rules(
        ws.ListWorkflowRulesRequest(namespace="default")
    )
    return [rule.spec.id for rule in found.rules]


async def start(client: Client, queue: str = "q") -> WorkflowHandle[Any, Any]:
    return await client.start_workflow(Calls.run, queue, id=f"w-{uuid.uuid4()}", task_queue="q")


async def pending(handle: WorkflowHandle[Any, Any]) -> workflow_messages.PendingActivityInfo | None:
    shown = (await handle.describe()).raw_description.pending_activities
    return shown[0] if shown else None


async def paused(handle: WorkflowHandle[Any, Any]) -> workflow_messages.PendingActivityInfo:
    async def is_paused() -> bool:
        found = await pending(handle)
        return found is not None and found.paused

    await eventually(is_paused)
    found = await pending(handle)
    assert found is not None
    return found


async def unpause(client: Client, handle: WorkflowHandle[Any, Any]) -> None:
    await client.workflow_service.unpause_activity(
        ws.UnpauseActivityRequest(
            namespace="default",
            execution=common.WorkflowExecution(workflow_id=handle.id),
            type="flaky",
        )
    )


@pytest.mark.parametrize(
    ("predicate", "attempt"),
    [
        ("ActivityType = 'flaky'", 1),
        ("ActivityType STARTS_WITH 'fla' AND ActivityAttempt >= 2", 2),
        ("ActivityAttempt BETWEEN 3 AND 5 OR ActivityType = 'other'", 3),
        ("BackoffInterval > 0 AND TaskQueue = 'q' AND ActivityStatus = 'Scheduled'", 2),
    ],
)
async def test_an_activity_is_paused_when_it_is_about_to_start(
    client: Client, predicate: str, attempt: int
) -> None:
    await create(client, spec("rule", predicate))
    async with worker(client):
        handle = await start(client)
        found = await paused(handle)
        assert found.attempt == attempt
        shown = found.pause_info.rule
        assert (shown.rule_id, shown.identity, shown.reason) == ("rule", "me", "too many failures")
        await delete(client, "rule")
        await unpause(client, handle)
        assert await handle.result() == 3


async def test_workflows_that_the_rule_is_not_about_go_on(client: Client) -> None:
    about = (
        "WorkflowType = 'Other'",
        "WorkflowId STARTS_WITH 'v-'",
        "StartTime > '2999-01-01T00:00:00Z'",
        "ExecutionStatus = 'Paused'",
    )
    for number, query in enumerate(about):
        await create(client, spec(f"rule-{number}", "ActivityType = 'flaky'", query))
    await create(client, spec("nothing", "ActivityType = 'another'"))
    async with worker(client):
        handle = await start(client)
        assert await handle.result() == 3


async def test_an_activity_that_waits_on_its_queue_is_paused_when_a_worker_comes(
    client: Client,
) -> None:
    async with worker(client):
        handle = await start(client, "elsewhere")

        async def waits() -> bool:
            return await pending(handle) is not None

        await eventually(waits)
        await create(client, spec("rule", "ActivityType = 'flaky'"))
        poll = client.workflow_service.poll_activity_task_queue(
            ws.PollActivityTaskQueueRequest(
                namespace="default", task_queue=taskqueue.TaskQueue(name="elsewhere")
            ),
            timeout=timedelta(seconds=20),
        )
        polling = asyncio.ensure_future(poll)
        await paused(handle)
        await delete(client, "rule")
        await unpause(client, handle)
        assert (await polling).activity_type.name == "flaky"


async def test_a_rule_is_triggered_for_one_workflow(client: Client) -> None:
    async with worker(client):
        handle, other = await start(client, "elsewhere"), await start(client, "elsewhere")

        async def both_wait() -> bool:
            return None not in (await pending(handle), await pending(other))

        await eventually(both_wait)
        asked = ws.TriggerWorkflowRuleRequest(
            namespace="default",
            execution=common.WorkflowExecution(workflow_id=handle.id),
            identity="operator",
            spec=spec("", "ActivityType = 'another'"),
        )
        assert not (await client.workflow_service.trigger_workflow_rule(asked)).applied
        asked.spec.activity_start.predicate = "ActivityType = 'flaky'"
        assert (await client.workflow_service.trigger_workflow_rule(asked)).applied
        assert (await paused(handle)).pause_info.manual.identity == "operator"
        found = await pending(other)
        assert found is not None
        assert not found.paused
        assert await listed(client) == []


async def test_a_rule_ends_when_its_time_is_over(client: Client) -> None:
    over = Timestamp()
    over.FromSeconds(1)
    made = spec("over", "ActivityType = 'flaky'")
    made.expiration_time.CopyFrom(over)
    await create(client, made)
    assert await listed(client) == []
    async with worker(client):
        assert await (await start(client)).result() == 3
    await create(client, spec("over", "ActivityType = 'another'"))
    assert await listed(client) == ["over"]


async def test_rules_outlive_the_server(server_process: ServerProcess) -> None:
    server_process.start()
    client = await Client.connect(server_process.address)
    await create(client, spec("rule", "ActivityType = 'flaky'"))
    async with worker(client):
        handle = await start(client)
        await paused(handle)
        await asyncio.to_thread(server_process.kill)
        await asyncio.to_thread(server_process.start)
        assert (await paused(handle)).pause_info.rule.rule_id == "rule"
        another = await start(client)
        await paused(another)
    assert await listed(client) == ["rule"]


async def test_what_is_wrong_with_a_rule_is_said(client: Client) -> None:
    async def refused(made: rules.WorkflowRuleSpec, words: str, request_id: str = "") -> None:
        with pytest.raises(RPCError, match=words) as error:
            await create(client, made, request_id)
        assert error.value.status is RPCStatusCode.INVALID_ARGUMENT

    await refused(spec("r", "Nope = 'x'"), "unsupported activity field: Nope")
    await refused(spec("r", "ActivityAttempt > 'many'"), "invalid value for ActivityAttempt")
    await refused(spec("r", "ActivityType = = 'x'"), "malformed")
    await refused(spec("r", "", "RunId = 'x'"), "unsupported workflow field: RunId")
    await create(client, spec("r", "ActivityType = 'x'"), "request")
    await create(client, spec("r", "ActivityType = 'x'"), "request")
    await refused(spec("r", "ActivityType = 'x'"), "already exists", "another")
    assert await listed(client) == ["r"]
    found = await client.workflow_service.describe_workflow_rule(
        ws.DescribeWorkflowRuleRequest(namespace="default", rule_id="r")
    )
    assert (found.rule.created_by_identity, found.rule.description) == ("me", "too many failures")
    with pytest.raises(RPCError) as unknown:
        await client.workflow_service.create_workflow_rule(
            ws.CreateWorkflowRuleRequest(
                namespace="default", spec=spec("scan", ""), force_scan=True
            )
        )
    assert unknown.value.status is RPCStatusCode.UNIMPLEMENTED
