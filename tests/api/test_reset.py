"""A run is reset to an earlier point: what was done before stays, what came from outside comes again."""

import asyncio
import uuid
from datetime import timedelta
from typing import Any

import pytest
from temporalio import activity, workflow
from temporalio.api.common.v1 import message_pb2 as common
from temporalio.api.enums.v1 import reset_pb2 as reset_enums
from temporalio.api.workflow.v1 import message_pb2 as workflow_messages
from temporalio.api.workflowservice.v1 import request_response_pb2 as ws
from temporalio.client import Client, WorkflowExecutionStatus, WorkflowHandle, WorkflowHistory
from temporalio.service import RPCError, RPCStatusCode
from temporalio.worker import Replayer, UnsandboxedWorkflowRunner, Worker

from durably import Server
from tests.conftest import eventually

calls: list[int] = []


@activity.defn
async def count(number: int) -> int:
    calls.append(number)
    return number


@workflow.defn
class Kid:
    def __init__(self) -> None:
        self.free = False

    @workflow.signal
    async def go(self) -> None:
        self.free = True

    @workflow.run
    async def run(self) -> str:
        await workflow.wait_condition(lambda: self.free)
        return "kid"


@workflow.defn
class Collects:
    """A child, an activity, two items from outside, another activity, and the word to end."""

    def __init__(self) -> None:
        self.items: list[int] = []
        self.ended = False

    @workflow.signal
    async def put(self, item: int) -> None:
        self.items.append(item)

    @workflow.update
    async def add(self, item: int) -> int:
        self.items.append(item)
        return len(self.items)

    @workflow.signal
    async def end(self) -> None:
        self.ended = True

    @workflow.run
    async def run(self) -> list[Any]:
        kid = await workflow.start_child_workflow(Kid.run, id=workflow.info().workflow_id + "-kid")
        timeout = timedelta(seconds=30)
        first = await workflow.execute_activity(count, 1, start_to_close_timeout=timeout)
        await workflow.wait_condition(lambda: len(self.items) >= 2 or self.ended)
        second = await workflow.execute_activity(count, 2, start_to_close_timeout=timeout)
        await workflow.wait_condition(lambda: self.ended)
        return [first, second, self.items, await kid]


WORKFLOWS = [Collects, Kid]


def worker(client: Client) -> Worker:
    return Worker(
        client,
        task_queue="q",
        workflows=WORKFLOWS,
        activities=[count],
        workflow_runner=UnsandboxedWorkflowRunner(),
    )


async def completions(handle: WorkflowHandle[Any, Any]) -> list[int]:
    events = (await handle.fetch_history()).events
    return [e.event_id for e in events if e.HasField("workflow_task_completed_event_attributes")]


async def collected(client: Client) -> WorkflowHandle[Any, Any]:
    """A run that has done both activities, with one item by signal and one by update."""
    calls.clear()
    handle = await client.start_workflow(Collects.run, id=f"w-{uuid.uuid4()}", task_queue="q")

    async def first_is_done() -> bool:
        return calls == [1]

    await eventually(first_is_done)
    await handle.signal(Collects.put, 1)
    assert await handle.execute_update(Collects.add, 2) == 2

    async def is_waiting() -> bool:
        shown = (await handle.describe()).raw_description
        idle = not shown.pending_activities and not shown.HasField("pending_workflow_task")
        return calls == [1, 2] and idle

    await eventually(is_waiting)
    return handle


def request(handle: WorkflowHandle[Any, Any], at: int, **fields: Any) -> Any:
    which = common.WorkflowExecution(workflow_id=handle.id, run_id=handle.result_run_id or "")
    return ws.ResetWorkflowExecutionRequest(
        namespace="default",
        workflow_execution=which,
        reason="try again",
        workflow_task_finish_event_id=at,
        **({"request_id": str(uuid.uuid4())} | fields),
    )


async def reset(
    client: Client, handle: WorkflowHandle[Any, Any], at: int, **fields: Any
) -> WorkflowHandle[Any, Any]:
    reply = await client.workflow_service.reset_workflow_execution(request(handle, at, **fields))
    return client.get_workflow_handle(handle.id, run_id=reply.run_id)


async def finish(client: Client, handle: WorkflowHandle[Any, Any]) -> Any:
    await handle.signal(Collects.end)
    await client.get_workflow_handle(handle.id + "-kid").signal(Kid.go)
    return await handle.result()


async def replays(handle: WorkflowHandle[Any, Any]) -> WorkflowHistory:
    history = await handle.fetch_history()
    assert [e.event_id for e in history.events] == list(range(1, len(history.events) + 1))
    replayer = Replayer(workflows=WORKFLOWS, workflow_runner=UnsandboxedWorkflowRunner())
    await replayer.replay_workflow(history)
    return history


async def test_what_came_from_outside_comes_again(client: Client) -> None:
    async with worker(client):
        handle = await collected(client)
        events = (await handle.fetch_history()).events
        done = [
            e.event_id for e in events if e.HasField("activity_task_completed_event_attributes")
        ]
        point = next(p for p in await completions(handle) if p > done[0])
        again = await reset(client, handle, point)
        assert await finish(client, again) == [1, 2, [1, 2], "kid"]
        assert calls[:3] == [1, 2, 2]
        await replays(again)
    old = await client.get_workflow_handle(handle.id, run_id=handle.result_run_id).describe()
    assert old.status is WorkflowExecutionStatus.TERMINATED
    assert old.raw_description.workflow_extended_info.reset_run_id == again.run_id


@pytest.mark.parametrize(
    ("fields", "items"),
    [
        ({"reset_reapply_type": reset_enums.RESET_REAPPLY_TYPE_NONE}, []),
        ({"reset_reapply_type": reset_enums.RESET_REAPPLY_TYPE_SIGNAL}, [1]),
        ({"reset_reapply_exclude_types": [reset_enums.RESET_REAPPLY_EXCLUDE_TYPE_SIGNAL]}, [2]),
        ({"reset_reapply_exclude_types": [reset_enums.RESET_REAPPLY_EXCLUDE_TYPE_UPDATE]}, [1]),
    ],
)
async def test_what_is_excluded_does_not(
    client: Client, fields: dict[str, Any], items: list[int]
) -> None:
    async with worker(client):
        handle = await collected(client)
        again = await reset(client, handle, (await completions(handle))[0], **fields)
        history = await again.fetch_history()
        signals = [
            e.workflow_execution_signaled_event_attributes.signal_name
            for e in history.events
            if e.HasField("workflow_execution_signaled_event_attributes")
        ]
        admitted = [
            e.workflow_execution_update_admitted_event_attributes.request.meta.update_id
            for e in history.events
            if e.HasField("workflow_execution_update_admitted_event_attributes")
        ]
        assert signals == ["put"] * (1 in items)
        assert len(admitted) == (2 in items)
        await again.terminate()


async def test_a_closed_run_is_reset_and_the_end_of_its_child_reaches_the_new_one(
    store_url: str,
) -> None:
    store = store_url
    async with Server(store=store, port=0) as server:
        client = await Client.connect(server.address)
        async with worker(client):
            handle = await collected(client)
            points = await completions(handle)
            await handle.terminate("by mistake")
            signal = workflow_messages.PostResetOperation()
            signal.signal_workflow.signal_name = "put"
            signal.signal_workflow.input.payloads.add(
                metadata={"encoding": b"json/plain"}, data=b"3"
            )
            again = await reset(client, handle, points[-1], post_reset_operations=[signal])
    async with Server(store=store, port=0) as server:
        client = await Client.connect(server.address)
        async with worker(client):
            again = client.get_workflow_handle(again.id, run_id=again.run_id)
            kid = await client.get_workflow_handle(handle.id + "-kid").describe()
            assert kid.status is WorkflowExecutionStatus.TERMINATED  # by the parent close policy
            await again.signal(Collects.end)
            events = (await again.fetch_history()).events
            assert any(e.HasField("workflow_execution_signaled_event_attributes") for e in events)
            await again.terminate()


async def test_the_same_request_resets_once(client: Client) -> None:
    async with worker(client):
        handle = await collected(client)
        point = (await completions(handle))[1]
        first = await reset(client, handle, point, request_id="one")
        second = await reset(client, handle, point, request_id="one")
        assert first.run_id == second.run_id
        runs = [w async for w in client.list_workflows(f"WorkflowId = '{handle.id}'")]
        assert len(runs) == 2
        assert await finish(client, first) == [1, 2, [1, 2], "kid"]


async def test_many_at_once_leave_one_open_run(client: Client) -> None:
    async with worker(client):
        handle = await collected(client)
        point = (await completions(handle))[1]
        await asyncio.gather(*(reset(client, handle, point) for _ in range(5)))
        running = f"WorkflowId = '{handle.id}' AND ExecutionStatus = 'Running'"
        assert (await client.count_workflows(running)).count == 1
        current = client.get_workflow_handle(handle.id)
        assert await finish(client, current) == [1, 2, [1, 2], "kid"]


@pytest.mark.parametrize("at", [0, 1, 3, 10_000])
async def test_a_bad_point_is_refused_and_changes_nothing(client: Client, at: int) -> None:
    async with worker(client):
        handle = await collected(client)
        before = len((await handle.fetch_history()).events)
        with pytest.raises(RPCError) as refused:
            await client.workflow_service.reset_workflow_execution(
                request(handle, at if at != 3 else 2)
            )
        assert refused.value.status is RPCStatusCode.INVALID_ARGUMENT
        assert len((await handle.fetch_history()).events) == before
        assert await finish(client, handle) == [1, 2, [1, 2], "kid"]
