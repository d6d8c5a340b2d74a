"""Workflows with a cron schedule: each run follows the one before, until somebody ends the chain."""

from datetime import timedelta

import pytest
from temporalio import workflow
from temporalio.api.enums.v1 import workflow_pb2 as workflow_enums
from temporalio.api.history.v1 import message_pb2 as history
from temporalio.client import Client, WorkflowExecutionStatus, WorkflowFailureError
from temporalio.common import RetryPolicy
from temporalio.exceptions import ApplicationError, CancelledError
from temporalio.service import RPCError, RPCStatusCode
from temporalio.worker import UnsandboxedWorkflowRunner, Worker

from durably import Server
from tests.conftest import eventually

BY_CRON = workflow_enums.CONTINUE_AS_NEW_INITIATOR_CRON_SCHEDULE


@workflow.defn
class Counts:
    """Counts the runs of its chain."""

    @workflow.run
    async def run(self, fail_at: int) -> int:
        await workflow.sleep(0.01)
        number = (workflow.get_last_completion_result(type_hint=int) or 0) + 1
        if workflow.has_last_completion_result() and workflow.get_last_failure() is None:
            assert workflow.info().cron_schedule
        if number == fail_at and workflow.get_last_failure() is None:
            raise ApplicationError("this once", type="Once")
        return number


@workflow.defn
class Parent:
    """Its child has a cron schedule: it hears of the end of the chain only."""

    @workflow.run
    async def run(self) -> str:
        child = await workflow.start_child_workflow(
            Counts.run, 0, id="cron-child", cron_schedule="@every 1s"
        )
        try:
            await child
        except Exception as error:
            return type(error.__cause__).__name__
        return "ended"


def worker(client: Client) -> Worker:
    return Worker(
        client,
        task_queue="cron",
        workflows=[Counts, Parent],
        workflow_runner=UnsandboxedWorkflowRunner(),
    )


async def runs(client: Client, workflow_id: str) -> list[history.HistoryEvent]:
    """The first events of all runs of a chain, the oldest first."""
    found = [
        await client.get_workflow_handle(row.id, run_id=row.run_id).fetch_history()
        async for row in client.list_workflows(f"WorkflowId = '{workflow_id}'")
    ]
    return sorted((each.events[0] for each in found), key=lambda e: e.event_time.ToNanoseconds())


async def at_least(client: Client, workflow_id: str, count: int) -> None:
    async def there() -> bool:
        query = f"WorkflowId = '{workflow_id}'"
        return (await client.count_workflows(query)).count >= count

    await eventually(there)


async def test_each_run_is_told_the_result_of_the_one_before(client: Client) -> None:
    async with worker(client):
        handle = await client.start_workflow(
            Counts.run, 0, id="c", task_queue="cron", cron_schedule="@every 1s"
        )
        await at_least(client, "c", 4)
        await client.get_workflow_handle("c").cancel()
        with pytest.raises(WorkflowFailureError) as ended:
            await handle.result()
    assert isinstance(ended.value.cause, CancelledError)
    first, second, third, *_ = [
        event.workflow_execution_started_event_attributes for event in await runs(client, "c")
    ]
    assert [each.initiator for each in (first, second, third)] == [BY_CRON] * 3
    assert not first.HasField("last_completion_result")
    assert second.last_completion_result.payloads[0].data == b"1"
    assert third.last_completion_result.payloads[0].data == b"2"
    assert {each.cron_schedule for each in (first, second, third)} == {"@every 1s"}
    assert {each.first_execution_run_id for each in (first, second, third)} == {
        handle.first_execution_run_id
    }
    assert all(each.first_workflow_task_backoff.ToTimedelta() for each in (first, second, third))


async def test_a_failed_run_is_followed_too_and_the_result_before_it_is_kept(
    client: Client,
) -> None:
    async with worker(client):
        handle = await client.start_workflow(
            Counts.run,
            2,
            id="f",
            task_queue="cron",
            cron_schedule="@every 1s",
            retry_policy=RetryPolicy(maximum_attempts=1),
        )
        await at_least(client, "f", 4)
        await client.get_workflow_handle("f").terminate()
        assert handle.id == "f"
    _, second, third, *_ = [
        event.workflow_execution_started_event_attributes for event in await runs(client, "f")
    ]
    assert second.last_completion_result.payloads[0].data == b"1"
    assert third.last_completion_result.payloads[0].data == b"1"
    assert third.continued_failure.message == "this once"
    assert third.attempt == 1


async def test_a_run_that_times_out_is_followed(client: Client) -> None:
    """Nobody works on it."""
    await client.start_workflow(
        "Any",
        id="t",
        task_queue="nobody",
        cron_schedule="@every 1s",
        run_timeout=timedelta(milliseconds=200),
    )
    await at_least(client, "t", 3)
    await client.get_workflow_handle("t").terminate()
    statuses = [row.status async for row in client.list_workflows("WorkflowId = 't'")]
    assert set(statuses) == {
        WorkflowExecutionStatus.TIMED_OUT,
        WorkflowExecutionStatus.TERMINATED,
    }


async def test_a_parent_hears_of_the_end_of_the_chain(client: Client) -> None:
    async with worker(client):
        handle = await client.start_workflow(Parent.run, id="p", task_queue="cron")
        await at_least(client, "cron-child", 3)
        await client.get_workflow_handle("cron-child").terminate()
        assert await handle.result() == "TerminatedError"


async def test_a_chain_goes_on_after_a_restart(store_url: str) -> None:
    store = store_url
    for count in (2, 4):
        async with Server(store=store, port=0) as server:
            client = await Client.connect(server.address)
            async with worker(client):
                if count == 2:
                    await client.start_workflow(
                        Counts.run, 0, id="r", task_queue="cron", cron_schedule="@every 1s"
                    )
                await at_least(client, "r", count)
            told = [
                event.workflow_execution_started_event_attributes.last_completion_result
                for event in await runs(client, "r")
            ]
            numbers = [int(each.payloads[0].data) if each.payloads else 0 for each in told]
            assert numbers == list(range(len(numbers)))


async def test_what_cannot_be_read_is_refused(client: Client) -> None:
    for schedule in ("* * *", "0 0 30 2 *"):
        with pytest.raises(RPCError) as refused:
            await client.start_workflow("Any", id="x", task_queue="q", cron_schedule=schedule)
        assert refused.value.status is RPCStatusCode.INVALID_ARGUMENT
    assert (await client.count_workflows()).count == 0
