"""What a worker answers, message by message: late, twice, half wrong, or too much."""

from collections.abc import AsyncIterator, Awaitable
from dataclasses import dataclass
from datetime import timedelta

import pytest
import pytest_asyncio
from temporalio.api.command.v1 import message_pb2 as command
from temporalio.api.common.v1 import message_pb2 as common
from temporalio.api.enums.v1 import command_type_pb2 as command_types
from temporalio.api.enums.v1 import failed_cause_pb2 as causes
from temporalio.api.failure.v1 import message_pb2 as failure
from temporalio.api.taskqueue.v1 import message_pb2 as taskqueue
from temporalio.api.workflowservice.v1 import request_response_pb2 as ws
from temporalio.client import Client
from temporalio.service import RPCError, RPCStatusCode

from durably import Server
from tests.conftest import eventually

QUEUE = taskqueue.TaskQueue(name="by-hand")


@dataclass
class Hand:
    """A worker whose every message is written by hand."""

    client: Client

    async def start(self, workflow_id: str) -> None:
        await self.client.start_workflow("Any", id=workflow_id, task_queue=QUEUE.name)

    async def workflow_task(self) -> ws.PollWorkflowTaskQueueResponse:
        poll = ws.PollWorkflowTaskQueueRequest(namespace="default", task_queue=QUEUE)
        return await self.client.workflow_service.poll_workflow_task_queue(poll)

    async def activity_task(self) -> ws.PollActivityTaskQueueResponse:
        poll = ws.PollActivityTaskQueueRequest(namespace="default", task_queue=QUEUE)
        return await self.client.workflow_service.poll_activity_task_queue(poll)

    async def complete_task(self, token: bytes, *commands: command.Command) -> None:
        await self.client.workflow_service.respond_workflow_task_completed(
            ws.RespondWorkflowTaskCompletedRequest(
                namespace="default", task_token=token, commands=commands
            )
        )

    async def complete_activity(self, token: bytes, data: bytes = b"1") -> None:
        await self.client.workflow_service.respond_activity_task_completed(
            ws.RespondActivityTaskCompletedRequest(
                namespace="default", task_token=token, result=payloads(data)
            )
        )

    async def heartbeat(self, token: bytes, data: bytes = b"1") -> None:
        await self.client.workflow_service.record_activity_task_heartbeat(
            ws.RecordActivityTaskHeartbeatRequest(
                namespace="default", task_token=token, details=payloads(data)
            )
        )

    async def events(self, workflow_id: str) -> list[str]:
        fetched = await self.client.get_workflow_handle(workflow_id).fetch_history()
        return [event.WhichOneof("attributes") or "" for event in fetched.events]


@pytest.fixture
def hand(client: Client) -> Hand:
    return Hand(client)


def payloads(data: bytes) -> common.Payloads:
    return common.Payloads(payloads=[common.Payload(data=data)])


def activity_command(activity_id: str, seconds: float = 60, attempts: int = 0) -> command.Command:
    attributes = command.ScheduleActivityTaskCommandAttributes(
        activity_id=activity_id, task_queue=QUEUE
    )
    attributes.activity_type.name = "any"
    attributes.start_to_close_timeout.FromTimedelta(timedelta(seconds=seconds))
    attributes.retry_policy.maximum_attempts = attempts
    attributes.retry_policy.initial_interval.FromTimedelta(timedelta(milliseconds=10))
    return command.Command(
        command_type=command_types.COMMAND_TYPE_SCHEDULE_ACTIVITY_TASK,
        schedule_activity_task_command_attributes=attributes,
    )


def timer_command(timer_id: str) -> command.Command:
    attributes = command.StartTimerCommandAttributes(timer_id=timer_id)
    attributes.start_to_fire_timeout.FromTimedelta(timedelta(hours=1))
    return command.Command(
        command_type=command_types.COMMAND_TYPE_START_TIMER,
        start_timer_command_attributes=attributes,
    )


async def refused(call: Awaitable[object]) -> RPCStatusCode:
    with pytest.raises(RPCError) as caught:
        await call
    return caught.value.status


async def test_a_workflow_task_is_completed_once(hand: Hand) -> None:
    await hand.start("w")
    task = await hand.workflow_task()
    await hand.complete_task(task.task_token, timer_command("t"))
    before = await hand.events("w")
    again = hand.complete_task(task.task_token, timer_command("t"))
    assert await refused(again) is RPCStatusCode.NOT_FOUND
    assert await hand.events("w") == before


async def test_an_activity_is_completed_once(hand: Hand) -> None:
    await hand.start("w")
    await hand.complete_task((await hand.workflow_task()).task_token, activity_command("a"))
    task = await hand.activity_task()
    await hand.complete_activity(task.task_token)
    before = await hand.events("w")
    assert await refused(hand.complete_activity(task.task_token)) is RPCStatusCode.NOT_FOUND
    assert await refused(hand.heartbeat(task.task_token)) is RPCStatusCode.NOT_FOUND
    assert await hand.events("w") == before


async def test_an_attempt_that_was_given_up_is_refused_and_the_next_one_counts(hand: Hand) -> None:
    await hand.start("w")
    await hand.complete_task((await hand.workflow_task()).task_token, activity_command("a", 1.0))
    first = await hand.activity_task()
    second = await hand.activity_task()
    assert (first.attempt, second.attempt) == (1, 2)
    assert await refused(hand.complete_activity(first.task_token)) is RPCStatusCode.NOT_FOUND
    await hand.complete_activity(second.task_token)
    ends = [name for name in await hand.events("w") if name.startswith("activity_task_completed")]
    assert len(ends) == 1


async def test_an_answer_to_a_closed_workflow_is_refused(hand: Hand) -> None:
    await hand.start("w")
    await hand.complete_task((await hand.workflow_task()).task_token, activity_command("a"))
    task = await hand.activity_task()
    await hand.client.get_workflow_handle("w").terminate()
    before = await hand.events("w")
    assert await refused(hand.complete_activity(task.task_token)) is RPCStatusCode.NOT_FOUND
    assert await hand.events("w") == before


async def test_a_bad_command_in_the_middle_leaves_nothing_of_its_completion(hand: Hand) -> None:
    await hand.start("w")
    task = await hand.workflow_task()
    bad = activity_command("")
    completing = hand.complete_task(task.task_token, timer_command("t"), bad, timer_command("u"))
    assert await refused(completing) is RPCStatusCode.INVALID_ARGUMENT
    assert await hand.events("w") == [
        "workflow_execution_started_event_attributes",
        "workflow_task_scheduled_event_attributes",
        "workflow_task_started_event_attributes",
        "workflow_task_failed_event_attributes",
    ]
    again = await hand.workflow_task()
    assert again.attempt == 2
    await hand.complete_task(again.task_token, timer_command("t"))
    assert (await hand.events("w")).count("timer_started_event_attributes") == 1


async def test_what_a_workflow_began_and_left_is_dropped_with_its_end(hand: Hand) -> None:
    await hand.start("w")
    task = await hand.workflow_task()
    complete = command.Command(
        command_type=command_types.COMMAND_TYPE_COMPLETE_WORKFLOW_EXECUTION,
        complete_workflow_execution_command_attributes={},  # type: ignore[arg-type]
    )
    await hand.complete_task(task.task_token, activity_command("a"), complete)
    assert (await hand.events("w"))[-2:] == [
        "activity_task_scheduled_event_attributes",
        "workflow_execution_completed_event_attributes",
    ]


async def test_an_activity_that_is_canceled_with_its_start_is_given_to_nobody(hand: Hand) -> None:
    await hand.start("w")
    task = await hand.workflow_task()
    cancel = command.Command(
        command_type=command_types.COMMAND_TYPE_REQUEST_CANCEL_ACTIVITY_TASK,
        request_cancel_activity_task_command_attributes={"scheduled_event_id": 5},  # type: ignore[arg-type]
    )
    await hand.complete_task(task.task_token, activity_command("a"), cancel, activity_command("b"))
    assert (await hand.activity_task()).activity_id == "b"
    assert "activity_task_canceled_event_attributes" in await hand.events("w")


class TestOverTheLimit:
    """Payloads larger than `payload_bytes_max`: each is named, and none is kept."""

    LIMIT = 10_000
    TOO_MUCH = b"x" * 10_001

    @pytest_asyncio.fixture
    async def hand(self) -> AsyncIterator[Hand]:
        async with Server(store="memory:", port=0, payload_bytes_max=self.LIMIT) as server:
            yield Hand(await Client.connect(server.address))

    async def test_a_result_fails_its_activity_for_good(self, hand: Hand) -> None:
        await hand.start("w")
        await hand.complete_task((await hand.workflow_task()).task_token, activity_command("a"))
        task = await hand.activity_task()
        await hand.complete_activity(task.task_token, self.TOO_MUCH)
        closed = [
            event.activity_task_failed_event_attributes.failure
            for event in (await hand.client.get_workflow_handle("w").fetch_history()).events
            if event.HasField("activity_task_failed_event_attributes")
        ]
        assert len(closed) == 1
        assert "payload_bytes_max" in closed[0].message
        assert closed[0].server_failure_info.non_retryable

    async def test_a_failure_is_replaced_by_one_that_says_so(self, hand: Hand) -> None:
        await hand.start("w")
        await hand.complete_task((await hand.workflow_task()).task_token, activity_command("a"))
        task = await hand.activity_task()
        reason = failure.Failure(message="x" * 10_001)
        reason.application_failure_info.type = "T"
        await hand.client.workflow_service.respond_activity_task_failed(
            ws.RespondActivityTaskFailedRequest(
                namespace="default", task_token=task.task_token, failure=reason
            )
        )
        assert "activity_task_failed_event_attributes" in await hand.events("w")

    async def test_heartbeat_details_are_refused(self, hand: Hand) -> None:
        await hand.start("w")
        await hand.complete_task((await hand.workflow_task()).task_token, activity_command("a"))
        task = await hand.activity_task()
        beating = hand.heartbeat(task.task_token, self.TOO_MUCH)
        assert await refused(beating) is RPCStatusCode.INVALID_ARGUMENT
        await hand.heartbeat(task.task_token)
        await hand.complete_activity(task.task_token)

    async def test_a_command_fails_its_workflow_task(self, hand: Hand) -> None:
        await hand.start("w")
        task = await hand.workflow_task()
        large = activity_command("a")
        large.schedule_activity_task_command_attributes.input.CopyFrom(payloads(self.TOO_MUCH))
        completing = hand.complete_task(task.task_token, timer_command("t"), large)
        assert await refused(completing) is RPCStatusCode.INVALID_ARGUMENT
        fetched = await hand.client.get_workflow_handle("w").fetch_history()
        last = fetched.events[-1].workflow_task_failed_event_attributes
        assert last.cause == causes.WORKFLOW_TASK_FAILED_CAUSE_PAYLOADS_TOO_LARGE
        assert "payload_bytes_max" in last.failure.message
        assert "timer_started_event_attributes" not in await hand.events("w")

    async def test_an_input_is_refused_and_nothing_starts(self, hand: Hand) -> None:
        starting = hand.client.start_workflow(
            "Any", self.TOO_MUCH.decode(), id="w", task_queue=QUEUE.name
        )
        assert await refused(starting) is RPCStatusCode.INVALID_ARGUMENT

        async def nothing() -> bool:
            return (await hand.client.count_workflows()).count == 0

        await eventually(nothing)
