"""Everything is killed with SIGKILL, again and again, and nothing is lost and nothing happens twice.

The seed is printed; `CRASH_SEED=N pytest tests/crash` runs the same plan again.
"""

import asyncio
import os
import random
import subprocess
import sys
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

import pytest
from temporalio.api.common.v1 import message_pb2 as common
from temporalio.api.workflowservice.v1 import request_response_pb2 as ws
from temporalio.client import Client, WorkflowHistory
from temporalio.converter import default as default_converter
from temporalio.service import RPCError, RPCStatusCode
from temporalio.worker import Replayer, UnsandboxedWorkflowRunner

from tests.crash import rules
from tests.crash.worker import connect
from tests.crash.workflows import SIGNALS, TASK_QUEUE, Half, Mixed, expected
from tests.processes import ServerProcess

WORKFLOWS = 200
SERVER_KILLS = 10
WORKER_KILLS = 5
CONCURRENT = 40

R = TypeVar("R")
OUTAGE = (
    RPCStatusCode.UNAVAILABLE,
    RPCStatusCode.UNKNOWN,
    RPCStatusCode.CANCELLED,
    RPCStatusCode.DEADLINE_EXCEEDED,
    RPCStatusCode.INTERNAL,
)


@dataclass
class Run:
    """One workflow, and the request ids of its signals in the order of their acknowledgement."""

    number: int
    acknowledged: list[str] = field(default_factory=list)

    @property
    def workflow_id(self) -> str:
        return f"mixed-{self.number}"


class WorkerProcess:
    """`module`: what is run, with the server's address."""

    def __init__(self, address: str, log: Path, module: str = "tests.crash.worker") -> None:
        self._address, self._log, self._module = address, log, module
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        with self._log.open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", self._module, self._address],
                stdout=log,
                stderr=subprocess.STDOUT,
            )

    def kill(self) -> None:
        if self.process is not None:
            self.process.kill()
            self.process.wait()


async def through_outages(call: Callable[[], Awaitable[R]]) -> R:
    """Repeat a call until it is acknowledged: the server may be dead just now."""
    while True:
        try:
            return await call()
        except RPCError as error:
            if error.status not in OUTAGE:
                raise
            await asyncio.sleep(0.05)


async def start_run(client: Client, run: Run) -> str:
    """The run id."""
    request = ws.StartWorkflowExecutionRequest(
        namespace="default",
        workflow_id=run.workflow_id,
        workflow_type=common.WorkflowType(name="Mixed"),
        request_id=f"start-{run.number}",
        identity="crash-test",
    )
    request.task_queue.name = TASK_QUEUE
    request.input.payloads.extend(await default_converter().encode([run.number]))
    return (await client.workflow_service.start_workflow_execution(request)).run_id


async def live(client: Client, run: Run, dice: random.Random) -> None:
    """Start one workflow, signal it at odd moments, and check its result."""
    run_id = await through_outages(lambda: start_run(client, run))
    for index in range(SIGNALS):
        await asyncio.sleep(dice.random() * 0.3)
        await through_outages(lambda: send_signal(client, run, index))  # noqa: B023
    handle = client.get_workflow_handle(run.workflow_id, run_id=run_id)
    result = await through_outages(lambda: handle.result())
    assert result == expected(run.number)


async def send_signal(client: Client, run: Run, index: int) -> None:
    signal = ws.SignalWorkflowExecutionRequest(
        namespace="default",
        workflow_execution=common.WorkflowExecution(workflow_id=run.workflow_id),
        signal_name="give",
        request_id=f"signal-{run.number}-{index}",
        identity="crash-test",
    )
    signal.input.payloads.extend(await default_converter().encode([run.number * 10 + index]))
    await client.workflow_service.signal_workflow_execution(signal)
    run.acknowledged.append(signal.request_id)


async def kill_everything(
    server: ServerProcess, worker: WorkerProcess, dice: random.Random, finished: asyncio.Event
) -> tuple[int, int]:
    """Kill until the plan is fulfilled; how often (server, worker)."""
    victims = ["server"] * SERVER_KILLS + ["worker"] * WORKER_KILLS
    dice.shuffle(victims)
    for victim in victims:
        await asyncio.sleep(0.2 + dice.random() * 1.2)
        if victim == "server":
            server.kill()
            await asyncio.sleep(dice.random() * 0.2)
            await asyncio.to_thread(server.start)
        else:
            worker.kill()
            worker.start()
    finished.set()
    return victims.count("server"), victims.count("worker")


async def check_history(client: Client, run: Run, replayer: Replayer) -> None:
    for workflow_id in (run.workflow_id, f"{run.workflow_id}-child"):
        fetched = await client.get_workflow_handle(workflow_id).fetch_history()
        rules.check(fetched.events)
        await replayer.replay_workflow(WorkflowHistory(workflow_id, fetched.events))
        if workflow_id == run.workflow_id:
            assert rules.signals(fetched.events) == run.acknowledged


@pytest.mark.timeout(600)
async def test_nothing_is_lost_and_nothing_happens_twice(store_url: str, tmp_path: Path) -> None:
    seed = int(os.environ.get("CRASH_SEED", random.randrange(10**6)))
    print(f"CRASH_SEED={seed}")
    dice = random.Random(seed)
    server = ServerProcess(store_url, folder=tmp_path).start()
    worker = WorkerProcess(server.address, tmp_path / "worker.log")
    worker.start()
    runs = [Run(number) for number in range(WORKFLOWS)]
    slots, finished = asyncio.Semaphore(CONCURRENT), asyncio.Event()
    try:
        client = await connect(server.address)

        async def one(run: Run) -> None:
            async with slots:
                await live(client, run, random.Random(seed + run.number))

        killing = asyncio.create_task(kill_everything(server, worker, dice, finished))
        await asyncio.gather(*(one(run) for run in runs))
        assert await killing == (SERVER_KILLS, WORKER_KILLS)
        replayer = Replayer(workflows=[Mixed, Half], workflow_runner=UnsandboxedWorkflowRunner())
        for run in runs:
            await check_history(client, run, replayer)
        assert (await client.count_workflows("ExecutionStatus = 'Running'")).count == 0
    finally:
        worker.kill()
        server.kill()
