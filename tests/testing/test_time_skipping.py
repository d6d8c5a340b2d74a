"""Time is skipped where nobody works, and nowhere else."""

import asyncio
import builtins
import shutil
import sysconfig
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta

import pytest
import pytest_asyncio
from temporalio import activity, testing, workflow
from temporalio.api.testservice.v1 import request_response_pb2 as ts
from temporalio.client import (
    Client,
    Schedule,
    ScheduleActionStartWorkflow,
    ScheduleIntervalSpec,
    ScheduleSpec,
    WorkflowFailureError,
)
from temporalio.common import RetryPolicy
from temporalio.exceptions import ActivityError, ApplicationError, TimeoutError
from temporalio.service import RPCError, RPCStatusCode
from temporalio.worker import UnsandboxedWorkflowRunner, Worker

from durably import Server
from durably.testing import WorkflowEnvironment

DAY = timedelta(days=1)
# What would take this long really has not been skipped.
REALLY = timedelta(hours=1)


@activity.defn
async def work(seconds: float) -> str:
    await asyncio.sleep(seconds)
    return "worked"


@activity.defn
async def third_time() -> int:
    attempt = activity.info().attempt
    if attempt < 3:
        raise ApplicationError("not yet", next_retry_delay=timedelta(hours=5))
    return attempt


@workflow.defn
class Sleeps:
    @workflow.run
    async def run(self, seconds: float) -> str:
        before = workflow.now()
        await workflow.sleep(seconds)
        return str((workflow.now() - before) >= timedelta(seconds=seconds))


@workflow.defn
class WorksBesideATimer:
    """Which is first: an activity of a moment, or a timer of an hour?"""

    @workflow.run
    async def run(self) -> str:
        timer = asyncio.create_task(workflow.sleep(3600))
        working = workflow.start_activity(work, 0.5, start_to_close_timeout=timedelta(hours=2))
        done, _ = await workflow.wait([timer, working], return_when=asyncio.FIRST_COMPLETED)
        return "worked" if working in done else "slept"


@workflow.defn
class Retries:
    @workflow.run
    async def run(self) -> int:
        return await workflow.execute_activity(
            third_time,
            start_to_close_timeout=timedelta(minutes=1),
            retry_policy=RetryPolicy(initial_interval=timedelta(hours=1)),
        )


@workflow.defn
class HasAChild:
    @workflow.run
    async def run(self) -> str:
        return await workflow.execute_child_workflow(Sleeps.run, DAY.total_seconds())


@workflow.defn
class Waits:
    def __init__(self) -> None:
        self.told = ""

    @workflow.run
    async def run(self) -> str:
        try:
            await workflow.wait_condition(lambda: bool(self.told), timeout=DAY)
        except builtins.TimeoutError:
            return "nobody came"
        return self.told

    @workflow.signal
    def tell(self, what: str) -> None:
        self.told = what


@workflow.defn
class BeatsTooLate:
    @workflow.run
    async def run(self) -> None:
        await workflow.execute_activity(
            "sleeps",
            task_queue="own",
            start_to_close_timeout=DAY,
            heartbeat_timeout=timedelta(hours=2),
            retry_policy=RetryPolicy(maximum_attempts=1),
        )


@workflow.defn
class Asserts:
    @workflow.run
    async def run(self) -> None:
        assert workflow.info().attempt == 2


WORKFLOWS = [BeatsTooLate, Asserts, Sleeps, WorksBesideATimer, Retries, HasAChild, Waits]


@asynccontextmanager
async def working(client: Client) -> AsyncIterator[None]:
    async with Worker(
        client,
        task_queue="q",
        workflows=WORKFLOWS,
        activities=[work, third_time],
        workflow_runner=UnsandboxedWorkflowRunner(),
    ):
        yield


@pytest_asyncio.fixture
async def env() -> AsyncIterator[WorkflowEnvironment]:
    async with (
        await WorkflowEnvironment.start_time_skipping() as environment,
        working(environment.client),
    ):
        yield environment


async def test_a_long_sleep_takes_no_time(env: WorkflowEnvironment) -> None:
    before = await env.get_current_time()
    result = await env.client.execute_workflow(
        Sleeps.run, 100 * DAY.total_seconds(), id="w", task_queue="q"
    )
    assert result == "True"
    assert await env.get_current_time() - before >= 100 * DAY
    again = await env.client.get_workflow_handle("w").fetch_history()
    assert len(again.events) == 10


async def test_time_is_not_skipped_while_an_activity_runs(env: WorkflowEnvironment) -> None:
    run = env.client.execute_workflow(WorksBesideATimer.run, id="w", task_queue="q")
    assert await run == "worked"
    assert await env.get_current_time() - datetime.now(UTC) < REALLY


async def test_the_wait_for_a_retry_is_skipped(env: WorkflowEnvironment) -> None:
    before = await env.get_current_time()
    assert await env.client.execute_workflow(Retries.run, id="w", task_queue="q") == 3
    assert await env.get_current_time() - before >= timedelta(hours=10)


async def test_a_child_sleeps_as_fast(env: WorkflowEnvironment) -> None:
    assert await env.client.execute_workflow(HasAChild.run, id="w", task_queue="q") == "True"


async def test_nothing_is_skipped_while_nobody_waits(env: WorkflowEnvironment) -> None:
    handle = await env.client.start_workflow(Waits.run, id="w", task_queue="q")
    await asyncio.sleep(0.2)
    await handle.signal(Waits.tell, "hello")
    assert await handle.result() == "hello"
    assert await env.get_current_time() - datetime.now(UTC) < REALLY


async def test_waiting_skips_to_a_timeout(env: WorkflowEnvironment) -> None:
    assert await env.client.execute_workflow(Waits.run, id="w", task_queue="q") == "nobody came"
    handle = await env.client.start_workflow(
        Waits.run, id="x", task_queue="q", run_timeout=timedelta(hours=1)
    )
    with pytest.raises(WorkflowFailureError) as failed:
        await handle.result()
    assert isinstance(failed.value.cause, TimeoutError)


async def test_sleeping_in_the_environment_lives_through_what_comes_between(
    env: WorkflowEnvironment,
) -> None:
    handle = await env.client.start_workflow(
        Sleeps.run, DAY.total_seconds(), id="w", task_queue="q"
    )
    before = await env.get_current_time()
    await env.sleep(timedelta(hours=23))
    assert (await handle.describe()).close_time is None
    await env.sleep(timedelta(hours=2))
    closed = (await handle.describe()).close_time
    assert closed is not None
    assert DAY - timedelta(minutes=1) < closed - before < DAY + timedelta(minutes=1)
    assert await env.get_current_time() - before >= timedelta(hours=25)


async def test_skipping_can_be_switched_off(env: WorkflowEnvironment) -> None:
    with env.auto_time_skipping_disabled():
        result = await env.client.execute_workflow(Sleeps.run, 0.2, id="w", task_queue="q")
    assert result == "True"
    assert await env.get_current_time() - datetime.now(UTC) < REALLY


async def test_a_schedule_acts_at_each_of_its_times(env: WorkflowEnvironment) -> None:
    action = ScheduleActionStartWorkflow(Sleeps.run, 60.0, id="scheduled", task_queue="q")
    every = ScheduleIntervalSpec(every=timedelta(hours=6))
    schedule = await env.client.create_schedule(
        "s", Schedule(action=action, spec=ScheduleSpec(intervals=[every]))
    )
    await env.sleep(2 * DAY)
    info = (await schedule.describe()).info
    assert info.num_actions == 8
    assert info.num_actions_missed_catchup_window == 0


async def test_what_a_workflow_asserts_wrongly_fails_it(env: WorkflowEnvironment) -> None:
    with pytest.raises(WorkflowFailureError) as failed:
        await env.client.execute_workflow(Asserts.run, id="w", task_queue="q")
    assert isinstance(failed.value.cause, ApplicationError)
    assert failed.value.cause.type == "AssertionError"


async def test_several_results_are_waited_for_at_once(env: WorkflowEnvironment) -> None:
    assert env.supports_time_skipping
    days = range(1, 6)
    runs = [
        env.client.execute_workflow(
            Sleeps.run, number * DAY.total_seconds(), id=f"w-{number}", task_queue="q"
        )
        for number in days
    ]
    assert await asyncio.gather(*runs) == ["True"] * 5
    before = await env.get_current_time()
    await asyncio.sleep(0.1)
    assert await env.get_current_time() - before < REALLY


async def test_an_activity_has_time_skipped_while_it_runs(env: WorkflowEnvironment) -> None:
    """As an activity does that tries what happens when its heartbeat comes too late."""

    @activity.defn(name="sleeps")
    async def sleeps() -> None:
        await env.sleep(timedelta(hours=3))

    async with Worker(env.client, task_queue="own", activities=[sleeps]):
        with pytest.raises(WorkflowFailureError) as failed:
            await env.client.execute_workflow(BeatsTooLate.run, id="w", task_queue="q")
    assert isinstance(failed.value.cause, ActivityError)
    assert isinstance(failed.value.cause.cause, TimeoutError)


async def test_a_server_without_it_says_so(client: Client) -> None:
    with pytest.raises(RPCError) as refused:
        await client.test_service.lock_time_skipping(ts.LockTimeSkippingRequest())
    assert refused.value.status is RPCStatusCode.UNIMPLEMENTED
    with pytest.raises(ValueError, match="time_skipping"):
        Server(time_skipping=True, clock=time.time_ns)


async def started_by_sdk(program: str) -> testing.WorkflowEnvironment:
    """SDKs give up after five seconds, which a busy machine may need: then it is started again."""
    while True:
        try:
            return await testing.WorkflowEnvironment.start_time_skipping(
                test_server_existing_path=program
            )
        except RuntimeError as error:
            if "did not start within" not in str(error):
                raise


async def test_sdks_start_it_as_their_test_server() -> None:
    """As every SDK does: a program that is given a port."""
    program = shutil.which("durably-test-server", path=sysconfig.get_path("scripts"))
    assert program, "`make install` puts it there"
    async with await started_by_sdk(program) as environment, working(environment.client):
        result = await environment.client.execute_workflow(
            Sleeps.run, 30 * DAY.total_seconds(), id="w", task_queue="q"
        )
    assert result == "True"
