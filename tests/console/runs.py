"""Workflows whose runs the console's tests look at."""

import asyncio
from datetime import timedelta
from typing import Any

from temporalio import activity, workflow
from temporalio.common import RetryPolicy
from temporalio.exceptions import ApplicationError

QUEUE = "agents"
LIMIT = timedelta(seconds=30)
SOON = timedelta(milliseconds=20)


@activity.defn
async def search(words: str) -> list[str]:
    return [words, "found"]


@activity.defn
async def flaky(number: int) -> int:
    if activity.info().attempt < 3:
        raise ApplicationError("model overloaded", type="RateLimited")
    return number


@activity.defn
async def refused() -> None:
    activity.heartbeat({"done": 12, "of": 40})
    raise ApplicationError("tool server unreachable", type="ConnectionRefused")


@workflow.defn
class Child:
    @workflow.run
    async def run(self, word: str) -> str:
        await workflow.sleep(SOON)
        return word.upper()


@workflow.defn
class Research:
    """Two searches, a step that fails twice, a child, a wait for a person."""

    def __init__(self) -> None:
        self.approved_by = ""
        self.notes: list[str] = []

    @workflow.run
    async def run(self, topic: str) -> dict[str, Any]:
        retry = RetryPolicy(initial_interval=SOON, backoff_coefficient=1.0)
        found = await asyncio.gather(
            workflow.execute_activity(search, topic, start_to_close_timeout=LIMIT),
            workflow.execute_activity(search, f"{topic} again", start_to_close_timeout=LIMIT),
            workflow.execute_activity(flaky, 7, start_to_close_timeout=LIMIT, retry_policy=retry),
        )
        child = await workflow.execute_child_workflow(Child.run, topic)
        await workflow.wait_condition(lambda: bool(self.approved_by))
        return {"found": found[0], "child": child, "by": self.approved_by, "notes": self.notes}

    @workflow.signal(description="A person agrees.")
    def approve(self, by: str) -> None:
        self.approved_by = by

    @workflow.update
    def note(self, text: str) -> int:
        if not text:
            raise ApplicationError("a note has text")
        self.notes.append(text)
        return len(self.notes)

    @workflow.query
    def state(self, times: int) -> str:
        return self.approved_by or "waiting " * times


@workflow.defn
class Stuck:
    """Its activity fails again and again."""

    @workflow.run
    async def run(self) -> None:
        retry = RetryPolicy(initial_interval=timedelta(hours=1))
        await workflow.execute_activity(refused, start_to_close_timeout=LIMIT, retry_policy=retry)


@workflow.defn
class Fails:
    @workflow.run
    async def run(self) -> None:
        retry = RetryPolicy(maximum_attempts=1)
        try:
            await workflow.execute_activity(
                refused, start_to_close_timeout=LIMIT, retry_policy=retry
            )
        except Exception as error:
            raise ApplicationError("the plan failed", {"step": 3}, type="PlanFailed") from error


@workflow.defn
class Chain:
    """Two runs: the first is followed by the second."""

    @workflow.run
    async def run(self, left: int) -> int:
        if left:
            workflow.continue_as_new(left - 1)
        return left


@workflow.defn
class Waits:
    @workflow.run
    async def run(self) -> str:
        await workflow.sleep(timedelta(days=1))
        return "slept"


WORKFLOWS = [Child, Research, Stuck, Fails, Chain, Waits]
ACTIVITIES = [search, flaky, refused]
