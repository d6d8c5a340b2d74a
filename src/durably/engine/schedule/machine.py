"""The life of a schedule.

    input                            what happens
    ------------------------------   ----------------------------------------------------------
    create, update, patch            the definition changes; actions asked for by hand are due
    time passes                      actions become due, unless paused, exhausted, or too late
    an action is due                 the overlap policy decides: start, wait, skip
    a workflow started               counted, listed; it runs until it reports
    a workflow ended for good        its result goes to the next; a waiting action may start

Facts: temporal/api/schedule/v1/message.proto.

Rule 1: every input ends in `_proceed`, so that nothing that can happen now is left for later.
Rule 2: time is processed before the definition changes: what was due was due under the old one.
Rule 3: an action is taken in one transition and started by the outbox; its number is its identity,
        so it starts once however often it is delivered.
Rule 4: no transition works without bound: a long catch-up goes on in the next one, at once.
"""

from itertools import islice

from temporalio.api.common.v1 import message_pb2 as common
from temporalio.api.enums.v1 import task_queue_pb2 as queue_enums
from temporalio.api.enums.v1 import workflow_pb2 as workflow_enums
from temporalio.api.failure.v1 import message_pb2 as failures
from temporalio.api.schedule.v1 import message_pb2 as schedules

from durably.engine.journal import Created
from durably.engine.schedule import overlap, spec
from durably.engine.schedule import records as r
from durably.engine.schedule.state import (
    CATCHUP_WINDOW_DEFAULT_NS,
    CATCHUP_WINDOW_MIN_NS,
    Action,
    Buffered,
    End,
    ScheduleState,
)
from durably.engine.times import SECOND_NS, nanoseconds
from durably.engine.transition import EndScheduled, StartScheduled, Transition
from durably.errors import FailedPrecondition, NotFound

BUFFER_MAX = 1_000
TIMES_AT_ONCE_MAX = 500
STARTS_UNDER_WAY_MAX = 100
"""A backfill takes no more actions while so many are being started."""
IDLE_NS = 7 * 86_400 * SECOND_NS
"""A schedule that has nothing more to do is removed after this long."""
SOON_NS = 1
"""A deadline that has come: there is more to do at once."""

Schedules = Transition[ScheduleState]


# --- Definition -------------------------------------------------------------------------------


def with_defaults(schedule: schedules.Schedule) -> schedules.Schedule:
    """Every part present, and the policies that were left open at their defaults."""
    full = schedules.Schedule()
    full.CopyFrom(schedule)
    for part in ("spec", "action", "policies", "state"):
        getattr(full, part).SetInParent()
    if full.action.HasField("start_workflow"):
        queue = full.action.start_workflow.task_queue
        queue.kind = queue.kind or queue_enums.TASK_QUEUE_KIND_NORMAL
    full.policies.overlap_policy = full.policies.overlap_policy or overlap.SKIP
    window_ns = CATCHUP_WINDOW_DEFAULT_NS
    if full.policies.HasField("catchup_window"):
        window_ns = max(CATCHUP_WINDOW_MIN_NS, nanoseconds(full.policies.catchup_window))
    window = full.policies.catchup_window
    window.seconds, window.nanos = divmod(window_ns, SECOND_NS)
    return full


def create(
    t: Schedules,
    schedule: schedules.Schedule,
    *,
    namespace: str,
    request_id: str,
    patch: schedules.SchedulePatch,
    memo: common.Memo,
    search_attributes: common.SearchAttributes,
) -> None:
    """`schedule.spec` is canonical already."""
    t.note(Created(namespace=namespace, request_id=request_id))
    t.note(r.ScheduleSet(with_defaults(schedule).SerializeToString(), t.now_ns))
    if memo.fields:
        t.note(r.ScheduleMemoSet(memo.SerializeToString()))
    if search_attributes.indexed_fields:
        t.note(r.ScheduleSearchAttributesSet(search_attributes.SerializeToString()))
    _apply_patch(t, patch)
    _proceed(t)


def update(
    t: Schedules,
    schedule: schedules.Schedule,
    *,
    conflict_token: int,
    request_id: str,
    memo: common.Memo | None,
    search_attributes: common.SearchAttributes | None,
) -> None:
    """Replace the definition. `conflict_token` 0: whatever it is now. What is None stays."""
    ensure_open(t.state)
    if _seen(t, request_id):
        return
    if conflict_token not in (0, t.state.conflict_token):
        raise FailedPrecondition("mismatched conflict token")
    _process_time(t)
    _see(t, request_id)
    t.note(r.ScheduleSet(with_defaults(schedule).SerializeToString(), t.now_ns))
    if memo is not None:
        t.note(r.ScheduleMemoSet(memo.SerializeToString()))
    if search_attributes is not None:
        t.note(r.ScheduleSearchAttributesSet(search_attributes.SerializeToString()))
    _proceed(t)


def patch(t: Schedules, asked: schedules.SchedulePatch, request_id: str) -> None:
    """Trigger, backfill, pause, unpause."""
    ensure_open(t.state)
    if _seen(t, request_id):
        return
    _process_time(t)
    _see(t, request_id)
    _apply_patch(t, asked)
    _proceed(t)


def _apply_patch(t: Schedules, asked: schedules.SchedulePatch) -> None:
    if asked.HasField("trigger_immediately"):
        trigger = asked.trigger_immediately
        at_ns = nanoseconds(trigger.scheduled_time) or t.now_ns
        _buffer(t, spec.ActionTime(at_ns, at_ns), trigger.overlap_policy, manual=True)
    for each in asked.backfill_request:
        if len(t.state.backfills) >= BUFFER_MAX:
            t.note(r.ActionsDropped(1))
            continue
        # Inclusive at both ends.
        after_ns = nanoseconds(each.start_time) - 1_000_000
        t.note(r.BackfillAsked(after_ns, nanoseconds(each.end_time), each.overlap_policy))
    if asked.pause:
        t.note(r.SchedulePaused(True, asked.pause))
    if asked.unpause:
        t.note(r.SchedulePaused(False, asked.unpause))


def ensure_open(state: ScheduleState) -> None:
    if not state.running:
        raise NotFound("schedule not found")


def _seen(t: Schedules, request_id: str) -> bool:
    return bool(request_id) and request_id in t.state.requests_seen


def _see(t: Schedules, request_id: str) -> None:
    if request_id:
        t.note(r.ScheduleRequestSeen(request_id))


# --- Time -------------------------------------------------------------------------------------


def compiled(state: ScheduleState) -> spec.CompiledSpec:
    return spec.compiled(state.schedule.spec, state.seed)


def next_deadline(state: ScheduleState) -> int:
    """When the schedule has something to do by itself; 0: never."""
    if _backfill_may_go_on(state):
        return SOON_NS
    if state.may_act and state.next_ns:
        return state.next_ns
    if state.paused or state.backfills or state.buffer or state.actions:
        return 0
    return _last_event_ns(state) + IDLE_NS


def fire_due(t: Schedules) -> None:
    if t.state.running:
        _proceed(t)


def _proceed(t: Schedules) -> None:
    _process_time(t)
    _take_due(t)
    while _backfill_may_go_on(t.state) and len(t.records) < TIMES_AT_ONCE_MAX:
        _process_backfill(t)
        _take_due(t)
    _expire(t)
    t.visible = True
    t.deadline_ns = next_deadline(t.state) if t.state.running else 0
    t.reschedule = True


def _process_time(t: Schedules) -> None:
    """Whatever became due since the last time is buffered, or missed."""
    state = t.state
    times = compiled(state).times(state.processed_ns)
    if not state.may_act:
        # Time spent paused, or with no action left, is not made up for.
        coming = compiled(state).next(t.now_ns)
        next_ns = coming.actual_ns if coming else 0
        t.note(r.TimeProcessed(max(t.now_ns, state.processed_ns), next_ns))
        return
    up_to_ns, missed = state.processed_ns, 0
    for time in islice(times, TIMES_AT_ONCE_MAX):
        if time.actual_ns > t.now_ns:
            break
        up_to_ns = time.actual_ns
        if time.actual_ns < state.update_ns:
            continue
        if t.now_ns - time.actual_ns > state.catchup_window_ns:
            missed += 1
        else:
            _buffer(t, time, 0, manual=False)
    following = compiled(state).next(up_to_ns)
    next_ns = following.actual_ns if following else 0
    if (up_to_ns, next_ns) != (state.processed_ns, state.next_ns) or missed:
        t.note(r.TimeProcessed(up_to_ns, next_ns, missed))


def _buffer(t: Schedules, time: spec.ActionTime, policy: int, *, manual: bool) -> None:
    if len(t.state.buffer) >= BUFFER_MAX:
        t.note(r.ActionsDropped(1))
    else:
        t.note(r.ActionBuffered(time.nominal_ns, time.actual_ns, policy, manual))


def _backfill_may_go_on(state: ScheduleState) -> bool:
    """Backfills leave half the buffer to the schedule itself."""
    return bool(
        state.backfills
        and len(state.buffer) < BUFFER_MAX // 2
        and state.starts_under_way < STARTS_UNDER_WAY_MAX
    )


def _process_backfill(t: Schedules) -> None:
    """The next times of the first backfill are due, as many as there is room for."""
    state = t.state
    backfill = state.backfills[0]
    room = min(STARTS_UNDER_WAY_MAX - state.starts_under_way, BUFFER_MAX // 2 - len(state.buffer))
    after_ns = backfill.after_ns
    for time in compiled(state).times(backfill.after_ns):
        if time.actual_ns > backfill.end_ns:
            break
        if not room:
            t.note(r.BackfillReached(after_ns))
            return
        room -= 1
        after_ns = time.actual_ns
        _buffer(t, time, backfill.overlap, manual=True)
    t.note(r.BackfillReached(after_ns, done=True))


def _last_event_ns(state: ScheduleState) -> int:
    latest = max((result.started_ns for result in state.recent), default=0)
    return max(state.start_ns, state.update_ns, latest)


def _expire(t: Schedules) -> None:
    state = t.state
    if state.may_act and state.next_ns:
        return
    if state.paused or state.backfills or state.buffer or state.actions:
        return
    if _last_event_ns(state) + IDLE_NS <= t.now_ns:
        t.note(r.ScheduleExpired(t.now_ns))


# --- Due actions ------------------------------------------------------------------------------


def _take_due(t: Schedules) -> None:
    """Decide on the buffer until there is nothing more to decide."""
    while t.state.buffer:
        if not t.state.schedule.action.HasField("start_workflow"):
            t.note(r.BufferKept(()))
            return
        if not _take_some(t):
            return


def _take_some(t: Schedules) -> bool:
    """One decision; whether another is worth it: an action was given up, and another may start."""
    state = t.state
    before = state.waited_for
    buffer = state.buffer
    decision = overlap.decide(buffer, bool(before), state.overlap_policy)
    if len(decision.kept) != len(buffer):
        t.note(r.BufferKept(tuple(decision.kept), decision.skipped))
    given_up = False
    for position in decision.overlapping:
        given_up |= not _take(t, buffer[position], overlapping=True)
    if decision.alone is not None:
        given_up |= not _take(t, buffer[decision.alone], overlapping=False)
    for action in before:
        _ask_to_end(t, action, decision.end)
    return given_up


def _take(t: Schedules, due: Buffered, *, overlapping: bool) -> bool:
    state = t.state
    if not due.manual and not state.may_act:
        return False
    number = state.actions_taken + 1
    t.note(
        r.ActionTaken(
            number=number,
            workflow_id=_workflow_id(state, due.nominal_ns),
            nominal_ns=due.nominal_ns,
            actual_ns=due.actual_ns,
            at_ns=t.now_ns,
            overlapping=overlapping,
            manual=due.manual,
        )
    )
    t.emit(StartScheduled(number))
    return True


def _workflow_id(state: ScheduleState, nominal_ns: int) -> str:
    """With the time of the action behind it, in whole seconds, unless the policies say otherwise."""
    workflow_id = state.schedule.action.start_workflow.workflow_id
    if state.schedule.policies.keep_original_workflow_id:
        return workflow_id
    return f"{workflow_id}-{spec.time_text(nominal_ns)}"


def _ask_to_end(t: Schedules, action: Action, how: End) -> None:
    if action.end < how:
        t.note(r.ActionEndAsked(action.number, how))
        if action.run_id:
            t.emit(EndScheduled(action.number))


# --- What became of them ----------------------------------------------------------------------


def action_expired(state: ScheduleState, action: Action, now_ns: int) -> bool:
    """Whether it is too late to start: the catch-up window passed since it was due and taken."""
    due_ns = max(action.actual_ns, action.taken_ns)
    return not action.manual and now_ns - due_ns > state.catchup_window_ns


def action_started(t: Schedules, number: int, run_id: str, started_ns: int) -> None:
    """The outbox started the workflow of an action, or found it started."""
    action = t.state.actions.get(number)
    if action is None or action.run_id:
        return
    t.note(r.ActionStarted(number, run_id, started_ns))
    if action.end:
        t.emit(EndScheduled(number))
    _proceed(t)


def action_not_started(t: Schedules, number: int, *, missed: bool) -> None:
    """The workflow of an action cannot be started, or no longer in time (`missed`)."""
    action = t.state.actions.get(number)
    if action is None or action.run_id:
        return
    t.note(r.ActionNotStarted(number, missed))
    _proceed(t)


def action_end_sent(t: Schedules, number: int) -> None:
    """The workflow of an action knows that it is to end, or is gone."""
    action = t.state.actions.get(number)
    if action is not None and not action.end_sent:
        t.note(r.ActionEndSent(number))


def action_ended(
    t: Schedules,
    number: int,
    *,
    run_id: str,
    started_ns: int,
    status: int,
    result: common.Payloads | None = None,
    failure: failures.Failure | None = None,
) -> None:
    """A workflow ended for good; `run_id` is the first of its runs. Told again, nothing changes."""
    state = t.state
    action = state.actions.get(number)
    if not state.running or action is None:
        return
    if not action.run_id:
        # It ended before the outbox heard that it had started.
        t.note(r.ActionStarted(number, run_id, started_ns))
    t.note(
        r.ActionEnded(
            number,
            status,
            result.SerializeToString() if result is not None else b"",
            failure.SerializeToString() if failure is not None else b"",
        )
    )
    if state.schedule.policies.pause_on_failure and not state.paused:
        _pause_on_failure(t, action.workflow_id, status, failure)
    _proceed(t)


def _pause_on_failure(
    t: Schedules, workflow_id: str, status: int, failure: failures.Failure | None
) -> None:
    if status == workflow_enums.WORKFLOW_EXECUTION_STATUS_FAILED:
        message = failure.message if failure is not None else ""
        t.note(r.SchedulePaused(True, f"paused due to workflow failure: {workflow_id}: {message}"))
    elif status == workflow_enums.WORKFLOW_EXECUTION_STATUS_TIMED_OUT:
        t.note(r.SchedulePaused(True, f"paused due to workflow timeout: {workflow_id}"))
