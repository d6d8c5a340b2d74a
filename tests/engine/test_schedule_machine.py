"""The life of a schedule: overlap policies, catch-up, backfills, limits, and random lives of one.

After every step of a random life the journal gives the state back, and every effect is outstanding.
"""

from typing import Any

import hypothesis.strategies as st
import pytest
from google.protobuf.duration_pb2 import Duration
from google.protobuf.timestamp_pb2 import Timestamp
from hypothesis import settings
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from temporalio.api.common.v1 import message_pb2 as common
from temporalio.api.enums.v1 import workflow_pb2 as workflow_enums
from temporalio.api.failure.v1 import message_pb2 as failures
from temporalio.api.schedule.v1 import message_pb2 as schedules
from temporalio.api.workflow.v1 import message_pb2 as workflow_messages

from durably.engine import deadlines
from durably.engine.schedule import machine, spec, view
from durably.engine.schedule.overlap import (
    ALLOW_ALL,
    BUFFER_ALL,
    BUFFER_ONE,
    CANCEL_OTHER,
    SKIP,
    TERMINATE_OTHER,
)
from durably.engine.schedule.state import ScheduleState
from durably.engine.transition import EndScheduled, StartScheduled, outstanding
from durably.errors import FailedPrecondition, NotFound
from tests.engine import lives

SECOND = 1_000_000_000
START = 1_700_000_040 * SECOND
"""A full minute."""
COMPLETED = workflow_enums.WORKFLOW_EXECUTION_STATUS_COMPLETED
FAILED = workflow_enums.WORKFLOW_EXECUTION_STATUS_FAILED
TIMED_OUT = workflow_enums.WORKFLOW_EXECUTION_STATUS_TIMED_OUT


def definition(**parts: Any) -> schedules.Schedule:
    """Every minute, unless `parts` say otherwise."""
    made = schedules.Schedule(
        spec=parts.pop("spec", schedules.ScheduleSpec(cron_string=["* * * * *"])),
        action=schedules.ScheduleAction(
            start_workflow=workflow_messages.NewWorkflowExecutionInfo(
                workflow_id="w", workflow_type=common.WorkflowType(name="t")
            )
        ),
        **parts,
    )
    made.spec.CopyFrom(spec.canonical(made.spec))
    return made


def policies(overlap: int, **parts: Any) -> schedules.SchedulePolicies:
    return schedules.SchedulePolicies(
        overlap_policy=overlap,  # type: ignore[arg-type]
        **parts,
    )


def backfill(minutes: int, overlap: int = 0) -> schedules.SchedulePatch:
    """Of the minutes before the start, both ends included."""
    return schedules.SchedulePatch(
        backfill_request=[
            schedules.BackfillRequest(
                start_time=Timestamp(seconds=START // SECOND - 60 * minutes),
                end_time=Timestamp(seconds=START // SECOND),
                overlap_policy=overlap,  # type: ignore[arg-type]
            )
        ]
    )


TRIGGER = schedules.SchedulePatch(trigger_immediately=schedules.TriggerImmediatelyRequest())


def fresh() -> ScheduleState:
    return ScheduleState(namespace_id="ns", namespace="default", workflow_id="s", run_id="r")


class Life(lives.Life[ScheduleState]):
    """A schedule, and those who answer what it asks of the outbox."""

    def __init__(self) -> None:
        super().__init__(fresh(), fresh(), START)

    def create(
        self, made: schedules.Schedule, patch: schedules.SchedulePatch | None = None
    ) -> None:
        self.step(
            machine.create,
            made,
            namespace="default",
            request_id="q",
            patch=patch or schedules.SchedulePatch(),
            memo=common.Memo(),
            search_attributes=common.SearchAttributes(),
        )

    def patch(self, asked: schedules.SchedulePatch, request_id: str = "") -> None:
        self.step(machine.patch, asked, request_id)

    def replace(self, made: schedules.Schedule, token: int = 0) -> None:
        self.step(
            machine.update,
            made,
            conflict_token=token,
            request_id="",
            memo=None,
            search_attributes=None,
        )

    def wait(self, minutes: float) -> None:
        super().wait(60 * minutes)

    def start(self) -> list[int]:
        """Answer every start that is under way."""
        started = []
        for owed in outstanding(self.state):
            if isinstance(owed, StartScheduled):
                started.append(owed.action)
                self.step(machine.action_started, owed.action, f"run-{owed.action}", self.now_ns)
        return started

    def end(self, number: int, status: int = COMPLETED, **outcome: Any) -> None:
        self.step(
            machine.action_ended,
            number,
            run_id=f"run-{number}",
            started_ns=self.now_ns,
            status=status,
            **outcome,
        )

    @property
    def running(self) -> list[int]:
        return list(self.state.actions)


def living(*arguments: Any, **parts: Any) -> Life:
    life = Life()
    life.create(definition(**parts), *arguments)
    return life


# --- Overlap ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("policy", "started", "skipped", "waiting"),
    [
        (SKIP, [1], 3, 0),
        (BUFFER_ONE, [1], 2, 1),
        (BUFFER_ALL, [1], 0, 3),
        (CANCEL_OTHER, [1], 0, 3),
        (TERMINATE_OTHER, [1], 0, 3),
        (ALLOW_ALL, [1, 2, 3, 4], 0, 0),
    ],
)
def test_while_one_runs(policy: int, started: list[int], skipped: int, waiting: int) -> None:
    life = living(policies=policies(policy))
    for _ in range(4):
        life.wait(1)
        life.start()
    assert life.running == started
    assert (life.state.overlap_skipped, len(life.state.buffer)) == (skipped, waiting)


def test_the_end_of_one_starts_the_next_that_waits() -> None:
    life = living(policies=policies(BUFFER_ALL))
    life.wait(1)
    life.start()
    life.wait(1)
    life.wait(1)
    life.end(1)
    assert life.start() == [2]
    life.end(2)
    assert life.start() == [3]
    assert [each.status for each in life.state.recent] == [COMPLETED, COMPLETED, 1]
    assert life.state.action_count == 3


@pytest.mark.parametrize("policy", [CANCEL_OTHER, TERMINATE_OTHER])
def test_what_runs_makes_way(policy: int) -> None:
    life = living(policies=policies(policy))
    life.wait(1)
    life.wait(1)
    assert outstanding(life.state) == [StartScheduled(1)]  # It must start before it can be ended.
    life.start()
    assert outstanding(life.state) == [EndScheduled(1)]
    life.step(machine.action_end_sent, 1)
    assert outstanding(life.state) == []
    life.step(machine.action_end_sent, 1)
    life.end(1, workflow_enums.WORKFLOW_EXECUTION_STATUS_TERMINATED)
    assert life.start() == [2]


def test_a_stronger_end_follows_a_weaker_one() -> None:
    life = living(policies=policies(CANCEL_OTHER))
    life.wait(1)
    life.start()
    life.wait(1)
    life.step(machine.action_end_sent, 1)
    life.replace(definition(policies=policies(TERMINATE_OTHER)))
    assert outstanding(life.state) == [EndScheduled(1)]


def test_many_due_at_once_make_way_for_the_last() -> None:
    life = living(backfill(3, TERMINATE_OTHER))
    assert life.start() == [1]
    assert life.state.actions[1].nominal_ns == START


def test_without_an_action_nothing_waits() -> None:
    made = definition()
    made.action.Clear()
    life = Life()
    life.create(made, TRIGGER)
    life.wait(3)
    assert (life.running, life.state.buffer) == ([], [])
    assert not view.list_info(life.state).HasField("workflow_type")


# --- Time -------------------------------------------------------------------------------------


def test_after_downtime_the_catchup_window_decides() -> None:
    window = Duration(seconds=150)
    life = living(policies=policies(ALLOW_ALL, catchup_window=window))
    life.wait(10)
    assert [action.nominal_ns for action in life.state.actions.values()] == [
        START + minute * 60 * SECOND for minute in (8, 9, 10)
    ]
    assert life.state.missed_catchup_window == 7
    life.wait(1)
    assert life.state.missed_catchup_window == 7


def test_a_long_downtime_is_gone_through_in_slices() -> None:
    life = living(policies=policies(SKIP, catchup_window=Duration(seconds=10)))
    life.wait(5000.5)
    assert life.state.missed_catchup_window == 5000
    assert life.state.next_ns == START + 5001 * 60 * SECOND


def test_defaults_of_policies() -> None:
    full = machine.with_defaults(schedules.Schedule())
    assert full.policies.overlap_policy == SKIP
    assert full.policies.catchup_window.seconds == 365 * 86_400
    short = schedules.SchedulePolicies(catchup_window=Duration(seconds=1))
    full = machine.with_defaults(schedules.Schedule(policies=short))
    assert full.policies.catchup_window.seconds == 10


def test_time_spent_paused_is_not_made_up_for() -> None:
    life = living(state=schedules.ScheduleState(paused=True))
    life.wait(10)
    assert machine.next_deadline(life.state) == 0
    life.patch(schedules.SchedulePatch(unpause="go"))
    assert (life.running, life.state.schedule.state.notes) == ([], "go")
    life.wait(1)
    assert life.running == [1]


def test_what_was_due_before_an_update_is_not_due_after_it() -> None:
    life = living(policies=policies(ALLOW_ALL))
    life.now_ns += 90 * SECOND
    coarser = schedules.ScheduleSpec(cron_string=["*/5 * * * *"])
    life.replace(definition(spec=coarser, policies=policies(ALLOW_ALL)))
    assert life.running == [1]
    life.wait(60)
    assert life.running == list(range(1, 14))


def test_times_of_a_new_spec_before_its_update_are_not_made_up_for() -> None:
    life = living(spec=schedules.ScheduleSpec(cron_string=["@yearly"]))
    life.now_ns += 150 * SECOND
    life.replace(definition(policies=policies(ALLOW_ALL)))
    assert life.running == []
    assert view.info(life.state).future_action_times[0].seconds == START // SECOND + 180
    life.wait(1)
    assert life.running == [1]


def test_limited_actions_run_out() -> None:
    limits = schedules.ScheduleState(limited_actions=True, remaining_actions=2)
    life = living(policies=policies(ALLOW_ALL), state=limits)
    token = life.state.conflict_token
    assert len(view.info(life.state).future_action_times) == 2
    life.wait(5)
    assert life.running == [1, 2]
    assert life.state.schedule.state.remaining_actions == 0
    assert life.state.conflict_token == token + 2
    life.patch(TRIGGER)  # By hand is always possible, and costs nothing.
    assert life.running == [1, 2, 3]
    life.wait(5)
    assert life.running == [1, 2, 3]


def test_a_start_that_comes_too_late_is_missed() -> None:
    life = living(policies=policies(SKIP, catchup_window=Duration(seconds=20)))
    life.wait(1)
    action = life.state.actions[1]
    assert not machine.action_expired(life.state, action, life.now_ns + 20 * SECOND)
    assert machine.action_expired(life.state, action, life.now_ns + 21 * SECOND)
    life.step(machine.action_not_started, 1, missed=True)
    life.step(machine.action_not_started, 1, missed=True)
    assert (life.running, life.state.missed_catchup_window) == ([], 1)
    assert life.state.action_count == 0


def test_a_schedule_with_nothing_to_do_is_removed_after_a_week() -> None:
    life = living(TRIGGER, spec=schedules.ScheduleSpec())
    life.wait(8 * 24 * 60)
    assert life.state.running  # Its workflow has not even started.
    life.start()
    life.end(1)
    life.wait(6 * 24 * 60)
    assert life.state.running
    life.wait(1.1 * 24 * 60)
    assert life.state.closed
    with pytest.raises(NotFound):
        life.patch(TRIGGER)
    life.end(1)
    assert outstanding(life.state) == []


def test_a_paused_schedule_stays() -> None:
    life = living(spec=schedules.ScheduleSpec(), state=schedules.ScheduleState(paused=True))
    life.wait(1000 * 24 * 60)
    assert life.state.running


# --- By hand ----------------------------------------------------------------------------------


def test_a_backfill_includes_both_ends() -> None:
    life = living(backfill(3, ALLOW_ALL), state=schedules.ScheduleState(paused=True))
    assert [each.nominal_ns for each in life.state.actions.values()] == [
        START - minute * 60 * SECOND for minute in (3, 2, 1, 0)
    ]
    assert [each.workflow_id for each in life.state.actions.values()][
        -1
    ] == "w-2023-11-14T22:14:00Z"


def test_a_long_backfill_starts_no_more_at_once_than_can_be_started() -> None:
    life = living(backfill(300, ALLOW_ALL))
    assert len(life.running) == machine.STARTS_UNDER_WAY_MAX
    while life.state.backfills:
        life.start()
    assert len(life.running) == 301


def test_a_long_buffered_backfill_leaves_room_for_the_schedule(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(machine, "BUFFER_MAX", 100)
    life = living(backfill(150, BUFFER_ALL))
    assert len(life.state.buffer) <= machine.BUFFER_MAX // 2
    done = 0
    while life.running:
        life.start()
        life.end(life.running[0])
        done += 1
    assert done == 151


def test_the_buffer_has_an_end() -> None:
    life = living(policies=policies(BUFFER_ALL))
    life.wait(2000)
    life.start()
    life.wait(2000)
    assert len(life.state.buffer) == machine.BUFFER_MAX
    assert life.state.buffer_dropped > 0


def test_too_many_backfills_are_dropped() -> None:
    life = living(spec=schedules.ScheduleSpec())
    asked = schedules.SchedulePatch()
    for _ in range(machine.BUFFER_MAX + 5):
        asked.backfill_request.add(end_time=Timestamp(seconds=1))
    life.patch(asked)
    assert life.state.buffer_dropped == 5
    life.wait(0)
    assert not life.state.backfills


def test_a_trigger_at_a_time_of_its_own() -> None:
    life = living(state=schedules.ScheduleState(paused=True))
    asked = schedules.SchedulePatch()
    asked.trigger_immediately.scheduled_time.seconds = 1_000_000_000
    life.patch(asked)
    assert life.state.actions[1].workflow_id == "w-2001-09-09T01:46:40Z"


def test_the_same_request_changes_nothing_twice() -> None:
    life = living(policies=policies(ALLOW_ALL))
    life.patch(TRIGGER, "once")
    life.patch(TRIGGER, "once")
    assert life.running == [1]
    life.patch(TRIGGER, "twice")
    assert life.running == [1, 2]


def test_an_update_of_something_else_is_refused() -> None:
    life = living()
    token = life.state.conflict_token
    life.replace(definition(), token)
    with pytest.raises(FailedPrecondition):
        life.replace(definition(), token)
    life.replace(definition(), 0)


def test_memo_and_search_attributes_change_only_when_given() -> None:
    memo = common.Memo(fields={"a": common.Payload(data=b"1")})
    attributes = common.SearchAttributes(indexed_fields={"b": common.Payload(data=b"2")})
    life = Life()
    life.step(
        machine.create,
        definition(),
        namespace="default",
        request_id="q",
        patch=schedules.SchedulePatch(),
        memo=memo,
        search_attributes=attributes,
    )
    life.replace(definition())
    assert (life.state.memo, life.state.search_attributes) == (memo, attributes)
    for _ in range(2):
        life.step(
            machine.update,
            definition(),
            conflict_token=2,
            request_id="once",
            memo=common.Memo(),
            search_attributes=common.SearchAttributes(),
        )
    assert not life.state.memo.fields
    assert not life.state.search_attributes.indexed_fields
    assert life.state.conflict_token == 3


def test_request_ids_are_forgotten_at_last() -> None:
    life = living(state=schedules.ScheduleState(paused=True))
    for number in range(1001):
        life.patch(schedules.SchedulePatch(), str(number))
    assert len(life.state.requests_seen) == 1000
    assert "0" not in life.state.requests_seen


def test_the_workflow_id_may_be_kept() -> None:
    kept = policies(SKIP, keep_original_workflow_id=True)
    life = living(TRIGGER, policies=kept)
    assert life.state.actions[1].workflow_id == "w"


# --- Ends -------------------------------------------------------------------------------------


def test_the_last_result_and_failure_are_kept_for_the_next() -> None:
    result = common.Payloads(payloads=[common.Payload(data=b"1")])
    life = living(TRIGGER)
    life.end(1, COMPLETED, result=result)  # Before its start was heard of.
    assert life.state.recent[0].run_id == "run-1"
    life.patch(TRIGGER)
    life.start()
    life.end(2, FAILED, failure=failures.Failure(message="no"))
    assert life.state.last_completion_result == result
    assert life.state.continued_failure == failures.Failure(message="no")
    life.patch(TRIGGER)
    life.start()
    life.end(3)
    assert life.state.last_completion_result == result
    assert life.state.continued_failure is None


@pytest.mark.parametrize(
    ("status", "notes"),
    [
        (FAILED, "paused due to workflow failure: w-2023-11-14T22:14:00Z: no"),
        (TIMED_OUT, "paused due to workflow timeout: w-2023-11-14T22:14:00Z"),
        (workflow_enums.WORKFLOW_EXECUTION_STATUS_TERMINATED, ""),
        (COMPLETED, ""),
    ],
)
def test_pause_on_failure(status: int, notes: str) -> None:
    life = living(TRIGGER, policies=policies(SKIP, pause_on_failure=True))
    life.start()
    life.end(1, status, failure=failures.Failure(message="no"))
    assert life.state.paused == bool(notes)
    assert life.state.schedule.state.notes == notes


def test_what_ran_beside_others_tells_the_next_nothing() -> None:
    life = living(TRIGGER, policies=policies(ALLOW_ALL))
    life.start()
    life.end(1, COMPLETED, result=common.Payloads(payloads=[common.Payload(data=b"1")]))
    assert life.state.last_completion_result is None
    assert life.state.recent[0].status == COMPLETED


def test_news_that_come_again_or_too_late_change_nothing() -> None:
    life = living(TRIGGER)
    life.start()
    life.step(machine.action_started, 1, "another-run", life.now_ns)
    assert life.state.actions[1].run_id == "run-1"
    life.end(1)
    before = life.state.action_count
    life.step(machine.action_started, 1, "run-1", life.now_ns)
    life.step(machine.action_end_sent, 1)
    life.end(1)
    assert life.state.action_count == before


def test_time_does_nothing_to_a_schedule_that_is_gone() -> None:
    life = living(spec=schedules.ScheduleSpec())
    life.wait(8 * 24 * 60)
    assert life.state.closed
    life.step(deadlines.fire_due)
    assert life.deadline_ns == 0


# --- How it is shown --------------------------------------------------------------------------


def test_a_description_shows_what_was_done_and_what_comes() -> None:
    life = living(policies=policies(BUFFER_ALL))
    life.wait(1)
    assert not view.info(life.state).running_workflows, "its start is under way"
    life.start()
    life.wait(1)
    shown = view.info(life.state)
    assert [each.run_id for each in shown.running_workflows] == ["run-1"]
    assert [each.start_workflow_result.run_id for each in shown.recent_actions] == ["run-1"]
    assert shown.recent_actions[0].schedule_time.seconds == START // SECOND + 60
    assert (shown.buffer_size, shown.action_count) == (1, 1)
    assert len(shown.future_action_times) == view.FUTURE_MAX
    assert not shown.HasField("update_time")
    life.replace(definition())
    assert view.info(life.state).update_time.seconds == life.now_ns // SECOND


def test_a_definition_is_shown_with_its_defaults() -> None:
    shown = view.definition(living().state)
    assert shown.spec.structured_calendar[0].minute == [schedules.Range(start=0, end=59, step=1)]
    assert shown.policies.overlap_policy == SKIP


def test_a_list_shows_less() -> None:
    specs = schedules.ScheduleSpec(cron_string=[f"{minute} * * * *" for minute in range(20)])
    life = living(spec=specs, policies=policies(ALLOW_ALL))
    life.wait(120)
    life.start()
    shown = view.list_info(life.state)
    assert len(shown.spec.structured_calendar) == view.LISTED_SPECS_MAX
    assert len(shown.recent_actions) == view.LISTED_MAX
    assert len(shown.future_action_times) == view.LISTED_MAX
    assert shown.workflow_type.name == "t"


def test_it_acts_in_its_own_name() -> None:
    state = living().state
    assert state.identity == "temporal-scheduler-default-s"
    assert state.seed == "ns-s"


def test_a_patch_pauses_it_until_another_unpauses_it() -> None:
    life = living()
    life.patch(schedules.SchedulePatch(pause="wait"))
    assert (life.state.paused, life.state.schedule.state.notes) == (True, "wait")
    life.wait(5)
    assert life.running == []
    life.patch(schedules.SchedulePatch(unpause="go"))
    life.wait(1)
    assert life.running == [1]


# --- Random lives -----------------------------------------------------------------------------

POLICY = st.sampled_from(
    [0, SKIP, BUFFER_ONE, BUFFER_ALL, CANCEL_OTHER, TERMINATE_OTHER, ALLOW_ALL]
)


class LifeOfASchedule(RuleBasedStateMachine):
    """The live state, and beside it one that only ever sees the journal."""

    @initialize(policy=POLICY, limited=st.booleans(), pausing=st.booleans())
    def begin(self, policy: int, limited: bool, pausing: bool) -> None:
        self.life = Life()
        limits = schedules.ScheduleState(limited_actions=limited, remaining_actions=20)
        self.life.create(
            definition(policies=policies(policy, pause_on_failure=pausing), state=limits)
        )
        self.ended: set[int] = set()

    @rule(minutes=st.sampled_from([0.1, 1, 3, 50]))
    def time_passes(self, minutes: float) -> None:
        self.life.wait(minutes)

    @rule(policy=POLICY)
    def trigger(self, policy: int) -> None:
        asked = schedules.SchedulePatch()
        asked.trigger_immediately.overlap_policy = policy  # type: ignore[assignment]
        self.life.patch(asked)

    @rule(minutes=st.integers(0, 20), policy=POLICY)
    def backfill(self, minutes: int, policy: int) -> None:
        self.life.patch(backfill(minutes, policy))

    @rule(pause=st.booleans())
    def pause(self, pause: bool) -> None:
        self.life.patch(schedules.SchedulePatch(**{"pause" if pause else "unpause": "because"}))

    @rule(policy=POLICY)
    def update(self, policy: int) -> None:
        self.life.replace(definition(policies=policies(policy)), self.life.state.conflict_token)

    @rule()
    def starts_are_answered(self) -> None:
        self.life.start()

    @precondition(lambda self: self.life.running)
    @rule(data=st.data(), status=st.sampled_from([COMPLETED, FAILED, TIMED_OUT]))
    def one_ends(self, data: st.DataObject, status: int) -> None:
        number = data.draw(st.sampled_from(self.life.running))
        assert number not in self.ended
        self.ended.add(number)
        self.life.end(number, status)
        self.life.end(number, status)
        assert number not in self.life.running

    @precondition(lambda self: self.life.running)
    @rule(data=st.data())
    def one_cannot_start(self, data: st.DataObject) -> None:
        self.life.step(
            machine.action_not_started, data.draw(st.sampled_from(self.life.running)), missed=False
        )

    @invariant()
    def nothing_overlaps_that_should_not(self) -> None:
        if hasattr(self, "life"):
            assert len(self.life.state.waited_for) <= 1

    @invariant()
    def nothing_waits_for_nothing(self) -> None:
        if not hasattr(self, "life"):
            return
        state = self.life.state
        if state.buffer:
            assert state.waited_for
        deadline = machine.next_deadline(state)
        assert deadline != machine.SOON_NS or state.backfills

    @invariant()
    def it_can_be_shown(self) -> None:
        if hasattr(self, "life"):
            assert view.info(self.life.state).buffer_size == len(self.life.state.buffer)
            view.list_info(self.life.state)
            view.definition(self.life.state)


TestLifeOfASchedule = LifeOfASchedule.TestCase
TestLifeOfASchedule.settings = settings(stateful_step_count=30)
