"""UpdateWorkflowExecutionOptions: what can be changed of a workflow while it runs.

Rule 1: what the mask does not name stays; what is so already leaves no event.

Facts: WorkflowExecutionOptions in temporal/api/workflow/v1/message.proto.
"""

from collections.abc import Callable, Iterable

from google.protobuf import field_mask_pb2
from google.protobuf.descriptor import Descriptor
from temporalio.api.workflow.v1 import message_pb2 as workflow_messages
from temporalio.api.workflowservice.v1 import request_response_pb2 as ws

from durably.engine import priority, workflow_options
from durably.engine.transition import Transition
from durably.engine.workflow import ensure_running
from durably.errors import InvalidArgument, Unimplemented
from durably.service.admission import Call
from durably.service.deployments import Deployments
from durably.service.namespaces import Namespaces
from durably.service.transact import Executions
from durably.service.workflows import check_execution

Options = workflow_messages.WorkflowExecutionOptions


class WorkflowOptions:
    """Answers UpdateWorkflowExecutionOptions."""

    def __init__(
        self, executions: Executions, namespaces: Namespaces, deployments: Deployments
    ) -> None:
        self._executions = executions
        self._namespaces = namespaces
        self._deployments = deployments

    async def update_workflow_execution_options(
        self, request: ws.UpdateWorkflowExecutionOptionsRequest, call: Call
    ) -> ws.UpdateWorkflowExecutionOptionsResponse:
        namespace_id = self._namespaces.id_of(request.namespace)
        check_execution(request.workflow_execution)
        if not request.HasField("update_mask"):
            raise InvalidArgument("UpdateMask is required")
        if not request.HasField("workflow_execution_options"):
            raise InvalidArgument("WorkflowExecutionOptions is required")
        asked = request.workflow_execution_options
        paths = check_mask(request.update_mask)
        priority.check(asked.priority)
        which = request.workflow_execution
        found = await self._executions.find(namespace_id, which.workflow_id, which.run_id)
        options = await self._executions.transact(
            found.execution_id,
            lambda t: change(t, asked, paths, request.identity, self._deployments.check_override),
        )
        if options.HasField("versioning_override"):
            await self._deployments.reactivate(namespace_id, options.versioning_override)
        return ws.UpdateWorkflowExecutionOptionsResponse(workflow_execution_options=options)


CheckOverride = Callable[[str, str, workflow_messages.VersioningOverride], None]
"""(namespace id, task queue, override); raises InvalidArgument or FailedPrecondition."""


def change(
    t: Transition,
    asked: Options,
    paths: Iterable[str],
    identity: str,
    check_override: CheckOverride,
) -> Options:
    """The options that the workflow has afterwards."""
    ensure_running(t.state)
    asked = workflow_options.completed(t.state, asked)
    if asked.HasField("versioning_override"):
        check_override(t.state.namespace_id, t.state.task_queue, asked.versioning_override)
    return workflow_options.update(t, asked, paths, identity)


def check_mask(mask: field_mask_pb2.FieldMask) -> list[str]:
    """The paths of a mask. Raises InvalidArgument for one that names no option, or a part of one
    that is only changed as a whole; time cannot be skipped for one workflow."""
    for path in mask.paths:
        if not _is_path(path):
            raise InvalidArgument(
                f'error parsing UpdateMask: invalid path "{path}" for message'
                ' "temporal.api.workflow.v1.WorkflowExecutionOptions"'
            )
        head, _, rest = path.partition(".")
        if head == "time_skipping_config":
            raise Unimplemented(
                "time is skipped for the whole server, not for one workflow: see --time-skipping"
            )
        old = rest in ("behavior", "deployment")
        if head == "versioning_override" and rest and not old:
            raise InvalidArgument(
                "error applying update_options: versioning_override doesn't support partial updates"
            )
    parts = {path for path in mask.paths if path.startswith("versioning_override.")}
    if len(parts) == 1:
        raise InvalidArgument(
            "error applying update_options: versioning_override fields must be updated together"
        )
    return list(mask.paths)


def _is_path(path: str) -> bool:
    message: Descriptor | None = Options.DESCRIPTOR
    for name in path.split("."):
        field = message.fields_by_name.get(name) if message is not None else None
        if field is None:
            return False
        message = field.message_type
    return True
