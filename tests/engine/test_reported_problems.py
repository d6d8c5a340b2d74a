"""A worker that fails all the time: what is said of its workflow, and until when."""

from temporalio.api.enums.v1 import failed_cause_pb2 as causes
from temporalio.api.workflowservice.v1 import request_response_pb2 as ws

from durably.engine import deadlines, workflow_task
from tests.engine.test_speculative_task import SECOND, Life

CAUSE = causes.WORKFLOW_TASK_FAILED_CAUSE_NON_DETERMINISTIC_ERROR
REPORTED = [
    "category=WorkflowTaskFailed",
    "cause=WorkflowTaskFailedCauseNonDeterministicError",
]


def fail(life: Life) -> bool:
    """One attempt; whether lists show something else afterwards."""
    life.take()
    with life as t:
        workflow_task.fail(t, life.reference, CAUSE, None, workflow_task.Completion("worker"))
    return life.last.visible


def test_five_failures_are_reported_until_a_task_is_completed() -> None:
    life = Life()
    life.signal()
    assert not any(fail(life) for _ in range(4))
    assert life.state.reported_problems == []
    assert fail(life)
    assert life.state.reported_problems == REPORTED
    assert not fail(life), "it is said once"
    life.take()
    life.complete(ws.RespondWorkflowTaskCompletedRequest())
    assert life.last.visible
    assert life.state.reported_problems == []
    assert life.state.workflow_task_failures == 0


def test_new_events_do_not_begin_the_count_again() -> None:
    life = Life()
    life.signal()
    for _ in range(4):
        fail(life)
    life.signal()
    assert fail(life)
    assert life.state.reported_problems == REPORTED


def test_timeouts_are_reported_too() -> None:
    life = Life()
    life.signal()
    for _ in range(5):
        life.take()
        life.now_ns += 3600 * SECOND
        with life as t:
            deadlines.fire_due(t)
    assert life.state.reported_problems == [
        "category=WorkflowTaskTimedOut",
        "cause=WorkflowTaskTimedOutCauseStartToClose",
    ]


def test_a_failure_on_the_sticky_queue_does_not_count() -> None:
    life = Life(sticky=True)
    life.signal()
    fail(life)
    assert life.state.workflow_task_failures == 0
    assert (life.task.attempt, life.task.queue) == (1, "q")
    assert life.since_the_beginning()[-1] == "TASK_SCHEDULED"
    fail(life)
    assert life.task.attempt == 2
