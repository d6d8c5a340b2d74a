"""Random lives of a standalone activity: after every step the journal gives the state back."""

import contextlib
import uuid
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

from durably.config import Config
from durably.engine import activity, deadlines
from durably.engine.apply import apply_heartbeat
from durably.engine.snapshot import decode_state, encode_state
from durably.engine.standalone import machine
from durably.engine.standalone.state import SCHEDULED_EVENT_ID, StandaloneActivityState
from durably.engine.transition import (
    DispatchActivity,
    InvokeCallback,
    Transition,
    outstanding,
)
from durably.errors import FailedPrecondition, Refusal
from tests.engine.test_replay import replay

CONFIG = Config()

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


class Life:
    """The live state, and beside it one that only ever sees the journal."""

    def __init__(self, **options: Any) -> None:
        self.now = START_NS
        self.state, self.copy = fresh(), fresh()
        self.dispatched: list[int] = []
        self.ever_dispatched: set[int] = set()
        self.step(lambda t: machine.start(t, request(**options), CONFIG))

    def step(self, decide: Callable[[machine.StandaloneTransition], Any]) -> Any:
        t = Transition(self.state, self.now, lambda: str(uuid.uuid4()))
        before = encode_state(self.state)
        try:
            answer = decide(t)
        except Refusal:
            assert encode_state(self.state) == before, "a refusal changes nothing"
            raise
        replay(self.copy, t)  # type: ignore[arg-type]
        if t.heartbeats:
            pending, copied = self.state.activity, self.copy.activity
            copied.heartbeat_ns, copied.heartbeats = pending.heartbeat_ns, pending.heartbeats
            copied.heartbeat_details = pending.heartbeat_details
        stamps = [e.stamp for e in t.effects if isinstance(e, DispatchActivity)]
        self.dispatched += stamps
        self.ever_dispatched.update(stamps)
        return answer

    def start(self) -> activity.ActivityGrant:
        stamp = self.dispatched.pop()
        grant: activity.ActivityGrant = self.step(
            lambda t: activity.start(t, SCHEDULED_EVENT_ID, stamp, "worker", str(self.now))
        )
        return grant

    def wait(self, seconds: float) -> None:
        self.now += int(seconds * SECOND)
        if self.state.running:
            self.step(deadlines.fire_due)


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
        with contextlib.suppress(Refusal):
            self.life.step(decide)

    def request_id(self, fresh_one: bool) -> str:
        self.number += fresh_one
        return str(self.number)

    @rule()
    def take(self) -> None:
        if not self.life.dispatched:
            return
        stamp = self.life.dispatched.pop()
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
        self.attempt(lambda t: machine.attach(t, request_id, [callback], [], CONFIG))

    @invariant()
    def the_journal_gives_the_state_back(self) -> None:
        state = self.life.state
        assert encode_state(state) == encode_state(self.life.copy)
        assert decode_state(encode_state(state)) == state

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
        assert waits or pending.stamp in self.life.ever_dispatched


TestLifeOfAStandaloneActivity = LifeOfAStandaloneActivity.TestCase
TestLifeOfAStandaloneActivity.settings = settings(
    max_examples=150, stateful_step_count=30, deadline=None
)


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
    assert not life.dispatched
    life.wait(1)
    assert life.dispatched
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
    assert not life.dispatched
    life.wait(1)
    assert life.start().attempt == 1


def test_unpausing_does_not_shorten_a_backoff() -> None:
    life = Life(retry_policy=common.RetryPolicy(initial_interval=Duration(seconds=60)))
    life.start()
    life.step(lambda t: activity.fail(t, SCHEDULED_EVENT_ID, 1, reason(True), "worker"))
    life.step(lambda t: machine.pause(t, "me", "why", ""))
    life.step(lambda t: machine.unpause(t, "", lambda longest: longest, 0))
    life.wait(59)
    assert not life.dispatched
    life.wait(1)
    assert life.start().attempt == 2


def test_a_closed_one_takes_no_callbacks() -> None:
    life = Life()
    life.step(lambda t: machine.terminate(t, "me", "why", "t"))
    callback = common.Callback(nexus=common.Callback.Nexus(url="http://a/b"))
    with pytest.raises(FailedPrecondition):
        life.step(lambda t: machine.attach(t, "s", [callback], [], CONFIG))


def test_heartbeats_are_counted_over_all_attempts() -> None:
    life = Life()
    life.start()
    for _ in range(3):
        apply_heartbeat(life.state, SCHEDULED_EVENT_ID, life.now, None)
    assert life.state.activity.heartbeats == 3
