"""What callers see of an execution is committed, and nobody is woken for nothing."""

import asyncio
import time
from collections.abc import AsyncIterator

import pytest_asyncio
from temporalio.api.common.v1 import message_pb2 as common
from temporalio.api.history.v1 import message_pb2 as history
from temporalio.api.update.v1 import message_pb2 as update_messages
from temporalio.api.workflowservice.v1 import request_response_pb2 as ws

from durably.config import Config
from durably.engine import update, workflow
from durably.engine.transition import Transition
from durably.matching import Matching
from durably.service.admission import Call
from durably.service.deployments import Deployments
from durably.service.execution import Execution
from durably.service.namespaces import Namespaces
from durably.service.transact import Executions
from durably.service.workflows import Workflows
from durably.store.sqlite import SqliteStore

CONFIG = Config()


@pytest_asyncio.fixture
async def executions() -> AsyncIterator[Executions]:
    store = SqliteStore.open("memory:")
    namespaces = Namespaces(store, CONFIG, time.time_ns)
    await namespaces.open()
    yield Executions(store, Matching(time.time_ns), time.time_ns, CONFIG, namespaces.retention_ns)
    await store.close()


async def started(executions: Executions) -> Execution:
    namespaces = Namespaces(executions.store, CONFIG, time.time_ns)
    await namespaces.open()
    request = ws.StartWorkflowExecutionRequest(
        namespace="default",
        workflow_id="w",
        workflow_type=common.WorkflowType(name="t"),
        task_queue={"name": "q"},
        request_id="r",
    )
    deployments = Deployments(executions, namespaces)
    workflows = Workflows(executions, namespaces, deployments, lambda *_: False)
    await workflows.start_workflow_execution(request, Call("test", {}))
    return await executions.find(namespaces.id_of("default"), "w")


def signal(t: Transition) -> None:
    attributes = history.WorkflowExecutionSignaledEventAttributes(signal_name="s")
    workflow.signal(t, attributes, CONFIG)


def admit(update_id: str) -> update_messages.Request:
    return update_messages.Request(meta={"update_id": update_id}, input={"name": "change"})


async def test_who_reads_in_the_turn_in_which_a_commit_is_done_sees_it(
    executions: Executions,
) -> None:
    """A commit is announced a little after it is done: a read in between waits for that."""
    execution = await started(executions)
    signalled = asyncio.create_task(executions.transact(execution.execution_id, signal))
    while execution.last_commit is None:  # noqa: ASYNC110  each turn of the loop counts
        await asyncio.sleep(0)
    commit = execution.last_commit
    reads: list[asyncio.Task[list[history.HistoryEvent]]] = []
    turns = 0
    # One read in each turn of the loop, until some began before the announcement and some after.
    while turns < 5:
        expected = execution.state.next_event_id - 1
        reads.append(asyncio.create_task(executions.events(execution, expected, 1)))
        await asyncio.sleep(0)
        turns += commit.done()
    for read in reads:
        assert [event.event_id for event in await read] == [expected]
    await signalled


async def test_who_waits_for_an_update_is_not_woken_by_others(executions: Executions) -> None:
    execution = await started(executions)
    for update_id in ("u", "v"):
        await executions.transact(
            execution.execution_id, lambda t, u=update_id: update.admit(t, admit(u), CONFIG)
        )
    waits = {
        update_id: asyncio.create_task(executions.wait_for_update(execution, update_id, 60))
        for update_id in ("u", "v")
    }
    await asyncio.sleep(0)

    def reject(t: Transition) -> None:
        t.rejected["u"] = update.closed_failure()
        signal(t)

    await executions.transact(execution.execution_id, reject)
    assert await waits["u"]
    assert not waits["v"].done()
    await executions.transact(
        execution.execution_id, lambda t: workflow.terminate(t, "enough", None, "test")
    )
    assert await waits["v"]
    assert not execution.update_watchers


async def test_a_wait_ends_in_time_and_leaves_nothing_behind(executions: Executions) -> None:
    execution = await started(executions)
    assert not await executions.wait_for_update(execution, "u", 0.01)
    assert not await executions.wait_for_change(execution, 0.01)
    assert not execution.update_watchers
    assert not execution.watchers
