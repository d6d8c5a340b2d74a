"""What one execution tells another of its end takes effect once: between the callback of the one and the
operation of the other is a network that loses, repeats and holds up whatever passes.

What the server does between the two is in `Network`, in as many words: it calls while a callback is due,
and records what came of the call, unless it dies before.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from temporalio.api.common.v1 import message_pb2 as common
from temporalio.api.history.v1 import message_pb2 as history

from durably.engine import activity, nexus_operation, update, workflow_options
from durably.engine.callback import completion as completions
from durably.engine.callback import machine
from durably.engine.callback.state import BACKING_OFF, FAILED, SCHEDULED, SUCCEEDED
from durably.engine.nexus_outcome import Ended, Started, Succeeded, Unsuccessful
from durably.engine.standalone import machine as standalone
from durably.engine.standalone.state import SCHEDULED_EVENT_ID as ACTIVITY_EVENT_ID
from durably.engine.standalone.state import StandaloneActivityState
from durably.engine.standalone_nexus.state import SCHEDULED_EVENT_ID, StandaloneNexusState
from durably.engine.state import WorkflowState
from durably.errors import Refusal, Status
from tests.engine import test_standalone_activity as activities
from tests.engine.lives import (
    CONFIG,
    Life,
    WorkflowLife,
    acceptance,
    complete_workflow,
    completion,
    continue_as_new,
    payloads,
    schedule_nexus,
    update_request,
)
from tests.engine.test_nexus_operation import SCHEDULED as OPERATION_EVENT_ID
from tests.engine.test_nexus_operation import answer
from tests.engine.test_standalone_nexus import Operation

CALLBACK = common.Callback(nexus=common.Callback.Nexus(url="https://receiver.example/"))
STEPS = (
    "call",
    "reply lost",
    "died",
    "repeated",
    "held up",
    "arrives late",
    "not reached",
    "forged",
)


# --- Those who tell ---------------------------------------------------------------------------


def workflow_that_ended() -> Life[Any]:
    life = WorkflowLife(completion_callbacks=[CALLBACK])
    life.work(complete_workflow(result=payloads(b"result")))
    return life


def chain_that_ended() -> Life[Any]:
    """Its first run hands on what it was to call; a later request has attached it."""
    first = WorkflowLife()
    first.step(workflow_options.attach, "later", [CALLBACK], [], CONFIG)
    first.work(continue_as_new())
    assert not [each for each in first.state.callbacks.values() if each.state == SCHEDULED]
    following = first.follow()
    following.work(complete_workflow(result=payloads(b"result")))
    return following


def update_that_ended() -> Life[Any]:
    life = WorkflowLife()
    request = update_request("u")
    request.request_id = "asked"
    request.completion_callbacks.append(CALLBACK)
    life.step(update.admit, request, CONFIG)
    life.work(messages=[acceptance("u")])
    life.signal()
    life.work(messages=[completion("u")])
    return life


def activity_that_ended() -> Life[Any]:
    life = activities.Life(completion_callbacks=[CALLBACK])
    life.start()
    life.step(activity.complete, ACTIVITY_EVENT_ID, 1, payloads(b"result"), "worker")
    return life


def activity_that_was_terminated() -> Life[Any]:
    life = activities.Life(completion_callbacks=[CALLBACK])
    life.step(standalone.terminate, "me", "why", "t")
    return life


SENDERS: dict[str, Callable[[], Life[Any]]] = {
    "workflow": workflow_that_ended,
    "chain": chain_that_ended,
    "update": update_that_ended,
    "activity": activity_that_ended,
    "terminated activity": activity_that_was_terminated,
}


# --- Those who are told -----------------------------------------------------------------------


def workflow_that_waits() -> Life[Any]:
    life = WorkflowLife()
    life.work(schedule_nexus())
    return life


def workflow_that_waits_and_knows() -> Life[Any]:
    life = WorkflowLife()
    life.work(schedule_nexus())
    answer(life, Started("token"))
    life.work()
    return life


def operation_alone() -> Life[Any]:
    return Operation()


RECEIVERS: dict[str, Callable[[], Life[Any]]] = {
    "workflow": workflow_that_waits,
    "workflow that knows": workflow_that_waits_and_knows,
    "operation": operation_alone,
}


def ends_of(life: Life[Any]) -> list[Any]:
    """How its operation has ended, each time that it did."""
    if isinstance(life.state, StandaloneNexusState):
        found = [life.state.result, life.state.failure]
        return [each for each in found if each is not None]
    ended = []
    for event in life.events:
        for kind in ("completed", "failed", "canceled"):
            name = f"nexus_operation_{kind}_event_attributes"
            if event.HasField(name):  # type: ignore[arg-type]
                told = getattr(event, name)
                ended.append(told.result if kind == "completed" else told.failure.cause)
    return ended


# --- Between them -----------------------------------------------------------------------------


@dataclass
class Network:
    sender: Life[Any]
    receiver: Life[Any]
    held: list[Ended] = field(default_factory=list)
    taken: int = 0
    """How many calls were answered with: it has taken effect."""

    def __post_init__(self) -> None:
        (self.callback_id,) = self.sender.state.callbacks
        state = self.receiver.state
        alone = isinstance(state, StandaloneNexusState)
        self.event_id = SCHEDULED_EVENT_ID if alone else OPERATION_EVENT_ID
        operation = state.operation if alone else state.nexus_operations[self.event_id]
        self.request_id = operation.request_id

    @property
    def callback(self) -> Any:
        return self.sender.state.callbacks[self.callback_id]

    def said(self) -> Ended:
        state = self.sender.state
        if isinstance(state, StandaloneActivityState):
            told = completions.of_activity(state)
        else:
            assert isinstance(state, WorkflowState)
            event_id = completions.ending_event_id(state, self.callback)
            ending = next(e for e in self.sender.events if e.event_id == event_id)
            assert isinstance(ending, history.HistoryEvent)
            told = completions.of_workflow(state, self.callback, ending)
        return Succeeded(told.result) if told.failure is None else Unsuccessful(told.failure)

    def arrives(self, ended: Ended, request_id: str = "") -> Status | None:
        """What the receiver answers; None: it has taken it."""
        named = request_id or self.request_id
        try:
            self.receiver.step(nexus_operation.complete, self.event_id, named, ended, token="t")
        except Refusal as refusal:
            return refusal.status
        self.taken += 1
        return None

    def record(self, refused: Status | None, attempt: int) -> None:
        if refused is None:
            self.sender.step(machine.succeeded, self.callback_id, attempt)
        else:
            self.sender.step(
                machine.failed, self.callback_id, attempt, refused.name, retryable=False
            )

    def fail(self) -> None:
        attempt = self.callback.attempt + 1
        self.sender.step(machine.failed, self.callback_id, attempt, "no reply", retryable=True)

    def step(self, what: str) -> None:
        """One thing that happens; calls happen only while one is owed."""
        if what == "arrives late":
            if self.held:
                self.arrives(self.held.pop(0))
            return
        if what == "forged":
            assert self.arrives(Succeeded(common.Payload(data=b"forged")), "another") is not None
            return
        if self.callback.state != SCHEDULED:
            return
        ended, attempt = self.said(), self.callback.attempt + 1
        match what:
            case "call":
                self.record(self.arrives(ended), attempt)
            case "repeated":
                answers = [self.arrives(ended), self.arrives(ended)]
                self.record(answers[-1], attempt)
                self.record(answers[0], attempt)
            case "reply lost":
                self.arrives(ended)
                self.fail()
            case "died":
                self.arrives(ended)
            case "held up":
                self.held.append(ended)
                self.fail()
            case _:
                self.fail()


@given(
    st.sampled_from(sorted(SENDERS)),
    st.sampled_from(sorted(RECEIVERS)),
    st.lists(st.tuples(st.sampled_from(STEPS), st.sampled_from([0.0, 1.0, 60.0])), max_size=12),
)
def test_an_end_takes_effect_once(of: str, to: str, life: list[tuple[str, float]]) -> None:
    network = Network(SENDERS[of](), RECEIVERS[to]())
    wanted = network.said()
    for what, seconds in life:
        network.step(what)
        network.sender.wait(seconds)
        assert len(ends_of(network.receiver)) == network.taken <= 1
    while network.callback.state in (SCHEDULED, BACKING_OFF):
        network.step("call")
        network.sender.wait(3600)
    for _ in list(network.held):
        network.step("arrives late")
    assert network.taken == 1, "nothing is lost, and nothing happens twice"
    said = wanted.payload if isinstance(wanted, Succeeded) else wanted.failure
    assert ends_of(network.receiver) == [said]
    assert network.callback.state in (SUCCEEDED, FAILED)
    assert network.said() == wanted, "it says the same whenever it is asked"
