"""RPCs that pause and unpause workflows."""

from temporalio.api.common.v1 import message_pb2 as common
from temporalio.api.workflowservice.v1 import request_response_pb2 as ws

from durably.engine import workflow_pause
from durably.errors import InvalidArgument
from durably.service.admission import Call
from durably.service.execution import Execution
from durably.service.namespaces import Namespaces
from durably.service.transact import Executions
from durably.service.workflows import check_execution

Request = ws.PauseWorkflowExecutionRequest | ws.UnpauseWorkflowExecutionRequest


class WorkflowPause:
    """Answers PauseWorkflowExecution and UnpauseWorkflowExecution."""

    def __init__(self, executions: Executions, namespaces: Namespaces) -> None:
        self._executions = executions
        self._namespaces = namespaces

    async def pause_workflow_execution(
        self, request: ws.PauseWorkflowExecutionRequest, call: Call
    ) -> ws.PauseWorkflowExecutionResponse:
        execution = await self._find(request)
        await self._executions.transact(
            execution.execution_id,
            lambda t: workflow_pause.pause(t, request.identity, request.reason, request.request_id),
        )
        return ws.PauseWorkflowExecutionResponse()

    async def unpause_workflow_execution(
        self, request: ws.UnpauseWorkflowExecutionRequest, call: Call
    ) -> ws.UnpauseWorkflowExecutionResponse:
        execution = await self._find(request)
        await self._executions.transact(
            execution.execution_id,
            lambda t: workflow_pause.unpause(
                t, request.identity, request.reason, request.request_id
            ),
        )
        return ws.UnpauseWorkflowExecutionResponse()

    async def _find(self, request: Request) -> Execution:
        namespace_id = self._namespaces.id_of(request.namespace)
        longest = self._executions.config.identifier_chars_max
        for text, name in (
            (request.reason, "reason"),
            (request.request_id, "request id"),
            (request.identity, "identity"),
        ):
            if len(text) > longest:
                raise InvalidArgument(f"{name} is too long.")
        check_execution(
            common.WorkflowExecution(workflow_id=request.workflow_id, run_id=request.run_id)
        )
        return await self._executions.find(namespace_id, request.workflow_id, request.run_id)
