"""Programs in which the program itself is the worker: it polls, and answers workflow tasks as it likes.

Rule 1: each has a task queue of its own, so that nobody else takes its tasks.
"""

import asyncio
import uuid
from dataclasses import dataclass
from typing import Any

from google.protobuf.any_pb2 import Any as AnyMessage
from google.protobuf.duration_pb2 import Duration
from temporalio.api.command.v1 import message_pb2 as command
from temporalio.api.common.v1 import message_pb2 as common
from temporalio.api.enums.v1 import command_type_pb2 as command_types
from temporalio.api.enums.v1 import failed_cause_pb2 as failed_causes
from temporalio.api.failure.v1 import message_pb2 as failure
from temporalio.api.protocol.v1 import message_pb2 as protocol
from temporalio.api.taskqueue.v1 import message_pb2 as taskqueue
from temporalio.api.update.v1 import message_pb2 as update
from temporalio.api.workflowservice.v1 import request_response_pb2 as ws

from tests.conftest import eventually
from tests.differential.programs import Stage, program, refusal
from tests.spread import NODES

ADMITTED, ACCEPTED, COMPLETED = 1, 2, 3


@dataclass
class ByHand:
    """One workflow, and its worker by hand."""

    stage: Stage
    queue: str

    @classmethod
    async def start(cls, stage: Stage, task_timeout_s: int = 10) -> "ByHand":
        """The workflow is started, and has done its first task."""
        made = cls(stage, f"by-hand-{uuid.uuid4().hex[:12]}")
        stage.names[made.queue] = "<queue>"
        await stage.service.start_workflow_execution(
            ws.StartWorkflowExecutionRequest(
                namespace="default",
                workflow_id=stage.id(),
                workflow_type=common.WorkflowType(name="ByHand"),
                task_queue=taskqueue.TaskQueue(name=made.queue),
                request_id=str(uuid.uuid4()),
                workflow_task_timeout=Duration(seconds=task_timeout_s),
            )
        )
        await made.complete(await made.poll())
        return made

    @property
    def execution(self) -> common.WorkflowExecution:
        return common.WorkflowExecution(workflow_id=self.stage.id())

    async def poll(self, sticky_queue: str = "") -> ws.PollWorkflowTaskQueueResponse:
        queue = taskqueue.TaskQueue(name=self.queue)
        if sticky_queue:
            queue = taskqueue.TaskQueue(name=sticky_queue, kind=2, normal_name=self.queue)
        request = ws.PollWorkflowTaskQueueRequest(
            namespace="default", task_queue=queue, identity="by hand"
        )
        while True:
            task: ws.PollWorkflowTaskQueueResponse = (
                await self.stage.service.poll_workflow_task_queue(request)
            )
            if task.task_token:
                return task

    async def is_polled(self, sticky_queue: str) -> None:
        """Until this is known, wherever it is asked."""
        queue = taskqueue.TaskQueue(name=sticky_queue, kind=2, normal_name=self.queue)
        request = ws.DescribeTaskQueueRequest(
            namespace="default", task_queue=queue, task_queue_type=1
        )

        async def shown() -> bool:
            found = [await self.stage.service.describe_task_queue(request) for _ in range(NODES)]
            return all(each.pollers for each in found)

        await eventually(shown)

    async def complete(
        self,
        task: ws.PollWorkflowTaskQueueResponse,
        messages: tuple[protocol.Message, ...] = (),
        commands: tuple[command.Command, ...] = (),
        **options: Any,
    ) -> ws.RespondWorkflowTaskCompletedResponse:
        reply: ws.RespondWorkflowTaskCompletedResponse = (
            await self.stage.service.respond_workflow_task_completed(
                ws.RespondWorkflowTaskCompletedRequest(
                    namespace="default",
                    task_token=task.task_token,
                    messages=messages,
                    commands=commands,
                    **options,
                )
            )
        )
        return reply

    async def fail(self, task: ws.PollWorkflowTaskQueueResponse) -> None:
        request = ws.RespondWorkflowTaskFailedRequest(
            namespace="default",
            task_token=task.task_token,
            cause=failed_causes.WORKFLOW_TASK_FAILED_CAUSE_WORKFLOW_WORKER_UNHANDLED_FAILURE,
            failure=failure.Failure(message="no"),
        )
        await self.stage.service.respond_workflow_task_failed(request)

    async def finish(self) -> None:
        await self.stage.client.get_workflow_handle(self.stage.id()).terminate()

    async def signal(self, name: str = "s") -> None:
        await self.stage.client.get_workflow_handle(self.stage.id()).signal(name)

    def update(self, update_id: str = "u", stage: int = COMPLETED) -> "asyncio.Task[Any]":
        """Send an update; what it is answered, when it is."""
        request = ws.UpdateWorkflowExecutionRequest(
            namespace="default", workflow_execution=self.execution
        )
        request.wait_policy.lifecycle_stage = stage  # type: ignore[assignment]
        request.request.meta.update_id = update_id
        request.request.input.name = "change"

        async def ask() -> Any:
            return await self.stage.service.update_workflow_execution(request)

        return asyncio.create_task(ask())

    async def updating(self, update_id: str = "u") -> "asyncio.Task[Any]":
        """Send an update; return when it waits for a worker."""
        before = await self.history_length()
        sent = self.update(update_id)

        async def waits() -> bool:
            request = ws.DescribeWorkflowExecutionRequest(
                namespace="default", execution=self.execution
            )
            found = await self.stage.service.describe_workflow_execution(request)
            return bool(found.HasField("pending_workflow_task"))

        await eventually(waits)
        assert await self.history_length() >= before
        return sent

    async def events(self) -> list[str]:
        """The kinds of its events."""
        fetched = await self.stage.client.get_workflow_handle(self.stage.id()).fetch_history()
        return [str(event.WhichOneof("attributes")) for event in fetched.events]

    async def problems(self) -> Any:
        """The search attribute that says why its worker cannot get on."""
        request = ws.DescribeWorkflowExecutionRequest(namespace="default", execution=self.execution)
        found = (
            await self.stage.service.describe_workflow_execution(request)
        ).workflow_execution_info.search_attributes.indexed_fields
        payload = found.get("TemporalReportedProblems")
        return None if payload is None else payload.data.decode()

    async def history_length(self) -> int:
        return len(await self.events())


def _message(update_id: str, name: str, body: Any) -> protocol.Message:
    packed = AnyMessage()
    packed.Pack(body)
    return protocol.Message(id=f"{update_id}/{name}", protocol_instance_id=update_id, body=packed)


def accepts(update_id: str = "u") -> protocol.Message:
    return _message(
        update_id,
        "accept",
        update.Acceptance(
            accepted_request_message_id=f"{update_id}/request",
            accepted_request_sequencing_event_id=5,
        ),
    )


def rejects(update_id: str = "u") -> protocol.Message:
    rejected = update.Rejection(
        rejected_request_message_id=f"{update_id}/request",
        failure=failure.Failure(message="no such change"),
    )
    rejected.failure.application_failure_info.type = "Refused"
    return _message(update_id, "reject", rejected)


def completes(update_id: str = "u") -> protocol.Message:
    response = update.Response(meta=update.Meta(update_id=update_id))
    response.outcome.success.SetInParent()
    return _message(update_id, "complete", response)


def carries(*messages: protocol.Message) -> tuple[command.Command, ...]:
    """The commands that say where messages take effect."""
    return tuple(
        command.Command(
            command_type=command_types.COMMAND_TYPE_PROTOCOL_MESSAGE,
            protocol_message_command_attributes=command.ProtocolMessageCommandAttributes(
                message_id=message.id
            ),
        )
        for message in messages
    )


def shown(task: ws.PollWorkflowTaskQueueResponse) -> Any:
    """What a worker is told of a task."""
    return [
        task.attempt,
        task.previous_started_event_id,
        task.started_event_id,
        [[e.event_id, str(e.WhichOneof("attributes"))] for e in task.history.events],
        [[m.id, m.event_id] for m in task.messages],
    ]


@program
async def a_rejected_update_leaves_nothing(stage: Stage) -> Any:
    hand = await ByHand.start(stage)
    asked = await hand.updating()
    task = await hand.poll()
    reply = await hand.complete(task, (rejects(),))
    told = [shown(task), reply.reset_history_event_id, await asked, await hand.events()]
    await hand.signal()
    told.append(shown(await hand.poll()))
    await hand.finish()
    return told


@program
async def an_update_that_the_worker_says_nothing_of(stage: Stage) -> Any:
    hand = await ByHand.start(stage)
    asked = await hand.updating()
    reply = await hand.complete(await hand.poll())
    told = [reply.reset_history_event_id, await asked, await hand.events()]
    await hand.finish()
    return told


@program
async def an_accepted_update_by_hand(stage: Stage) -> Any:
    hand = await ByHand.start(stage)
    asked = await hand.updating()
    task = await hand.poll()
    messages = (accepts(), completes())
    reply = await hand.complete(task, messages, carries(*messages))
    told = [shown(task), reply.reset_history_event_id, await asked, await hand.events()]
    await hand.finish()
    return told


@program
async def a_signal_before_the_task_of_an_update(stage: Stage) -> Any:
    hand = await ByHand.start(stage)
    asked = await hand.updating()
    await hand.signal()
    before = await hand.events()
    task = await hand.poll()
    reply = await hand.complete(task, (rejects(),))
    told = [before, shown(task), reply.reset_history_event_id, await asked, await hand.events()]
    await hand.finish()
    return told


@program
async def a_signal_during_the_task_of_an_update(stage: Stage) -> Any:
    hand = await ByHand.start(stage)
    asked = await hand.updating()
    task = await hand.poll()
    await hand.signal()
    reply = await hand.complete(task, (rejects(),))
    told = [shown(task), reply.reset_history_event_id, await asked]
    told.append(shown(await hand.poll()))
    await hand.finish()
    return told


@program
async def terminated_during_the_task_of_an_update(stage: Stage) -> Any:
    hand = await ByHand.start(stage)
    asked = await hand.updating()
    await hand.poll()
    await hand.finish()
    return await refusal(asked)


@program
async def terminated_before_the_task_of_an_update(stage: Stage) -> Any:
    hand = await ByHand.start(stage)
    asked = await hand.updating()
    await hand.finish()
    return await refusal(asked)


@program
async def the_task_of_an_update_fails(stage: Stage) -> Any:
    hand = await ByHand.start(stage)
    asked = await hand.updating()
    await hand.fail(await hand.poll())
    task = await hand.poll()
    messages = (accepts(), completes())
    await hand.complete(task, messages, carries(*messages))
    told = [shown(task), await asked]
    await hand.finish()
    return told


@program
async def the_task_of_an_update_is_answered_with_nonsense(stage: Stage) -> Any:
    """Only the status of what the worker hears: what is wrong is said in other words."""
    hand = await ByHand.start(stage)
    asked = await hand.updating()
    task = await hand.poll()
    told = [(await refusal(hand.complete(task, (completes(),), carries(completes()))))[0]]
    told += [await refusal(asked), shown(await hand.poll())]
    await hand.finish()
    stage.names.clear()
    return told


@program
async def the_task_of_an_update_times_out(stage: Stage) -> Any:
    hand = await ByHand.start(stage, 1)
    asked = await hand.updating()
    await hand.poll()
    task = await hand.poll()
    messages = (accepts(), completes())
    await hand.complete(task, messages, carries(*messages))
    told = [shown(task), await asked, await hand.events()]
    await hand.finish()
    return told


@program
async def an_update_during_the_task_of_another(stage: Stage) -> Any:
    hand = await ByHand.start(stage)
    first = await hand.updating("u1")
    task = await hand.poll()
    second = hand.update("u2")
    await asyncio.sleep(0.3)
    reply = await hand.complete(task, (rejects("u1"),), return_new_workflow_task=True)
    following = reply.workflow_task
    told = [shown(task), reply.reset_history_event_id, shown(following), await first]
    messages = (accepts("u2"), completes("u2"))
    await hand.complete(following, messages, carries(*messages))
    told += [await second, await hand.events()]
    await hand.finish()
    return told


@program
async def a_heartbeat_of_the_task_of_an_update(stage: Stage) -> Any:
    hand = await ByHand.start(stage)
    asked = await hand.updating()
    task = await hand.poll()
    options = {"force_create_new_workflow_task": True, "return_new_workflow_task": True}
    reply = await hand.complete(task, (rejects(),), **options)
    told = [reply.reset_history_event_id, shown(reply.workflow_task), await asked]
    await hand.finish()
    return told


@program
async def a_task_on_the_sticky_queue_fails(stage: Stage) -> Any:
    """The next is a first attempt again, on the normal queue."""
    hand = await ByHand.start(stage)
    await hand.signal()
    sticky = f"sticky-{hand.queue}"
    stage.names[sticky] = "<sticky>"
    attributes = taskqueue.StickyExecutionAttributes(
        worker_task_queue=taskqueue.TaskQueue(name=sticky),
        schedule_to_start_timeout=Duration(seconds=10),
    )
    # Somebody polls the sticky queue, or else it is not waited for.
    waiting = asyncio.create_task(hand.poll(sticky))
    await hand.is_polled(sticky)
    await hand.complete(await hand.poll(), sticky_attributes=attributes)
    await hand.signal()
    task = await waiting
    told = [shown(task)]
    await hand.fail(task)
    for _ in range(2):
        task = await hand.poll()
        told.append(shown(task))
        await hand.fail(task)
    await hand.finish()
    return told


@program
async def a_worker_that_fails_all_the_time_is_reported(stage: Stage) -> Any:
    hand = await ByHand.start(stage)
    await hand.signal()
    told = []
    for _ in range(5):
        told.append(await hand.problems())
        await hand.fail(await hand.poll())
    told.append(await hand.problems())
    found = (
        f"TemporalReportedProblems = 'category=WorkflowTaskFailed' AND WorkflowId = '{stage.id()}'"
    )

    async def listed() -> bool:
        return [row.id async for row in stage.client.list_workflows(found)] == [stage.id()]

    await eventually(listed)
    await hand.complete(await hand.poll())
    told.append(await hand.problems())
    await hand.finish()
    # The timeouts of later attempts have a jitter there.
    stage.names.clear()
    return told


@program
async def an_update_of_a_workflow_whose_tasks_fail(stage: Stage) -> Any:
    hand = await ByHand.start(stage)
    await hand.signal()
    for _ in range(3):
        await hand.fail(await hand.poll())
    told = await refusal(hand.update())
    await hand.finish()
    return told


CONTINUE = command.Command(
    command_type=command_types.COMMAND_TYPE_CONTINUE_AS_NEW_WORKFLOW_EXECUTION,
    continue_as_new_workflow_execution_command_attributes=(
        command.ContinueAsNewWorkflowExecutionCommandAttributes()
    ),
)
COMPLETE = command.Command(
    command_type=command_types.COMMAND_TYPE_COMPLETE_WORKFLOW_EXECUTION,
    complete_workflow_execution_command_attributes=(
        command.CompleteWorkflowExecutionCommandAttributes()
    ),
)


def continuing(hand: ByHand) -> command.Command:
    made = command.Command()
    made.CopyFrom(CONTINUE)
    attributes = made.continue_as_new_workflow_execution_command_attributes
    attributes.workflow_type.name = "ByHand"
    attributes.task_queue.name = hand.queue
    return made


@program
async def an_accepted_update_whose_workflow_ends(stage: Stage) -> Any:
    hand = await ByHand.start(stage)
    asked = await hand.updating()
    task = await hand.poll()
    await hand.complete(task, (accepts(),), (*carries(accepts()), COMPLETE))
    return (await asked).outcome


@program
async def an_accepted_update_whose_workflow_goes_on_in_another_run(stage: Stage) -> Any:
    hand = await ByHand.start(stage)
    # The next run begins at once if this one has lasted a second.
    await asyncio.sleep(1.1)
    asked = await hand.updating()
    task = await hand.poll()
    await hand.complete(task, (accepts(),), (*carries(accepts()), continuing(hand)))
    told = (await asked).outcome
    await hand.finish()
    return told


@program
async def an_update_is_asked_for_by_its_id(stage: Stage) -> Any:
    hand = await ByHand.start(stage)
    asked = await hand.updating()
    task = await hand.poll()
    messages = (accepts(), completes())
    await hand.complete(task, messages, carries(*messages))
    await asked
    request = ws.PollWorkflowExecutionUpdateRequest(namespace="default")
    request.update_ref.workflow_execution.workflow_id = stage.id()
    request.update_ref.update_id = "u"
    request.wait_policy.lifecycle_stage = COMPLETED  # type: ignore[assignment]
    found = await stage.service.poll_workflow_execution_update(request)
    told = [found.outcome, found.stage]
    request.update_ref.update_id = "other"
    told.append(await refusal(stage.service.poll_workflow_execution_update(request)))
    told.append((await hand.update()).outcome)
    await hand.finish()
    return told
