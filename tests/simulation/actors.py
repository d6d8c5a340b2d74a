"""Those who call the server of a simulation: clients that insist, and workers that fail and forget."""

import asyncio
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from google.protobuf.message import Message
from temporalio.api.common.v1 import message_pb2 as common
from temporalio.api.enums.v1 import event_type_pb2 as event_types
from temporalio.api.enums.v1 import failed_cause_pb2 as causes
from temporalio.api.enums.v1 import schedule_pb2 as schedule_enums
from temporalio.api.enums.v1 import task_queue_pb2 as queue_enums
from temporalio.api.enums.v1 import update_pb2 as update_enums
from temporalio.api.enums.v1 import workflow_pb2 as workflow_enums
from temporalio.api.history.v1 import message_pb2 as history
from temporalio.api.taskqueue.v1 import message_pb2 as taskqueue
from temporalio.api.update.v1 import message_pb2 as update_messages
from temporalio.api.workflowservice.v1 import request_response_pb2 as ws

from durably.errors import (
    NotFound,
    Refusal,
    ResourceExhausted,
    Unavailable,
    WorkflowExecutionAlreadyStarted,
    WorkflowNotReady,
)
from tests.engine import lives
from tests.simulation.programs import QUEUE, decide, encoded, past_of, program_of, worth
from tests.simulation.world import Down, World

TRY_AGAIN = (Down, Unavailable, ResourceExhausted, WorkflowNotReady)
WHERE = {"namespace": "default"}


async def insist(world: World, rpc: str, request: Message) -> Any:
    """Call until there is an answer. Raises the refusals that mean no."""
    while True:
        try:
            return await world.call(rpc, request)
        except TRY_AGAIN:
            await world.pause(3)


def execution_of(workflow_id: str, run_id: str = "") -> common.WorkflowExecution:
    return common.WorkflowExecution(workflow_id=workflow_id, run_id=run_id)


# --- Clients ----------------------------------------------------------------------------------


@dataclass
class Client:
    """Starts one workflow, gives it its signals and updates, and waits for its end."""

    world: World
    workflow_id: str
    acknowledged: list[str] = field(default_factory=list)
    """Request ids of signals, in the order in which they were taken."""
    updated: dict[str, int] = field(default_factory=dict)
    """Update ids -> what the update gave."""
    result: int | None = None

    async def run(self) -> None:
        await self.world.pause(20)
        await self.start()
        for index in range(program_of(self.world.seed, self.workflow_id).signals):
            await self.signal(f"{self.workflow_id} {index}")
        if self.world.random.random() < 0.5:
            await self.update("u")
        await self.wait_for_the_end()

    async def start(self) -> None:
        asked = ws.StartWorkflowExecutionRequest(
            **WHERE,
            workflow_id=self.workflow_id,
            workflow_type=common.WorkflowType(name="t"),
            task_queue=taskqueue.TaskQueue(name=QUEUE),
            workflow_id_reuse_policy=workflow_enums.WORKFLOW_ID_REUSE_POLICY_REJECT_DUPLICATE,
            request_id=f"start {self.workflow_id}",
        )
        with suppress(WorkflowExecutionAlreadyStarted):
            # An earlier try of this very request started it, and it has gone on as new since.
            await insist(self.world, "StartWorkflowExecution", asked)

    async def signal(self, request_id: str) -> None:
        await self.world.pause(10)
        asked = ws.SignalWorkflowExecutionRequest(
            **WHERE,
            workflow_execution=execution_of(self.workflow_id),
            signal_name="s",
            request_id=request_id,
        )
        with suppress(NotFound):
            # The program waits for its signals: it has closed because an earlier try was taken.
            await insist(self.world, "SignalWorkflowExecution", asked)
        self.acknowledged.append(request_id)

    async def update(self, update_id: str) -> None:
        asked = ws.UpdateWorkflowExecutionRequest(
            **WHERE,
            workflow_execution=execution_of(self.workflow_id),
            request=update_messages.Request(
                meta=update_messages.Meta(update_id=update_id),
                input=update_messages.Input(name="change"),
            ),
        )
        stage = update_enums.UPDATE_WORKFLOW_EXECUTION_LIFECYCLE_STAGE_COMPLETED
        asked.wait_policy.lifecycle_stage = stage
        try:
            reply = await insist(self.world, "UpdateWorkflowExecution", asked)
        except NotFound:
            return  # The workflow closed before it could take the update.
        if reply.outcome.HasField("success"):
            self.updated[update_id] = len(reply.outcome.success.payloads)

    async def wait_for_the_end(self) -> None:
        run_id = ""
        while self.result is None:
            reply = await insist(
                self.world,
                "GetWorkflowExecutionHistory",
                ws.GetWorkflowExecutionHistoryRequest(
                    **WHERE,
                    execution=execution_of(self.workflow_id, run_id),
                    wait_new_event=True,
                    history_event_filter_type=workflow_enums.HISTORY_EVENT_FILTER_TYPE_CLOSE_EVENT,
                ),
            )
            for event in reply.history.events:
                attributes = getattr(event, event.WhichOneof("attributes") or "")
                if event.event_type == event_types.EVENT_TYPE_WORKFLOW_EXECUTION_COMPLETED:
                    self.result = int(attributes.result.payloads[0].data)
                elif hasattr(attributes, "new_execution_run_id"):
                    run_id = attributes.new_execution_run_id


@dataclass
class Scheduler:
    """Has a schedule start a few workflows, waits for the end of the last, and removes the schedule."""

    world: World
    actions: int
    taken: int = 0

    async def run(self) -> None:
        await self.world.pause(20)
        asked = ws.CreateScheduleRequest(**WHERE, schedule_id="s", request_id="create s")
        asked.schedule.spec.interval.add().interval.seconds = 15
        asked.schedule.policies.overlap_policy = schedule_enums.SCHEDULE_OVERLAP_POLICY_ALLOW_ALL
        asked.schedule.state.limited_actions = True
        asked.schedule.state.remaining_actions = self.actions
        started = asked.schedule.action.start_workflow
        started.workflow_id, started.workflow_type.name = "s", "t"
        started.task_queue.name = QUEUE
        await insist(self.world, "CreateSchedule", asked)
        while True:
            described = ws.DescribeScheduleRequest(**WHERE, schedule_id="s")
            info = (await insist(self.world, "DescribeSchedule", described)).info
            if info.action_count >= self.actions and not info.running_workflows:
                break
            await asyncio.sleep(5)
        self.taken = info.action_count
        with suppress(NotFound):
            # An earlier try of this very request removed it.
            gone = ws.DeleteScheduleRequest(**WHERE, schedule_id="s")
            await insist(self.world, "DeleteSchedule", gone)


# --- Workers ----------------------------------------------------------------------------------


class Worker:
    """Polls for workflow tasks and activities; dies now and then, and forgets what it had."""

    def __init__(self, world: World, name: str, others: list[str]) -> None:
        self.world, self.name, self.others = world, name, others
        self.sticky = f"sticky-{name}"
        self.cache: dict[str, list[history.HistoryEvent]] = {}

    def chance(self, of: float) -> bool:
        return self.world.random.random() < of

    async def poll_forever(self, rpc: str, request: Message, work: Callable[[Any], Any]) -> None:
        while True:
            try:
                task = await self.world.call(rpc, request)
            except TRY_AGAIN:
                await self.world.pause(5)
                continue
            if not task.task_token:
                continue
            if self.chance(0.05):
                self.cache.clear()  # It dies with the task, and comes back.
                await self.world.pause(15)
                continue
            try:
                await work(task)
            except (*TRY_AGAIN, Refusal):
                pass  # Its answer came too late, or was not what is wanted: the server asks again.

    async def workflow_tasks(self, *, sticky: bool) -> None:
        queue = taskqueue.TaskQueue(name=QUEUE)
        if sticky:
            kind = queue_enums.TASK_QUEUE_KIND_STICKY
            queue = taskqueue.TaskQueue(name=self.sticky, kind=kind, normal_name=QUEUE)
        poll = ws.PollWorkflowTaskQueueRequest(**WHERE, task_queue=queue, identity=self.name)
        await self.poll_forever("PollWorkflowTaskQueue", poll, self.do_workflow_task)

    async def do_workflow_task(self, task: ws.PollWorkflowTaskQueueResponse) -> None:
        events = await self.whole_history(task)
        await self.world.pause(0.1)
        if self.chance(0.03):
            failed = ws.RespondWorkflowTaskFailedRequest(
                **WHERE,
                task_token=task.task_token,
                cause=causes.WORKFLOW_TASK_FAILED_CAUSE_WORKFLOW_WORKER_UNHANDLED_FAILURE,
            )
            await self.world.call("RespondWorkflowTaskFailed", failed)
            return
        seed, workflow_id = self.world.seed, task.workflow_execution.workflow_id
        program = program_of(seed, workflow_id)
        answer = ws.RespondWorkflowTaskCompletedRequest(
            **WHERE,
            task_token=task.task_token,
            identity=self.name,
            commands=decide(program, past_of(events), self.others, seed),
        )
        if self.chance(0.7):
            answer.sticky_attributes.worker_task_queue.name = self.sticky
            answer.sticky_attributes.schedule_to_start_timeout.seconds = 5
        for message in task.messages:
            update_id = message.protocol_instance_id
            answer.messages.extend((lives.acceptance(update_id), lives.completion(update_id)))
        await self.world.call("RespondWorkflowTaskCompleted", answer)

    async def whole_history(
        self, task: ws.PollWorkflowTaskQueueResponse
    ) -> list[history.HistoryEvent]:
        """What the task brings, behind what is remembered; all of it from the server if that is not
        enough."""
        run_id, brought = task.workflow_execution.run_id, list(task.history.events)
        known = self.cache.pop(run_id, [])
        first = brought[0].event_id if brought else len(known) + 1
        events = known[: first - 1] + brought
        if [event.event_id for event in events] != list(range(1, len(events) + 1)):
            asked = ws.GetWorkflowExecutionHistoryRequest(
                **WHERE, execution=task.workflow_execution
            )
            reply = await self.world.call("GetWorkflowExecutionHistory", asked)
            events = [e for e in reply.history.events if e.event_id <= task.started_event_id]
        self.cache[run_id] = [e for e in events if e.event_id <= task.started_event_id]
        return events

    async def activities(self) -> None:
        poll = ws.PollActivityTaskQueueRequest(
            **WHERE, task_queue=taskqueue.TaskQueue(name=QUEUE), identity=self.name
        )
        await self.poll_forever("PollActivityTaskQueue", poll, self.do_activity)

    async def do_activity(self, task: ws.PollActivityTaskQueueResponse) -> None:
        program = program_of(self.world.seed, task.workflow_execution.workflow_id)
        await self.world.pause(2)
        if task.HasField("heartbeat_timeout") and self.chance(0.5):
            beat = ws.RecordActivityTaskHeartbeatRequest(
                **WHERE, task_token=task.task_token, details=encoded(task.attempt)
            )
            await self.world.call("RecordActivityTaskHeartbeat", beat)
            await self.world.pause(2)
        if task.attempt <= program.fails[task.activity_id]:
            failed = ws.RespondActivityTaskFailedRequest(
                **WHERE, task_token=task.task_token, failure=lives.application_failure()
            )
            await self.world.call("RespondActivityTaskFailed", failed)
            return
        done = ws.RespondActivityTaskCompletedRequest(
            **WHERE, task_token=task.task_token, result=encoded(worth(task.activity_id))
        )
        await self.world.call("RespondActivityTaskCompleted", done)
