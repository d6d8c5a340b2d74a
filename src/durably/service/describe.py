"""DescribeWorkflowExecution: the state of an execution as the API shows it.

Facts: temporal/api/workflow/v1/message.proto.
"""

from google.protobuf.timestamp_pb2 import Timestamp
from temporalio.api.activity.v1 import message_pb2 as activities
from temporalio.api.common.v1 import message_pb2 as common
from temporalio.api.enums.v1 import event_type_pb2 as event_types
from temporalio.api.enums.v1 import workflow_pb2 as workflow_enums
from temporalio.api.history.v1 import message_pb2 as history
from temporalio.api.sdk.v1 import user_metadata_pb2 as sdk
from temporalio.api.workflow.v1 import message_pb2 as workflow_messages
from temporalio.api.workflowservice.v1 import request_response_pb2 as ws

from durably.engine import priority
from durably.engine.apply.activity import options_of
from durably.engine.state import (
    BUFFERED_EVENT_ID,
    Activity,
    Child,
    Pause,
    RequestEvent,
    WorkflowState,
)
from durably.engine.times import SECOND_NS, set_duration
from durably.engine.versioning.version import old_text, override_behavior, override_target
from durably.service import callbacks
from durably.service.breakers import IsBlocked
from durably.service.search_attributes import shown_attributes
from durably.store.store import VisibleExecution


def set_time(message: Timestamp, ns: int) -> None:
    """Fill a Timestamp; 0 leaves it unset."""
    if ns:
        message.seconds, message.nanos = divmod(ns, SECOND_NS)


def describe(state: WorkflowState, is_blocked: IsBlocked) -> ws.DescribeWorkflowExecutionResponse:
    response = ws.DescribeWorkflowExecutionResponse(
        execution_config=workflow_messages.WorkflowExecutionConfig(
            task_queue=state.started.task_queue,
            workflow_execution_timeout=state.started.workflow_execution_timeout,
            workflow_run_timeout=state.started.workflow_run_timeout,
            default_workflow_task_timeout=state.started.workflow_task_timeout,
            user_metadata=sdk.UserMetadata.FromString(state.user_metadata)
            if state.user_metadata
            else None,
        ),
        workflow_execution_info=_info(state),
        pending_activities=[_pending_activity(a) for a in state.activities.values()],
        callbacks=callbacks.of_workflow(state, is_blocked),
    )
    if state.running:
        response.pending_children.extend(_pending_child(c) for c in state.children.values())
    _pending_workflow_task(state, response)
    extended = response.workflow_extended_info
    set_time(extended.execution_expiration_time, state.execution_expires_ns)
    set_time(extended.run_expiration_time, state.run_expires_ns)
    set_time(extended.original_start_time, state.original_start_ns or state.start_ns)
    if state.base_run_id:
        set_time(extended.last_reset_time, state.start_ns)
    if state.pause is not None:
        extended.pause_info.identity = state.pause.identity
        extended.pause_info.reason = state.pause.reason
        set_time(extended.pause_info.paused_time, state.pause.at_ns)
    extended.reset_run_id = state.reset_run_id
    extended.cancel_requested = state.cancel_requested
    _show_requests(state, extended)
    return response


def _show_requests(
    state: WorkflowState, extended: workflow_messages.WorkflowExecutionExtendedInfo
) -> None:
    """Which events the requests have made; that of a buffered one has no id yet."""
    made = dict(state.requests)
    signaled = event_types.EVENT_TYPE_WORKFLOW_EXECUTION_SIGNALED
    made |= {i: RequestEvent(signaled, event) for i, event in state.requests_seen.items() if event}
    for request_id, event in made.items():
        shown = extended.request_id_infos[request_id]
        shown.event_type = event.event_type  # type: ignore[assignment]
        if event.event_id == BUFFERED_EVENT_ID:
            shown.buffered = True
        else:
            shown.event_id = event.event_id


def _info(state: WorkflowState) -> workflow_messages.WorkflowExecutionInfo:
    started = state.started
    info = workflow_messages.WorkflowExecutionInfo(
        execution=common.WorkflowExecution(workflow_id=state.workflow_id, run_id=state.run_id),
        type=started.workflow_type,
        status=state.status,  # type: ignore[arg-type]
        history_length=state.next_event_id - 1,
        history_size_bytes=state.history_size_bytes,
        state_transition_count=state.transitions,
        task_queue=started.task_queue.name,
        first_run_id=started.first_execution_run_id,
        memo=state.memo,
        search_attributes=shown_attributes(state),
    )
    set_time(info.start_time, state.start_ns)
    set_time(info.execution_time, state.execution_ns)
    if state.close_ns:
        set_time(info.close_time, state.close_ns)
        set_duration(info.execution_duration, state.close_ns - state.execution_ns)
    if state.has_parent:
        info.parent_execution.CopyFrom(started.parent_workflow_execution)
        info.parent_namespace_id = started.parent_workflow_namespace_id
    info.root_execution.CopyFrom(state.root)
    if started.HasField("priority") or state.priority is not None:
        info.priority.CopyFrom(priority.of_workflow(state))
    _show_versioning(info, state)
    if state.worker_version:
        stamp = common.WorkerVersionStamp.FromString(state.worker_version)
        info.most_recent_worker_version_stamp.CopyFrom(stamp)
    for point in state.reset_points:
        shown = info.auto_reset_points.points.add(
            build_id=point.build_id,
            binary_checksum=point.binary_checksum,
            run_id=state.run_id,
            first_workflow_task_completed_id=point.first_workflow_task_completed_event_id,
            resettable=True,
        )
        set_time(shown.create_time, point.created_ns)
    return info


def _show_versioning(info: workflow_messages.WorkflowExecutionInfo, state: WorkflowState) -> None:
    info.worker_deployment_name = state.deployment
    found = state.versioning
    if found is None:
        return
    shown = info.versioning_info
    shown.behavior = found.behavior  # type: ignore[assignment]
    shown.revision_number = found.revision
    shown.continue_as_new_initial_versioning_behavior = found.initial_behavior  # type: ignore[assignment]
    if found.version is not None:
        shown.version = found.version.old_text
        shown.deployment_version.CopyFrom(found.version.message)
    if found.moving:
        transition = shown.version_transition
        transition.version = old_text(found.moving_to)
        if found.moving_to is not None:
            transition.deployment_version.CopyFrom(found.moving_to.message)
    if found.override is not None:
        override = shown.versioning_override
        override.CopyFrom(found.override)
        override.behavior = override_behavior(found.override)  # type: ignore[assignment]
        target = override_target(found.override)
        if override.WhichOneof("override") == "pinned" and target is not None:
            override.pinned_version = target.old_text


def _options(scheduled: history.ActivityTaskScheduledEventAttributes) -> activities.ActivityOptions:
    """The options as clients are shown them: a queue by its names, without its kind."""
    options = options_of(scheduled)
    name = options.task_queue.name
    options.task_queue.Clear()
    options.task_queue.name = options.task_queue.normal_name = name
    return options


def _pending_activity(activity: Activity) -> workflow_messages.PendingActivityInfo:
    scheduled = activity.scheduled
    shown = workflow_messages.PendingActivityInfo(
        activity_id=activity.activity_id,
        activity_type=scheduled.activity_type,
        state=activity_state(activity),
        heartbeat_details=activity.heartbeat_details,
        attempt=activity.attempt,
        maximum_attempts=scheduled.retry_policy.maximum_attempts,
        last_failure=activity.last_failure,
        last_worker_identity=activity.last_identity,
        activity_options=_options(scheduled),
        paused=activity.pause is not None,
    )
    if activity.last_version is not None:
        shown.last_deployment_version.CopyFrom(activity.last_version.message)
        shown.last_worker_deployment_version = activity.last_version.old_text
    if scheduled.HasField("priority"):
        shown.priority.CopyFrom(scheduled.priority)
    set_time(shown.last_started_time, activity.last_started_ns)
    set_time(shown.last_heartbeat_time, activity.heartbeat_ns)
    set_time(shown.last_attempt_complete_time, activity.last_ended_ns)
    set_time(shown.scheduled_time, 0 if activity.started else activity.dispatched_ns)
    if activity.pause is not None:
        _show_pause(shown, activity.pause)
    elif activity.retry_at_ns:
        set_time(shown.next_attempt_schedule_time, activity.retry_at_ns)
        waits_ns = activity.retry_at_ns - activity.last_ended_ns
        set_duration(shown.current_retry_interval, waits_ns)
    timeout_ns = scheduled.schedule_to_close_timeout.ToNanoseconds()
    if timeout_ns:
        set_time(shown.expiration_time, activity.first_scheduled_ns + timeout_ns)
    return shown


def _show_pause(shown: workflow_messages.PendingActivityInfo, pause: Pause) -> None:
    set_time(shown.pause_info.pause_time, pause.at_ns)
    if pause.rule_id:
        shown.pause_info.rule.rule_id = pause.rule_id
        shown.pause_info.rule.identity = pause.identity
        shown.pause_info.rule.reason = pause.reason
    else:
        shown.pause_info.manual.identity = pause.identity
        shown.pause_info.manual.reason = pause.reason


def activity_state(
    activity: Activity,
) -> workflow_enums.PendingActivityState.ValueType:
    if activity.cancel_requested:
        return workflow_enums.PENDING_ACTIVITY_STATE_CANCEL_REQUESTED
    if activity.pause is not None:
        if activity.started:
            return workflow_enums.PENDING_ACTIVITY_STATE_PAUSE_REQUESTED
        return workflow_enums.PENDING_ACTIVITY_STATE_PAUSED
    if activity.started:
        return workflow_enums.PENDING_ACTIVITY_STATE_STARTED
    return workflow_enums.PENDING_ACTIVITY_STATE_SCHEDULED


def _pending_child(child: Child) -> workflow_messages.PendingChildExecutionInfo:
    return workflow_messages.PendingChildExecutionInfo(
        workflow_id=child.initiated.workflow_id,
        run_id=child.run_id,
        workflow_type_name=child.initiated.workflow_type.name,
        initiated_id=child.initiated_event_id,
        parent_close_policy=child.initiated.parent_close_policy,
    )


def _pending_workflow_task(
    state: WorkflowState, response: ws.DescribeWorkflowExecutionResponse
) -> None:
    task = state.workflow_task
    if task is None:
        return
    shown = response.pending_workflow_task
    shown.state = (
        workflow_enums.PENDING_WORKFLOW_TASK_STATE_STARTED
        if task.started
        else workflow_enums.PENDING_WORKFLOW_TASK_STATE_SCHEDULED
    )
    shown.attempt = task.attempt
    set_time(shown.scheduled_time, task.scheduled_ns)
    set_time(shown.original_scheduled_time, task.original_scheduled_ns)
    set_time(shown.started_time, task.started_ns)


def listed(found: VisibleExecution) -> workflow_messages.WorkflowExecutionInfo:
    """One row of a list."""
    row = found.row
    info = workflow_messages.WorkflowExecutionInfo(
        execution=common.WorkflowExecution(workflow_id=found.workflow_id, run_id=found.run_id),
        type=common.WorkflowType(name=row.workflow_type),
        status=row.status,  # type: ignore[arg-type]
        task_queue=row.task_queue,
        memo=common.Memo.FromString(row.memo),
        search_attributes=common.SearchAttributes.FromString(row.search_attributes),
    )
    set_time(info.start_time, row.start_ns)
    set_time(info.execution_time, row.execution_ns)
    if row.close_ns:
        set_time(info.close_time, row.close_ns)
        set_duration(info.execution_duration, row.close_ns - row.execution_ns)
        info.history_length = row.history_length
        info.history_size_bytes = row.history_size_bytes
        info.state_transition_count = row.state_transitions
    if row.parent_workflow_id:
        info.parent_execution.workflow_id = row.parent_workflow_id
        info.parent_execution.run_id = row.parent_run_id
    info.root_execution.workflow_id = row.root_workflow_id
    info.root_execution.run_id = row.root_run_id
    return info
