"""Nexus operations between two workflows: the service, its handler, who calls it, and the loads.

A synchronous operation is answered by its handler; an asynchronous one is a workflow that its handler starts, whose
end completes the operation. A round trip is from one run of the handler to the next, in one calling workflow: the
result has reached the caller's history, and its next operation the handler. An operation is an action, and so is the
workflow behind one.
"""

import time
from itertools import pairwise

import nexusrpc
from nexusrpc.handler import StartOperationContext, service_handler, sync_operation
from temporalio import nexus, workflow
from temporalio.api.nexus.v1 import EndpointSpec
from temporalio.api.operatorservice.v1 import CreateNexusEndpointRequest
from temporalio.client import Client
from temporalio.nexus import WorkflowRunOperationContext, workflow_run_operation

from bench import aims
from bench.loads import Load, Outcome, fresh_id, together
from bench.workflows import TASK_QUEUE

ENDPOINT = "bench"
OPERATIONS_OF_ONE = 5


@nexusrpc.service
class Clock:
    at_once: nexusrpc.Operation[None, int]
    later: nexusrpc.Operation[None, int]


@workflow.defn
class Echo:
    @workflow.run
    async def run(self, number: int) -> int:
        return number


@service_handler(service=Clock)
class ClockHandler:
    """Both operations give when their handler ran: nanoseconds since the epoch."""

    @sync_operation
    async def at_once(self, _ctx: StartOperationContext, _nothing: None) -> int:
        return time.time_ns()

    @workflow_run_operation
    async def later(
        self, ctx: WorkflowRunOperationContext, _nothing: None
    ) -> nexus.WorkflowHandle[int]:
        return await ctx.start_workflow(Echo.run, time.time_ns(), id=f"echo-{ctx.request_id}")


@workflow.defn
class Calls:
    """Operations one after the other; returns when the handler of each ran."""

    @workflow.run
    async def run(self, operation: str, times: int) -> list[int]:
        clock = workflow.create_nexus_client(service=Clock, endpoint=ENDPOINT)
        return [
            await clock.execute_operation(operation, None, output_type=int) for _ in range(times)
        ]


WORKFLOWS = [Calls, Echo]
HANDLERS = [ClockHandler()]
ACTIONS = {"at_once": 1, "later": 2}


async def prepare(client: Client, size: int) -> int:
    """The endpoint, once it is known: a server may read its endpoints now and then only."""
    spec = EndpointSpec(name=ENDPOINT)
    spec.target.worker.namespace, spec.target.worker.task_queue = client.namespace, TASK_QUEUE
    await client.operator_service.create_nexus_endpoint(CreateNexusEndpointRequest(spec=spec))
    for operation in ACTIONS:
        await run_calls(client, operation, 1)
    return size


async def run_calls(client: Client, operation: str, times: int) -> list[int]:
    return await client.execute_workflow(
        Calls.run, args=[operation, times], id=fresh_id(), task_queue=TASK_QUEUE
    )


async def _alone(client: Client, operation: str, times: int) -> Outcome:
    began = time.perf_counter()
    ran_ns = await run_calls(client, operation, times)
    seconds = time.perf_counter() - began
    gaps = [(after - before) / 1e9 for before, after in pairwise(ran_ns)]
    return Outcome(times, 1 + times * ACTIONS[operation], seconds, gaps)


async def _many(client: Client, operation: str, workflows: int) -> Outcome:
    began = time.perf_counter()
    latencies = await together(workflows, lambda _: run_calls(client, operation, OPERATIONS_OF_ONE))
    actions = workflows * (1 + OPERATIONS_OF_ONE * ACTIONS[operation])
    return Outcome(workflows, actions, time.perf_counter() - began, latencies)


async def synchronous(client: Client, times: int) -> Outcome:
    return await _alone(client, "at_once", times)


async def asynchronous(client: Client, times: int) -> Outcome:
    return await _alone(client, "later", times)


async def many_synchronous(client: Client, workflows: int) -> Outcome:
    return await _many(client, "at_once", workflows)


async def many_asynchronous(client: Client, workflows: int) -> Outcome:
    return await _many(client, "later", workflows)


LOADS = {
    load.name: load
    for load in [
        Load(
            "nexus-sync",
            "synchronous operations of one workflow",
            "round trip",
            100,
            synchronous,
            prepare=prepare,
            aims=aims.OPERATIONS_ALONE,
        ),
        Load(
            "nexus-async",
            "asynchronous operations of one workflow",
            "round trip",
            100,
            asynchronous,
            prepare=prepare,
            aims=aims.OPERATIONS_ALONE,
        ),
        Load(
            "nexus-sync-many",
            f"workflows of {OPERATIONS_OF_ONE} synchronous operations",
            "workflow",
            100,
            many_synchronous,
            prepare=prepare,
            aims=aims.MANY_OPERATIONS,
        ),
        Load(
            "nexus-async-many",
            f"workflows of {OPERATIONS_OF_ONE} asynchronous operations",
            "workflow",
            100,
            many_asynchronous,
            prepare=prepare,
            aims=aims.MANY_OPERATIONS,
        ),
    ]
}
