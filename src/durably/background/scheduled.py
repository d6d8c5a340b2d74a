"""Deliveries between schedules and the workflows they start.

Rule 1: an action's workflow is started once: its id and its mark (`ScheduledBy`) are fixed before.
Rule 2: a start that cannot succeed is given up, and the schedule goes on; one that might, later, is
        tried again until the catch-up window of its action has passed.
"""

import json
from collections.abc import Awaitable, Callable

from temporalio.api.common.v1 import message_pb2 as common
from temporalio.api.enums.v1 import workflow_pb2 as workflow_enums
from temporalio.api.failure.v1 import message_pb2 as failures
from temporalio.api.history.v1 import message_pb2 as history
from temporalio.api.workflowservice.v1 import request_response_pb2 as ws

from durably.engine import workflow
from durably.engine.schedule import machine, spec
from durably.engine.schedule.state import Action, End, ScheduleState
from durably.engine.state import Kind, ScheduledBy
from durably.errors import Internal, NotFound, Refusal, ResourceExhausted, Unavailable
from durably.service.execution import Execution
from durably.service.transact import Executions

StartScheduledRun = Callable[
    [str, ws.StartWorkflowExecutionRequest, ScheduledBy], Awaitable[tuple[str, int]]
]
"""(namespace id, request, mark) -> (first run id, start time); raises a Refusal. The same mark finds
the workflow that it started before."""

TRIED_AGAIN = (Unavailable, ResourceExhausted, Internal)


class ScheduledDeliveries:
    """What schedules owe to workflows, and workflows to the schedules that started them."""

    def __init__(self, executions: Executions, start_run: StartScheduledRun) -> None:
        self._executions = executions
        self._start_run = start_run

    async def start(self, sender: Execution[ScheduleState], number: int) -> None:
        state = sender.state
        action = state.actions.get(number)
        if action is None or action.run_id:
            return
        late = machine.action_expired(state, action, self._executions.clock())
        if late and not await self._has_started(state, action):
            await self._give_up(sender, number, missed=True)
            return
        try:
            run_id, started_ns = await self._start_run(
                state.namespace_id, start_request(state, action), mark_of(state, action)
            )
        except TRIED_AGAIN:
            raise
        except Refusal:
            await self._give_up(sender, number, missed=False)
        else:
            await self._executions.transact(
                sender.execution_id, lambda t: machine.action_started(t, number, run_id, started_ns)
            )

    async def _has_started(self, state: ScheduleState, action: Action) -> bool:
        found = await self._executions.find_or_none(state.namespace_id, action.workflow_id)
        return found is not None and found.state.scheduled_by == mark_of(state, action)

    async def _give_up(
        self, sender: Execution[ScheduleState], number: int, *, missed: bool
    ) -> None:
        await self._executions.transact(
            sender.execution_id, lambda t: machine.action_not_started(t, number, missed=missed)
        )

    async def end(self, sender: Execution[ScheduleState], number: int) -> None:
        """Cancel or terminate the workflow of an action; one that has ended already reports so."""
        state = sender.state
        action = state.actions.get(number)
        if action is None or not action.end or action.end_sent:
            return
        mark = mark_of(state, action)
        ended = None
        while True:
            target = await self._executions.find_or_none(state.namespace_id, action.workflow_id)
            if target is None or target is ended or target.state.scheduled_by != mark:
                break
            try:
                await self._end(target, action.end, state.identity)
                break
            except NotFound:
                ended = target  # It closed meanwhile: another run may have followed.
        await self._executions.transact(
            sender.execution_id, lambda t: machine.action_end_sent(t, number)
        )

    async def _end(self, target: Execution, how: int, identity: str) -> None:
        if how == End.TERMINATE:
            reason = "terminated by schedule overlap policy"
            await self._executions.transact(
                target.execution_id, lambda t: workflow.terminate(t, reason, None, identity)
            )
            return
        attributes = history.WorkflowExecutionCancelRequestedEventAttributes(
            cause="cancelled by schedule overlap policy", identity=identity
        )
        await self._executions.transact(
            target.execution_id, lambda t: workflow.request_cancel(t, attributes)
        )

    async def report(self, sender: Execution) -> None:
        """Tell the schedule how a workflow of it ended. A schedule that is gone need not know."""
        state = sender.state
        mark = state.scheduled_by
        if mark is None or state.schedule_reported or not state.closed:
            return
        page = await self._executions.events(sender, state.close_event_id, 1)
        result, failure = outcome(page[0])
        schedule = await self._executions.find_of_kind(
            Kind.SCHEDULE, state.namespace_id, mark.schedule_id, mark.run_id
        )
        if schedule is not None:
            await self._executions.transact(
                schedule.execution_id,
                lambda t: machine.action_ended(
                    t,
                    mark.action,
                    run_id=state.started.first_execution_run_id,
                    started_ns=state.start_ns,
                    status=state.status,
                    result=result,
                    failure=failure,
                ),
            )
        await self._executions.transact(sender.execution_id, workflow.schedule_reported)


def outcome(
    closed: history.HistoryEvent,
) -> tuple[common.Payloads | None, failures.Failure | None]:
    """The result or failure with which a run closed, as far as it has one."""
    match closed.WhichOneof("attributes"):
        case "workflow_execution_completed_event_attributes":
            completed = closed.workflow_execution_completed_event_attributes
            return (completed.result if completed.HasField("result") else None), None
        case "workflow_execution_failed_event_attributes":
            return None, closed.workflow_execution_failed_event_attributes.failure
        case "workflow_execution_timed_out_event_attributes":
            return None, workflow.timeout_failure()
        case _:
            return None, None


def mark_of(state: ScheduleState, action: Action) -> ScheduledBy:
    return ScheduledBy(state.workflow_id, state.run_id, action.number)


def start_request(state: ScheduleState, action: Action) -> ws.StartWorkflowExecutionRequest:
    """The start that an action asks for."""
    wanted = state.schedule.action.start_workflow
    repeatable = action.manual or state.schedule.policies.keep_original_workflow_id
    request = ws.StartWorkflowExecutionRequest(
        namespace=state.namespace,
        workflow_id=action.workflow_id,
        workflow_type=wanted.workflow_type,
        task_queue=wanted.task_queue,
        workflow_execution_timeout=wanted.workflow_execution_timeout,
        workflow_run_timeout=wanted.workflow_run_timeout,
        workflow_task_timeout=wanted.workflow_task_timeout,
        identity=state.identity,
        request_id=f"{state.run_id}-{action.number}",
        workflow_id_reuse_policy=workflow_enums.WORKFLOW_ID_REUSE_POLICY_ALLOW_DUPLICATE
        if repeatable
        else workflow_enums.WORKFLOW_ID_REUSE_POLICY_REJECT_DUPLICATE,
    )
    for field in (
        "input",
        "retry_policy",
        "memo",
        "search_attributes",
        "header",
        "user_metadata",
        "versioning_override",
        "priority",
    ):
        if wanted.HasField(field):
            getattr(request, field).CopyFrom(getattr(wanted, field))
    _add_search_attributes(request.search_attributes, state.workflow_id, action.nominal_ns)
    if not action.overlapping:
        if state.last_completion_result is not None:
            request.last_completion_result.CopyFrom(state.last_completion_result)
        if state.continued_failure is not None:
            request.continued_failure.CopyFrom(state.continued_failure)
    return request


def _add_search_attributes(
    attributes: common.SearchAttributes, schedule_id: str, nominal_ns: int
) -> None:
    for name, kind, value in (
        ("TemporalScheduledStartTime", b"Datetime", spec.time_text(nominal_ns)),
        ("TemporalScheduledById", b"Keyword", schedule_id),
    ):
        payload = attributes.indexed_fields[name]
        payload.metadata["encoding"] = b"json/plain"
        payload.metadata["type"] = kind
        payload.data = json.dumps(value).encode()
