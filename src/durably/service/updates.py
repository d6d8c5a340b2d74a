"""RPCs of updates: ask a running workflow, wait for its answer; alone, or together with a start.

Rule 1: an update is admitted in a committed transition before anyone waits for it.
Rule 2: a waiting caller reads the committed state after each commit; it holds no lock and no turn.
"""

import asyncio
import uuid
from typing import TypeAlias

from google.protobuf.any_pb2 import Any as AnyMessage
from temporalio.api.common.v1 import message_pb2 as common
from temporalio.api.enums.v1 import event_type_pb2 as event_types
from temporalio.api.enums.v1 import update_pb2 as update_enums
from temporalio.api.enums.v1 import workflow_pb2 as workflow_enums
from temporalio.api.errordetails.v1 import message_pb2 as details
from temporalio.api.failure.v1 import message_pb2 as failure
from temporalio.api.update.v1 import message_pb2 as update_messages
from temporalio.api.workflowservice.v1 import request_response_pb2 as ws

from durably.engine import update
from durably.engine.state import WorkflowState
from durably.engine.transition import Transition
from durably.errors import (
    Aborted,
    FailedPrecondition,
    InvalidArgument,
    NotFound,
    Refusal,
    Status,
    WorkflowNotReady,
)
from durably.service import callbacks, links
from durably.service.admission import Call
from durably.service.execution import Execution
from durably.service.namespaces import Namespaces
from durably.service.transact import Executions
from durably.service.workflows import Workflows, check_chain, check_execution, poll_seconds

ADMITTED = update_enums.UPDATE_WORKFLOW_EXECUTION_LIFECYCLE_STAGE_ADMITTED
ACCEPTED = update_enums.UPDATE_WORKFLOW_EXECUTION_LIFECYCLE_STAGE_ACCEPTED
COMPLETED = update_enums.UPDATE_WORKFLOW_EXECUTION_LIFECYCLE_STAGE_COMPLETED

Stage: TypeAlias = update_enums.UpdateWorkflowExecutionLifecycleStage.ValueType
Progress: TypeAlias = tuple[Stage, update_messages.Outcome | None]


class Updates:
    """Answers the RPCs of updates."""

    def __init__(
        self, executions: Executions, namespaces: Namespaces, workflows: Workflows
    ) -> None:
        self._executions = executions
        self._namespaces = namespaces
        self._workflows = workflows
        self._config = executions.config

    async def update_workflow_execution(
        self, request: ws.UpdateWorkflowExecutionRequest, call: Call
    ) -> ws.UpdateWorkflowExecutionResponse:
        namespace_id = self._namespaces.id_of(request.namespace)
        check_execution(request.workflow_execution)
        self._check(request)

        def admit(t: Transition) -> None:
            check_chain(t.state, request.first_execution_run_id)
            update.admit(t, request.request, self._config)

        which = request.workflow_execution
        while True:
            execution = await self._executions.find(namespace_id, which.workflow_id, which.run_id)
            await self._executions.transact(execution.execution_id, admit)
            try:
                return await self._response(execution, request, call)
            except _RunContinued:
                if which.run_id:
                    raise NotFound("workflow update was aborted by closing workflow") from None

    def _check(self, request: ws.UpdateWorkflowExecutionRequest) -> None:
        asked = request.request
        if not request.HasField("request") or not asked.HasField("input"):
            raise InvalidArgument(
                "Request is nil."
                if not request.HasField("request")
                else "Input is not set on request."
            )
        if not asked.input.name:
            raise InvalidArgument("Name is not set on request.")
        if request.wait_policy.lifecycle_stage == ADMITTED:
            raise InvalidArgument(
                "UPDATE_WORKFLOW_EXECUTION_LIFECYCLE_STAGE_ADMITTED is not a stage to wait for"
            )
        if asked.ByteSize() > self._config.payload_bytes_max:
            raise InvalidArgument(
                f"the update of {asked.ByteSize()} bytes exceeds the limit of"
                f" {self._config.payload_bytes_max} bytes (payload_bytes_max)."
            )
        if asked.completion_callbacks and not asked.request_id:
            raise InvalidArgument(
                "invalid update request: request_id is required when completion_callbacks are set"
            )
        callbacks.check(asked.completion_callbacks, self._config)
        links.check(asked.links, asked.completion_callbacks, self._config)
        if not asked.meta.update_id:
            asked.meta.update_id = str(uuid.uuid4())

    async def _response(
        self, execution: Execution, request: ws.UpdateWorkflowExecutionRequest, call: Call
    ) -> ws.UpdateWorkflowExecutionResponse:
        update_id = request.request.meta.update_id
        wanted = request.wait_policy.lifecycle_stage or ACCEPTED
        stage, outcome = await self._wait(execution.execution_id, update_id, wanted, call)
        state = execution.state
        return ws.UpdateWorkflowExecutionResponse(
            update_ref=update_messages.UpdateRef(
                workflow_execution=common.WorkflowExecution(
                    workflow_id=state.workflow_id, run_id=state.run_id
                ),
                update_id=update_id,
            ),
            outcome=outcome,
            stage=stage,
            link=_link(state, request.request.request_id, outcome),
        )

    async def poll_workflow_execution_update(
        self, request: ws.PollWorkflowExecutionUpdateRequest, call: Call
    ) -> ws.PollWorkflowExecutionUpdateResponse:
        namespace_id = self._namespaces.id_of(request.namespace)
        reference = request.update_ref
        if not reference.update_id:
            raise InvalidArgument("UpdateRef is not set on request.")
        which = reference.workflow_execution
        check_execution(which)
        execution = await self._executions.find(namespace_id, which.workflow_id, which.run_id)
        wanted = request.wait_policy.lifecycle_stage
        try:
            stage, outcome = await self._wait(
                execution.execution_id, reference.update_id, wanted, call
            )
        except _RunContinued:
            raise NotFound(f'update "{reference.update_id}" not found') from None
        state = execution.state
        return ws.PollWorkflowExecutionUpdateResponse(
            outcome=outcome,
            stage=stage,
            update_ref=update_messages.UpdateRef(
                workflow_execution=common.WorkflowExecution(
                    workflow_id=state.workflow_id, run_id=state.run_id
                ),
                update_id=reference.update_id,
            ),
        )

    # --- Waiting ------------------------------------------------------------------------------

    async def _wait(self, execution_id: int, update_id: str, wanted: Stage, call: Call) -> Progress:
        """Until the update reaches the wanted stage, or for as long as a long poll lasts."""
        loop = asyncio.get_running_loop()
        seconds = poll_seconds(self._config.update_poll_timeout_s, call, self._executions.clock())
        give_up = loop.time() + seconds
        seen_waiting = False
        while True:
            execution = await self._executions.get(execution_id)
            await self._executions.settled(execution)
            stage, outcome = await self._progress(execution, update_id, seen_waiting)
            seen_waiting = True
            left = give_up - loop.time()
            if stage >= wanted or left <= 0:
                return stage, outcome
            await self._executions.wait_for_update(execution, update_id, left)

    async def _progress(self, execution: Execution, update_id: str, seen_waiting: bool) -> Progress:
        """Where an update stands. NotFound if this run knows nothing of it."""
        state = execution.state
        completed_event_id = state.updates_completed.get(update_id)
        if completed_event_id is not None:
            events = await self._executions.events(execution, completed_event_id, 1)
            if events:
                attributes = events[0].workflow_execution_update_completed_event_attributes
                return COMPLETED, attributes.outcome
        pending = state.updates.get(update_id)
        if pending is not None:
            return (ACCEPTED if pending.accepted_event_id else ADMITTED), None
        if update_id in execution.dropped_updates:
            rejected = execution.dropped_updates[update_id]
            if rejected is not None:
                return COMPLETED, update_messages.Outcome(failure=rejected)
            raise WorkflowNotReady(
                "Unable to perform workflow execution update due to unexpected workflow task failure."
            )
        if state.closed:
            return await self._ended_with_workflow(execution, update_id, seen_waiting)
        raise NotFound(f'update "{update_id}" not found')

    async def _ended_with_workflow(
        self, execution: Execution, update_id: str, seen_waiting: bool
    ) -> Progress:
        """The run has closed: what became of the update is in its history. `seen_waiting`: it closed under a
        waiting caller, and the update was there before."""
        async for page in self._executions.history_pages(execution, 1, 1 << 22):
            for event in page:
                accepted = event.workflow_execution_update_accepted_event_attributes
                if accepted.protocol_instance_id == update_id:
                    return COMPLETED, update_messages.Outcome(failure=update.closed_failure())
        if not seen_waiting:
            raise NotFound(f'update "{update_id}" not found')
        if execution.state.successor_run_id:
            raise _RunContinued
        raise NotFound("workflow update was aborted by closing workflow")

    # --- Together with a start ----------------------------------------------------------------

    async def execute_multi_operation(
        self, request: ws.ExecuteMultiOperationRequest, call: Call
    ) -> ws.ExecuteMultiOperationResponse:
        """Start a workflow and update it: both, or neither."""
        start, asked = _operations(request)
        try:
            self._check_together(request, start)
        except Refusal as refusal:
            raise _multi(refusal, None) from refusal
        try:
            self._check(asked)
            if asked.workflow_execution.workflow_id != start.workflow_id:
                raise InvalidArgument("WorkflowId is not consistent with previous operation(s).")
            if asked.workflow_execution.run_id:
                raise InvalidArgument("RunId is not allowed.")
            if asked.first_execution_run_id:
                raise InvalidArgument("FirstExecutionRunId is not allowed.")
        except Refusal as refusal:
            raise _multi(None, refusal) from refusal
        return await self._start_and_update(start, asked, call)

    def _check_together(
        self, request: ws.ExecuteMultiOperationRequest, start: ws.StartWorkflowExecutionRequest
    ) -> None:
        namespace = self._namespaces.by_name(request.namespace)
        if start.namespace not in ("", request.namespace):
            raise InvalidArgument("Operation namespace did not match request's namespace.")
        start.namespace = request.namespace
        if start.cron_schedule:
            raise InvalidArgument("CronSchedule is not allowed.")
        if start.request_eager_execution:
            raise InvalidArgument("RequestEagerExecution is not supported.")
        if start.HasField("workflow_start_delay"):
            raise InvalidArgument("WorkflowStartDelay is not supported.")
        if not start.workflow_id_conflict_policy:
            start.workflow_id_conflict_policy = workflow_enums.WORKFLOW_ID_CONFLICT_POLICY_FAIL
        self._workflows.check_start(start, namespace)

    async def _start_and_update(
        self,
        start: ws.StartWorkflowExecutionRequest,
        asked: ws.UpdateWorkflowExecutionRequest,
        call: Call,
    ) -> ws.ExecuteMultiOperationResponse:
        namespace_id = self._namespaces.id_of(start.namespace)
        existing = await self._executions.find_or_none(namespace_id, start.workflow_id)
        repeated = False
        if existing is not None and update.known(existing.state, asked.request.meta.update_id):
            run_id, started, repeated = existing.state.run_id, False, True
        else:
            try:
                run_id, started = await self._workflows.start_and(
                    namespace_id, start, lambda t: update.admit(t, asked.request, self._config)
                )
            except (InvalidArgument, NotFound, FailedPrecondition) as refusal:
                raise _multi(None, refusal) from refusal
            except Refusal as refusal:
                raise _multi(refusal, None) from refusal
        execution = await self._executions.find(namespace_id, start.workflow_id, run_id)
        try:
            response = await self._response(execution, asked, call)
        except _RunContinued:
            aborted = Aborted("workflow update was aborted by closing workflow")
            raise _multi(None, aborted) from None
        except Refusal as refusal:
            raise _multi(None, refusal) from refusal
        reply = ws.ExecuteMultiOperationResponse()
        first = reply.responses.add().start_workflow
        first.run_id, first.started = run_id, started
        first.status = execution.state.status  # type: ignore[assignment]
        if repeated:
            response.ClearField("link")
        else:
            first.link.CopyFrom(links.to_event(start.namespace, start.workflow_id, run_id))
        if started:
            first.first_execution_run_id = run_id
        reply.responses.add().update_workflow.CopyFrom(response)
        return reply


def _link(
    state: WorkflowState, request_id: str, outcome: update_messages.Outcome | None
) -> common.Link:
    """To what the request made: by its id the event, if the update has not failed; it may not be
    there yet."""
    if outcome is not None and outcome.HasField("failure"):
        link = common.Link()
        link.workflow.namespace = state.namespace
        link.workflow.workflow_id, link.workflow.run_id = state.workflow_id, state.run_id
        link.workflow.reason = "Update rejected"
        return link
    accepted = event_types.EVENT_TYPE_WORKFLOW_EXECUTION_UPDATE_ACCEPTED
    place = (state.namespace, state.workflow_id, state.run_id)
    return links.to_request(*place, accepted, request_id)


class _RunContinued(Exception):
    """The run closed before the update was accepted, and another follows it."""


def _operations(
    request: ws.ExecuteMultiOperationRequest,
) -> tuple[ws.StartWorkflowExecutionRequest, ws.UpdateWorkflowExecutionRequest]:
    kinds = [operation.WhichOneof("operation") for operation in request.operations]
    if kinds != ["start_workflow", "update_workflow"]:
        raise InvalidArgument("Operations have to be exactly [Start, Update].")
    start, asked = request.operations[0].start_workflow, request.operations[1].update_workflow
    if not asked.HasField("wait_policy"):
        asked.wait_policy.lifecycle_stage = ACCEPTED
    return start, asked


class MultiOperationFailed(Refusal):
    """One operation failed; the other was aborted with it."""

    def __init__(self, cause: Refusal, detail: details.MultiOperationExecutionFailure) -> None:
        super().__init__("Update-with-Start could not be executed.", detail)
        self.status = cause.status


def _multi(start: Refusal | None, asked: Refusal | None) -> MultiOperationFailed:
    """The failure of one operation and the abort of the other, as the API reports them."""
    detail = details.MultiOperationExecutionFailure()
    for refusal in (start, asked):
        shown = detail.statuses.add()
        if refusal is None:
            shown.code, shown.message = int(Status.ABORTED), "Operation was aborted."
            packed = AnyMessage()
            packed.Pack(failure.MultiOperationExecutionAborted())
            shown.details.append(packed)
            continue
        shown.code, shown.message = int(refusal.status), refusal.message
        if refusal.detail is not None:
            packed = AnyMessage()
            packed.Pack(refusal.detail)
            shown.details.append(packed)
    cause = start or asked
    assert cause is not None
    return MultiOperationFailed(cause, detail)
