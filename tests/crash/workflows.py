"""What runs while everything is being killed: activities, timers, signals and children together."""

import asyncio
from datetime import timedelta

from temporalio import activity, workflow
from temporalio.common import RetryPolicy

TASK_QUEUE = "crash"
SIGNALS = 3


@activity.defn
async def add(left: int, right: int) -> int:
    await asyncio.sleep(0.01)
    return left + right


@workflow.defn
class Half:
    """A child: one activity and one timer."""

    @workflow.run
    async def run(self, number: int) -> int:
        await workflow.sleep(0.05)
        return await workflow.execute_activity(
            add,
            args=[number, number],
            start_to_close_timeout=timedelta(seconds=3),
            retry_policy=RetryPolicy(initial_interval=timedelta(milliseconds=100)),
        )


@workflow.defn
class Mixed:
    """Adds up what activities, a child and signals give; waits on timers in between."""

    def __init__(self) -> None:
        self.received: list[int] = []

    @workflow.signal
    def give(self, number: int) -> None:
        self.received.append(number)

    @workflow.run
    async def run(self, number: int) -> list[int]:
        options = {
            "start_to_close_timeout": timedelta(seconds=3),
            "retry_policy": RetryPolicy(initial_interval=timedelta(milliseconds=100)),
        }
        first = await workflow.execute_activity(add, args=[number, 1], **options)  # type: ignore[misc]
        await workflow.sleep(0.2)
        both = await asyncio.gather(
            workflow.execute_activity(add, args=[first, 2], **options),  # type: ignore[misc]
            workflow.execute_child_workflow(
                Half.run, number, id=f"{workflow.info().workflow_id}-child"
            ),
        )
        await workflow.wait_condition(lambda: len(self.received) == SIGNALS)
        total = await workflow.execute_activity(add, args=[both[0], both[1]], **options)  # type: ignore[misc]
        return [total, *self.received]


def expected(number: int) -> list[int]:
    return [number + 1 + 2 + 2 * number, *(number * 10 + i for i in range(SIGNALS))]
