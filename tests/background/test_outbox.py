"""Deliveries that a crash cut off are made again, and happen once."""

import asyncio
import time
from collections.abc import AsyncIterator
from typing import Any

import pytest
import pytest_asyncio
from temporalio.api.command.v1 import message_pb2 as command
from temporalio.api.common.v1 import message_pb2 as common
from temporalio.api.enums.v1 import command_type_pb2 as command_types
from temporalio.api.taskqueue.v1 import message_pb2 as taskqueue
from temporalio.api.workflowservice.v1 import request_response_pb2 as ws

from durably.background.batches import BatchWork
from durably.background.callbacks import CallbackDeliveries
from durably.background.nexus import NexusDeliveries
from durably.background.nexus_external import ExternalCalls
from durably.background.nexus_watch import NexusWatch
from durably.background.outbound_http import OutboundHttp
from durably.background.outbox import Outbox, child_request, parent_of
from durably.config import Config
from durably.engine.state import Kind
from durably.engine.transition import ApplyParentClosePolicy, StartChild
from durably.matching import Matching
from durably.service import admission
from durably.service.admission import Call
from durably.service.batches import Batches
from durably.service.breakers import CircuitBreakers
from durably.service.callback_tokens import CallbackTokens
from durably.service.deployments import Deployments
from durably.service.execution import Execution
from durably.service.namespaces import Namespaces
from durably.service.nexus_completions import NexusCompletions
from durably.service.nexus_dispatch import NexusDispatch
from durably.service.nexus_endpoints import NexusEndpoints
from durably.service.nexus_system import SystemOperations, endpoint_ids
from durably.service.nexus_tasks import NexusTasks
from durably.service.queries import Queries
from durably.service.task_queues import TaskQueues
from durably.service.transact import Executions
from durably.service.worker_tasks import WorkerTasks
from durably.service.workers import OwnHeartbeats, Workers
from durably.service.workflows import Workflows
from durably.store.sqlite import SqliteStore
from durably.store.visibility_query import parse

CALL = Call("test", {})
CONFIG = Config()
QUEUE = taskqueue.TaskQueue(name="q")


class Parts:
    """A server without its loops and its port: deliveries are made when the test says so."""

    def __init__(self, store: SqliteStore, namespaces: Namespaces) -> None:
        self.store = store
        self.namespaces = namespaces
        self.namespace_id = namespaces.id_of("default")
        self.executions = Executions(
            store, Matching(time.time_ns), time.time_ns, CONFIG, namespaces.retention_ns
        )
        deployments = Deployments(self.executions, namespaces)
        self.workflows = Workflows(self.executions, namespaces, deployments, lambda *_: False)
        queries = Queries(self.executions, namespaces)
        listed = Workers(namespaces, OwnHeartbeats(time.time_ns, CONFIG))
        queues = TaskQueues(self.executions, namespaces, lambda: "")
        endpoints = NexusEndpoints(store, namespaces, time.time_ns, CONFIG)
        system = SystemOperations(self.workflows)
        self.workers = WorkerTasks(
            self.executions,
            namespaces,
            queries,
            listed,
            queues,
            deployments,
            endpoint_ids(endpoints, system),
        )
        dispatch = NexusDispatch(
            NexusTasks(self.executions, namespaces, queues, deployments),
            namespaces,
            ExternalCalls(OutboundHttp(CONFIG), CONFIG, lambda: ""),
            {},
        )
        breakers = CircuitBreakers(time.time_ns, 6, 60.0)
        tokens = CallbackTokens(b"key")
        self.outbox = Outbox(
            self.executions,
            self.workflows.start_child,
            self.workflows.start_scheduled,
            BatchWork(self.executions, Batches(self.executions, namespaces), admission.answers({})),
            NexusDeliveries(self.executions, endpoints, dispatch, tokens, breakers, system),
            NexusWatch(self.executions, endpoints, dispatch, breakers),
            CallbackDeliveries(
                self.executions,
                OutboundHttp(CONFIG),
                breakers,
                NexusCompletions(self.executions, tokens),
            ),
        )

    async def find(self, workflow_id: str) -> Execution:
        return await self.executions.find(self.namespace_id, workflow_id)

    async def runs(self) -> int:
        found = await self.store.count_executions(Kind.WORKFLOW, self.namespace_id, parse("", {}))
        return found[0][1]

    async def start(self, workflow_id: str) -> None:
        request = ws.StartWorkflowExecutionRequest(
            namespace="default",
            workflow_id=workflow_id,
            workflow_type=common.WorkflowType(name="Parent"),
            task_queue=QUEUE,
        )
        await self.workflows.start_workflow_execution(request, CALL)

    async def complete_next_task(self, kind: str, **attributes: Any) -> None:
        """Take the workflow task that waits, and complete it with one command."""
        poll = ws.PollWorkflowTaskQueueRequest(namespace="default", task_queue=QUEUE)
        task = await self.workers.poll_workflow_task_queue(poll, CALL)
        only = command.Command(
            command_type=command_types.CommandType.Value(f"COMMAND_TYPE_{kind.upper()}")
        )
        field = getattr(only, f"{kind}_command_attributes")
        field.MergeFrom(type(field)(**attributes))
        field.SetInParent()
        completion = ws.RespondWorkflowTaskCompletedRequest(
            namespace="default", task_token=task.task_token, commands=[only]
        )
        await self.workers.respond_workflow_task_completed(completion, CALL)

    async def initiate_child(self, policy: str) -> tuple[int, Execution]:
        """A parent with one child to be started, and the id of the event that says so."""
        await self.start("parent")
        await self.complete_next_task(
            "start_child_workflow_execution",
            workflow_id="child",
            workflow_type=common.WorkflowType(name="Child"),
            task_queue=taskqueue.TaskQueue(name="children"),
            parent_close_policy=f"PARENT_CLOSE_POLICY_{policy}",
        )
        parent = await self.find("parent")
        return next(iter(parent.state.children)), parent

    async def terminate(self, workflow_id: str) -> None:
        request = ws.TerminateWorkflowExecutionRequest(namespace="default")
        request.workflow_execution.workflow_id = workflow_id
        await self.workflows.terminate_workflow_execution(request, CALL)


@pytest_asyncio.fixture
async def parts() -> AsyncIterator[Parts]:
    store = SqliteStore.open("memory:")
    namespaces = Namespaces(store, CONFIG, time.time_ns)
    await namespaces.open()
    yield Parts(store, namespaces)
    await store.close()


@pytest.mark.parametrize("closed", [False, True])
async def test_a_child_that_continued_as_new_is_not_started_again(
    parts: Parts, closed: bool
) -> None:
    """As if the server had died after the child's start and before its parent recorded it."""
    await parts.start("parent")
    await parts.complete_next_task(
        "start_child_workflow_execution",
        workflow_id="child",
        workflow_type=common.WorkflowType(name="Child"),
        task_queue=QUEUE,
    )
    parent = await parts.find("parent")
    (event_id, child), *_ = parent.state.children.items()
    first_run_id = await parts.workflows.start_child(
        parts.namespace_id,
        child_request(parent.state, child),
        parent_of(parent.state, event_id),
    )
    await parts.complete_next_task("continue_as_new_workflow_execution")
    if closed:
        await parts.complete_next_task("complete_workflow_execution")
    await parts.outbox.deliver(parent.execution_id, StartChild(event_id))
    recorded = (await parts.find("parent")).state.children[event_id]
    assert recorded.started
    assert recorded.run_id == first_run_id
    assert (await parts.find("child")).state.started.first_execution_run_id == first_run_id
    assert await parts.runs() == 3


@pytest.mark.parametrize("policy", ["TERMINATE", "REQUEST_CANCEL", "ABANDON"])
async def test_a_child_whose_start_was_never_recorded_is_ended_with_its_parent(
    parts: Parts, policy: str
) -> None:
    """The parent closes after the child's start, and before it has recorded it."""
    event_id, parent = await parts.initiate_child(policy)
    child = parent.state.children[event_id]
    await parts.workflows.start_child(
        parts.namespace_id, child_request(parent.state, child), parent_of(parent.state, event_id)
    )
    await parts.terminate("parent")
    await parts.outbox.deliver(parent.execution_id, StartChild(event_id))
    await parts.outbox.deliver(parent.execution_id, ApplyParentClosePolicy(event_id))
    state = (await parts.find("child")).state
    assert state.running == (policy != "TERMINATE")
    assert state.cancel_requested == (policy == "REQUEST_CANCEL")
    assert not (await parts.find("parent")).state.policies_due


async def test_a_child_whose_start_is_under_way_is_ended_with_its_parent(parts: Parts) -> None:
    """The parent closes while the child is being started: it does not outlive its parent."""
    event_id, parent = await parts.initiate_child("TERMINATE")
    starting = asyncio.create_task(parts.outbox.deliver(parent.execution_id, StartChild(event_id)))
    await asyncio.sleep(0)
    terminating = asyncio.create_task(parts.terminate("parent"))
    await asyncio.sleep(0)
    await asyncio.gather(starting, terminating)
    await parts.outbox.deliver(parent.execution_id, ApplyParentClosePolicy(event_id))
    assert not (await parts.find("child")).state.running
    assert await parts.runs() == 2
