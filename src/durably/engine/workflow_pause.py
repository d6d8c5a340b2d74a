"""A workflow is paused: no worker gets a new task of it, until it is unpaused.

    input     a task that no worker has        a task that a worker has        all else
    -------   ------------------------------   -----------------------------   --------------------
    pause     ends (workflow tasks) or is      goes on, and its end is taken   goes on: signals,
              stale (activities)                                               timers, timeouts
    unpause   a new workflow task; activities  goes on
              that wait are dispatched

Rule 1: both events are buffered while a workflow task is in flight; what they mean holds at once.
Rule 2: workers may ignore both events: SDKs that do not know them go on.
Rule 3: an activity that an operator has paused stays paused; see `activity_control.py`.

Facts: PauseWorkflowExecution in temporal/api/workflowservice/v1/service.proto.
"""

from temporalio.api.history.v1 import message_pb2 as history

from durably.engine import workflow_task
from durably.engine.activity import put_on_queue
from durably.engine.activity_control import dispatch_when_due
from durably.engine.transition import Transition
from durably.engine.workflow import ensure_running
from durably.errors import FailedPrecondition


def pause(t: Transition, identity: str, reason: str, request_id: str) -> None:
    """The same request id again changes nothing; another is refused."""
    state = t.state
    ensure_running(state)
    if state.held:
        assert state.pause is not None
        if request_id and state.pause.request_id == request_id:
            return
        raise FailedPrecondition("workflow is already paused.")
    workflow_task.recall(t)
    t.record(
        history.WorkflowExecutionPausedEventAttributes(
            identity=identity, reason=reason, request_id=request_id
        ),
        worker_may_ignore=True,
    )
    t.visible = True


def unpause(t: Transition, identity: str, reason: str, request_id: str) -> None:
    state = t.state
    ensure_running(state)
    if not state.held:
        raise FailedPrecondition("workflow is not paused.")
    t.record(
        history.WorkflowExecutionUnpausedEventAttributes(
            identity=identity, reason=reason, request_id=request_id
        ),
        worker_may_ignore=True,
    )
    t.visible = True
    for activity in state.activities.values():
        if activity.started or activity.pause is not None:
            continue
        if activity.retry_at_ns:
            dispatch_when_due(t, activity)
        else:
            put_on_queue(t, activity)
    workflow_task.schedule_if_none(t)
