"""The server is killed with SIGKILL while workflows call each other: each operation ends once, as it
should, in the histories of both."""

import asyncio
import random
from collections import Counter
from datetime import timedelta

import nexusrpc
from nexusrpc.handler import StartOperationContext, service_handler, sync_operation
from temporalio import nexus, workflow
from temporalio.api.enums.v1 import event_type_pb2 as event_types
from temporalio.api.nexus.v1 import message_pb2 as nexus_messages
from temporalio.api.operatorservice.v1 import request_response_pb2 as operator
from temporalio.client import Client
from temporalio.nexus import WorkflowRunOperationContext, workflow_run_operation
from temporalio.worker import Replayer, UnsandboxedWorkflowRunner, Worker

from tests.conftest import eventually
from tests.crash.test_kill import through_outages
from tests.processes import ServerProcess

CALLERS = 24
KILLS = 4
QUEUE = "calls"
ENDPOINT = "calls"
COMPLETED = event_types.EVENT_TYPE_NEXUS_OPERATION_COMPLETED


@nexusrpc.service
class Squares:
    at_once: nexusrpc.Operation[int, int]
    later: nexusrpc.Operation[int, int]


@workflow.defn
class Square:
    @workflow.run
    async def run(self, number: int) -> int:
        await workflow.sleep(timedelta(milliseconds=workflow.random().randint(0, 900)))
        return number * number


@service_handler(service=Squares)
class SquaresHandler:
    @sync_operation
    async def at_once(self, _ctx: StartOperationContext, number: int) -> int:
        await asyncio.sleep(random.uniform(0, 0.3))
        return number * number

    @workflow_run_operation
    async def later(
        self, ctx: WorkflowRunOperationContext, number: int
    ) -> nexus.WorkflowHandle[int]:
        return await ctx.start_workflow(Square.run, number, id=f"square-{ctx.request_id}")


@workflow.defn
class Calls:
    @workflow.run
    async def run(self, number: int) -> list[int]:
        squares = workflow.create_nexus_client(service=Squares, endpoint=ENDPOINT)
        results = []
        for operation in (Squares.at_once, Squares.later, Squares.at_once):
            results.append(await squares.execute_operation(operation, number))
        return results


async def test_each_operation_ends_once(server_process: ServerProcess) -> None:
    server_process.start()
    client = await Client.connect(server_process.address)
    spec = nexus_messages.EndpointSpec(name=ENDPOINT)
    spec.target.worker.namespace, spec.target.worker.task_queue = "default", QUEUE
    await client.operator_service.create_nexus_endpoint(
        operator.CreateNexusEndpointRequest(spec=spec)
    )
    alone = client.create_nexus_client(service=Squares, endpoint=ENDPOINT)
    workflows = [Calls, Square]
    async with Worker(
        client,
        task_queue=QUEUE,
        workflows=workflows,
        nexus_service_handlers=[SquaresHandler()],
        workflow_runner=UnsandboxedWorkflowRunner(),
    ):
        for number in range(CALLERS):
            await client.start_workflow(Calls.run, number, id=f"calls-{number}", task_queue=QUEUE)
            await alone.start_operation(
                Squares.later if number % 2 else Squares.at_once,
                number,
                id=f"alone-{number}",
                schedule_to_close_timeout=timedelta(minutes=5),
            )
        for _ in range(KILLS):
            await asyncio.sleep(random.uniform(0.3, 1.2))
            await asyncio.to_thread(server_process.kill)
            await asyncio.to_thread(server_process.start)

        async def nothing_runs() -> bool:
            running = "ExecutionStatus = 'Running'"
            workflows = await through_outages(lambda: client.count_workflows(running))
            operations = await through_outages(lambda: client.count_nexus_operations(running))
            return workflows.count + operations.count == 0

        await eventually(nothing_runs, 150)
        replayer = Replayer(workflows=workflows, workflow_runner=UnsandboxedWorkflowRunner())
        for number in range(CALLERS):
            square = number * number
            handle = client.get_workflow_handle(f"calls-{number}")
            assert await handle.result() == [square] * 3
            history = await handle.fetch_history()
            kinds = Counter(event.event_type for event in history.events)
            assert kinds[COMPLETED] == 3
            await replayer.replay_workflow(history)
            operation = client.get_nexus_operation_handle(f"alone-{number}", result_type=int)
            assert await operation.result() == square
    # A handler that was asked twice has started one workflow.
    assert (await client.count_workflows("WorkflowType = 'Square'")).count == CALLERS + CALLERS // 2
