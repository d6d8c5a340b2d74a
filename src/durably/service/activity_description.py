"""A standalone activity as DescribeActivityExecution and ListActivityExecutions show it.

Facts: ActivityExecutionInfo and ActivityExecutionListInfo in temporal/api/activity/v1/message.proto.
"""

from temporalio.api.activity.v1 import message_pb2 as activities
from temporalio.api.common.v1 import message_pb2 as common
from temporalio.api.enums.v1 import workflow_pb2 as workflow_enums
from temporalio.api.sdk.v1 import user_metadata_pb2 as sdk
from temporalio.api.workflowservice.v1 import request_response_pb2 as ws

from durably.engine.callback.state import Callback
from durably.engine.standalone.state import StandaloneActivityState
from durably.engine.times import set_duration
from durably.service import callbacks, tokens
from durably.service.breakers import IsBlocked
from durably.service.describe import activity_state, set_time
from durably.service.search_attributes import LISTED_STATUS
from durably.service.tokens import ChangeToken
from durably.store.store import VisibleExecution


def describe(
    state: StandaloneActivityState,
    request: ws.DescribeActivityExecutionRequest,
    is_blocked: IsBlocked,
) -> ws.DescribeActivityExecutionResponse:
    response = ws.DescribeActivityExecutionResponse(
        run_id=state.run_id,
        info=_info(state),
        long_poll_token=tokens.encode(ChangeToken(state.run_id, state.transitions)),
        callbacks=[_callback(state, each, is_blocked) for each in state.callbacks.values()],
    )
    activity = state.activity
    if request.include_input and activity.scheduled.HasField("input"):
        response.input.CopyFrom(activity.scheduled.input)
    if request.include_outcome and not state.running:
        response.outcome.CopyFrom(outcome(state))
    if request.include_heartbeat_details and activity.heartbeat_details is not None:
        response.info.heartbeat_details.CopyFrom(activity.heartbeat_details)
    if request.include_last_failure and activity.last_failure is not None:
        response.info.last_failure.CopyFrom(activity.last_failure)
    return response


def outcome(state: StandaloneActivityState) -> activities.ActivityExecutionOutcome:
    """How a closed one ended."""
    if state.failure is None:
        return activities.ActivityExecutionOutcome(result=state.result or common.Payloads())
    return activities.ActivityExecutionOutcome(
        failure=state.failure,
        retry_state=state.retry_state,  # type: ignore[arg-type]
    )


def _info(state: StandaloneActivityState) -> activities.ActivityExecutionInfo:
    activity = state.activity
    scheduled = activity.scheduled
    info = activities.ActivityExecutionInfo(
        activity_id=state.workflow_id,
        run_id=state.run_id,
        activity_type=scheduled.activity_type,
        status=state.shown_status,
        run_state=_run_state(state),
        task_queue=scheduled.task_queue.name,
        schedule_to_close_timeout=scheduled.schedule_to_close_timeout,
        schedule_to_start_timeout=scheduled.schedule_to_start_timeout,
        start_to_close_timeout=scheduled.start_to_close_timeout,
        heartbeat_timeout=scheduled.heartbeat_timeout,
        retry_policy=scheduled.retry_policy,
        attempt=activity.attempt,
        last_worker_identity=activity.last_identity,
        state_transition_count=state.transitions,
        state_size_bytes=state.history_size_bytes,
        search_attributes=state.search_attributes,
        canceled_reason=state.cancel.reason if state.cancel is not None else "",
        links=[
            common.Link.FromString(link)
            for attachment in state.attachments
            for link in attachment.links
        ],
        total_heartbeat_count=activity.heartbeats,
    )
    for field in ("header", "priority"):
        if scheduled.HasField(field):
            getattr(info, field).CopyFrom(getattr(scheduled, field))
    if state.user_metadata:
        info.user_metadata.CopyFrom(sdk.UserMetadata.FromString(state.user_metadata))
    _set_times(state, info)
    return info


def _set_times(state: StandaloneActivityState, info: activities.ActivityExecutionInfo) -> None:
    activity = state.activity
    set_time(info.schedule_time, state.start_ns)
    set_time(info.execution_time, state.first_dispatch_ns)
    set_time(info.last_heartbeat_time, activity.heartbeat_ns)
    set_time(info.last_started_time, activity.last_started_ns)
    set_time(info.last_attempt_complete_time, activity.last_ended_ns)
    if state.start_delay_ns:
        set_duration(info.start_delay, state.start_delay_ns)
    timeout_ns = activity.scheduled.schedule_to_close_timeout.ToNanoseconds()
    if timeout_ns:
        set_time(info.expiration_time, state.first_dispatch_ns + timeout_ns)
    if state.closed:
        set_time(info.close_time, state.close_ns)
        set_duration(info.execution_duration, state.close_ns - state.start_ns)
    if activity.retry_at_ns and activity.pause is None:
        set_time(info.next_attempt_schedule_time, activity.retry_at_ns)
        if activity.last_ended_ns and activity.attempt > 1:
            set_duration(info.current_retry_interval, activity.retry_at_ns - activity.last_ended_ns)


def _run_state(
    state: StandaloneActivityState,
) -> workflow_enums.PendingActivityState.ValueType:
    if not state.running:
        return workflow_enums.PENDING_ACTIVITY_STATE_UNSPECIFIED
    return activity_state(state.activity)


def _callback(
    state: StandaloneActivityState, callback: Callback, is_blocked: IsBlocked
) -> activities.CallbackInfo:
    return activities.CallbackInfo(
        trigger=activities.CallbackInfo.Trigger(
            activity_closed=activities.CallbackInfo.ActivityClosed()
        ),
        info=callbacks.info(state, callback, is_blocked),
    )


STATUS_OF_ROW = {int(listed): status for status, listed in LISTED_STATUS.items()}


def listed(found: VisibleExecution) -> activities.ActivityExecutionListInfo:
    """One row of a list."""
    row = found.row
    info = activities.ActivityExecutionListInfo(
        activity_id=found.workflow_id,
        run_id=found.run_id,
        activity_type=common.ActivityType(name=row.workflow_type),
        status=STATUS_OF_ROW[row.status],
        search_attributes=common.SearchAttributes.FromString(row.search_attributes),
        task_queue=row.task_queue,
    )
    set_time(info.schedule_time, row.start_ns)
    set_time(info.execution_time, row.execution_ns)
    if row.close_ns:
        set_time(info.close_time, row.close_ns)
        set_duration(info.execution_duration, row.close_ns - row.start_ns)
        info.state_transition_count = row.state_transitions
        info.state_size_bytes = row.history_size_bytes
    return info
