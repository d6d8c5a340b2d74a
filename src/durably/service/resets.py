"""ResetWorkflowExecution: end the current run, and go on from an earlier point of one's history.

Rule 1: the end of the current run, the note in the run that is reset, and the new run are one commit.
"""

import asyncio
from collections.abc import Iterable

from temporalio.api.history.v1 import message_pb2 as history
from temporalio.api.workflow.v1 import message_pb2 as workflow_messages
from temporalio.api.workflowservice.v1 import request_response_pb2 as ws

from durably.engine import reset
from durably.engine.state import WorkflowState
from durably.engine.transition import Transition
from durably.errors import InvalidArgument, NotFound, Unavailable
from durably.service.admission import Call
from durably.service.deployments import Deployments
from durably.service.execution import Execution
from durably.service.ids import new_id
from durably.service.namespaces import Namespaces
from durably.service.transact import CONFLICT_RETRIES, Executions
from durably.service.workflow_options import check_mask
from durably.service.workflows import check_execution
from durably.store.store import Conflict

Events = list[history.HistoryEvent]
Operations = Iterable[workflow_messages.PostResetOperation]
RETRY_STEP_S = 0.002


class Resets:
    """Answers ResetWorkflowExecution."""

    def __init__(
        self, executions: Executions, namespaces: Namespaces, deployments: Deployments
    ) -> None:
        self._executions = executions
        self._deployments = deployments
        self._namespaces = namespaces
        self._page_bytes = executions.config.history_page_bytes_max

    async def reset_workflow_execution(
        self, request: ws.ResetWorkflowExecutionRequest, call: Call
    ) -> ws.ResetWorkflowExecutionResponse:
        namespace_id = self._namespaces.id_of(request.namespace)
        check_execution(request.workflow_execution)
        check_operations(request.post_reset_operations)
        for attempt in range(CONFLICT_RETRIES):
            try:
                return await self._attempt(request, namespace_id)
            except (Conflict, Unavailable) as error:
                # Another writer was first: what was read, or decided on, is not what there is now.
                busy = error
                await asyncio.sleep(attempt * RETRY_STEP_S)
        raise Unavailable("this execution is too busy to be reset; try again") from busy

    async def _attempt(
        self, request: ws.ResetWorkflowExecutionRequest, namespace_id: str
    ) -> ws.ResetWorkflowExecutionResponse:
        which = request.workflow_execution
        base = await self._executions.find(namespace_id, which.workflow_id, which.run_id)
        current = await self._executions.find(namespace_id, which.workflow_id)
        await self._executions.settled(current)
        if request.request_id and current.state.create_request_id == request.request_id:
            return ws.ResetWorkflowExecutionResponse(run_id=current.state.run_id)
        if not 1 < request.workflow_task_finish_event_id < base.state.next_event_id:
            raise InvalidArgument(
                "Workflow task finish ID must be > 1 && <= workflow last event ID."
            )
        return await self._reset(request, base, current)

    async def _reset(
        self, request: ws.ResetWorkflowExecutionRequest, base: Execution, current: Execution
    ) -> ws.ResetWorkflowExecutionResponse:
        read = [(base, await self._events(base)), *await self._chain(base)]
        if not all(_is_whole(execution, events) for execution, events in read):
            raise Conflict
        finish = request.workflow_task_finish_event_id
        new = self._executions.create(_next_run(base.state), current.execution_id)
        t = self._executions.begin(new.state)
        # The new run first: it refuses a bad point before anything else has changed.
        reset.begin(
            t,
            base.state,
            read[0][1][: finish - 1],
            reason=request.reason,
            request_id=request.request_id or new_id(),
        )
        parts = self._leave({base.execution_id: base, current.execution_id: current}, t, request)
        exclude = reset.excluded(request.reset_reapply_exclude_types, request.reset_reapply_type)
        reset.reapply(t, read[0][1][finish - 1 :], exclude)
        for _, events in read[1:]:
            reset.reapply(t, events, exclude)
        reset.reapply(t, parts[-1][1].events, exclude)
        self._check_overrides(base.state, request.post_reset_operations)
        reset.leave_out_removed(t, current.state)
        reset.operate(t, request.post_reset_operations)
        reset.go_on(t)
        await self._executions.commit([*parts, (new, t)])
        return ws.ResetWorkflowExecutionResponse(run_id=new.state.run_id)

    def _check_overrides(self, base: WorkflowState, operations: Operations) -> None:
        for operation in operations:
            options = operation.update_workflow_options.workflow_execution_options
            override = options.versioning_override
            if options.HasField("versioning_override") and not _is_open_pin(override):
                self._deployments.check_override(base.namespace_id, base.task_queue, override)

    def _leave(
        self,
        leaving: dict[int, Execution],
        new: Transition,
        request: ws.ResetWorkflowExecutionRequest,
    ) -> list[tuple[Execution, Transition]]:
        """The last transitions of the base and the current run, which may be the same."""
        parts: list[tuple[Execution, Transition]] = []
        for execution in leaving.values():
            t = self._executions.begin(execution.state)
            reset.leave(t, new.state.run_id, request.reason)
            parts.append((execution, t))
        return parts

    async def _events(self, execution: Execution) -> Events:
        found: Events = []
        await self._executions.settled(execution)
        async for page in self._executions.history_pages(execution, 1, self._page_bytes):
            found += page
        return found

    async def _chain(self, base: Execution) -> list[tuple[Execution, Events]]:
        """The runs that followed, with their events, as far as they are there still."""
        found: list[tuple[Execution, Events]] = []
        state = base.state
        while state.successor_run_id:
            try:
                execution = await self._executions.find(
                    state.namespace_id, state.workflow_id, state.successor_run_id
                )
            except NotFound:
                break
            found.append((execution, await self._events(execution)))
            state = execution.state
        return found


def check_operations(operations: Operations) -> None:
    """Raises InvalidArgument for an operation that cannot be done."""
    reset.check_operations(operations)
    for operation in operations:
        if operation.WhichOneof("variant") == "update_workflow_options":
            check_mask(operation.update_workflow_options.update_mask)


def _is_open_pin(override: workflow_messages.VersioningOverride) -> bool:
    """A pin to whatever the workflow is pinned to."""
    return bool(override.pinned.behavior) and not override.pinned.HasField("version")


def _is_whole(execution: Execution, events: Events) -> bool:
    """Nothing has been decided since the events were read."""
    return len(events) == execution.state.next_event_id - 1


def _next_run(base: WorkflowState) -> WorkflowState:
    return WorkflowState(
        namespace_id=base.namespace_id,
        namespace=base.namespace,
        workflow_id=base.workflow_id,
        run_id=new_id(),
        failover_version=base.failover_version,
    )
