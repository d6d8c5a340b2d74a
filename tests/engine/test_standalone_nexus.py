"""The machine of standalone Nexus operations, and random lives of them."""

from typing import Any

import hypothesis.strategies as st
import pytest
from hypothesis import settings
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule
from temporalio.api.common.v1 import message_pb2 as common
from temporalio.api.enums.v1 import common_pb2 as common_enums
from temporalio.api.enums.v1 import nexus_pb2 as nexus_enums
from temporalio.api.failure.v1 import message_pb2 as failure
from temporalio.api.workflowservice.v1 import request_response_pb2 as ws

from durably.engine import nexus_operation, nexus_outcome
from durably.engine.callback.completion import of_operation
from durably.engine.nexus_outcome import Refused, Started, StartOutcome, Succeeded, Unsuccessful
from durably.engine.standalone_nexus import machine
from durably.engine.standalone_nexus.state import SCHEDULED_EVENT_ID, StandaloneNexusState
from durably.engine.state import WATCHED
from durably.engine.transition import (
    CancelNexusOperation,
    InvokeCallback,
    StartNexusOperation,
    WatchNexusOperation,
    outstanding,
)
from durably.errors import FailedPrecondition, NotFound
from tests.engine.lives import CONFIG, Life, application_failure

LATER = nexus_outcome.refused("UNAVAILABLE", "later")
NEVER = nexus_outcome.refused("NOT_FOUND", "never")
LINK = common.Link(nexus_operation={"operation_id": "there"})
DONE = Succeeded(common.Payload(data=b"done"), (LINK,))
CANCELED = Unsuccessful(failure.Failure(message="stopped", canceled_failure_info={}))
FAILED = Unsuccessful(application_failure("no"))


def fresh() -> StandaloneNexusState:
    return StandaloneNexusState(
        namespace_id="ns", namespace="default", workflow_id="o", run_id="run"
    )


class Operation(Life[StandaloneNexusState]):
    """One standalone operation, whose handler does what a test says."""

    def __init__(self, **options: Any) -> None:
        super().__init__(fresh(), fresh())
        request = ws.StartNexusOperationExecutionRequest(
            namespace="default",
            operation_id="o",
            endpoint="e",
            service="s",
            operation="op",
            request_id="r",
            identity="me",
            **options,
        )
        self.step(machine.start, request, "id-of-e", CONFIG)

    def answer(self, outcome: StartOutcome) -> None:
        attempt = self.state.operation.attempt
        self.step(nexus_operation.start_answered, SCHEDULED_EVENT_ID, attempt, outcome, CONFIG)

    def answer_cancel(self, refused: Refused | None) -> None:
        cancel = self.state.operation.cancel
        attempt = cancel.attempt if cancel is not None else 0
        self.step(nexus_operation.cancel_answered, SCHEDULED_EVENT_ID, attempt, refused, CONFIG)

    def complete(self, ended: Succeeded | Unsuccessful) -> None:
        request_id = self.state.operation.request_id
        self.step(nexus_operation.complete, SCHEDULED_EVENT_ID, request_id, ended, token="t")

    def request_cancel(self, request_id: str = "c") -> None:
        self.step(machine.request_cancel, "me", "enough", request_id)

    def terminate(self, request_id: str = "t") -> None:
        self.step(machine.terminate, "me", "enough", request_id)

    @property
    def status(self) -> str:
        name = nexus_enums.NexusOperationExecutionStatus.Name(self.state.status)  # type: ignore[arg-type]
        return name.removeprefix("NEXUS_OPERATION_EXECUTION_STATUS_")


def test_a_start_asks_the_handler() -> None:
    life = Operation(
        user_metadata={"summary": {"data": b"why"}},
        search_attributes={"indexed_fields": {"Colour": {"data": b'"red"'}}},
    )
    assert (life.status, life.visible) == ("RUNNING", True)
    assert life.effects == [StartNexusOperation(SCHEDULED_EVENT_ID)]
    assert outstanding(life.state) == [StartNexusOperation(SCHEDULED_EVENT_ID)]
    state = life.state
    assert (state.identity, state.start_ns) == ("me", life.now_ns)
    assert state.search_attributes.indexed_fields["Colour"].data == b'"red"'
    assert b"why" in state.user_metadata
    assert state.create_request_id == "r"


@pytest.mark.parametrize(
    ("outcome", "status"),
    [(DONE, "COMPLETED"), (FAILED, "FAILED"), (CANCELED, "CANCELED"), (NEVER, "FAILED")],
)
def test_an_answer_ends_it(outcome: StartOutcome, status: str) -> None:
    life = Operation()
    life.answer(outcome)
    assert (life.status, life.visible) == (status, True)
    assert life.state.operation.attempt == 1
    assert life.state.close_ns == life.now_ns
    assert not outstanding(life.state)
    if isinstance(outcome, Succeeded):
        assert life.state.result == outcome.payload
        assert life.state.links == [LINK.SerializeToString()]
        assert life.state.operation.last_failure is None
    else:
        assert life.state.failure == outcome.failure  # type: ignore[union-attr]
        assert life.state.operation.last_failure == life.state.failure


def test_a_callback_ends_it() -> None:
    life = Operation()
    life.answer(Started("token", (LINK,)))
    assert life.state.operation.started
    assert life.state.links == [LINK.SerializeToString()]
    life.complete(FAILED)
    assert life.status == "FAILED"
    assert life.state.operation.attempt == 1
    assert life.state.operation.last_failure is None, "it was not an attempt that failed"
    with pytest.raises(NotFound, match="already completed"):
        life.complete(DONE)


def test_one_that_is_watched_is_not_after_its_end() -> None:
    life = Operation()
    life.answer(Started(WATCHED + "task"))
    assert outstanding(life.state) == [WatchNexusOperation(SCHEDULED_EVENT_ID)]
    life.complete(DONE)
    assert not outstanding(life.state)
    assert not life.state.operation.is_watched


CALLBACK = common.Callback(nexus={"url": "https://example.com"})


@pytest.mark.parametrize(
    ("ends", "state"),
    [
        (lambda life: life.answer(DONE), "succeeded"),
        (lambda life: life.answer(FAILED), "failed"),
        (lambda life: life.answer(CANCELED), "canceled"),
        (lambda life: life.terminate(), "failed"),
    ],
)
def test_its_end_is_told_to_all_callbacks(ends: Any, state: str) -> None:
    life = Operation(completion_callbacks=[CALLBACK])
    life.step(machine.attach, "r", [CALLBACK], CONFIG)
    life.step(machine.attach, "r2", [CALLBACK], CONFIG)
    assert len(life.state.callbacks) == 2, "those of one request are taken once"
    ends(life)
    owed = [InvokeCallback(each) for each in life.state.callbacks]
    assert outstanding(life.state) == owed
    assert [each for each in life.effects if isinstance(each, InvokeCallback)] == owed
    told = of_operation(life.state)
    assert (told.state, told.result is None) == (state, state != "succeeded")
    assert told.links[0].nexus_operation.operation_id == "o"
    with pytest.raises(FailedPrecondition, match="closed operation"):
        life.step(machine.attach, "r3", [CALLBACK], CONFIG)


def test_time_ends_it() -> None:
    life = Operation(schedule_to_close_timeout={"seconds": 5})
    life.answer(LATER)
    assert life.state.operation.retry_at_ns
    life.wait(1)
    assert life.effects == [StartNexusOperation(SCHEDULED_EVENT_ID)]
    life.wait(4)
    assert life.status == "TIMED_OUT"
    assert life.state.operation.last_failure == LATER.failure
    assert life.state.failure is not None
    assert life.state.failure.HasField("timeout_failure_info")
    assert not life.state.operation.retry_at_ns


def test_a_cancel_waits_for_the_start_and_is_sent_until_it_is_heard() -> None:
    life = Operation()
    life.request_cancel()
    life.request_cancel()  # The same request again.
    with pytest.raises(FailedPrecondition, match="already requested with request ID c"):
        life.request_cancel("another")
    assert outstanding(life.state) == [StartNexusOperation(SCHEDULED_EVENT_ID)]
    life.answer(Started("token"))
    assert life.effects == [CancelNexusOperation(SCHEDULED_EVENT_ID)]
    life.answer_cancel(LATER)
    life.wait(1)
    assert life.effects == [CancelNexusOperation(SCHEDULED_EVENT_ID)]
    life.answer_cancel(None)
    succeeded = common_enums.NEXUS_OPERATION_CANCELLATION_STATE_SUCCEEDED
    assert life.state.operation.cancel_state == succeeded
    life.complete(CANCELED)
    assert life.status == "CANCELED"
    life.request_cancel()  # Also after the end.
    with pytest.raises(FailedPrecondition, match="operation already completed"):
        life.request_cancel("another")


def test_an_end_while_a_cancel_waits_ends_the_cancel() -> None:
    life = Operation()
    life.answer(Started("token"))
    life.request_cancel()
    life.answer_cancel(LATER)
    life.complete(DONE)
    cancel = life.state.operation.cancel
    assert cancel is not None
    assert not cancel.retry_at_ns
    assert not outstanding(life.state)


def test_a_termination_ends_it_once() -> None:
    life = Operation()
    life.terminate()
    assert (life.status, life.visible) == ("TERMINATED", True)
    assert life.state.failure is not None
    assert life.state.failure.terminated_failure_info.identity == "me"
    life.terminate()  # The same request again.
    with pytest.raises(FailedPrecondition, match="already terminated with request ID t"):
        life.terminate("another")
    life.answer(DONE)
    assert life.status == "TERMINATED"
    life = Operation()
    life.answer(DONE)
    with pytest.raises(FailedPrecondition, match="operation already completed"):
        life.terminate()


OUTCOMES: dict[str, StartOutcome] = {
    "done": DONE,
    "started": Started("token"),
    "failed": FAILED,
    "later": LATER,
    "never": NEVER,
}


class LifeOfAStandaloneNexusOperation(RuleBasedStateMachine):
    """Handlers, callbacks, time and callers, in any order; the rules of a life hold after each step."""

    @initialize(closes=st.sampled_from([0, 30]), starts=st.sampled_from([0, 10]))
    def begin(self, closes: int, starts: int) -> None:
        self.life = Operation(
            schedule_to_close_timeout={"seconds": closes},
            schedule_to_start_timeout={"seconds": starts},
        )

    @rule(outcome=st.sampled_from(list(OUTCOMES)))
    def answer(self, outcome: str) -> None:
        self.life.answer(OUTCOMES[outcome])

    @rule(refused=st.sampled_from([None, LATER, NEVER]))
    def answer_cancel(self, refused: Refused | None) -> None:
        self.life.answer_cancel(refused)

    @rule(ended=st.sampled_from([DONE, CANCELED]))
    def complete(self, ended: Succeeded | Unsuccessful) -> None:
        request_id = self.life.state.operation.request_id
        self.life.attempt(
            nexus_operation.complete, SCHEDULED_EVENT_ID, request_id, ended, token="t"
        )

    @rule(request_id=st.sampled_from(["c1", "c2"]))
    def request_cancel(self, request_id: str) -> None:
        self.life.attempt(machine.request_cancel, "me", "why", request_id)

    @rule(request_id=st.sampled_from(["t1", "t2"]))
    def terminate(self, request_id: str) -> None:
        if self.life.state.operation.attempt > 2:
            self.life.attempt(machine.terminate, "me", "why", request_id)

    @rule(seconds=st.integers(1, 8))
    def wait(self, seconds: int) -> None:
        self.life.wait(seconds)

    @invariant()
    def it_ends_once(self) -> None:
        state = self.life.state
        assert state.closed == (state.close_ns > 0)
        assert state.closed == state.operation.closed
        assert state.closed == (state.result is not None or state.failure is not None)
        if state.closed:
            assert not outstanding(state)


LifeOfAStandaloneNexusOperation.TestCase.settings = settings(
    max_examples=100, stateful_step_count=30, deadline=None
)
TestLifeOfAStandaloneNexusOperation = LifeOfAStandaloneNexusOperation.TestCase
