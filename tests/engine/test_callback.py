"""Completion callbacks: attached once, due with the end they wait for, tried until they are taken."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from temporalio.api.common.v1 import message_pb2 as common
from temporalio.api.enums.v1 import event_type_pb2 as event_types
from temporalio.api.enums.v1 import reset_pb2 as reset_enums
from temporalio.api.failure.v1 import message_pb2 as failure
from temporalio.api.update.v1 import message_pb2 as update_messages

from durably.config import Config
from durably.engine import deadlines, reset, update, workflow_options
from durably.engine.apply.requests import REQUESTS_MAX
from durably.engine.callback import apply as callbacks
from durably.engine.callback import machine
from durably.engine.callback.state import (
    BACKING_OFF,
    FAILED,
    SCHEDULED,
    STANDBY,
    SUCCEEDED,
    Callback,
)
from durably.engine.state import RequestEvent
from durably.engine.transition import InvokeCallback, Transition, debts, outstanding
from durably.errors import FailedPrecondition, NotFound
from tests.engine.lives import (
    CONFIG,
    SECOND_NS,
    WorkflowLife,
    about_update,
    complete_workflow,
    continue_as_new,
    fail_workflow,
    fresh,
    payloads,
    protocol_command,
    update_request,
)
from tests.engine.test_reset import reset_to

ACCEPTED = update_messages.Acceptance(
    accepted_request_message_id="u/request", accepted_request_sequencing_event_id=1
)


def callback(path: str = "x") -> common.Callback:
    return common.Callback(nexus=common.Callback.Nexus(url=f"https://a.example/{path}"))


def called_back(*paths: str, **options: object) -> WorkflowLife:
    """A workflow that was started with such callbacks."""
    wanted = [callback(path) for path in paths or ("x",)]
    return WorkflowLife(completion_callbacks=wanted, **options)


def states(life: WorkflowLife) -> list[int]:
    return [each.state for each in life.state.callbacks.values()]


def owed(life: WorkflowLife) -> list[str]:
    return [e.callback_id for e in outstanding(life.state) if isinstance(e, InvokeCallback)]


def only(life: WorkflowLife) -> Callback:
    (found,) = life.state.callbacks.values()
    return found


def attach(life: WorkflowLife, request_id: str, *paths: str, config: Config = CONFIG) -> None:
    life.step(workflow_options.attach, request_id, [callback(each) for each in paths], [], config)


# --- When they are due ------------------------------------------------------------------------


def test_they_stand_by_until_the_workflow_closes() -> None:
    life = called_back("x", "y")
    assert (states(life), owed(life)) == ([STANDBY, STANDBY], [])
    life.work(complete_workflow(result=payloads(b"r")))
    assert states(life) == [SCHEDULED, SCHEDULED]
    assert owed(life) == ["request-0", "request-1"]
    assert all(
        each.outcome_event_id == life.state.close_event_id for each in life.state.callbacks.values()
    )


@pytest.mark.parametrize("end", ["terminate", "fail", "expire"])
def test_however_it_closes(end: str) -> None:
    life = called_back(workflow_run_timeout={"seconds": 60})
    match end:
        case "terminate":
            life.terminate()
        case "fail":
            life.work(fail_workflow())
        case _:
            life.wait(60)
    assert owed(life) == ["request-0"]


def test_a_run_that_continues_as_new_hands_them_on() -> None:
    life = called_back()
    attach(life, "later", "y")
    life.work(continue_as_new())
    assert (states(life), owed(life)) == ([STANDBY, STANDBY], [])
    following = life.follow()
    assert [each.nexus.url[-1] for each in following.state.started.completion_callbacks] == [
        "x",
        "y",
    ]
    following.work(complete_workflow())
    assert len(owed(following)) == 2


def test_a_run_that_is_retried_hands_them_on() -> None:
    life = called_back(retry_policy={"maximum_attempts": 2})
    life.work(fail_workflow())
    assert (states(life), owed(life)) == ([STANDBY], [])
    following = life.follow()
    following.wait(2)
    following.work(fail_workflow())
    assert len(owed(following)) == 1


def test_the_first_run_of_a_cron_schedule_that_ends_calls_and_no_other() -> None:
    life = called_back(cron_schedule="* * * * *")
    life.wait(60)
    life.work(complete_workflow())
    assert owed(life) == ["request-0"]
    assert not life.follow().state.callbacks


def test_a_reset_moves_them_to_the_run_that_goes_on() -> None:
    life = called_back()
    life.work()
    attach(life, "later", "y")
    new = reset_to(life, 4)
    assert owed(life) == []
    assert states(new) == [STANDBY, STANDBY]
    assert new.state.requests.keys() == {"request", "later"}
    new.work(complete_workflow())
    assert len(owed(new)) == 2


def test_a_reset_attaches_nothing_twice() -> None:
    life = called_back()
    attach(life, "later", "y")
    life.work()
    life.signal()
    new = reset_to(life, 5)
    assert len(new.state.callbacks) == 2
    again = reset_to(new, 5)
    assert len(again.state.callbacks) == 2


def test_a_reset_repeats_once_what_a_forgotten_request_attached_again() -> None:
    life = WorkflowLife()
    life.work()
    attach(life, "second", "x")
    for of in (life.state, life.copy):
        del of.requests["second"]
    attach(life, "second", "x")
    assert life.kinds.count("WORKFLOW_EXECUTION_OPTIONS_UPDATED") == 2
    new = reset_to(life, 4)
    assert new.kinds.count("WORKFLOW_EXECUTION_OPTIONS_UPDATED") == 1
    assert states(new) == [STANDBY]


def test_callbacks_stay_with_an_update_that_a_reset_leaves_behind() -> None:
    life = WorkflowLife()
    life.work()
    admit(life, "u", "asked", callback())
    life.work(messages=[about_update("u", ACCEPTED)])
    admit(life, "u", "also", callback("y"))
    updates = reset_enums.RESET_REAPPLY_EXCLUDE_TYPE_UPDATE
    assert states(reset_to(life, 4, [updates])) == []
    assert states(reset_to(life, 4)) == [STANDBY, STANDBY]


def test_what_was_due_before_a_reset_is_not_due_again_after_it() -> None:
    life = WorkflowLife()
    admit(life, "u", "asked", callback())
    life.work(messages=[about_update("u", ACCEPTED)])
    life.signal()
    life.work(messages=[completion("u")])
    assert len(owed(life)) == 1
    life.signal()
    life.work()
    new = reset_to(life, life.events[-1].event_id)
    assert not new.state.callbacks
    assert len(owed(life)) == 1


# --- Attached to a workflow that runs ---------------------------------------------------------


def test_a_start_that_meets_the_workflow_attaches_what_it_brings() -> None:
    life = WorkflowLife()
    link = common.Link(batch_job=common.Link.BatchJob(job_id="j"))
    life.step(workflow_options.attach, "second", [callback()], [link], CONFIG)
    event = life.events[-1]
    said = event.workflow_execution_options_updated_event_attributes
    assert (said.attached_request_id, list(said.attached_completion_callbacks)) == (
        "second",
        [callback()],
    )
    assert (list(event.links), event.worker_may_ignore) == ([link], True)
    attach(life, "second", "x")
    assert life.events[-1] is event, "the same request again brings nothing"
    assert only(life).request_id == "second"


def test_while_a_task_is_in_flight_the_event_waits_and_gets_its_id_later() -> None:
    life = WorkflowLife()
    life.start_task()
    attach(life, "second", "x")
    assert life.state.requests["second"].event_id < 0
    assert only(life).state == STANDBY
    life.complete()
    event = next(
        each
        for each in life.events
        if each.event_type == event_types.EVENT_TYPE_WORKFLOW_EXECUTION_OPTIONS_UPDATED
    )
    assert life.state.requests["second"].event_id == event.event_id


def test_a_signal_is_remembered_by_its_event() -> None:
    life = WorkflowLife()
    life.start_task()
    life.signal(request_id="s")
    assert life.state.requests_seen["s"] < 0
    life.complete()
    assert life.kinds[life.state.requests_seen["s"] - 1] == "WORKFLOW_EXECUTION_SIGNALED"


def test_a_closed_workflow_takes_none() -> None:
    life = WorkflowLife()
    life.terminate()
    with pytest.raises(NotFound):
        attach(life, "second", "x")


def test_there_is_room_for_so_many() -> None:
    life = called_back("x")
    few = Config(callbacks_max=2)
    attach(life, "second", "y", config=few)
    with pytest.raises(FailedPrecondition, match="more than 2 callbacks to a workflow"):
        attach(life, "third", "z", config=few)


def test_the_request_that_started_a_run_is_not_forgotten_over_others() -> None:
    life = WorkflowLife()
    updated = event_types.EVENT_TYPE_WORKFLOW_EXECUTION_OPTIONS_UPDATED
    for number in range(REQUESTS_MAX + 1):
        life.state.requests[f"r{number}"] = RequestEvent(updated, 2)
        life.copy.requests[f"r{number}"] = life.state.requests[f"r{number}"]
    attach(life, "last", "x")
    assert "request" in life.state.requests
    assert "r0" not in life.state.requests


def test_a_request_that_was_forgotten_attaches_its_callbacks_once() -> None:
    life = WorkflowLife()
    attach(life, "second", "x")
    for of in (life.state, life.copy):
        del of.requests["second"]
    attach(life, "second", "x", "y")
    assert [each.callback_id for each in life.state.callbacks.values()] == ["second-0", "second-1"]


# --- Of updates -------------------------------------------------------------------------------


def admit(life: WorkflowLife, update_id: str, request_id: str, *wanted: common.Callback) -> None:
    request = update_request(update_id)
    request.request_id = request_id
    request.completion_callbacks.extend(wanted)
    life.step(update.admit, request, life.config)


def completion(update_id: str) -> object:
    outcome = update_messages.Outcome(success=payloads(b"done"))
    meta = update_messages.Meta(update_id=update_id)
    return about_update(update_id, update_messages.Response(meta=meta, outcome=outcome))


def test_an_update_calls_when_it_completes() -> None:
    life = WorkflowLife()
    admit(life, "u", "asked", callback())
    assert not life.state.callbacks, "nothing is registered before the worker accepts it"
    life.work(messages=[about_update("u", ACCEPTED)])
    assert (only(life).update_id, only(life).state) == ("u", STANDBY)
    life.signal()
    life.work(messages=[completion("u")])
    assert owed(life) == ["asked-0-u"]
    assert only(life).outcome_event_id == life.events[-1].event_id


def test_the_end_of_an_update_calls_nobody_else() -> None:
    life = called_back()
    for update_id in ("u", "v"):
        admit(life, update_id, "asked", callback())
    accepted = [about_update(update_id, ACCEPTED) for update_id in ("u", "v")]
    life.work(messages=accepted)
    life.signal()
    life.work(messages=[completion("u")])
    assert owed(life) == ["asked-0-u"]
    assert states(life) == [STANDBY, SCHEDULED, STANDBY]


def test_the_event_of_an_accepted_update_leads_to_whom_its_callbacks_belong_to() -> None:
    life = WorkflowLife()
    wanted = callback()
    link = wanted.links.add(batch_job=common.Link.BatchJob(job_id="j"))
    admit(life, "u", "asked", wanted)
    life.work(messages=[about_update("u", ACCEPTED)])
    assert list(life.events[-1].links) == [link]


def test_an_update_that_is_rejected_brings_nothing() -> None:
    life = WorkflowLife()
    admit(life, "u", "asked", callback())
    rejection = update_messages.Rejection(failure=failure.Failure(message="no"))
    life.work(messages=[about_update("u", rejection)])
    assert not life.state.callbacks


def test_the_rejection_of_an_update_that_a_reset_brought_along_is_told() -> None:
    life = WorkflowLife()
    life.work()
    admit(life, "u", "asked", callback())
    life.work(messages=[about_update("u", ACCEPTED)])
    new = reset_to(life, 4)
    assert states(new) == [STANDBY]
    rejection = update_messages.Rejection(failure=failure.Failure(message="no"))
    new.work(messages=[about_update("u", rejection)])
    found = only(new)
    assert update_messages.Outcome.FromString(found.outcome).failure.message == "no"
    assert (found.outcome_ns, owed(new)) == (new.now_ns, ["asked-0-u"])


def test_an_update_that_its_worker_did_not_understand_is_told_too() -> None:
    life = WorkflowLife()
    life.work()
    admit(life, "u", "asked", callback())
    life.work(messages=[about_update("u", ACCEPTED)])
    new = reset_to(life, 4)
    new.work()
    assert b"wasn't processed" in only(new).outcome


def test_an_accepted_update_ends_with_its_workflow_even_if_another_run_follows() -> None:
    life = called_back()
    admit(life, "u", "asked", callback())
    accepted = about_update("u", ACCEPTED)
    life.work(protocol_command(accepted.id), continue_as_new(), messages=[accepted])
    assert owed(life) == ["asked-0-u"]
    assert len(life.follow().state.callbacks) == 1


def test_a_second_request_for_an_accepted_update_attaches_its_callbacks_once() -> None:
    life = WorkflowLife()
    admit(life, "u", "asked", callback())
    life.work(messages=[about_update("u", ACCEPTED)])
    for _ in range(2):
        admit(life, "u", "also", callback("y"))
    assert life.kinds.count("WORKFLOW_EXECUTION_OPTIONS_UPDATED") == 1
    assert list(life.state.callbacks) == ["asked-0-u", "also-0-u"]
    life.signal()
    life.work(messages=[completion("u")])
    assert len(owed(life)) == 2
    admit(life, "u", "late", callback("z"))
    assert len(life.state.callbacks) == 2, "one that has completed answers at once"


def test_a_second_request_for_an_admitted_update_waits_with_it() -> None:
    life = WorkflowLife()
    admit(life, "u", "asked", callback())
    for request_id in ("also", "also", "asked"):
        admit(life, "u", request_id, callback("y"))
    admit(life, "u", "nothing")
    life.work(messages=[about_update("u", ACCEPTED)])
    assert life.kinds[-2:] == [
        "WORKFLOW_EXECUTION_UPDATE_ACCEPTED",
        "WORKFLOW_EXECUTION_OPTIONS_UPDATED",
    ]
    assert list(life.state.callbacks) == ["asked-0-u", "also-0-u"]


def test_a_reset_keeps_what_later_requests_attached_to_an_update() -> None:
    life = WorkflowLife()
    life.work()
    admit(life, "u", "asked", callback())
    life.work(messages=[about_update("u", ACCEPTED)])
    admit(life, "u", "also", callback("y"))
    new = reset_to(life, 4)
    assert list(new.state.callbacks) == ["asked-0-u", "also-0-u"]
    without = reset_to(life, 4, exclude=[2])
    assert not without.state.callbacks


def test_what_was_attached_to_an_update_that_a_reset_does_not_bring_along_is_left_out() -> None:
    life = WorkflowLife()
    admit(life, "u", "asked", callback())
    life.work(messages=[about_update("u", ACCEPTED)])
    admit(life, "u", "also", callback("y"))
    t = Transition(fresh("new"), life.now_ns, life.new_id)
    reset.begin(t, life.state, life.events[:3], reason="why", request_id="reset")
    reset.reapply(t, life.events[-1:], [])
    assert not t.state.callbacks


def test_each_end_calls_those_who_wait_for_it() -> None:
    """The workflow's are not called with an update's end, nor an update's again with the workflow's."""
    life = called_back()
    admit(life, "u", "asked", callback("y"))
    life.work(messages=[about_update("u", ACCEPTED)])
    life.signal()
    life.work(messages=[completion("u")])
    assert owed(life) == ["asked-0-u"]
    life.step(machine.succeeded, "asked-0-u", 1)
    life.terminate()
    assert owed(life) == ["request-0"]


def test_what_several_runs_tell_a_reset_of_one_request_is_attached_once() -> None:
    life = called_back()
    life.work()
    attach(life, "later", "y")
    t = Transition(fresh("new"), life.now_ns, life.new_id)
    reset.begin(t, life.state, life.events[:3], reason="why", request_id="reset")
    reset.reapply(t, [life.events[-1]] * 2, [])
    assert list(t.state.callbacks) == ["request-0", "later-0"]
    kinds = [e.event_type for e in t.events]
    assert kinds.count(event_types.EVENT_TYPE_WORKFLOW_EXECUTION_OPTIONS_UPDATED) == 1


def test_a_request_that_comes_twice_attaches_once() -> None:
    state = fresh("r")
    for at_ns in (1, 2):
        callbacks.attach(state, "request", [callback()], at_ns)
    assert [each.registered_ns for each in state.callbacks.values()] == [1]


# --- Attempts ---------------------------------------------------------------------------------


def due() -> WorkflowLife:
    life = called_back()
    life.work(complete_workflow())
    return life


def test_one_that_is_taken_is_done() -> None:
    life = due()
    life.step(machine.succeeded, "request-0", 1)
    found = only(life)
    assert (found.state, found.attempt, found.last_attempt_ns) == (SUCCEEDED, 1, life.now_ns)
    assert outstanding(life.state) == []
    assert deadlines.next_deadline(life.state) == 0


def test_one_that_fails_for_good_is_not_tried_again() -> None:
    life = due()
    life.step(machine.failed, "request-0", 1, "no", retryable=False)
    found = only(life)
    told = failure.Failure.FromString(found.last_failure)
    assert (found.state, told.message) == (FAILED, "no")
    assert told.application_failure_info.non_retryable
    assert (owed(life), deadlines.next_deadline(life.state)) == ([], 0)


def test_intervals_double_up_to_an_hour() -> None:
    life = due()
    for attempt, seconds in enumerate([1, 2, 4, 8, 16], start=1):
        life.step(machine.failed, "request-0", attempt, "busy", retryable=True)
        assert only(life).state == BACKING_OFF
        life.wait(seconds - 0.5)
        assert owed(life) == []
        life.wait(0.5)
        assert owed(life) == ["request-0"]
    assert machine.interval_ns(12) == 2048 * SECOND_NS
    assert machine.interval_ns(13) == machine.interval_ns(10_000) == 3600 * SECOND_NS


def test_an_answer_to_another_attempt_changes_nothing() -> None:
    life = due()
    for decide in (machine.succeeded, lambda t, *a: machine.failed(t, *a, "x", retryable=True)):
        life.step(decide, "request-0", 2)
        life.step(decide, "unknown", 1)
    assert only(life).state == SCHEDULED
    life.step(machine.failed, "request-0", 1, "busy", retryable=True)
    life.step(machine.succeeded, "request-0", 1)
    assert only(life).state == BACKING_OFF


def test_after_its_first_try_it_keeps_nobody_from_being_removed() -> None:
    life = due()
    assert debts(life.state) == [InvokeCallback("request-0")]
    life.step(machine.failed, "request-0", 1, "busy", retryable=True)
    life.wait(1)
    assert outstanding(life.state) == [InvokeCallback("request-0")]
    assert debts(life.state) == []


def test_a_workflow_that_runs_on_tries_the_callbacks_of_its_updates() -> None:
    life = WorkflowLife()
    admit(life, "u", "asked", callback())
    life.work(messages=[about_update("u", ACCEPTED)])
    life.signal()
    life.work(messages=[completion("u")])
    life.step(machine.failed, "asked-0-u", 1, "busy", retryable=True)
    life.wait(1)
    assert owed(life) == ["asked-0-u"]
    life.step(machine.succeeded, "asked-0-u", 2)
    life.terminate()
    assert only(life).state == SUCCEEDED


Answer = tuple[str, int, str, float]


@given(
    st.lists(
        st.tuples(
            st.sampled_from(["request-0", "request-1", "later-0"]),
            st.integers(-1, 1),
            st.sampled_from(["taken", "busy", "no"]),
            st.sampled_from([0.0, 0.5, 1.0, 7.0, 3600.0]),
        ),
        max_size=40,
    )
)
def test_whatever_is_answered_each_is_taken_at_most_once(answers: list[Answer]) -> None:
    """Answers that are late, early, repeated, lost: attempts count by one, ends are final."""
    life = called_back("x", "y")
    attach(life, "later", "z")
    life.work(complete_workflow())
    for callback_id, shift, answer, seconds in answers:
        before = life.state.callbacks[callback_id]
        state, attempt = before.state, before.attempt
        told = attempt + 1 + shift
        if answer == "taken":
            life.step(machine.succeeded, callback_id, told)
        else:
            life.step(machine.failed, callback_id, told, "x", retryable=answer == "busy")
        after = life.state.callbacks[callback_id]
        if state == SCHEDULED and not shift:
            ends = {"taken": SUCCEEDED, "busy": BACKING_OFF, "no": FAILED}
            assert (after.state, after.attempt) == (ends[answer], attempt + 1)
        else:
            assert (after.state, after.attempt) == (state, attempt)
        life.wait(seconds)
        for each in life.state.callbacks.values():
            assert (each.next_attempt_ns > life.now_ns) == (each.state == BACKING_OFF)
        scheduled = [i for i, c in life.state.callbacks.items() if c.state == SCHEDULED]
        assert owed(life) == scheduled
