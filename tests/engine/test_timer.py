"""Timers: they fire once, in order, and never early."""

import pytest
from temporalio.api.command.v1 import message_pb2 as command

from tests.engine.lives import WorkflowLife, as_command, assert_bad, cancel_timer, start_timer


def fired(life: WorkflowLife) -> list[str]:
    return [
        event.timer_fired_event_attributes.timer_id
        for event, kind in zip(life.events, life.kinds, strict=True)
        if kind == "TIMER_FIRED"
    ]


def test_timers_fire_at_their_time_in_the_order_of_their_times() -> None:
    life = WorkflowLife()
    life.work(start_timer("late", 9), start_timer("soon", 3), start_timer("never", 99))
    life.wait(2.999)
    assert fired(life) == []
    life.wait(10)
    assert fired(life) == ["soon", "late"]
    assert life.state.workflow_task is not None
    life.wait(10)
    assert fired(life) == ["soon", "late"]
    life.check()


def test_an_overdue_timer_waits_in_the_buffer_while_a_worker_decides() -> None:
    life = WorkflowLife()
    life.work(start_timer("t", 3))
    life.signal()
    life.start_task()
    life.wait(4)
    assert fired(life) == []
    life.complete()
    assert fired(life) == ["t"]


def test_a_canceled_timer_does_not_fire() -> None:
    life = WorkflowLife()
    life.work(start_timer("t", 3))
    life.signal()
    life.work(cancel_timer("t"))
    life.wait(10)
    assert fired(life) == []
    assert life.last("TIMER_CANCELED").started_event_id == 5


def test_a_timer_that_fired_unseen_can_still_be_canceled() -> None:
    """The worker decided before it could know; history then shows only the cancel."""
    life = WorkflowLife()
    life.work(start_timer("one", 3), start_timer("two", 3))
    life.signal()
    life.start_task()
    life.signal()
    life.wait(4)
    assert not life.state.timers
    life.complete(cancel_timer("two"))
    assert fired(life) == ["one"]
    assert life.last("TIMER_CANCELED").timer_id == "two"
    life.check()


@pytest.mark.parametrize(
    ("asked", "cause", "message"),
    [
        (start_timer(""), "BAD_START_TIMER_ATTRIBUTES", "TimerId is not set on StartTimerCommand."),
        (start_timer("x", -1), "BAD_START_TIMER_ATTRIBUTES", "must not be negative"),
        (start_timer("t"), "START_TIMER_DUPLICATE_ID", "Timer already started. TimerId=t"),
        (
            as_command(command.CancelTimerCommandAttributes()),
            "BAD_CANCEL_TIMER_ATTRIBUTES",
            "TimerId is not set on CancelTimerCommand.",
        ),
        (cancel_timer("x"), "BAD_CANCEL_TIMER_ATTRIBUTES", "Timer not found. TimerId=x"),
    ],
)
def test_a_bad_command_fails_the_task(asked: command.Command, cause: str, message: str) -> None:
    life = WorkflowLife()
    life.work(start_timer("t"))
    life.signal()
    life.start_task()
    assert_bad(life, asked, cause, message)
