"""A schedule as those who ask see it.

Facts: ScheduleInfo and ScheduleListInfo in temporal/api/schedule/v1/message.proto.
"""

from google.protobuf.timestamp_pb2 import Timestamp
from temporalio.api.common.v1 import message_pb2 as common
from temporalio.api.schedule.v1 import message_pb2 as schedules

from durably.engine.schedule import machine, spec
from durably.engine.schedule.state import Action, ActionResult, ScheduleState
from durably.engine.times import timestamp

FUTURE_MAX = 10
LISTED_MAX = 5
"""Recent actions and future times in a list entry."""
LISTED_SPECS_MAX = 10


def definition(state: ScheduleState) -> schedules.Schedule:
    """The schedule with every default spelled out."""
    shown = schedules.Schedule()
    shown.CopyFrom(state.schedule)
    shown.spec.CopyFrom(spec.with_defaults(state.schedule.spec))
    return shown


def info(state: ScheduleState) -> schedules.ScheduleInfo:
    shown = schedules.ScheduleInfo(
        action_count=state.action_count,
        missed_catchup_window=state.missed_catchup_window,
        overlap_skipped=state.overlap_skipped,
        buffer_dropped=state.buffer_dropped,
        buffer_size=len(state.buffer),
        running_workflows=[_running(action) for action in state.actions.values() if action.run_id],
        recent_actions=[_result(result) for result in state.recent],
        future_action_times=future_times(state, FUTURE_MAX),
        create_time=timestamp(state.start_ns),
    )
    if state.update_ns:
        shown.update_time.CopyFrom(timestamp(state.update_ns))
    return shown


def list_info(state: ScheduleState) -> schedules.ScheduleListInfo:
    """The abbreviation that a list shows; written whenever the schedule changes."""
    shown = spec.with_defaults(state.schedule.spec)
    shown.ClearField("timezone_data")
    for ranges in (shown.structured_calendar, shown.interval, shown.exclude_structured_calendar):
        del ranges[LISTED_SPECS_MAX:]
    result = schedules.ScheduleListInfo(
        spec=shown,
        notes=state.schedule.state.notes,
        paused=state.paused,
        recent_actions=[_result(each) for each in state.recent[-LISTED_MAX:]],
        future_action_times=future_times(state, LISTED_MAX),
    )
    if state.schedule.action.HasField("start_workflow"):
        result.workflow_type.CopyFrom(state.schedule.action.start_workflow.workflow_type)
    return result


def future_times(state: ScheduleState, count: int) -> list[Timestamp]:
    """The next action times, no more than there are actions left."""
    limits = state.schedule.state
    if limits.limited_actions:
        count = min(count, max(0, limits.remaining_actions))
    compiled = machine.compiled(state)
    return [timestamp(at) for at in compiled.upcoming(state.processed_ns, count, state.update_ns)]


def _running(action: Action) -> common.WorkflowExecution:
    return common.WorkflowExecution(workflow_id=action.workflow_id, run_id=action.run_id)


def _result(result: ActionResult) -> schedules.ScheduleActionResult:
    return schedules.ScheduleActionResult(
        schedule_time=timestamp(result.actual_ns),
        actual_time=timestamp(result.started_ns),
        start_workflow_result=common.WorkflowExecution(
            workflow_id=result.workflow_id, run_id=result.run_id
        ),
        start_workflow_status=result.status,  # type: ignore[arg-type]
    )
