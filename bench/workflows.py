"""The workflows and the activity of every load; deliberately trivial, so that the server is measured.

Rule: deterministic like any workflow, though the worker runs them outside the SDK's sandbox.
"""

import time
from datetime import timedelta
from typing import Any

from temporalio import activity, workflow
from temporalio.contrib.workflow_streams import WorkflowStream

TASK_QUEUE = "bench"
ACTIVITY_TIMEOUT = timedelta(seconds=60)
ASLEEP = timedelta(days=30)


@activity.defn
async def step() -> int:
    """When it ran: nanoseconds since the epoch."""
    return time.time_ns()


@workflow.defn
class Steps:
    """Activities one after the other, as an agent's tool calls are; returns when each ran."""

    @workflow.run
    async def run(self, steps: int) -> list[int]:
        return [
            await workflow.execute_activity(step, start_to_close_timeout=ACTIVITY_TIMEOUT)
            for _ in range(steps)
        ]


@workflow.defn
class Inbox:
    """Ends when it has received as many signals as it was told to expect."""

    def __init__(self) -> None:
        self._received = 0

    @workflow.run
    async def run(self, expected: int) -> int:
        await workflow.wait_condition(lambda: self._received >= expected)
        return self._received

    @workflow.signal
    def message(self, number: int) -> None:
        self._received += 1


@workflow.defn
class Sleeper:
    """Sleeps for longer than any benchmark takes."""

    @workflow.run
    async def run(self) -> None:
        await workflow.sleep(ASLEEP)


@workflow.defn
class Counter:
    """Ends when its updates have added up to what it was told to expect."""

    def __init__(self) -> None:
        self._total = 0

    @workflow.run
    async def run(self, expected: int) -> int:
        await workflow.wait_condition(lambda: self._total >= expected)
        await workflow.wait_condition(workflow.all_handlers_finished)
        return self._total

    @workflow.update
    async def add(self, number: int) -> int:
        self._total += number
        return self._total


@workflow.defn
class Stream:
    """A stream of numbers, as an agent's tokens are; lasts longer than any benchmark."""

    @workflow.init
    def __init__(self) -> None:
        self._topic = WorkflowStream().topic("numbers", type=int)

    @workflow.run
    async def run(self) -> None:
        await workflow.sleep(ASLEEP)

    @workflow.signal
    def append(self, number: int) -> None:
        self._topic.publish(number)


@workflow.defn
class Hello:
    """What agents outside call: its argument is the arguments of a tool, or a message."""

    @workflow.run
    async def run(self, arguments: dict[str, Any]) -> str:
        return "hello"


WORKFLOWS = [Steps, Inbox, Sleeper, Counter, Stream, Hello]
ACTIVITIES = [step]
