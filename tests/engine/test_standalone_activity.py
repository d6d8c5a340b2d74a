"""Random lives of a standalone activity: after every step the journal gives the state back."""

from collections.abc import Callable
from typing import Any

import hypothesis.strategies as st
import pytest
from google.protobuf.duration_pb2 import Duration
from google.protobuf.field_mask_pb2 import FieldMask
from hypothesis import settings
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule
from temporalio.api.activity.v1 import message_pb2 as activities
from temporalio.api.common.v1 import message_pb2 as common
from temporalio.api.enums.v1 import activity_pb2 as activity_enums
from temporalio.api.enums.v1 import workflow_pb2 as workflow_enums
from temporalio.api.failure.v1 import message_pb2 as failure
from temporalio.api.taskqueue.v1 import message_pb2 as taskqueue
from temporalio.api.workflowservice.v1 import request_response_pb2 as ws

from durably.engine import activity
from durably.engine.standalone import machine
from durably.engine.standalone.state import SCHEDULED_EVENT_ID, StandaloneActivityState
from durably.engine.transition import DispatchActivity, InvokeCallback, outstanding
from durably.errors import FailedPrecondition, InvalidArgument, NotFound
from tests.engine import lives

SECOND = 1_000_000_000
START_NS = 1_700_000_000 * SECOND
WHICH = {"namespace": "default", "activity_id": "a"}


def fresh() -> StandaloneActivityState:
    return StandaloneActivityState(
        namespace_id="ns", namespace="default", workflow_id="a", run_id="run"
    )


def request(**options: Any) -> ws.StartActivityExecutionRequest:
    options.setdefault("start_to_close_timeout", Duration(seconds=10))
    return ws.StartActivityExecutionRequest(
        **WHICH,
        activity_type=common.ActivityType(name="work"),
        task_queue=taskqueue.TaskQueue(name="q"),
        request_id="r",
        **options,
    )


def reason(retryable: bool) -> failure.Failure:
    return failure.Failure(
        message="broken",
        application_failure_info=failure.ApplicationFailureInfo(non_retryable=not retryable),
    )


class Life(lives.Life[StandaloneActivityState]):
    """An activity and its workers."""

    def __init__(self, **options: Any) -> None:
        super().__init__(fresh(), fresh(), START_NS)
        self.waiting: list[int] = []
        """Stamps of dispatches that no worker has taken."""
        self.step(machine.start, request(**options), lives.CONFIG)

    def step(self, decide: Callable[..., Any], *arguments: Any, **named: Any) -> Any:
        answer = super().step(decide, *arguments, **named)
        self.waiting += [e.stamp for e in self.effects if isinstance(e, DispatchActivity)]
        return answer

    def start(self) -> activity.ActivityGrant:
        stamp = self.waiting.pop()
        grant: activity.ActivityGrant = self.step(
            lambda t: activity.start(t, SCHEDULED_EVENT_ID, stamp, "worker", str(self.now_ns))
        )
        return grant


class LifeOfAStandaloneActivity(RuleBasedStateMachine):
    """Workers, time, callers and operators, in any order."""

    @initialize(
        delay=st.sampled_from([0, 20]),
        attempts=st.sampled_from([0, 1, 3]),
        closes=st.sampled_from([0, 40]),
    )
    def begin(self, delay: int, attempts: int, closes: int) -> None:
        self.life = Life(
            start_delay=Duration(seconds=delay),
            schedule_to_close_timeout=Duration(seconds=closes),
            heartbeat_timeout=Duration(seconds=5),
            retry_policy=common.RetryPolicy(maximum_attempts=attempts),
        )
        self.number = 0

    def attempt(self, decide: Callable[[machine.StandaloneTransition], Any]) -> None:
        self.life.attempt(decide)

    def request_id(self, fresh_one: bool) -> str:
        self.number += fresh_one
        return str(self.number)

    @rule()
    def take(self) -> None:
        if not self.life.waiting:
            return
        stamp = self.life.waiting.pop()
        self.attempt(lambda t: activity.start(t, SCHEDULED_EVENT_ID, stamp, "worker", "r"))

    @rule(how=st.sampled_from(["complete", "fail", "break", "cancel", "beat"]), by_id=st.booleans())
    def work(self, how: str, by_id: bool) -> None:
        which = SCHEDULED_EVENT_ID, 0 if by_id else self.life.state.activity.attempt
        details = common.Payloads(payloads=[common.Payload(data=b"d")])
        calls: dict[str, Callable[[machine.StandaloneTransition], Any]] = {
            "complete": lambda t: activity.complete(t, *which, details, "worker"),
            "fail": lambda t: activity.fail(t, *which, reason(True), "worker", details),
            "break": lambda t: activity.fail(t, *which, reason(False), "worker"),
            "cancel": lambda t: activity.confirm_cancel(t, *which, details, "worker"),
            "beat": lambda t: activity.heartbeat(t, *which, details),
        }
        self.attempt(calls[how])

    @rule(seconds=st.sampled_from([0.5, 4, 30]))
    def wait(self, seconds: float) -> None:
        self.life.wait(seconds)

    @rule(fresh_one=st.booleans(), terminate=st.sampled_from([True, False, False, False]))
    def end(self, fresh_one: bool, terminate: bool) -> None:
        request_id = self.request_id(fresh_one)
        if terminate:
            self.attempt(lambda t: machine.terminate(t, "me", "why", request_id))
        else:
            self.attempt(lambda t: machine.request_cancel(t, "me", "why", request_id))

    @rule(
        what=st.sampled_from(["pause", "unpause", "reset"]),
        fresh_one=st.booleans(),
        flag=st.booleans(),
    )
    def operate(self, what: str, fresh_one: bool, flag: bool) -> None:
        request_id = self.request_id(fresh_one)
        asked = ws.ResetActivityExecutionRequest(
            **WHICH, request_id=request_id, keep_paused=flag, reset_heartbeat=flag
        )
        calls: dict[str, Callable[[machine.StandaloneTransition], Any]] = {
            "pause": lambda t: machine.pause(t, "me", "why", request_id),
            "unpause": lambda t: machine.unpause(t, request_id, lambda longest: longest, 0),
            "reset": lambda t: machine.reset(t, asked, lambda longest: longest),
        }
        self.attempt(calls[what])

    @rule(path=st.sampled_from(["start_to_close_timeout", "start_delay", "retry_policy"]))
    def change(self, path: str) -> None:
        asked = ws.UpdateActivityExecutionOptionsRequest(
            **WHICH,
            activity_options=activities.ActivityOptions(
                start_to_close_timeout=Duration(seconds=7),
                start_delay=Duration(seconds=9),
                retry_policy=common.RetryPolicy(maximum_attempts=2),
            ),
            update_mask=FieldMask(paths=[path]),
        )
        self.attempt(lambda t: machine.update_options(t, asked))

    @rule(request_id=st.sampled_from(["r", "s"]))
    def attach(self, request_id: str) -> None:
        callback = common.Callback(nexus=common.Callback.Nexus(url="http://a/b"))
        self.attempt(lambda t: machine.attach(t, request_id, [callback], [], lives.CONFIG))

    @invariant()
    def it_has_ended_or_somebody_has_it(self) -> None:
        state = self.life.state
        called = [InvokeCallback(each) for each in state.callbacks]
        assert outstanding(state) == (called if state.closed else [])
        if state.closed:
            assert (state.result is None) != (state.failure is None)
            assert state.close_ns
            return
        pending = state.activity
        waits = pending.started or pending.pause is not None or pending.retry_at_ns
        assert waits or DispatchActivity("q", 1, pending.stamp) in self.life.dispatched


TestLifeOfAStandaloneActivity = LifeOfAStandaloneActivity.TestCase
TestLifeOfAStandaloneActivity.settings = settings(stateful_step_count=30)


def test_unset_timeouts_follow_from_the_others() -> None:
    scheduled = Life(
        start_to_close_timeout=Duration(),
        schedule_to_close_timeout=Duration(seconds=9),
        heartbeat_timeout=Duration(seconds=30),
    ).state.activity.scheduled
    assert scheduled.start_to_close_timeout.seconds == 9
    assert scheduled.schedule_to_start_timeout.seconds == 9
    assert scheduled.heartbeat_timeout.seconds == 9


def test_a_timed_out_attempt_is_the_last_failure_and_the_outcome() -> None:
    life = Life(retry_policy=common.RetryPolicy(maximum_attempts=1))
    life.start()
    life.wait(11)
    state = life.state
    assert state.status == activity_enums.ACTIVITY_EXECUTION_STATUS_TIMED_OUT
    assert state.retry_state == workflow_enums.RETRY_STATE_MAXIMUM_ATTEMPTS_REACHED
    assert state.activity.last_failure == state.failure


def test_a_timeout_that_leaves_no_time_for_a_retry_is_one_of_schedule_to_close() -> None:
    life = Life(
        start_to_close_timeout=Duration(seconds=5),
        schedule_to_close_timeout=Duration(seconds=8),
        retry_policy=common.RetryPolicy(initial_interval=Duration(seconds=4)),
    )
    life.start()
    life.wait(5)
    state = life.state
    assert state.failure is not None
    kind = state.failure.timeout_failure_info.timeout_type
    assert kind == workflow_enums.TIMEOUT_TYPE_SCHEDULE_TO_CLOSE
    assert "Not enough time" in state.failure.message
    assert state.retry_state == workflow_enums.RETRY_STATE_TIMEOUT


def test_the_start_delay_puts_off_schedule_to_close_too() -> None:
    life = Life(start_delay=Duration(seconds=100), schedule_to_close_timeout=Duration(seconds=5))
    life.wait(99)
    assert not life.waiting
    life.wait(1)
    assert life.waiting
    life.wait(4)
    assert life.state.running
    life.wait(1)
    assert life.state.status == activity_enums.ACTIVITY_EXECUTION_STATUS_TIMED_OUT


def test_an_operator_cannot_make_it_start_before_its_delay_is_over() -> None:
    life = Life(start_delay=Duration(seconds=100))
    life.step(lambda t: machine.pause(t, "me", "why", "p"))
    life.step(lambda t: machine.unpause(t, "u", lambda longest: longest, 0))
    asked = ws.ResetActivityExecutionRequest(**WHICH)
    life.step(lambda t: machine.reset(t, asked, lambda longest: longest))
    life.wait(99)
    assert not life.waiting
    life.wait(1)
    assert life.start().attempt == 1


def test_unpausing_does_not_shorten_a_backoff() -> None:
    life = Life(retry_policy=common.RetryPolicy(initial_interval=Duration(seconds=60)))
    life.start()
    life.step(lambda t: activity.fail(t, SCHEDULED_EVENT_ID, 1, reason(True), "worker"))
    life.step(lambda t: machine.pause(t, "me", "why", ""))
    life.step(lambda t: machine.unpause(t, "", lambda longest: longest, 0))
    life.wait(59)
    assert not life.waiting
    life.wait(1)
    assert life.start().attempt == 2


def test_a_closed_one_takes_no_callbacks() -> None:
    life = Life()
    life.step(lambda t: machine.terminate(t, "me", "why", "t"))
    callback = common.Callback(nexus=common.Callback.Nexus(url="http://a/b"))
    with pytest.raises(FailedPrecondition):
        life.step(lambda t: machine.attach(t, "s", [callback], [], lives.CONFIG))


def test_heartbeats_are_counted_over_all_attempts() -> None:
    life = Life()
    for attempt in (1, 2):
        life.start()
        for _ in range(3):
            life.step(activity.heartbeat, SCHEDULED_EVENT_ID, attempt, None)
        life.step(activity.fail, SCHEDULED_EVENT_ID, attempt, reason(True), "worker")
        life.wait(10)
    assert life.state.activity.heartbeats == 6


# --- Ends -------------------------------------------------------------------------------------


def details(data: bytes = b"d") -> common.Payloads:
    return common.Payloads(payloads=[common.Payload(data=data)])


def test_it_is_completed_once() -> None:
    life = Life(user_metadata={"summary": common.Payload(data=b"what it is")})
    life.start()
    life.step(activity.complete, SCHEDULED_EVENT_ID, 1, details(), "worker")
    state = life.state
    assert state.status == activity_enums.ACTIVITY_EXECUTION_STATUS_COMPLETED
    assert (state.result, state.stage) == (details(), "Completed")
    assert state.activity.last_identity == "worker"
    assert state.shown_status == state.status
    with pytest.raises(NotFound, match="activity not found for ID: a"):
        life.step(activity.complete, SCHEDULED_EVENT_ID, 1, details(), "worker")


def test_one_that_is_completed_by_its_id_was_perhaps_never_given_to_a_worker() -> None:
    life = Life()
    life.step(activity.complete, SCHEDULED_EVENT_ID, 0, None, "me")
    assert life.state.activity.last_started_ns == life.now_ns
    assert life.state.result == common.Payloads()


def test_a_failure_that_is_final_is_the_outcome() -> None:
    life = Life()
    life.start()
    life.step(activity.fail, SCHEDULED_EVENT_ID, 1, reason(False), "worker")
    state = life.state
    assert state.status == activity_enums.ACTIVITY_EXECUTION_STATUS_FAILED
    assert state.failure == reason(False)
    assert state.retry_state == workflow_enums.RETRY_STATE_NON_RETRYABLE_FAILURE


def test_one_that_no_worker_has_is_canceled_at_once() -> None:
    life = Life()
    life.step(machine.request_cancel, "me", "enough", "c")
    state = life.state
    assert state.status == activity_enums.ACTIVITY_EXECUTION_STATUS_CANCELED
    assert state.failure is not None
    canceled = state.failure.canceled_failure_info
    assert (canceled.identity, canceled.details.payloads[0].data) == ("me", b'"enough"')
    life.step(machine.request_cancel, "me", "enough", "c")
    with pytest.raises(FailedPrecondition, match="terminal state Canceled"):
        life.step(machine.request_cancel, "me", "enough", "other")


def test_a_worker_that_has_it_is_asked_to_cancel() -> None:
    life = Life()
    life.start()
    life.step(machine.request_cancel, "me", "enough", "c")
    assert (life.state.running, life.state.stage) == (True, "CancelRequested")
    with pytest.raises(FailedPrecondition, match="already requested with request ID c"):
        life.step(machine.request_cancel, "me", "enough", "")
    assert life.step(activity.heartbeat, SCHEDULED_EVENT_ID, 1, None).cancel_requested
    life.step(activity.confirm_cancel, SCHEDULED_EVENT_ID, 1, details(b"undone"), "worker")
    assert life.state.failure is not None
    assert life.state.failure.canceled_failure_info.details == details(b"undone")


def test_terminating_takes_it_from_its_worker() -> None:
    life = Life()
    life.start()
    life.step(machine.terminate, "me", "enough", "t")
    state = life.state
    assert state.status == activity_enums.ACTIVITY_EXECUTION_STATUS_TERMINATED
    assert state.failure is not None
    assert state.failure.terminated_failure_info.identity == "me"
    life.step(machine.terminate, "me", "enough", "t")
    with pytest.raises(FailedPrecondition, match="already terminated with request ID t"):
        life.step(machine.terminate, "me", "enough", "other")
    with pytest.raises(NotFound):
        life.step(activity.heartbeat, SCHEDULED_EVENT_ID, 1, None)


def test_what_has_ended_otherwise_is_not_terminated() -> None:
    life = Life()
    life.step(activity.complete, SCHEDULED_EVENT_ID, 0, None, "me")
    with pytest.raises(FailedPrecondition, match="invalid transition from Completed"):
        life.step(machine.terminate, "me", "enough", "t")


def test_no_worker_in_time_is_its_end() -> None:
    life = Life(schedule_to_start_timeout=Duration(seconds=3))
    life.wait(3)
    assert life.state.status == activity_enums.ACTIVITY_EXECUTION_STATUS_TIMED_OUT
    assert life.state.retry_state == workflow_enums.RETRY_STATE_TIMEOUT
    assert life.state.activity.last_failure is None, "no attempt is to blame"


# --- Operators --------------------------------------------------------------------------------


def pause(life: Life, request_id: str = "") -> None:
    life.step(machine.pause, "me", "why", request_id)


def unpause(life: Life, request_id: str = "") -> None:
    life.step(machine.unpause, request_id, lambda longest: longest, 0)


def reset(life: Life, **options: Any) -> None:
    asked = ws.ResetActivityExecutionRequest(**WHICH, **options)
    life.step(machine.reset, asked, lambda longest: longest)


def change(life: Life, *paths: str, request_id: str = "", **options: Any) -> Any:
    asked = ws.UpdateActivityExecutionOptionsRequest(
        **WHICH,
        request_id=request_id,
        activity_options=activities.ActivityOptions(**options),
        update_mask=FieldMask(paths=paths),
    )
    return life.step(machine.update_options, asked)


def test_each_command_of_an_operator_is_carried_out_once() -> None:
    life = Life()
    pause(life, "p")
    assert (life.state.stage, life.visible) == ("Paused", True)
    assert life.state.shown_status == activity_enums.ACTIVITY_EXECUTION_STATUS_PAUSED
    pause(life, "p")
    assert not life.visible
    unpause(life, "u")
    unpause(life, "u")
    assert life.state.stage == "Scheduled"
    life.start()
    reset(life, request_id="r")
    assert life.state.stage == "ResetRequested"
    reset(life, request_id="r")
    life.step(activity.fail, SCHEDULED_EVENT_ID, 1, reason(True), "worker")
    first = change(
        life, "start_to_close_timeout", request_id="o", start_to_close_timeout=Duration(seconds=7)
    )
    again = change(
        life, "start_to_close_timeout", request_id="o", start_to_close_timeout=Duration(seconds=8)
    )
    assert first == again
    assert first.start_to_close_timeout.seconds == 7


def test_an_attempt_that_runs_is_paused_after_it() -> None:
    life = Life()
    life.start()
    pause(life)
    assert life.state.stage == "PauseRequested"
    life.step(activity.fail, SCHEDULED_EVENT_ID, 1, reason(True), "worker")
    assert (life.state.stage, life.visible) == ("Paused", True)


def test_what_an_operator_cannot_do_is_refused_by_the_stage() -> None:
    life = Life()
    with pytest.raises(FailedPrecondition, match="non-unpausable state Scheduled"):
        unpause(life)
    pause(life)
    with pytest.raises(FailedPrecondition, match="non-pausable state Paused"):
        pause(life)
    unpause(life)
    life.start()
    reset(life)
    with pytest.raises(FailedPrecondition, match="pending reset"):
        reset(life)
    with pytest.raises(FailedPrecondition, match="activity in state ResetRequested"):
        change(life)
    life.step(machine.request_cancel, "me", "why", "")
    with pytest.raises(FailedPrecondition, match="pending cancellation"):
        reset(life)
    life.step(machine.terminate, "me", "why", "")
    with pytest.raises(FailedPrecondition, match="not running"):
        reset(life)
    with pytest.raises(FailedPrecondition, match="terminal state Terminated"):
        unpause(life)


def test_options_can_be_restored() -> None:
    life = Life(header={"fields": {"h": common.Payload(data=b"1")}})
    before = change(life)
    change(life, "start_to_close_timeout", start_to_close_timeout=Duration(seconds=7))
    asked = ws.UpdateActivityExecutionOptionsRequest(**WHICH, restore_original=True)
    assert life.step(machine.update_options, asked) == before


def test_the_start_delay_counts_from_the_start_whenever_it_is_changed() -> None:
    life = Life(start_delay=Duration(seconds=10))
    life.wait(2)
    shown = change(
        life,
        "start_delay",
        "start_to_close_timeout",
        start_delay=Duration(seconds=5),
        start_to_close_timeout=Duration(seconds=7),
    )
    assert (shown.start_delay.seconds, shown.start_to_close_timeout.seconds) == (5, 7)
    life.wait(2.9)
    assert not life.waiting
    life.wait(0.1)
    assert life.waiting
    with pytest.raises(FailedPrecondition, match="already been dispatched"):
        change(life, "start_delay", start_delay=Duration(seconds=50))
    with pytest.raises(InvalidArgument, match="negative duration"):
        change(life, "start_delay", start_delay=Duration(seconds=-1))


def test_the_start_delay_of_one_that_has_run_cannot_be_changed() -> None:
    life = Life()
    life.start()
    pause(life)
    with pytest.raises(FailedPrecondition, match="already been dispatched"):
        change(life, "start_delay", start_delay=Duration(seconds=50))


# --- Callbacks --------------------------------------------------------------------------------


def test_callbacks_and_links_of_one_request_are_taken_once() -> None:
    life = Life()
    callback = common.Callback(nexus=common.Callback.Nexus(url="http://a/b"))
    life.step(machine.attach, "empty", [], [], lives.CONFIG)
    assert not life.state.attached_by("empty")
    for _ in range(2):
        life.step(machine.attach, "s", [callback], [common.Link()], lives.CONFIG)
    (only,) = life.state.attachments
    assert only.callbacks == (callback.SerializeToString(),)
    assert len(only.links) == 1
