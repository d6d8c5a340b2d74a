"""Lives of workflows whose workers have versions: who gets their tasks, and how they move."""

from typing import Any

import pytest
from temporalio.api.command.v1 import message_pb2 as command
from temporalio.api.common.v1 import message_pb2 as common
from temporalio.api.workflow.v1 import message_pb2 as workflow_messages

from durably.engine import activity, commands, workflow_options, workflow_pause
from durably.engine.transition import DispatchActivity, DispatchWorkflowTask
from durably.engine.versioning import machine
from durably.engine.versioning.state import Notice
from durably.engine.versioning.version import (
    AUTO_UPGRADE,
    PINNED,
    UNSPECIFIED,
    VERSIONED,
    Version,
    Worker,
)
from durably.errors import FailedPrecondition, InvalidArgument, NotFound
from tests.engine.lives import (
    WorkflowLife,
    complete_workflow,
    continue_as_new,
    payloads,
    schedule_activity,
    start_timer,
)
from tests.engine.test_reset import reset_to

ONE, TWO = Version("shop", "1"), Version("shop", "2")
NEW = Notice(TWO, 2)
"""Where the routing sends those who upgrade."""
STAMP = common.WorkerVersionStamp(build_id="1", use_versioning=True)
STICKY = {"worker_task_queue": {"name": "sticky"}, "schedule_to_start_timeout": {"seconds": 5}}


def take(life: WorkflowLife, version: Version | None, target: Notice | None = None) -> None:
    life.start_task(worker=Worker("worker", version), target=target)


def said(version: Version | None, behavior: int = AUTO_UPGRADE) -> dict[str, Any]:
    """What a worker of a version says when it completes a task."""
    if version is None:
        return {}
    options = {
        "deployment_name": version.deployment,
        "build_id": version.build_id,
        "worker_versioning_mode": VERSIONED,
    }
    return {"deployment_options": options, "versioning_behavior": behavior}


def work(
    life: WorkflowLife,
    version: Version | None,
    *asked: command.Command,
    behavior: int = AUTO_UPGRADE,
    **options: Any,
) -> commands.CompletedTask:
    take(life, version, NEW)
    return life.complete(*asked, **said(version, behavior), **options)


def of_version(version: Version = ONE, *asked: command.Command, **options: Any) -> WorkflowLife:
    """A workflow whose first task a worker of that version has completed."""
    life = WorkflowLife()
    work(life, version, *asked, **options)
    return life


def put_on_queue(life: WorkflowLife) -> list[int]:
    """The activities that the last step put on their queues."""
    return [e.scheduled_event_id for e in life.effects if isinstance(e, DispatchActivity)]


def waits_on(life: WorkflowLife) -> str:
    """The queue of the workflow task that the last step put on a queue."""
    (queue,) = [e.queue for e in life.effects if isinstance(e, DispatchWorkflowTask)]
    return queue


# --- Moves --------------------------------------------------------------------------------------


def test_the_first_worker_brings_the_workflow_to_its_version() -> None:
    life = of_version(ONE)
    completed = life.last("WORKFLOW_TASK_COMPLETED")
    assert (completed.deployment_version, completed.worker_deployment_name) == (ONE.message, "shop")
    assert completed.versioning_behavior == AUTO_UPGRADE
    assert machine.standing(life.state) == (False, AUTO_UPGRADE, ONE)
    assert life.visible, "lists show on which version it is"


def test_no_activity_starts_while_the_workflow_moves_and_then_those_that_wait_go_along() -> None:
    life = of_version(ONE, schedule_activity("a"), schedule_activity("b"))
    life.take("a")
    life.signal()
    take(life, TWO, NEW)
    assert machine.standing(life.state) == (True, AUTO_UPGRADE, TWO)
    assert life.take("b") is None
    stale = life.pending("b").stamp
    life.complete(**said(TWO))
    assert machine.standing(life.state) == (False, AUTO_UPGRADE, TWO)
    assert put_on_queue(life) == [life.pending("b").scheduled_event_id]
    assert life.pending("b").stamp == stale + 1
    assert life.take("b", worker=Worker("worker", TWO), target=NEW) is not None


def test_a_paused_workflow_moves_and_its_activities_wait_on() -> None:
    life = of_version(ONE, schedule_activity())
    life.signal()
    take(life, TWO, NEW)
    life.step(workflow_pause.pause, "operator", "why", "")
    life.complete(**said(TWO))
    assert put_on_queue(life) == []
    life.step(workflow_pause.unpause, "operator", "", "")
    assert put_on_queue(life) == [life.pending().scheduled_event_id]


def test_a_worker_that_comes_for_an_activity_has_the_workflow_move_first() -> None:
    life = of_version(ONE, schedule_activity())
    assert life.take(worker=Worker("worker", TWO), target=NEW) is None
    assert machine.standing(life.state) == (True, AUTO_UPGRADE, TWO)
    assert waits_on(life) == "q", "a workflow task carries the move"
    life.check()
    work(life, TWO)
    assert put_on_queue(life) == [life.pending().scheduled_event_id]


@pytest.mark.parametrize("sticky", [False, True])
def test_a_task_that_waits_carries_the_move_on_the_normal_queue(sticky: bool) -> None:
    options = {"sticky_attributes": STICKY} if sticky else {}
    life = of_version(ONE, schedule_activity(), **options)
    life.signal()
    assert waits_on(life) == ("sticky" if sticky else "q")
    life.take(worker=Worker("worker", TWO), target=NEW)
    assert waits_on(life) == "q"
    work(life, TWO)


def test_the_task_that_another_version_has_goes_on_and_the_next_one_carries_the_move() -> None:
    life = of_version(ONE, schedule_activity())
    life.signal()
    take(life, ONE, Notice(ONE, 1))
    assert life.take(worker=Worker("worker", TWO), target=NEW) is None
    assert life.effects == []
    done = life.complete(**said(ONE), sticky_attributes=STICKY, return_new_workflow_task=True)
    assert done.new_task is None, "the next task is not for this worker"
    assert waits_on(life) == "q"
    assert not life.state.sticky_queue
    work(life, TWO)
    assert machine.standing(life.state) == (False, AUTO_UPGRADE, TWO)


def test_a_worker_is_given_the_next_task_of_its_own_version_at_once() -> None:
    life = WorkflowLife()
    take(life, ONE)
    life.signal()
    done = life.complete(**said(ONE), return_new_workflow_task=True)
    assert done.new_task is not None


def test_a_task_of_a_pinned_workflow_is_for_its_version_alone() -> None:
    life = of_version(ONE, behavior=PINNED)
    life.signal()
    for other in (TWO, None):
        with pytest.raises(NotFound):
            take(life, other, NEW)
    take(life, ONE, NEW)
    started = life.last("WORKFLOW_TASK_STARTED")
    assert started.target_worker_deployment_version_changed, "it is told of the other version"


def test_a_failed_attempt_tells_of_the_other_version_too() -> None:
    life = of_version(ONE, behavior=PINNED)
    life.signal()
    take(life, ONE, NEW)
    life.fail_task()
    take(life, ONE, NEW)
    life.complete(**said(ONE, PINNED))
    assert life.last("WORKFLOW_TASK_STARTED").target_worker_deployment_version_changed


def test_an_eager_activity_is_for_a_worker_of_the_version() -> None:
    life = WorkflowLife()
    eager = schedule_activity(request_eager_execution=True)
    assert len(work(life, ONE, eager).activities) == 1
    life = of_version(ONE, schedule_activity("b"))
    life.signal()
    take(life, ONE, Notice(ONE, 1))
    life.take("b", worker=Worker("worker", TWO), target=NEW)
    assert life.complete(eager, **said(ONE)).activities == [], "the workflow moves"


def test_what_a_worker_says_of_its_type_needs_its_version() -> None:
    life = WorkflowLife()
    life.start_task()
    with pytest.raises(InvalidArgument, match="without deployment options"):
        life.complete(versioning_behavior=PINNED)


# --- Sets of compatible builds ------------------------------------------------------------------


def test_a_workflow_of_a_compatible_build_goes_on_with_builds() -> None:
    life = WorkflowLife()
    life.start_task(worker=Worker("worker", None, STAMP.SerializeToString()))
    assert not life.last("WORKFLOW_TASK_STARTED").worker_version.build_id, "its completion says it"
    life.complete(worker_version_stamp=STAMP)
    life.signal()
    life.start_task()
    with pytest.raises(InvalidArgument, match="must continue to use versioning"):
        life.complete(worker_version_stamp={"build_id": "1"})
    life.complete(worker_version_stamp=STAMP)
    life.signal()
    work(life, ONE)
    assert machine.standing(life.state) == (False, AUTO_UPGRADE, ONE)


@pytest.mark.parametrize("within", [False, True])
def test_an_eager_activity_is_compatible_if_it_asks_for_it(within: bool) -> None:
    life = WorkflowLife()
    asked = schedule_activity(request_eager_execution=True, use_workflow_build_id=within)
    done = life.work(asked, worker_version_stamp=STAMP)
    assert len(done.activities) == within


def test_the_build_of_an_activity_worker_is_in_the_history() -> None:
    life = WorkflowLife().with_activity()
    plain = common.WorkerVersionStamp(build_id="b")
    life.take(worker=Worker("worker", None, plain.SerializeToString()))
    life.respond(activity.complete, payloads(b"r"), "worker")
    assert life.last("ACTIVITY_TASK_STARTED").worker_version == plain


# --- Options ------------------------------------------------------------------------------------

Options = workflow_options.Options
Override = workflow_messages.VersioningOverride


def pin(version: Version = TWO) -> Override:
    override = Override()
    override.pinned.behavior = Override.PINNED_OVERRIDE_BEHAVIOR_PINNED
    override.pinned.version.CopyFrom(version.message)
    return override


def update(life: WorkflowLife, path: str = "versioning_override", **options: Any) -> Options:
    changed = life.step(workflow_options.update, Options(**options), [path], "operator")
    assert isinstance(changed, Options)
    return changed


def test_a_run_starts_with_the_override_that_it_is_started_with() -> None:
    life = WorkflowLife(versioning_override=pin(ONE))
    assert life.last("WORKFLOW_EXECUTION_STARTED").versioning_override == pin(ONE)
    with pytest.raises(NotFound):
        take(life, TWO)
    work(life, ONE, behavior=AUTO_UPGRADE)
    assert machine.standing(life.state) == (False, PINNED, ONE)


def test_an_override_puts_what_waits_elsewhere() -> None:
    life = of_version(ONE, schedule_activity(), sticky_attributes=STICKY)
    life.signal()
    assert waits_on(life) == "sticky"
    assert update(life, versioning_override=pin()).versioning_override == pin()
    said_so = life.last("WORKFLOW_EXECUTION_OPTIONS_UPDATED")
    assert (said_so.versioning_override, said_so.identity) == (pin(), "operator")
    assert waits_on(life) == "q"
    assert put_on_queue(life) == [life.pending().scheduled_event_id]
    assert life.visible
    assert machine.standing(life.state) == (False, PINNED, TWO)
    assert life.state.deployment == "shop"
    life.check()


def test_an_override_leaves_a_task_that_a_worker_has_to_it() -> None:
    life = of_version(ONE)
    life.signal()
    take(life, ONE, Notice(ONE, 1))
    update(life, versioning_override=pin())
    assert life.effects == []
    life.complete(**said(ONE))
    assert machine.standing(life.state) == (False, PINNED, TWO)
    life.signal()
    work(life, TWO)


def test_without_its_override_a_workflow_is_where_its_worker_had_it() -> None:
    life = of_version(ONE)
    update(life, versioning_override=pin(Version("mall", "7")))
    assert life.state.deployment == "mall"
    assert not update(life).HasField("versioning_override")
    assert life.last("WORKFLOW_EXECUTION_OPTIONS_UPDATED").unset_versioning_override
    assert machine.standing(life.state) == (False, AUTO_UPGRADE, ONE)
    assert life.state.deployment == "shop"
    fresh = WorkflowLife()
    update(fresh, versioning_override=pin())
    update(fresh)
    assert machine.standing(fresh.state) == (False, UNSPECIFIED, None)
    assert fresh.state.deployment == ""


def test_an_override_ends_a_move() -> None:
    life = of_version(ONE)
    life.signal()
    take(life, TWO, NEW)
    update(life, versioning_override=pin(ONE))
    assert machine.standing(life.state) == (False, PINNED, ONE)
    life.complete(**said(TWO))
    assert machine.standing(life.state) == (False, PINNED, ONE)


def test_an_override_to_upgrade_changes_nothing_for_who_upgrades() -> None:
    life = of_version(ONE, schedule_activity())
    update(life, versioning_override=Override(auto_upgrade=True))
    assert life.kinds[-1] == "WORKFLOW_EXECUTION_OPTIONS_UPDATED"
    assert life.effects == []
    assert machine.standing(life.state) == (False, AUTO_UPGRADE, ONE)


def test_options_that_are_so_already_leave_no_event() -> None:
    life = of_version(ONE)
    update(life, versioning_override=pin())
    before = list(life.kinds)
    update(life, versioning_override=pin())
    update(life, "priority")
    assert life.kinds == before


def test_a_priority_puts_the_task_that_waits_on_its_queue_again() -> None:
    life = WorkflowLife(priority={"priority_key": 4, "fairness_key": "f"})
    changed = update(life, "priority.priority_key", priority={"priority_key": 2})
    assert (changed.priority.priority_key, changed.priority.fairness_key) == (2, "f")
    assert waits_on(life) == "q"
    assert not put_on_queue(life)
    assert not update(life, "priority").HasField("priority")


def test_a_run_that_continues_keeps_its_changed_priority() -> None:
    life = WorkflowLife()
    update(life, "priority", priority={"priority_key": 2})
    life.work(continue_as_new())
    assert life.follow().state.started.priority.priority_key == 2


def test_a_pin_to_no_version_is_to_the_present_one() -> None:
    life = of_version(ONE, behavior=PINNED)
    asked = Options()
    asked.versioning_override.pinned.behavior = Override.PINNED_OVERRIDE_BEHAVIOR_PINNED
    assert workflow_options.completed(life.state, asked).versioning_override == pin(ONE)
    with pytest.raises(FailedPrecondition):
        workflow_options.completed(WorkflowLife().state, asked)


def test_options_of_a_closed_workflow_stay() -> None:
    life = WorkflowLife()
    life.work(complete_workflow())
    with pytest.raises(NotFound):
        update(life, versioning_override=pin())


# --- Resets -------------------------------------------------------------------------------------


def test_options_hold_after_a_reset_too() -> None:
    life = of_version(ONE, start_timer())
    update(life, versioning_override=pin())
    new = reset_to(life, 4)
    assert machine.standing(new.state) == (False, PINNED, TWO)
    work(new, TWO)


def test_a_reset_changes_options_before_the_worker_sees_the_run() -> None:
    life = of_version(ONE)
    operation = workflow_messages.PostResetOperation()
    operation.update_workflow_options.update_mask.paths.append("versioning_override")
    asked = operation.update_workflow_options.workflow_execution_options
    asked.versioning_override.CopyFrom(pin())
    new = reset_to(life, 4, operations=[operation])
    assert new.last("WORKFLOW_EXECUTION_OPTIONS_UPDATED").versioning_override == pin()
    with pytest.raises(NotFound):
        take(new, ONE)
    new.check()
