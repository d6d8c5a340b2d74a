"""Updates: admitted, accepted, rejected, completed; each id once."""

import pytest
from google.protobuf.any_pb2 import Any as AnyMessage
from temporalio.api.history.v1 import message_pb2 as history
from temporalio.api.protocol.v1 import message_pb2 as protocol
from temporalio.api.update.v1 import message_pb2 as update_messages

from durably.config import Config
from durably.engine import update
from durably.engine.refusals import BadCommand
from durably.engine.state import Update
from durably.engine.transition import Transition
from durably.errors import NotFound, ResourceExhausted
from tests.engine.lives import (
    WorkflowLife,
    about_update,
    acceptance,
    complete_workflow,
    completion,
    payloads,
    rejection,
    update_request,
)


def test_it_is_carried_by_the_next_task_until_a_worker_answers() -> None:
    life = WorkflowLife()
    life.work()
    life.admit("u")
    assert life.kinds[-1] == "WORKFLOW_TASK_COMPLETED", "it leaves no event before it is accepted"
    assert list(update.messages(life.state)) == []
    life.start_task()
    (message,) = update.messages(life.state)
    body = update_messages.Request()
    assert message.body.Unpack(body)
    assert (body, message.protocol_instance_id) == (update_request("u"), "u")
    life.fail_task()
    assert list(update.messages(life.state)) == []
    life.start_task()
    assert len(list(update.messages(life.state))) == 1


def test_accepted_then_completed_perhaps_in_a_later_task() -> None:
    life = WorkflowLife()
    life.admit("u")
    life.work(messages=[acceptance()])
    accepted = life.last("WORKFLOW_EXECUTION_UPDATE_ACCEPTED")
    assert accepted.accepted_request == update_request("u")
    assert accepted.accepted_request_message_id == "u/request"
    accepted_id = life.events[-1].event_id
    assert not update.waiting_unsent(life.state)
    life.signal()
    life.work(messages=[completion()])
    completed = life.last("WORKFLOW_EXECUTION_UPDATE_COMPLETED")
    assert completed.accepted_event_id == accepted_id
    assert completed.outcome.success == payloads(b"done")
    assert (life.state.updates, list(life.state.updates_completed)) == ({}, ["u"])


def test_a_rejected_one_leaves_no_trace() -> None:
    life = WorkflowLife()
    life.admit("u")
    life.start_task()
    events = len(life.events)
    life.complete(messages=[rejection()])
    assert life.kinds[events:] == ["WORKFLOW_TASK_COMPLETED"]
    assert not update.known(life.state, "u")


def test_one_that_the_worker_says_nothing_of_is_rejected() -> None:
    life = WorkflowLife()
    life.admit("seen")
    life.admit("said")
    life.start_task()
    life.admit("late")
    life.complete(messages=[acceptance("said")])
    assert not update.known(life.state, "seen")
    assert update.known(life.state, "said")
    assert update.known(life.state, "late"), "the task did not carry it"
    assert life.state.workflow_task is not None


def test_an_id_is_used_once_in_a_run() -> None:
    life = WorkflowLife()
    life.admit("u")
    life.admit("u")
    life.work(messages=[acceptance(), completion()])
    life.admit("u")
    assert life.state.updates_total == 1
    life.signal()
    life.work(complete_workflow())
    life.admit("u")
    with pytest.raises(NotFound):
        life.admit("v")


def test_so_many_may_be_in_flight_and_so_many_in_all() -> None:
    life = WorkflowLife(config=Config(updates_in_flight_max=1))
    life.admit("u")
    with pytest.raises(ResourceExhausted, match="concurrent in-flight"):
        life.admit("v")
    life = WorkflowLife(config=Config(updates_max=1))
    life.admit("u")
    with pytest.raises(ResourceExhausted, match="total updates"):
        life.admit("v")


def test_what_a_worker_says_of_an_update_that_is_not_there_fails_its_task() -> None:
    life = WorkflowLife()
    life.admit("u")
    life.start_task()
    unknown = protocol.Message(id="x", protocol_instance_id="u", body=AnyMessage(type_url="t/x"))
    for message, problem in (
        (acceptance("v"), "v was not waiting to be accepted"),
        (rejection("v"), "v was not waiting to be rejected"),
        (completion("v"), "v was not accepted"),
        (completion(), "u was not accepted"),
        (unknown, "unknown message t/x"),
    ):
        with pytest.raises(BadCommand, match=problem):
            life.complete(messages=[message])
    life.complete(messages=[acceptance()])
    life.signal()
    life.start_task()
    for message in (acceptance(), rejection()):
        with pytest.raises(BadCommand, match="was not waiting"):
            life.complete(messages=[message])


def test_a_worker_may_name_the_request_it_accepts() -> None:
    life = WorkflowLife()
    life.admit("u")
    said = update_messages.Acceptance(
        accepted_request_message_id="mine", accepted_request_sequencing_event_id=3
    )
    life.work(messages=[about_update("u", said)])
    accepted = life.last("WORKFLOW_EXECUTION_UPDATE_ACCEPTED")
    assert accepted.accepted_request_message_id == "mine"
    assert accepted.accepted_request_sequencing_event_id == 3


def test_those_that_are_accepted_are_dropped_with_the_run() -> None:
    life = WorkflowLife()
    life.admit("u")
    life.work(complete_workflow(), messages=[acceptance()])
    assert life.state.updates == {}
    reason = update.closed_failure()
    assert reason.application_failure_info.type == "AcceptedUpdateCompletedWorkflow"


def test_only_the_latest_completed_ones_are_remembered() -> None:
    life = WorkflowLife()
    for state in (life.state, life.copy):
        state.updates_completed.update({f"u{i}": 1 for i in range(10_000)})
    life.admit("u")
    life.work(messages=[acceptance(), completion()])
    assert len(life.state.updates_completed) == 10_000
    assert "u0" not in life.state.updates_completed


def test_one_that_a_reset_brought_along_has_its_request_in_history() -> None:
    life = WorkflowLife()
    request = update_request("u")

    def bring(t: Transition) -> None:
        t.record(history.WorkflowExecutionUpdateAdmittedEventAttributes(request=request))

    life.step(bring)
    assert life.state.updates["u"] == Update("u", request.SerializeToString(), admitted_event_id=3)
    life.start_task()
    assert life.state.updates["u"].sent
    assert list(update.messages(life.state)) == []
    life.complete(messages=[acceptance()])
    accepted = life.last("WORKFLOW_EXECUTION_UPDATE_ACCEPTED")
    assert not accepted.HasField("accepted_request")
