"""The workflows of the golden histories, one for each kind of event that a history can hold."""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from temporalio import activity, workflow
from temporalio.client import WorkflowHandle
from temporalio.common import RetryPolicy
from temporalio.exceptions import ApplicationError

from tests.conftest import eventually

SOON = timedelta(milliseconds=20)


@activity.defn
async def fails_twice(number: int) -> int:
    if activity.info().attempt < 3:
        raise RuntimeError("not yet")
    return number + 1


@activity.defn
async def add_one(number: int) -> int:
    return number + 1


@workflow.defn
class Activities:
    """One activity that is retried, then two at once."""

    @workflow.run
    async def run(self) -> list[int]:
        limit = timedelta(seconds=10)
        first = await workflow.execute_activity(
            fails_twice,
            1,
            start_to_close_timeout=limit,
            retry_policy=RetryPolicy(initial_interval=SOON),
        )
        return await asyncio.gather(
            *(
                workflow.execute_activity(add_one, first + each, start_to_close_timeout=limit)
                for each in range(2)
            )
        )


@workflow.defn
class Timers:
    """One timer fires, another is cancelled."""

    @workflow.run
    async def run(self) -> str:
        cancelled = asyncio.create_task(asyncio.sleep(3600))
        await asyncio.sleep(0.02)
        cancelled.cancel()
        return "slept"


@workflow.defn
class Child:
    @workflow.run
    async def run(self, fails: bool) -> str:
        if fails:
            raise ApplicationError("as asked", non_retryable=True)
        return "done"


@workflow.defn
class Children:
    """One child completes, another fails."""

    @workflow.run
    async def run(self) -> list[str]:
        me = workflow.info().workflow_id
        ended = await asyncio.gather(
            workflow.execute_child_workflow(Child.run, False, id=f"{me}-good"),
            workflow.execute_child_workflow(Child.run, True, id=f"{me}-bad"),
            return_exceptions=True,
        )
        return [type(each).__name__ for each in ended]


@workflow.defn
class Messages:
    """Waits for signals and updates."""

    def __init__(self) -> None:
        self.items: list[int] = []
        self.ended = False

    @workflow.signal
    def put(self, item: int) -> None:
        self.items.append(item)

    @workflow.signal
    def end(self) -> None:
        self.ended = True

    @workflow.update
    async def add(self, item: int) -> int:
        await asyncio.sleep(0.01)
        self.items.append(item)
        return len(self.items)

    @workflow.run
    async def run(self) -> list[int]:
        await workflow.wait_condition(lambda: self.ended)
        await workflow.wait_condition(workflow.all_handlers_finished)
        return self.items


@workflow.defn
class Markers:
    """A patch, and a local activity: what markers are for."""

    @workflow.run
    async def run(self) -> int:
        number = 2 if workflow.patched("second") else 1
        return await workflow.execute_local_activity(
            add_one, number, start_to_close_timeout=timedelta(seconds=10)
        )


@workflow.defn
class Continues:
    @workflow.run
    async def run(self, left: int) -> str:
        if left:
            workflow.continue_as_new(left - 1)
        return "last"


@workflow.defn
class Cancelled:
    """Cleans up when it is cancelled."""

    @workflow.run
    async def run(self) -> None:
        try:
            await asyncio.sleep(3600)
        finally:
            await workflow.execute_activity(
                add_one, 1, start_to_close_timeout=timedelta(seconds=10)
            )


ACTIVITIES = (fails_twice, add_one)
WORKFLOWS = (Activities, Timers, Child, Children, Messages, Markers, Continues, Cancelled)

Handle = WorkflowHandle[Any, Any]


async def _nothing(handle: Handle) -> None:
    """The workflow ends by itself."""


async def _messages(handle: Handle) -> None:
    await handle.signal(Messages.put, 1)
    await handle.execute_update(Messages.add, 2)
    await handle.signal(Messages.end)


async def _cancel(handle: Handle) -> None:
    await eventually(lambda: _timer_started(handle))
    await handle.cancel()


async def _timer_started(handle: Handle) -> bool:
    events = (await handle.fetch_history()).events
    return any(event.HasField("timer_started_event_attributes") for event in events)


@dataclass(frozen=True)
class Golden:
    """One recorded execution: its workflow, its arguments, and what a client does meanwhile."""

    name: str
    run: type
    arguments: tuple[object, ...] = ()
    meanwhile: Callable[[Handle], Awaitable[None]] = _nothing


GOLDEN = (
    Golden("activities", Activities),
    Golden("timers", Timers),
    Golden("children", Children),
    Golden("child", Child, (False,)),
    Golden("messages", Messages, (), _messages),
    Golden("markers", Markers),
    Golden("continues", Continues, (1,)),
    Golden("cancelled", Cancelled, (), _cancel),
)
