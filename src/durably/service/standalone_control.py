"""RPCs by which operators control one activity: a standalone one, or with a workflow id one of a
workflow, for which PauseActivity and its kin answer.

Facts: PauseActivityExecution and its kin in temporal/api/workflowservice/v1/request_response.proto.
"""

from temporalio.api.common.v1 import message_pb2 as common
from temporalio.api.workflowservice.v1 import request_response_pb2 as ws

from durably.engine.standalone import machine
from durably.engine.times import nanoseconds
from durably.errors import InvalidArgument
from durably.service.activity_control import ActivityControl, jitter
from durably.service.admission import Call
from durably.service.namespaces import Namespaces
from durably.service.standalone_activities import (
    StandaloneExecution,
    check_request,
    check_which,
    find_activity,
)
from durably.service.transact import Executions

ControlRequest = (
    ws.PauseActivityExecutionRequest
    | ws.UnpauseActivityExecutionRequest
    | ws.ResetActivityExecutionRequest
    | ws.UpdateActivityExecutionOptionsRequest
)

PATHS = frozenset(
    (
        "task_queue.name",
        "schedule_to_close_timeout",
        "schedule_to_start_timeout",
        "start_to_close_timeout",
        "heartbeat_timeout",
        "priority",
        "priority.priority_key",
        "priority.fairness_key",
        "priority.fairness_weight",
        "retry_policy",
        "retry_policy.initial_interval",
        "retry_policy.backoff_coefficient",
        "retry_policy.maximum_interval",
        "retry_policy.maximum_attempts",
        "start_delay",
    )
)
"""What UpdateActivityExecutionOptions can change."""


class StandaloneControl:
    """Answers the RPCs that pause, unpause, reset and change one activity."""

    def __init__(
        self, executions: Executions, namespaces: Namespaces, of_workflows: ActivityControl
    ) -> None:
        self._executions = executions
        self._namespaces = namespaces
        self._of_workflows = of_workflows
        self._config = executions.config

    async def pause_activity_execution(
        self, request: ws.PauseActivityExecutionRequest, call: Call
    ) -> ws.PauseActivityExecutionResponse:
        self._check(request)
        if request.workflow_id:
            await self._of_workflows.pause_activity(
                ws.PauseActivityRequest(
                    namespace=request.namespace,
                    execution=_workflow(request),
                    id=request.activity_id,
                    identity=request.identity,
                    reason=request.reason,
                    request_id=request.request_id,
                ),
                call,
            )
            return ws.PauseActivityExecutionResponse()
        execution = await self._find(request)
        await self._executions.transact(
            execution.execution_id,
            lambda t: machine.pause(t, request.identity, request.reason, request.request_id),
        )
        return ws.PauseActivityExecutionResponse()

    async def unpause_activity_execution(
        self, request: ws.UnpauseActivityExecutionRequest, call: Call
    ) -> ws.UnpauseActivityExecutionResponse:
        self._check(request)
        _check_jitter(request)
        if request.workflow_id:
            await self._of_workflows.unpause_activity(
                ws.UnpauseActivityRequest(
                    namespace=request.namespace,
                    execution=_workflow(request),
                    id=request.activity_id,
                    identity=request.identity,
                    jitter=request.jitter,
                ),
                call,
            )
            return ws.UnpauseActivityExecutionResponse()
        execution = await self._find(request)
        await self._executions.transact(
            execution.execution_id,
            lambda t: machine.unpause(t, request.request_id, jitter, nanoseconds(request.jitter)),
        )
        return ws.UnpauseActivityExecutionResponse()

    async def reset_activity_execution(
        self, request: ws.ResetActivityExecutionRequest, call: Call
    ) -> ws.ResetActivityExecutionResponse:
        self._check(request)
        _check_jitter(request)
        if request.workflow_id:
            await self._of_workflows.reset_activity(
                ws.ResetActivityRequest(
                    namespace=request.namespace,
                    execution=_workflow(request),
                    id=request.activity_id,
                    identity=request.identity,
                    keep_paused=request.keep_paused,
                    jitter=request.jitter,
                    reset_heartbeat=request.reset_heartbeat,
                    restore_original_options=request.restore_original_options,
                ),
                call,
            )
            return ws.ResetActivityExecutionResponse()
        execution = await self._find(request)
        await self._executions.transact(
            execution.execution_id, lambda t: machine.reset(t, request, jitter)
        )
        return ws.ResetActivityExecutionResponse()

    async def update_activity_execution_options(
        self, request: ws.UpdateActivityExecutionOptionsRequest, call: Call
    ) -> ws.UpdateActivityExecutionOptionsResponse:
        self._check(request)
        _check_update(request)
        if request.workflow_id:
            asked = ws.UpdateActivityOptionsRequest(
                namespace=request.namespace,
                execution=_workflow(request),
                id=request.activity_id,
                identity=request.identity,
                restore_original=request.restore_original,
            )
            if not request.restore_original:
                asked.activity_options.CopyFrom(request.activity_options)
                asked.update_mask.CopyFrom(request.update_mask)
            changed = await self._of_workflows.update_activity_options(asked, call)
            return ws.UpdateActivityExecutionOptionsResponse(
                activity_options=changed.activity_options
            )
        execution = await self._find(request)
        options = await self._executions.transact(
            execution.execution_id, lambda t: machine.update_options(t, request)
        )
        return ws.UpdateActivityExecutionOptionsResponse(activity_options=options)

    def _check(self, request: ControlRequest) -> None:
        check_which(request.activity_id, request.run_id, self._config)
        check_request(request, self._config)

    async def _find(self, request: ControlRequest) -> StandaloneExecution:
        namespace_id = self._namespaces.id_of(request.namespace)
        return await find_activity(
            self._executions, namespace_id, request.activity_id, request.run_id
        )


def _workflow(request: ControlRequest) -> common.WorkflowExecution:
    return common.WorkflowExecution(workflow_id=request.workflow_id, run_id=request.run_id)


def _check_jitter(
    request: ws.UnpauseActivityExecutionRequest | ws.ResetActivityExecutionRequest,
) -> None:
    if nanoseconds(request.jitter) < 0:
        raise InvalidArgument("invalid jitter: negative duration")


def _check_update(request: ws.UpdateActivityExecutionOptionsRequest) -> None:
    paths = request.update_mask.paths
    if paths and request.restore_original:
        raise InvalidArgument("Both UpdateMask and RestoreOriginal are provided")
    if request.restore_original:
        return
    if not request.HasField("activity_options"):
        raise InvalidArgument("ActivityOptions are not provided")
    if not request.HasField("update_mask"):
        raise InvalidArgument("UpdateMask is not provided")
    if not paths:
        raise InvalidArgument("UpdateMask must specify at least one path")
    for path in paths:
        if path not in PATHS:
            raise InvalidArgument(f'unsupported update_mask path: "{path}"')
