"""The server is killed with SIGKILL while standalone activities run: each ends once, as it should."""

import asyncio
import random
from datetime import timedelta

from temporalio import activity
from temporalio.client import Client
from temporalio.common import RetryPolicy
from temporalio.exceptions import ApplicationError
from temporalio.worker import Worker

from tests.conftest import eventually
from tests.crash.test_kill import through_outages
from tests.processes import ServerProcess

ACTIVITIES = 40
KILLS = 4


@activity.defn
async def square(number: int) -> int:
    """Every third fails at first; all take a moment, in which the server may die."""
    await asyncio.sleep(random.uniform(0, 1))
    activity.heartbeat(number)
    if number % 3 == 0 and activity.info().attempt == 1:
        raise ApplicationError("once more")
    return number * number


async def test_each_ends_with_its_result(server_process: ServerProcess) -> None:
    server_process.start()
    client = await Client.connect(server_process.address)

    async def start(number: int) -> None:
        await client.start_activity(
            square,
            number,
            id=f"square-{number}",
            task_queue="squares",
            start_to_close_timeout=timedelta(seconds=3),
            retry_policy=RetryPolicy(initial_interval=timedelta(milliseconds=50)),
        )

    async with Worker(
        client, task_queue="squares", activities=[square], max_concurrent_activities=5
    ):
        await asyncio.gather(*(start(number) for number in range(ACTIVITIES)))
        for _ in range(KILLS):
            await asyncio.sleep(random.uniform(0.3, 1))
            await asyncio.to_thread(server_process.kill)
            await asyncio.to_thread(server_process.start)

        async def nothing_runs() -> bool:
            running = "ExecutionStatus = 'Running'"
            count = await through_outages(lambda: client.count_activities(running))
            return count.count == 0

        await eventually(nothing_runs, 60)
        for number in range(ACTIVITIES):
            handle = client.get_activity_handle(f"square-{number}", result_type=int)
            assert await handle.result() == number * number
            shown = await handle.describe()
            assert shown.attempt >= (2 if number % 3 == 0 else 1)
    counted = await client.count_activities("GROUP BY ExecutionStatus")
    assert {g.group_values[0]: g.count for g in counted.groups} == {"Completed": ACTIVITIES}
