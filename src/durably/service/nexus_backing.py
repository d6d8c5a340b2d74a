"""How a standalone activity or an update stands, as what a Nexus operation goes on as.

Rule 1: an end is told as the completion callback tells it (`engine.callback.completion`).
Rule 2: neither asks for anything: questions are a workflow's.
"""

from temporalio.api.enums.v1 import activity_pb2 as activity_enums
from temporalio.api.enums.v1 import update_pb2 as update_enums
from temporalio.api.workflowservice.v1 import request_response_pb2 as ws

from durably.engine.nexus_outcome import Ended, Succeeded, Unsuccessful
from durably.service.durable_calls import (
    CANCELED,
    COMPLETED,
    FAILED,
    TIMED_OUT,
    WORKING,
    Seen,
)
from durably.service.nexus_tokens import OfActivity, OfUpdate
from durably.service.run_history import Answers

PHASES = {
    activity_enums.ACTIVITY_EXECUTION_STATUS_COMPLETED: COMPLETED,
    activity_enums.ACTIVITY_EXECUTION_STATUS_FAILED: FAILED,
    activity_enums.ACTIVITY_EXECUTION_STATUS_TIMED_OUT: TIMED_OUT,
    activity_enums.ACTIVITY_EXECUTION_STATUS_CANCELED: CANCELED,
    activity_enums.ACTIVITY_EXECUTION_STATUS_TERMINATED: CANCELED,
}
_Stage = update_enums.UpdateWorkflowExecutionLifecycleStage
AT_ONCE = _Stage.UPDATE_WORKFLOW_EXECUTION_LIFECYCLE_STAGE_UNSPECIFIED
ENDED = _Stage.UPDATE_WORKFLOW_EXECUTION_LIFECYCLE_STAGE_COMPLETED

# --- Standalone activities --------------------------------------------------------------------


async def look_at_activity(answers: Answers, which: OfActivity) -> Seen:
    """Raises NotFound."""
    request = ws.DescribeActivityExecutionRequest(
        namespace=which.namespace,
        activity_id=which.activity_id,
        run_id=which.run_id,
        include_outcome=True,
        include_last_failure=True,
    )
    described: ws.DescribeActivityExecutionResponse = await answers(
        "DescribeActivityExecution", request
    )
    info = described.info
    phase = PHASES.get(info.status, WORKING)
    end: Ended | None = None
    if phase == COMPLETED:
        results = described.outcome.result.payloads
        end = Succeeded(results[0] if results else None)
    elif phase != WORKING:
        end = Unsuccessful(described.outcome.failure)
    last = info.close_time if info.HasField("close_time") else info.schedule_time
    return Seen(
        which.activity_id,
        {},
        phase,
        created_ns=info.schedule_time.ToNanoseconds(),
        changed_ns=last.ToNanoseconds(),
        end=end,
        message=_attempt(info.attempt, info.last_failure.message) if end is None else "",
        called={
            "activityId": which.activity_id,
            "runId": described.run_id or info.run_id,
            "activityType": info.activity_type.name,
        },
    )


def _attempt(number: int, failure: str) -> str:
    told = f"attempt {number}" if number > 1 else ""
    return f"{told}: {failure}" if failure else told


async def activity_moved(answers: Answers, which: OfActivity) -> None:
    """Until it has ended; or for as long as a long poll lasts."""
    request = ws.PollActivityExecutionRequest(
        namespace=which.namespace, activity_id=which.activity_id, run_id=which.run_id
    )
    await answers("PollActivityExecution", request)


# --- Updates ----------------------------------------------------------------------------------


async def look_at_update(answers: Answers, which: OfUpdate) -> Seen:
    """When it was accepted, and when it ended, its workflow's history knows alone: the times are 0. Raises
    NotFound."""
    polled: ws.PollWorkflowExecutionUpdateResponse = await answers(
        "PollWorkflowExecutionUpdate", _poll(which, AT_ONCE)
    )
    phase = WORKING
    end: Ended | None = None
    if polled.outcome.HasField("success"):
        results = polled.outcome.success.payloads
        phase, end = COMPLETED, Succeeded(results[0] if results else None)
    elif polled.outcome.HasField("failure"):
        phase, end = FAILED, Unsuccessful(polled.outcome.failure)
    return Seen(
        which.update_id,
        {},
        phase,
        created_ns=0,
        changed_ns=0,
        end=end,
        called={
            "workflowId": which.workflow_id,
            "runId": polled.update_ref.workflow_execution.run_id,
            "updateId": which.update_id,
        },
    )


async def update_moved(answers: Answers, which: OfUpdate) -> None:
    """Until it has ended; or for as long as a long poll lasts."""
    await answers("PollWorkflowExecutionUpdate", _poll(which, ENDED))


def _poll(which: OfUpdate, stage: _Stage.ValueType) -> ws.PollWorkflowExecutionUpdateRequest:
    request = ws.PollWorkflowExecutionUpdateRequest(namespace=which.namespace)
    request.update_ref.workflow_execution.workflow_id = which.workflow_id
    request.update_ref.workflow_execution.run_id = which.run_id
    request.update_ref.update_id = which.update_id
    request.wait_policy.lifecycle_stage = stage
    return request
