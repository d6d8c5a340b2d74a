"""The server is killed with SIGKILL while callbacks are made, from workflows, from updates and from standalone
activities: each is taken, is known when it comes again, and has one effect on the operation that it ends.
"""

import asyncio
import random
from collections import Counter, defaultdict
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path

import aiohttp
import nexusrpc
import pytest_asyncio
from aiohttp import web
from nexusrpc.handler import (
    CancelOperationContext,
    OperationHandler,
    StartOperationContext,
    StartOperationResultAsync,
    operation_handler,
    service_handler,
)
from temporalio import workflow
from temporalio.api.common.v1 import message_pb2 as common
from temporalio.api.enums.v1 import event_type_pb2 as event_types
from temporalio.api.nexus.v1 import message_pb2 as nexus_messages
from temporalio.api.operatorservice.v1 import request_response_pb2 as operator
from temporalio.api.workflowservice.v1 import request_response_pb2 as ws
from temporalio.client import Client
from temporalio.worker import Replayer, UnsandboxedWorkflowRunner, Worker

from tests.api.test_callbacks import QUEUE, Told, start, work
from tests.conftest import eventually
from tests.crash.test_kill import through_outages
from tests.processes import ServerProcess
from tests.receivers import Call, Receiver

KINDS = ("workflow", "update", "activity")
NAMES = [f"{kind}-{number}" for kind in KINDS for number in range(7)]
KILLS = 3
SETTINGS = (
    *("--set", "callback_addresses=http://*"),
    *("--set", "private_networks_allowed=127.0.0.0/8"),
    *("--set", "nexus_retry_initial_interval_s=0.1"),
)
ENDPOINT = "desk"
EFFECT = event_types.EVENT_TYPE_NEXUS_OPERATION_COMPLETED


@pytest_asyncio.fixture
async def process(tmp_path: Path) -> AsyncIterator[ServerProcess]:
    running = ServerProcess(tmp_path / "store.db", *SETTINGS)
    await asyncio.to_thread(running.start)
    yield running
    running.kill()


# --- What is called back about ----------------------------------------------------------------


async def begin(client: Client, name: str, callback: common.Callback) -> None:
    """Something that tells the callback of its end, once however often this is done."""
    kind = name.split("-")[0]
    if kind == "workflow":
        await start(client, name, callback, workflow_id=name, request_id=f"rq-{name}")
    elif kind == "activity":
        await begin_activity(client, name, callback)
    else:
        await start(client, "wait", workflow_id=name, request_id=f"start-{name}")
        await begin_update(client, name, callback)


async def begin_activity(client: Client, name: str, callback: common.Callback) -> None:
    request = ws.StartActivityExecutionRequest(
        namespace="default",
        activity_id=name,
        request_id=f"rq-{name}",
        completion_callbacks=[callback],
    )
    request.activity_type.name, request.task_queue.name = "work", QUEUE
    request.start_to_close_timeout.FromTimedelta(timedelta(seconds=3))
    request.input.payloads.extend(await client.data_converter.encode([name]))
    await client.workflow_service.start_activity_execution(request)


async def begin_update(client: Client, name: str, callback: common.Callback) -> None:
    request = ws.UpdateWorkflowExecutionRequest(
        namespace="default", workflow_execution=common.WorkflowExecution(workflow_id=name)
    )
    request.request.request_id = f"rq-{name}"
    request.request.meta.update_id = name
    request.request.completion_callbacks.append(callback)
    request.request.input.name = "change"
    request.request.input.args.payloads.extend(await client.data_converter.encode([name]))
    request.wait_policy.lifecycle_stage = 2  # type: ignore[assignment]
    await client.workflow_service.update_workflow_execution(request)


def result(name: str) -> str:
    return f"changed {name}" if name.startswith("update") else name


async def kill_again_and_again(process: ServerProcess, chance: random.Random) -> None:
    for _ in range(KILLS):
        await asyncio.sleep(chance.uniform(0.2, 0.8))
        await asyncio.to_thread(process.kill)
        await asyncio.to_thread(process.start)


# --- Taken, and known when it comes again -----------------------------------------------------


async def test_each_is_taken_and_says_the_same_each_time(process: ServerProcess) -> None:
    chance = random.Random(7)
    taken: dict[str, set[str]] = defaultdict(set)
    """Name -> the calls that have taken effect, by the ids by which a receiver knows them."""
    bodies: dict[str, set[bytes]] = defaultdict(set)

    async def answer(call: Call) -> web.Response | None:
        """Takes it or not; loses the reply to what it has taken, too."""
        bodies[call.callback_id].add(call.body)
        await asyncio.sleep(chance.uniform(0, 0.2))
        if chance.random() < 0.2:
            return web.Response(status=503)
        taken[call.path].add(call.callback_id)
        return None if chance.random() < 0.3 else web.Response()

    async with Receiver(answer=answer) as receiver:
        client = await Client.connect(process.address)
        async with Worker(
            client,
            task_queue=QUEUE,
            workflows=[Told],
            activities=[work],
            workflow_runner=UnsandboxedWorkflowRunner(),
        ):

            async def begin_through_outages(name: str) -> None:
                await through_outages(lambda: begin(client, name, receiver.callback(name)))

            begun = asyncio.gather(*map(begin_through_outages, NAMES))
            await kill_again_and_again(process, chance)
            await begun

            async def all_are_told() -> bool:
                return set(taken) == set(NAMES)

            await eventually(all_are_told, 120)
    assert all(len(ids) == 1 for ids in taken.values()), "one end, one call, however often made"
    assert all(len(said) == 1 for said in bodies.values())
    for name, (callback_id,) in taken.items():
        assert bodies[callback_id] == {f'"{result(name)}"'.encode()}


# --- One effect -------------------------------------------------------------------------------


@dataclass
class Desk:
    """Carries out operations by something else, which calls back through a network that cannot be trusted."""

    client: Client
    receiver: Receiver

    async def take_up(self, ctx: StartOperationContext, name: str) -> None:
        """Asked again after a crash, it does nothing new."""
        callback = self.receiver.callback(name, **dict(ctx.callback_headers))
        await through_outages(lambda: begin(self.client, name, callback))


class TakenUp(OperationHandler[str, str]):
    def __init__(self, desk: Desk) -> None:
        self._desk = desk

    async def start(self, ctx: StartOperationContext, input: str) -> StartOperationResultAsync:
        await self._desk.take_up(ctx, input)
        return StartOperationResultAsync(input)

    async def cancel(self, ctx: CancelOperationContext, token: str) -> None:
        raise NotImplementedError


@nexusrpc.service(name="Desk")
class DeskService:
    take_up: nexusrpc.Operation[str, str]


@service_handler(service=DeskService)
class DeskHandler:
    def __init__(self, desk: Desk) -> None:
        self._desk = desk

    @operation_handler
    def take_up(self) -> OperationHandler[str, str]:
        return TakenUp(self._desk)


@workflow.defn
class Asks:
    @workflow.run
    async def run(self, name: str) -> str:
        desk = workflow.create_nexus_client(service=DeskService, endpoint=ENDPOINT)
        return await desk.execute_operation(DeskService.take_up, name)


@dataclass
class Network:
    """Passes completions on to the server, or not; twice; late; and loses what is answered."""

    address: str
    chance: random.Random
    passed: dict[str, list[Call]] = field(default_factory=lambda: defaultdict(list))
    statuses: dict[str, list[int]] = field(default_factory=lambda: defaultdict(list))
    """Name -> what the server has answered."""

    async def __call__(self, call: Call) -> web.Response | None:
        if self.chance.random() < 0.2:
            return web.Response(status=503)
        times = 1 + (self.chance.random() < 0.4)
        answers = await asyncio.gather(*(self.deliver(call) for _ in range(times)))
        lost = answers[0] is None or self.chance.random() < 0.4
        return None if lost else web.Response(status=answers[0])

    async def deliver(self, call: Call, body: bytes | None = None) -> int | None:
        """The status; None: the server was not there, or died before it answered."""
        kept = ("nexus-", "temporal-", "content-type")
        headers = {name: value for name, value in call.headers.items() if name.startswith(kept)}
        self.passed[call.path].append(call)
        try:
            async with (
                aiohttp.ClientSession() as http,
                http.post(
                    f"http://{self.address}/nexus/callback",
                    headers=headers,
                    data=call.body if body is None else body,
                ) as reply,
            ):
                await reply.read()
        except aiohttp.ClientError:
            return None
        self.statuses[call.path].append(reply.status)
        return reply.status


async def call_all(client: Client) -> None:
    """Every other operation is one of a workflow, the others are executions of their own."""
    alone = client.create_nexus_client(service=DeskService, endpoint=ENDPOINT)
    for number, name in enumerate(NAMES):
        if number % 2:
            await client.start_workflow(Asks.run, name, id=f"asks-{name}", task_queue=QUEUE)
        else:
            await alone.start_operation(
                DeskService.take_up,
                name,
                id=f"asks-{name}",
                schedule_to_close_timeout=timedelta(minutes=10),
            )


async def effects(client: Client) -> dict[str, list[str]]:
    """Name -> the ends of its operation, as its caller has them on record."""
    found: dict[str, list[str]] = {}
    for number, name in enumerate(NAMES):
        if number % 2:
            handle = client.get_workflow_handle(f"asks-{name}")
            history = await handle.fetch_history()
            kinds = Counter(event.event_type for event in history.events)
            found[name] = [await handle.result()] * kinds[EFFECT]
            replayer = Replayer(workflows=[Asks], workflow_runner=UnsandboxedWorkflowRunner())
            await replayer.replay_workflow(history)
        else:
            operation = client.get_nexus_operation_handle(f"asks-{name}", result_type=str)
            found[name] = [await operation.result()]
    return found


async def test_each_ends_its_operation_once_through_a_network_that_repeats_and_loses(
    process: ServerProcess,
) -> None:
    chance = random.Random(11)
    network = Network(process.address, chance)
    client = await Client.connect(process.address)
    spec = nexus_messages.EndpointSpec(name=ENDPOINT)
    spec.target.worker.namespace, spec.target.worker.task_queue = "default", QUEUE
    await client.operator_service.create_nexus_endpoint(
        operator.CreateNexusEndpointRequest(spec=spec)
    )
    async with (
        Receiver(answer=network) as receiver,
        Worker(
            client,
            task_queue=QUEUE,
            workflows=[Told, Asks],
            activities=[work],
            nexus_service_handlers=[DeskHandler(Desk(client, receiver))],
            workflow_runner=UnsandboxedWorkflowRunner(),
        ),
    ):
        await call_all(client)
        await kill_again_and_again(process, chance)

        async def all_have_ended() -> bool:
            running = "ExecutionStatus = 'Running'"
            asking = f"WorkflowType = 'Asks' AND {running}"
            workflows = await through_outages(lambda: client.count_workflows(asking))
            operations = await through_outages(lambda: client.count_nexus_operations(running))
            return workflows.count + operations.count == 0

        await eventually(all_have_ended, 150)
        wanted = {name: [result(name)] for name in NAMES}
        assert await effects(client) == wanted
        for name in NAMES:
            assert network.statuses[name].count(200) <= 1, "what is answered with 200 is an effect"
            late = network.passed[name][-1]
            assert await network.deliver(late) == 404
            assert await network.deliver(late, b'"something else"') == 404
        assert await effects(client) == wanted
