"""What a completion callback says of the end of a workflow, an update or a standalone activity."""

import pytest
from temporalio.api.common.v1 import message_pb2 as common
from temporalio.api.enums.v1 import activity_pb2 as activity_enums
from temporalio.api.enums.v1 import event_type_pb2 as event_types
from temporalio.api.failure.v1 import message_pb2 as failure
from temporalio.api.history.v1 import message_pb2 as history
from temporalio.api.update.v1 import message_pb2 as update_messages

from durably.engine.callback.completion import (
    CANCELED,
    FAILED,
    SUCCEEDED,
    Completion,
    ending_event_id,
    of_activity,
    of_workflow,
)
from durably.engine.standalone.state import StandaloneActivityState
from tests.engine.lives import (
    WorkflowLife,
    about_update,
    application_failure,
    cancel_workflow,
    complete_workflow,
    fail_workflow,
    payloads,
    protocol_command,
)
from tests.engine.test_callback import ACCEPTED, admit, attach, callback, called_back


def told(life: WorkflowLife, callback_id: str = "request-0") -> Completion:
    found = life.state.callbacks[callback_id]
    event_id = ending_event_id(life.state, found)
    ending = life.events[event_id - 1] if event_id else history.HistoryEvent()
    return of_workflow(life.state, found, ending)


def test_the_first_payload_of_a_result() -> None:
    life = called_back()
    life.now_ns += 5
    life.work(complete_workflow(result=payloads(b"one", b"two")))
    said = told(life)
    assert (said.state, said.result, said.failure) == (SUCCEEDED, common.Payload(data=b"one"), None)
    assert (said.start_ns, said.close_ns) == (life.state.start_ns, life.now_ns)
    (link,) = said.links
    assert link.workflow_event.event_ref.event_id == 1
    assert (link.workflow_event.workflow_id, link.workflow_event.run_id) == ("w", "run")


def test_no_result_is_none() -> None:
    life = called_back()
    life.work(complete_workflow())
    assert told(life).result is None


def test_a_failure_as_it_was() -> None:
    life = called_back()
    life.work(fail_workflow(application_failure("broken")))
    said = told(life)
    assert (said.state, said.failure) == (FAILED, application_failure("broken"))


@pytest.mark.parametrize("details", [None, payloads(b"d")])
def test_a_cancel(details: common.Payloads | None) -> None:
    life = called_back()
    life.work(cancel_workflow(details=details))
    said = told(life)
    assert said.failure is not None
    assert (said.state, said.failure.message) == (CANCELED, "operation canceled")
    assert said.failure.canceled_failure_info.details == (details or common.Payloads())


def test_a_termination_and_a_timeout() -> None:
    life = called_back()
    life.terminate()
    said = told(life)
    assert said.failure is not None
    assert (said.state, said.failure.HasField("terminated_failure_info")) == (FAILED, True)
    life = called_back(workflow_run_timeout={"seconds": 9})
    life.wait(9)
    said = told(life)
    assert said.failure is not None
    assert (said.state, said.failure.HasField("timeout_failure_info")) == (FAILED, True)


def test_what_was_attached_later_is_linked_by_its_request() -> None:
    life = WorkflowLife()
    attach(life, "later", "x")
    life.work(complete_workflow())
    (link,) = told(life, "later-0").links
    reference = link.workflow_event.request_id_ref
    assert reference.request_id == "later"
    assert reference.event_type == event_types.EVENT_TYPE_WORKFLOW_EXECUTION_OPTIONS_UPDATED


def accepted_update(outcome: update_messages.Outcome | None) -> WorkflowLife:
    life = WorkflowLife()
    admit(life, "u", "asked", callback())
    acceptance = about_update("u", ACCEPTED, "accept")
    if outcome is None:
        life.work(messages=[acceptance])
        return life
    meta = update_messages.Meta(update_id="u")
    answer = update_messages.Response(meta=meta, outcome=outcome)
    response = about_update("u", answer, "complete")
    both = [protocol_command("accept"), protocol_command("complete")]
    life.work(*both, messages=[acceptance, response])
    return life


def test_the_outcome_of_an_update() -> None:
    said = told(accepted_update(update_messages.Outcome(success=payloads(b"r"))), "asked-0-u")
    assert (said.state, said.result) == (SUCCEEDED, common.Payload(data=b"r"))
    reference = said.links[0].workflow_event.request_id_ref
    assert reference.event_type == event_types.EVENT_TYPE_WORKFLOW_EXECUTION_UPDATE_ACCEPTED
    broken = update_messages.Outcome(failure=application_failure("broken"))
    said = told(accepted_update(broken), "asked-0-u")
    assert (said.state, said.failure) == (FAILED, application_failure("broken"))


def test_an_update_whose_workflow_ended_before_it() -> None:
    life = accepted_update(None)
    life.terminate()
    said = told(life, "asked-0-u")
    assert said.failure is not None
    assert said.failure.application_failure_info.type == "AcceptedUpdateCompletedWorkflow"
    assert said.close_ns == life.now_ns


def test_a_rejection_that_has_no_event() -> None:
    life = accepted_update(None)
    found = life.state.callbacks["asked-0-u"]
    found.outcome_ns = 77
    found.outcome = update_messages.Outcome(failure=application_failure("no")).SerializeToString()
    said = told(life, "asked-0-u")
    assert (said.failure, said.close_ns) == (application_failure("no"), 77)


def closed_activity(**ended: object) -> StandaloneActivityState:
    return StandaloneActivityState(
        namespace_id="ns",
        namespace="default",
        workflow_id="a",
        run_id="run",
        start_ns=1,
        close_ns=2,
        **ended,  # type: ignore[arg-type]
    )


def test_a_standalone_activity() -> None:
    said = of_activity(closed_activity(result=payloads(b"r", b"s")))
    assert (said.state, said.result) == (SUCCEEDED, common.Payload(data=b"r"))
    assert (said.start_ns, said.close_ns) == (1, 2)
    assert said.links[0].activity == common.Link.Activity(
        namespace="default", activity_id="a", run_id="run"
    )
    reason = failure.Failure(message="no")
    said = of_activity(closed_activity(failure=reason))
    assert (said.state, said.failure) == (FAILED, reason)
    canceled = activity_enums.ACTIVITY_EXECUTION_STATUS_CANCELED
    said = of_activity(closed_activity(failure=reason, status=canceled))
    assert said.state == CANCELED
