"""How a run starts, what reaches it from outside, how it ends, and what follows it."""

from typing import Any

import pytest
from temporalio.api.command.v1 import message_pb2 as command
from temporalio.api.common.v1 import message_pb2 as common
from temporalio.api.enums.v1 import workflow_pb2 as e
from temporalio.api.sdk.v1 import user_metadata_pb2 as sdk

from durably.config import Config
from durably.engine import workflow
from durably.engine.state import ScheduledBy
from durably.engine.transition import ReportToParent, ReportToSchedule, outstanding
from durably.errors import InvalidArgument, NotFound, ResourceExhausted
from tests.engine.lives import (
    SECOND_NS,
    START_NS,
    WorkflowLife,
    application_failure,
    as_command,
    assert_bad,
    cancel_workflow,
    complete_workflow,
    continue_as_new,
    fail_workflow,
    payloads,
    schedule_activity,
    start_child,
    start_timer,
)

PARENT = workflow.Parent("default", "ns", "p", "p-run", 5, "root", "root-run")
MEMO = common.Memo(fields={"m": common.Payload(data=b"1")})
ATTRIBUTES = common.SearchAttributes(indexed_fields={"K": common.Payload(data=b'"v"')})
METADATA = sdk.UserMetadata(summary=common.Payload(data=b"what it is"))
EVERY_MINUTE = "* * * * *"


def seconds(value: Any) -> int:
    return int(value.seconds)


# --- Start ------------------------------------------------------------------------------------


def test_the_first_event_says_what_was_asked_for() -> None:
    life = WorkflowLife(
        input=payloads(b"in"),
        header={"fields": {"h": common.Payload(data=b"1")}},
        memo=MEMO,
        search_attributes=ATTRIBUTES,
        user_metadata=METADATA,
        identity="me",
        links=[common.Link()],
    )
    assert life.kinds == ["WORKFLOW_EXECUTION_STARTED", "WORKFLOW_TASK_SCHEDULED"]
    started = life.last("WORKFLOW_EXECUTION_STARTED")
    assert (started.input, started.memo, started.identity) == (payloads(b"in"), MEMO, "me")
    assert started.search_attributes == ATTRIBUTES
    assert (started.attempt, started.first_execution_run_id) == (1, "run")
    assert life.events[0].user_metadata == METADATA
    assert len(life.events[0].links) == 1
    assert (life.state.workflow_type, life.state.memo) == ("t", MEMO)
    assert (life.state.root.workflow_id, life.state.root.run_id) == ("w", "run")
    assert life.visible


@pytest.mark.parametrize(
    ("execution", "run", "task", "shown"),
    [
        (0, 0, 0, (0, 0, 10)),
        (100, 0, 0, (100, 100, 10)),
        (100, 200, 0, (100, 100, 10)),
        (0, 5, 0, (0, 5, 5)),
        (0, 50, 20, (0, 50, 20)),
        (0, 0, 1000, (0, 0, 120)),
    ],
)
def test_timeouts_are_bounded_by_one_another(
    execution: int, run: int, task: int, shown: tuple[int, int, int]
) -> None:
    life = WorkflowLife(
        workflow_execution_timeout={"seconds": execution},
        workflow_run_timeout={"seconds": run},
        workflow_task_timeout={"seconds": task},
    )
    started = life.last("WORKFLOW_EXECUTION_STARTED")
    assert shown == (
        seconds(started.workflow_execution_timeout),
        seconds(started.workflow_run_timeout),
        seconds(started.workflow_task_timeout),
    )
    assert started.HasField("workflow_execution_expiration_time") == bool(execution)


def test_a_delayed_start_has_its_first_task_when_the_delay_is_over() -> None:
    life = WorkflowLife(workflow_start_delay={"seconds": 30}, workflow_run_timeout={"seconds": 40})
    assert life.kinds == ["WORKFLOW_EXECUTION_STARTED"]
    life.signal()
    assert life.state.workflow_task is None, "a signal does not end the delay"
    life.wait(29)
    assert life.state.workflow_task is None
    life.wait(1)
    assert life.state.workflow_task is not None
    life.wait(39)
    assert life.state.running, "the run's time begins after the delay"
    life.wait(1)
    assert life.kinds[-1] == "WORKFLOW_EXECUTION_TIMED_OUT"


def test_a_signal_can_come_with_the_start() -> None:
    life = WorkflowLife(schedule=False)
    life.signal()
    assert life.kinds == [
        "WORKFLOW_EXECUTION_STARTED",
        "WORKFLOW_EXECUTION_SIGNALED",
        "WORKFLOW_TASK_SCHEDULED",
    ]


# --- From outside -----------------------------------------------------------------------------


def test_a_signal_applies_once_and_signals_keep_their_order() -> None:
    life = WorkflowLife()
    for name, request_id in (("one", "1"), ("two", "2"), ("one", "1"), ("three", "")):
        life.signal(name, request_id)
    names = [
        event.workflow_execution_signaled_event_attributes.signal_name
        for event in life.events
        if event.HasField("workflow_execution_signaled_event_attributes")
    ]
    assert names == ["one", "two", "three"]
    life.check()


def test_so_many_signals_a_run_takes() -> None:
    life = WorkflowLife(config=Config(signals_max=2))
    life.signal()
    life.signal()
    with pytest.raises(InvalidArgument, match="exceeded limit of 2 signals"):
        life.signal()


def test_so_many_events_wait_for_a_worker() -> None:
    life = WorkflowLife(config=Config(buffered_events_max=1))
    life.start_task()
    life.signal()
    with pytest.raises(ResourceExhausted):
        life.signal()
    life.complete()
    life.signal()


def test_a_cancel_is_asked_for_once() -> None:
    life = WorkflowLife()
    life.request_cancel("q")
    life.request_cancel("q")
    life.request_cancel()
    assert life.kinds.count("WORKFLOW_EXECUTION_CANCEL_REQUESTED") == 1
    assert life.state.cancel_requested


def test_a_cancel_needs_no_request_id() -> None:
    life = WorkflowLife()
    life.request_cancel()
    assert life.state.cancel_requested


def test_terminating_ends_the_task_in_flight_and_writes_what_waited() -> None:
    life = WorkflowLife()
    life.start_task()
    life.signal()
    life.terminate()
    assert life.kinds[-3:] == [
        "WORKFLOW_TASK_FAILED",
        "WORKFLOW_EXECUTION_SIGNALED",
        "WORKFLOW_EXECUTION_TERMINATED",
    ]
    terminated = life.last("WORKFLOW_EXECUTION_TERMINATED")
    assert (terminated.reason, terminated.details) == ("enough", payloads(b"why"))
    life.check()


def test_terminating_a_task_that_failed_before_leaves_no_event_of_it() -> None:
    life = WorkflowLife()
    life.start_task()
    life.fail_task()
    life.start_task()
    life.terminate()
    assert life.kinds.count("WORKFLOW_TASK_FAILED") == 1
    life.check()


def test_nothing_reaches_a_closed_workflow() -> None:
    life = WorkflowLife()
    life.work(complete_workflow())
    for call in (life.signal, life.request_cancel, life.terminate):
        with pytest.raises(NotFound, match="already completed"):
            call()


# --- Ends -------------------------------------------------------------------------------------


def test_what_comes_after_the_end_is_ignored() -> None:
    life = WorkflowLife()
    life.work(complete_workflow(result=payloads(b"out")), start_timer())
    assert life.kinds[-1] == "WORKFLOW_EXECUTION_COMPLETED"
    assert life.last("WORKFLOW_EXECUTION_COMPLETED").result == payloads(b"out")
    assert (life.state.running, life.state.timers, life.successor) == (False, {}, None)
    life.check()


def test_a_cancellation_has_details() -> None:
    life = WorkflowLife()
    life.work(cancel_workflow(details=payloads(b"why")))
    assert life.last("WORKFLOW_EXECUTION_CANCELED").details == payloads(b"why")
    life = WorkflowLife()
    life.work(cancel_workflow())
    assert not life.last("WORKFLOW_EXECUTION_CANCELED").HasField("details")


def test_an_end_says_who_asked_for_it() -> None:
    life = WorkflowLife()
    made = as_command(command.CompleteWorkflowExecutionCommandAttributes(), user_metadata=METADATA)
    life.work(made)
    assert life.events[-1].user_metadata == METADATA


def test_a_failure_needs_a_reason() -> None:
    life = WorkflowLife()
    life.start_task()
    assert_bad(
        life,
        as_command(command.FailWorkflowExecutionCommandAttributes()),
        "BAD_FAIL_WORKFLOW_EXECUTION_ATTRIBUTES",
        "Failure is not set",
    )


def test_a_failure_without_a_retry_policy_is_final() -> None:
    life = WorkflowLife()
    life.work(fail_workflow())
    failed = life.last("WORKFLOW_EXECUTION_FAILED")
    assert failed.retry_state == e.RETRY_STATE_RETRY_POLICY_NOT_SET
    assert (failed.new_execution_run_id, life.successor) == ("", None)


def test_a_failed_run_is_followed_by_another_as_its_policy_says() -> None:
    life = WorkflowLife(retry_policy={"maximum_attempts": 2}, memo=MEMO, user_metadata=METADATA)
    life.work(fail_workflow())
    failed = life.last("WORKFLOW_EXECUTION_FAILED")
    assert failed.retry_state == e.RETRY_STATE_IN_PROGRESS
    second = life.follow()
    assert second.state.run_id == failed.new_execution_run_id
    started = second.last("WORKFLOW_EXECUTION_STARTED")
    assert started.initiator == e.CONTINUE_AS_NEW_INITIATOR_RETRY
    assert (started.attempt, started.continued_execution_run_id) == (2, "run")
    assert started.first_execution_run_id == "run"
    assert (started.continued_failure.message, started.memo) == ("broken", MEMO)
    assert second.events[0].user_metadata == METADATA
    assert second.kinds == ["WORKFLOW_EXECUTION_STARTED"]
    second.wait(1)
    second.work(fail_workflow())
    state = second.last("WORKFLOW_EXECUTION_FAILED").retry_state
    assert state == e.RETRY_STATE_MAXIMUM_ATTEMPTS_REACHED
    assert second.successor is None


# --- Continue as new --------------------------------------------------------------------------


def test_a_run_goes_on_as_another_with_what_it_had() -> None:
    life = WorkflowLife(
        memo=MEMO,
        search_attributes=ATTRIBUTES,
        input=payloads(b"old"),
        retry_policy={"maximum_attempts": 2},
        workflow_run_timeout={"seconds": 60},
        workflow_execution_timeout={"seconds": 600},
    )
    life.now_ns += 10 * SECOND_NS
    life.work(continue_as_new(input=payloads(b"new")))
    continued = life.last("WORKFLOW_EXECUTION_CONTINUED_AS_NEW")
    assert (continued.input, continued.memo) == (payloads(b"new"), MEMO)
    assert continued.initiator == e.CONTINUE_AS_NEW_INITIATOR_UNSPECIFIED, "as the worker said it"
    following = life.follow()
    assert following.state.run_id == continued.new_execution_run_id
    started = following.last("WORKFLOW_EXECUTION_STARTED")
    assert (started.input, started.search_attributes) == (payloads(b"new"), ATTRIBUTES)
    assert started.initiator == e.CONTINUE_AS_NEW_INITIATOR_WORKFLOW
    assert not started.HasField("retry_policy"), "what is taken from the command alone"
    assert seconds(started.workflow_run_timeout) == 60
    expires = started.workflow_execution_expiration_time.ToNanoseconds()
    assert expires == START_NS + 600 * SECOND_NS, "the whole chain has one time"
    assert following.state.workflow_task is not None
    life.check()
    following.check()


def test_a_run_may_go_on_as_another_workflow() -> None:
    life = WorkflowLife(memo=MEMO, search_attributes=ATTRIBUTES)
    other = common.SearchAttributes(indexed_fields={"K": common.Payload(data=b'"w"')})
    life.work(
        continue_as_new(
            workflow_type={"name": "t2"},
            task_queue={"name": "q2"},
            header={"fields": {"h": common.Payload(data=b"1")}},
            memo={"fields": {"n": common.Payload(data=b"2")}},
            search_attributes=other,
            failure=application_failure(),
            last_completion_result=payloads(b"last"),
            retry_policy={"maximum_attempts": 3},
            workflow_run_timeout={"seconds": 7},
            workflow_task_timeout={"seconds": 3},
            backoff_start_interval={"seconds": 20},
            initiator=e.CONTINUE_AS_NEW_INITIATOR_CRON_SCHEDULE,
        )
    )
    following = life.follow()
    started = following.last("WORKFLOW_EXECUTION_STARTED")
    assert (started.workflow_type.name, started.task_queue.name) == ("t2", "q2")
    assert (list(started.memo.fields), started.search_attributes) == (["n"], other)
    assert started.continued_failure.message == "broken"
    assert started.last_completion_result == payloads(b"last")
    assert started.retry_policy.maximum_attempts == 3
    assert started.initiator == e.CONTINUE_AS_NEW_INITIATOR_CRON_SCHEDULE
    assert (seconds(started.workflow_run_timeout), seconds(started.workflow_task_timeout)) == (7, 3)
    assert following.state.backoff_pending
    assert life.last("WORKFLOW_EXECUTION_CONTINUED_AS_NEW").failure.message == "broken"


def test_the_next_run_has_no_memo_that_is_empty() -> None:
    life = WorkflowLife(memo=MEMO, search_attributes=ATTRIBUTES)
    gone = common.Payload(metadata={"encoding": b"binary/null"})
    life.work(
        as_command(
            command.ModifyWorkflowPropertiesCommandAttributes(
                upserted_memo=common.Memo(fields={"m": gone})
            )
        ),
        as_command(
            command.UpsertWorkflowSearchAttributesCommandAttributes(
                search_attributes=common.SearchAttributes(indexed_fields={"K": gone})
            )
        ),
        continue_as_new(),
    )
    started = life.follow().last("WORKFLOW_EXECUTION_STARTED")
    assert not started.HasField("memo")
    assert not started.HasField("search_attributes")


# --- Cron -------------------------------------------------------------------------------------


def test_a_cron_run_is_followed_by_the_next_with_its_result() -> None:
    life = WorkflowLife(cron_schedule=EVERY_MINUTE)
    assert life.state.backoff_pending
    life.wait(60)
    life.work(complete_workflow(result=payloads(b"1")))
    second = life.follow()
    started = second.last("WORKFLOW_EXECUTION_STARTED")
    assert started.initiator == e.CONTINUE_AS_NEW_INITIATOR_CRON_SCHEDULE
    assert started.last_completion_result == payloads(b"1")
    second.wait(60)
    second.work(complete_workflow())
    started = second.follow().last("WORKFLOW_EXECUTION_STARTED")
    assert not started.HasField("last_completion_result")


def test_a_cron_run_that_fails_is_followed_all_the_same() -> None:
    for policy in (None, common.RetryPolicy(maximum_attempts=1)):
        life = WorkflowLife(cron_schedule=EVERY_MINUTE, retry_policy=policy)
        life.wait(60)
        life.work(fail_workflow())
        started = life.follow().last("WORKFLOW_EXECUTION_STARTED")
        assert started.continued_failure.message == "broken"
        assert started.attempt == 1


# --- What is owed after the end ---------------------------------------------------------------


def test_a_child_reports_its_end_once() -> None:
    life = WorkflowLife(parent=PARENT)
    started = life.last("WORKFLOW_EXECUTION_STARTED")
    assert started.parent_workflow_execution.workflow_id == "p"
    assert life.state.root.workflow_id == "root"
    life.step(workflow.parent_reported)
    life.work(complete_workflow())
    assert outstanding(life.state) == [ReportToParent()]
    life.step(workflow.parent_reported)
    assert outstanding(life.state) == []
    life.step(workflow.parent_reported)


def test_a_child_that_goes_on_reports_only_its_last_end() -> None:
    life = WorkflowLife(parent=PARENT)
    life.work(continue_as_new())
    assert outstanding(life.state) == []
    following = life.follow()
    following.work(complete_workflow())
    assert outstanding(following.state) == [ReportToParent()]


def test_a_run_of_a_schedule_reports_its_end_once() -> None:
    life = WorkflowLife(scheduled_by=ScheduledBy("s", "s-run", 3))
    life.step(workflow.schedule_reported)
    life.work(continue_as_new())
    assert outstanding(life.state) == []
    following = life.follow()
    assert following.state.scheduled_by == ScheduledBy("s", "s-run", 3)
    following.work(complete_workflow())
    assert outstanding(following.state) == [ReportToSchedule()]
    following.step(workflow.schedule_reported)
    assert outstanding(following.state) == []


# --- Time -------------------------------------------------------------------------------------


def test_a_run_that_takes_too_long_is_followed_as_its_policy_says() -> None:
    life = WorkflowLife(workflow_run_timeout={"seconds": 10}, retry_policy={"maximum_attempts": 2})
    life.start_task()
    life.wait(10)
    timed_out = life.last("WORKFLOW_EXECUTION_TIMED_OUT")
    assert timed_out.retry_state == e.RETRY_STATE_IN_PROGRESS
    assert life.kinds[-2] == "WORKFLOW_TASK_FAILED"
    started = life.follow().last("WORKFLOW_EXECUTION_STARTED")
    kind = started.continued_failure.timeout_failure_info.timeout_type
    assert kind == e.TIMEOUT_TYPE_START_TO_CLOSE


def test_an_execution_that_takes_too_long_is_followed_by_nothing() -> None:
    life = WorkflowLife(
        workflow_execution_timeout={"seconds": 10}, retry_policy={"maximum_attempts": 9}
    )
    life.wait(10)
    timed_out = life.last("WORKFLOW_EXECUTION_TIMED_OUT")
    assert timed_out.retry_state == e.RETRY_STATE_TIMEOUT
    assert (timed_out.new_execution_run_id, life.successor) == ("", None)


def test_the_end_by_timeout_takes_all_that_was_due_with_it() -> None:
    life = WorkflowLife(workflow_run_timeout={"seconds": 10})
    life.work(start_timer("t", 10), schedule_activity(schedule_to_start_timeout={"seconds": 10}))
    life.wait(10)
    assert life.kinds[-1] == "WORKFLOW_EXECUTION_TIMED_OUT"
    assert "TIMER_FIRED" not in life.kinds
    life.check()


def test_the_children_of_a_closed_parent_are_ended_as_their_policies_say() -> None:
    life = WorkflowLife()
    life.work(
        start_child("a", parent_close_policy=e.PARENT_CLOSE_POLICY_TERMINATE),
        start_child("b", parent_close_policy=e.PARENT_CLOSE_POLICY_ABANDON),
        start_child("c", parent_close_policy=e.PARENT_CLOSE_POLICY_REQUEST_CANCEL),
        complete_workflow(),
    )
    left = {child.initiated.workflow_id for child in life.state.children.values()}
    assert left == {"a", "c"}
    assert set(life.state.policies_due.values()) == {
        e.PARENT_CLOSE_POLICY_TERMINATE,
        e.PARENT_CLOSE_POLICY_REQUEST_CANCEL,
    }


def test_only_the_latest_request_ids_are_remembered() -> None:
    life = WorkflowLife()
    life.state.requests_seen.update({f"r{i}": 0 for i in range(10_000)})
    life.copy.requests_seen.update(life.state.requests_seen)
    life.signal(request_id="last")
    assert len(life.state.requests_seen) == 10_000
    assert "r0" not in life.state.requests_seen


def test_a_signal_has_its_links() -> None:
    life = WorkflowLife()
    life.signal(links=[common.Link()])
    assert len(life.events[-1].links) == 1
