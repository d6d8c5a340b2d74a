"""RPCs by which operators control the pending activities of a workflow."""

import secrets

from temporalio.api.workflowservice.v1 import request_response_pb2 as ws

from durably.engine import activity_control
from durably.engine.state import Activity, WorkflowState
from durably.engine.times import nanoseconds
from durably.errors import InvalidArgument
from durably.service.admission import Call
from durably.service.execution import Execution
from durably.service.namespaces import Namespaces
from durably.service.transact import Executions
from durably.service.workflows import check_execution

Request = (
    ws.PauseActivityRequest
    | ws.UnpauseActivityRequest
    | ws.ResetActivityRequest
    | ws.UpdateActivityOptionsRequest
)


def jitter(longest_ns: int) -> int:
    """A random delay up to `longest_ns`, so that many activities do not start at once."""
    return secrets.randbelow(longest_ns) if longest_ns > 0 else 0


class ActivityControl:
    """Answers the RPCs that pause, unpause, reset and change pending activities."""

    def __init__(self, executions: Executions, namespaces: Namespaces) -> None:
        self._executions = executions
        self._namespaces = namespaces

    async def pause_activity(
        self, request: ws.PauseActivityRequest, call: Call
    ) -> ws.PauseActivityResponse:
        execution = await self._find(request)
        await self._executions.transact(
            execution.execution_id,
            lambda t: activity_control.pause(
                t,
                _chosen(t.state, request),
                request.identity,
                request.reason,
                request.request_id,
            ),
        )
        return ws.PauseActivityResponse()

    async def unpause_activity(
        self, request: ws.UnpauseActivityRequest, call: Call
    ) -> ws.UnpauseActivityResponse:
        execution = await self._find(request)
        await self._executions.transact(
            execution.execution_id,
            lambda t: activity_control.unpause(
                t,
                _chosen(t.state, request),
                reset_attempts=request.reset_attempts,
                reset_heartbeat=request.reset_heartbeat,
                jitter=jitter,
                jitter_ns=nanoseconds(request.jitter),
            ),
        )
        return ws.UnpauseActivityResponse()

    async def reset_activity(
        self, request: ws.ResetActivityRequest, call: Call
    ) -> ws.ResetActivityResponse:
        execution = await self._find(request)
        await self._executions.transact(
            execution.execution_id,
            lambda t: activity_control.reset(
                t,
                _chosen(t.state, request),
                reset_heartbeat=request.reset_heartbeat,
                keep_paused=request.keep_paused,
                restore_options=request.restore_original_options,
                jitter=jitter,
                jitter_ns=nanoseconds(request.jitter),
            ),
        )
        return ws.ResetActivityResponse()

    async def update_activity_options(
        self, request: ws.UpdateActivityOptionsRequest, call: Call
    ) -> ws.UpdateActivityOptionsResponse:
        paths = list(request.update_mask.paths)
        if request.restore_original and paths:
            raise InvalidArgument("Both UpdateMask and RestoreOriginal are provided")
        if not request.restore_original:
            if not request.HasField("activity_options"):
                raise InvalidArgument("ActivityOptions are not provided")
            if not request.HasField("update_mask"):
                raise InvalidArgument("UpdateMask is not provided")
        execution = await self._find(request)

        if request.restore_original:
            options = await self._executions.transact(
                execution.execution_id,
                lambda t: activity_control.restore_options(t, _chosen(t.state, request)),
            )
        else:
            options = await self._executions.transact(
                execution.execution_id,
                lambda t: activity_control.update_options(
                    t,
                    _chosen(t.state, request),
                    request.activity_options,
                    paths,
                    nanoseconds(t.state.started.workflow_run_timeout),
                ),
            )
        return ws.UpdateActivityOptionsResponse(activity_options=options)

    async def _find(self, request: Request) -> Execution:
        namespace_id = self._namespaces.id_of(request.namespace)
        check_execution(request.execution)
        if request.WhichOneof("activity") is None:
            raise InvalidArgument("Activity id, type or all activities must be given on request.")
        which = request.execution
        return await self._executions.find(namespace_id, which.workflow_id, which.run_id)


def _chosen(state: WorkflowState, request: Request) -> list[Activity]:
    return activity_control.select(
        state,
        activity_id=request.id,
        kind=request.type,
        everything=request.WhichOneof("activity") in ("unpause_all", "match_all"),
    )
