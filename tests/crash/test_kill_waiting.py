"""The server is killed with SIGKILL while callers wait for updates, and while timers run."""

import asyncio
from datetime import timedelta
from typing import Any

from temporalio import workflow
from temporalio.client import Client, WorkflowHandle
from temporalio.worker import UnsandboxedWorkflowRunner, Worker

from tests.conftest import eventually
from tests.crash import rules
from tests.crash.test_kill import through_outages
from tests.processes import ServerProcess

KILLS = 4
TALLIES = 5
TIMERS = 30


@workflow.defn
class Tally:
    """Keeps what it is given; each gift is answered a moment later."""

    def __init__(self) -> None:
        self.kept: list[int] = []
        self.over = False

    @workflow.run
    async def run(self) -> list[int]:
        await workflow.wait_condition(lambda: self.over and workflow.all_handlers_finished())
        return self.kept

    @workflow.update
    async def keep(self, number: int) -> int:
        self.kept.append(number)
        await workflow.sleep(0.05)
        return number * 2

    @workflow.signal
    def end(self) -> None:
        self.over = True


@workflow.defn
class Nap:
    @workflow.run
    async def run(self, seconds: float) -> None:
        await workflow.sleep(seconds)


def worker(client: Client) -> Worker:
    return Worker(
        client,
        task_queue="waiting",
        workflows=[Tally, Nap],
        workflow_runner=UnsandboxedWorkflowRunner(),
        sticky_queue_schedule_to_start_timeout=timedelta(seconds=1),
    )


async def restart(server: ServerProcess) -> None:
    await asyncio.to_thread(server.kill)
    await asyncio.to_thread(server.start)


async def events(handle: WorkflowHandle[Any, Any], attributes: str) -> int:
    """How many events of a kind a history has."""
    fetched = await handle.fetch_history()
    return sum(event.WhichOneof("attributes") == attributes for event in fetched.events)


async def test_an_acknowledged_update_is_kept_once_and_its_answer_stays(
    server_process: ServerProcess,
) -> None:
    server_process.start()
    client = await Client.connect(server_process.address)
    handles = [
        await client.start_workflow(Tally.run, id=f"tally-{n}", task_queue="waiting")
        for n in range(TALLIES)
    ]
    sent: dict[str, int] = {handle.id: 0 for handle in handles}
    stop = asyncio.Event()

    async def give(handle: WorkflowHandle[Tally, list[int]]) -> None:
        """One after the other; an update whose answer was cut off is asked for again by its id."""
        while not stop.is_set():
            number = sent[handle.id]

            async def ask(number: int = number) -> int:
                return await handle.execute_update(Tally.keep, number, id=f"keep-{number}")

            assert await through_outages(ask) == number * 2
            sent[handle.id] += 1

    async with worker(client):
        giving = [asyncio.create_task(give(handle)) for handle in handles]
        for _ in range(KILLS):
            await asyncio.sleep(0.7)
            await restart(server_process)
        await asyncio.sleep(0.5)
        stop.set()
        await asyncio.gather(*giving)
        for handle in handles:
            await handle.signal(Tally.end)
            assert await handle.result() == list(range(sent[handle.id]))
            accepted = "workflow_execution_update_accepted_event_attributes"
            completed = "workflow_execution_update_completed_event_attributes"
            assert await events(handle, accepted) == sent[handle.id] > 0
            assert await events(handle, completed) == sent[handle.id]
            assert await handle.get_update_handle("keep-0").result() == 0
            rules.check((await handle.fetch_history()).events)


async def test_timers_that_came_due_while_the_server_was_down_fire_once(
    server_process: ServerProcess,
) -> None:
    server_process.start()
    client = await Client.connect(server_process.address)
    async with worker(client):
        handles = [
            await client.start_workflow(
                Nap.run, 0.5 + number * 0.05, id=f"nap-{number}", task_queue="waiting"
            )
            for number in range(TIMERS)
        ]
        started = "timer_started_event_attributes"

        async def all_sleep() -> bool:
            return all([await events(handle, started) for handle in handles])

        await eventually(all_sleep)
        await asyncio.to_thread(server_process.kill)
        await asyncio.sleep(2.5)
        await asyncio.to_thread(server_process.start)
        for handle in handles:
            await handle.result()
            assert await events(handle, "timer_fired_event_attributes") == 1
            rules.check((await handle.fetch_history()).events)
