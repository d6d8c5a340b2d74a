"""The machine of Nexus operations, in workflows."""

from typing import Any

import pytest
from temporalio.api.common.v1 import message_pb2 as common
from temporalio.api.enums.v1 import common_pb2 as common_enums
from temporalio.api.enums.v1 import event_type_pb2 as event_types
from temporalio.api.enums.v1 import nexus_pb2 as nexus_enums
from temporalio.api.enums.v1 import reset_pb2 as reset_enums
from temporalio.api.enums.v1 import workflow_pb2 as workflow_enums
from temporalio.api.failure.v1 import message_pb2 as failure
from temporalio.api.history.v1 import message_pb2 as history

from durably.config import Config
from durably.engine import nexus_operation, nexus_outcome, reset
from durably.engine.nexus_outcome import Refused, Started, StartOutcome, Succeeded, Unsuccessful
from durably.engine.state import WATCHED, NexusOperation
from durably.engine.transition import (
    CancelNexusOperation,
    StartNexusOperation,
    Transition,
    WatchNexusOperation,
    outstanding,
)
from durably.errors import InvalidArgument, NotFound
from tests.engine.lives import (
    CONFIG,
    SECOND_NS,
    WorkflowLife,
    application_failure,
    assert_bad,
    cancel_nexus,
    complete_workflow,
    schedule_nexus,
    start_timer,
)
from tests.engine.test_reset import reset_to

SCHEDULED = 5
"""The event that schedules the first operation of a workflow's first task."""
LATER = nexus_outcome.refused("UNAVAILABLE", "later")
NEVER = nexus_outcome.refused("NOT_FOUND", "never")
DONE = Succeeded(common.Payload(data=b"done"))
CANCELED = Unsuccessful(failure.Failure(message="stopped", canceled_failure_info={}))
LINK = common.Link(nexus_operation={"operation_id": "there"})


def with_operation(**options: Any) -> WorkflowLife:
    life = WorkflowLife()
    life.work(schedule_nexus(**options))
    return life


def pending(life: WorkflowLife) -> NexusOperation:
    return life.state.nexus_operations[SCHEDULED]


def answer(life: WorkflowLife, outcome: StartOutcome, attempt: int | None = None) -> None:
    ended = pending(life).attempt if attempt is None else attempt
    life.step(nexus_operation.start_answered, SCHEDULED, ended, outcome, CONFIG)


def answer_cancel(life: WorkflowLife, refused: Refused | None, attempt: int | None = None) -> None:
    cancel = pending(life).cancel
    ended = (cancel.attempt if cancel else 0) if attempt is None else attempt
    life.step(nexus_operation.cancel_answered, SCHEDULED, ended, refused, CONFIG)


def complete(life: WorkflowLife, ended: Any, **said: Any) -> None:
    request_id = said.pop("request_id", None) or pending(life).request_id
    life.step(nexus_operation.complete, SCHEDULED, request_id, ended, **said)


# --- Schedule ---------------------------------------------------------------------------------


def test_what_is_scheduled_is_owed_to_the_handler() -> None:
    life = with_operation(nexus_header={"Trace": "1"}, input={"data": b"in"})
    event = life.last("NEXUS_OPERATION_SCHEDULED")
    assert (event.endpoint, event.endpoint_id) == ("e", "id-of-e")
    assert (event.service, event.operation, event.input.data) == ("s", "o", b"in")
    assert dict(event.nexus_header) == {"trace": "1"}
    assert event.request_id
    assert event.workflow_task_completed_event_id == 4
    assert not event.HasField("schedule_to_close_timeout")
    assert outstanding(life.state) == [StartNexusOperation(SCHEDULED)]
    assert life.effects == [StartNexusOperation(SCHEDULED)]
    assert life.state.workflow_task is None, "the worker knows"


def test_no_timeout_is_longer_than_the_run_or_than_the_whole() -> None:
    life = WorkflowLife(workflow_run_timeout={"seconds": 60})
    life.work(
        schedule_nexus(
            seconds=100,
            schedule_to_start_timeout={"seconds": 70},
            start_to_close_timeout={"seconds": 50},
        )
    )
    event = life.last("NEXUS_OPERATION_SCHEDULED")
    assert event.schedule_to_close_timeout.seconds == 60
    assert event.schedule_to_start_timeout.seconds == 60
    assert event.start_to_close_timeout.seconds == 50


def test_a_timeout_without_end_is_cut() -> None:
    event = with_operation(seconds=2**60).last("NEXUS_OPERATION_SCHEDULED")
    assert event.schedule_to_close_timeout.seconds == 100 * 365 * 24 * 3600


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"endpoint": "nowhere"}, 'endpoint "nowhere" not found'),
        ({"service": "s" * 1001}, "Service exceeds length limit of 1000"),
        ({"operation": "o" * 1001}, "Operation exceeds length limit of 1000"),
        ({"seconds": -1}, "ScheduleToCloseTimeout is invalid: negative duration"),
        ({"nexus_header": {"Request-Timeout": "1s"}}, 'disallowed header key: "Request-Timeout"'),
        ({"nexus_header": {"a": "b" * 9000}}, "NexusHeader exceeds size limit"),
        ({"endpoint": "wrong"}, "wrong input"),
    ],
)
def test_what_cannot_be_scheduled_fails_the_task(options: dict[str, Any], message: str) -> None:
    life = WorkflowLife()
    life.start_task()
    cause = "BAD_SCHEDULE_NEXUS_OPERATION_ATTRIBUTES"
    assert_bad(life, schedule_nexus(**options), cause, message)
    assert not life.state.nexus_operations


def test_an_input_over_the_limit_is_refused_wherever_it_comes_from() -> None:
    asked = schedule_nexus(input={"data": b"xx"}).schedule_nexus_operation_command_attributes
    with pytest.raises(InvalidArgument, match="input exceeds size limit of 1 bytes"):
        nexus_operation.check(asked, "", Config(payload_bytes_max=1))


def test_pending_operations_have_a_limit() -> None:
    life = WorkflowLife(config=Config(nexus_operations_pending_max=1))
    life.start_task()
    life.complete(schedule_nexus(), force_create_new_workflow_task=True)
    life.start_task()
    cause = "PENDING_NEXUS_OPERATIONS_LIMIT_EXCEEDED"
    assert_bad(life, schedule_nexus(), cause, "has reached the limit of 1")


# --- Requests ---------------------------------------------------------------------------------


def test_done_at_once() -> None:
    life = with_operation()
    request_id = pending(life).request_id
    answer(life, Succeeded(common.Payload(data=b"done"), (LINK,)))
    event = life.last("NEXUS_OPERATION_COMPLETED")
    assert (event.scheduled_event_id, event.request_id) == (SCHEDULED, request_id)
    assert event.result.data == b"done"
    assert list(life.events[5].links) == [LINK]
    assert life.kinds[6:] == ["WORKFLOW_TASK_SCHEDULED"]
    assert not life.state.nexus_operations
    assert not outstanding(life.state)
    life.check()


def test_started_and_completed_by_the_callback() -> None:
    life = with_operation()
    answer(life, Started("token", (LINK,)))
    event = life.last("NEXUS_OPERATION_STARTED")
    assert (event.operation_token, event.operation_id) == ("token", "token")
    assert list(life.events[5].links) == [LINK]
    operation = pending(life)
    assert (operation.started, operation.token, operation.attempt) == (True, "token", 1)
    assert not outstanding(life.state)
    life.work()
    complete(life, DONE)
    assert life.last("NEXUS_OPERATION_COMPLETED").result.data == b"done"
    assert not life.state.nexus_operations
    life.check()


def test_one_whose_token_says_so_is_watched_until_it_ends() -> None:
    life = with_operation()
    answer(life, Started(WATCHED + "task"))
    assert WatchNexusOperation(SCHEDULED) in life.effects
    assert outstanding(life.state) == [WatchNexusOperation(SCHEDULED)]
    complete(life, DONE)
    assert not outstanding(life.state)


def test_a_run_that_was_reset_watches_what_was_started_before() -> None:
    life = with_operation()
    answer(life, Started(WATCHED + "task"))
    life.work()
    again = reset_to(life, life.state.next_event_id - 1)
    assert WatchNexusOperation(SCHEDULED) in outstanding(again.state)


def test_an_end_that_comes_before_the_start_is_answered_brings_the_start() -> None:
    life = with_operation()
    began_ns = life.now_ns
    life.now_ns += 3 * SECOND_NS
    complete(life, CANCELED, token="token", started_ns=began_ns, links=[LINK])
    assert life.kinds[5:] == [
        "NEXUS_OPERATION_STARTED",
        "WORKFLOW_TASK_SCHEDULED",
        "NEXUS_OPERATION_CANCELED",
    ]
    started = life.events[5]
    assert started.event_time.seconds == began_ns // SECOND_NS
    assert started.nexus_operation_started_event_attributes.operation_token == "token"
    assert list(started.links) == [LINK]
    assert life.last("NEXUS_OPERATION_CANCELED").failure.cause.message == "stopped"
    # The answer to the start comes late, and changes nothing.
    before = len(life.events)
    life.step(nexus_operation.start_answered, SCHEDULED, 0, Started("token"), CONFIG)
    assert len(life.events) == before


def test_news_wait_for_the_task_in_flight() -> None:
    life = WorkflowLife()
    life.start_task()
    life.complete(schedule_nexus(), force_create_new_workflow_task=True)
    life.start_task()
    complete(life, DONE, token="token")
    assert not life.state.nexus_operations, "it ended, though the worker has not seen it"
    # Its worker may cancel what it has not seen end, as often as it likes.
    life.complete(cancel_nexus(SCHEDULED), start_timer())
    tail = life.kinds[-5:]
    assert tail == [
        "NEXUS_OPERATION_CANCEL_REQUESTED",
        "TIMER_STARTED",
        "NEXUS_OPERATION_STARTED",
        "NEXUS_OPERATION_COMPLETED",
        "WORKFLOW_TASK_SCHEDULED",
    ]
    life.check()


def test_the_operation_failed() -> None:
    life = with_operation()
    answer(life, Unsuccessful(application_failure("no")))
    event = life.last("NEXUS_OPERATION_FAILED")
    assert event.failure.cause.message == "no"
    info = event.failure.nexus_operation_execution_failure_info
    assert (info.endpoint, info.service, info.operation) == ("e", "s", "o")
    assert info.scheduled_event_id == SCHEDULED


def test_the_operation_was_canceled() -> None:
    life = with_operation()
    answer(life, CANCELED)
    cause = life.last("NEXUS_OPERATION_CANCELED").failure.cause
    assert cause.HasField("canceled_failure_info")


def test_a_request_that_fails_is_made_again_later_and_later() -> None:
    life = with_operation()
    waits = []
    for _ in range(4):
        answer(life, LATER)
        operation = pending(life)
        assert operation.last_failure == LATER.failure
        assert not outstanding(life.state)
        waits.append((operation.retry_at_ns - life.now_ns) / SECOND_NS)
        life.wait(waits[-1])
        assert life.effects == [StartNexusOperation(SCHEDULED)]
        assert outstanding(life.state) == [StartNexusOperation(SCHEDULED)]
    assert waits == [1, 2, 4, 8]
    assert pending(life).attempt == 4
    assert len(life.events) == 5, "attempts leave no events"
    answer(life, Started("token"))
    assert pending(life).last_failure is None


def test_the_wait_has_a_limit() -> None:
    life = with_operation()
    for _ in range(15):
        answer(life, LATER)
        wait_s = (pending(life).retry_at_ns - life.now_ns) / SECOND_NS
        life.wait(wait_s)
    assert wait_s == CONFIG.nexus_retry_maximum_interval_s


def test_a_request_that_fails_for_good_fails_the_operation() -> None:
    life = with_operation()
    answer(life, NEVER)
    cause = life.last("NEXUS_OPERATION_FAILED").failure.cause
    assert cause.nexus_handler_failure_info.type == "NOT_FOUND"


def test_answers_to_another_attempt_change_nothing() -> None:
    life = with_operation()
    answer(life, DONE, attempt=1)
    answer(life, LATER)
    answer(life, DONE)  # It waits: nobody was asked.
    assert pending(life).attempt == 1
    assert len(life.events) == 5


def test_who_answers_after_the_end_of_the_workflow_changes_nothing() -> None:
    life = with_operation()
    life.terminate()
    assert not life.state.nexus_operations
    life.step(nexus_operation.start_answered, SCHEDULED, 0, DONE, CONFIG)
    life.step(nexus_operation.cancel_answered, SCHEDULED, 0, None, CONFIG)
    with pytest.raises(NotFound, match="already completed"):
        life.step(nexus_operation.complete, SCHEDULED, "r", DONE)
    life.check()


def test_a_completion_names_the_request_it_is_about() -> None:
    life = with_operation()
    with pytest.raises(NotFound, match="operation not found"):
        complete(life, DONE, request_id="another")
    answer(life, DONE)
    with pytest.raises(NotFound, match="operation not found"):
        life.step(nexus_operation.complete, SCHEDULED, "r", DONE)


def test_a_workflow_may_end_before_its_operation() -> None:
    life = WorkflowLife()
    life.work(schedule_nexus(), complete_workflow())
    assert life.kinds[-2:] == ["NEXUS_OPERATION_SCHEDULED", "WORKFLOW_EXECUTION_COMPLETED"]
    assert not outstanding(life.state)


# --- Timeouts ---------------------------------------------------------------------------------


def assert_timed_out(life: WorkflowLife, kind: int) -> None:
    cause = life.last("NEXUS_OPERATION_TIMED_OUT").failure.cause
    assert cause.timeout_failure_info.timeout_type == kind
    assert not life.state.nexus_operations
    life.check()


def test_schedule_to_close() -> None:
    life = with_operation(seconds=10)
    life.wait(9)
    assert life.state.nexus_operations
    life.wait(1)
    assert_timed_out(life, workflow_enums.TIMEOUT_TYPE_SCHEDULE_TO_CLOSE)


def test_schedule_to_start_counts_until_the_start() -> None:
    life = with_operation(schedule_to_start_timeout={"seconds": 5})
    life.wait(5)
    assert_timed_out(life, workflow_enums.TIMEOUT_TYPE_SCHEDULE_TO_START)
    life = with_operation(schedule_to_start_timeout={"seconds": 5})
    answer(life, Started("token"))
    life.wait(60)
    assert life.state.nexus_operations


def test_start_to_close_counts_from_the_start() -> None:
    life = with_operation(start_to_close_timeout={"seconds": 5})
    life.wait(60)
    answer(life, Started("token"))
    life.wait(4)
    assert life.state.nexus_operations
    life.wait(1)
    assert_timed_out(life, workflow_enums.TIMEOUT_TYPE_START_TO_CLOSE)


def test_the_earliest_timeout_counts_and_goes_before_a_retry() -> None:
    life = with_operation(
        seconds=1, start_to_close_timeout={"seconds": 1}, schedule_to_start_timeout={"seconds": 1}
    )
    answer(life, LATER)
    life.wait(1)
    assert_timed_out(life, workflow_enums.TIMEOUT_TYPE_SCHEDULE_TO_START)


# --- Cancel -----------------------------------------------------------------------------------


def canceled_before_start() -> WorkflowLife:
    life = WorkflowLife()
    life.start_task()
    life.complete(schedule_nexus(), force_create_new_workflow_task=True)
    life.work(cancel_nexus(SCHEDULED))
    return life


def test_the_handler_hears_of_a_cancel_when_it_has_started_the_operation() -> None:
    life = canceled_before_start()
    operation = pending(life)
    unspecified = common_enums.NEXUS_OPERATION_CANCELLATION_STATE_UNSPECIFIED
    assert operation.cancel_state == unspecified
    assert outstanding(life.state) == [StartNexusOperation(SCHEDULED)]
    answer(life, Started("token"))
    assert life.effects[-1] == CancelNexusOperation(SCHEDULED)
    assert outstanding(life.state) == [CancelNexusOperation(SCHEDULED)]
    assert operation.cancel is not None
    assert operation.cancel.requested_ns == life.now_ns
    requested = life.last("NEXUS_OPERATION_CANCEL_REQUESTED")
    answer_cancel(life, None)
    event = life.last("NEXUS_OPERATION_CANCEL_REQUEST_COMPLETED")
    assert event.scheduled_event_id == SCHEDULED
    assert (
        life.events[event.requested_event_id - 1].nexus_operation_cancel_requested_event_attributes
        == requested
    )
    assert life.events[-1].worker_may_ignore or life.events[-2].worker_may_ignore
    assert operation.cancel_state == common_enums.NEXUS_OPERATION_CANCELLATION_STATE_SUCCEEDED
    assert not outstanding(life.state)
    complete(life, CANCELED)
    assert life.last("NEXUS_OPERATION_CANCELED")
    life.check()


def started_and_canceled() -> WorkflowLife:
    life = with_operation()
    answer(life, Started("token"))
    life.work(cancel_nexus(SCHEDULED))
    assert life.effects == [CancelNexusOperation(SCHEDULED)]
    return life


def test_a_cancel_that_fails_is_sent_again() -> None:
    life = started_and_canceled()
    answer_cancel(life, LATER)
    operation = pending(life)
    assert operation.cancel is not None
    assert operation.cancel.last_failure == LATER.failure
    assert operation.cancel_state == common_enums.NEXUS_OPERATION_CANCELLATION_STATE_BACKING_OFF
    answer_cancel(life, None)  # It waits: nobody was asked.
    assert not outstanding(life.state)
    life.wait(1)
    assert life.effects == [CancelNexusOperation(SCHEDULED)]
    answer_cancel(life, None, attempt=0)  # Of the attempt before.
    assert operation.cancel_is_owed
    answer_cancel(life, None)
    assert operation.cancel.attempt == 2
    assert operation.cancel.last_failure is None


def test_a_cancel_that_fails_for_good_is_over() -> None:
    life = started_and_canceled()
    answer_cancel(life, NEVER)
    assert life.last("NEXUS_OPERATION_CANCEL_REQUEST_FAILED").failure == NEVER.failure
    operation = pending(life)
    assert operation.cancel_state == common_enums.NEXUS_OPERATION_CANCELLATION_STATE_FAILED
    assert not outstanding(life.state)
    complete(life, DONE)
    assert life.last("NEXUS_OPERATION_COMPLETED")


def test_what_is_not_there_cannot_be_canceled_nor_anything_twice() -> None:
    life = started_and_canceled()
    life.signal()
    life.start_task()
    cause = "BAD_REQUEST_CANCEL_NEXUS_OPERATION_ATTRIBUTES"
    assert_bad(life, cancel_nexus(SCHEDULED), cause, "already requested")
    assert_bad(life, cancel_nexus(99), cause, "non-existing or already completed")
    # An operation of the buffer that is another one does not help.
    complete(life, DONE)
    assert_bad(life, cancel_nexus(99), cause, "non-existing or already completed")


# --- Outcomes ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "behavior", "retryable"),
    [
        ("INTERNAL", "UNSPECIFIED", True),
        ("BAD_REQUEST", "UNSPECIFIED", False),
        ("SOMETHING_NEW", "UNSPECIFIED", True),
        ("BAD_REQUEST", "RETRYABLE", True),
        ("INTERNAL", "NON_RETRYABLE", False),
    ],
)
def test_a_handler_error_says_whether_to_ask_again(
    kind: str, behavior: str, retryable: bool
) -> None:
    value = nexus_enums.NexusHandlerErrorRetryBehavior.Value(
        f"NEXUS_HANDLER_ERROR_RETRY_BEHAVIOR_{behavior}"
    )
    info = failure.NexusHandlerFailureInfo(type=kind, retry_behavior=value)
    reason = failure.Failure(nexus_handler_failure_info=info)
    assert nexus_outcome.refused_with(reason) == Refused(reason, retryable)


def test_a_call_without_a_usable_answer() -> None:
    refused = nexus_outcome.call_error("too large", retryable=False)
    assert refused.failure.application_failure_info.non_retryable
    assert not refused.retryable


# --- Reset ------------------------------------------------------------------------------------


def reset_after_all() -> WorkflowLife:
    """One operation started and ended after the point to which the workflow is reset, and another that
    was scheduled only then."""
    life = WorkflowLife()
    life.start_task()
    life.complete(schedule_nexus(), force_create_new_workflow_task=True)
    life.start_task()
    life.complete(schedule_nexus())
    answer(life, Started("token", (LINK,)))
    life.step(nexus_operation.start_answered, 9, 0, DONE, CONFIG)
    complete(life, DONE)
    return life


def test_a_reset_run_hears_what_became_of_its_operations() -> None:
    life = reset_after_all()
    new = reset_to(life, 8)
    news = new.kinds[8:]
    assert news[:2] == ["NEXUS_OPERATION_STARTED", "NEXUS_OPERATION_COMPLETED"]
    assert list(new.events[8].links) == [LINK]
    assert not new.state.nexus_operations
    new.check()


def test_a_reset_run_can_do_without_the_news() -> None:
    life = reset_after_all()
    new = reset_to(life, 8, [reset_enums.RESET_REAPPLY_EXCLUDE_TYPE_NEXUS])
    assert "NEXUS_OPERATION_STARTED" not in new.kinds
    assert outstanding(new.state) == [StartNexusOperation(SCHEDULED)], "it is asked for again"


def test_news_that_a_reset_run_has_already_are_no_news() -> None:
    life = with_operation()
    answer(life, Started("token"))
    life.work()
    complete(life, DONE)
    new = reset_to(life, 9)
    assert new.kinds.count("NEXUS_OPERATION_STARTED") == 1
    assert new.kinds.count("NEXUS_OPERATION_COMPLETED") == 1
    # From a point before the start of the first run's task, by way of a run that has it twice.
    twice = reset_to(new, 9)
    assert twice.kinds.count("NEXUS_OPERATION_STARTED") == 1


def test_news_of_another_request_are_not_taken() -> None:
    life = with_operation()
    t = Transition(life.state, life.now_ns, life.new_id)
    stranger = history.HistoryEvent(
        event_type=event_types.EVENT_TYPE_NEXUS_OPERATION_STARTED,
        nexus_operation_started_event_attributes={  # type: ignore[arg-type]
            "scheduled_event_id": SCHEDULED,
            "request_id": "another",
        },
    )
    reset.reapply(t, [stranger], [])
    assert not t.events
    answer(life, Started("token"))
    stranger.nexus_operation_started_event_attributes.request_id = pending(life).request_id
    reset.reapply(t, [stranger], [])
    assert not t.events, "it has started already"
