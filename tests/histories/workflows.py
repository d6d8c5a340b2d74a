"""The workflows of the golden histories, one for each kind of event that a history can hold."""

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

from temporalio import activity, workflow
from temporalio.api.workflowservice.v1 import request_response_pb2 as ws
from temporalio.client import WorkflowHandle, WorkflowUpdateFailedError
from temporalio.common import Priority, RetryPolicy
from temporalio.exceptions import ApplicationError, ChildWorkflowError

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


@workflow.defn
class Everything:
    """Waits for what a client does to it from outside; an activity now and then."""

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
        self.items.append(
            await workflow.execute_activity(
                add_one, item, start_to_close_timeout=timedelta(seconds=10)
            )
        )
        return len(self.items)

    @add.validator
    def refuse_negative(self, item: int) -> None:
        if item < 0:
            raise ValueError("negative")

    @workflow.run
    async def run(self) -> list[int]:
        await workflow.wait_condition(lambda: self.ended)
        await workflow.wait_condition(workflow.all_handlers_finished)
        return self.items


@workflow.defn
class Attributes:
    """Changes its memo and its details, and sleeps with a summary."""

    @workflow.run
    async def run(self) -> str:
        workflow.upsert_memo({"step": 1})
        workflow.set_current_details("half way")
        await workflow.sleep(SOON, summary="a nap")
        workflow.upsert_memo({"step": None})
        return "done"


@workflow.defn
class External:
    """Signals another workflow and cancels it."""

    @workflow.run
    async def run(self) -> str:
        other = await workflow.start_child_workflow(
            Messages.run, id=f"{workflow.info().workflow_id}-other"
        )
        handle = workflow.get_external_workflow_handle(other.id)
        await handle.signal("put", 1)
        await handle.cancel()
        try:
            await other
        except ChildWorkflowError as error:
            return type(error.cause).__name__
        return "not cancelled"


@workflow.defn
class Fails:
    """Fails as a whole until its third run."""

    @workflow.run
    async def run(self) -> int:
        if workflow.info().attempt < 3:
            raise ApplicationError("not yet")
        return workflow.info().attempt


ACTIVITIES = (fails_twice, add_one)
WORKFLOWS = (
    Activities,
    Timers,
    Child,
    Children,
    Messages,
    Markers,
    Continues,
    Cancelled,
    Everything,
    Attributes,
    External,
    Fails,
)

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


async def _rejections(handle: Handle) -> None:
    """One update is rejected, and leaves nothing; the next is accepted."""
    for item in (-1, 1):
        with contextlib.suppress(WorkflowUpdateFailedError):
            await handle.execute_update(Everything.add, item)
    await handle.signal(Everything.end)


async def _pause(handle: Handle) -> None:
    """Signals wait while it is paused."""
    await eventually(lambda: _idle(handle))
    service = handle._client.workflow_service
    await service.pause_workflow_execution(
        ws.PauseWorkflowExecutionRequest(
            namespace="default", workflow_id=handle.id, reason="a look at it", request_id="p"
        )
    )
    await handle.signal(Everything.put, 1)
    await service.unpause_workflow_execution(
        ws.UnpauseWorkflowExecutionRequest(
            namespace="default", workflow_id=handle.id, reason="go on", request_id="u"
        )
    )
    await handle.signal(Everything.end)


async def _reset(handle: Handle) -> None:
    """The second run goes on from the first one's first task, with its signals and updates."""
    await handle.signal(Everything.put, 1)
    await handle.execute_update(Everything.add, 2)
    request = ws.ResetWorkflowExecutionRequest(
        namespace="default", reason="once more", workflow_task_finish_event_id=4, request_id="r"
    )
    request.workflow_execution.workflow_id = handle.id
    await handle._client.workflow_service.reset_workflow_execution(request)
    again = handle._client.get_workflow_handle(handle.id)
    await again.signal(Everything.end)
    await again.result()


async def _terminate(handle: Handle) -> None:
    await eventually(lambda: _idle(handle))
    await handle.terminate("details", reason="enough")


async def _idle(handle: Handle) -> bool:
    events = (await handle.fetch_history()).events
    return events[-1].HasField("workflow_task_completed_event_attributes")


@dataclass(frozen=True)
class Golden:
    """One recorded execution: its workflow, its arguments, how it is started, and what a client does
    meanwhile. `last_run`: that run's history is wanted, not the first one's."""

    name: str
    run: type
    arguments: tuple[object, ...] = ()
    meanwhile: Callable[[Handle], Awaitable[None]] = _nothing
    options: dict[str, Any] = field(default_factory=dict)
    last_run: bool = False


GOLDEN = (
    Golden("activities", Activities),
    Golden("timers", Timers),
    Golden("children", Children),
    Golden("child", Child, (False,)),
    Golden("messages", Messages, (), _messages),
    Golden("markers", Markers),
    Golden("continues", Continues, (1,)),
    Golden("cancelled", Cancelled, (), _cancel),
    Golden("rejections", Everything, (), _rejections),
    Golden("pause", Everything, (), _pause),
    Golden("reset", Everything, (), _reset, last_run=True),
    Golden("terminated", Everything, (), _terminate),
    Golden("attributes", Attributes),
    Golden("external", External),
    Golden(
        "retried",
        Fails,
        options={"retry_policy": RetryPolicy(initial_interval=SOON)},
        last_run=True,
    ),
    Golden("eager", Activities, options={"request_eager_start": True}),
    Golden("delayed", Timers, options={"start_delay": SOON}),
    Golden(
        "signal-with-start",
        Messages,
        options={"start_signal": "end"},
    ),
    Golden(
        "options",
        Timers,
        options={
            "memo": {"colour": "blue"},
            "static_summary": "all options",
            "static_details": "of a start",
            "priority": Priority(priority_key=2, fairness_key="tenant", fairness_weight=1.5),
            "run_timeout": timedelta(minutes=5),
            "execution_timeout": timedelta(minutes=10),
        },
    ),
)
