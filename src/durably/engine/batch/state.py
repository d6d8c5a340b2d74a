"""The state of one batch operation."""

from msgspec import field
from temporalio.api.workflowservice.v1 import request_response_pb2 as ws

from durably.engine.state import BatchTarget, ExecutionState, Kind


class BatchState(ExecutionState, tag="batch"):
    """`workflow_id` is the job id; statuses are those of workflows. Stopped is TERMINATED."""

    KIND = Kind.BATCH

    request: ws.StartBatchOperationRequest = field(default_factory=ws.StartBatchOperationRequest)
    total: int = 0
    """How many executions there were to begin with; in the end, to how many it came."""
    completed: int = 0
    failed: int = 0
    page: tuple[BatchTarget, ...] = ()
    """The executions that are worked on now."""
    cursor: bytes = b""
    """Where the executions begin that come after; empty: at the first, or there are no others."""
    stopped_by: str = ""
    stop_reason: str = ""

    @property
    def operation(self) -> str:
        """The field of the request that says what is done."""
        return self.request.WhichOneof("operation") or ""
