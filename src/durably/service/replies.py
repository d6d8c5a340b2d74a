"""What a worker is told of a task that was granted to it."""

from dataclasses import dataclass
from typing import Any, assert_never

from temporalio.api.common.v1 import message_pb2 as common
from temporalio.api.history.v1 import message_pb2 as history
from temporalio.api.query.v1 import message_pb2 as query
from temporalio.api.workflowservice.v1 import request_response_pb2 as ws

from durably.engine import update
from durably.engine.activity import ActivityGrant
from durably.engine.standalone.state import StandaloneActivityState
from durably.engine.state import WorkflowState
from durably.engine.versioning.version import Route
from durably.engine.workflow_task import WorkflowTaskGrant
from durably.service import tokens
from durably.service.describe import set_time
from durably.service.execution import Execution
from durably.service.tokens import HistoryPageToken, QueryToken, TaskToken
from durably.service.transact import Executions


@dataclass(slots=True, eq=False)
class QueryTask:
    """A query that travels to a worker by itself, outside any workflow task."""

    query_id: str
    execution: Execution
    query: query.WorkflowQuery
    sticky: bool
    route: Route
    taken: bool = False
    ticket: int = 0
    """Where other servers offer it too: who gives it to a worker takes this first."""

    @property
    def workflow_id(self) -> str:
        return self.execution.state.workflow_id


async def workflow_task_reply(
    executions: Executions,
    execution: Execution,
    grant: WorkflowTaskGrant,
    queries: dict[str, query.WorkflowQuery],
) -> ws.PollWorkflowTaskQueueResponse:
    """The task with its history: all of it, or for a sticky worker what it has not seen."""
    state = execution.state
    token = TaskToken(
        state.namespace_id,
        execution.execution_id,
        grant.scheduled_event_id,
        grant.started_event_id,
        grant.attempt,
    )
    reply = ws.PollWorkflowTaskQueueResponse(
        task_token=tokens.encode(token),
        workflow_execution=common.WorkflowExecution(
            workflow_id=state.workflow_id, run_id=state.run_id
        ),
        workflow_type=state.started.workflow_type,
        previous_started_event_id=grant.previous_started_event_id,
        started_event_id=grant.started_event_id,
        attempt=grant.attempt,
        workflow_execution_task_queue=state.started.task_queue,
        queries=queries,
        history=history.History(),
        messages=update.messages(state),
    )
    set_time(reply.scheduled_time, grant.scheduled_ns)
    set_time(reply.started_time, grant.started_ns)
    first = grant.previous_started_event_id + 1 if grant.sticky else 1
    await _fill_history(executions, execution, reply, first, grant)
    return reply


async def _fill_history(
    executions: Executions,
    execution: Execution,
    reply: ws.PollWorkflowTaskQueueResponse,
    first: int,
    grant: WorkflowTaskGrant,
) -> None:
    """The first page; a token leads to the others through GetWorkflowExecutionHistory."""
    events = await executions.events(execution, first, executions.config.history_page_bytes_max)
    events = events[: max(0, grant.last_event_id - first + 1)]
    reply.history.events.extend(events)
    following = events[-1].event_id + 1 if events else first
    if following <= grant.last_event_id:
        page = HistoryPageToken(
            execution.state.run_id,
            following,
            grant.last_event_id,
            bool(grant.transient_events),
        )
        reply.next_page_token = tokens.encode(page)
    else:
        reply.history.events.extend(grant.transient_events)


async def query_reply(executions: Executions, task: QueryTask) -> ws.PollWorkflowTaskQueueResponse:
    """A direct query. A sticky worker has the workflow in its cache and needs no history."""
    execution = task.execution
    state = execution.state
    reply = ws.PollWorkflowTaskQueueResponse(
        task_token=tokens.encode(QueryToken(state.namespace_id, task.query_id)),
        workflow_execution=common.WorkflowExecution(
            workflow_id=state.workflow_id, run_id=state.run_id
        ),
        workflow_type=state.started.workflow_type,
        previous_started_event_id=state.last_started_event_id,
        attempt=1,
        workflow_execution_task_queue=state.started.task_queue,
        query=task.query,
        history=history.History(),
    )
    if task.sticky:
        return reply
    bytes_max = executions.config.history_page_bytes_max
    events = await executions.events(execution, 1, bytes_max)
    last = execution.committed_event_id
    reply.history.events.extend(events)
    reply.started_event_id = last
    if events and events[-1].event_id < last:
        page = HistoryPageToken(state.run_id, events[-1].event_id + 1, last)
        reply.next_page_token = tokens.encode(page)
    return reply


def activity_task_reply(
    execution: Execution[Any], grant: ActivityGrant
) -> ws.PollActivityTaskQueueResponse:
    state = execution.state
    activity = grant.activity
    scheduled = activity.scheduled
    token = TaskToken(
        state.namespace_id,
        execution.execution_id,
        activity.scheduled_event_id,
        0,
        grant.attempt,
    )
    reply = ws.PollActivityTaskQueueResponse(
        task_token=tokens.encode(token),
        workflow_namespace=state.namespace,
        activity_type=scheduled.activity_type,
        activity_id=scheduled.activity_id,
        heartbeat_details=activity.heartbeat_details,
        attempt=grant.attempt,
        schedule_to_close_timeout=scheduled.schedule_to_close_timeout,
        start_to_close_timeout=scheduled.start_to_close_timeout,
        heartbeat_timeout=scheduled.heartbeat_timeout,
        retry_policy=scheduled.retry_policy,
    )
    _set_owner(reply, state)
    for field in ("header", "input"):
        if scheduled.HasField(field):
            getattr(reply, field).CopyFrom(getattr(scheduled, field))
    if grant.priority.ByteSize() or scheduled.HasField("priority"):
        reply.priority.CopyFrom(grant.priority)
    set_time(reply.scheduled_time, activity.first_scheduled_ns)
    set_time(reply.current_attempt_scheduled_time, grant.dispatched_ns)
    set_time(reply.started_time, grant.started_ns)
    return reply


def _set_owner(
    reply: ws.PollActivityTaskQueueResponse, state: WorkflowState | StandaloneActivityState
) -> None:
    """Whose activity it is; a standalone one has a run of its own, and an empty workflow."""
    match state:
        case WorkflowState():
            reply.workflow_type.CopyFrom(state.started.workflow_type)
            reply.workflow_execution.workflow_id = state.workflow_id
            reply.workflow_execution.run_id = state.run_id
        case StandaloneActivityState():
            reply.workflow_execution.SetInParent()
            reply.activity_run_id = state.run_id
        case _:
            assert_never(state)
