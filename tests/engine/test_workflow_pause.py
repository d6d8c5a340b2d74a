"""Pauses of workflows: who may, and what waits."""

import pytest

from durably.engine import activity_control, deadlines, workflow_pause
from durably.engine.transition import DispatchActivity
from durably.errors import FailedPrecondition, NotFound
from tests.engine.lives import WorkflowLife, schedule_activity


def pause(life: WorkflowLife, request_id: str = "") -> None:
    life.step(workflow_pause.pause, "me", "why", request_id)


def unpause(life: WorkflowLife) -> None:
    life.step(workflow_pause.unpause, "me", "go on", "")


def test_the_same_request_pauses_once_and_another_is_refused() -> None:
    life = WorkflowLife()
    pause(life, "p")
    pause(life, "p")
    assert life.kinds.count("WORKFLOW_EXECUTION_PAUSED") == 1
    for request_id in ("", "q"):
        with pytest.raises(FailedPrecondition, match="already paused"):
            pause(life, request_id)


def test_what_is_not_paused_is_not_unpaused() -> None:
    life = WorkflowLife()
    with pytest.raises(FailedPrecondition, match="not paused"):
        unpause(life)
    life.terminate()
    with pytest.raises(NotFound):
        pause(life)
    with pytest.raises(NotFound):
        unpause(life)


def test_a_worker_is_asked_for_no_new_task_while_it_is_paused() -> None:
    life = WorkflowLife()
    life.start_task()
    pause(life)
    with pytest.raises(FailedPrecondition, match="force create new workflow task"):
        life.complete(force_create_new_workflow_task=True)
    life.complete()
    assert life.state.workflow_task is None


def test_updates_are_refused_and_those_that_wait_stay() -> None:
    life = WorkflowLife()
    life.admit("u1")
    pause(life)
    with pytest.raises(FailedPrecondition, match="Workflow is paused"):
        life.admit("u2")
    life.admit("u1")
    unpause(life)
    life.start_task()
    assert life.state.updates["u1"].sent


def test_activities_wait_each_as_it_did() -> None:
    life = WorkflowLife()
    life.work(*(schedule_activity(name) for name in ("waits", "runs", "backs-off", "paused")))
    life.take("runs")
    life.take("backs-off")
    life.fail_attempt(activity_id="backs-off")
    chosen = [life.pending("paused")]
    life.step(activity_control.pause, chosen, "me", "why", "")
    pause(life)
    assert deadlines.next_deadline(life.state) > life.now_ns + 1_000_000_000, "no retries"
    life.wait(5)
    assert life.effects == []
    unpause(life)
    queued = {
        life.state.activities[each.scheduled_event_id].activity_id
        for each in life.effects
        if isinstance(each, DispatchActivity)
    }
    assert queued == {"waits", "backs-off"}
    life.check()


def test_a_retry_that_is_not_due_yet_is_waited_for_after_the_pause() -> None:
    life = WorkflowLife().with_activity()
    life.take()
    life.fail_attempt()
    pause(life)
    unpause(life)
    assert not any(isinstance(each, DispatchActivity) for each in life.effects)
    life.wait(1)
    assert any(isinstance(each, DispatchActivity) for each in life.effects)
