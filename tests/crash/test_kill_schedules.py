"""The server is killed with SIGKILL while schedules act every second: each second is acted on once."""

import asyncio
import random
from collections import Counter
from datetime import datetime, timedelta

from temporalio import workflow
from temporalio.client import (
    Client,
    Schedule,
    ScheduleActionStartWorkflow,
    ScheduleIntervalSpec,
    ScheduleOverlapPolicy,
    SchedulePolicy,
    ScheduleSpec,
)
from temporalio.worker import UnsandboxedWorkflowRunner, Worker

from tests.conftest import eventually
from tests.crash.test_kill import through_outages
from tests.processes import ServerProcess

SCHEDULES = 10
KILLS = 5


@workflow.defn
class Tick:
    @workflow.run
    async def run(self) -> None:
        await workflow.sleep(timedelta(milliseconds=random.randint(1, 300)))


async def test_each_second_is_acted_on_once(server_process: ServerProcess) -> None:
    server_process.start()
    client = await Client.connect(server_process.address)
    for number in range(SCHEDULES):
        await client.create_schedule(f"s{number}", every_second(number))
    async with Worker(
        client,
        task_queue="ticks",
        workflows=[Tick],
        workflow_runner=UnsandboxedWorkflowRunner(),
    ):
        for _ in range(KILLS):
            await asyncio.sleep(random.uniform(0.5, 1.5))
            await asyncio.to_thread(server_process.kill)
            await asyncio.sleep(random.uniform(0, 1))
            await asyncio.to_thread(server_process.start)
        for number in range(SCHEDULES):
            handle = client.get_schedule_handle(f"s{number}")
            await through_outages(lambda h=handle: h.pause(note="done"))  # type: ignore[misc]

        async def nothing_runs() -> bool:
            count = await through_outages(lambda: client.count_workflows("CloseTime IS NULL"))
            return count.count == 0

        await eventually(nothing_runs)
        for number in range(SCHEDULES):
            await check(client, number)


def every_second(number: int) -> Schedule:
    return Schedule(
        ScheduleActionStartWorkflow(Tick.run, id=f"tick{number}", task_queue="ticks"),
        spec=ScheduleSpec(intervals=[ScheduleIntervalSpec(timedelta(seconds=1))]),
        policy=SchedulePolicy(overlap=ScheduleOverlapPolicy.ALLOW_ALL),
    )


async def check(client: Client, number: int) -> None:
    """No second is missing or doubled, and the schedule knows of each start and each end."""
    query = f"TemporalScheduledById = 's{number}' AND ExecutionStatus = 'Completed'"
    found = Counter([each.id async for each in client.list_workflows(query)])
    assert set(found.values()) == {1}
    times = sorted(int(seconds) for seconds in map(_seconds, found))
    assert times == list(range(times[0], times[0] + len(times)))
    assert len(times) >= KILLS // 2

    async def all_ended() -> bool:
        return not (await client.get_schedule_handle(f"s{number}").describe()).info.running_actions

    await eventually(all_ended)
    description = await client.get_schedule_handle(f"s{number}").describe()
    assert description.info.num_actions == len(found)
    assert description.info.num_actions_missed_catchup_window == 0
    statuses = {r.start_workflow_status for r in description.raw_description.info.recent_actions}
    assert statuses == {2}


def _seconds(workflow_id: str) -> float:
    return datetime.fromisoformat(workflow_id.split("-", 1)[1].replace("Z", "+00:00")).timestamp()
