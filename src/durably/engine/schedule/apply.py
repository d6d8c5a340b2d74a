"""apply(state, record) for schedules: the only writer of their state. Rules: see `engine/apply/entries.py`."""

from typing import assert_never, get_args

from temporalio.api.common.v1 import message_pb2 as common
from temporalio.api.enums.v1 import workflow_pb2 as workflow_enums
from temporalio.api.failure.v1 import message_pb2 as failure
from temporalio.api.schedule.v1 import message_pb2 as schedules

from durably.engine.journal import Changes
from durably.engine.schedule import records as r
from durably.engine.schedule.state import (
    Action,
    ActionResult,
    Backfill,
    Buffered,
    ScheduleState,
)
from durably.engine.state import RUNNING

RECENT_MAX = 10
REQUESTS_SEEN_MAX = 1_000
FIRST_CONFLICT_TOKEN = 1


def _apply(state: ScheduleState, record: r.ScheduleRecord) -> None:
    match record:
        case r.ScheduleSet() | r.ScheduleMemoSet() | r.ScheduleSearchAttributesSet():
            _apply_definition(state, record)
        case r.SchedulePaused():
            state.schedule.state.paused = record.paused
            state.schedule.state.notes = record.notes
            state.conflict_token += 1
        case r.ScheduleRequestSeen():
            state.requests_seen[record.request_id] = 0
            if len(state.requests_seen) > REQUESTS_SEEN_MAX:
                del state.requests_seen[next(iter(state.requests_seen))]
        case r.ScheduleExpired():
            state.status = workflow_enums.WORKFLOW_EXECUTION_STATUS_COMPLETED
            state.close_ns = record.at_ns
        case r.TimeProcessed() | r.BackfillAsked() | r.BackfillReached():
            _apply_time(state, record)
        case r.ActionBuffered() | r.ActionsDropped() | r.BufferKept():
            _apply_buffer(state, record)
        case _:
            _apply_action(state, record)


def _apply_definition(
    state: ScheduleState,
    record: r.ScheduleSet | r.ScheduleMemoSet | r.ScheduleSearchAttributesSet,
) -> None:
    match record:
        case r.ScheduleSet():
            state.schedule = schedules.Schedule.FromString(record.schedule)
            if state.status == 0:
                state.status = RUNNING
                state.start_ns = record.at_ns
                state.processed_ns = record.at_ns
                state.conflict_token = FIRST_CONFLICT_TOKEN
            else:
                state.update_ns = record.at_ns
                state.conflict_token += 1
        case r.ScheduleMemoSet():
            state.memo = common.Memo.FromString(record.memo)
        case r.ScheduleSearchAttributesSet():
            state.search_attributes = common.SearchAttributes.FromString(record.search_attributes)
        case _:
            assert_never(record)


def _apply_time(
    state: ScheduleState, record: r.TimeProcessed | r.BackfillAsked | r.BackfillReached
) -> None:
    match record:
        case r.TimeProcessed():
            state.processed_ns = record.up_to_ns
            state.next_ns = record.next_ns
            state.missed_catchup_window += record.missed
        case r.BackfillAsked():
            state.backfills.append(Backfill(record.after_ns, record.end_ns, record.overlap))
        case r.BackfillReached():
            if record.done:
                del state.backfills[0]
            else:
                state.backfills[0].after_ns = record.after_ns
        case _:
            assert_never(record)


def _apply_buffer(
    state: ScheduleState, record: r.ActionBuffered | r.ActionsDropped | r.BufferKept
) -> None:
    match record:
        case r.ActionBuffered():
            state.buffer.append(
                Buffered(record.nominal_ns, record.actual_ns, record.overlap, record.manual)
            )
        case r.ActionsDropped():
            state.buffer_dropped += record.count
        case r.BufferKept():
            state.buffer = [state.buffer[index] for index in record.kept]
            state.overlap_skipped += record.skipped
        case _:
            assert_never(record)


def _apply_action(
    state: ScheduleState,
    record: r.ActionTaken
    | r.ActionStarted
    | r.ActionNotStarted
    | r.ActionEndAsked
    | r.ActionEndSent
    | r.ActionEnded,
) -> None:
    match record:
        case r.ActionTaken():
            _taken(state, record)
        case r.ActionStarted():
            _started(state, record)
        case r.ActionNotStarted():
            del state.actions[record.number]
            state.missed_catchup_window += record.missed
        case r.ActionEndAsked():
            state.actions[record.number].end = record.how
            state.actions[record.number].end_sent = False
        case r.ActionEndSent():
            state.actions[record.number].end_sent = True
        case r.ActionEnded():
            _ended(state, record)
        case _:
            assert_never(record)


def _taken(state: ScheduleState, record: r.ActionTaken) -> None:
    state.actions_taken = record.number
    state.actions[record.number] = Action(
        number=record.number,
        workflow_id=record.workflow_id,
        nominal_ns=record.nominal_ns,
        actual_ns=record.actual_ns,
        taken_ns=record.at_ns,
        overlapping=record.overlapping,
        manual=record.manual,
    )
    limits = state.schedule.state
    if limits.limited_actions and not record.manual:
        limits.remaining_actions -= 1
        state.conflict_token += 1


def _started(state: ScheduleState, record: r.ActionStarted) -> None:
    action = state.actions[record.number]
    action.run_id = record.run_id
    state.action_count += 1
    state.recent.append(
        ActionResult(
            number=action.number,
            actual_ns=action.actual_ns,
            started_ns=record.at_ns,
            workflow_id=action.workflow_id,
            run_id=record.run_id,
            status=RUNNING,
        )
    )
    del state.recent[:-RECENT_MAX]


def _ended(state: ScheduleState, record: r.ActionEnded) -> None:
    action = state.actions.pop(record.number)
    for result in state.recent:
        if result.number == record.number:
            result.status = record.status
    if action.overlapping:
        return
    if record.status == workflow_enums.WORKFLOW_EXECUTION_STATUS_COMPLETED:
        state.continued_failure = None
        if record.result:
            state.last_completion_result = common.Payloads.FromString(record.result)
    elif record.failure:
        state.continued_failure = failure.Failure.FromString(record.failure)


RECORDS: Changes = dict.fromkeys(get_args(r.ScheduleRecord), _apply)
